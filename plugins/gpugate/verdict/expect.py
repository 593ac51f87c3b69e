"""`expect`: how a check speaks. It records what was measured against which rule, and goes on."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from ..errors import Unavailable
from ..evidence.facts import Facts
from ..evidence.types import Gpu
from .types import Finding, GpuName

_OURS = "built into the check"


class Expect:
    """The recorder that a check gets as `expect`; holds its findings in the order in which they were made."""

    __slots__ = ("_named", "findings")

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._named: list[Expectation] = []

    def __call__(self, what: str, measured: Any, *, at: Gpu | None = None) -> Expectation:
        """Name a measured thing, and the GPU it was measured at; a rule has to follow."""
        expectation = Expectation(self.findings, what, measured, None if at is None else name_of(at))
        self._named.append(expectation)
        return expectation

    @property
    def unruled(self) -> str:
        """What the check named and gave no rule, in one sentence; empty where every rule followed."""
        names = dict.fromkeys(expectation.what for expectation in self._named if not expectation.ruled)
        return f"the check names {', '.join(names)} and has no rule for it" if names else ""


class Expectation:
    """A measured thing that waits for its rule. Each method records exactly one finding.

    `unit` is for the reader, `next` what to do when it is red, `origin` where the bound comes from (found out by
    itself where the bound is a field of policy).
    """

    __slots__ = ("_findings", "_gpu", "_measured", "ruled", "what")

    def __init__(self, findings: list[Finding], what: str, measured: Any, gpu: GpuName | None) -> None:
        self._findings, self.what, self._measured, self._gpu = findings, what, measured, gpu
        self.ruled = False

    def within(self, target: float, tolerance: float, unit: str = "", *, next: str = "", origin: str = "") -> None:
        """Not further from `target` than `tolerance`."""
        good = self._number() and abs(self._measured - target) <= tolerance
        self._record(good, f"{target:g} +/- {tolerance:g}{_u(unit)}", unit, next, origin or _origin(target, tolerance))

    def at_least(
        self, bound: float, unit: str = "", *, next: str = "", origin: str = "", comfortable: float | None = None
    ) -> None:
        """Not under `bound`; marginal when under `comfortable`."""
        good = self._number() and self._measured >= bound
        marginal = good and comfortable is not None and self._measured < comfortable
        self._record(good, f"at least {bound:g}{_u(unit)}", unit, next, origin or _origin(bound), marginal)

    def at_most(
        self, bound: float, unit: str = "", *, next: str = "", origin: str = "", comfortable: float | None = None
    ) -> None:
        """Not over `bound`; marginal when over `comfortable`."""
        good = self._number() and self._measured <= bound
        marginal = good and comfortable is not None and self._measured > comfortable
        self._record(good, f"at most {bound:g}{_u(unit)}", unit, next, origin or _origin(bound), marginal)

    def equals(
        self, wanted: Any, unit: str = "", *, next: str = "", origin: str = "", or_marginal: bool = False
    ) -> None:
        """Equal to `wanted`; with `or_marginal` a difference is marginal instead of red."""
        if isinstance(wanted, (int, float)) and not isinstance(wanted, bool):
            same = self._number() and self._measured == wanted
        else:
            same = type(self._measured) is type(_plain(wanted)) and self._measured == wanted
        marginal = not same and or_marginal
        self._record(same or marginal, f"{_shown(wanted)}{_u(unit)}", unit, next, origin or _origin(wanted), marginal)

    def one_of(self, allowed: Collection[Any], *, next: str = "", origin: str = "") -> None:
        """One of `allowed`; an empty collection allows nothing."""
        rule = "one of " + ", ".join(map(str, allowed)) if allowed else "nothing: none is allowed"
        self._record(self._measured in allowed, rule, "", next, origin or _origin(*allowed))

    def none(self, *, next: str = "", origin: str = "") -> None:
        """An empty list: nothing of the kind was found."""
        found = list(self._measured)
        self._measured = "; ".join(map(str, found)) if found else "none"
        self._record(not found, "none", "", next, origin or _OURS)

    def holds(self, good: bool, rule: str, *, unit: str = "", next: str = "", origin: str = "") -> None:
        """A rule that the check worked out itself; `rule` is its text."""
        self._record(good is True, rule, unit, next, origin or _OURS)

    def _number(self) -> bool:
        value = self._measured
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    def _record(self, good: bool, rule: str, unit: str, step: str, origin: str, marginal: bool = False) -> None:
        self.ruled = True
        finding = Finding(self.what, self._measured, unit, rule, origin, good, marginal, self._gpu, step)
        self._findings.append(finding)


def name_of(gpu: Gpu) -> GpuName:
    """What a reader needs to find the card. Kept with the record: every finding on it shares one name."""
    known: GpuName | None = gpu.__dict__.get("_name")
    if known is None:
        known = vars(gpu)["_name"] = _named(gpu)
    return known


def _named(gpu: Gpu) -> GpuName:
    return GpuName(
        gpu.index,
        _told(gpu, "uuid", "uuid unknown"),
        _told(gpu, "serial", "unknown"),
        _told(gpu, "bus_id", "bus unknown"),
    )


def _told(gpu: Facts, name: str, unknown: str) -> str:
    try:
        return str(getattr(gpu, name))
    except Unavailable:
        return unknown


def _origin(*bounds: Any) -> str:
    if len(bounds) == 1:
        return getattr(bounds[0], "origin", _OURS)
    origins = dict.fromkeys(bound.origin for bound in bounds if hasattr(bound, "origin"))
    return ", ".join(origins) or _OURS


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _u(unit: str) -> str:
    return f" {unit}" if unit else ""
