"""NVIDIA's real NVML without a driver. Downloaded for the test, never kept; run where it can leave no device node."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gpugate.evidence.codec import parse
from probing import DEADLINE_S

PACKAGE = "libnvidia-ml1"
# A /dev of its own in a mount namespace: run as root, the library would leave /dev/nvidiactl behind.
ISOLATED = """
set -e
mount -t tmpfs none "$1"
for name in null zero urandom; do touch "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
mount --rbind "$1" /dev
shift
exec "$@"
"""


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.fixture
def real_library(tmp_path: Path) -> Path:
    """A root with the distribution's real NVML; a skip that says exactly what this machine lacks."""
    for program in ("apt-get", "dpkg", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"NVIDIA's real library was not tried: there is no {program} on this machine")
    if _run("unshare", "-rm", "true", cwd=tmp_path).returncode != 0:
        pytest.skip("NVIDIA's real library was not tried: no user and mount namespace can be made here (unshare -rm)")
    target = _run(
        *("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"),
        *("Created-By: Packages", "Component: main"),
        cwd=tmp_path,
    )
    if target.returncode != 0 or not target.stdout.strip():
        pytest.skip(f"NVIDIA's real library was not tried: apt knows no package source ({target.stderr.strip()})")
    (tmp_path / "sources.list").write_text(
        f"deb {target.stdout.splitlines()[0]} non-free\n"  # the machine's own mirror
    )
    for folder in ("lists/partial", "cache/archives/partial"):
        (tmp_path / folder).mkdir(parents=True)
    options = [
        f"Dir::State::lists={tmp_path}/lists",
        f"Dir::Cache={tmp_path}/cache",
        f"Dir::Etc::sourcelist={tmp_path}/sources.list",
        "Dir::Etc::sourceparts=-",
        "APT::Sandbox::User=",
    ]
    apt = ["apt-get", *(word for option in options for word in ("-o", option))]
    for command in (["update"], ["download", PACKAGE]):
        done = _run(*apt, *command, cwd=tmp_path)
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()[-1:]
            pytest.skip(f"NVIDIA's real library was not tried: apt-get {' '.join(command)} failed: {words}")
    package = next(tmp_path.glob(f"{PACKAGE}_*.deb"))
    assert _run("dpkg", "-x", package, tmp_path / "driver", cwd=tmp_path).returncode == 0
    return tmp_path / "driver"


def test_the_real_library_says_that_no_driver_is_loaded(real_library: Path, probe: Path, tmp_path: Path) -> None:
    """On a machine without the driver, NVIDIA's own NVML makes the list of GPUs a gap with code 9."""
    if Path("/sys/module/nvidia").exists():
        pytest.skip("NVIDIA's real library was not tried: this machine has the driver loaded")
    (tmp_path / "dev").mkdir()
    before = Path("/dev/nvidiactl").exists()
    command: list[str | Path] = [sys.executable, probe, "--json", "--driver-root", real_library]

    done = _run("unshare", "-rm", "sh", "-c", ISOLATED, "sh", tmp_path / "dev", *command, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    gap = parse(done.stdout.encode()).gap("gpus")
    assert gap is not None
    assert gap.code == 9
    assert "Driver Not Loaded" in gap.unavailable
    library = json.loads(done.stdout)["driver"]["nvml_library"]
    assert library["path"].startswith(str(real_library))
    assert library["size_bytes"] > 1_000_000
    assert Path("/dev/nvidiactl").exists() == before
