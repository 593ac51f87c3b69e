"""Forty hosts that are reached through one jump host, whose sshd is as Debian ships it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from controllers import judge
from hostfleet import HostSpec, NamespaceFleet, namespace_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceFleet]:
    """Forty hosts behind a jump host, and one that is not."""
    behind = [HostSpec(f"gpu{number:03d}", behind_jump=True) for number in range(1, 41)]
    with namespace_fleet(tmp_path_factory.mktemp("jump"), [*behind, HostSpec("gpu041")], provisioned=True) as up:
        yield up


def test_the_jump_host_is_the_only_way_and_takes_few_logins_at_once(fleet: NamespaceFleet) -> None:
    """Without it there is no route to a host behind it, and its MaxStartups is sshd's default."""
    assert fleet.jump is not None
    assert "maxstartups 10:30:100\n" in fleet.jump.run(["/usr/sbin/sshd", "-T"]).stdout
    assert "Network is unreachable" in fleet.run(["ssh", "-F", "/dev/null", fleet["gpu001"].address, "true"]).stderr
    assert fleet.ssh("gpu001", "hostname").stdout == "gpu001\n"


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
def test_all_forty_answer_through_it(fleet: NamespaceFleet, transport: str) -> None:
    """Every host is measured and judged, and the jump host saw a handful of logins, not one for each of them."""
    assert fleet.jump is not None
    log = fleet.jump.path("/var/log/sshd.log")
    before = log.read_text().count("Accepted publickey")
    policy = fleet.access.policy.read_text()
    fleet.access.policy.write_text(f"{policy}gpugate_ssh: {transport}\n")
    run = judge(fleet, "--profile=quick")
    fleet.access.policy.write_text(policy)
    assert run.green() == set(fleet.hosts), run.said
    assert 1 <= log.read_text().count("Accepted publickey") - before <= 4


def test_a_jump_host_that_is_down_is_the_cause_of_all_behind_it(fleet: NamespaceFleet) -> None:
    """With its sshd down, every host behind it is red with the same words about it; the one beside it is green."""
    assert fleet.jump is not None
    fleet.jump.refuse()
    run = judge(fleet, "--profile=quick")
    fleet.jump.accept()
    assert run.green() == {"gpu041"}, run.said
    causes = {
        cause.replace(f"{host.name} ({host.address})", "HOST") for host in fleet for cause in run.causes(host.name)
    }
    (cause,) = causes
    assert "the jump host" in cause
    assert fleet.jump.address in cause
    assert "cannot be reached: Connection refused" in cause
