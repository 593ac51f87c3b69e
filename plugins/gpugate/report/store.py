"""Where reports live: a folder a run, and an atomic link to the latest.

    reports/runs/<run id>/      junit.xml, run.json, run.json.sig where runs are signed, evidence/<host>.json
    reports/latest              -> runs/<run id> of the last whole run that was written completely
    reports/partial/<run id>/   the same for partial runs, with partial/latest

A run's folder gets its name only when everything in it is on disk, and the link is switched after that: who follows
the link never sees half a report. Runs at the same time have folders of their own; the last to end has the link.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import ReportError
from .junit import write_junit
from .manifest import MANIFEST, SIGNATURE, File, evidence_file, manifest_of
from .model import Run
from .signature import Signer

JUNIT, LATEST = "junit.xml", "latest"


_AT_ONCE = 16  # documents


class Store:
    """The reports below one folder, by default the project's `reports`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, run: Run, evidence: Mapping[str, bytes] | None = None, signer: Signer | None = None) -> Path:
        """Write a run with the evidence documents of its hosts, signed where there is a signer; the folder it is in.

        Raises ReportError, and leaves the link where it was, if anything of it cannot be written; SigningError, a
        kind of it, where it cannot be signed.
        """
        runs = self.root / "runs" if run.scope == "whole" else self.root / "partial"
        folder, unfinished = runs / run.run_id, runs / f".{run.run_id}"
        if folder.exists():
            raise ReportError(f"{folder} is there already: every run needs a run id of its own")
        try:
            (unfinished / "evidence").mkdir(parents=True)
            manifest = manifest_of(run, _junit(run, unfinished), _evidence(unfinished, evidence or {})).document()
            _write(unfinished / MANIFEST, manifest)
            if signer is not None:
                _write(unfinished / SIGNATURE, signer.sign(manifest))
            _sync(unfinished)
            unfinished.rename(folder)
            _sync(runs)
            _link(self.root / LATEST if run.scope == "whole" else runs / LATEST, folder)
        except ReportError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise ReportError(
                f"the report of run {run.run_id} cannot be written to {folder}: {error.strerror or error} "
                f"({error.filename}); make room there, or give the folder to this user"
            ) from error
        return folder


def _junit(run: Run, folder: Path) -> File:
    with (folder / JUNIT).open("wb") as file:
        stream = _Hashed(file)
        write_junit(run, cast(BinaryIO, stream))
        file.flush()
        os.fsync(file.fileno())
    return File(JUNIT, stream.digest.hexdigest(), stream.size)


def _evidence(folder: Path, evidence: Mapping[str, bytes]) -> dict[str, File]:
    def write(host: str) -> File:
        document, name = evidence[host], evidence_file(host)
        _write(folder / name, document)
        return File(name, hashlib.sha256(document).hexdigest(), len(document))

    hosts = sorted(evidence)
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # the disk is asked to keep many at once
        written = dict(zip(hosts, pool.map(write, hosts), strict=True))
    _sync(folder / "evidence")
    return written


class _Hashed:
    """A stream that knows the digest of what went through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.digest, self.size = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._stream.write(data)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(link: Path, folder: Path) -> None:
    fresh = link.with_name(f".{LATEST}-{folder.name}")
    fresh.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
    try:
        fresh.replace(link)
    except OSError:
        fresh.unlink()
        raise
    _sync(link.parent)
