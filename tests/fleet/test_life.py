"""Fleets as a whole: up, down, side by side, in the way of something else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from fleets import DEADLINE_S, Fleet, alive, describe, environment, gpusim, simulated_fleet, until
from gpusim.errors import GpusimError
from gpusim.fleet import access, control, description
from gpusim.node import allowed
from gpusim.paths import FleetLayout

SIMULATED = Path(__file__).parents[2] / "inventory" / "simulated"


def test_the_embedded_fleet_is_valid_and_matches_its_inventory() -> None:
    """hosts.yml is exactly the inventory of fleet.yml, with its folder found from where the inventory lies."""
    fleet = description.load(SIMULATED / "fleet.yml", allowed())
    expected = access.inventory(fleet, "{{ gpusim_dir }}")
    expected["gpu_fleet"]["vars"]["gpusim_dir"] = "{{ (inventory_dir ~ '/../../.gpusim') | realpath }}"
    assert yaml.safe_load((SIMULATED / "hosts.yml").read_text()) == expected
    assert [(node.name, node.gpus, [fault.gpu for fault in node.faults]) for node in fleet.nodes] == [
        ("gpu0", 8, []),
        ("gpu1", 8, []),
        ("gpu2", 8, [5]),
        ("gpu3", 8, []),
    ]


def test_sixty_four_nodes_come_up_answer_and_go_down(tmp_path: Path) -> None:
    """All of 64 nodes answer, each with its own name, and nothing is left of them."""
    with simulated_fleet(tmp_path, nodes=[{"gpus": 1, "board": "T4"}] * 64) as fleet:
        server = int(fleet.layout.pid_file.read_text())
        names = [f"gpu{i}" for i in range(64)]
        running = [
            subprocess.Popen(["ssh", "-F", fleet.ssh_config, name, "hostname"], stdout=subprocess.PIPE, text=True)
            for name in names
        ]
        assert [process.communicate(timeout=DEADLINE_S)[0].strip() for process in running] == names
    assert not alive(server)


def test_two_fleets_side_by_side_know_nothing_of_each_other(tmp_path: Path) -> None:
    """Ending one fleet, and what runs on it, leaves the other and what runs there alone."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with simulated_fleet(tmp_path / "a") as first:
        started = first.ssh("gpu0", "setsid sh -c 'echo $$; exec sleep 3600 >/dev/null 2>&1 </dev/null' &")
        with simulated_fleet(tmp_path / "b") as second:
            assert second.ssh("gpu0", "hostname").stdout == "gpu0\n"
        assert alive(int(started.stdout))
        assert first.ssh("gpu0", "hostname").stdout == "gpu0\n"
        assert (first.node("gpu0").root / "etc/machine-id").read_text()
    assert not alive(int(started.stdout))


def test_down_ends_what_hides_its_origin(tmp_path: Path) -> None:
    """A process that detached itself and dropped its environment ends with the fleet all the same."""
    with simulated_fleet(tmp_path) as fleet:
        done = fleet.ssh("gpu0", "env -i setsid sh -c 'echo $$; exec sleep 3600 >/dev/null 2>&1 </dev/null' &")
        assert alive(int(done.stdout))
    assert not alive(int(done.stdout))


def test_up_after_a_server_was_killed(tmp_path: Path) -> None:
    """The pid file of a dead server is no obstacle, and what it left running is ended."""
    with simulated_fleet(tmp_path) as fleet:
        orphan = int(fleet.ssh("gpu0", "setsid sh -c 'echo $$; exec sleep 3600 >/dev/null 2>&1 </dev/null' &").stdout)
        server = int(fleet.layout.pid_file.read_text())
        os.kill(server, signal.SIGKILL)
        until(lambda: not control.is_up(fleet.layout))
        assert "no fleet is up" in fleet.cli("status", check=False).stderr
        fleet.cli("up", str(fleet.description))
        assert fleet.ssh("gpu0", "hostname").stdout == "gpu0\n"
        assert not alive(orphan)


def test_up_twice(tmp_path: Path) -> None:
    """The same description again is no error and changes nothing; another one is an error that says what to do."""
    with simulated_fleet(tmp_path) as fleet:
        server = fleet.layout.pid_file.read_text()
        assert fleet.cli("up", str(fleet.description)).stdout.startswith("already up: 1 node")
        assert fleet.layout.pid_file.read_text() == server
        other = tmp_path / "other.yml"
        other.write_text(yaml.safe_dump(describe(2)))
        done = fleet.cli("up", str(other), check=False)
        assert done.returncode == 1
        assert "another fleet is up" in done.stderr


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    """A port that somebody listens on is an error that names node, address and port; nothing is left running."""
    data = describe(1)
    (tmp_path / "fleet.yml").write_text(yaml.safe_dump(data))
    with socket.create_server((data["nodes"][0]["address"], data["port"])):
        done = gpusim("up", "fleet.yml", "--dir", "fleet", cwd=tmp_path)
    assert done.returncode == 1
    assert f"gpu0 cannot have {data['nodes'][0]['address']} port {data['port']}: in use" in done.stderr
    assert not control.is_up(FleetLayout(tmp_path / "fleet"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """`up` refuses a folder that holds other files, and touches none of them."""
    (tmp_path / "fleet.yml").write_text(yaml.safe_dump(describe(1)))
    (tmp_path / "home" / "nodes").mkdir(parents=True)
    (tmp_path / "home" / "nodes" / "precious").write_text("mine")
    done = gpusim("up", "fleet.yml", "--dir", "home", cwd=tmp_path)
    assert done.returncode == 1
    assert "not a simulated fleet" in done.stderr
    assert (tmp_path / "home" / "nodes" / "precious").read_text() == "mine"


def test_a_key_that_others_can_read_is_an_error(tmp_path: Path) -> None:
    """A private key with the wrong permissions is named, with what to do."""
    with simulated_fleet(tmp_path) as fleet:
        fleet.cli("down")
        fleet.layout.identity.chmod(0o644)
        done = fleet.cli("up", str(fleet.description), check=False)
        assert done.returncode == 1
        assert f"{fleet.layout.identity} can be read by others (mode 0644): chmod 600 it" in done.stderr


@pytest.mark.parametrize("command", ["stop", "hang"])
def test_a_node_that_is_down_or_hangs(fleet: Fleet, command: str) -> None:
    """A stopped node refuses connections, a hanging one accepts the login and never answers; `start` heals both."""
    args = ["ssh", "-F", str(fleet.ssh_config), "-o", "ConnectTimeout=5", "gpu0", "hostname"]
    fleet.cli(command, "gpu0")
    if command == "stop":
        done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        assert "Connection refused" in done.stderr
    else:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(args, capture_output=True, check=False, timeout=1.5)
    assert fleet.ssh("gpu1", "hostname").stdout == "gpu1\n"
    fleet.cli("start", "gpu0")
    assert fleet.ssh("gpu0", "hostname").stdout == "gpu0\n"


def test_a_node_in_a_black_hole_does_not_even_refuse(fleet: Fleet) -> None:
    """Connecting to such a node times out."""
    fleet.cli("stop", "gpu0", "--mode", "blackhole")
    done = subprocess.run(
        ["ssh", "-F", fleet.ssh_config, "-o", "ConnectTimeout=1", "gpu0", "hostname"],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert "timed out" in done.stderr
    fleet.cli("start", "gpu0")
    assert fleet.ssh("gpu0", "hostname").stdout == "gpu0\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_scal": 1}, "unknown key 'time_scal'; allowed: time_scale"),
        ({"time_scale": 0}, "time_scale: must be a number above 0"),
        ({"port": "ssh"}, "port: must be a whole number from 1 to 65535, not 'ssh'"),
        ({"nodes": []}, "nodes: must be a list of at least one node"),
    ],
)
def test_a_wrong_description_is_an_error_that_names_file_and_key(change: dict[str, object], message: str) -> None:
    """A wrong key or value of the fleet names the file, where it stands, and what is allowed."""
    with pytest.raises(GpusimError) as error:
        description.parse(describe(1) | change, allowed(), "my.yml")
    assert str(error.value).startswith("my.yml: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"board": "H100-SXM5"}, "nodes[1].board: unknown name 'H100-SXM5'; allowed: H100-SXM5-80GB"),
        ({"driver": "581"}, "nodes[1].driver: unknown name '581'; allowed: 580"),
        ({"gpus": 17}, "nodes[1].gpus: must be a whole number from 1 to 16, not 17"),
        ({"gpu": 8}, "nodes[1]: unknown key 'gpu'; allowed: gpus"),
        ({"name": "GPU 1"}, "nodes[1].name: must be a host name"),
        ({"name": "gpu0"}, "nodes[1].name: 'gpu0' is already that of nodes[0]"),
        ({"address": "10.0.0.1"}, "nodes[1].address: must be a loopback address"),
        ({"faults": [{"fault": "fouled"}]}, "faults[0].fault: unknown name 'fouled'; allowed: fouled_heatsink"),
        ({"faults": [{"fault": "fouled_heatsink", "gpu": 8}]}, "gpu1 has GPUs 0 to 7, not 8"),
        ({"state": ["x"]}, "nodes[1].state: must be a mapping"),
    ],
)
def test_a_wrong_node_is_an_error_that_names_it(change: dict[str, object], message: str) -> None:
    """A wrong key or value of a node says which node and what is allowed, the closest name first."""
    data = describe(2)
    data["nodes"][1] |= change
    with pytest.raises(GpusimError) as error:
        description.parse(data, allowed(), "my.yml")
    assert message in str(error.value)


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    """YAML would take the last of two equal keys silently; the description does not."""
    path = tmp_path / "fleet.yml"
    path.write_text("port: 1\nport: 2\ntime_scale: 1\nnodes: []\n")
    with pytest.raises(GpusimError, match="key 'port' is given twice"):
        description.load(path, allowed())


def test_a_project_of_its_own_works_from_anywhere_inside_it(tmp_path: Path) -> None:
    """Without options, `gpusim` finds the project's description and folder, and the inventory finds the fleet's folder.

    The project's path has a space, which SSH, Ansible and the driver have to survive.
    """
    project = tmp_path / "my project"
    inside = project / "inventory" / "simulated"
    inside.mkdir(parents=True)
    data = describe(1)
    (inside / "fleet.yml").write_text(yaml.safe_dump(data))
    hosts = access.inventory(description.parse(data, allowed(), "fleet.yml"), "{{ gpusim_dir }}")
    hosts["gpu_fleet"]["vars"]["gpusim_dir"] = "{{ (inventory_dir ~ '/../../.gpusim') | realpath }}"
    (inside / "hosts.yml").write_text(yaml.safe_dump(hosts))
    try:
        up = gpusim("up", cwd=inside)
        assert up.returncode == 0, up.stderr
        fleet = Fleet(project / ".gpusim", inside / "fleet.yml", inside / "hosts.yml", environment(tmp_path))
        assert fleet.ssh("gpu0", "hostname").stdout == "gpu0\n"
        done = fleet.run("ansible", "-i", fleet.inventory, "gpu_fleet", "-b", "-m", "command", "-a", "id -u")
        assert (done.stdout, done.stderr) == ("gpu0 | CHANGED | rc=0 >>\n0\n", "")
        assert gpusim("status", cwd=project).stdout.startswith("up since")
    finally:
        down = gpusim("down", cwd=project)
    assert down.stdout == f"down: {project / '.gpusim'}\n"
