"""How the texts come to the node: built reproducibly, checked against the source, carried by the zipapp."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from gpugate import zipapp
from gpugate.probe import kernels

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/build_kernels.py as a module."""
    spec = importlib.util.spec_from_file_location("build_kernels", ROOT / "tools/build_kernels.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("architecture", [75, 80])
def test_what_is_kept_is_told_from_what_is_not(tool: ModuleType, tmp_path: Path, architecture: int) -> None:
    """--check has nothing to say about the same text, and for another one a sentence with the lines that differ."""
    kept = tool.packed(architecture)
    text = gzip.decompress(kept.read_bytes()).decode()
    assert tool.difference(kept, text) is None

    said = tool.difference(kept, text.replace("fma.rn.f32", "add.rn.f32", 1))
    assert f"{kept.name} is not what burn.cu gives: run tools/build_kernels.py" in said
    assert "-\tfma.rn.f32" in said

    broken = tmp_path / kept.name
    broken.write_bytes(kept.read_bytes()[:1000])
    assert "cannot be read" in tool.difference(broken, text)


@pytest.mark.parametrize("architecture", [75, 80])
def test_nothing_of_the_builder_is_in_a_text(tool: ModuleType, architecture: int) -> None:
    """No time in the gzip header, and of comments only the one that names the source."""
    packed = tool.packed(architecture).read_bytes()
    assert packed[3] == 0  # no name, no comment
    assert packed[4:8] == bytes(4)
    comments = [line for line in gzip.decompress(packed).decode().splitlines() if "//" in line]
    assert len(comments) == 1
    assert tool.source_digest() in comments[0]


def test_the_zipapp_carries_the_texts_and_not_the_source(tmp_path: Path) -> None:
    """A node gets the two compressed texts and reads them out of the zipapp; it has no use for the source."""
    target = tmp_path / "probe.pyz"
    zipapp.build(target)
    with zipfile.ZipFile(target) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist() if "/kernels/burn" in name}
    assert names == {"burn.sm_75.ptx.gz", "burn.sm_80.ptx.gz"}

    program = (
        f"import sys, hashlib; sys.path.insert(0, {str(target)!r}); from gpugate.probe import kernels as k;"
        "print(k.__file__); print(hashlib.sha256(k.ptx((7, 5)) + k.ptx((12, 0)) + k.tables((9, 0))).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    file, digest = done.stdout.split()
    assert file.startswith(str(target))
    assert digest == hashlib.sha256(kernels.ptx((7, 5)) + kernels.ptx((12, 0)) + kernels.tables((9, 0))).hexdigest()


def test_a_probe_without_its_texts_says_so(tmp_path: Path) -> None:
    """Packed without them, it names the file and what to do, instead of burning nothing."""
    target = tmp_path / "probe.pyz"
    zipapp.build(target)
    poor = tmp_path / "poor.pyz"
    with zipfile.ZipFile(target) as archive, zipfile.ZipFile(poor, "w") as copy:
        for name in archive.namelist():
            if not name.endswith(".gz"):
                copy.writestr(name, archive.read(name))
    program = f"import sys; sys.path.insert(0, {str(poor)!r}); from gpugate.probe import kernels as k; k.ptx((9, 0))"

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 1
    assert "the probe was packed without its kernel burn.sm_80.ptx.gz: build the zipapp anew" in done.stderr
