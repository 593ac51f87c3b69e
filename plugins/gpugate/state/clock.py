"""When something was, in a way that survives a clock that is set.

A stamp is read on both clocks: the wall's, which all hosts share, and this boot's, which nobody can set. Within one
boot the age of a stamp goes by the latter. Elsewhere (another controller, or this one after a reboot) it goes by the
wall's clock, and controllers may disagree about it by `CLOCKS_AGREE_S`: so much longer everything lasts for them.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

CLOCKS_AGREE_S = 60.0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.uuid4())  # no other process will take our stamps for its own


_BOOT = _boot()


@dataclass(frozen=True)
class Stamp:
    """One moment: seconds since 1970, and seconds since the boot `boot` began (suspended time counts)."""

    unix_s: float
    boot: str
    boot_s: float

    def age_s(self, now: Stamp) -> float | None:
        """How long ago this was, at least; None for a stamp from the future, whose age nobody knows."""
        if self.boot == now.boot:
            return now.boot_s - self.boot_s
        apart = now.unix_s - self.unix_s
        return None if apart < -CLOCKS_AGREE_S else max(0.0, apart - CLOCKS_AGREE_S)


def read() -> Stamp:
    """Now."""
    boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Stamp(time.time(), _BOOT, time.clock_gettime(boot_clock))
