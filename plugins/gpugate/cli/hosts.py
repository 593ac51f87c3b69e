"""Options that choose hosts and a profile, as pytest has them, and an evidence folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast, get_args

from ..errors import EvidenceError, InventoryError
from ..gather.folder import GatherLog, read_log
from ..gather.journal import FILE as JOURNAL
from ..inventory import Target, resolve, use_project
from ..policy import Profile


def add(parser: argparse.ArgumentParser) -> None:
    """The options that choose."""
    parser.add_argument("--hosts", required=True, metavar="PATTERN", help="groups or hosts, as Ansible writes them")
    parser.add_argument("--ansible-inventory", metavar="PATH", help="another inventory than Ansible's configured one")
    parser.add_argument("--profile", choices=get_args(Profile), help="what is asked of a node (else policy's)")


def chosen(options: argparse.Namespace) -> tuple[list[Target], Profile]:
    """The hosts and their profile. Raises InventoryError, PolicyError."""
    use_project(Path.cwd())
    targets = resolve(options.hosts, options.ansible_inventory)
    profiles = {options.profile} if options.profile else {target.policy.profile for target in targets}
    if len(profiles) > 1:
        told = ", ".join(sorted(profiles))
        raise InventoryError(f"the hosts have different profiles ({told}): choose with --profile")
    return targets, cast(Profile, profiles.pop())


def evidence_folder(path: Path, *, goes_on: bool) -> Path:
    """The folder, made if need be. Raises EvidenceError where it holds evidence already: sets are never mixed.

    `goes_on`: what an interrupted gather has left there may be gone on with.
    """
    if path.exists():
        interrupted = (path / JOURNAL).exists()
        if read_log(path) is not None or (any(path.iterdir()) and not (goes_on and interrupted)):
            raise EvidenceError(f"{path} is not empty or holds evidence already: name another folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def summary(log: GatherLog, folder: Path) -> int:
    """Say how it went; the exit code."""
    good = sum(not receipt.missing and not receipt.problem for receipt in log.hosts.values())
    print(f"evidence of {good} of {len(log.hosts)} hosts, profile {log.profile}, in {folder}")
    print(f"judge it with: pytest --hosts=... --profile={log.profile} --evidence={folder}")
    return 0 if good == len(log.hosts) else 1
