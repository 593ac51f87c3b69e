"""The hosts that only answer, with which the bench measures the controller, and the worker that it measures with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from answering_fleet import answering_fleet

WORKER = Path(__file__).parents[2] / "tools" / "gather_worker.py"
HOSTS = 5


@pytest.mark.parametrize("what", [["gather", "quick"], ["true"]], ids=" ".join)
def test_every_answering_host_is_measured(tmp_path: Path, what: list[str]) -> None:
    """Evidence of every host is gathered, and `true` runs on each; the cost is told."""
    with answering_fleet(tmp_path, HOSTS) as inventory:
        done = subprocess.run(
            [sys.executable, WORKER, what[0], inventory, *what[1:]], env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["answered"] == HOSTS
    assert min(found[key] for key in ("seconds", "cpu_s", "rss_mb")) > 0
