"""A probe whose burning process is a double, for what a real one hardly ever does: `python faking.py ARGUMENTS`.

What the double does is in the environment (FAKE_BURNER); the keeper and everything else are the real ones, in
processes of their own, with short patience.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from gpugate.probe.burn import keeper
from gpugate.probe.cuda.fresh import receive, say

GPU = {
    "ended": "maximum",
    "reason": "the burn reached its maximum of 60 s",
    "seconds": 60,
    "samples": 600,
    "samples_per_s": 10.0,
    "threads_launched": 1024,
    "threads_completed": 1024,
    "mismatches": 0,
    "wrong": [],
    "rates": {"fma": 51.5, "f16": 800.25, "s8": 1600.5, "stream": 2500.0},
    "memory_test": {
        "free_bytes": 80 * 2**30,
        "tested_bytes": 78 * 2**30,
        "pieces": 1,
        "patterns": ["address", "random"],
        "mismatches": 0,
        "gb_per_s": {"unavailable": "no time was measured", "code": None},
    },
    "power_w": 690.5,
    "sm_mhz": 1755,
    "max_temperature_c": 66,
    "max_fan_percent": {"unavailable": "the card has no fan", "code": 3},
    "below_slowdown_c": {"value": 23.5, "low": 22.9, "high": 24.1, "tau_s": 30, "rms": 0.2},
    "memory_c": {"value": 71.0, "low": 70, "high": 72.0, "tau_s": 30.0, "rms": 0.2},
    "resistance_c_per_w": 0.05,
    "event_shares": {"sw_thermal": 0.0},
    "pcie_generation": 5,
    "pcie_width": 16,
    "pcie_replays_gained": 0,
    "nvlink_states": [1, 1],
    "ecc_corrected_gained": 0,
    "ecc_uncorrected_gained": 0,
    "rows_remapped_gained": 0,
}
WRONG = {
    "work": "s8", "sm": 17, "block": 17, "thread": 40, "launch": 3, "round": 2, "word": 5,
    "expected": 0xFF, "found": 0xF0,
}  # fmt: skip


def _live(uuids: list[str], seconds: float = 1.0) -> None:
    row = {
        "seconds": seconds, "phase": "mix", "temperature_c": 61.0, "below_slowdown_c": 29, "power_w": 688.4,
        "sm_mhz": 1755, "rate": "51.3 TFLOP/s", "mismatches": 0,
    }  # fmt: skip
    say({"live": {"gpus": [{**row, "index": index, "uuid": uuid} for index, uuid in enumerate(uuids)]}})


def _burn(uuids: list[str], **other: Any) -> None:
    say({"burn": {
        "work": "mix", "seconds": 60.0, "gpus": [{**GPU, "uuid": uuid, **other} for uuid in uuids],
        "samples": {"unavailable": "not stored", "code": 28}, "sampler_core_share": 0.004,
    }})  # fmt: skip


def _good(uuids: list[str]) -> None:
    for tenth in range(5):
        _live(uuids, 1 + tenth / 10)
        time.sleep(0.1)
    _burn(uuids)


def _wrong(uuids: list[str]) -> None:
    _live(uuids)
    _burn(uuids, mismatches=3, wrong=[WRONG], ended="aborted", reason="it calculated wrong")


def _endless(uuids: list[str]) -> None:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    while not stopped:
        _live(uuids)
        time.sleep(0.1)
    _burn(uuids, ended="aborted", reason="it was told to stop")


def _deaf(uuids: list[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        _live(uuids)
        time.sleep(0.1)


def _silent(uuids: list[str]) -> None:
    _live(uuids)
    time.sleep(1000)


def _garbage(uuids: list[str]) -> None:
    _live(uuids)
    print("a library that writes to standard output", flush=True)
    time.sleep(1000)


def _number(_: list[str]) -> None:
    say(42)
    time.sleep(1000)


def _half(uuids: list[str]) -> None:
    say({"burn": {"work": "mix", "seconds": 60.0, "gpus": [{"uuid": uuid} for uuid in uuids]}})


def _text(uuids: list[str]) -> None:
    _burn(uuids, power_w="@")


def _crash(uuids: list[str]) -> None:
    _live(uuids)
    os.kill(os.getpid(), signal.SIGSEGV)


def _status(_: list[str]) -> None:
    sys.exit("something broke")


def _gap(_: list[str]) -> None:
    say({"gap": "the burn did not start: CUDA does not see a GPU"})


def _nothing(_: list[str]) -> None:
    """It ends without a word."""


_DOUBLES: dict[str, Callable[[list[str]], None]] = {
    "good": _good, "wrong": _wrong, "endless": _endless, "deaf": _deaf, "silent": _silent, "garbage": _garbage,
    "number": _number, "half": _half, "text": _text, "crash": _crash, "status": _status, "gap": _gap,
    "nothing": _nothing,
}  # fmt: skip


def main() -> None:
    """As the keeper, or as the burning process: the first has a run's folder and its lock among its arguments."""
    if len(sys.argv) > 3:
        keeper._BURNER = "faking"
        keeper._SILENCE_S = keeper.STOP_S = keeper.LOOK_S = float(os.environ.get("FAKE_PATIENCE_S", "60"))
        keeper.main()
        return
    task = receive()
    _DOUBLES[os.environ["FAKE_BURNER"]](task["uuids"])


if __name__ == "__main__":
    from gpugate.probe.cli import main as probe

    keeper.__name__ = "faking"
    sys.exit(probe())
