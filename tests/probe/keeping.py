"""Burns on a simulated node by the real command line and the real keeper, each in processes of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from burning import REQUEST
from gpugate.evidence.request import BurnRequest
from gpugate.probe.burn import runs
from gpugate.probe.burn.runs import Run
from probing import DEADLINE_S, SOURCES, Machine

HERE = str(Path(__file__).parent)
# A burn that goes on until somebody ends it, by its deadline at the latest.
ENDLESS = dataclasses.replace(REQUEST, min_s=10000, max_s=10000, memory_share=0.0)


@dataclasses.dataclass
class Burning:
    """A simulated node on which burns are started, by the real command line and the real keeper."""

    machine: Machine
    started: list[subprocess.Popen[Any]] = dataclasses.field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.machine.root / "var/lib/gpugate"

    def command(self, burner: str = "") -> list[str]:
        """The probe on this node; with a `burner` its burning process is that double of `faking`."""
        if burner:
            program = [f"{HERE}/faking.py"]
        else:
            program = [str(self.machine.zipapp)] if self.machine.zipapp else ["-m", "gpugate.probe"]
        return [self.machine.python, *program, "--rootfs", str(self.machine.root)]

    def environment(self, burner: str = "") -> dict[str, str]:
        """What a process has to have to see this node."""
        packed = self.machine.zipapp is not None
        path = {} if packed else {"PYTHONPATH": f"{SOURCES}:{HERE}"}
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(self.machine.libdir),
            "FAKE_BURNER": burner,
            **path,
        }

    def start(self, *arguments: str, burner: str = "", **environment: str) -> subprocess.Popen[str]:
        """The probe with these arguments, under way."""
        process = subprocess.Popen(
            [*self.command(burner), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment(burner), **environment},
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, stdin: str = "", **how: str) -> tuple[int, str, str]:
        """Exit status, what it prints and what it says beside."""
        process = self.start(*arguments, **how)
        out, err = process.communicate(stdin, timeout=DEADLINE_S)
        return process.returncode, out, err

    def begin(self, request: BurnRequest = ENDLESS, **how: str) -> Run:
        """A detached burn whose GPUs have been heard of; nobody follows it."""
        code, out, err = self.run("burn", "start", "--request", "-", stdin=as_json(request), **how)
        assert code == 0, err
        run = Run(self.state_dir / "burns" / json.loads(out)["id"])
        await_(lambda: self.live(run).get("gpus") or not run.kept())
        assert run.state() == "burning", self.run("burn", "status", run.id)
        return run

    def live(self, run: Run) -> dict[str, Any]:
        return run.read("live") or {}

    def keeper(self, run: Run) -> int:
        """Its pid."""
        return int(self.live(run)["pid"])

    def burner(self, run: Run) -> int:
        """The pid of the process that burns."""
        keeper = self.keeper(run)
        return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])

    def only(self) -> Run:
        """The one run of this node, once it burns."""
        await_(lambda: any(self.live(run).get("gpus") for run in runs.runs(self.state_dir)))
        (run,) = runs.runs(self.state_dir)
        return run

    def over(self, run: Run) -> str:
        """How it ended: once its keeper has, no process of this node is left but those that the test holds."""
        await_(lambda: not run.kept())
        mine = {process.pid for process in self.started if process.poll() is None}
        await_(lambda: not self.processes() - mine)
        return run.state()

    def end(self) -> None:
        """End whatever a test has left."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.kill()
            process.communicate()

    def processes(self) -> set[int]:
        """Every process that has this node's driver."""
        return set(_with(str(self.machine.libdir)))


def await_(happens: Callable[[], object]) -> None:
    """Wait until it does."""
    give_up_at = time.monotonic() + DEADLINE_S / 2
    while not happens():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def _with(words: str) -> Iterator[int]:
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdecimal() and words.encode() in (place / "environ").read_bytes():
                yield int(place.name)  # a process that has ended and waits for its parent has no environment
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def as_json(request: BurnRequest) -> str:
    """A request as it is given to the probe."""
    return json.dumps(dataclasses.asdict(request))
