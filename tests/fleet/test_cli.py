"""The gpusim command line: what it changes on a node, and how it says no."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleets import Fleet
from gpusim.fleet.description import NodeDescription
from gpusim.fleet.nodes import make
from gpusim.node import Node, all_faults
from gpusim.noderoot import INITIAL_PID_NAMESPACE
from gpusim.paths import FleetLayout, NodeLayout
from gpusim.state import NodeState


@pytest.fixture
def healthy(fleet: Fleet) -> Iterator[Fleet]:
    """The shared fleet, its first node cleared afterwards."""
    yield fleet
    fleet.cli("clear", "gpu0")


def tree(root: Path) -> dict[str, bytes | str]:
    """Every file of a node's root with its content, but for the clock and the driver's state."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and not name.endswith(("uptime", "gpusim.state", ".new")):
            found[name] = path.read_bytes()
        elif path.is_dir() and not any(path.iterdir()):
            found[name] = "empty folder"
    return found


def test_set_and_show(healthy: Fleet) -> None:
    """What is set is shown, for one key, for a pattern of keys, and among all of them."""
    healthy.cli("set", "gpu0", "gpu.3.power_limit_w", "500")
    assert healthy.cli("show", "gpu0", "gpu.3.power_limit_w").stdout == "gpu.3.power_limit_w: 500.0\n"
    assert healthy.cli("show", "gpu0", "gpu.*.power_limit_w").stdout.count("\n") == 8
    assert "gpu.3.power_limit_w: 500.0\n" in healthy.cli("show", "gpu0").stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show", "gpu9"], "unknown node 'gpu9'; allowed: gpu"),
        (["show", "gpu0", "gpu.0.power_limit"], "'gpu.0.power_limit': 'power_limit'; allowed: power_limit_w"),
        (["set", "gpu0", "gpu.0.compute_mode", "exclusive"], "one of default, exclusive_thread"),
        (["set", "gpu0", "gpu.8.power_limit_w", "500"], "GPU '8' does not exist; allowed: 0 to 7"),
        (["set", "gpu0", "time_scale", "fast"], "time_scale cannot be 'fast'"),
        (["inject", "gpu0", "xid79"], "unknown fault 'xid79'; allowed: xid_79"),
        (["inject", "gpu0", "xid_79", "--gpu", "8"], "gpu0 has no GPU 8; allowed: 0 to 7"),
        (["inject", "gpu0", "upgrade_pending", "--gpu", "1"], "the fault upgrade_pending is on the whole node"),
        (["inject", "gpu0"], "give the name of a fault"),
        (["inject", "gpu0", "--function", "nvmlInit_v2"], "--code or --hang"),
        (["inject", "gpu0", "--function", "malloc", "--code", "1"], "'malloc' is not the name of an NVML"),
        (["process", "remove", "gpu0", "--pid", "77"], "no process 77 on this node; there are: none"),
        (["kmsg", "gpu0", "two\nlines"], "one line of printable text"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_says_what_can(fleet: Fleet, args: list[str], message: str) -> None:
    """A wrong node, key, value, fault, GPU or process is exit code 1 and one sentence with the allowed names."""
    done = fleet.cli(*args, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("gpusim: ")


def test_misuse_is_exit_code_two(fleet: Fleet) -> None:
    """A command that does not exist is misuse, and says which exist."""
    done = subprocess.run([sys.executable, "-m", "gpusim", "upp"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'upp'" in done.stderr


def test_faults_are_listed_with_a_line_each(fleet: Fleet) -> None:
    """`gpusim faults` names every fault of driver and host, and none without a description."""
    lines = fleet.cli("faults").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(all_faults())
    assert all(len(line.split()) > 1 for line in lines)
    assert {"fouled_heatsink", "module_mismatch", "probe_deleted"} <= set(all_faults())


def test_status_tells_what_is_up_and_what_is_wrong(healthy: Fleet) -> None:
    """The status has a line for each node, with its mode and its faults."""
    healthy.cli("inject", "gpu0", "fouled_heatsink", "--gpu", "5")
    lines = healthy.cli("status").stdout.splitlines()
    assert "fouled_heatsink (GPU 5)" in lines[1]
    assert "no faults" in lines[2]


@pytest.mark.parametrize("name", sorted(all_faults()))
def test_every_fault_changes_the_node_and_is_taken_back(name: str, healthy_node: Path) -> None:
    """Each fault shows in the driver's state or in the node's root, and `clear` leaves no trace of it."""
    node = Node(NodeLayout(healthy_node))
    deployed = healthy_node / "root/opt/tool/probe.pyz"
    deployed.parent.mkdir(parents=True, exist_ok=True)
    deployed.write_bytes(b"deployed")

    def seen() -> tuple[object, object]:
        state = node.state.show()
        for clock in ("anchor_wall_s", "anchor_sim_s"):
            state.pop(clock)
        return state, tree(healthy_node / "root")

    node.state.set("gpu.*.power_limit_w", 650)
    before = seen()
    node.inject(name, None)
    assert seen() != before
    node.clear()
    assert seen() == before


@pytest.fixture(scope="module")
def healthy_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node without a server."""
    folder = tmp_path_factory.mktemp("node")
    layout = FleetLayout(folder)
    layout.drivers.symlink_to(folder.parent / "drivers")
    (folder.parent / "drivers").mkdir(exist_ok=True)
    make(layout, NodeDescription("gpu0", "127.0.0.1", "H100-SXM5-80GB", 2, "580"), 1)
    return layout.node("gpu0").dir


def test_clear_keeps_what_the_operator_set(healthy: Fleet) -> None:
    """Limits that provisioning made survive a fault and its clearing; what a fault took away comes back."""
    state = NodeState.open(healthy.node("gpu0").state)
    state.set("gpu.*.power_limit_w", 650)
    healthy.cli("inject", "gpu0", "power_limit_lost", "--gpu", "2")
    assert state.get("gpu.2.power_limit_w") == 700
    healthy.cli("clear", "gpu0")
    assert state.get("gpu.*.power_limit_w") == [650] * 8


def test_a_lost_gpu_is_in_the_log_as_the_driver_writes_it(healthy: Fleet) -> None:
    """Xid 79 names the GPU's bus address; the record has priority, sequence and microseconds."""
    healthy.cli("inject", "gpu0", "xid_79", "--gpu", "1")
    bus = healthy.cli("show", "gpu0", "gpu.1.bus_id").stdout.split()[1].lower()
    record = (healthy.node("gpu0").root / "dev/kmsg").read_text().splitlines()[-1]
    head, _, text = record.partition(";")
    assert f"NVRM: Xid (PCI:{bus[4:].removesuffix('.0')}): 79, " in text
    priority, sequence, stamp, flags = head.split(",")
    assert (priority, flags) == ("3", "-")
    assert int(sequence) == len((healthy.node("gpu0").root / "dev/kmsg").read_text().splitlines()) - 1
    assert int(stamp) > 80_000 * 1e6


def test_a_process_is_on_host_and_gpu_until_it_is_removed(healthy: Fleet) -> None:
    """An added process has its name, owner, unit and namespaces in procfs and its memory on the GPU."""
    pid = healthy.cli(
        "process", "add", "gpu0", "--gpu", "2", "--command", "/usr/bin/python3 'my train.py'", "--memory-mib", "2000",
        "--user", "alice", "--unit", "train.service",
    ).stdout.strip()  # fmt: skip
    healthy.cli(
        "process", "add", "gpu0", "--gpu", "3", "--pid", pid, "--command", "/usr/bin/python3 'my train.py'",
        "--user", "alice", "--unit", "train.service",
    )  # fmt: skip
    proc = healthy.node("gpu0").root / "proc" / pid
    assert (proc / "comm").read_text() == "python3\n"
    assert (proc / "cmdline").read_bytes() == b"/usr/bin/python3\0my train.py\0"
    assert (proc / "cgroup").read_text() == "0::/system.slice/train.service\n"
    uid = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("Uid:")).split()[1]
    assert f"alice:x:{uid}:" in (healthy.node("gpu0").root / "etc/passwd").read_text()
    state = NodeState.open(healthy.node("gpu0").state)
    assert [[p["memory_mib"] for p in gpu["processes"]] for gpu in state.show()["gpu"][2:4]] == [[2000], [1024]]
    taken = healthy.cli("process", "add", "gpu0", "--gpu", "0", "--pid", pid, "--command", "other", check=False)
    assert f"pid {pid} is already '/usr/bin/python3 my train.py'" in taken.stderr
    healthy.cli("process", "remove", "gpu0", "--pid", pid)
    assert not proc.exists()
    assert not any(gpu["processes"] for gpu in state.show()["gpu"])


def test_reboot(healthy: Fleet) -> None:
    """A reboot brings a new boot id, an empty uptime, log and process list, default settings; deployed files stay."""
    node = healthy.node("gpu0")
    boot_id = (node.root / "proc/sys/kernel/random/boot_id").read_text()
    log = (node.root / "dev/kmsg").read_text()
    (node.root / "opt/deployed").write_text("stays")
    (node.root / "run/volatile").write_text("goes")
    for key, value in (("power_limit_w", "500"), ("compute_mode", "prohibited"), ("ecc_corrected_volatile", "7")):
        healthy.cli("set", "gpu0", f"gpu.0.{key}", value)
    healthy.cli("process", "add", "gpu0", "--gpu", "0")
    healthy.cli("kmsg", "gpu0", "something happened")
    detached = int(healthy.ssh("gpu0", "setsid sh -c 'echo $$; exec sleep 3600 >/dev/null 2>&1 </dev/null' &").stdout)
    healthy.cli("reboot", "gpu0")
    assert (node.root / "proc/sys/kernel/random/boot_id").read_text() != boot_id
    assert float((node.root / "proc/uptime").read_text().split()[0]) < 3600
    assert (node.root / "dev/kmsg").read_text() == log
    assert not list((node.root / "proc").glob("[0-9]*"))
    assert (node.root / "opt/deployed").read_text() == "stays"
    assert not (node.root / "run/volatile").exists()
    state = NodeState.open(node.state)
    assert state.get("gpu.0.power_limit_w") == 700
    assert state.get("gpu.0.compute_mode") == "default"
    assert state.get("gpu.0.ecc_corrected_volatile") == 0
    assert not any(gpu["processes"] for gpu in state.show()["gpu"])
    assert not Path(f"/proc/{detached}/cmdline").exists()
    assert healthy.ssh("gpu0", "hostname").stdout == "gpu0\n"


def test_a_root_is_as_host_software_expects_it(fleet: Fleet) -> None:
    """Driver versions, PCI devices, memory and namespaces read as on a real node."""
    node = fleet.node("gpu1")
    version = NodeState.open(node.state).get("driver_version")
    assert (node.root / "sys/module/nvidia/version").read_text() == f"{version}\n"
    assert f"  {version}  " in (node.root / "proc/driver/nvidia/version").read_text()
    assert (node.libdir / "libcuda.so.1").readlink().name == f"libcuda.so.{version}"
    module = next(node.root.glob("lib/modules/*/updates/dkms/nvidia.ko")).read_bytes()
    assert module.startswith(b"\x7fELF")
    assert f"version={version}\0".encode() in module
    devices = list((node.root / "sys/bus/pci/devices").iterdir())
    nvidia = [path for path in devices if (path / "vendor").read_text() == "0x10de\n"]
    gpus = [path for path in nvidia if (path / "class").read_text().startswith("0x0302")]
    assert len(gpus) == 8 < len(nvidia) < len(devices)
    assert {(path / "max_link_speed").read_text() for path in gpus} == {"32.0 GT/s PCIe\n"}
    assert sorted(path.name for path in gpus) == sorted(
        path.name for path in (node.root / "proc/driver/nvidia/gpus").iterdir()
    )
    total = int((node.root / "proc/meminfo").read_text().split()[1])
    assert total >= 8 * 81559 * 1024
    assert str((node.root / "proc/self/ns/pid").readlink()) == INITIAL_PID_NAMESPACE
    assert stat.S_ISREG((node.root / "dev/nvidiactl").stat().st_mode)


def test_two_nodes_of_one_description_are_alike(tmp_path: Path, healthy_node: Path) -> None:
    """A node has the same identity in two fleets, and each its own boot."""
    layout = FleetLayout(tmp_path)
    layout.drivers.symlink_to(healthy_node.parent.parent / "drivers")
    for name in ("gpu0", "gpu1"):
        make(layout, NodeDescription(name, "127.0.0.1", "H100-SXM5-80GB", 2, "580"), 1)
    again, other = tree(layout.node("gpu0").root), tree(layout.node("gpu1").root)
    first = tree(healthy_node / "root")
    for name in ("etc/machine-id", "etc/hostname", "proc/driver/nvidia/gpus/0000:18:00.0/information"):
        assert again[name] == first[name] != other[name]
    assert again["proc/sys/kernel/random/boot_id"] != first["proc/sys/kernel/random/boot_id"]
    shared = {name for name in again if not name.startswith("opt")}  # others deploy there
    assert shared == {name for name in first if not name.startswith("opt")}
