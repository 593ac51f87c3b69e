"""A driver that never answers, and a process that asks it and dies: the probe ends by itself and keeps what it has."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gpugate.evidence.codec import parse
from gpugate.evidence.frame import unpack
from gpugate.evidence.request import ProbeRequest
from probing import DEADLINE_S, QUIET, Machine

SOON = ProbeRequest(nonce="n-1", profile="nightly", launch=True, deadline_s=8)


def _stage(found: object, name: str) -> str:
    gap = found.gap(name)  # type: ignore[attr-defined]  # a record of evidence
    assert gap is not None, name
    return str(gap.unavailable)


def test_hanging_gpu_costs_its_facts_alone(machine: Callable[..., Machine]) -> None:
    """A call that never returns becomes a gap that names deadline and GPU; launches, log and host are told."""
    hung = machine()
    hung.state.apply("nvml_hang", gpu=1)
    found = hung.evidence(SOON)
    assert "no answer within 8 s" in _stage(found, "gpus")
    assert "reading GPU 1" in _stage(found, "gpus")
    assert [launch.correct for launch in found.launches] == [True, True]
    assert found.driver.gpu_count == 2
    assert found.kernel_log.complete is True
    assert found.host.hostname == "gpu7"


def test_hanging_start_is_a_gap_everywhere(machine: Callable[..., Machine]) -> None:
    """Where NVML does not even start, each of its facts says so, and the host is told."""
    hung = machine()
    hung.state.apply("nvml_init_hang")
    found = hung.evidence(dataclasses.replace(QUIET, deadline_s=2))
    for name in ("gpus", "launches", "allocations"):
        assert "opening NVML" in _stage(found, name)
    assert "opening NVML" in _stage(found.driver, "gpu_count")
    assert found.host.hostname == "gpu7"


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "signal 9 (SIGKILL)"), (signal.SIGSEGV, "SIGSEGV")])
def test_killed_while_it_asks(machine: Callable[..., Machine], number: int, words: str) -> None:
    """The out-of-memory killer, or a crash in the driver's library, costs what was not told yet, and is named."""
    hung = machine()
    hung.state.apply("nvml_init_hang")
    process = hung.start("collect", "--request", "-")
    assert process.stdin is not None
    process.stdin.write(json.dumps(dataclasses.asdict(QUIET)).encode())
    process.stdin.close()
    assert process.stderr is not None
    assert b"opening NVML" in process.stderr.readline()
    os.kill(_only_child(process.pid), number)
    process.stdin = None
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert words in _stage(parse(unpack(out)), "gpus")


def test_dies_with_its_parent(machine: Callable[..., Machine]) -> None:
    """Killing the probe leaves no process behind that asks the driver."""
    hung = machine()
    hung.state.apply("nvml_init_hang")
    process = hung.start("collect")
    assert process.stderr is not None
    assert b"opening NVML" in process.stderr.readline()
    child = _only_child(process.pid)
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    give_up_at = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{child}").exists() and ") Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
