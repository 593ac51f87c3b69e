"""What makes a report one that can be trusted: the key that signs it, and the files that it was judged by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ..errors import ReportError, SigningError
from ..inventory import Target
from ..report import Signer, usable_signer
from .state import State

KEY = "gpugate_signing_key"
ENVIRONMENT = "GPUGATE_SIGNING_KEY"
_SENT = "gpugate_sources"


def add_options(parser: pytest.Parser) -> None:
    """The key as a setting of the project."""
    parser.addini(KEY, "absolute path of the private key that signs reports, or of the public one of a key in an agent",
                  default="")  # fmt: skip


def signer(config: pytest.Config, targets: Iterable[Target]) -> Signer | None:
    """Who signs this run: the environment's key, else the project's, else the inventory's; None where nobody does.

    Raises SigningError for a key that cannot be used, or must not be.
    """
    given = os.environ.get(ENVIRONMENT) or config.getini(KEY) or _of_inventory(targets)
    if not given:
        return None
    key = Path(os.path.expanduser(str(given)))  # noqa: PTH111  # Path's own raises for a user whom nobody knows
    if not key.is_absolute():
        raise SigningError(f"{KEY}: {given!r} is no absolute path")
    return usable_signer(key, config.rootpath)


def _of_inventory(targets: Iterable[Target]) -> str:
    found = {str(target.variables.get(KEY) or ""): target.name for target in targets}
    if len(found) > 1:
        told = ", ".join(f"{name}: {key or 'none'}" for key, name in found.items())
        raise SigningError(f"{KEY} differs from host to host ({told}), and a run has one signature")
    return next(iter(found), "")


def take_sources(config: pytest.Config, state: State) -> None:
    """Take down the digests of the files whose checks and fixtures were collected."""
    conftests = (getattr(plugin, "__file__", None) for plugin in config.pluginmanager.get_plugins())
    files = {*state.defined.values(), *(Path(file) for file in conftests if file and file.endswith("conftest.py"))}
    for path in files:
        state.sources[os.path.relpath(path, config.rootpath)] = hashlib.sha256(path.read_bytes()).hexdigest()


def send_sources(config: pytest.Config, state: State) -> None:
    """Let an xdist worker tell the controller, which collects nothing, what it collected."""
    config.workeroutput[_SENT] = state.sources  # type: ignore[attr-defined]  # xdist's


def receive_sources(state: State, output: dict[str, Any]) -> None:
    """Take in what a worker collected; raises ReportError where two of them had different files."""
    for name, digest in output.get(_SENT, {}).items():
        if state.sources.setdefault(name, digest) != digest:
            raise ReportError(f"{name} was changed while it was judged by: judge again")
