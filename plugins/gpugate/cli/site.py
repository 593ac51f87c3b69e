"""Options that name nodes as a person on call does, and the gate of the site that the inventory says they belong to."""

from __future__ import annotations

import argparse
import getpass
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..admission.audit import Audit
from ..admission.backends import AdmissionBackend
from ..admission.memory import Memory, Remembered
from ..admission.site import Run, audit_path, open_backend
from ..admission.standing import Standing, Word
from ..admission.told import Told
from ..admission.variables import Settled, settle
from ..errors import AdmissionError, InventoryError, ReportError
from ..inventory import Target, resolve, use_project
from ..policy.resolve import PREFIX
from ..report import new_run_id
from ..report.reader import Report
from ..state.store import Store


@dataclass(frozen=True)
class Gate:
    """A site's gate, as one command has it; `report` is an error where there is none to read."""

    targets: list[Target]
    settled: Settled
    report: Report | ReportError
    memory: Memory
    by: str
    now: datetime

    @property
    def hosts(self) -> list[str]:
        """The inventory's names of the nodes."""
        return [target.name for target in self.targets]

    @property
    def audit(self) -> Audit:
        """The audit, for this person's lines."""
        return Audit(audit_path(self.settled.site), self._by_which, self.by)

    def backend(self) -> AdmissionBackend:
        """The site's back end; raises AdmissionError where it cannot be used."""
        names = {target.name: target.node_name for target in self.targets if target.node_name is not None}
        run = Run(self.by, self._by_which, self.settled.report, names)
        return open_backend(self.settled.site, run, self.memory)[0]

    def told(
        self, target: Target, standing: Standing | AdmissionError, remembered: Remembered | None, word: Word | None
    ) -> Told:
        """What there is to tell of one of them."""
        return Told(host=target.name, policy=target.policy, standing=standing, remembered=remembered, word=word,
                    report=self.report, now=self.now)  # fmt: skip

    @property
    def _by_which(self) -> Report:
        """The report, or one of nobody, where a person acts without one."""
        if isinstance(self.report, Report):
            return self.report
        return Report("", new_run_id(self.now), self.now, "admission", "partial", "a person's word", {})


def add(parser: argparse.ArgumentParser) -> None:
    """The options of every command that asks about a site."""
    words = "another inventory than Ansible's configured one"
    parser.add_argument("-i", "--ansible-inventory", metavar="PATH", help=words)
    words = "a variable that stands above the inventory's, as with ansible-playbook: KEY=VALUE or a JSON object"
    parser.add_argument("-e", "--extra-vars", action="append", default=[], type=_extra, metavar="VARS", help=words)


def gate(options: argparse.Namespace, patterns: Sequence[str], *, look_only: bool) -> Gate:
    """The gate of the nodes that the patterns mean, strictly. Raises InventoryError, PolicyError and AdmissionError."""
    use_project(Path.cwd())
    extra = {key: value for part in options.extra_vars for key, value in part.items()}
    try:
        targets = resolve(",".join(patterns), options.ansible_inventory, extra)
    except InventoryError as error:
        raise InventoryError(str(error).removeprefix("--hosts: ")) from error
    settled = settle({target.name: target.variables for target in targets}, Path.cwd())
    if not look_only and settled.store.parent == settled.site.state.parent:  # as admit.yml makes it, and no other one
        settled.store.parent.mkdir(parents=True, exist_ok=True)
    memory = Memory(Store(settled.store), look_only=look_only)
    return Gate(targets, settled, _report(settled), memory, _person(), datetime.now().astimezone())


def _person() -> str:
    """Who is at the keyboard: behind sudo still the same one."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def _report(settled: Settled) -> Report | ReportError:
    try:
        return settled.read()
    except ReportError as error:
        return error


def _extra(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else {key.strip(): value} if equals else None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(found, dict) or not all(name.startswith(PREFIX) for name in found):
        raise argparse.ArgumentTypeError(f"{text!r} is neither {PREFIX}KEY=VALUE nor a JSON object of such keys")
    return found
