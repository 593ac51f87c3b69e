"""The libraries as files: built once, exporting what the real driver exports, finding their own node."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pynvml
import pytest
from driver_node import MakeNode
from gpusim import build
from gpusim.errors import GpusimError
from gpusim.exports import DRIVERS


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        ("nvmlDeviceGetTemperatureV", {"535", "550"}),
        ("nvmlDeviceGetMarginTemperature", {"535", "550"}),
        ("nvmlDeviceGetRepairStatus", {"535", "550"}),
        ("nvmlDeviceGetGpuFabricInfoV", {"535"}),
        ("nvmlDeviceGetCurrentClocksEventReasons", set()),
        ("nvmlDeviceGetUnrepairableMemoryFlag_v1", {"535", "550", "580"}),
    ],
)
def test_a_driver_exports_what_its_branch_has(make_node: MakeNode, function: str, missing: set[str]) -> None:
    """A function of a later branch is not there at all: pynvml raises FunctionNotFound."""
    absent = set()
    for driver in DRIVERS:
        library = ctypes.CDLL(str(make_node(driver=driver, name=driver).libdir / "libnvidia-ml.so.1"))
        if not hasattr(library, function):
            absent.add(driver)
    assert absent == missing


def test_every_listed_function_is_there_and_nothing_else(make_node: MakeNode) -> None:
    """The library's symbols are exactly the branch's list; helpers stay inside."""
    library = ctypes.CDLL(str(make_node(driver="535").libdir / "libnvidia-ml.so.1"))
    names = DRIVERS["535"].nvml_functions()
    assert len(names) == 332
    assert [name for name in names if not hasattr(library, name)] == []
    assert not hasattr(library, "sim_lock")


def test_versions_are_in_the_names_of_the_files_and_in_the_answers(make_node: MakeNode) -> None:
    """`.so.1` links to a file with the full version, as a real driver's does."""
    node = make_node(driver="550")
    assert (node.libdir / "libnvidia-ml.so.1").readlink() == Path("libnvidia-ml.so.550.163.01")
    assert (node.libdir / "libcuda.so.1").readlink() == Path("libcuda.so.550.163.01")
    nvml = node.nvml()
    assert nvml.nvmlSystemGetDriverVersion() == "550.163.01"
    assert nvml.nvmlSystemGetCudaDriverVersion() == 12040


def test_a_library_finds_the_state_beside_its_name(make_node: MakeNode, tmp_path: Path) -> None:
    """Two folders that link to one library are two nodes: links are not resolved."""
    node = make_node(gpus=3)
    other = tmp_path / "other"
    other.mkdir()
    library = node.libdir / "libnvidia-ml.so.580.95.05"
    (other / "libnvidia-ml.so.1").symlink_to(library)
    program = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    assert node.python(program).stdout == "3\n"
    without = node.python(program, LD_LIBRARY_PATH=str(other))
    assert "Driver Not Loaded" in without.stderr


def test_a_library_is_built_once(tmp_path: Path, driver_build: Path, make_node: MakeNode) -> None:
    """A second node takes the built one; builders that race agree; nothing else is left in the folder."""
    make_node()
    before = sorted(driver_build.iterdir())
    fresh = tmp_path / "fresh"
    threads = [
        threading.Thread(target=build.install_driver, args=(tmp_path / f"n{i}", "580"), kwargs={"build_dir": fresh})
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    built = {path.name for path in fresh.iterdir()}
    assert len(built) == 3
    assert built <= {path.name for path in before}
    assert all((tmp_path / f"n{i}/libcuda.so.1").exists() for i in range(2))
    make_node(name="second")
    assert sorted(driver_build.iterdir()) == before


def test_a_node_may_break_its_own_library(make_node: MakeNode) -> None:
    """Emptying one node's file leaves the others alone."""
    broken, good = make_node(name="broken"), make_node(name="good")
    (broken.libdir / "libnvidia-ml.so.580.95.05").write_bytes(b"")
    program = "import pynvml; pynvml.nvmlInit(); print('up')"
    assert "NVMLError_LibraryNotFound" in broken.python(program).stderr
    assert good.python(program).stdout == "up\n"


@pytest.mark.parametrize("name", ["gcc", "clang", "zig"])
def test_it_builds_with_each_compiler(tmp_path: Path, make_node: MakeNode, name: str) -> None:
    """Without a warning, and what it built runs; zig writes its caches into the build folder too."""
    node = make_node()
    if name == "zig":
        pytest.importorskip("ziglang")
    elif not shutil.which(name):
        pytest.skip(f"{name} is not installed on this machine")
    command = build.zig_compiler() if name == "zig" else [name]
    home = tmp_path / "home"
    home.mkdir()
    build_dir = tmp_path / "build"
    program = (
        "import sys; from pathlib import Path; from gpusim import build\n"
        "build.install_driver(Path(sys.argv[1]), '580', build_dir=Path(sys.argv[2]), compiler=sys.argv[3:])"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(node.libdir), str(build_dir), *command],
        env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
        check=True,
    )
    assert list(home.iterdir()) == []
    gpu = node.gpu(1)
    assert pynvml.nvmlDeviceGetName(gpu) == "NVIDIA H100 80GB HBM3"
    assert node.cuda().number("cuDeviceGetCount") == 2


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names ziglang; with ziglang there, it is what builds."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(GpusimError, match="pip install ziglang"):
        build.find_compiler()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert build.find_compiler()[1:] == ["-m", "ziglang", "cc"]


def test_an_unknown_driver_is_refused(tmp_path: Path) -> None:
    """The error lists branches and versions."""
    with pytest.raises(GpusimError, match=r"unknown driver '470'; allowed: .*535"):
        build.install_driver(tmp_path, "470", build_dir=tmp_path)


def test_a_failed_build_shows_what_the_compiler_said(tmp_path: Path) -> None:
    """And leaves no library behind."""
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\necho 'no such flag' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(GpusimError, match="no such flag"):
        build.install_driver(tmp_path / "node", "580", build_dir=tmp_path / "build", compiler=[str(fake)])
    assert list((tmp_path / "build").iterdir()) == []
    assert not (tmp_path / "node").exists()
