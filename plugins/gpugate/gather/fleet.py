"""Evidence of many hosts at once: every host has its own deadline, and none can hold up or take down another.

A fleet that fits into the open connections is followed to the end. A larger one is asked to begin its burns, left
alone, and asked again from time to time. Asking is idempotent: the node knows its burn by the request's nonce, so that
a lost connection, a killed controller and a second look are all the same to it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import EvidenceError, GpugateError, NotGathered, StateError
from ..evidence.frame import unpack
from ..evidence.request import ProbeRequest
from ..inventory import Target
from ..policy import Profile
from .folder import GatherLog, Receipt, document_path, write_log
from .journal import Journal
from .pool import Pool
from .stagger import Progress, Stagger, Turn
from .streams import printable
from .transport import Answer, privileged

NOT_YET = 75
ANSWER_MARGIN_S = 60.0
LOOK_EVERY_S = 10.0  # at burns that nobody follows; a larger fleet is looked at less often
LOOKS_SHARE = 0.25  # of the logins per second
AGAIN_S = 2.0


class _NeverBegan(EvidenceError):
    """The node did not even start the probe."""


async def gather(
    targets: list[Target], profile: Profile, folder: Path, progress: Progress, state_file: Path, pool: Pool
) -> GatherLog:
    """Ask every target's probe for its evidence and leave the documents and the log in `folder`.

    What an interrupted gather has left in `folder` is gone on with: documents count, burns under way are adopted.
    `progress(host, text, done)` hears what happens. `state_file` is the state store for the burns of power domains,
    where the inventory names none. Never raises for a host: its receipt says what went wrong. Raises EvidenceError
    where the folder cannot be gone on with.
    """
    journal = Journal(folder, profile)
    stagger = Stagger(targets, state_file, progress)
    follows = len(targets) <= pool.limits.connections
    looks_every_s = max(LOOK_EVERY_S, len(targets) / (LOOKS_SHARE * pool.limits.logins_per_s))
    gathering = _Gathering(profile, progress, journal, stagger, pool, None if follows else 0.0, looks_every_s)
    try:
        receipts = await asyncio.gather(*map(gathering.host, targets))
    finally:
        stagger.close()
        journal.close()
    log = GatherLog(
        started_unix_s=journal.started_unix_s,
        profile=profile,
        hosts={target.name: receipt for target, receipt in zip(targets, receipts, strict=True)},
    )
    write_log(folder, log)
    return log


@dataclass(frozen=True)
class _Gathering:
    """One gather: what all its hosts share. `wait_s` is how long a node may keep us waiting for its burn."""

    profile: Profile
    progress: Progress
    journal: Journal
    stagger: Stagger
    pool: Pool
    wait_s: float | None
    looks_every_s: float

    async def host(self, target: Target) -> Receipt:
        """The receipt of one host, whose document then lies in the folder."""
        wanted = target.policy.request("", self.profile)
        if known := self.journal.whole(target.name, wanted):
            self.progress(target.name, "evidence gathered before", True)
            return known
        nonce, asked = "", time.time()
        missing = problem = ""
        try:
            request, before = self.journal.request(target.name, wanted)
            nonce = request.nonce
            if before:
                self.progress(target.name, "asked again for what it was asked before", False)
            async with self.stagger.turn(target, request) as turn:
                answer = _Answering(self, target, request, turn)
                try:
                    document = await answer.document()
                except _NeverBegan:
                    turn.never_began()
                    raise
                finally:
                    asked = answer.asked_unix_s
                turn.heard(document)
                document_path(self.journal.folder, target.name).write_bytes(document)
        except (NotGathered, StateError) as error:
            missing = str(error)
        except (GpugateError, OSError) as error:
            problem = str(error)
        except Exception as error:  # one host's surprise is that host's problem
            problem = f"{target.where}: gathering broke: {type(error).__name__}: {error}"
        received = time.time()
        receipt = Receipt(nonce=nonce, asked_unix_s=asked, received_unix_s=received, missing=missing, problem=problem)
        self.journal.answered(target.name, receipt)
        self.progress(target.name, missing or problem or f"evidence after {received - asked:.1f} s", True)
        return receipt


class _Answering:
    """One host's way to its document. `asked_unix_s`: when it was last asked."""

    def __init__(self, gathering: _Gathering, target: Target, request: ProbeRequest, turn: Turn) -> None:
        self._gathering, self._target, self._request, self._turn = gathering, target, request, turn
        self._began = False
        self._give_up_at = float("inf")
        self._lost: list[str] = []
        self.asked_unix_s = time.time()

    async def document(self) -> bytes:
        """The document, asked for as often as it takes until the host's deadline."""
        while True:
            try:
                answer = await self._ask()
            except NotGathered as error:
                await self._after_loss(error)
                continue
            if answer.status != NOT_YET:
                try:
                    return unpack(answer.stdout)
                except EvidenceError as error:
                    raise _why_none(self._target, answer, str(error)) from error
            await self._pause(self._gathering.looks_every_s)

    async def _ask(self) -> Answer:
        target, request = self._target, replace(self._request, wait_s=self._gathering.wait_s)
        command, stdin = privileged(target, collect_command(target), json.dumps(asdict(request)).encode() + b"\n")
        async with self._gathering.pool.of(target) as transport:
            if not self._began:
                await self._turn.begins()
                self._began, self._give_up_at = True, time.monotonic() + self._request.patience_s + ANSWER_MARGIN_S
            self.asked_unix_s = time.time()
            self._hear("was asked")
            return await transport.run(command, stdin, self._give_up_at - time.monotonic(), self._hear)

    def _hear(self, line: str) -> None:
        self._gathering.progress(self._target.name, line, False)

    async def _after_loss(self, error: NotGathered) -> None:
        """Wait before asking again; raises where that would be in vain. A burn goes on without us, and a node that was
        restarted in the middle will say so; without one, a second chance is enough."""
        self._lost.append(str(error))
        burns = self._request.burn is not None
        if not self._began or (not burns and len(self._lost) > 1):
            raise NotGathered("; asked again: ".join(self._lost)) from error
        self._gathering.progress(self._target.name, f"lost, is asked again: {error}", False)
        await self._pause(self._gathering.looks_every_s if burns else AGAIN_S)

    async def _pause(self, about_s: float) -> None:
        pause = about_s * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        if time.monotonic() + pause >= self._give_up_at:
            patience = self._request.patience_s + ANSWER_MARGIN_S
            cause = f" ({self._lost[-1]})" if self._lost else ""
            raise NotGathered(f"{self._target.where} gave no evidence within {patience:g} s{cause}")
        await asyncio.sleep(pause)


def collect_command(target: Target) -> list[str]:
    """The one command that a node is ever asked with: a sudoers line can name it to the letter (docs/privileges.md)."""
    argv = [target.python, "-I", str(target.probe), "collect", "--request", "-", "--rootfs", str(target.node_root)]
    return argv if target.driver_root is None else [*argv, "--driver-root", target.driver_root]


def _why_none(target: Target, answer: Answer, complaint: str) -> EvidenceError:
    lines = [printable(line) for line in answer.stderr.splitlines() if line.strip()]
    said = lines[-1][:300] if lines else "it said nothing"
    no_python = f"sudo: {target.python}: command not found" in said  # and sudo ends with 1
    if not no_python and ("sudo" in said or "password is required" in said):
        return _NeverBegan(f"{target.where} does not let us become {target.become_user}: {said}")
    if "can't open file" in said:
        return _NeverBegan(f"{target.where} has no probe at {target.probe} ({said}): run playbooks/provision.yml on it")
    if no_python or answer.status == 127:
        return _NeverBegan(f"{target.where} cannot run {target.python} ({said}): set ansible_python_interpreter")
    ended = f"was killed by signal {-answer.status}" if answer.status < 0 else f"ended with exit status {answer.status}"
    return EvidenceError(f"{target.where}: {complaint}: the probe {ended}: {said}")
