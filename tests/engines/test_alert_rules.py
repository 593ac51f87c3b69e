"""The alert rules, as Prometheus itself reads them, and what they are about, as it reads that."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from gpugate.cli.metrics import exposition

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/gpugate.rules.yml"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def promtool(*arguments: str, given: bytes = b"") -> str:
    """What promtool says; it has to be content."""
    assert shutil.which("promtool"), "these tests ask Prometheus' own promtool: apt-get install prometheus"
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, check=False, timeout=120)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_the_rules_are_sound() -> None:
    """Prometheus takes every rule."""
    assert "8 rules found" in promtool("check", "rules", str(RULES))


def test_the_rules_fire_when_they_should() -> None:
    """A night without a complete run, a metric that is not there, suspect nodes and the rest call somebody; a night as
    it should be calls nobody."""
    assert "SUCCESS" in promtool("test", "rules", str(Path(__file__).with_name("alert_rules.yml")))


def test_what_is_written_is_what_prometheus_reads() -> None:
    """Prometheus' own linter of metrics has nothing to say about ours."""
    document = exposition(["gpu0"], {}, {}, {"nightly": {"gpu0": NOW}}, NOW)
    assert promtool("check", "metrics", given=document) == ""
