"""What is told of one node to the person on call: where it stands, whose it is, what is red, and what to do next.

Pure. What is red is what the gate itself would say by this report, today's policy and today's date, were the node the
one that was measured: nobody asks the node who it is now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from ..errors import AdmissionError, ReportError
from ..policy import Policy
from ..report.reader import Report
from ..verdict import Next
from .decision import Action, Decision, Present
from .gate import Known, Node, decide_all
from .memory import Remembered
from .standing import NEW, Standing, Word

_CELL = re.compile(r"[\w.]+ (FAIL|ERROR|MISSING): |MISSING: ")
_OBSERVED = "only observed: "
_NEXT = re.compile(r"; next: (.+?)(?: \(and \d+ more\))?(?:; also: .*)?(?: \(policy does not expect .*\))?$")
_ADMIT = "ansible-playbook playbooks/admit.yml --limit {host}"


@dataclass(frozen=True, kw_only=True)
class Told:
    """One node. `standing` and `report` are errors where they could not be had; `remembered` is None where the gate
    never decided on it."""

    host: str
    policy: Policy
    standing: Standing | AdmissionError
    remembered: Remembered | None
    word: Word | None
    report: Report | ReportError
    now: datetime

    @property
    def inside(self) -> bool | None:
        """Whether it is in service, as the back end says, else as the gate last saw it; None where nobody knows."""
        if isinstance(self.standing, Standing):
            return self.standing.inside
        return self.remembered.inside if self.remembered else None

    @cached_property
    def decision(self) -> Decision | None:
        """What the gate would say by the report; None without one."""
        if isinstance(self.report, ReportError):
            return None
        suite = self.report.hosts.get(self.host)
        said = suite.identity if suite else {}
        uuids = frozenset(filter(None, said.get("gpu_uuids", "").split(",")))
        present = Present(said.get("machine_id"), said.get("boot_id"), uuids or None)
        standing = self.standing if isinstance(self.standing, Standing) else None
        known = Known(standing, self.remembered.history if self.remembered else NEW, self.word)
        [decision] = decide_all(self.report, [Node(self.host, self.policy, present)], {self.host: known}, self.now)
        return decision

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is where it is: by the report, else as last decided."""
        if self.decision is not None:
            return self.decision.reasons
        return self.remembered.reasons if self.remembered else ()

    @property
    def red(self) -> list[str]:
        """What counts and is not green, a sentence a check, the weightiest first."""
        return [reason for reason in self.reasons if _CELL.match(reason)]

    @property
    def against(self) -> list[str]:
        """All that is said of it but what policy only observes."""
        return [reason for reason in self.reasons if not reason.startswith(_OBSERVED)]

    @property
    def notes(self) -> list[str]:
        """The other reasons: owners, words, ages, other boots, greens that lack."""
        return [reason for reason in self.against if not _CELL.match(reason)]

    @property
    def counted(self) -> int:
        """How many checks count under the report's profile."""
        profile = self.policy.profile if isinstance(self.report, ReportError) else self.report.profile
        return sum(self.policy.level_of(check) != "observe" for check in self.policy.expected(profile))

    @property
    def removed(self) -> bool:
        """Whether gpugate took it out, as far as anybody knows."""
        known = isinstance(self.standing, Standing) and self.standing.removed
        return not self.inside and (known or bool(self.remembered and self.remembered.history.removed))

    @property
    def greens(self) -> int:
        """Green admission reports in a row, this one included."""
        return (
            self.decision.history.greens if self.decision else self.remembered.history.greens if self.remembered else 0
        )

    @property
    def green(self) -> bool:
        """Whether the gate would keep it in, or let it in, by the report."""
        would = self.decision and (self.decision.would or self.decision.action)
        return would in (Action.KEEP, Action.ADMIT)

    @property
    def step(self) -> str:
        """What the person does next, in one line."""
        host = self.host
        profile = "nightly" if self.inside else "admission"  # nobody burns a node that has work
        again = f"pytest --hosts={host} --profile={profile}, then {_ADMIT.format(host=host)}"
        if isinstance(self.standing, AdmissionError):
            return "make the back end answer; until then the gate changes nothing"
        if self.standing.owner:
            return f"ask whoever took it out; when they have given it back: {again}"
        if self.standing.busy:
            return "wait until that is over, then run the checks again"
        if self.inside and self.green:
            return "nothing: it may take work"
        if self.word is not None and self.word.kind == "hold":
            return f"ask {self.word.who}, or take the word back: gpugate unhold {host}"
        if isinstance(self.report, ReportError) or host not in self.report.hosts:
            return again
        if self.red and (step := _next_of(self.red)) != Next.RERUN:
            return f"{step.replace('HOST', host)}; then {again}"
        if self.decision is not None and self.decision.action is Action.ADMIT:
            return _ADMIT.format(host=host)
        return again


def _next_of(red: Sequence[str]) -> str:
    found = _NEXT.search(red[0])
    return found[1] if found else "look at what is red"
