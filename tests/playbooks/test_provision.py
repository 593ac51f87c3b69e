"""provision.yml and unprovision.yml on simulated nodes over SSH, from a copy of the project in a deep folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest
from fleets import simulated_fleet
from sites import Site, changed, make

UNIT = """[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced \\
    --no-persistence-mode --verbose
"""

ASK = """
- hosts: gpu1
  gather_facts: false
  tasks:
    - gpu_probe: {state: identity, root: "{{ gpugate_node_root }}"}
      become: true
      register: node
    - ansible.builtin.debug: {var: node.identity}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two eight-GPU nodes as their packages leave them: persistence off, full power."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{}, {"driver": "550"}]) as fleet:
        for node in ("gpu0", "gpu1"):
            fleet.cli("set", node, "gpu.*.persistence", "false")
        yield make(folder, fleet)


@pytest.fixture
def edited(site: Site) -> Iterator[Site]:
    """The site, for a test that edits its policy: put back afterwards."""
    text = site.policy.read_text()
    yield site
    site.policy.write_text(text)


@pytest.fixture(scope="module")
def provisioned(site: Site) -> Site:
    """The site after provision.yml; tests that change it put it back."""
    site.play("provision.yml")
    return site


def edit(site: Site, before: str, after: str) -> None:
    text = site.policy.read_text()
    assert before in text
    site.policy.write_text(text.replace(before, after))


def ours(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The paths that differ, without Ansible's own folder in the project and each node's home."""
    differ = {path for path in before | after if before.get(path) != after.get(path)}
    return {path for path in differ if "/.gpugate" not in path and "/home/.ansible" not in path}


def test_check_on_a_fresh_node_tells_each_gpu_and_changes_nothing(site: Site) -> None:
    """With --check --diff a node without a probe tells what each card would get, and stays as it was."""
    settings, files = site.settings(), site.files()
    said = site.play("provision.yml", "--check", "--diff")
    for line in (
        "persistence off, power limit 700 W -> persistence on, power limit 650 W",
        "probe/current: absent -> ",
    ):
        assert line in said
    assert said.count("-> persistence on, power limit 650 W") == 16
    assert changed(said) == {"gpu0": 2, "gpu1": 2}
    assert site.settings() == settings
    assert ours(files, site.files()) == set()


def test_provision_sets_every_gpu_and_a_second_run_changes_nothing(site: Site) -> None:
    """Persistence and limits hold on every card, only the node root changed, and the second run reports changed=0."""
    files = site.files()
    said = site.play("provision.yml")
    assert changed(said) == {"gpu0": 2, "gpu1": 2}
    assert site.settings() == [["true"] * 8, ["650.0"] * 8] * 2
    written = ours(files, site.files())
    assert written
    assert all(path.startswith(("fleet/nodes/gpu0/root/", "fleet/nodes/gpu1/root/")) for path in written)
    assert said.count("will not survive a reboot") == 2
    again = site.play("provision.yml", folder="playbooks")
    assert changed(again) == {"gpu0": 0, "gpu1": 0}
    assert changed(site.play("provision.yml", "--check", "--diff")) == {"gpu0": 0, "gpu1": 0}


def test_the_node_holds_the_probe_and_the_policys_document(provisioned: Site) -> None:
    """`current` names the build by its sha256, only its owner may write it, the settings are policy's own bytes."""
    built = (provisioned.project / ".gpugate/probe/gpugate-probe.pyz").read_bytes()
    for node in ("gpu0", "gpu1"):
        root = provisioned.fleet.node(node).root
        deployed = root / "opt/gpugate/probe/current/gpugate-probe.pyz"
        assert deployed.read_bytes() == built
        assert str((root / "opt/gpugate/probe/current").readlink()) == hashlib.sha256(built).hexdigest()
        assert deployed.stat().st_mode & 0o7777 == 0o755
        assert (root / "etc/gpugate/settings.json").read_text() == (
            '{\n  "device_id": "10de:2330",\n  "gpu_count": 8,\n  "persistence": true,\n  "power_limit_w": 650.0\n}\n'
        )


def test_an_edited_limit_is_told_for_each_gpu_and_not_set_in_check_mode(provisioned: Site, edited: Site) -> None:
    """After the policy's limit was edited, --check --diff has one line for each GPU of each node; nothing changes."""
    edit(edited, "gpugate_power_limit_w: 650", "gpugate_power_limit_w: 600")
    settings, files = edited.settings(), edited.files()
    said = edited.play("provision.yml", "--check", "--diff")
    assert said.count("persistence on, power limit 650 W -> persistence on, power limit 600 W") == 16
    assert changed(said) == {"gpu0": 1, "gpu1": 1}
    assert edited.settings() == settings
    assert ours(files, edited.files()) == set()


def test_one_drifted_gpu_is_the_only_one_that_changes(provisioned: Site) -> None:
    """A card whose limit somebody changed by hand gets the policy's back, and no other is named."""
    provisioned.fleet.cli("set", "gpu1", "gpu.6.power_limit_w", "300")
    said = provisioned.play("provision.yml", "--diff")
    assert changed(said) == {"gpu0": 0, "gpu1": 1}
    assert said.count("GPU 6 (") == said.count("GPU ") == 1
    assert provisioned.gpus("gpu1", "power_limit_w") == ["650.0"] * 8


def test_a_limit_outside_of_the_cards_range_changes_nothing(provisioned: Site, edited: Site) -> None:
    """A limit that the card does not take is an error with its range, before any card or file is changed."""
    edit(edited, "gpugate_power_limit_w: 650", "gpugate_power_limit_w: 800")
    settings, files = edited.settings(), edited.files()
    said = edited.play("provision.yml", succeeds=False)
    assert "takes power limits from 200 to 700 W, policy wants 800 W: nothing was changed" in said.replace("\n", " ")
    assert edited.settings() == settings
    assert ours(files, edited.files()) == set()


def test_one_invalid_policy_stops_before_any_node_is_touched(provisioned: Site, edited: Site) -> None:
    """A misspelt variable of one host fails that host with its sentence, and no other host is provisioned."""
    edit(edited, "gpugate_power_limit_w: 650", "gpugate_power_limit_w: 600")
    host = edited.policy.parents[1] / "host_vars/gpu1.yml"
    host.parent.mkdir()
    host.write_text("gpugate_headrom_c: 7\n")
    settings = edited.settings()
    said = edited.play("provision.yml", succeeds=False)
    host.unlink()
    assert "gpu1: gpugate_headrom_c is no policy variable; did you mean gpugate_headroom_c?" in said
    assert "Put the probe on the node" not in said
    assert edited.settings() == settings


def test_nobody_to_provision_is_an_error(site: Site) -> None:
    """A misspelt group, and a limit that leaves nobody, end with an error instead of a play that was skipped."""
    said = site.play("provision.yml", "-e", "gpugate_hosts=gpu_flete", succeeds=False)
    assert "no host of the inventory matches gpu_flete" in said
    said = site.play("provision.yml", "-e", "gpugate_hosts=gpu0", "--limit", "gpu1", succeeds=False)
    assert "no host of the inventory matches gpu0 within --limit gpu1" in said


def test_identity_is_what_the_node_says_now(provisioned: Site) -> None:
    """`state: identity` gives the node's own ids through the deployed probe, and a sentence where that is gone."""
    node = provisioned.fleet.node("gpu1")
    ask = provisioned.project / "playbooks/ask.yml"
    ask.write_text(ASK)
    said = provisioned.play("ask.yml")
    assert (node.root / "etc/machine-id").read_text().strip() in said
    assert (node.root / "proc/sys/kernel/random/boot_id").read_text().strip() in said
    assert all(uuid in said for uuid in provisioned.gpus("gpu1", "uuid"))
    current = node.root / "opt/gpugate/probe/current"
    digest = current.readlink()
    current.unlink()
    assert "run playbooks/provision.yml on this node first" in provisioned.play("ask.yml", succeeds=False)
    current.symlink_to(digest)


def test_older_builds_stay_for_going_back_but_not_for_ever(provisioned: Site) -> None:
    """Beside the current build the two newest stay; an older one is removed, and a damaged current one replaced."""
    folder = provisioned.fleet.node("gpu0").root / "opt/gpugate/probe"
    current = (folder / "current").readlink()
    for second, name in enumerate(("oldest", "older", "old")):
        (folder / name).mkdir()
        os.utime(folder / name, (second, second))
    (folder / current / "gpugate-probe.pyz").write_bytes(b"damaged")
    said = provisioned.play("provision.yml", "--limit", "gpu0")
    assert changed(said) == {"gpu0": 1}
    assert {path.name for path in folder.iterdir()} == {"current", str(current), "older", "old"}
    assert (folder / current / "gpugate-probe.pyz").stat().st_size > 100_000


def test_validate_is_green_on_a_good_node_and_fails_on_a_bad_one(provisioned: Site, edited: Site) -> None:
    """validate.yml runs the checks on the nodes of its limit; a red one makes it fail and is named."""
    edit(edited, "gpugate_level: admit", "gpugate_level: admit\ngpugate_profile: quick")
    edited.play("validate.yml", "--limit", "gpu0")
    edited.fleet.cli("inject", "gpu0", "remap_failed", "--gpu", "3")
    said = edited.play("validate.yml", "--limit", "gpu0", succeeds=False)
    edited.fleet.cli("clear", "gpu0")
    assert "FAIL errors.row_remap on gpu0" in said
    assert "GPU 3 (" in said


def test_unprovision_takes_all_back_and_then_has_nothing_to_do(provisioned: Site) -> None:
    """Files go, limits are the cards' own, persistence is off as it was before; the second run changes nothing."""
    told = provisioned.play("unprovision.yml", "--check", "--diff")
    assert told.count("persistence on, power limit 650 W -> persistence off, power limit 700 W") == 16
    assert provisioned.settings() == [["true"] * 8, ["650.0"] * 8] * 2
    said = provisioned.play("unprovision.yml")
    assert "admission is left alone: who of gpu0, gpu1 is in service stays there" in " ".join(said.split())
    assert changed(said) == {"gpu0": 2, "gpu1": 2}
    assert provisioned.settings() == [["false"] * 8, ["700.0"] * 8] * 2
    for node in ("gpu0", "gpu1"):
        assert not list(provisioned.fleet.node(node).root.rglob("*gpugate*"))
    assert changed(provisioned.play("unprovision.yml")) == {"gpu0": 0, "gpu1": 0}


def test_persistence_that_was_on_before_stays_on_after_unprovision(site: Site) -> None:
    """Where somebody had switched persistence on before the first provisioning, it stays theirs."""
    site.fleet.cli("set", "gpu0", "gpu.2.persistence", "true")
    site.play("provision.yml", "--limit", "gpu0")
    site.play("unprovision.yml", "--limit", "gpu0")
    assert site.gpus("gpu0", "persistence") == ["true"] * 8
    site.fleet.cli("set", "gpu0", "gpu.*.persistence", "false")


def test_where_systemd_is_a_unit_sets_them_at_boot_and_the_daemon_keeps_the_mode(site: Site) -> None:
    """With systemd the boot unit is enabled and the daemon's drop-in keeps the mode; unprovision.yml removes both."""
    root = site.fleet.node("gpu0").root
    (root / "run/systemd/system").mkdir(parents=True)
    package = root / "usr/lib/systemd/system/nvidia-persistenced.service"
    package.parent.mkdir(parents=True)
    package.write_text(UNIT)
    units = root / "etc/systemd/system"
    told = site.play("provision.yml", "--limit", "gpu0", "--check")
    assert changed(told)["gpu0"] > 0
    assert not (units / "gpugate-settings.service").exists()
    assert "will not survive" not in site.play("provision.yml", "--limit", "gpu0")
    assert changed(site.play("provision.yml", "--limit", "gpu0")) == {"gpu0": 0}
    dropin = (units / "nvidia-persistenced.service.d/gpugate.conf").read_text()
    assert "ExecStart=\nExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --verbose\n" in dropin
    unit = (units / "multi-user.target.wants/gpugate-settings.service").resolve().read_text()
    assert "After=nvidia-persistenced.service" in unit
    assert (
        "ExecStart=/usr/bin/python3 /opt/gpugate/probe/current/gpugate-probe.pyz "
        "settings --request /etc/gpugate/settings.json\n"
    ) in unit
    site.play("unprovision.yml", "--limit", "gpu0")
    assert not list(root.rglob("*gpugate*"))
