"""A gather in two halves, for engines that gpugate does not drive: requests go out as files, answers come back so.

A plan folder holds `requests/<node>.json`, one request a node, and `plan.json`, which says what each was asked:

    {"schema": 1, "profile": ..., "asked_unix_s": ..., "hosts": {"gpu0": {"node": "gpu0", "nonce": "..."}}}

A node's answer is one file that is named after the node: what on_node.py or the probe itself printed, in whatever
surroundings (a pod's log). That file is of that node because the engine says so; nothing in it can change that.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import EvidenceError, NotGathered
from ..gather.folder import GatherLog, Receipt, document_path, write_log
from ..inventory import Target
from ..policy import Profile
from .answers import Asked, document, framed
from .lines import Lines

SCHEMA = 1
MOST_BYTES = 16 * 1024 * 1024  # of one node's log
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


@dataclass(frozen=True, kw_only=True)
class PlannedHost:
    """One host of a plan: what the engine calls it, and what its request's nonce is."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    node: str
    nonce: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked of whom."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    schema: int
    profile: Profile
    asked_unix_s: float
    hosts: dict[str, PlannedHost]


_PLAN = TypeAdapter(Plan)


def write(targets: list[Target], profile: Profile, folder: Path) -> Plan:
    """Write the requests and the plan into an empty or new folder. Raises EvidenceError, OSError."""
    requests = folder / "requests"
    if folder.exists() and any(folder.iterdir()):
        raise EvidenceError(f"{folder} is not empty: a plan gets a folder of its own")
    requests.mkdir(parents=True)
    hosts: dict[str, PlannedHost] = {}
    nodes: set[str] = set()
    for target in targets:
        node, nonce = target.node_name or target.name, secrets.token_hex(16)
        if not _NODE_NAME.fullmatch(node) or node in nodes:
            raise EvidenceError(
                f"{target.name}: {node!r} cannot name a node here: letters, digits, . _ -, and only once"
            )
        nodes.add(node)
        request = target.policy.request(nonce, profile)
        text = json.dumps(asdict(request), sort_keys=True, separators=(",", ":"))
        (requests / f"{node}.json").write_text(text + "\n")
        hosts[target.name] = PlannedHost(node=node, nonce=nonce)
    plan = Plan(schema=SCHEMA, profile=profile, asked_unix_s=time.time(), hosts=hosts)
    (folder / "plan.json").write_text(json.dumps(asdict(plan), indent=1, sort_keys=True) + "\n")
    return plan


def read(path: Path) -> Plan:
    """The plan in a file, or in a plan folder. Raises EvidenceError."""
    file = path / "plan.json" if path.is_dir() else path
    try:
        plan = _PLAN.validate_json(file.read_bytes())
    except OSError as error:
        raise EvidenceError(f"the plan {file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise EvidenceError(f"{file} is no plan of `gpugate requests`: {error.errors()[0]['msg']}") from error
    if plan.schema != SCHEMA:
        raise EvidenceError(f"{file} is a plan of schema {plan.schema}, and this gpugate reads {SCHEMA}")
    return plan


def take(plan: Plan, answers: Path, folder: Path, tell: Callable[[str, str], None]) -> GatherLog:
    """Turn the answers of a plan into an evidence folder. Raises EvidenceError where `answers` cannot be read.

    `tell(host, sentence)` hears of every host without usable evidence, and of files that belong to none.
    """
    files = _files(plan, answers, tell)
    receipts = {}
    for host, planned in plan.hosts.items():
        asked = Asked(host=host, node=planned.node, nonce=planned.nonce, profile=plan.profile)
        missing = problem = ""
        try:
            document_path(folder, host).write_bytes(_document(asked, files.get(planned.node, []), answers))
        except NotGathered as error:
            missing = str(error)
        except EvidenceError as error:
            problem = str(error)
        if missing or problem:
            tell(host, missing or problem)
        receipts[host] = Receipt(
            nonce=planned.nonce,
            asked_unix_s=plan.asked_unix_s,
            received_unix_s=time.time(),
            missing=missing,
            problem=problem,
        )
    log = GatherLog(started_unix_s=plan.asked_unix_s, profile=plan.profile, hosts=receipts)
    write_log(folder, log)
    return log


def _files(plan: Plan, answers: Path, tell: Callable[[str, str], None]) -> dict[str, list[Path]]:
    """The files of each node: named after it, with or without an ending."""
    try:
        found = sorted(path for path in answers.iterdir() if path.is_file())
    except OSError as error:
        raise EvidenceError(f"the answers in {answers} cannot be read: {error.strerror}") from error
    nodes = {planned.node for planned in plan.hosts.values()}
    files: dict[str, list[Path]] = {}
    for path in found:
        node = next((name for name in (path.name, path.stem) if name in nodes), None)
        if node is None:
            tell(path.name, f"{path} is of no node of this plan and was passed by")
        else:
            files.setdefault(node, []).append(path)
    return files


def _document(asked: Asked, files: list[Path], answers: Path) -> bytes:
    if not files:
        raise NotGathered(
            f"{asked.where} sent nothing: {answers} holds no file named {asked.node}: it ran nothing (look at its "
            "pod or job), or its output was not fetched"
        )
    if len(files) > 1:
        named = " and ".join(path.name for path in files)
        raise EvidenceError(f"{asked.where} has more than one answer ({named}), and nobody here knows which counts")
    try:
        with files[0].open("rb") as stream:
            output = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise EvidenceError(f"{asked.where}: {files[0]} cannot be read: {error.strerror}") from error
    if len(output) > MOST_BYTES:
        raise EvidenceError(f"{asked.where}: {files[0]} has more than {MOST_BYTES} bytes")
    lines = Lines()
    for line in output.split(b"\n"):
        lines.take(line.rstrip(b"\r"))
    if not lines.began:
        return framed(asked, output)
    try:
        payload = lines.payload()
    except EvidenceError as error:
        raise EvidenceError(f"{asked.where}: {error}") from error
    return document(asked, payload)
