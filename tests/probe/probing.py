"""The probe as a process of its own, started against the simulated driver."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpugate
from gpugate.evidence.codec import parse
from gpugate.evidence.frame import unpack
from gpugate.evidence.request import ProbeRequest
from gpugate.evidence.types import Evidence
from gpusim.state import NodeState

DEADLINE_S = 120  # a safety only
SOURCES = Path(gpugate.__file__).parent.parent
KERNEL = "6.8.0-71-generic"
QUIET = ProbeRequest(nonce="n-1", profile="quick", launch=False)


def write(root: Path, files: dict[str, str | bytes]) -> None:
    """Write files below a root; parents come with them."""
    for inside, content in files.items():
        place = root / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())


@dataclass(frozen=True)
class Machine:
    """A simulated node: its libraries, their state, its root, and who runs the probe there.

    `zipapp` is the packed probe; without it the probe runs from source, which starts in half the time.
    """

    libdir: Path
    state: NodeState
    root: Path
    zipapp: Path | None = None
    python: str = sys.executable
    root_user: bool = True

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run the probe in a clean environment with this node's libraries, as the node's root or not."""
        process = self.start(*arguments)
        out, err = process.communicate(stdin.encode(), timeout=DEADLINE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The same, under way."""
        environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(self.libdir)}
        if self.root_user:
            environment["GPUSIM_BECOME"] = "1"
        if self.zipapp is None:
            environment["PYTHONPATH"] = str(SOURCES)
        program = ["-m", "gpugate.probe"] if self.zipapp is None else [str(self.zipapp)]
        return subprocess.Popen(
            [self.python, *program, "--rootfs", str(self.root), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )

    def evidence(self, request: ProbeRequest = QUIET) -> Evidence:
        """What the probe answers to a request, as the controller reads it."""
        done = self.run("collect", "--request", "-", stdin=json.dumps(dataclasses.asdict(request)))
        assert done.returncode == 0, done.stderr.decode()
        return parse(unpack(done.stdout))

    def settings(self, *arguments: str, **wanted: Any) -> tuple[int, dict[str, Any]]:
        """Run `settings` with a request for an H100 node; exit status and answer."""
        request = {"device_id": "10de:2330", "gpu_count": 2, "persistence": True, "power_limit_w": 650.0, **wanted}
        done = self.run("settings", "--request", "-", *arguments, stdin=json.dumps(request))
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, answer


def interpreters() -> Iterator[str]:
    """The running Python, and each other that the probe supports and that works on this machine."""
    yield sys.executable
    own = f"python3.{sys.version_info[1]}"
    for name in ("python3.9", "python3.10", "python3.11", "python3.12", "python3.13"):
        found = shutil.which(name)
        if found and name != own and _works(found):
            # Itself, and not a version manager's shim, which needs that manager's own environment.
            yield subprocess.check_output([found, "-c", "import sys; print(sys.executable)"], text=True).strip()


def old_interpreters() -> list[str]:
    """Pythons on this machine that the probe is too new for."""
    names = ("python2.7", "python3.6", "python3.7", "python3.8")
    return [found for found in map(shutil.which, names) if found and _works(found)]


def _works(python: str) -> bool:
    # A version manager's shim is on PATH for versions that are not there.
    done = subprocess.run([python, "-c", "import ctypes"], capture_output=True, timeout=DEADLINE_S, check=False)
    return done.returncode == 0
