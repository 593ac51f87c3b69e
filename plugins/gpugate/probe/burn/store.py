"""A burn's time series, kept on the node as files named by what they hold; only the newest stay."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ...evidence.types import Samples
from .series import Series

KEPT = 20
MOST_SAMPLES = 2000  # a GPU: about 100 kB compressed for sixteen of them


def document(work: str, series: dict[str, Series]) -> dict[str, Any]:
    """Plain data of all GPUs' samples, by UUID, thinned out evenly where there are too many."""
    return {"work": work, "gpus": {uuid: _plain(one) for uuid, one in series.items()}}


def store(state_dir: Path, content: dict[str, Any]) -> Samples:
    """Write the samples under `state_dir`/samples and prune old ones; OSError where the disk refuses."""
    packed = gzip.compress(json.dumps(content, separators=(",", ":"), allow_nan=False).encode(), mtime=0)
    digest = hashlib.sha256(packed).hexdigest()
    folder = state_dir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}.json.gz"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    _prune(folder, path)
    return Samples(str(path), digest, len(packed))


def _plain(series: Series) -> dict[str, Any]:
    stride = -(-len(series.times) // MOST_SAMPLES) or 1
    plain: dict[str, Any] = {name: values[::stride] for name, values in series.values.items()}
    plain["seconds"] = [round(t, 4) for t in series.times[::stride]]
    plain["busy_s"] = [round(t, 4) for t in series.busy_s[::stride]]
    plain["unavailable"] = {name: gap.unavailable for name, gap in series.gaps.items()}
    return plain


def _prune(folder: Path, newest: Path) -> None:
    """Keep the newest files; the one just written stays whatever the clock says."""
    others = sorted((p for p in folder.glob("*.json.gz") if p != newest), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in others[KEPT - 1 :]:
        path.unlink(missing_ok=True)
