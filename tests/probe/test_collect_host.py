"""Facts of the host, from files below a root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpugate.errors import ProbeError, Unavailable
from gpugate.evidence.facts import Gap
from gpugate.evidence.request import WorkloadPattern
from gpugate.probe import processes
from gpugate.probe.host import host
from gpugate.probe.node import Node
from gpugate.probe.nvml import RunningProcess
from gpugate.probe.pci import pci_gpus
from gpugate.probe.reading import attempt, printable
from probing import write


def test_host_facts_come_from_the_files_below_the_root(node: Node) -> None:
    """Every fact of the host is read below the root, in the units that its name says."""
    found = host(node, 1.5)

    assert (found.hostname, found.machine_id) == ("gpu7", "0123456789abcdef0123456789abcdef")
    assert found.boot_id == "11111111-2222-3333-4444-555555555555"
    assert (found.kernel_release, found.uptime_s, found.clock_unix_s) == ("6.8.0-71-generic", 86400.25, 1.5)
    assert found.initial_pid_namespace is True
    assert (found.memory_total_bytes, found.memory_available_bytes) == (1 << 30, 1 << 29)
    assert found.shm_bytes == 64 << 20


@pytest.mark.parametrize(
    ("inside", "fact"),
    [
        ("etc/hostname", "hostname"),
        ("etc/machine-id", "machine_id"),
        ("proc/sys/kernel/random/boot_id", "boot_id"),
        ("proc/sys/kernel/osrelease", "kernel_release"),
        ("proc/uptime", "uptime_s"),
        ("proc/meminfo", "memory_total_bytes"),
        ("proc/mounts", "shm_bytes"),
        ("proc/self/ns/pid", "initial_pid_namespace"),
    ],
)
def test_a_missing_file_costs_its_own_fact_alone(node: Node, inside: str, fact: str) -> None:
    """A file that is not there is a gap with its errno in that fact, and the others stay."""
    (node.root / inside).unlink()

    found = host(node, 0.0)

    gap = found.gap(fact)
    assert gap is not None
    assert gap.code == 2
    with pytest.raises(Unavailable, match="No such file"):
        getattr(found, fact)
    assert found.clock_unix_s == 0.0
    assert found.gap("uptime_s" if fact != "uptime_s" else "boot_id") is None


@pytest.mark.parametrize("content", ["", "uninitialized\n", "0123\n"])
def test_a_machine_id_that_is_none_is_a_gap(node: Node, content: str) -> None:
    """An empty, uninitialised or mangled machine-id file never becomes an identity."""
    write(node.root, {"etc/machine-id": content})

    gap = host(node, 0.0).gap("machine_id")

    assert gap is not None
    assert "/etc/machine-id" in gap.unavailable


def test_another_pid_namespace_is_told(node: Node) -> None:
    """A probe that cannot see every process says so, since the driver hides those processes too."""
    link = node.root / "proc/self/ns/pid"
    link.unlink()
    link.symlink_to("pid:[4026532999]")

    assert host(node, 0.0).initial_pid_namespace is False


def test_an_unmounted_shm_is_a_gap(node: Node) -> None:
    """A folder /dev/shm that is no mount says nothing about shared memory."""
    write(node.root, {"proc/mounts": "/dev/sda1 / ext4 rw 0 0\n", "dev/shm/file": ""})

    gap = host(node, 0.0).gap("shm_bytes")

    assert gap == Gap("/dev/shm is not mounted")  # noqa: S108  # a sentence


def test_links_stay_below_the_root(node: Node, tmp_path: Path) -> None:
    """Absolute and climbing links lead where they lead on the node, never to the machine beside it."""
    (tmp_path / "outside").write_text("ffffffffffffffffffffffffffffffff\n")
    place = node.root / "etc/machine-id"
    place.rename(node.root / "etc/real-id")
    for target in ("/etc/real-id", "../../../../etc/real-id"):
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        assert host(node, 0.0).machine_id == "0123456789abcdef0123456789abcdef"
    place.unlink()
    place.symlink_to(tmp_path / "outside")
    assert host(node, 0.0).gap("machine_id") is not None


def test_links_in_a_circle_are_a_gap(node: Node) -> None:
    """A circle of links ends in a gap that names the file."""
    place = node.root / "etc/machine-id"
    place.unlink()
    place.symlink_to("/etc/machine-id")

    gap = host(node, 0.0).gap("machine_id")

    assert gap is not None
    assert "too many symbolic links" in gap.unavailable


def test_pci_lists_display_devices_of_nvidia_alone(node: Node) -> None:
    """GPUs are counted by vendor and class; switches, other vendors and virtual functions are not GPUs."""
    devices = {
        "0000:18:00.0": ("0x10de", "0x030200", "0x2330", "1"),
        "0000:19:00.0": ("0x10de", "0x030000", "0x2330", "-1"),
        "0000:1a:00.0": ("0x10de", "0x068000", "0x22a3", "0"),
        "0000:1b:00.0": ("0x1a03", "0x030000", "0x2000", "0"),
        "0000:18:00.4": ("0x10de", "0x030200", "0x2330", "0"),
    }
    for bus_id, (vendor, kind, device, numa) in devices.items():
        place = f"sys/bus/pci/devices/{bus_id}"
        names = {"vendor": vendor, "class": kind, "device": device, "numa_node": numa}
        write(node.root, {f"{place}/{name}": f"{value}\n" for name, value in names.items()})
    write(node.root, {"sys/bus/pci/devices/0000:18:00.4/physfn/vendor": "0x10de\n"})

    found = pci_gpus(node)

    assert not isinstance(found, Gap)
    assert [gpu.bus_id for gpu in found] == ["0000:18:00.0", "0000:19:00.0"]
    assert (found[0].device_id, found[0].numa_node) == ("10de:2330", 1)
    assert found[1].gap("numa_node") is not None


def test_a_pci_device_that_cannot_be_read_makes_no_shorter_list(node: Node) -> None:
    """A device without a readable vendor could be a GPU: the list is a gap then."""
    (node.root / "sys/bus/pci/devices/0000:99:00.0").mkdir()

    assert isinstance(pci_gpus(node), Gap)


def _process(root: Path, pid: int, command: str, uid: int = 1000, cgroup: str = "0::/user.slice\n") -> None:
    write(
        root,
        {
            f"proc/{pid}/cmdline": command.replace(" ", "\0").encode() + b"\0",
            f"proc/{pid}/comm": command.split(" ")[0] + "\n",
            f"proc/{pid}/status": f"Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n",
            f"proc/{pid}/cgroup": cgroup,
        },
    )


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/ollama.service\n", "ollama.service"),
        ("0::/system.slice/slurmstepd.scope/job_7/step_0\n", "slurmstepd.scope/job_7/step_0"),
        ("12:cpu:/x\n1:name=systemd:/system.slice/docker-1a2b.scope\n", "docker-1a2b.scope"),
        ("0::/lxc.payload\n", "/lxc.payload"),
    ],
)
def test_a_gpu_process_is_named_by_user_command_and_unit(node: Node, cgroup: str, unit: str) -> None:
    """A process of the driver's table is found in the node's /proc, its unit from the cgroup of either version."""
    _process(node.root, 321, "python train.py", cgroup=cgroup)

    found = processes.describe(node, RunningProcess(321, "compute", 1024))

    assert (found.user, found.command, found.unit) == ("alice", "python train.py", unit)
    assert (found.pid, found.kind, found.memory_bytes) == (321, "compute", 1024)


def test_a_process_that_ended_keeps_its_row(node: Node) -> None:
    """The driver's row stays, with gaps that say why nobody is known to it."""
    found = processes.describe(node, RunningProcess(4711, "compute", 1))

    assert found.pid == 4711
    for fact in ("user", "command", "unit"):
        gap = found.gap(fact)
        assert gap is not None
        assert "4711 ended" in gap.unavailable


def test_workloads_are_found_by_command_line(node: Node) -> None:
    """Each pattern lists its processes; one that matches none is an empty list, measured."""
    _process(node.root, 10, "vllm serve --model x")
    _process(node.root, 11, "sshd: alice", uid=0)

    found = processes.workloads(node, [WorkloadPattern("vllm", r"^vllm serve"), WorkloadPattern("none", "ollama")])

    assert not isinstance(found, Gap)
    assert [(p.pid, p.user) for p in found[0].processes] == [(10, "alice")]
    assert found[1].processes == []


def test_a_bad_pattern_is_a_gap_of_its_workload(node: Node) -> None:
    """A pattern that is no regular expression says so, and the other workloads are still measured."""
    found = processes.workloads(node, [WorkloadPattern("bad", "("), WorkloadPattern("good", "x")])

    assert not isinstance(found, Gap)
    gap = found[0].gap("processes")
    assert gap is not None
    assert "no regular expression" in gap.unavailable
    assert found[1].processes == []


def test_hidden_processes_are_no_empty_list(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc hides other users' processes from the probe, workloads are a gap."""
    write(node.root, {"proc/mounts": "proc /proc proc rw,nosuid,hidepid=invisible 0 0\n"})
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    found = processes.workloads(node, [WorkloadPattern("any", "x")])

    assert isinstance(found, Gap)
    assert "hidepid" in found.unavailable


def test_a_bug_costs_one_fact_and_says_that_it_is_a_bug() -> None:
    """An exception that nobody foresaw becomes a gap named as the probe's own error."""
    nothing: dict[str, int] = {}

    gap = attempt("anything", lambda: nothing["missing"])

    assert isinstance(gap, Gap)
    assert gap.unavailable.startswith("probe error: KeyError")


def test_an_error_on_purpose_is_its_own_sentence() -> None:
    """What the probe refuses on purpose is said as it was written."""

    def refuse() -> int:
        raise ProbeError("no such thing")

    assert attempt("anything", refuse) == Gap("no such thing")


def test_text_of_the_node_cannot_control_a_terminal() -> None:
    """Control characters, lone surrogates and overlong text come out printable and bounded."""
    text = printable("a\x1b[31m\n\ud800\u202e" + "x" * 9000)

    assert text.isprintable()
    assert len(text) == 4096
    assert json.loads(json.dumps(text)) == text
