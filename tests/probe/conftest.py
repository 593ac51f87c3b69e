"""Nodes to probe: a root made of files, the simulated driver, the probe's zipapp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gpugate import zipapp
from gpugate.probe.node import Node
from gpusim.build import install_driver
from gpusim.state import create_node_state
from probing import KERNEL, Machine, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node's root without a driver: what procfs, sysfs and the distribution show."""
    place = tmp_path / "root"
    write(
        place,
        {
            "etc/hostname": "gpu7\n",
            "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
            "etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
            "proc/sys/kernel/osrelease": f"{KERNEL}\n",
            "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
            "proc/uptime": "86400.25 1000.00\n",
            "proc/meminfo": "MemTotal:       1048576 kB\nMemAvailable:    524288 kB\n",
            "proc/mounts": "/dev/sda1 / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,size=65536k 0 0\n",
            "dev/kmsg": "6,0,0,-;Linux version 6.8.0-71-generic\n",
            "sys/bus/pci/devices/0000:00:00.0/vendor": "0x8086\n",
            "sys/bus/pci/devices/0000:00:00.0/class": "0x060000\n",
            "sys/module/ext4/initstate": "live\n",
        },
    )
    (place / "proc/self/ns").mkdir(parents=True)
    (place / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    return place


@pytest.fixture
def node(root: Path) -> Node:
    """The probe's view of that root."""
    return Node(root=root, state_dir=root / "var/lib/gpugate")


@pytest.fixture(scope="session")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the simulated driver is built, once a session."""
    return tmp_path_factory.mktemp("driver-build")


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe's zipapp."""
    place = tmp_path_factory.mktemp("probe") / "gpugate-probe.pyz"
    zipapp.build(place)
    return place


@pytest.fixture
def machine(tmp_path: Path, root: Path, build_dir: Path) -> Callable[..., Machine]:
    """Makes a simulated node: `machine(driver="535", board="T4", gpus=2)`."""

    def make(driver: str = "580", board: str = "H100-SXM5-80GB", gpus: int = 2) -> Machine:
        libdir = tmp_path / f"lib{driver}"
        install_driver(libdir, driver, build_dir=build_dir)
        state = create_node_state(libdir / "gpusim.state", "gpu7", board, gpus, driver)
        return Machine(libdir, state, root)

    return make
