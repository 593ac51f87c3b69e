"""A site's way of putting nodes into service: which back end, and what it needs. From options of the same names that
playbook and commands give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import AdmissionError
from ..report.reader import Report
from .audit import Audit
from .backends import AdmissionBackend
from .command import CommandHook
from .kubernetes import Kubernetes
from .kubernetes_api import Api
from .memory import Memory
from .scontrol import Scontrol
from .slurm import Slurm
from .state_file import StateFile


@dataclass(frozen=True, kw_only=True)
class Site:
    """How nodes are put into service here; docs/flow.md has the variable of each field, `gpugate_admission_...`.

    `state` is the state file; audit and, by default, the state store lie beside it.
    """

    backend: str
    state: Path
    command: tuple[str, ...] = ()
    timeout_s: float = 30.0
    kubeconfig: str = ""
    context: str = ""
    pool_taints: tuple[str, ...] = ("nvidia.com/gpu",)
    cordon: bool = False


@dataclass(frozen=True)
class Run:
    """Who decides by which report; `path` is where it lies.

    `node_names` has what Slurm or Kubernetes calls a host, where the inventory says so (`gpugate_node_name`).
    """

    by: str
    report: Report
    path: Path
    node_names: Mapping[str, str] = field(default_factory=dict)


def open_backend(site: Site, run: Run, memory: Memory) -> tuple[AdmissionBackend, Audit]:
    """The site's back end for one run, and its audit; raises AdmissionError where it cannot be used."""
    opening = _BACKENDS.get(site.backend)
    if opening is None:
        raise AdmissionError(
            f"gpugate_admission_backend: no back end is called {site.backend!r} (known: {', '.join(_BACKENDS)})"
        )
    return opening(site, run, memory), Audit(audit_path(site), run.report, run.by)


def audit_path(site: Site) -> Path:
    """Where the audit of this back end lies."""
    middle = "" if site.backend == "state_file" else f".{site.backend}"
    return site.state.with_name(f"{site.state.stem}{middle}.audit.jsonl")


def _state_file(site: Site, run: Run, _: Memory) -> AdmissionBackend:
    report = run.report
    return StateFile(site.state, audit_path(site), by=run.by, run_id=report.run_id, report_sha256=report.sha256)


def _command(site: Site, run: Run, _: Memory) -> AdmissionBackend:
    return CommandHook(site.command, run.path, site.timeout_s)


def _slurm(site: Site, run: Run, memory: Memory) -> AdmissionBackend:
    return Slurm(Scontrol(site.timeout_s), memory, run.report.run_id, run.node_names, site.state)


def _kubernetes(site: Site, run: Run, _: Memory) -> AdmissionBackend:
    api = Api(site.kubeconfig, site.context, site.timeout_s)
    return Kubernetes(api, run.report.run_id, run.node_names, pool_taints=site.pool_taints, cordon=site.cordon)


_BACKENDS: dict[str, Callable[[Site, Run, Memory], AdmissionBackend]] = {
    "state_file": _state_file,
    "command": _command,
    "slurm": _slurm,
    "kubernetes": _kubernetes,
}
