"""Packs the probe into one file: the part of gpugate that runs on nodes, and pynvml. Same inputs, same bytes.

Nothing is compressed (zlib's output differs between builds of Python), names are sorted, times and modes fixed.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from .errors import ProbeError

SHEBANG = b"#!/usr/bin/env python3\n"
_PACKAGE = Path(__file__).parent
_BINDINGS = "nvidia-ml-py"
_ON_THE_CONTROLLER = {"evidence/codec.py"}
_SUFFIXES = {".py", ".gz"}
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can hold


def build(target: Path) -> str:
    """Write the zipapp to `target`, whole or not at all; its sha256 in hex. Raises ProbeError without nvidia-ml-py."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, content in sorted(_contents().items()):
                    _add(archive, name, content)
        fresh.chmod(0o755)
        digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return digest


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = 3  # Unix, wherever the controller runs
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, content)


def _contents() -> dict[str, bytes]:
    files = {f"gpugate/{path.relative_to(_PACKAGE).as_posix()}": path.read_bytes() for path in _sources()}
    files["__main__.py"] = files["gpugate/probe/__main__.py"]
    return {**files, **_bindings()}


def _sources() -> Iterator[Path]:
    yield _PACKAGE / "__init__.py"
    yield _PACKAGE / "errors.py"
    for part in ("evidence", "probe"):
        for path in (_PACKAGE / part).rglob("*"):
            if path.suffix in _SUFFIXES and path.relative_to(_PACKAGE).as_posix() not in _ON_THE_CONTROLLER:
                yield path


def _bindings() -> dict[str, bytes]:
    """pynvml.py, whose head is its licence, and the wheel's own notice of name, version and licence."""
    try:
        distribution = metadata.distribution(_BINDINGS)
    except metadata.PackageNotFoundError as error:
        raise ProbeError(f"{_BINDINGS} is not installed for {sys.executable}: the probe cannot be built") from error
    found = {}
    for file in distribution.files or []:
        if file.name == "pynvml.py":
            found["pynvml.py"] = Path(str(file.locate())).read_bytes()
        elif file.name == "METADATA" or "LICEN" in file.name.upper():
            found[f"{_BINDINGS}/{file.name}"] = Path(str(file.locate())).read_bytes()
    if b"Redistribution and use" not in found.get("pynvml.py", b""):
        raise ProbeError(f"the installed {_BINDINGS} has no pynvml.py that carries its licence: reinstall it")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m gpugate.zipapp TARGET")
    print(build(Path(sys.argv[1])))
