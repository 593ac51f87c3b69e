"""Making a node: its folders and the commands that it answers in its own way."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpusim.errors import GpusimError
from gpusim.fleet import commands
from gpusim.fleet.description import NodeDescription
from gpusim.node import Node
from gpusim.paths import FleetLayout, NodeLayout

COMMANDS = Path(__file__).parent / "bin"
REFUSED = ("halt", "insmod", "modprobe", "poweroff", "reboot", "rmmod", "shutdown")


def make(layout: FleetLayout, node: NodeDescription, time_scale: float) -> None:
    """Make a new node: nothing of an earlier one of this name may be left."""
    paths = layout.node(node.name)
    for folder in (paths.root, paths.home, paths.tmp):
        folder.mkdir(parents=True)
    _commands(paths)
    try:
        Node.make(paths, node, time_scale, layout.drivers)
    except GpusimError as error:
        raise GpusimError(f"{node.name}: {error}") from error


def _commands(paths: NodeLayout) -> None:
    shutil.copytree(COMMANDS, paths.bin)
    for name in REFUSED:
        (paths.bin / name).symlink_to("refused")
    (paths.bin / "python3").symlink_to(commands.python())
