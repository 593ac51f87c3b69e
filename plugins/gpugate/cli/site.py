"""Options that name nodes as a person on call does, and the site that the inventory says they belong to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..admission.variables import Settled, settle
from ..errors import InventoryError
from ..inventory import Target, resolve, use_project
from ..policy.resolve import PREFIX


def add(parser: argparse.ArgumentParser) -> None:
    """The options of every command that asks about a site."""
    words = "another inventory than Ansible's configured one"
    parser.add_argument("-i", "--ansible-inventory", metavar="PATH", help=words)
    words = "a variable that stands above the inventory's, as with ansible-playbook: KEY=VALUE or a JSON object"
    parser.add_argument("-e", "--extra-vars", action="append", default=[], type=_extra, metavar="VARS", help=words)


def chosen(options: argparse.Namespace, patterns: Sequence[str]) -> tuple[list[Target], Settled]:
    """The nodes that the patterns mean, strictly, and their one site. Raises InventoryError, PolicyError and
    AdmissionError."""
    use_project(Path.cwd())
    extra = {key: value for part in options.extra_vars for key, value in part.items()}
    try:
        targets = resolve(",".join(patterns), options.ansible_inventory, extra)
    except InventoryError as error:
        raise InventoryError(str(error).removeprefix("--hosts: ")) from error
    return targets, settle({target.name: target.variables for target in targets}, Path.cwd())


def _extra(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else {key.strip(): value} if equals else None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(found, dict) or not all(name.startswith(PREFIX) for name in found):
        raise argparse.ArgumentTypeError(f"{text!r} is neither {PREFIX}KEY=VALUE nor a JSON object of such keys")
    return found
