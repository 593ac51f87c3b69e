"""What a controller asks of a probe: one JSON object on the probe's standard input."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorkloadPattern:
    """A workload that policy names; `pattern` is a regular expression over the command line."""

    name: str
    pattern: str


MOST_S = 86400.0  # no burn and no driver has longer, whoever asks
OVERTIME_S = 140.0  # wall: what a burn may take beside its deadline, to look at the node and to end in good order
WORKS = ("fma", "f16", "bf16", "s8", "stream", "memory")
MIX = "mix"


@dataclass(frozen=True)
class BurnRequest:
    """How to burn. Seconds are device time, counted with CUDA events; `deadline_s` is wall time.

    `min_s`: burn at least so long; from then on stop as soon as the prediction's 95% interval lies wholly on one side
    of `headroom_c`; at `max_s` stop anyway. `abort_below_slowdown_c`: stop at once when a GPU comes closer than this
    to software slowdown (negative: beyond it).

    `work`: what the kernel does (mix, fma, f16, bf16, s8, stream). `memory_share`: the part of free memory that
    patterns are written to and read back from (0: no memory test). `fatal`: works in which a wrong answer ends the
    whole burn at once; a wrong answer of the others is counted, and the burn goes on.
    """

    min_s: float
    max_s: float
    headroom_c: float
    abort_below_slowdown_c: float
    deadline_s: float
    work: str = "mix"
    memory_share: float = 0.95
    fatal: list[str] = field(default_factory=lambda: list(WORKS))

    @property
    def longest_s(self) -> float:
        """Wall time after which nothing of the burn runs any more, however it went."""
        return self.deadline_s + OVERTIME_S


@dataclass(frozen=True)
class ProbeRequest:
    """One request: a nonce to be repeated, the profile's name, and what to do beyond reading facts.

    `launch`: run the known-answer kernel on every GPU. `burn`: burn in, or None not to. `deadline_s`: wall time in
    which the driver has to have answered everything, the burn not counted. `allocate_bytes`: allocate so much in one
    piece on every GPU, write and read it back (0: do not), but leave at least `reserve_bytes` free beside it.

    A burn comes before everything else, and only once for a nonce: asked again, the probe follows the one that is under
    way, or takes its result. Where it is not over within `wait_s` (wall time; None: however long), the probe says "not
    yet" and nothing else: ask again.
    """

    nonce: str
    profile: str
    launch: bool = True
    burn: BurnRequest | None = None
    workloads: list[WorkloadPattern] = field(default_factory=list)
    deadline_s: float = 120.0
    allocate_bytes: int = 0
    reserve_bytes: int = 0
    wait_s: float | None = None

    @property
    def patience_s(self) -> float:
        """Wall time after which the probe has done with burn and driver, whatever these do: it has answered, or said
        "not yet". Who waits for the answer adds what login, the node's own files and a loaded host may take."""
        return self.deadline_s + self.burn_wait_s

    @property
    def burn_wait_s(self) -> float:
        """Wall time that the probe waits for the burn, at most."""
        longest = self.burn.longest_s if self.burn else 0.0
        return longest if self.wait_s is None else min(longest, self.wait_s)
