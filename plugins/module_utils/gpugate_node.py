"""What gpugate's modules share on the node: where its files lie, and how to ask the probe.

Runs on nodes: Python 3.9, standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROBES = "opt/gpugate/probe"
PROBE_FILE = "gpugate-probe.pyz"
STATE = "var/lib/gpugate"  # what burns leave
SETTINGS = "etc/gpugate/settings.json"
RESTORE = "etc/gpugate/restore.json"
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
