"""How long each host kept the gather waiting, as its receipt and its own document tell it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Unavailable
from ..verdict import Gathered

NAMES = ("gather_s", "probe_s")  # as JUnit properties


@dataclass(frozen=True)
class Times:
    """`gather_s`: seconds from the asking to the answer, or to giving up; `received_unix_s`: when that was; both on the
    controller's clock. `probe_s`: how long the probe took, on the node's. None is what nobody measured: documents that
    were gathered by other means come without receipts, and a host that never answered without a probe's time."""

    gather_s: float | None = None
    received_unix_s: float | None = None
    probe_s: float | None = None

    @property
    def properties(self) -> dict[str, str]:
        """What is known, by name."""
        known = zip(NAMES, (self.gather_s, self.probe_s), strict=True)
        return {name: f"{seconds:.3f}" for name, seconds in known if seconds is not None}


def times_of(gathered: Gathered) -> Times:
    """The times of one host; a clock that was set back in between has measured nothing."""
    asked, received = gathered.asked_unix_s, gathered.received_unix_s
    try:
        probe = gathered.evidence.duration_s if gathered.evidence is not None else None
    except Unavailable:
        probe = None
    return Times(received - asked, received, probe) if received >= asked > 0 else Times(probe_s=probe)
