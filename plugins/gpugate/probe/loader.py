"""The loader's view of the driver's libraries: what a fresh process gets, and why it gets none."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProbeError
from ..evidence.facts import Gap
from ..evidence.types import Library
from .reading import Result, printable, record

LIBCUDA, LIBNVML = "libcuda.so.1", "libnvidia-ml.so.1"
_TIMEOUT_S = 60
# Where distributions, NVIDIA's installer and the container toolkit put the driver's libraries.
_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib64",
    "lib",
    "usr/local/nvidia/lib64",
)

# Runs in a process of its own: what another process has loaded or set does not reach it, nor does its crash reach us.
_CHILD = """
import ctypes, json, os, sys
name = sys.argv[1]
answer = {"error": None, "path": None, "cuda": None, "cuda_error": None}
try:
    library = ctypes.CDLL(name)
except OSError as error:
    answer["error"] = str(error)
else:
    stem = name.split(".so")[0] + ".so"
    with open("/proc/self/maps") as maps:
        paths = [line.split(None, 5)[5].strip() for line in maps if len(line.split(None, 5)) == 6]
    answer["path"] = next((p for p in paths if os.path.basename(p).startswith(stem)), None)
    if name.startswith("libcuda"):
        version = ctypes.c_int(0)
        try:
            code = library.cuDriverGetVersion(ctypes.byref(version))
            answer["cuda" if code == 0 else "cuda_error"] = version.value if code == 0 else code
        except AttributeError as error:
            answer["error"] = str(error)
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Loaded:
    """What one library's fresh process said."""

    library: Result[Library]
    cuda_version: Result[int]


def load(name: str) -> Loaded:
    """Have a fresh process load `name`, and for libcuda ask cuDriverGetVersion."""
    answer = _in_fresh_process(name)
    if answer["path"] is None:
        reason = answer["error"] or "it is loaded, but from no file that /proc/self/maps names"
        gap = Gap(printable(f"{name} cannot be loaded: {reason}{explain(name)}"))
        return Loaded(gap, gap)
    if isinstance(answer["cuda"], int):
        version: Result[int] = answer["cuda"]
    elif isinstance(answer["cuda_error"], int):
        code = answer["cuda_error"]
        version = Gap(f"cuDriverGetVersion answered CUresult {code}", code)
    else:
        version = Gap(printable(f"{name}: {answer['error'] or 'no version was asked of it'}"))
    return Loaded(_library(str(answer["path"])), version)


def folders_below(driver_root: Path) -> list[str]:
    """The usual library folders that exist below a driver container's root."""
    found = [str(driver_root / folder) for folder in _FOLDERS if (driver_root / folder).is_dir()]
    if not found:
        raise ProbeError(f"--driver-root {driver_root} holds none of the usual library folders ({', '.join(_FOLDERS)})")
    return found


def explain(name: str) -> str:
    """What is wrong with each file of this name that the loader passes by, as an addition to a sentence."""
    remarks = [f"{place} {fault}" for place in _candidates(name) for fault in [_fault(place)] if fault]
    if remarks:
        return printable(": " + "; ".join(remarks))
    return "" if next(_candidates(name), None) else f": there is no {name} in the loader's folders"


def _in_fresh_process(name: str) -> dict[str, object]:
    if not sys.executable:
        raise ProbeError("this Python does not know its own interpreter, so that no fresh process can be started")
    command = [sys.executable, "-I", "-c", _CHILD, name]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"a fresh process that loads {name} gave no answer within {_TIMEOUT_S} s") from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "backslashreplace").strip()[-300:]
        raise ProbeError(f"a fresh process that loads {name} ended with status {done.returncode}: {words}")
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def _library(path: str) -> Library:
    found = re.search(r"\.so\.(\d+\.[\d.]*\d)$", path)
    try:
        size: Result[int] = Path(path).stat().st_size
    except OSError as error:
        size = Gap(f"{path}: {os.strerror(error.errno or 0)}", error.errno)
    unnamed = Gap(printable(f"the file name {Path(path).name} says no version"))
    return record(Library, path=printable(path), version=found[1] if found else unnamed, size_bytes=size)


def _candidates(name: str) -> Iterator[Path]:
    """Files of this name where the loader looks: LD_LIBRARY_PATH, its cache, its usual folders."""
    folders = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    folders += [Path(place).parent for place in _cached(name)]
    folders += [Path("/") / folder for folder in _FOLDERS]
    seen = set()
    for folder in folders:
        place = folder / name
        if os.path.lexists(place) and os.path.realpath(place) not in seen:
            seen.add(os.path.realpath(place))
            yield place


def _cached(name: str) -> list[str]:
    for program in ("ldconfig", "/sbin/ldconfig"):
        try:
            done = subprocess.run(
                [program, "-p"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            continue  # a remark beside an error that is reported anyway
        lines = done.stdout.decode("utf-8", "backslashreplace").splitlines()
        return [line.rpartition(" => ")[2] for line in lines if line.strip().startswith(name + " ")]
    return []


def _fault(place: Path) -> str | None:
    """What keeps this file from being loaded here, if its first bytes or its absence tell."""
    try:
        with place.open("rb") as file:
            head = file.read(20)
    except FileNotFoundError:
        return f"is a link to nothing ({place.readlink()})"
    except OSError as error:
        return f"cannot be read: {os.strerror(error.errno or 0)}"
    if not head:
        return "is empty (0 bytes)"
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return "is no ELF library"
    machine, own = _machine(head), _machine(Path(sys.executable).read_bytes()[:20])
    if machine != own:
        return f"is built for another machine (ELF class and machine {machine}, this Python has {own})"
    return None


def _machine(head: bytes) -> tuple[int, int]:
    order = "<" if head[5] == 1 else ">"
    return head[4] * 32, struct.unpack_from(f"{order}H", head, 18)[0]
