"""provision.yml and unprovision.yml on hosts with systemd, over SSH, as a user who is not root."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from controllers import judge, play
from hostfleet import ASKER, ASKS_PASSWORD, PASSWORD, Host, HostSpec, NamespaceFleet, namespace_fleet

PROBE = "/usr/bin/python3 -I /opt/gpugate/probe/current/gpugate-probe.pyz"
DAEMON = "nvidia-persistenced"
PERSISTENCE, POWER = "gpu.*.persistence", "gpu.*.power_limit_w"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceFleet]:
    """Two hosts with systemd and NVIDIA's daemon as their packages leave them; one's sudo asks for a password."""
    specs = [
        HostSpec("gpu001"),
        HostSpec("gpu002", sudoers=ASKS_PASSWORD, vars={"ansible_become_password": PASSWORD}),
    ]
    off = {PERSISTENCE: False, POWER: 700}
    with namespace_fleet(tmp_path_factory.mktemp("provision"), specs, systemd=True) as up:
        for host in up:
            host.settle()
            for key, value in off.items():
                host.node.set(key, value)
        yield up


@pytest.fixture(scope="module")
def provisioned(fleet: NamespaceFleet) -> NamespaceFleet:
    """The hosts after provision.yml."""
    fleet.access.policy.write_text(f"{fleet.access.policy.read_text()}gpugate_probe_user: {ASKER}\n")
    play(fleet, "provision.yml")
    return fleet


def changed(said: str) -> dict[str, int]:
    """From the recap: how many tasks changed something on each host."""
    return {host: int(count) for host, count in re.findall(r"^(gpu\d+) +: ok=\d+ +changed=(\d+)", said, re.M)}


def settings(host: Host) -> tuple[object, object]:
    return host.node.state.get(PERSISTENCE), host.node.state.get(POWER)


def daemon(host: Host) -> str:
    """How systemd starts NVIDIA's daemon."""
    return host.run(["systemctl", "show", "-pExecStart", DAEMON]).stdout


def ours(host: Host) -> list[str]:
    """Every file on the host that bears our name."""
    return host.run(["find", "/", "-xdev", "-iname", "*gpugate*"]).stdout.splitlines()


def for_the_asker(fleet: NamespaceFleet) -> Path:
    """The inventory of a controller that logs in as the user who may only ask, and has no password for sudo."""
    folder = fleet.folder / "inventory_of_asker"
    shutil.copytree(fleet.inventory.parent, folder)
    data = yaml.safe_load(fleet.inventory.read_text())
    data["gpu_fleet"]["vars"]["ansible_user"] = ASKER
    for variables in data["gpu_fleet"]["hosts"].values():
        variables.pop("ansible_become_password", None)
    (folder / "hosts.yml").write_text(yaml.safe_dump(data))
    return folder / "hosts.yml"


def test_check_mode_tells_what_would_be_and_changes_nothing(fleet: NamespaceFleet) -> None:
    """With --check --diff a fresh host tells what each card would get, and stays as it was."""
    said = play(fleet, "provision.yml", "--check", "--diff", "--limit", "gpu001")
    assert "persistence off, power limit 700 W -> persistence on, power limit 650 W" in said
    assert ours(fleet["gpu001"]) == []
    assert settings(fleet["gpu001"]) == ([False], [700.0])


def test_provisioned_hosts_are_green_and_stay_as_they_are(provisioned: NamespaceFleet) -> None:
    """After provision.yml every check is green, with the daemon that keeps the mode; a second run changes nothing."""
    assert [settings(host) for host in provisioned] == [([True], [650.0])] * len(provisioned)
    for host in provisioned:
        assert "--no-persistence-mode" not in daemon(host)
        assert host.run(["systemctl", "is-enabled", "gpugate-settings", DAEMON]).stdout == "enabled\n" * 2
    run = judge(provisioned, "--profile=nightly")
    assert run.green() == set(provisioned.hosts), run.said
    assert "settings.survive_reboot" in run.cells["gpu001"]
    assert changed(play(provisioned, "provision.yml")) == dict.fromkeys(provisioned.hosts, 0)


def test_settings_survive_a_restart_of_the_hosts_init(provisioned: NamespaceFleet) -> None:
    """After a power cut the driver has forgotten its settings; the host's own units make them again."""
    boots = {host.name: host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout for host in provisioned}
    for host in provisioned:
        host.die()
        assert settings(host) == ([True], [650.0])
        host.power_on()
    for host in provisioned:
        host.settle()
        assert host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != boots[host.name]
        assert host.run(["systemctl", "is-active", "gpugate-settings"]).stdout == "active\n"
    run = judge(provisioned, "--profile=quick")
    assert run.green() == set(provisioned.hosts), run.said


def test_without_the_boot_unit_a_restart_loses_the_power_limit(provisioned: NamespaceFleet) -> None:
    """The unit is what keeps it: on a host where somebody disabled it, limit and unit are red after a restart."""
    host = provisioned["gpu001"]
    host.run(["systemctl", "disable", "gpugate-settings"])
    host.reboot()
    host.settle()
    assert settings(host) == ([True], [700.0])
    run = judge(provisioned, "--profile=quick")
    red = {check for check, wrong in run.cells["gpu001"].items() if wrong}
    assert red == {"settings.power_limit", "settings.survive_reboot"}
    assert run.green() == {"gpu002"}
    host.run(["systemctl", "enable", "--now", "gpugate-settings"])
    assert settings(host) == ([True], [650.0])


def test_the_shipped_sudoers_line_is_enough_to_gather(provisioned: NamespaceFleet) -> None:
    """A user who may run the probe as root and nothing else gathers nightly evidence of every host."""
    run = judge(provisioned, "--profile=nightly", inventory=for_the_asker(provisioned))
    assert run.green() == set(provisioned.hosts), run.said


@pytest.mark.parametrize(
    "command",
    [
        "id",
        "/usr/bin/python3 -c 'print(1)'",
        f"{PROBE} settings --request /etc/gpugate/settings.json",
        f"{PROBE} collect --request - --rootfs / --driver-root /tmp",
        f"{PROBE} collect --request /etc/shadow --rootfs /",
        f"PYTHONPATH=/tmp {PROBE} collect --request - --rootfs /",
        "-u deploy id",
    ],
)
def test_that_user_may_do_nothing_else_by_sudo(provisioned: NamespaceFleet, command: str) -> None:
    """Any other command, and the same one with other words, is refused."""
    done = provisioned.ssh("gpu001", f"sudo -n {command}", user=ASKER)
    assert done.returncode == 1
    assert "password is required" in done.stderr or "not allowed" in done.stderr
    assert done.stdout == ""


def test_unprovision_leaves_nothing(provisioned: NamespaceFleet) -> None:
    """No file of ours is left on any host, limits are the cards' own, and the daemon runs as its package has it."""
    play(provisioned, "unprovision.yml")
    assert [ours(host) for host in provisioned] == [[]] * len(provisioned)
    assert [settings(host)[1] for host in provisioned] == [[700.0]] * len(provisioned)
    for host in provisioned:
        assert "--no-persistence-mode" in daemon(host)
        assert host.run(["systemctl", "--failed", "--no-legend"]).stdout == ""
