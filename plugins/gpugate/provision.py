"""What Ansible's action plugins need on the controller: a host's policy, and the probe as one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .policy import Policy, policy_from_variables
from .policy.resolve import PREFIX
from .zipapp import build

FILE = "gpugate-probe.pyz"


def host_policy(host: str, variables: Mapping[str, Any], template: Callable[[Any], Any]) -> Policy:
    """The policy of one host from its raw variables, of which only ours are templated; raises PolicyError."""
    ours = [name for name in variables if name.startswith(PREFIX)]
    return policy_from_variables(host, {name: template(variables[name]) for name in ours})


def probe_file(folder: Path) -> tuple[Path, str]:
    """Build the probe of this checkout into `folder`: the file, and its sha256 (hex). Raises ProbeError.

    Takes milliseconds and gives the same bytes each time, so that every task of every fork may just do it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return folder / FILE, build(folder / FILE)


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
