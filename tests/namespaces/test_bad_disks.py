"""Hosts whose file systems do not take what provisioning writes, beside one that is well."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from controllers import judge, play
from hostfleet import HostSpec, NamespaceFleet, namespace_fleet

FULL, READ_ONLY, NOEXEC, WELL = "gpu001", "gpu002", "gpu003", "gpu004"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceFleet]:
    """One host with a full disk, one with a read-only /opt, one with a noexec /tmp, and one that is well."""
    specs = [HostSpec(FULL, disk_mib=4), HostSpec(READ_ONLY), HostSpec(NOEXEC), HostSpec(WELL)]
    with namespace_fleet(tmp_path_factory.mktemp("disks"), specs) as up:
        up[FULL].fill_disk()
        up[READ_ONLY].make_read_only("/opt")
        up[NOEXEC].make_noexec("/tmp")  # noqa: S108 - of the host
        yield up


@pytest.fixture(scope="module")
def said(fleet: NamespaceFleet) -> str:
    """What provision.yml says."""
    return play(fleet, "provision.yml", succeeds=False)


def test_provisioning_says_what_is_wrong_on_which_host(said: str) -> None:
    """The full disk and the read-only folder are named with their hosts; the other two are provisioned."""
    failed = dict(re.findall(r"^fatal: \[(\w+)\]: FAILED! => \n((?: {4}.*\n|\n)+)", said, re.M))
    assert set(failed) == {FULL, READ_ONLY}
    assert "No space left on device" in failed[FULL]
    assert "/opt/gpugate: Read-only file system" in failed[READ_ONLY]
    assert len(re.findall(r" failed=0 ", said)) == 2


def test_hosts_that_could_not_be_provisioned_are_not_measured(fleet: NamespaceFleet, said: str) -> None:
    """The checks say of each that it has no probe; the other two are green."""
    run = judge(fleet, "--profile=nightly")
    assert run.green() == {NOEXEC, WELL}, run.said
    for host in (FULL, READ_ONLY):
        (cause,) = run.causes(host)
        assert host in cause
        assert "has no probe at /opt/gpugate/probe/current" in cause


def test_a_disk_that_fills_up_later_costs_only_what_has_to_be_kept(fleet: NamespaceFleet, said: str) -> None:
    """Looking needs no room; a burn keeps its result on the node, and says that it cannot."""
    fleet[WELL].fill_disk()
    run = judge(fleet)
    assert NOEXEC in run.green(), run.said
    assert run.cells[WELL]["driver.kernel_launch"] == ""
    assert "No space left on device" in run.cells[WELL]["compute.known_answer"]
