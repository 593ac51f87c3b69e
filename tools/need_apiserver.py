"""Build a kube-apiserver from Debian's source package `kubernetes`, once, into ~/.cache/gpugate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpugate/kube-apiserver"
NEEDED = {"go": "golang-go", "etcd": "etcd-server", "make": "make", "gcc": "gcc", "rsync": "rsync",
          "dpkg-source": "dpkg-dev"}  # fmt: skip


def missing() -> str:
    """What this machine lacks, as a sentence; empty if nothing."""
    packages = [package for command, package in NEEDED.items() if not shutil.which(command)]
    return f"these Debian packages are missing: {' '.join(packages)}" if packages else ""


def build() -> Path:
    """The program, from the cache or built in a temporary folder; raises CalledProcessError."""
    if PROGRAM.exists():
        return PROGRAM
    with tempfile.TemporaryDirectory(prefix="gpugate-apiserver-") as name:
        folder = Path(name)
        source = _source(folder)
        places = {"GOPATH": str(folder / "go"), "GOCACHE": str(folder / "cache")}
        environment = os.environ | places | {"GO111MODULE": "off", "GOFLAGS": ""}
        subprocess.run(["nice", "-n", "10", "make", "WHAT=cmd/kube-apiserver"], cwd=source, env=environment, check=True)
        [made] = source.glob("_output/local/bin/*/*/kube-apiserver")
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        fresh = PROGRAM.with_suffix(f".{os.getpid()}")
        shutil.copy2(made, fresh)
        fresh.replace(PROGRAM)
    return PROGRAM


def _source(folder: Path) -> Path:
    """The unpacked sources, from wherever this machine's apt has its packages; its own lists stay as they are."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    sources = folder / "sources.list"
    sources.write_text("".join(f"deb-src {line}\n" for line in sorted(set(listed)) if line.endswith(" main")))
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=-",
           "-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}",
           "-o", "APT::Sandbox::User=root"]  # fmt: skip
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "source", "kubernetes"], cwd=folder, check=True)
    [source] = (path for path in folder.glob("kubernetes-*") if path.is_dir())
    return source


def main() -> int:
    """Build it if it is not there."""
    if told := missing():
        print(told, file=sys.stderr)
        return 1
    print(f"kube-apiserver: {build()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
