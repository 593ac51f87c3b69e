"""The audit: every decision, every word of a person's, and what became of them, as JSON lines that are only ever
appended to.

People's words are read back from here as well: who holds a node holds it also when the state store is lost.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..errors import AdmissionError
from ..report.reader import Report
from . import files
from .decision import Decision
from .standing import Word

_WORD = TypeAdapter(Word)
_SAID, _ENDED = "word", "word ended"
_MARK = f'"event": "{_SAID}'.encode()
_DECIDED = b'"event": "decided"'


class Audit:
    """One file of JSON lines. Every line has the time, the user, the run id, the sha256 of the report and who signed
    it (empty: nobody looked)."""

    def __init__(self, path: Path, report: Report, by: str) -> None:
        self.path = path
        self._about = {"by": by, "run_id": report.run_id, "report_sha256": report.sha256, "signer": report.signer}

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

    def said(self, words: Mapping[str, Word], red: Mapping[str, Sequence[str]]) -> None:
        """Write people's words down before they count, with what is red of each node; raises AdmissionError."""
        self._append(
            {"event": _SAID, "host": host, "word": _WORD.dump_python(word, mode="json"), "red": list(red.get(host, ()))}
            for host, word in words.items()
        )

    def ended(self, words: Iterable[tuple[str, Word]], why: str) -> None:
        """Write down that these words do not count any longer; raises AdmissionError."""
        self._append(
            {"event": _ENDED, "host": host, "word": _WORD.dump_python(word, mode="json"), "problem": why}
            for host, word in words
        )

    def words(self, now: datetime) -> dict[str, list[Word]]:
        """People's words that are good at `now`, by host, the newest first; raises AdmissionError where the audit
        cannot be read.

        A line that is no JSON is no word: the state store has it too.
        """
        found: defaultdict[str, list[Word]] = defaultdict(list)
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if _MARK in line:  # few lines have it, and there may be millions
                        _take(line, found)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise AdmissionError(f"the audit {self.path} cannot be read: {error.strerror or error}") from error
        good = {host: [word for word in reversed(words) if word.until > now] for host, words in found.items()}
        return {host: words for host, words in good.items() if words}

    def has_decisions(self) -> bool:
        """Whether the gate ever decided here; raises AdmissionError where the audit cannot be read."""
        try:
            with self.path.open("rb") as file:
                return any(_DECIDED in line for line in file)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise AdmissionError(f"the audit {self.path} cannot be read: {error.strerror or error}") from error

    def _append(self, records: Iterable[dict[str, object]]) -> None:
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        lines = [json.dumps({"time": now} | self._about | record) for record in records]
        try:
            files.append_lines(self.path, lines)
        except OSError as error:
            raise AdmissionError(f"the audit {self.path} cannot be written: {error.strerror or error}") from error


def _take(line: bytes, found: defaultdict[str, list[Word]]) -> None:
    """Go on from what was found with one more line: a person's word takes the place of their earlier one."""
    try:
        record: dict[str, Any] = json.loads(line)
        word = _WORD.validate_python(record["word"])
        host, event = str(record["host"]), record["event"]
    except (ValueError, KeyError, TypeError):
        return
    if word.until.tzinfo and word.since.tzinfo and event in (_SAID, _ENDED):
        found[host] = [each for each in found[host] if each.who != word.who]
        if event == _SAID:
            found[host].append(word)
