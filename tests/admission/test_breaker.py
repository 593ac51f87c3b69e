"""The circuit breaker: how many removals at once are one fault rather than many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from gpugate.admission import Action, Decision, Limits, Standing, limits_from
from gpugate.admission.breaker import Member, stopped, trips
from gpugate.errors import AdmissionError

IN = Member(True)


def removals(*hosts: str, checks: tuple[str, ...] = ("thermal.headroom",)) -> list[Decision]:
    """Decisions to remove these hosts."""
    return [Decision(host, Action.REMOVE, ("hot",), Standing(True), checks=checks) for host in hosts]


def fleet(count: int, **changed: Member) -> dict[str, Member]:
    """n0, n1, ... in service, some of them changed."""
    return {f"n{n}": IN for n in range(count)} | changed


def hosts(count: int) -> list[str]:
    """n0, n1, ..."""
    return [f"n{n}" for n in range(count)]


WIDE = Limits(cause_percent=100)
LATELY = Member(False, ("thermal.headroom",))
LONG_AGO = Member(False)


@pytest.mark.parametrize(
    ("due", "known", "limits", "told"),
    [
        (hosts(2), fleet(4), Limits(), []),
        (hosts(3), fleet(4), WIDE, ["3 of the fleet, and 2 of 4 nodes may"]),
        (hosts(10), fleet(100), WIDE, []),
        (hosts(11), fleet(100), WIDE, ["11 of the fleet, and 10 of 100 nodes may"]),
        (hosts(6), fleet(100), Limits(), ["6 nodes for thermal.headroom, and 5 of 100 nodes may"]),
        (hosts(9), fleet(100, n98=LATELY, n99=LATELY), WIDE, ["11 of the fleet, and 10 of 100 nodes may"]),
        (hosts(9), fleet(100, n98=LONG_AGO, n99=LONG_AGO), WIDE, []),
        (hosts(3), fleet(100, n0=Member(True, domains=("r1",)), n1=Member(True, domains=("r1",)),
                         n2=Member(True, domains=("r1",)), n3=Member(True, domains=("r1",))), WIDE,
         ["3 of failure domain r1, and 2 of 4 nodes may"]),
        (hosts(3), fleet(100, n0=Member(True, driver="1"), n1=Member(True, driver="1"), n2=Member(True, driver="1")),
         WIDE, ["3 of driver 1, and 2 of 3 nodes may"]),
        (hosts(1), fleet(4), Limits(at_least=0), ["1 node for thermal.headroom, and 0 of 4 nodes may",
                                                  "1 of the fleet, and 0 of 4 nodes may"]),
        ([], fleet(4, n0=LATELY, n1=LATELY, n2=LATELY), Limits(), []),
    ],
)  # fmt: skip
def test_when_it_trips(due: list[str], known: Mapping[str, Member], limits: Limits, told: list[str]) -> None:
    """A group trips above its share of the nodes in service, lately removed ones included, never below the floor."""
    assert [str(each) for each in trips(removals(*due), known, limits)] == told


def test_an_old_trouble_elsewhere_stops_nobody() -> None:
    """A rack that lost many nodes lately does not keep a broken node of another rack in service."""
    gone = Member(False, ("a.a",), ("r1",))
    known = {f"r1-{n}": gone for n in range(4)} | fleet(96, n0=Member(True, domains=("r2",)))
    assert [each.group.name for each in trips(removals("n0"), known, WIDE)] == []


def test_stopped_removals_are_held() -> None:
    """All removals are held, with their reasons; other decisions stay what they are."""
    admitted = Decision("new", Action.ADMIT, ("green",), Standing(False))
    held, same = stopped([*removals("n0"), admitted], "too many")
    assert (held.action, held.reasons, held.checks) == (Action.HOLD, ("would be removed, but too many", "hot"), ())
    assert same == admitted


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"fleet": 10}, "gpugate_breaker.fleet"),
        ({"fleet_percent": "10"}, "gpugate_breaker.fleet_percent"),
        ({"fleet_percent": 101}, "not between 0 and 100"),
        ({"window_h": -1}, "not between 0"),
        ({"at_least": -1}, "at_least: -1 is below 0"),
    ],
)
def test_limits_that_are_none(given: dict[str, Any], problem: str) -> None:
    """A limit that is misspelt, a text or out of range is an error that names it."""
    with pytest.raises(AdmissionError, match=problem):
        limits_from(given)


def test_limits_are_taken() -> None:
    """What an inventory says takes the place of the default."""
    assert limits_from({"fleet_percent": 20, "at_least": 0}) == Limits(fleet_percent=20.0, at_least=0)
