"""Kernel module, libraries and CUDA, each from its own source: that they agree is what the checks look at."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import subprocess
from pathlib import Path
from typing import IO, cast

from ..errors import ProbeError
from ..evidence.facts import Gap
from ..evidence.types import Driver
from . import loader, units
from .node import Node
from .reading import Result, attempt, printable, record

# `.modinfo` holds NUL-separated key=value records; the driver's versions are digits and dots.
_VERSION_RECORD = re.compile(rb"\0version=([0-9][0-9.]{2,30})\0")
_BLOCK, _OVERLAP = 1 << 20, 64
_TIMEOUT_S = 30


def driver(node: Node, nvml_version: Result[str], gpu_count: Result[int]) -> Driver:
    """The facts of the driver: these two, which NVML told, and those of files and of fresh processes."""
    ml = attempt(loader.LIBNVML, lambda: loader.load(loader.LIBNVML))
    cuda = attempt(loader.LIBCUDA, lambda: loader.load(loader.LIBCUDA))
    return record(
        Driver,
        module_version=attempt("kernel module", lambda: module_version(node)),
        module_flavour=attempt("kernel module", lambda: _flavour(node)),
        installed_module_version=attempt("installed kernel module", lambda: _installed_version(node)),
        nouveau_loaded=attempt("nouveau", lambda: _loaded(node, "nouveau")),
        nvml_library=ml if isinstance(ml, Gap) else ml.library,
        nvml_version=nvml_version,
        libcuda=cuda if isinstance(cuda, Gap) else cuda.library,
        cuda_version=cuda if isinstance(cuda, Gap) else cuda.cuda_version,
        gpu_count=gpu_count,
        persistence_daemon=units.persistence_daemon(node),
        boot_unit=units.boot_unit(node),
    )


def module_version(node: Node) -> Result[str]:
    """The running module's version."""
    try:
        return node.line("sys/module/nvidia/version")
    except FileNotFoundError:
        pass
    try:
        found = re.search(r"(?:Kernel Module|x86_64|aarch64)\s+(\d+\.[\d.]+)", _nvrm(node))
    except FileNotFoundError:
        return Gap("the kernel module nvidia is not loaded (neither /sys/module/nvidia nor /proc/driver/nvidia)")
    if not found:
        raise ProbeError(f"/proc/driver/nvidia/version names no version: {_nvrm(node)}")
    return found[1]


def _nvrm(node: Node) -> str:
    return node.line("proc/driver/nvidia/version")


def _flavour(node: Node) -> Result[str]:
    """open or proprietary: the open one says so, `NVIDIA UNIX Open Kernel Module for x86_64  580.65.06`."""
    try:
        words = _nvrm(node)
    except FileNotFoundError:
        return Gap("the kernel module nvidia is not loaded (no /proc/driver/nvidia)")
    if "Kernel Module" not in words:
        raise ProbeError(f"/proc/driver/nvidia/version is not as known: {words}")
    return "open" if "Open Kernel Module" in words else "proprietary"


def _loaded(node: Node, module: str) -> bool:
    if not node.path("sys/module").is_dir():
        raise ProbeError("there is no /sys/module to look into")
    return node.path(f"sys/module/{module}").exists()


def _installed_version(node: Node) -> Result[str]:
    """The version in the file that the next load of the module takes."""
    inside = _module_file(node)
    suffix = "." + inside.rpartition(".")[2]
    path = str(node.path(inside))
    if suffix == ".zst":  # no such decompressor in this Python's library
        return _modinfo(node, path)
    with _open(suffix, path) as stream:
        return _version_record(inside, stream)


def _open(suffix: str, path: str) -> IO[bytes]:
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return Path(path).open("rb")


def _module_file(node: Node) -> str:
    """As depmod decided for the running kernel; where it has not run, the only file of that name."""
    folder = f"lib/modules/{node.line('proc/sys/kernel/osrelease')}"
    name = re.compile(r"(?:^|/)nvidia\.ko(\.xz|\.gz|\.zst)?$")
    try:
        listed = [line.partition(":")[0] for line in node.text(f"{folder}/modules.dep").splitlines()]
        found = [f"{folder}/{path}" if not path.startswith("/") else path for path in listed if name.search(path)]
    except FileNotFoundError:
        top = node.path(folder)
        files = [os.path.relpath(os.path.join(at, f), top) for at, _, fs in os.walk(top) for f in fs]  # noqa: PTH118
        found = [f"{folder}/{path}" for path in files if name.search(path)]
    if len(found) != 1:
        several = f"several nvidia modules: {', '.join(sorted(found))}"
        raise ProbeError(f"/{folder} holds {several if found else 'no nvidia module'}")
    return found[0]


def _version_record(inside: str, stream: IO[bytes]) -> str:
    versions: set[bytes] = set()
    tail = b""
    for block in iter(lambda: stream.read(_BLOCK), b""):
        versions.update(_VERSION_RECORD.findall(tail + block))
        tail = block[-_OVERLAP:]
    if len(versions) != 1:
        raise ProbeError(f"/{inside} holds {len(versions)} version records, not one")
    return versions.pop().decode()


def _modinfo(node: Node, path: str) -> Result[str]:
    if not node.is_own:
        return Gap(f"{path} is compressed in a way that only the node's own modinfo reads")
    command = ["modinfo", "-F", "version", path]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    version = done.stdout.strip()
    if done.returncode or not version:
        raise ProbeError(f"modinfo failed with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return printable(version)
