"""Make the PTX that the probe carries, out of burn.cu, with NVRTC of CUDA 11.8; or check that it is what burn.cu gives.

No card and no driver is needed, only the wheel nvidia-cuda-nvrtc-cu11 (`tox -e kernels` brings it). Each text states
the oldest PTX version and card that its instructions need, so that old drivers take it: the compiler itself writes 7.8,
which R520 is the first to know. That a text keeps to what it states is ptxas' to say: tests/kernels asks four of them.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import gzip
import hashlib
import re
import sys
from importlib import metadata
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "plugins/gpugate/probe/kernels"
SOURCE = KERNELS / "burn.cu"
WHEEL, RELEASE = "nvidia-cuda-nvrtc-cu11", (11, 8)
PTX_VERSIONS = {75: "6.5", 80: "7.0"}  # CUDA 10.2 (R440) and 11.0 (R450)


class BuildError(Exception):
    """The texts cannot be made; the sentence says why."""


class Compiler:
    """NVRTC, as far as one file of source needs it."""

    def __init__(self) -> None:
        try:
            files = metadata.files(WHEEL) or []
        except metadata.PackageNotFoundError as error:
            raise BuildError(f"{WHEEL} is not installed here: run this through `tox -e kernels`") from error
        paths = [Path(str(file.locate())) for file in files if ".so" in file.name or file.name.endswith(".dll")]
        library = next((path for path in paths if "builtins" not in path.name), None)
        if library is None:
            raise BuildError(f"the installed {WHEEL} holds no library")
        for path in sorted(paths, key=lambda path: "builtins" not in path.name):  # the library looks for its builtins
            loaded = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._nvrtc = loaded
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        if (major.value, minor.value) != RELEASE:
            raise BuildError(f"{library.name} is of CUDA {major.value}.{minor.value}, and 11.8 it must be")

    def compile(self, source: Path, architecture: int) -> str:
        """PTX for compute_ARCHITECTURE; BuildError with the compiler's own words, warnings too."""
        program = ctypes.c_void_p()
        options = [f"--gpu-architecture=compute_{architecture}", "--std=c++17"]
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
        )
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = self._nvrtc.nvrtcCompileProgram(program, len(options), given)
        said = self._text(program, "ProgramLog").strip()
        if status or said:
            raise BuildError(f"compute_{architecture}: {said or f'status {status}'}")
        return self._text(program, "PTX")

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, text)
        return text.value.decode("ascii")

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._nvrtc, name)(*arguments)
        if status:
            raise BuildError(f"{name} of {WHEEL} failed with status {status}")


def text_for(compiler: Compiler, architecture: int) -> str:
    """The text as the probe carries it: no compiler's comments, but what it needs and what it is made of."""
    made = compiler.compile(SOURCE, architecture)
    lines = [line.rstrip() for line in made.splitlines() if line.strip() and not line.lstrip().startswith("//")]
    body = "\n".join(lines)
    for directive, stated in ((".version", PTX_VERSIONS[architecture]), (".target", f"sm_{architecture}")):
        body, changed = re.subn(rf"^\{directive} .*$", f"{directive} {stated}", body, flags=re.MULTILINE)
        if changed != 1:
            raise BuildError(f"compute_{architecture}: the compiler wrote {changed} lines {directive} and not one")
    return f"// Made of burn.cu (sha256 {source_digest()}) by tools/build_kernels.py.\n{body}\n"


def source_digest() -> str:
    """What a text says it was made of."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def packed(architecture: int) -> Path:
    """Where the text for an architecture is kept."""
    return KERNELS / f"burn.sm_{architecture}.ptx.gz"


def difference(path: Path, made: str) -> str | None:
    """What is other in the file at `path`, or None where it holds exactly the text that was made."""
    try:
        kept = gzip.decompress(path.read_bytes()).decode("ascii")
    except (OSError, EOFError, ValueError) as error:
        return f"{path.name} cannot be read ({error}): run tools/build_kernels.py"
    if kept == made:
        return None
    lines = list(difflib.unified_diff(kept.splitlines(), made.splitlines(), "kept", "made", lineterm="", n=0))
    shown = "\n".join(lines[:20])
    return f"{path.name} is not what burn.cu gives: run tools/build_kernels.py and commit what it writes\n{shown}"


def main() -> int:
    """Write both texts, or compare them with what is kept; 1 where they differ or cannot be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the texts that are kept, write nothing")
    check = parser.parse_args().check
    try:
        compiler = Compiler()
        texts = {packed(architecture): text_for(compiler, architecture) for architecture in PTX_VERSIONS}
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    differences = [said for path, text in texts.items() if check and (said := difference(path, text))]
    for path, text in texts.items():
        if not check:
            path.write_bytes(gzip.compress(text.encode("ascii"), mtime=0))
            print(f"{path.name}: {len(text)} characters, {path.stat().st_size} bytes packed")
    print("\n".join(differences) or "the kept texts are what burn.cu gives" if check else "done")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
