"""`gpugate hold`, `release` and `unhold`: a person's word about nodes, that the gate obeys until it ends."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ..admission import words
from ..admission.standing import Kind, Standing, Word
from ..errors import AdmissionError, ReportError
from ..report.text import fold, one_line
from . import site

_AHEAD = re.compile(r"\+(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")
_SPOKEN = "{0}. What was decided is in the audit; `gpugate why HOST` tells whose word a node is under."


def add(commands: Any) -> None:
    """Put the three among `commands`."""
    said = "leave nodes as they are: gpugate neither lets them in nor takes them out until then"
    _saying(commands.add_parser("hold", help=said, description=_sentence(said))).set_defaults(run=_hold)
    said = "put nodes that gpugate took out back into service, whatever is red, and take them out no more until then"
    _saying(commands.add_parser("release", help=said, description=_sentence(said))).set_defaults(run=_release)
    said = "take back what was said of nodes, by whomever"
    parser = _naming(commands.add_parser("unhold", help=said, description=_sentence(said)))
    parser.set_defaults(run=_unhold)


def _sentence(words: str) -> str:
    return _SPOKEN.format(f"{words[0].upper()}{words[1:]}")


def _naming(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    site.add(parser)
    parser.add_argument(
        "hosts", nargs="+", metavar="HOST", help="hosts, groups or patterns, as pytest --hosts has them"
    )
    return parser


def _saying(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    most = f"at most {words.MOST.days} days ahead: 2026-12-01T08:00 (local time unless it names a zone), +4h, +2d12h"
    parser.add_argument("--until", required=True, metavar="TIME", help=most)
    parser.add_argument("--ticket", required=True, help="where it is written down what goes on")
    parser.add_argument("--why", required=True, help="in one sentence")
    return _naming(parser)


def _hold(options: argparse.Namespace) -> int:
    gate = site.gate(options, options.hosts, look_only=False)
    word = _word("hold", options, gate)
    results = words.hold(gate.hosts, word, gate.backend(), gate.memory, gate.audit)
    if held := [host for host, problem in results.items() if problem is None]:
        print(f"{fold(held)}: {word}; gpugate leaves {_it(held)} alone")
    return _told(results)


def _release(options: argparse.Namespace) -> int:
    gate = site.gate(options, options.hosts, look_only=False)
    word = _word("release", options, gate)
    red = _red(gate)
    results = words.release(gate.hosts, word, red, gate.backend(), gate.memory, gate.audit)
    for host, problem in results.items():
        if problem is None:
            print(f"OVERRIDE: {host} is in service, and gpugate does not take it out, whatever is red: {word}")
            print("\n".join(f"  {sentence}" for sentence in red[host]))
    return _told(results)


def _unhold(options: argparse.Namespace) -> int:
    gate = site.gate(options, options.hosts, look_only=False)
    ended = words.unhold(gate.hosts, gate.by, gate.memory, gate.audit, gate.now)
    for host in gate.hosts:
        if host in ended:
            print(f"{host}: no longer {ended[host]}")
    if free := [host for host in gate.hosts if host not in ended]:
        print(f"{fold(free)}: nobody had said anything of {_it(free)}")
    return 0


def _word(kind: Kind, options: argparse.Namespace, gate: site.Gate) -> Word:
    until = until_from(options.until, gate.now)
    return words.checked(Word(kind, gate.by, one_line(options.why), one_line(options.ticket), gate.now, until))


def until_from(text: str, now: datetime) -> datetime:
    """The time that a person means; raises AdmissionError where it is none."""
    if (ahead := _AHEAD.fullmatch(text)) and any(ahead.groups()):
        days, hours, minutes = (int(part or 0) for part in ahead.groups())
        return now + timedelta(days=min(days, 999), hours=min(hours, 9999), minutes=min(minutes, 999_999))
    if not re.search(r"[T ]\d", text):  # a day has a beginning and an end: which of the two is meant?
        raise AdmissionError(f"--until: {text!r} is no time of a day: write 2026-12-01T08:00, or +4h")
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise AdmissionError(f"--until: {text!r} is no time ({error}): write 2026-12-01T08:00, or +4h") from None


def _red(gate: site.Gate) -> dict[str, list[str]]:
    """Why the gate would not let each node in, as far as anybody knows."""
    remembered, out = gate.memory.nodes(), Standing(False)
    told = {target.name: gate.told(target, out, remembered.get(target.name), None) for target in gate.targets}
    unread = [f"no report: {gate.report}"] if isinstance(gate.report, ReportError) else []
    return {host: [one_line(sentence) for sentence in (*unread, *each.against)] for host, each in told.items()}


def _it(hosts: list[str]) -> str:
    return "it" if len(hosts) == 1 else "them"


def _told(results: Mapping[str, AdmissionError | None]) -> int:
    """Say what could not be done; the exit code."""
    for problem in results.values():
        if problem is not None:
            print(f"NOT DONE: {problem}")
    return 0 if all(problem is None for problem in results.values()) else 1
