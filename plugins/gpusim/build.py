"""Builds the two driver libraries with the machine's compiler, or with the one in the `ziglang` wheel.

Everything is written inside the build folder. A library is built once for each driver and state of the sources, in a
temporary folder that is renamed into place: builders may race, the first one wins.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

from . import layout
from .errors import GpusimError
from .exports import Driver, driver_named

DEFAULT_BUILD_DIR = Path(".gpusim/build")
_SOURCES = Path(__file__).parent / "driver"
_SHARED = ("sim.c", "model.c", "heat.c", "queue.c")
BECOME = "libgpusim-become.so"  # what a node's sudo preloads
_FLAGS = [
    *("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"),
    *("-Wl,--no-undefined", "-Wl,-z,now"),
]


def find_compiler() -> list[str]:
    """The command of a C compiler; GpusimError when the machine has none."""
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return [found]
    if util.find_spec("ziglang"):
        return zig_compiler()
    raise GpusimError("no C compiler (cc, gcc, clang) on PATH: install one, or `pip install ziglang`")


def zig_compiler() -> list[str]:
    """The compiler of the `ziglang` wheel."""
    return [sys.executable, "-m", "ziglang", "cc"]


def nvml_include_dir() -> Path:
    """The folder of NVIDIA's public nvml.h, from the wheel `nvidia-nvml-dev`."""
    try:
        listed = metadata.files("nvidia-nvml-dev") or []
    except metadata.PackageNotFoundError:
        listed = []
    for file in listed:
        if file.name == "nvml.h":
            return Path(str(file.locate())).parent
    raise GpusimError("NVIDIA's nvml.h is not installed: `pip install nvidia-nvml-dev`")


def install_driver(
    libdir: Path, driver: str, *, build_dir: Path = DEFAULT_BUILD_DIR, compiler: Sequence[str] | None = None
) -> None:
    """Put libnvidia-ml.so.1 and libcuda.so.1 of `driver` into `libdir`, as links to files that carry the full version.

    Beside them lies the library that a node's sudo preloads. The files are copies, so that a node may break its own.
    `<libdir>/gpusim.state` is what they will read.
    """
    chosen = driver_named(driver)
    built = {
        "libnvidia-ml.so": _nvml(chosen, build_dir, compiler),
        "libcuda.so": _cuda(build_dir, compiler),
    }
    libdir.mkdir(parents=True, exist_ok=True)
    for name, library in built.items():
        versioned = libdir / f"{name}.{chosen.version}"
        _place(library, versioned)
        fresh = libdir / f".{name}.{os.getpid()}"
        fresh.symlink_to(versioned.name)
        fresh.rename(libdir / f"{name}.1")
    _place(_become(build_dir, compiler), libdir / BECOME)


def _place(library: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(library, fresh)
    fresh.chmod(0o755)
    fresh.rename(target)


def _nvml(driver: Driver, build_dir: Path, compiler: Sequence[str] | None) -> Path:
    names = driver.nvml_functions()
    stubs = "extern int sim_unsupported(const char *);\n" + "".join(
        f"__attribute__((weak)) int {name}(void);\nint {name}(void) {{ return sim_unsupported(__func__); }}\n"
        for name in names
    )
    sources = [*_SHARED, *sorted(path.name for path in _SOURCES.glob("nvml_*.c"))]
    exports = "".join(f"{name};" for name in names)
    return _build("libnvidia-ml.so", sources, stubs, exports, [nvml_include_dir()], build_dir, compiler)


def _cuda(build_dir: Path, compiler: Sequence[str] | None) -> Path:
    sources = [*_SHARED, *sorted(path.name for path in _SOURCES.glob("cuda_*.c"))]
    return _build("libcuda.so", sources, "extern int none;\n", "cu*;", [], build_dir, compiler)


def _become(build_dir: Path, compiler: Sequence[str] | None) -> Path:
    return _build(BECOME, ["become.c"], "extern int none;\n", "getuid;geteuid;", [], build_dir, compiler)


def _build(
    library: str,
    sources: list[str],
    generated: str,
    exports: str,
    includes: list[Path],
    build_dir: Path,
    compiler: Sequence[str] | None,
) -> Path:
    command = [*(compiler or find_compiler())]
    inputs = {
        "layout.h": layout.c_header(),
        "generated.c": generated,
        "exports.map": f"{{ global: {exports} local: *; }};\n",
    }
    digest = hashlib.sha256(repr((library, command, _FLAGS, sorted(inputs.items()))).encode())
    for path in sorted(_SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for include in includes:
        digest.update((include / "nvml.h").read_bytes())
    finished = build_dir.resolve() / f"{library}-{digest.hexdigest()[:16]}"
    if (finished / library).exists():
        return finished / library
    build_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=build_dir) as temporary:
        work = Path(temporary).resolve()
        result = work / "result"
        result.mkdir()
        for name, text in inputs.items():
            (work / name).write_text(text, encoding="ascii")
        _compile(
            [
                *command,
                *_FLAGS,
                f"-Wl,-soname,{library}.1",
                f"-Wl,--version-script={work / 'exports.map'}",
                *(argument for include in [work, _SOURCES] for argument in ("-I", str(include))),
                *(argument for include in includes for argument in ("-isystem", str(include))),
                *(str(_SOURCES / name) for name in sources),
                str(work / "generated.c"),
                "-o",
                str(result / library),
                *("-lm", "-lpthread", "-ldl"),
            ],
            build_dir.resolve(),
        )
        try:
            result.rename(finished)
        except OSError:
            if not (finished / library).exists():  # else somebody else was faster
                raise
    return finished / library


def _compile(command: list[str], build_dir: Path) -> None:
    environment = {
        **os.environ,
        "TMPDIR": str(build_dir),
        "ZIG_GLOBAL_CACHE_DIR": str(build_dir / "zig-global"),
        "ZIG_LOCAL_CACHE_DIR": str(build_dir / "zig-local"),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GpusimError(f"{command[0]} could not build the simulated driver:\n{done.stderr.strip()[-4000:]}")
