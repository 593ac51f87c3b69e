"""One check on one host: calls the check, turns what it recorded into a verdict. Pure, replayable, fail closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import GpugateError, NotGathered, Unavailable
from ..evidence.types import BurnGpu, Evidence, Gpu
from ..policy import Policy
from .expect import Expect, name_of
from .types import Finding, Next, Outcome, Verdict

Check = Callable[..., None]


@dataclass(frozen=True)
class Gathered:
    """What the controller knows about one host: its evidence, or why there is none, and when it was received.

    `nonce` is what the gather asked with, empty for documents that were gathered by other means; `asked_unix_s` and
    `received_unix_s` are the controller's clock when it asked and when the answer came. `sha256` (hex) is that of the
    document, usable or not, and empty where none could be read whole.
    """

    host: str
    evidence: Evidence | None
    problem: GpugateError | None = None
    nonce: str = ""
    asked_unix_s: float = 0.0
    received_unix_s: float = 0.0
    sha256: str = ""


if TYPE_CHECKING:
    _NodeFacts = Evidence
else:
    _NodeFacts = object


class Node(_NodeFacts):
    """The node as checks see it: every fact of `Evidence`, the way it was gathered, and GPUs that have to be judged.

    A check that looks at `gpus` owes a finding for every GPU that policy expects. `at` is the GPU that it looks at
    now; the GPUs whose index is in `without` are left out, because they are known to have a gap.
    """

    def __init__(self, gathered: Gathered, evidence: Evidence, without: frozenset[int] = frozenset()) -> None:
        self.gathered = gathered
        self.at: Gpu | None = None
        self._evidence, self._without = evidence, without
        self.looked_at_gpus = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evidence, name)

    @property
    def gpus(self) -> list[Gpu]:
        """NVML's devices, in its order."""
        self.looked_at_gpus = True
        gpus = self._evidence.gpus
        if self._without:
            gpus = [gpu for gpu in gpus if gpu.index not in self._without]
        return _Walk(self, gpus, lambda gpu: gpu)

    def burnt(self) -> list[tuple[Gpu, BurnGpu]]:
        """Every GPU with its burn record, matched by UUID; raises Unavailable where one has none."""
        records = {record.uuid: record for record in self._evidence.burn.gpus}
        pairs = []
        for gpu in self.gpus:
            if gpu.uuid not in records:
                raise Unavailable("it was not burnt in")
            pairs.append((gpu, records[gpu.uuid]))
        return _Walk(self, pairs, lambda pair: pair[0])


_T = TypeVar("_T")


class _Walk(list[_T]):
    """A list that tells the node which GPU a check is at, so that a gap can be told with its GPU."""

    def __init__(self, node: Node, items: list[_T], gpu_of: Callable[[_T], Gpu]) -> None:
        super().__init__(items)
        self._node, self._gpu_of = node, gpu_of

    def __iter__(self) -> Iterator[_T]:
        node, gpu_of = self._node, self._gpu_of
        for item in super().__iter__():
            node.at = gpu_of(item)
            yield item
        node.at = None


class _OriginFloat(float):
    origin: str


class _OriginInt(int):
    origin: str


class _OriginStr(str):
    origin: str


_WITH_ORIGIN: dict[type, type] = {float: _OriginFloat, int: _OriginInt, str: _OriginStr}


class _PolicyOfOrigin:
    """A Policy whose numbers and texts know which variable they come from. Each is made once: a policy is frozen."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._policy, name)
        kind = _WITH_ORIGIN.get(type(value))
        if kind is not None:
            value = kind(value)
            value.origin = f"policy gpugate_{_VARIABLE.get(name, name)}"
        self.__dict__[name] = value
        return value


_VARIABLE = {"requested_power_w": "power_limit_w"}


def judge(check: str, function: Check, gathered: Gathered, policy: Policy, today: date) -> Verdict:
    """The verdict of `function` on one host.

    MISSING where the host never reported; ERROR where a fact is unavailable, the evidence is unusable, the check itself
    breaks, it found nothing, or a GPU that policy expects has no finding. FAIL outranks ERROR: what was measured
    outside its bounds stays said.
    """
    if gathered.evidence is None:
        return unjudged(gathered, check, policy, today)
    started = time.perf_counter()
    silent: dict[int, tuple[str, str]] = {}  # GPUs by index: name and gap
    bad: list[Finding] = []
    while True:
        node, expect = Node(gathered, gathered.evidence, frozenset(silent)), Expect()
        try:
            function(node, traced(policy), expect)
        except Unavailable as gap:
            # A GPU's gap must hide neither another one's failure (the check runs again without the GPU that has it),
            # nor what was measured of itself before.
            if node.at is not None:
                at = node.at.index
                bad += [f for f in expect.findings if f.gpu is not None and f.gpu.index == at and not f.ok]
                silent[at] = (str(name_of(node.at)), str(gap))
                if len(silent) < len(gathered.evidence.gpus):
                    continue
                expect.findings = [finding for finding in expect.findings if finding.gpu is None]
            reason = "" if node.at is not None else str(gap)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a broken check, or one that skips or exits, never takes the run down
            reason = because(error)
        else:
            reason = "" if silent else uncovered(node, policy, expect)
        break
    expect.findings.extend(bad)
    reason = "; ".join([*_told(silent), *([reason] if reason else [])])
    return conclude(gathered.host, check, policy, expect, reason, time.perf_counter() - started, today)


def _told(silent: dict[int, tuple[str, str]]) -> list[str]:
    """Each gap once, with every GPU that it is on."""
    places: dict[str, list[int]] = {}
    for index, (_, gap) in silent.items():
        places.setdefault(gap, []).append(index)
    told = []
    for gap, (first, *others) in places.items():
        too = f" (GPU{'s' * (len(others) > 1)} {', '.join(map(str, others))} too)" if others else ""
        told.append(f"{silent[first][0]}: {gap}{too}")
    return told


def unjudged(gathered: Gathered, check: str, policy: Policy, today: date) -> Verdict:
    """The verdict on a host without usable evidence."""
    if isinstance(gathered.problem, NotGathered):
        return missing(gathered.host, check, policy, str(gathered.problem))
    reason = f"no usable evidence: {gathered.problem}"
    level = policy.level_of(check)
    return _waived(Verdict(gathered.host, check, Outcome.ERROR, level, reason=reason), policy, today)


def conclude(
    host: str, check: str, policy: Policy, expect: Expect, reason: str, seconds: float, today: date
) -> Verdict:
    """The verdict that follows from findings and from `reason`: why judging stopped, empty if it did not."""
    reason = reason or expect.unruled or ("" if expect.findings else "the check found nothing to judge")
    failed = any(not finding.ok for finding in expect.findings)
    outcome = Outcome.FAIL if failed else Outcome.ERROR if reason else Outcome.PASS
    level = policy.level_of(check)
    return _waived(Verdict(host, check, outcome, level, tuple(expect.findings), reason, seconds=seconds), policy, today)


def because(error: BaseException) -> str:
    """Why a check could not finish, in one sentence."""
    if isinstance(error, GpugateError):
        return str(error)
    return f"the check itself broke: {type(error).__name__}: {error}"


def traced(policy: Policy) -> Policy:
    """The same policy, whose numbers and texts know which variable they come from."""
    known = policy.__dict__.get("_traced")
    if known is None:
        known = policy.__dict__["_traced"] = _PolicyOfOrigin(policy)
    return cast(Policy, known)


def missing(host: str, check: str, policy: Policy, reason: str) -> Verdict:
    """The verdict on a cell that was expected and never reported."""
    return Verdict(host, check, Outcome.MISSING, policy.level_of(check), reason=reason, next=Next.RERUN)


def uncovered(node: Node, policy: Policy, expect: Expect) -> str:
    """Which GPUs a check that looked at GPUs has no finding for; empty where it owes none."""
    if node.looked_at_gpus:
        judged = {finding.gpu.index for finding in expect.findings if finding.gpu is not None}
        if len(judged) < policy.gpu_count:
            return f"only {len(judged)} of the {policy.gpu_count} GPUs that policy expects were judged"
    return ""


def _waived(verdict: Verdict, policy: Policy, today: date) -> Verdict:
    if verdict.outcome not in (Outcome.FAIL, Outcome.ERROR):
        return verdict
    waiver = policy.waiver_for(verdict.host, verdict.check, today)
    if waiver is None:
        return verdict
    return replace(verdict, outcome=Outcome.WAIVED, waiver=waiver, waived=verdict.outcome)
