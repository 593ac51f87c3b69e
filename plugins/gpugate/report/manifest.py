"""`run.json`, the manifest of a run: what it holds, with digests. Its signature is the signature of the whole run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from urllib.parse import quote

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import ReportError
from ..policy import Profile
from .basis import Basis, matrix_digest
from .model import Run, Scope
from .reader import Report
from .text import natural, one_line

MANIFEST = "run.json"
SIGNATURE = "run.json.sig"
SCHEMA = 2
MAX_BYTES = 1 << 26
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class File:
    """A file of the run: its name below the run's folder, its sha256 (hex) and its size."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Host:
    """One host: whether it is green, and which node, boot, GPUs and policy its verdicts are about, as in the report."""

    green: bool
    identity: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """One run. `basis` is None where nobody said what it was judged by; `evidence` is by host, and `gathered` beside
    them the receipts."""

    __pydantic_config__ = _STRICT

    schema: int
    run_id: str
    started: str
    profile: Profile
    scope: Scope
    partial_because: str
    green: bool
    counts: dict[str, int]
    hosts: dict[str, Host]
    basis: Basis | None
    junit: File
    evidence: dict[str, File]

    def document(self) -> bytes:
        """The manifest as it is written, and signed."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


_MANIFEST = TypeAdapter(Manifest)


def evidence_file(host: str) -> str:
    """Where a host's document lies below the run's folder; a host's name never leads out of it."""
    return f"evidence/{quote(host, safe='')}.json"


def manifest_of(run: Run, junit: File, evidence: dict[str, File]) -> Manifest:
    """The manifest of a run whose files are written."""
    hosts = sorted(run.hosts, key=lambda host: (natural(host.host), host.host))
    return Manifest(
        schema=SCHEMA,
        run_id=run.run_id,
        started=run.started.isoformat(),
        profile=run.profile,
        scope=run.scope,
        partial_because=one_line(run.partial_because),
        green=run.green,
        counts=run.counts,
        hosts={one_line(each.host): Host(each.green, {k: one_line(v) for k, v in each.identity.items()})
               for each in hosts},
        basis=run.basis,
        junit=junit,
        evidence=evidence,
    )  # fmt: skip


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in `data`; raises ReportError naming what is wrong."""
    try:
        known = _MANIFEST.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ReportError(
            f"{MANIFEST} is no manifest ({'.'.join(map(str, first['loc'])) or 'the whole of it'}: {first['msg']})"
        ) from error
    if known.schema != SCHEMA:
        raise ReportError(f"{MANIFEST} has the schema {known.schema}; this gate reads {SCHEMA}")
    return known


def agree(report: Report, manifest: Manifest) -> None:
    """Raise ReportError where report and manifest do not tell the same of the run, its hosts and its matrix."""
    told = {
        "run id": (manifest.run_id, report.run_id),
        "start": (manifest.started, report.started.isoformat()),
        "profile": (manifest.profile, report.profile),
        "scope": (manifest.scope, report.scope),
        "reason for being partial": (manifest.partial_because, report.partial_because),
        "hosts": (sorted(manifest.hosts), sorted(report.hosts)),
    }
    for what, (manifests, reports) in told.items():
        if manifests != reports:
            raise ReportError(f"{MANIFEST} and the report disagree about the {what}: {manifests!r}, {reports!r}"[:500])
    for host, known in report.hosts.items():
        if manifest.hosts[host].identity != known.identity:
            raise ReportError(f"{MANIFEST} and the report disagree about the identity of {host}")
    if manifest.basis is None:
        raise ReportError(f"{MANIFEST} does not say by which checks, matrix and waivers it was judged")
    matrix = matrix_digest({host: known.cells for host, known in report.hosts.items()})
    if report.scope == "whole" and matrix != manifest.basis.expected_sha256:
        raise ReportError("it does not hold the cells that were expected when the run was made")
