"""What the service manager (systemd) knows of two units: NVIDIA's persistence daemon and gpugate's own."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..errors import ProbeError
from ..evidence.facts import Gap
from ..evidence.types import BootUnit, PersistenceDaemon
from .node import Node
from .reading import Result, attempt, printable, record

PERSISTENCED = "nvidia-persistenced.service"
SETTINGS_UNIT, SETTINGS = "gpugate-settings.service", "etc/gpugate/settings.json"
# systemd.unit(5), highest priority first.
_FOLDERS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_NO_SYSTEMD = Gap("there is no systemd on this node")
_TIMEOUT_S = 20


def persistence_daemon(node: Node) -> PersistenceDaemon:
    return record(
        PersistenceDaemon,
        installed=_installed(node, PERSISTENCED),
        enabled=_enabled(node, PERSISTENCED),
        active=attempt("the persistence daemon's state", lambda: _active(node, PERSISTENCED)),
        command_line=attempt("the persistence daemon's unit", lambda: _exec_start(node, PERSISTENCED)),
    )


def boot_unit(node: Node) -> BootUnit:
    return record(
        BootUnit,
        installed=_installed(node, SETTINGS_UNIT),
        enabled=_enabled(node, SETTINGS_UNIT),
        settings_digest=attempt("settings", lambda: hashlib.sha256(node.path(SETTINGS).read_bytes()).hexdigest()),
    )


def _folders(node: Node) -> list[str]:
    return [folder for folder in _FOLDERS if node.path(folder).is_dir()]


def _installed(node: Node, unit: str) -> Result[bool]:
    """A node without systemd has no unit; a root without /etc is no node's, and says nothing."""
    return attempt(unit, lambda: _file(node, unit) is not None if node.path("etc").is_dir() else _NO_SYSTEMD)


def _enabled(node: Node, unit: str) -> Result[bool]:
    """Whether a target or another unit pulls it in at boot (a link in a .wants or .requires folder)."""

    def look() -> Result[bool]:
        if not _folders(node):
            return _NO_SYSTEMD
        if _file(node, unit) is None or _masked(node, unit):
            return False
        return any(
            place.name == unit
            for folder in _folders(node)
            for group in _listed(node.path(folder))
            if group.suffix in (".wants", ".requires") and group.is_dir()
            for place in _listed(group)
        )

    return attempt(unit, look)


def _active(node: Node, unit: str) -> Result[bool]:
    if not _folders(node):
        return _NO_SYSTEMD
    if not node.is_own:
        return Gap(f"the service manager cannot be asked from beside the node's root ({node.root})")
    if not node.path("run/systemd/system").is_dir():  # sd_booted(3)
        return Gap("systemd does not run here")
    command = ["systemctl", "is-active", unit]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Gap(f"systemctl gave no answer within {_TIMEOUT_S} s")
    state = done.stdout.strip()
    if not state:
        return Gap(printable(f"systemctl failed with status {done.returncode}: {done.stderr.strip()[-300:]}"))
    return state == "active"


def _file(node: Node, unit: str) -> Path | None:
    """The unit's file; the first folder that has it wins. A link to /dev/null masks the unit."""
    for folder in _FOLDERS:
        place = node.path(folder) / unit
        if place.is_symlink() or place.is_file():
            return place
    return None


def _masked(node: Node, unit: str) -> bool:
    place = _file(node, unit)
    return place is not None and place.is_symlink() and str(place.readlink()) == "/dev/null"


def _exec_start(node: Node, unit: str) -> Result[str]:
    """ExecStart of the unit and its drop-ins; an empty one takes back those before it (systemd.service(5))."""
    if not _folders(node):
        return _NO_SYSTEMD
    if _file(node, unit) is None:
        return Gap(f"{unit} is not installed")
    if _masked(node, unit):
        return Gap(f"{unit} is masked")
    commands: list[str] = []
    for inside in _sources(node, unit):
        section = ""
        for line in node.text(inside).replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line.partition("=")[0].strip() == "ExecStart":
                value = line.partition("=")[2].strip()
                commands = [*commands, value] if value else []
    if not commands:
        raise ProbeError(f"{unit} has no ExecStart")
    return printable("; ".join(commands))


def _sources(node: Node, unit: str) -> Iterator[str]:
    """The unit's file, then its drop-ins in the order of their names, each from the first folder that has it."""
    yield next(f"{f}/{unit}" for f in _FOLDERS if (node.path(f) / unit).is_symlink() or (node.path(f) / unit).exists())
    drop_ins: dict[str, str] = {}
    for folder in _FOLDERS:
        place = node.path(f"{folder}/{unit}.d")
        for file in _listed(place) if place.is_dir() else []:
            if file.suffix == ".conf":
                drop_ins.setdefault(file.name, f"{folder}/{unit}.d/{file.name}")
    for name in sorted(drop_ins):
        yield drop_ins[name]


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())
