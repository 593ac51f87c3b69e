"""The driver's own lines of the kernel log."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpugate.errors import ProbeError
from gpugate.evidence.facts import Gap
from gpugate.evidence.types import KernelLog
from gpugate.probe.kernel_log import Log, dmesg, journal, kernel_log
from gpugate.probe.node import Node
from probing import write

XID = "NVRM: Xid (PCI:0000:18:00): 79, pid=7, GPU has fallen off the bus."


def _log(node: Node) -> KernelLog:
    found = kernel_log(node)
    assert not isinstance(found, Gap), found
    return found


def _records(*lines: str, first: int = 0) -> str:
    return "".join(f"6,{first + i},{i * 1000000},-;{line}\n" for i, line in enumerate(lines))


def test_only_the_drivers_lines_are_kept(node: Node) -> None:
    """Lines of the driver stay, in order and with their time; those of others and continuations go."""
    log = _records("Linux version 6.8", "usb 1-1: new device", "nvidia: module loaded", XID) + " SUBSYSTEM=nvidia\n"
    write(node.root, {"dev/kmsg": log})

    found = _log(node)

    assert found.lines == ["[2.000000] nvidia: module loaded", f"[3.000000] {XID}"]
    assert (found.source, found.complete, found.truncated) == ("/dev/kmsg", True, False)


def test_lines_that_programs_wrote_are_not_the_kernels(node: Node) -> None:
    """A record of another facility than the kernel's cannot claim an Xid."""
    write(node.root, {"dev/kmsg": _records("Linux version 6.8") + f"12,1,5,-;{XID}\n"})

    assert _log(node).lines == []


def test_bus_errors_count_at_gpus_and_the_ports_above_them(node: Node) -> None:
    """AER lines are kept for an NVIDIA device and its ports, and not for somebody else's."""
    devices = node.root / "sys/devices/pci0000:16/0000:16:01.0/0000:18:00.0"
    write(devices, {"vendor": "0x10de\n", "class": "0x030200\n"})
    (node.root / "sys/bus/pci/devices/0000:18:00.0").symlink_to("../../../devices/pci0000:16/0000:16:01.0/0000:18:00.0")
    lines = [
        "pcieport 0000:16:01.0: AER: Corrected error received: 0000:16:01.0",
        "pcieport 0000:99:01.0: AER: Corrected error received: 0000:99:01.0",
        "0000:18:00.0:   device [10de:2330] error status/mask=00000001/0000e000",
    ]
    write(node.root, {"dev/kmsg": _records("Linux version 6.8", *lines)})

    assert [line.split("] ", 1)[1] for line in _log(node).lines] == [lines[0], lines[2]]


def test_a_log_that_lost_its_beginning_is_not_complete(node: Node) -> None:
    """When the first record is not number 0, the log no longer reaches back to boot."""
    write(node.root, {"dev/kmsg": _records("usb 1-1: x", XID, first=40)})

    found = _log(node)

    assert found.complete is False
    assert len(found.lines) == 1


def test_a_long_log_keeps_its_newest_lines_and_says_so(node: Node) -> None:
    """Beyond the bound the oldest lines go and `truncated` says it."""
    write(node.root, {"dev/kmsg": _records("Linux version 6.8", *(f"NVRM: line {i}" for i in range(3000)))})

    found = _log(node)

    assert found.truncated is True
    assert len(found.lines) == 1000
    assert found.lines[-1].endswith("NVRM: line 2999")


def test_control_characters_come_out_escaped(node: Node) -> None:
    """A line that would control the operator's terminal is made printable."""
    write(node.root, {"dev/kmsg": _records("Linux version 6.8", "NVRM: \x1b[2J\xff")})

    assert all(line.isprintable() for line in _log(node).lines)
    assert "\\x1b[2J" in _log(node).lines[0]


def test_the_log_file_counts_from_its_last_boot(node: Node) -> None:
    """Without dev/kmsg the log file speaks, from the last boot that it tells of."""
    (node.root / "dev/kmsg").unlink()
    lines = [
        "Nov 20 10:00:00 gpu7 kernel: [    0.000000] Linux version 6.8",
        "Nov 20 10:00:09 gpu7 kernel: [    9.000000] NVRM: old",
        "Nov 21 10:00:00 gpu7 kernel: [    0.000000] Linux version 6.8",
        "Nov 21 10:00:05 gpu7 systemd[1]: nvidia-persistenced started",
        f"Nov 21 10:00:09 gpu7 kernel: [    9.000000] {XID}",
    ]
    write(node.root, {"var/log/kern.log": "\n".join(lines)})

    found = _log(node)

    assert found.lines == [f"Nov 21 10:00:09 gpu7 {XID}"]
    assert (found.source, found.complete) == ("/var/log/kern.log", True)


def test_a_log_file_without_a_boot_is_not_complete(node: Node) -> None:
    """A rotated log file keeps its lines, but cannot say that it reaches back to boot."""
    (node.root / "dev/kmsg").unlink()
    write(node.root, {"var/log/kern.log": f"Nov 21 10:00:09 gpu7 kernel: {XID}\n"})

    assert _log(node).complete is False


def _command(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, output: str, status: int = 0) -> None:
    place = folder / name
    place.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\necho refused >&2\nexit {status}\n")
    place.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize("missed", ["", "1700000005.1 gpu7 systemd-journald: Missed 12 kernel messages"])
def test_on_the_node_itself_the_journal_speaks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: str
) -> None:
    """The journal's kernel lines reach back to boot where it begins there and has missed none of them since."""
    lines = ["1700000000.1 gpu7 kernel: Linux version 6.8", f"1700000009.5 gpu7 kernel: {XID}"]
    (tmp_path / "log").write_text("\n".join(lines))
    (tmp_path / "missed").write_text(missed)
    place = tmp_path / "journalctl"
    place.write_text(f'#!/bin/sh\ncase "$*" in *MESSAGE_ID=*) cat {tmp_path}/missed;; *) cat {tmp_path}/log;; esac\n')
    place.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    log = journal()

    assert (log.source, log.complete) == ("journalctl --dmesg --boot", not missed)
    assert log.lines[1:] == [f"1700000009.5 {XID}"]


def test_dmesg_is_read_with_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dmesg's lines keep their time, and the first tells whether they reach back to boot."""
    _command(tmp_path, monkeypatch, "dmesg", f"[    0.000000] Linux version 6.8\n[   12.500000] {XID}")
    assert dmesg() == Log("dmesg", ["[0.000000] Linux version 6.8", f"[12.500000] {XID}"], True)

    _command(tmp_path, monkeypatch, "dmesg", f"[   12.500000] {XID}")
    assert dmesg().complete is False


def test_what_a_boot_says_before_its_first_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An early microcode update is logged before the kernel says its version: the log reaches back to boot all the
    same, but not where such words come late."""
    early = "[    0.000000] microcode: updated early to revision 0xd6"
    _command(tmp_path, monkeypatch, "dmesg", f"{early}\n[    0.000000] Linux version 6.8")
    assert dmesg().complete is True

    _command(tmp_path, monkeypatch, "dmesg", "\n".join([early] * 20 + ["[    9.000000] Linux version 6.8"]))
    assert dmesg().complete is False


def test_a_reader_that_fails_is_no_empty_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is refused says so in its own words."""
    _command(tmp_path, monkeypatch, "dmesg", "", status=1)

    with pytest.raises(ProbeError, match="dmesg failed with status 1: refused"):
        dmesg()


def test_no_log_is_a_gap_that_names_every_reader(node: Node) -> None:
    """An unreadable log is never an empty one."""
    (node.root / "dev/kmsg").unlink()

    found = kernel_log(node)

    assert isinstance(found, Gap)
    assert "dev/kmsg" in found.unavailable
    assert "kern.log" in found.unavailable
    assert found.code == 2


def test_an_empty_log_is_a_gap(node: Node) -> None:
    """A log without a single record was not read."""
    write(node.root, {"dev/kmsg": ""})

    assert isinstance(kernel_log(node), Gap)
