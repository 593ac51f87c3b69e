"""Simulated nodes to burn: what opens the GPUs runs in a process that has the node's libraries."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpugate
from gpugate.evidence.request import BurnRequest
from gpusim.build import install_driver
from gpusim.state import NodeState, create_node_state

SAFETY_S = 120  # no test waits so long
_PACKAGES = str(Path(gpugate.__file__).parent.parent)
_BURN = """
import json, sys
from pathlib import Path
from gpugate.evidence.facts import to_json
from gpugate.evidence.request import BurnRequest
from gpugate.probe.burn import run_burn
request, state_dir = json.loads(sys.argv[1])
say = lambda line: print(line, file=sys.stderr, flush=True)
print(json.dumps(to_json(run_burn(BurnRequest(**request), Path(state_dir), say))))
"""
_LAUNCH = """
import json, sys
from gpugate.evidence.facts import to_json
from gpugate.probe.cuda.launch import known_answer_launches
uuids, step_s = json.loads(sys.argv[1])
print(json.dumps(to_json(known_answer_launches(uuids, step_s=step_s))))
"""
_ALLOCATE = """
import json, sys
from gpugate.evidence.facts import to_json
from gpugate.probe.cuda.allocate import allocations
uuids, asked, reserve, step_s = json.loads(sys.argv[1])
print(json.dumps(to_json(allocations(uuids, asked, reserve, step_s=step_s))))
"""

REQUEST = BurnRequest(min_s=20, max_s=60, headroom_c=5, abort_below_slowdown_c=0, deadline_s=60)
# For what has nothing to do with heat.
SHORT = dataclasses.replace(REQUEST, min_s=2, max_s=3)


@dataclass(frozen=True)
class Node:
    """A simulated node: its libraries, their state, and where its samples go."""

    libdir: Path
    state: NodeState
    state_dir: Path

    @classmethod
    def make(
        cls,
        place: Path,
        build_dir: Path,
        *,
        gpus: int = 2,
        board: str = "H100-SXM5-80GB",
        scale: float = 40,
        driver: str = "550",
    ) -> Node:
        """A healthy node whose time runs `scale` times as fast as the wall's."""
        libdir = place / "lib"
        install_driver(libdir, driver, build_dir=build_dir)
        state = create_node_state(libdir / "gpusim.state", "burns", board, gpus, driver, time_scale=scale)
        return cls(libdir, state, place / "state")

    def uuid(self, gpu: int) -> str:
        """The UUID of a GPU."""
        return str(self.state.get(f"gpu.{gpu}.uuid"))

    @property
    def uuids(self) -> list[str]:
        """All of them, in NVML's order."""
        return [self.uuid(gpu) for gpu in range(self.state.gpus)]

    def start(self, script: str, task: Any, **environment: str) -> subprocess.Popen[str]:
        """A process that has this node's driver."""
        return subprocess.Popen(
            [sys.executable, "-c", script, json.dumps(task)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": str(self.libdir), "PYTHONPATH": _PACKAGES, **environment},
        )

    def run(self, script: str, task: Any, **environment: str) -> tuple[Any, str]:
        """What such a process prints as JSON, and what it says beside."""
        process = self.start(script, task, **environment)
        out, err = process.communicate(timeout=SAFETY_S)
        assert process.returncode == 0, err
        return json.loads(out), err

    def burn(self, request: BurnRequest = REQUEST) -> Any:
        """The burn's evidence, or its gap, as plain data."""
        return self.run(_BURN, [dataclasses.asdict(request), str(self.state_dir)])[0]

    def launch(self, uuids: list[str], step_s: float = 30, **environment: str) -> Any:
        """The launches' evidence as plain data."""
        return self.run(_LAUNCH, [uuids, step_s], **environment)[0]

    def allocate(self, asked: int, reserve: int = 0, step_s: float = 30) -> Any:
        """The allocations' evidence as plain data."""
        return self.run(_ALLOCATE, [self.uuids, asked, reserve, step_s])[0]
