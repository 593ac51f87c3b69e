"""The hosts themselves: as apart as real ones, with a driver that programs find where a real one is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from controllers import judge
from hostfleet import ASKS_PASSWORD, PASSWORD, Host, HostSpec, NamespaceFleet, namespace_fleet
from hostfleet.fleet import NOT_SHOWN, NOT_WITH_TINI

VERSIONS = {"gpu001": "580.95.05", "gpu002": "550.163.01"}
# That driver does not know yet what it would recommend after a fault.
OF_550 = NOT_SHOWN | NOT_WITH_TINI | {"errors.recovery_action": "absent"}
LIBRARIES = "/usr/lib/x86_64-linux-gnu/nvidia/current"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceFleet]:
    """Two hosts with different drivers, a slow one, and one whose sudo asks for a password."""
    specs = [
        HostSpec("gpu001", gpus=2),
        HostSpec("gpu002", gpus=2, driver="550", vars={"gpugate_checks": OF_550}),
        HostSpec("gpu003", gpus=2, delay_s=0.1),
        HostSpec("gpu004", gpus=2, sudoers=ASKS_PASSWORD, vars={"ansible_become_password": PASSWORD}),
    ]
    policy = {"gpugate_gpu_count": 2}
    with namespace_fleet(tmp_path_factory.mktemp("hosts"), specs, provisioned=True, policy=policy) as up:
        yield up


@pytest.fixture
def host(fleet: NamespaceFleet) -> Iterator[Host]:
    """A host that a test may unplug or freeze."""
    yield fleet["gpu001"]
    fleet["gpu001"].plug()
    fleet["gpu001"].thaw()


def test_each_host_is_a_machine_of_its_own(fleet: NamespaceFleet) -> None:
    """Names, machine ids, boot ids, host keys and processes are a host's own, and it was booted just now."""
    said = [
        fleet.ssh(
            host.name,
            "cut -d. -f1 /proc/uptime; hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; "
            "readlink /proc/self/ns/pid; ssh-keyscan -t ed25519 localhost 2>&1 | tail -1",
        ).stdout.splitlines()
        for host in fleet
    ]
    uptimes, names, *others = zip(*said, strict=True)
    assert all(int(uptime) < 600 for uptime in uptimes)
    assert list(names) == list(fleet.hosts)
    assert [len(set(column)) for column in others] == [len(fleet)] * 4


@pytest.mark.parametrize("name", VERSIONS)
def test_programs_find_the_simulated_driver_where_a_real_one_is(fleet: NamespaceFleet, name: str) -> None:
    """Kernel, module file, loader and device nodes tell of the host's own driver, without a word in the environment."""
    version = VERSIONS[name]
    assert f" Kernel Module  {version} " in fleet[name].run(["cat", "/proc/driver/nvidia/version"]).stdout.replace(
        " for x86_64", ""
    )
    assert fleet[name].run(["cat", "/sys/module/nvidia/version"]).stdout == f"{version}\n"
    assert fleet[name].run(["modinfo", "-F", "version", "nvidia"]).stdout == f"{version}\n"
    cache = fleet[name].run(["ldconfig", "-p"]).stdout
    for library in ("libnvidia-ml.so.1", "libcuda.so.1"):
        assert f"{library} (libc6,x86-64) => {LIBRARIES}/{library}\n" in cache
    devices = fleet[name].run(["sh", "-c", "stat -c '%F %t %a %n' /dev/nvidia*"]).stdout.splitlines()
    assert devices[1:] == [f"character special file c3 666 /dev/nvidia{name}" for name in ("0", "1", "ctl")]


def test_the_probe_needs_no_help_to_find_the_driver(fleet: NamespaceFleet) -> None:
    """Over SSH the whole nightly catalogue is green on hosts of both drivers, a slow one, and behind a password."""
    run = judge(fleet, "--profile=nightly")
    assert run.green() == set(fleet.hosts), run.said


def test_a_wrong_password_is_that_hosts_cause(fleet: NamespaceFleet) -> None:
    """Where sudo does not take the password, the host is red with what sudo said, and the others are green."""
    fleet["gpu004"].path("/etc/sudoers.d/deploy").unlink()
    run = judge(fleet, "--profile=quick")
    fleet["gpu004"].run(["sh", "-c", f"echo '{ASKS_PASSWORD.strip()}' > /etc/sudoers.d/deploy"])
    (cause,) = run.causes("gpu004")
    assert "gpu004" in cause
    assert "does not let us become root" in cause
    assert run.green() == set(fleet.hosts) - {"gpu004"}


def test_a_refused_connection_is_told_from_an_unplugged_host(fleet: NamespaceFleet, host: Host) -> None:
    """ssh and the checks hear a refusal while sshd is down, and it is a host like any other afterwards."""
    host.refuse()
    assert "Connection refused" in fleet.ssh(host.name, "true").stderr
    run = judge(fleet, "--profile=quick")
    host.accept()
    (cause,) = run.causes(host.name)
    assert "cannot be reached: Connection refused" in cause
    assert fleet.ssh(host.name, "true").returncode == 0


def test_a_plugged_in_host_answers_again(fleet: NamespaceFleet, host: Host) -> None:
    """Nothing of a host is lost by pulling its plug for a while."""
    host.unplug()
    assert fleet.run(["ssh", "-F", fleet.ssh_config, "-o", "ConnectTimeout=2", host.name, "true"]).returncode == 255
    host.plug()
    assert fleet.ssh(host.name, "hostname").stdout == f"{host.name}\n"


def test_a_frozen_host_goes_on_where_it_was(fleet: NamespaceFleet, host: Host) -> None:
    """While it is frozen it takes connections and says nothing; thawed, it does."""
    host.freeze()
    waited = fleet.run(["timeout", "2", "ssh", "-F", fleet.ssh_config, host.name, "true"])
    host.thaw()
    assert waited.returncode == 124
    assert fleet.ssh(host.name, "hostname").stdout == f"{host.name}\n"


def test_a_slow_host_takes_its_time(fleet: NamespaceFleet) -> None:
    """Each packet takes a tenth of a second either way: connecting and hearing the banner, four of them."""
    started = time.monotonic()
    assert fleet.run(["ssh-keyscan", "-t", "ed25519", fleet["gpu003"].address]).returncode == 0
    assert time.monotonic() - started > 0.4


def test_a_power_cut_ends_everything_and_keeps_the_disk(fleet: NamespaceFleet, host: Host) -> None:
    """After it the host has another boot id, its files, and a driver that forgot its settings."""
    before = fleet.ssh(host.name, "cat /proc/sys/kernel/random/boot_id; echo kept > kept; sync").stdout
    host.die()
    assert fleet.run(["timeout", "1", "ssh", "-F", fleet.ssh_config, host.name, "true"]).returncode != 0
    host.power_on()
    after = fleet.ssh(host.name, "cat /proc/sys/kernel/random/boot_id kept; cut -d. -f1 /proc/uptime").stdout.split()
    assert after[0] != before.strip()
    assert after[1] == "kept"
    assert int(after[2]) < 30
    assert host.node.state.get("gpu.*.persistence") == [False, False]
    host.node.set("gpu.*.persistence", True)
    host.node.set("gpu.*.power_limit_w", 650)
