"""Slurm's `scontrol`, called with argument lists and a deadline: all nodes in one call, changes of many in few."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence

from ..errors import AdmissionError
from ..report.text import one_line
from .slurm_nodes import TIME_FORMAT, SlurmNode, parse

# Texts in English, times in UTC; everything else (SLURM_CONF, SLURM_CLUSTERS, PATH) is the site's.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC0", "SLURM_TIME_FORMAT": TIME_FORMAT}
_LONGEST = 60_000  # bytes of names in one argument; Linux takes 128 kB


class Scontrol:
    """Calls of scontrol, each of which may take `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def nodes(self) -> dict[str, SlurmNode | AdmissionError]:
        """All nodes of the cluster, also of hidden partitions; raises AdmissionError where slurmctld does not say."""
        done = self._call("--all", "show", "node")
        if done.returncode:
            raise AdmissionError(f"scontrol cannot say how the nodes stand: {_words(done)}")
        return parse(done.stdout)

    def update(self, names: Sequence[str], *settings: str) -> dict[str, AdmissionError]:
        """Set the same of all nodes; of whom scontrol did not say that it was done, and why.

        A call that is refused is made again for each half of its nodes, for as long as one call may take: Slurm stops
        at the first node that it does not like. A call without an answer is not made again.
        """
        failed: dict[str, AdmissionError] = {}
        waiting = _portions(names)
        until = time.monotonic() + self._timeout_s
        while waiting:
            some = waiting.pop()
            try:
                done = self._call("update", f"NodeName={','.join(some)}", *settings)
            except AdmissionError as error:
                return failed | dict.fromkeys([*some, *(name for portion in waiting for name in portion)], error)
            if not done.returncode:
                continue
            if len(some) > 1 and time.monotonic() < until:
                waiting += [some[: len(some) // 2], some[len(some) // 2 :]]
            else:
                failed |= dict.fromkeys(some, AdmissionError(f"scontrol refused: {_words(done)}"))
        return failed

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["scontrol", *arguments], env=os.environ | _ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True,
                encoding="utf-8", errors="backslashreplace", timeout=self._timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise AdmissionError(
                f"scontrol {arguments[0].lstrip('-')} got no answer within {self._timeout_s:g} s "
                "(gpugate_admission_timeout_s): is slurmctld up? Nobody knows what it did; run admit.yml again"
            ) from None
        except OSError as error:
            raise AdmissionError(
                f"scontrol cannot be run ({error.strerror}): run admit.yml where Slurm's commands are"
            ) from error


def _portions(names: Sequence[str]) -> list[list[str]]:
    portions: list[list[str]] = []
    room = 0
    for name in names:
        if len(name) + 1 > room:
            portions.append([])
            room = _LONGEST
        portions[-1].append(name)
        room -= len(name) + 1
    return portions


def _words(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit status {done.returncode}"]
    return one_line(lines[-1])[:300]
