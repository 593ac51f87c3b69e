"""The probe on this machine's own GPUs: facts, known-answer launches, burn-ins. Reads and burns; changes no setting.

Builds the probe as provisioning does and asks it as a controller does. Then each work burns alone and the mix after
them, which shows what draws the most; beside them stands what cuBLAS draws, where PyTorch is installed. At last the mix
burns until it has settled, and the steady state is compared with what the first part of it had predicted.
Everything that was told is kept in .gpugate/gpu/; `--quick` leaves out all but facts, launches and one burn.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpugate import zipapp
from gpugate.evidence.frame import unpack
from gpugate.evidence.request import WORKS, BurnRequest, ProbeRequest
from gpugate.probe.burn.fit import estimate

OWN = Path(__file__).resolve().parents[1] / ".gpugate" / "gpu"
PROBE = OWN / "gpugate-probe.pyz"
HEAD = f"{'work':10}{'W':>8}{'C':>8}{'rates':>4}"


def main() -> int:
    """Ask, burn, tell; 1 where the probe gave no document or a burn was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each work's burn (default %(default)s)")
    parser.add_argument("--settle", type=float, default=240.0, help="of the mix's last burn (default %(default)s)")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    OWN.mkdir(parents=True, exist_ok=True)
    zipapp.build(PROBE)
    document = collected()
    if document is None:
        return 1
    print(json.dumps(document["burn"], indent=1))
    if not options.quick:
        print(HEAD)
        for work in [*[work for work in WORKS if work != "memory"], "mix"]:
            if not show(work, burnt(work, options.seconds)):
                return 1
        beside_cublas(options.seconds)
        compared(burnt("mix", options.settle))
    print(f"what the probe told: {OWN}")
    return 0


def collected() -> dict[str, Any] | None:
    """The document of one admission's evidence, None where there was none."""
    burn = BurnRequest(30.0, 180.0, headroom_c=5.0, abort_below_slowdown_c=0.0, deadline_s=400.0)
    request = ProbeRequest(nonce="real-gpu", profile="admission", burn=burn, allocate_bytes=2**32, reserve_bytes=2**30)
    command = [sys.executable, str(PROBE), "collect", "--request", "-", "--state-dir", str(OWN)]
    done = subprocess.run(command, input=json.dumps(asdict(request)).encode(), stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        return None
    document = unpack(done.stdout)
    (OWN / "evidence.json").write_bytes(document)
    told: dict[str, Any] = json.loads(document)
    return told


def burnt(work: str, seconds: float) -> dict[str, Any] | None:
    """One burn as a person asks for it, as evidence; None where it was lost."""
    command = [sys.executable, str(PROBE), "burn", "--duration", str(seconds), "--work", work, "--no-memory", "--json"]
    done = subprocess.run([*command, "--state-dir", str(OWN)], stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        return None
    (OWN / f"burn-{work}-{seconds:g}.json").write_bytes(done.stdout)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def show(work: str, burn: dict[str, Any] | None) -> bool:
    """A line for each GPU; whether there was a burn."""
    for gpu in (burn or {}).get("gpus", []):
        print(f"{work:10}{said(gpu['power_w']):>8}{said(gpu['max_temperature_c']):>8}    {gpu['rates']}")
    return burn is not None


def said(value: Any) -> str:
    """A figure, or a question mark where there is a gap."""
    return "?" if isinstance(value, dict) else f"{value:.1f}"


def beside_cublas(seconds: float) -> None:
    """The same table for a product of two large random bf16 matrices, which is cuBLAS's, where PyTorch is here."""
    if importlib.util.find_spec("torch") is None:
        print("cuBLAS: PyTorch is not installed here, nothing to compare with")
        return
    script = Path(__file__).with_name("cublas_load.py")
    subprocess.run([sys.executable, str(script), str(seconds)], check=False)


def compared(burn: dict[str, Any] | None) -> None:
    """What a part of the samples predicts for the core, beside the mean of the last tenth."""
    if burn is None or "path" not in burn["samples"]:
        print("no samples: nothing to compare the prediction with")
        return
    for uuid, series in json.loads(gzip.decompress(Path(burn["samples"]["path"]).read_bytes()))["gpus"].items():
        points = list(zip(series["seconds"], series["temperature_c"], strict=False))
        steady = statistics.fmean(value for _, value in points[-len(points) // 10 :])
        for share in (0.1, 0.2, 0.33, 0.5):
            part = [(at, value) for at, value in points if 3.0 <= at <= share * points[-1][0]]
            print(f"{uuid}: after {part[-1][0]:.0f} s {estimate(part)}; it became {steady:.2f} C")


if __name__ == "__main__":
    sys.exit(main())
