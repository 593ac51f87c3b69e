"""What gpugate's modules share on the node: where its files lie, and how to ask the probe.

Runs on nodes: Python 3.9, standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

PROBES = "opt/gpugate/probe"
PROBE_FILE = "gpugate-probe.pyz"
STATE = "var/lib/gpugate"  # what burns leave
SETTINGS = "etc/gpugate/settings.json"
RESTORE = "etc/gpugate/restore.json"
SUDOERS = "etc/sudoers.d/gpugate"
PERSISTENCED = "nvidia-persistenced.service"
# systemd.unit(5), highest priority first
UNIT_FOLDERS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
DEADLINE_S = 300
_MAX_LINKS = 40  # as many as the kernel follows


class NodeError(Exception):
    """Something that the module cannot do on this node; `facts` go into its failed result."""

    def __init__(self, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.facts = facts


def services(root: str) -> dict[str, Any]:
    """What re-applies settings on this node: whether systemd booted it, and the persistence daemon's unit file."""
    candidates = (Path(root, folder, PERSISTENCED) for folder in UNIT_FOLDERS)
    systemd = Path(root, "run/systemd/system").is_dir()
    return {
        "python": sys.executable,
        "systemd": systemd,
        "persistenced_unit": next((str(path) for path in candidates if path.is_file()), None) if systemd else None,
    }


def sudo(root: str) -> dict[str, Any]:
    """What this node has for a line of sudo's, and who beside root could change what such a line would run."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    python3 = shutil.which("python3")
    probe = str(Path(root, PROBES, "current", PROBE_FILE))
    return {
        "python3": python3,
        "visudo": shutil.which("visudo", path=places),
        "folder": Path(root, SUDOERS).parent.is_dir(),
        "line": Path(root, SUDOERS).is_file(),
        "changeable": {place: changeable(place) for place in (sys.executable, python3, probe) if place},
    }


def changeable(place: str) -> list[str]:
    """Why others than root may change what this path leads to; empty where nobody else may.

    Whoever may write a folder may put another thing in its place, so each folder and link on the way counts. What is
    not there yet will be made by root.
    """
    found: list[str] = []
    pending, way, links = list(reversed(Path(place).parts[1:])), Path("/"), 0
    while links <= _MAX_LINKS:
        try:
            at = way.lstat()
        except OSError:
            return found
        sentence = f"{way} {_open_to(at)}"
        if _open_to(at) and sentence not in found:
            found.append(sentence)
        if stat.S_ISLNK(at.st_mode):
            links += 1
            target = Path(os.readlink(way))  # noqa: PTH115  # Python 3.9
            pending += [part for part in reversed(target.parts) if part != "/"]
            way = Path("/") if target.is_absolute() else way.parent
        elif pending:
            part = pending.pop()
            way = way.parent if part == ".." else way / part
        else:
            return found
    return [*found, f"{place} has too many symbolic links"]


def _open_to(at: os.stat_result) -> str:
    """Who else may change this; empty where nobody may."""
    sticky = stat.S_ISDIR(at.st_mode) and at.st_mode & stat.S_ISVTX  # others' files there stay others'
    if at.st_uid != 0:
        return f"belongs to user {at.st_uid}"
    if stat.S_ISLNK(at.st_mode) or sticky:
        return ""
    if at.st_mode & stat.S_IWOTH:
        return "can be written by everybody"
    return f"can be written by group {at.st_gid}" if at.st_mode & stat.S_IWGRP and at.st_gid != 0 else ""


def ask(probe: str, root: str, driver_root: str | None, *command: str, stdin: str | None = None) -> dict[str, Any]:
    """One JSON answer of the probe; NodeError with its own sentence, or with what it said instead of an answer."""
    if not Path(probe).is_file():
        raise NodeError(
            f"there is no probe at {probe}: run playbooks/provision.yml on this node first", probe_missing=True
        )
    argv = [sys.executable, probe, *command, "--rootfs", root]
    if driver_root is not None:
        argv += ["--driver-root", driver_root]
    try:
        done = subprocess.run(
            argv, input=stdin or "", capture_output=True, text=True, errors="replace", timeout=DEADLINE_S, check=False
        )
    except OSError as error:
        raise NodeError(f"{sys.executable} cannot run {probe}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NodeError(
            f"no answer from the probe to `{command[0]}` within {DEADLINE_S} s: the driver may hang, see the kernel log"
        ) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        raise NodeError(answer["error"])
    if done.returncode != 0 or not isinstance(answer, dict):
        said = (done.stderr.strip() or done.stdout.strip() or "nothing")[-2000:]
        raise NodeError(f"the probe ended with status {done.returncode} on `{command[0]}` and said: {said}")
    return answer
