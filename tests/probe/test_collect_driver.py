"""Kernel module, service manager and loader, from files."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from pathlib import Path

import pytest
from gpugate.evidence.facts import Gap, to_json
from gpugate.evidence.types import Driver
from gpugate.probe import units
from gpugate.probe.driver import driver
from gpugate.probe.node import Node
from probing import KERNEL, write

NO_NVML = Gap("NVML was not asked", 12)
MODINFO = b"\x7fELF....\0license=NVIDIA\0version=580.95.05\0srcversion=ABC\0"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 22:55:48 UTC 2024\n"


def _driver(node: Node) -> Driver:
    return driver(node, NO_NVML, NO_NVML)


@pytest.mark.parametrize(
    ("words", "version", "flavour"), [(OPEN, "580.95.05", "open"), (PROPRIETARY, "535.161.08", "proprietary")]
)
def test_both_kinds_of_module_tell_their_version(node: Node, words: str, version: str, flavour: str) -> None:
    """Where sysfs has no version, the text of either kernel module tells version and kind."""
    write(node.root, {"proc/driver/nvidia/version": words})

    found = _driver(node)

    assert (found.module_version, found.module_flavour) == (version, flavour)


def test_sysfs_speaks_first(node: Node) -> None:
    """The running module's own version file is what counts."""
    write(node.root, {"sys/module/nvidia/version": "550.1\n", "proc/driver/nvidia/version": OPEN})

    assert _driver(node).module_version == "550.1"


def test_a_module_that_is_not_loaded_is_a_gap(node: Node) -> None:
    """No module means no version, with the reason; and what needs NVML carries NVML's own gap."""
    found = _driver(node)

    gap = found.gap("module_version")
    assert gap is not None
    assert "not loaded" in gap.unavailable
    assert found.gap("nvml_version") == NO_NVML
    assert found.gap("gpu_count") == NO_NVML


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_the_installed_module_is_read_from_disk(node: Node, suffix: str, pack: object) -> None:
    """The module that the next boot loads tells its version, compressed or not."""
    assert callable(pack)
    write(node.root, {f"lib/modules/{KERNEL}/updates/dkms/nvidia.ko{suffix}": pack(MODINFO)})

    assert _driver(node).installed_module_version == "580.95.05"


def test_depmod_decides_between_two_modules(node: Node) -> None:
    """With two files, the one in modules.dep is the next to load; without it nobody can say."""
    base = f"lib/modules/{KERNEL}"
    write(
        node.root,
        {
            f"{base}/kernel/nvidia.ko": MODINFO.replace(b"580.95.05", b"535.10.10"),
            f"{base}/updates/dkms/nvidia.ko": MODINFO,
        },
    )
    gap = _driver(node).gap("installed_module_version")
    assert gap is not None
    assert "several" in gap.unavailable

    write(node.root, {f"{base}/modules.dep": "kernel/nvidia-uvm.ko: kernel/nvidia.ko\nupdates/dkms/nvidia.ko:\n"})
    assert _driver(node).installed_module_version == "580.95.05"


@pytest.mark.parametrize(("name", "content"), [("nvidia.ko", b"\0no record\0"), ("nvidia.ko.zst", b"x")])
def test_a_module_that_cannot_be_read_is_a_gap(node: Node, name: str, content: bytes) -> None:
    """A file without a version record, or packed as only the node's own tools unpack, gives no version."""
    write(node.root, {f"lib/modules/{KERNEL}/{name}": content})

    gap = _driver(node).gap("installed_module_version")

    assert gap is not None
    assert name in gap.unavailable


def test_nouveau_is_seen(node: Node) -> None:
    """The open-source driver counts as loaded when sysfs shows its module."""
    assert _driver(node).nouveau_loaded is False
    write(node.root, {"sys/module/nouveau/initstate": "live\n"})
    assert _driver(node).nouveau_loaded is True


def test_without_libraries_the_loader_says_so(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that the loader passes by is a gap that says what is wrong with its file."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    (tmp_path / "libcuda.so.1").write_bytes(b"\x7fELF\x01\x01" + bytes(12) + b"\x28\x00")

    found = _driver(node)

    nvml, cuda = found.gap("nvml_library"), found.gap("libcuda")
    assert nvml is not None
    assert "is empty (0 bytes)" in nvml.unavailable
    assert cuda is not None
    assert "another machine" in cuda.unavailable
    assert found.gap("cuda_version") == cuda


def test_without_systemd_no_daemon_is_installed(node: Node) -> None:
    """A node without systemd has no persistence daemon's unit, and everything else about it is a gap that says why."""
    daemon = units.persistence_daemon(node)

    assert daemon.installed is False
    for fact in ("enabled", "active", "command_line"):
        assert daemon.gap(fact) == Gap("there is no systemd on this node")


UNIT = (
    "[Unit]\nDescription=x\n[Service]\nExecStart=/usr/bin/nvidia-persistenced --no-persistence-mode \\\n  --verbose\n"
)


def test_the_persistence_daemon_is_read_with_its_drop_ins(node: Node) -> None:
    """The unit's command line counts as its drop-ins leave it; activity cannot be asked from beside the root."""
    write(node.root, {f"usr/lib/systemd/system/{units.PERSISTENCED}": UNIT})
    daemon = units.persistence_daemon(node)
    assert (daemon.installed, daemon.enabled) == (True, False)
    assert daemon.command_line == "/usr/bin/nvidia-persistenced --no-persistence-mode    --verbose"
    active = daemon.gap("active")
    assert active is not None
    assert "beside the node's root" in active.unavailable

    drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/nvidia-persistenced --user x\n"
    write(node.root, {f"etc/systemd/system/{units.PERSISTENCED}.d/mode.conf": drop_in})
    wants = node.root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    (wants / units.PERSISTENCED).symlink_to(f"/usr/lib/systemd/system/{units.PERSISTENCED}")
    daemon = units.persistence_daemon(node)
    assert daemon.enabled is True
    assert daemon.command_line == "/usr/bin/nvidia-persistenced --user x"


def test_a_masked_unit_is_not_enabled(node: Node) -> None:
    """A unit linked to /dev/null is masked, whatever links to it."""
    folder = node.root / "etc/systemd/system"
    (folder / "multi-user.target.wants").mkdir(parents=True)
    (folder / "multi-user.target.wants" / units.PERSISTENCED).symlink_to(units.PERSISTENCED)
    (folder / units.PERSISTENCED).symlink_to("/dev/null")

    daemon = units.persistence_daemon(node)

    assert daemon.enabled is False
    assert daemon.gap("command_line") == Gap(f"{units.PERSISTENCED} is masked")


def test_the_boot_unit_carries_a_digest_of_its_settings(node: Node) -> None:
    """What re-applies settings at boot is known by its unit, its link and the sha256 of its settings file."""
    content = b'{"power_limit_w": 650}\n'
    write(
        node.root,
        {
            f"etc/systemd/system/{units.SETTINGS_UNIT}": "[Service]\nExecStart=/x\n",
            "etc/gpugate/settings.json": content,
        },
    )
    wants = node.root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    (wants / units.SETTINGS_UNIT).symlink_to(f"../{units.SETTINGS_UNIT}")

    found = to_json(units.boot_unit(node))

    digest = hashlib.sha256(content).hexdigest()
    assert found == {"installed": True, "enabled": True, "settings_digest": digest}


def test_settings_that_are_not_there_have_no_digest(node: Node) -> None:
    """No settings file means a gap, never the digest of nothing."""
    assert units.boot_unit(node).gap("settings_digest") is not None
