"""The whole runs that lie in a reports folder, by their manifests: who was judged when, under which profile."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import get_args

from ..errors import ReportError
from ..policy import Profile
from .manifest import MANIFEST, Manifest, parse_manifest
from .model import RUN_ID

CLOCKS_AGREE = timedelta(minutes=1)


def judged(root: Path, hosts: Collection[str], now: datetime) -> dict[Profile, dict[str, datetime]]:
    """When each of the hosts was judged last in a whole run, by profile: the start of the run.

    A run in which no host at all was measured counts for nobody. Runs are looked at from the newest on, until every
    host is found under every profile. Raises ReportError for a run that cannot be read, is not what its manifest says,
    or was begun in the future.
    """
    found: dict[Profile, dict[str, datetime]] = {profile: {} for profile in get_args(Profile)}
    for folder in _newest_first(root):
        if all(len(times) == len(hosts) for times in found.values()):
            break
        manifest = _manifest(folder)
        times = found[manifest.profile]
        fresh = [host for host in manifest.hosts if host in hosts and host not in times]
        if fresh and any("measured_unix_s" in host.identity for host in manifest.hosts.values()):
            _there(folder, manifest)
            times.update(dict.fromkeys(fresh, _started(manifest, folder, now)))
    return found


def newest_with(root: Path, host: str) -> Path | None:
    """The folder of the newest whole run that has this host, of the last hundred; raises ReportError."""
    return next((folder for folder in islice(_newest_first(root), 100) if host in _manifest(folder).hosts), None)


def _newest_first(root: Path) -> Iterator[Path]:
    try:
        names = sorted((each.name for each in (root / "runs").iterdir() if RUN_ID.fullmatch(each.name)), reverse=True)
    except OSError as error:
        raise ReportError(f"no runs can be read in {root / 'runs'}: {error.strerror or error}") from error
    return (root / "runs" / name for name in names)


def _manifest(folder: Path) -> Manifest:
    try:
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
    except (OSError, ReportError) as error:
        raise ReportError(f"the run in {folder} cannot be read ({error}): move it out of there") from error
    if (manifest.run_id, manifest.scope) != (folder.name, "whole"):
        raise ReportError(f"{folder} holds the {manifest.scope} run {manifest.run_id}: move it out of there")
    return manifest


def _there(folder: Path, manifest: Manifest) -> None:
    """Raise ReportError where the report itself is not there as the manifest has it."""
    try:
        with (folder / manifest.junit.file).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReportError(f"the report of the run in {folder} cannot be read: {error.strerror or error}") from error
    if digest != manifest.junit.sha256:
        raise ReportError(f"the report in {folder} was changed since it was written: move the run out of there")


def _started(manifest: Manifest, folder: Path, now: datetime) -> datetime:
    try:
        started = datetime.fromisoformat(manifest.started).astimezone()
    except ValueError as error:
        raise ReportError(f"the run in {folder} began at {manifest.started!r}, which is no time") from error
    if started - now > CLOCKS_AGREE:
        raise ReportError(f"the run in {folder} began in the future ({started.isoformat()}): look at the clocks")
    return started
