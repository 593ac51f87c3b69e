"""Fetch ptxas of several CUDA releases, which pip cannot install side by side, into .gpugate/ptxas/RELEASE/."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".gpugate/ptxas"
WHEELS = {
    "11.8": "nvidia-cuda-nvcc-cu11==11.8.*",
    "12.2": "nvidia-cuda-nvcc-cu12==12.2.*",
    "12.9": "nvidia-cuda-nvcc-cu12==12.9.*",
    "13.0": "nvidia-cuda-nvcc==13.0.*",
}


def fetch(release: str, wanted: str) -> Path:
    """The ptxas of a release, from the cache or out of its wheel; CalledProcessError when pip cannot bring that."""
    program = FOLDER / release / "ptxas"
    if program.exists():
        return program
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, wanted], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith("/bin/ptxas")]
            content = archive.read(member)
    program.parent.mkdir(parents=True, exist_ok=True)
    fresh = program.with_suffix(".fresh")
    fresh.write_bytes(content)
    fresh.chmod(0o755)
    fresh.replace(program)
    return program


def main() -> int:
    """Fetch all that are not there yet."""
    for release, wanted in WHEELS.items():
        print(f"ptxas of CUDA {release}: {fetch(release, wanted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
