"""What sampling costs: a burn of a simulated eight-GPU node in real time, so that nothing is faster than it would be.

Prints the samples a second of each GPU, the processor time of all sampling over wall time, the burning process's whole
processor time over wall time, and the part of the time in which a launch ran: what is missing to 1 the host took away.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpusim.build import install_driver
from gpusim.state import create_node_state

SECONDS = "20"


def main() -> int:
    """Burn, and say what it cost; 1 where the burn was lost."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        install_driver(place / "lib", "580", build_dir=place / "build")
        create_node_state(place / "lib/gpusim.state", "bench", "H100-SXM5-80GB", 8, "580", time_scale=1)
        command = [sys.executable, "-m", "gpugate.probe", "burn", "--duration", SECONDS, "--no-memory", "--json"]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--state-dir", str(place / "state")],
            env={**os.environ, "LD_LIBRARY_PATH": str(place / "lib")},
            stdout=subprocess.PIPE,
            check=False,
        )
        wall = time.monotonic() - began
        if not done.stdout:
            return 1
        burn = json.loads(done.stdout)
        series = json.loads(gzip.decompress(Path(burn["samples"]["path"]).read_bytes()))["gpus"].values()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = min((one["busy_s"][-1] - one["busy_s"][20]) / (one["seconds"][-1] - one["seconds"][20]) for one in series)
    print(f"{min(gpu['samples_per_s'] for gpu in burn['gpus']):.1f} samples a second of each of 8 GPUs or more")
    print(f"{burn['sampler_core_share']:.2%} of a core for sampling")
    print(f"{(used.ru_utime + used.ru_stime) / wall:.1%} of a core for all of it: simulator, fits and start too")
    print(f"{loaded:.2%} of the time a launch ran, on the GPU that waited longest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
