"""The audit: every decision and what became of it, as JSON lines that are only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from ..errors import AdmissionError
from ..report.reader import Report
from . import files
from .decision import Decision


class Audit:
    """One file of JSON lines. Every line has the time, the user, the run id and the sha256 of the report."""

    def __init__(self, path: Path, report: Report, by: str) -> None:
        self.path = path
        self._about = {"by": by, "run_id": report.run_id, "report_sha256": report.sha256}

    def decided(self, decisions: Iterable[Decision]) -> None:
        """Write decisions down before they are carried out, with their reasons; raises AdmissionError."""
        self._append(
            {
                "event": "decided",
                "host": each.host,
                "action": each.action.value,
                "would": each.would.value if each.would else None,
                "in_service": each.in_service,
                "reasons": list(each.reasons),
            }
            for each in decisions
        )

    def carried_out(self, decisions: Iterable[Decision], results: dict[str, AdmissionError | None]) -> None:
        """Write down what became of the decisions that change something; raises AdmissionError."""
        self._append(
            {"event": "done" if results[each.host] is None else "failed", "host": each.host,
             "action": each.action.value, "problem": str(results[each.host] or "")}
            for each in decisions
        )  # fmt: skip

    def stopped(self, why: str) -> None:
        """Write down that no node was removed, and why; raises AdmissionError."""
        self._append([{"event": "stopped", "problem": why}])

    def _append(self, records: Iterable[dict[str, object]]) -> None:
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        lines = [json.dumps({"time": now} | self._about | record) for record in records]
        try:
            files.append_lines(self.path, lines)
        except OSError as error:
            raise AdmissionError(f"the audit {self.path} cannot be written: {error.strerror or error}") from error
