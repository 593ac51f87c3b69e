"""Evidence of many hosts at once: every host has its own deadline, and none can hold up or take down another."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import asdict
from pathlib import Path

from ..errors import EvidenceError, GpugateError, NotGathered, StateError
from ..evidence.frame import unpack
from ..evidence.request import ProbeRequest
from ..inventory import Target
from ..policy import Profile
from .folder import GatherLog, Receipt, document_path, write_log
from .local import LocalTransport
from .ssh import connect, printable
from .stagger import Progress, Stagger
from .transport import Answer, Transport, privileged

CONNECT_DEADLINE_S = 20.0
ANSWER_MARGIN_S = 60.0
CONNECTIONS_AT_ONCE = 100


class _NeverBegan(EvidenceError):
    """The node did not even start the probe."""


async def gather(
    targets: list[Target], profile: Profile, folder: Path, progress: Progress, state_file: Path
) -> GatherLog:
    """Ask every target's probe for its evidence and leave the documents and the log in `folder`.

    `progress(host, text, done)` hears what happens. Never raises for a host: its receipt says what went wrong.
    `state_file` is the state store for the burns of power domains, where the inventory names none.
    """
    started = time.time()
    door = asyncio.Semaphore(CONNECTIONS_AT_ONCE)
    stagger = Stagger(targets, state_file, progress)
    try:
        receipts = await asyncio.gather(*(_one(target, profile, folder, progress, door, stagger) for target in targets))
    finally:
        stagger.close()
    log = GatherLog(
        started_unix_s=started,
        profile=profile,
        hosts={target.name: receipt for target, receipt in zip(targets, receipts, strict=True)},
    )
    write_log(folder, log)
    return log


async def _one(
    target: Target, profile: Profile, folder: Path, progress: Progress, door: asyncio.Semaphore, stagger: Stagger
) -> Receipt:
    nonce, asked = secrets.token_hex(16), time.time()
    missing = problem = ""
    try:
        request = target.policy.request(nonce, profile)
        async with stagger.turn(target, request) as turn:
            async with door:
                transport = await open_transport(target)
            try:
                await turn.begins()
                asked = time.time()
                document = await _ask(target, transport, request, progress)
                turn.heard(document)
                document_path(folder, target.name).write_bytes(document)
            except _NeverBegan:
                turn.never_began()
                raise
            finally:
                await transport.close()
    except (NotGathered, StateError) as error:
        missing = str(error)
    except (GpugateError, OSError) as error:
        problem = str(error)
    except Exception as error:  # one host's surprise is that host's problem
        problem = f"{target.where}: gathering broke: {type(error).__name__}: {error}"
    received = time.time()
    progress(target.name, missing or problem or f"evidence after {received - asked:.1f} s", True)
    return Receipt(nonce=nonce, asked_unix_s=asked, received_unix_s=received, missing=missing, problem=problem)


async def open_transport(target: Target) -> Transport:
    """Reach a node the way its inventory says; raises NotGathered."""
    if target.connection == "local":
        return LocalTransport(target)
    if target.connection not in ("ssh", "smart", "ansible.builtin.ssh"):
        raise NotGathered(f"{target.name}: ansible_connection {target.connection!r} is not supported (ssh or local)")
    return await connect(target, CONNECT_DEADLINE_S)


async def _ask(target: Target, transport: Transport, request: ProbeRequest, progress: Progress) -> bytes:
    argv = [target.python, str(target.probe), "collect", "--request", "-", "--rootfs", str(target.node_root)]
    if target.driver_root is not None:
        argv += ["--driver-root", target.driver_root]
    command, stdin = privileged(target, argv, json.dumps(asdict(request)).encode() + b"\n")
    answer = await transport.run(
        command,
        stdin,
        request.patience_s + ANSWER_MARGIN_S,
        on_line=lambda line: progress(target.name, line, False),
    )
    try:
        return unpack(answer.stdout)
    except EvidenceError as error:
        raise _why_none(target, answer, str(error)) from error


def _why_none(target: Target, answer: Answer, complaint: str) -> EvidenceError:
    lines = [printable(line) for line in answer.stderr.splitlines() if line.strip()]
    said = lines[-1][:300] if lines else "it said nothing"
    if "sudo" in said or "password is required" in said:
        return _NeverBegan(f"{target.where} does not let us become {target.become_user}: {said}")
    if "can't open file" in said:
        return _NeverBegan(f"{target.where} has no probe at {target.probe} ({said}): run playbooks/provision.yml on it")
    if answer.status == 127:
        return _NeverBegan(f"{target.where} cannot run {target.python} ({said}): set ansible_python_interpreter")
    ended = f"was killed by signal {-answer.status}" if answer.status < 0 else f"ended with exit status {answer.status}"
    return EvidenceError(f"{target.where}: {complaint}: the probe {ended}: {said}")
