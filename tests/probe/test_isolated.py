"""The one command that a controller sends: as root, by a user who may own the folder and the environment around it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from burning import SHORT
from gpugate.evidence.codec import parse
from gpugate.evidence.frame import unpack
from gpugate.evidence.request import ProbeRequest, WorkloadPattern
from probing import DEADLINE_S, SOURCES, Machine, interpreters, write

ASKED = ProbeRequest("n-1", "admission", burn=dataclasses.replace(SHORT, memory_share=0.0), allocate_bytes=1 << 20)
# Whatever the probe and its processes import first; in the wrong place it leaves a mark.
NAMES = ("json", "ctypes", "importlib", "pynvml", "gpugate", "sitecustomize", "usercustomize", "selectors")


def _traps(folder: Path) -> None:
    for name in NAMES:
        folder.joinpath(f"{name}.py").write_text(f"open({str(folder / 'trapped')!r}, 'a').write({name!r} + ' ')\n")


@pytest.mark.parametrize("python", list(interpreters()))
@pytest.mark.parametrize("own_driver", [False, True])
def test_no_process_imports_what_lies_about(
    machine: Callable[..., Machine], probe: Path, tmp_path: Path, python: str, own_driver: bool
) -> None:
    """With -I the probe and all processes that it starts, the burn's included, take no module from the folder that they
    are started in, from PYTHONPATH, or from a user's site; and they measure as without."""
    node = machine()
    node.state.set("time_scale", 40)
    home = tmp_path / "home"
    site = subprocess.run(
        [python, "-c", "import site; print(site.getusersitepackages())"],
        env={"HOME": str(home)}, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    for place in (home, Path(site.stdout.strip())):
        place.mkdir(parents=True)
        _traps(place)
    command = [python, "-I", str(probe), "collect", "--request", "-", "--rootfs", str(node.root)]
    hostile = {"PYTHONPATH": str(home), "PYTHONSTARTUP": str(home / "json.py"), "HOME": str(home)}
    libraries = {"LD_LIBRARY_PATH": str(node.libdir)}
    if own_driver:
        (tmp_path / "driver/usr").mkdir(parents=True)
        (tmp_path / "driver/usr/lib64").symlink_to(node.libdir)
        command += ["--driver-root", str(tmp_path / "driver")]
        libraries = {}
    done = subprocess.run(
        command, input=json.dumps(dataclasses.asdict(ASKED)).encode(), cwd=home, capture_output=True,
        env={"PATH": os.environ["PATH"], **libraries, **hostile}, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = parse(unpack(done.stdout))
    assert len(found.gpus) == len(found.launches) == len(found.allocations) == len(found.burn.gpus) == 2
    assert found.driver.libcuda.path.startswith(str(node.libdir))
    assert not list(tmp_path.rglob("trapped"))


def test_the_traps_would_be_seen(probe: Path, tmp_path: Path) -> None:
    """Without -I such a file is imported: the test above would see it."""
    _traps(tmp_path)
    command = [sys.executable, str(probe), "--version"]
    subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert (tmp_path / "trapped").exists()


_SHORT = "import sys; from gpugate.probe import cli; cli._REST_S = 0.5; sys.exit(cli.main(sys.argv[1:]))"


def test_a_probe_that_does_not_end_is_ended(machine: Callable[..., Machine]) -> None:
    """Whatever a request makes it do (here: a pattern that takes for ever), the kernel ends the probe once its time is
    over, though whoever asked is gone."""
    node = machine()
    write(node.root, {"proc/4711/cmdline": "a" * 60, "proc/4711/comm": "a"})
    endless = dataclasses.replace(ASKED, burn=None, deadline_s=2, workloads=[WorkloadPattern("a", "(a+)+b")])
    done = subprocess.run(
        [sys.executable, "-c", _SHORT, "collect", "--request", "-", "--rootfs", str(node.root)],
        input=json.dumps(dataclasses.asdict(endless)).encode(), capture_output=True, timeout=DEADLINE_S, check=False,
        env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(node.libdir), "PYTHONPATH": str(SOURCES)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGALRM, done.stderr.decode()
    assert done.stdout == b""


def test_a_request_without_end_is_refused(machine: Callable[..., Machine]) -> None:
    """Megabytes on standard input are not read into memory by root: status 2, and a sentence."""
    done = machine().run("collect", "--request", "-", stdin=" " * 300_000)
    assert done.returncode == 2
    assert "has more than 262144 bytes" in done.stderr.decode()
