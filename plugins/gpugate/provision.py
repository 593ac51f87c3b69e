"""What Ansible's action plugins need on the controller: a host's policy, and the probe as one file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import ProbeError
from .policy import Policy, policy_from_variables
from .policy.resolve import PREFIX

FILE = "gpugate-probe.pyz"


def host_policy(host: str, variables: Mapping[str, Any], template: Callable[[Any], Any]) -> Policy:
    """The policy of one host from its raw variables, of which only ours are templated; raises PolicyError."""
    return policy_from_variables(host, {name: template(variables[name]) for name in variables if name.startswith(PREFIX)})


def probe_file(cache: Path) -> tuple[Path, str]:
    """The probe of this checkout and its sha256 (hex), built when `cache` has none of these sources yet.

    Safe to call from many processes at once: one builds, the others wait for it. Raises ProbeError.
    """
    cache.mkdir(parents=True, exist_ok=True)
    built = cache / _key() / FILE
    with (cache / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.is_file():
            _build(built)
    return built, hashlib.sha256(built.read_bytes()).hexdigest()


def with_probe(action: Any, file: Path, run: Callable[[str | None], Any]) -> dict[str, Any]:
    """`run(None)`; where the node answers that it lacks the probe, `run(path)` with `file` carried to that path.

    `action` is the Ansible action plugin whose task's temporary folder takes the file.
    """
    result = run(None)
    if result.get("probe_missing"):
        folder = action._make_tmp_path()
        try:
            path = action._connection._shell.join_path(folder, FILE)
            action._transfer_file(str(file), path)
            action._fixup_perms2((folder, path))
            result = run(path)
        finally:
            action._remove_tmp_path(folder)
    return dict(result)


def _build(built: Path) -> None:
    from .zipapp import build

    others = [path for path in built.parent.parent.iterdir() if path.is_dir()]
    for old in sorted(others, key=lambda path: path.stat().st_mtime_ns)[:-1]:  # another run may still copy the newest
        shutil.rmtree(old)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=built.parent.parent))
    digest = build(fresh / FILE)
    if hashlib.sha256((fresh / FILE).read_bytes()).hexdigest() != digest:
        raise ProbeError(f"{fresh / FILE} is not what was built: its sha256 is not {digest}; run again")
    os.rename(fresh, built.parent)  # noqa: PTH104  # one step, in the manner of rename(2)


def _key() -> str:
    """sha256 (hex) over the sources that may go into the probe, by name and content."""
    package = Path(__file__).parent
    sources = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    bindings = find_spec("pynvml")
    if bindings is None or bindings.origin is None:
        raise ProbeError("nvidia-ml-py is not installed for the Python that runs Ansible, so there is no probe to build")
    total = hashlib.sha256()
    for path in [*sorted(sources), Path(bindings.origin)]:
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()
