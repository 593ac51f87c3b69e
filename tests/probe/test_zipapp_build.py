"""The zipapp: the same bytes each time, everything in it, nothing more, and a clear word to an old Python."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gpugate import zipapp
from probing import DEADLINE_S, Machine, old_interpreters

TOO_OLD = "gpugate-probe needs Python 3.9 or newer"


def test_two_builds_are_byte_identical(tmp_path: Path) -> None:
    """The same sources give the same bytes at another time, under another name and umask."""
    first = zipapp.build(tmp_path / "a.pyz")
    umask = os.umask(0o077)
    try:
        second = zipapp.build(tmp_path / "b.pyz")
    finally:
        os.umask(umask)

    assert (tmp_path / "a.pyz").read_bytes() == (tmp_path / "b.pyz").read_bytes()
    assert first == second == hashlib.sha256((tmp_path / "a.pyz").read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pyz", "b.pyz"]


def test_it_holds_the_nodes_part_alone(probe: Path) -> None:
    """Controller code stays out, pynvml comes with its licence, and nothing is compressed."""
    with zipfile.ZipFile(probe) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        bindings = archive.read("pynvml.py")

    assert probe.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert names == sorted(names)
    assert "gpugate/evidence/codec.py" not in names
    assert {name.split("/")[1] for name in names if name.startswith("gpugate/")} == {
        "__init__.py",
        "errors.py",
        "evidence",
        "probe",
    }
    assert b"Redistribution and use in source and binary forms" in bindings
    assert {(entry.compress_type, entry.date_time) for entry in entries} == {
        (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
    }


def test_the_module_builds_from_the_command_line(tmp_path: Path) -> None:
    """`python -m gpugate.zipapp TARGET` writes the file and prints its digest."""
    target = tmp_path / "probe.pyz"
    command = [sys.executable, "-m", "gpugate.zipapp", str(target)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)

    assert done.stdout.strip() == hashlib.sha256(target.read_bytes()).hexdigest()


def test_the_probe_knows_its_own_digest(machine: Callable[..., Machine], probe: Path) -> None:
    """The document names the very file that measured."""
    node = replace(machine(), zipapp=probe)

    assert node.evidence().probe.digest == hashlib.sha256(probe.read_bytes()).hexdigest()


def test_from_source_there_is_no_digest(machine: Callable[..., Machine]) -> None:
    """A probe that is no single file has no digest to be allowed by."""
    gap = machine().evidence().probe.gap("digest")

    assert gap is not None
    assert "from source" in gap.unavailable


def test_the_zipapp_imports_nothing_beside_itself(probe: Path, tmp_path: Path) -> None:
    """With no site packages at all it still runs: standard library and its own content are enough."""
    command = [sys.executable, "-I", "-S", str(probe), "identity"]

    done = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=DEADLINE_S, check=False)

    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"machine_id", "boot_id", "hostname", "driver", "gpu_uuids"}


def test_help_says_the_exit_codes(probe: Path) -> None:
    """A person finds commands and exit codes in --help."""
    done = subprocess.run(
        [sys.executable, probe, "--help"], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )

    for words in ("exit codes:", "identity", "settings", "--rootfs", "--driver-root"):
        assert words in done.stdout


def test_the_first_file_is_readable_to_old_pythons(probe: Path) -> None:
    """`__main__.py` uses no syntax younger than the Pythons that it has to turn away."""
    with zipfile.ZipFile(probe) as archive:
        source = archive.read("__main__.py").decode("ascii")

    tree = ast.parse(source, feature_version=(3, 4))

    assert not [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr | ast.AnnAssign | ast.AsyncFunctionDef)]
    assert "__future__" not in source


@pytest.mark.parametrize("python", [None, *old_interpreters()])
def test_an_old_python_gets_one_sentence(probe: Path, python: str | None) -> None:
    """A Python below 3.9 (this one in disguise, and each found here) is refused with status 3, without a traceback."""
    disguised = (
        "import sys, zipfile; sys.version_info = (3, 6, 15, 'final', 0);"
        f"exec(zipfile.ZipFile({str(probe)!r}).read('__main__.py'), {{'__name__': '__main__'}})"
    )
    command = [python, str(probe), "identity"] if python else [sys.executable, "-c", disguised]

    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    assert done.returncode == 3
    assert done.stderr.startswith(TOO_OLD)
    assert done.stderr.count("\n") == 1


def test_bytecode_beside_it_is_used(machine: Callable[..., Machine], probe: Path, tmp_path: Path) -> None:
    """A probe that was compiled starts by its bytecode, measures the same, and still names its own file."""
    copy = _copy(probe, tmp_path)
    node = replace(machine(), zipapp=copy)
    before = node.evidence()
    [compiled] = _precompiled(copy)
    assert compiled.stat().st_mode & 0o777 == 0o644

    after = node.evidence()

    assert _started_from(copy) == str(compiled)
    assert after.probe == before.probe
    assert [gpu.uuid for gpu in after.gpus] == [gpu.uuid for gpu in before.gpus]


@pytest.mark.parametrize("trap", ["writable", "link", "other python"])
def test_bytecode_that_others_could_have_written_is_not(probe: Path, tmp_path: Path, trap: str) -> None:
    """A file that others may write, a link, and another Python's bytecode do not count: the source does."""
    copy = _copy(probe, tmp_path)
    [compiled] = _precompiled(copy)
    if trap == "writable":
        compiled.chmod(0o666)
    elif trap == "link":
        compiled.symlink_to(compiled.rename(tmp_path / "elsewhere"))
    else:
        compiled.rename(f"{copy}.cpython-27")

    assert _started_from(copy) == str(copy)


def test_another_owners_bytecode_is_not(probe: Path, tmp_path: Path) -> None:
    """In a folder where everybody may make files, nobody's but the owner's bytecode is run."""
    copy = _copy(probe, tmp_path)
    [compiled] = _precompiled(copy)
    os.chown(compiled, 65534, 65534)

    assert _started_from(copy) == str(copy)


def _copy(probe: Path, folder: Path) -> Path:
    copy = folder / "copy.pyz"
    copy.write_bytes(probe.read_bytes())
    return copy


def _precompiled(probe: Path) -> list[Path]:
    command = [sys.executable, "-I", str(probe), "precompile"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert json.loads(done.stdout) == {"bytecode": f"{probe}.{sys.implementation.cache_tag}"}
    return list(probe.parent.glob("copy.pyz.*"))


def _started_from(probe: Path) -> str:
    """Which of the two files the command line was imported from, as -v tells."""
    command = [sys.executable, "-I", "-v", str(probe), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True).stderr
    [place] = re.findall(r"^import 'gpugate\.probe\.cli' # <zipimporter object \"(.*)/gpugate/probe/\">$", said, re.M)
    return str(place)
