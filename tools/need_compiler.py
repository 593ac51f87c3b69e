"""Provide a C compiler for the simulated driver: the system's, else the one that PyPI's ziglang is."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

ZIGLANG = "ziglang>=0.13,<0.18"


def main() -> int:
    """Install ziglang into this environment where there is no other compiler; pip's exit status."""
    if any(map(shutil.which, ("cc", "gcc", "clang"))) or importlib.util.find_spec("ziglang"):
        return 0
    print("no C compiler here: installing ziglang into this environment", flush=True)
    return subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ZIGLANG], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
