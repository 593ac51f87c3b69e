"""An answer of a node as on_node.py really sends it, and hosts to ask, for the tests of engines."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from gpugate.engine import on_node
from gpugate.engine.answers import Asked
from gpugate.evidence.codec import serialise
from gpugate.evidence.frame import pack
from gpugate.inventory import Target
from healthy import NONCE, healthy, policy

ON_NODE = Path(on_node.__file__)
ASKED = Asked(host="gpu0", node="gpu0", nonce=NONCE, profile="admission")


def document(host: str = "gpu0", nonce: str = NONCE) -> bytes:
    """A healthy host's document."""
    return serialise(replace(healthy(host), nonce=nonce))


def sent(
    command: str, node: str = "gpu0", request: str = "-", given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """What on_node.py prints on a node where a shell command stands for the probe."""
    return subprocess.run(
        [sys.executable, "-I", ON_NODE, request, "sh", "-c", command],
        input=given, capture_output=True, timeout=60, check=False, env={**os.environ, "SLURMD_NODENAME": node},
    )  # fmt: skip


def answer(tmp_path: Path, node: str = "gpu0", content: bytes | None = None) -> list[bytes]:
    """The lines of a node whose probe answers with a document."""
    frame = tmp_path / f"{node}.frame"
    frame.write_bytes(pack(document(node) if content is None else content))
    return sent(f"cat > /dev/null; cat {frame}", node).stdout.splitlines()


def target(name: str = "gpu0", **changes: object) -> Target:
    """A host of the inventory that fulfils the healthy policy."""
    return replace(Target(name=name, policy=policy(), become=False), **changes)  # type: ignore[arg-type]  # by name
