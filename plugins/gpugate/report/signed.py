"""A signed report, read: nothing in it is looked at before the signature over its manifest holds, and then only the
bytes whose digests stand there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from ..errors import ReportError
from ..evidence.codec import RECEIPTS
from .manifest import MANIFEST, SIGNATURE, Manifest, agree, evidence_file, parse_manifest
from .manifest import MAX_BYTES as MANIFEST_MAX_BYTES
from .pieces import Pieces
from .reader import MAX_BYTES, Report, parse_report
from .signature import Signers

_SIGNATURE_MAX_BYTES = 1 << 16
_DOCUMENT_MAX_BYTES = 1 << 26  # the receipts of 10,000 hosts are some megabytes


def read_signed(path: Path, signers: Signers) -> Report:
    """The report in a file whose run one of `signers` signed; `signer` of it says who.

    Raises ReportError where anything of the run cannot be read, is unsigned, altered, missing or not its own.
    """
    try:
        with Pieces(path.parent) as pieces:
            return _read(pieces, path.name, signers)
    except OSError as error:
        told = f"{error.filename or path.name}: {error.strerror}"
        raise ReportError(f"{path} is refused: its run cannot be read whole ({told})") from error
    except ReportError as error:
        raise ReportError(f"{path} is refused: {error}") from error


def _read(pieces: Pieces, name: str, signers: Signers) -> Report:
    try:
        signature = pieces.read(SIGNATURE, _SIGNATURE_MAX_BYTES)
    except FileNotFoundError as error:
        raise ReportError(
            f"it is not signed (there is no {SIGNATURE} beside it), and gpugate_allowed_signers asks for that"
        ) from error
    signed = pieces.read(MANIFEST, MANIFEST_MAX_BYTES)
    signer = signers.signer_of(signed, signature)
    manifest = parse_manifest(signed)
    if name != manifest.junit.file:
        raise ReportError(f"the signed report of this run is {manifest.junit.file}")
    junit = pieces.read(name, MAX_BYTES)
    if hashlib.sha256(junit).hexdigest() != manifest.junit.sha256:
        raise ReportError("it is not the report that was signed: it was changed, or the signature is of another run")
    report = parse_report(junit)
    agree(report, manifest)
    _documents(pieces, report, manifest)
    return replace(report, signer=signer)


def _documents(pieces: Pieces, report: Report, manifest: Manifest) -> None:
    """Read every document again: what was judged has to be there, and to be what the report says it was."""
    judged = {host: digest for host, it in report.hosts.items() if (digest := it.identity.get("evidence_sha256"))}
    kept = {host: known.sha256 for host, known in manifest.evidence.items() if host != RECEIPTS or host in judged}
    if judged != kept:
        odd = sorted(host for host in judged.keys() | kept if judged.get(host) != kept.get(host))
        raise ReportError(f"{MANIFEST} and the report disagree about the evidence of {', '.join(odd[:4])}")
    for host, known in manifest.evidence.items():
        if known.file != evidence_file(host):
            raise ReportError(f"the evidence of {host} lies in {known.file!r}, which is not its place")
        try:
            document = pieces.read(known.file, _DOCUMENT_MAX_BYTES)
        except FileNotFoundError as error:
            raise ReportError(f"the evidence of {host} is gone ({known.file})") from error
        if hashlib.sha256(document).hexdigest() != known.sha256:
            raise ReportError(f"the evidence of {host} is not what was judged ({known.file} was changed)")
