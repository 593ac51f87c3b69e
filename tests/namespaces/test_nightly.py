"""A nightly run over 128 hosts, of which a dozen are in trouble, each in its own way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from controllers import Run, judge
from hostfleet import NamespaceFleet, namespace_fleet

UNPLUGGED = ("gpu010", "gpu050", "gpu128")
FROZEN = ("gpu001", "gpu064", "gpu100")
FREEZING = ("gpu020", "gpu021", "gpu099")
STRANGER, SNAKELESS, TALKER = "gpu033", "gpu034", "gpu035"
BAD = {*UNPLUGGED, *FROZEN, *FREEZING, STRANGER, SNAKELESS}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceFleet]:
    """128 provisioned hosts of one GPU each, twelve of them not as they should be."""
    with namespace_fleet(tmp_path_factory.mktemp("nightly"), hosts=128, provisioned=True) as up:
        for name in UNPLUGGED:
            up[name].unplug()
        for name in FROZEN:
            up[name].freeze()
        for name in FREEZING:
            up[name].freeze_after_login()
        up[STRANGER].change_host_key()
        up[SNAKELESS].remove_python()
        up[TALKER].talk_at_login()
        yield up


@pytest.fixture(scope="module")
def run(fleet: NamespaceFleet) -> Run:
    """The nightly run; its own deadlines have to end it, not the one of this test."""
    return judge(fleet, "--profile=nightly")


def test_every_host_that_can_be_measured_is_judged_as_if_nothing_had_happened(run: Run) -> None:
    """116 hosts and the one with a banner are green, and no other host is."""
    assert run.green() == {f"gpu{number:03d}" for number in range(1, 129)} - BAD, run.said
    assert run.status == 1


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (UNPLUGGED, "cannot be reached: No route to host"),
        (FROZEN, "(login)"),
        (FREEZING, "stopped answering after login"),
        ((STRANGER,), "shows a host key that known_hosts does not hold"),
        ((SNAKELESS,), "cannot run /usr/bin/python3"),
    ],
    ids=["unplugged", "hung before login", "hung after login", "changed key", "no python3"],
)
def test_each_bad_host_has_its_own_cause_in_junit(run: Run, hosts: tuple[str, ...], words: str) -> None:
    """Each check of a bad host is an error that says what happened to that host."""
    for host in hosts:
        (cause,) = run.causes(host)
        assert words in cause
        assert host in cause


def test_every_host_is_owed_every_check(run: Run) -> None:
    """The report holds the same checks for each of the 128 hosts, bad ones too."""
    assert len(run.cells) == 128
    assert {frozenset(cells) for cells in run.cells.values()} == {frozenset(run.cells["gpu002"])}
