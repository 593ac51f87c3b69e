"""Bringing a fleet up and down."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from gpusim.errors import GpusimError
from gpusim.fleet import access, control, nodes, processes
from gpusim.fleet.description import FleetDescription
from gpusim.paths import FleetLayout


def up(description: FleetDescription, layout: FleetLayout, drivers: Path | None = None) -> bool:
    """Build the nodes and start serving them; False when exactly this fleet is up already.

    `drivers` is where built driver libraries are kept, for fleets that share them; by default the fleet keeps its own.

    :raises GpusimError: another fleet is up in this folder, the folder is not ours, an address is in use, ...
    """
    _claim(layout)
    with control.locked(layout) as lock:
        if lock is None:
            _same_or_error(description, layout)
            return False
        _addresses_free(description)
        _clear(layout)
        if drivers is not None and not layout.drivers.exists():
            drivers.mkdir(parents=True, exist_ok=True)
            layout.drivers.symlink_to(drivers.absolute())
        access.make_keys(layout, description)
        access.write_client_files(layout, description)
        layout.description.write_text(json.dumps(description.as_json(), indent=1) + "\n")
        for node in description.nodes:
            nodes.make(layout, node, description.time_scale)
        _start(layout, lock)
    return True


def down(layout: FleetLayout) -> bool:
    """End the server and everything that runs on its nodes; False when nothing was up. The folder stays."""
    was_up = control.is_up(layout)
    if was_up:
        control.end_server(layout)
    processes.end_all(_node_dirs(layout))
    layout.pid_file.unlink(missing_ok=True)
    return was_up


def _node_dirs(layout: FleetLayout) -> list[Path]:
    return list(layout.nodes.iterdir()) if layout.nodes.is_dir() else []


def _claim(layout: FleetLayout) -> None:
    """Take a new folder, or one that a fleet made; never one that holds something else."""
    layout.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = layout.dir / ".gitignore"
    if not layout.description.exists() and any(path.name not in (".gitignore", "pid") for path in layout.dir.iterdir()):
        raise GpusimError(
            f"{layout.dir} holds something that is not a simulated fleet: name an empty folder with --dir"
        )
    ignore.write_text("*\n")


def _same_or_error(description: FleetDescription, layout: FleetLayout) -> None:
    control.ask(layout, op="status")  # a lock without an answer is another `gpusim up` that has just begun
    if control.current(layout) != description:
        raise GpusimError(f"another fleet is up in {layout.dir}: end it first with `gpusim down`")


def _addresses_free(description: FleetDescription) -> None:
    for node in description.nodes:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((node.address, description.port))
                probe.listen(1)
            except OSError as error:
                cause = "in use, by another fleet perhaps" if error.errno == errno.EADDRINUSE else error.strerror
                raise GpusimError(
                    f"{node.name} cannot have {node.address} port {description.port}: {cause}. "
                    "Name another port or address in the fleet description"
                ) from error


def _clear(layout: FleetLayout) -> None:
    """Remove the nodes of the fleet before, and what a server that was killed left running on them."""
    processes.end_all(_node_dirs(layout))
    shutil.rmtree(layout.nodes, ignore_errors=True)
    layout.nodes.mkdir()


def _start(layout: FleetLayout, lock: int) -> None:
    reader, writer = os.pipe()
    source_root = Path(__file__).resolve().parents[2]
    with layout.log.open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "gpusim.fleet.server", "--dir", str(layout.dir), "--ready-fd", str(writer)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(writer, lock),
            env=os.environ | {"PYTHONPATH": str(source_root)}, cwd=layout.dir,
        )  # fmt: skip
    os.close(writer)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{server.pid}\n".encode(), 0)
    with os.fdopen(reader) as answer:
        said = answer.read()
    if said != "ready\n":
        server.wait()
        raise GpusimError(f"the server of the fleet did not start: {said.strip() or 'see ' + str(layout.log)}")
    server.returncode = 0  # it lives on by itself
