"""Burn healthy simulated nodes over and over: not one of them may be found at fault.

    tox -e soak [-- --burns 200]

Boards, seeds, cooling, inlet and noise differ from burn to burn. A false alarm is a wrong word, an aborted or lost
burn, a fact that is missing though the card has it, or a prediction that a healthy card will run too hot. Exits 1 at
the first. Where the host cannot keep simulated GPUs busy at the scale that is asked for, that is rightly said of them,
and ends the soak too: take a smaller one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpugate.evidence.request import BurnRequest
from gpusim.boards import BOARDS
from gpusim.build import install_driver
from gpusim.state import create_node_state

NOT_SUPPORTED = 3  # nvmlReturn_t: this card does not have it
DRIVER = "580"  # has every board
REQUEST = BurnRequest(min_s=10, max_s=30, headroom_c=3, abort_below_slowdown_c=0, deadline_s=120)
MUST_BE_KNOWN = (
    "rates",
    "memory_test",
    "power_w",
    "sm_mhz",
    "max_temperature_c",
    "event_shares",
    "pcie_generation",
    "pcie_replays_gained",
    "ecc_corrected_gained",
    "ecc_uncorrected_gained",
    "rows_remapped_gained",
    "used_after_bytes",
)
_BURN = """
import json, sys
from pathlib import Path
from gpugate.evidence.facts import to_json
from gpugate.evidence.request import BurnRequest
from gpugate.probe.burn import run_burn
request, state_dir = json.loads(sys.argv[1])
print(json.dumps(to_json(run_burn(BurnRequest(**request), Path(state_dir), lambda line: None))))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--burns", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--at-once", type=int, default=2, help="how many at the same time (%(default)s)")
    parser.add_argument("--scale", type=float, default=12, help="simulated seconds in one of the wall's (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first burn; the others count on (%(default)s)")
    how = parser.parse_args()
    began, clean, settled, gpus = time.monotonic(), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="gpugate-soak-") as place, ThreadPoolExecutor(how.at_once) as pool:
        built = Path(place) / "driver"
        install_driver(built, DRIVER, build_dir=Path(place) / "build")
        seeds = range(how.seed, how.seed + how.burns)
        waiting = {pool.submit(one_burn, Path(place), built, seed, how.scale): seed for seed in seeds}
        for done in as_completed(waiting):
            board, burn = done.result()
            for alarm in alarms(burn):
                print(f"FALSE ALARM in burn {waiting[done]} ({board}): {alarm}")
                pool.shutdown(cancel_futures=True)
                return 1
            clean += 1
            gpus += len(burn["gpus"])
            settled += sum(gpu["ended"] == "settled" for gpu in burn["gpus"])
            if clean % 10 == 0:
                print(f"{clean:4} of {how.burns} burns clean, {time.monotonic() - began:.0f} s", flush=True)
    print(
        f"{clean} clean burns of {gpus} GPUs ({settled} settled, the others at their maximum) "
        f"without one false alarm in {time.monotonic() - began:.0f} s"
    )
    return 0


def one_burn(place: Path, built: Path, seed: int, scale: float) -> tuple[str, Any]:
    """The board and the evidence of a burn of a healthy node that only its seed determines."""
    dice = random.Random(seed)  # noqa: S311  # nothing here is secret
    board = dice.choice(sorted(BOARDS))
    with tempfile.TemporaryDirectory(dir=place) as folder:
        libdir, state_dir = Path(folder) / "lib", Path(folder) / "state"
        shutil.copytree(built, libdir, symlinks=True)
        gpus = dice.choice((1, 2, 4))
        node = create_node_state(libdir / "gpusim.state", "soak", board, gpus, DRIVER, time_scale=scale, seed=seed)
        for gpu in range(gpus):
            for key, factor in (
                ("thermal_resistance", dice.uniform(0.85, 1.05)),
                ("ambient_c", dice.uniform(0.8, 1.05)),
            ):
                node.set(f"gpu.{gpu}.{key}", float(str(node.get(f"gpu.{gpu}.{key}"))) * factor)
            node.set(f"gpu.{gpu}.sensor_noise_c", dice.uniform(0, 0.7))
            node.set(f"gpu.{gpu}.power_noise_w", dice.uniform(0, 15))
        done = subprocess.run(
            [sys.executable, "-c", _BURN, json.dumps([asdict(REQUEST), str(state_dir)])],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "LD_LIBRARY_PATH": str(libdir)},
        )
    return board, json.loads(done.stdout)


def alarms(burn: Any) -> Iterator[str]:
    """What this burn says against a healthy node."""
    if "gpus" not in burn:
        yield burn["unavailable"]
        return
    for gpu in burn["gpus"]:
        test, predicted = gpu["memory_test"], gpu["below_slowdown_c"]
        if gpu["ended"] == "aborted":
            yield f"{gpu['uuid']} was aborted: {gpu['reason']}"
        if gpu["mismatches"] != 0 or gpu["threads_completed"] != gpu["threads_launched"]:
            yield f"{gpu['uuid']} has {gpu['mismatches']} wrong words, {gpu['wrong']}"
        yield from (
            f"{gpu['uuid']} has no {name}: {gpu[name]['unavailable']}"
            for name in MUST_BE_KNOWN
            if isinstance(gpu[name], dict) and "unavailable" in gpu[name] and gpu[name]["code"] != NOT_SUPPORTED
        )
        if test.get("tested_bytes", 0) < REQUEST.memory_share * test.get("free_bytes", 0) or test.get("mismatches"):
            yield f"{gpu['uuid']}: memory test {test}"
        if gpu["ecc_uncorrected_gained"] or gpu["ecc_corrected_gained"] or gpu["pcie_replays_gained"]:
            yield f"{gpu['uuid']} gained errors"
        if "high" in predicted and predicted["high"] < REQUEST.headroom_c:
            yield f"{gpu['uuid']} is predicted too hot: {predicted}"


if __name__ == "__main__":
    sys.exit(main())
