"""The probe's bytecode, beside its one file: without it Python compiles half a megabyte of source at every start, which
takes longer than all that a quick look at a node measures.

`gpugate-probe.pyz.cpython-311` holds what CPython 3.11 made of `gpugate-probe.pyz`; other Pythons go by the source, or
have a file of their own. It counts only where nobody but the owner of the probe could have written it.
"""

from __future__ import annotations

import os
import py_compile
import sys
import tempfile
import zipfile
from pathlib import Path

from ..errors import ProbeError
from . import build


def write() -> Path:
    """Compile the probe for this Python; the file. Raises ProbeError where that cannot be, as from source."""
    archive = build.archive()
    if archive is None:
        raise ProbeError("the probe runs from source: there is nothing to compile")
    target = Path(f"{archive}.{sys.implementation.cache_tag}")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as compiled:
            for name in source.namelist():
                if name.endswith(".py"):
                    compiled.writestr(f"{name}c", _compiled(source.read(name), f"{archive}/{name}"))
                else:
                    compiled.writestr(name, source.read(name))  # modules look for their data beside themselves
        fresh.chmod(0o644)
        fresh.replace(target)
    except (OSError, zipfile.BadZipFile, py_compile.PyCompileError) as error:
        raise ProbeError(f"{target} cannot be written: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return target


def _compiled(source: bytes, name: str) -> bytes:
    """A .pyc that counts whatever the time of its source: the file that it lies beside is named by its digest."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "module.py")
        place.write_bytes(source)
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        made = py_compile.compile(
            str(place), str(Path(folder, "module.pyc")), name, doraise=True, invalidation_mode=mode
        )
        return Path(str(made)).read_bytes()
