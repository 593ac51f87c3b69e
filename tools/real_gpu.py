"""The probe on this machine's own GPUs: facts, known-answer launches, a burn-in. Reads and burns; changes no setting.

Builds the probe as provisioning does, asks it as a controller does, keeps the document in .gpugate/gpu/evidence.json,
and says what the burn showed on each GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from gpugate import zipapp
from gpugate.errors import Unavailable
from gpugate.evidence.codec import parse
from gpugate.evidence.facts import to_json
from gpugate.evidence.frame import unpack
from gpugate.evidence.request import BurnRequest, ProbeRequest

OWN = Path(__file__).resolve().parents[1] / ".gpugate" / "gpu"


def main() -> int:
    """Ask, keep, tell; 1 where the probe gave no document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-s", type=float, default=30.0)
    parser.add_argument("--max-s", type=float, default=180.0)
    seconds = parser.parse_args()
    OWN.mkdir(parents=True, exist_ok=True)
    probe = OWN / "gpugate-probe.pyz"
    zipapp.build(probe)
    burn = BurnRequest(seconds.min_s, seconds.max_s, headroom_c=5.0, abort_below_slowdown_c=0.0, deadline_s=400.0)
    request = json.dumps(asdict(ProbeRequest(nonce="real-gpu", profile="admission", burn=burn)))
    command = [sys.executable, str(probe), "collect", "--request", "-", "--state-dir", str(OWN)]
    done = subprocess.run(command, input=request.encode(), stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        return 1
    document = unpack(done.stdout)
    (OWN / "evidence.json").write_bytes(document)
    try:
        burnt = parse(document).burn
    except Unavailable as gap:
        print(gap)
    else:
        print(json.dumps(to_json(burnt), indent=1))
    print(f"the document: {OWN / 'evidence.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
