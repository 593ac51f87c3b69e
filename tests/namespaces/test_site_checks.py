"""A site's own testinfra checks on hosts with systemd: over the connection that is there, with a deadline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from controllers import PROJECT, Run, judge
from hostfleet import NamespaceFleet, namespace_fleet
from hostfleet.fleet import NOT_SHOWN, NOT_WITH_TINI

SOUND, HUNG = "gpu001", "gpu002"
# A program of this site: on one host it takes everything along, sshd too.
HEALTH = {SOUND: "echo well", HUNG: "kill -s STOP -- -1; exec sleep infinity"}
CHECKS = '''
def check_ssh(host):
    """sshd runs, and is from the package."""
    assert host.service("ssh").is_running
    assert host.service("ssh").is_enabled
    assert host.package("openssh-server").is_installed
    assert not host.package("openssh-server-of-somebody-else").is_installed


def check_files(host):
    """Keys are root's alone."""
    assert host.file("/etc/ssh/ssh_host_ed25519_key").mode == 0o600
    assert host.file("/etc/machine-id").size == 33


def check_user(host):
    """The persistence daemon does not run."""
    assert not host.service("nvidia-persistenced").is_running


def check_zz_health(host):
    """The site's own program says that all is well."""
    assert host.check_output("site-health") == "well"


def check_zzz_afterwards(host):
    """Whatever it did, the host still answers."""
    assert host.run("true").rc == 0
'''
# The daemon is as its package has it: nobody provisioned it.
DAEMON = {"settings.persistence": "absent"}
OWN = dict.fromkeys(("own.ssh", "own.files", "own.user", "own.zz_health", "own.zzz_afterwards"), "observe")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceFleet]:
    """Two provisioned hosts with systemd and the site's program."""
    folder = tmp_path_factory.mktemp("site")
    policy = {"gpugate_checks": NOT_SHOWN | NOT_WITH_TINI | DAEMON | OWN}
    with namespace_fleet(folder, hosts=2, systemd=True, provisioned=True, policy=policy) as up:
        for host in up:
            host.settle()
            program = host.path("/usr/local/bin/site-health")
            program.write_text(f"#!/bin/sh\n{HEALTH[host.name]}\n")
            program.chmod(0o755)
        yield up


@pytest.fixture(scope="module")
def run(fleet: NamespaceFleet) -> Run:
    """A quick run of the catalogue and the site's checks."""
    own = fleet.folder / "own.py"
    own.write_text(CHECKS)
    return judge(fleet, "--profile=quick", str(PROJECT / "checks"), str(own))


def test_testinfra_asks_systemd_dpkg_and_files_of_the_host(run: Run) -> None:
    """Services, packages and files are the host's own, and a claim that is wrong is red with its assertion."""
    for host in (SOUND, HUNG):
        assert run.cells[host]["own.ssh"] == "", run.said
        assert run.cells[host]["own.files"] == ""
        assert "assert not True" in run.cells[host]["own.user"]


def test_all_of_it_rides_on_one_connection(fleet: NamespaceFleet, run: Run) -> None:
    """The host saw one login: the gather's, which testinfra's commands went over too."""
    assert fleet[SOUND].run(["journalctl", "-u", "ssh"]).stdout.count("Accepted publickey") == 1


def test_a_host_that_hangs_in_a_check_ends_with_its_own_deadline(run: Run) -> None:
    """That check says so, the next one on that host does not wait again, and what was gathered before stays judged."""
    for check in ("own.zz_health", "own.zzz_afterwards"):
        assert f"{HUNG} (10.77.1.2) gave no answer within 30 s after login" in run.cells[HUNG][check], run.said
    assert {check for check, wrong in run.cells[HUNG].items() if wrong} == {
        "own.user", "own.zz_health", "own.zzz_afterwards",
    }  # fmt: skip


def test_the_others_are_judged(run: Run) -> None:
    """On the sound host the site's program is asked, and everything after it."""
    assert {check for check, wrong in run.cells[SOUND].items() if wrong} == {"own.user"}
