"""`gpugate requests` and `gpugate import`: the two halves of a gather that another engine does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..engine import plan
from . import hosts


def add(commands: Any) -> None:
    """Put both among `commands`."""
    words = "write one request a host, for an engine that runs the probe with it"
    writing = commands.add_parser("requests", help=words, description=f"{words[0].upper()}{words[1:]}.")
    hosts.add(writing)
    writing.add_argument("folder", type=Path, metavar="DIR", help="new or empty; gets plan.json and requests/NODE.json")
    writing.set_defaults(run=_write)

    words = "turn the answers to these requests into evidence"
    taking = commands.add_parser("import", help=words, description=f"{words[0].upper()}{words[1:]}.")
    taking.add_argument("--plan", type=Path, required=True, metavar="DIR", help="what `gpugate requests` wrote")
    taking.add_argument("--evidence", type=Path, required=True, metavar="DIR", help="where evidence goes")
    taking.add_argument("answers", type=Path, metavar="ANSWERS", help="a folder with one file a node, named after it")
    taking.set_defaults(run=_take)


def _write(options: argparse.Namespace) -> int:
    targets, profile = hosts.chosen(options)
    written = plan.write(targets, profile, options.folder)
    print(f"{len(written.hosts)} requests, profile {profile}, in {options.folder}/requests")
    return 0


def _take(options: argparse.Namespace) -> int:
    asked = plan.read(options.plan)
    folder = hosts.evidence_folder(options.evidence, goes_on=False)
    log = plan.take(asked, options.answers, folder, lambda _, sentence: print(sentence, file=sys.stderr))
    return hosts.summary(log, folder)
