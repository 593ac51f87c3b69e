"""Evidence of many hosts through Slurm: one srun for all hosts that it can start something on.

Hosts of a power domain that may not burn yet wait for a later srun; without power domains there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EvidenceError, GpugateError, NotGathered, StateError
from ..gather.folder import GatherLog, Receipt, document_path, write_log
from ..gather.journal import Journal
from ..gather.stagger import Progress, Stagger, Turn
from ..inventory import Target
from ..policy import Profile
from . import slurm, srun
from .answers import Asked, document
from .srun import Question, Step

TOGETHER_S = 5.0  # hosts whose turn comes within this time share an srun
_QUEUE_WITH_LEASE_S = 60.0  # a lease of a power domain runs from the asking on: the burn must not begin much later


async def gather(
    targets: list[Target],
    profile: Profile,
    folder: Path,
    progress: Progress,
    state_file: Path,
    *,
    args: Sequence[str],
    queue_s: float,
) -> GatherLog:
    """As gpugate.gather.gather, but through srun with the site's own `args`, which may wait in the queue for `queue_s`.

    An interrupted gather in `folder` is gone on with. Never raises for a host: its receipt says what went wrong.
    """
    journal = Journal(folder, profile)
    stagger = Stagger(targets, state_file, progress)
    try:
        slurm_nodes = await slurm.nodes()
        refused = ""
    except NotGathered as error:
        slurm_nodes, refused = {}, str(error)
    steps = _Steps([target.name for target in targets], args, queue_s, progress)
    one = _Gathering(profile, progress, journal, stagger, steps, slurm_nodes, refused)
    try:
        receipts = await asyncio.gather(*map(one.host, targets))
    finally:
        await steps.close()
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
    """What all hosts of one gather share. `refused`: why Slurm cannot be asked at all. `taken`: whose each node is."""

    profile: Profile
    progress: Progress
    journal: Journal
    stagger: Stagger
    steps: _Steps
    nodes: dict[str, slurm.SlurmNode]
    refused: str
    taken: dict[str, str] = field(default_factory=dict)

    async def host(self, target: Target) -> Receipt:
        """The receipt of one host, whose document then lies in the folder."""
        wanted = target.policy.request("", self.profile)
        if known := self.journal.whole(target.name, wanted):
            self.steps.leave(target.name)
            self.progress(target.name, "evidence gathered before", True)
            return known
        missing = problem = ""
        nonce, asked = "", time.time()
        try:
            node = self._node(target)
            request, _ = self.journal.request(target.name, wanted)
            nonce = request.nonce
            whom = Asked(host=target.name, node=node, nonce=nonce, profile=self.profile)
            async with self.stagger.turn(target, request) as turn:
                asked = time.time()
                found = await self.steps.ask(Question(whom, target, request), turn)
                turn.heard(found)
                document_path(self.journal.folder, target.name).write_bytes(found)
        except (NotGathered, StateError) as error:
            missing = str(error)
        except (GpugateError, OSError) as error:
            problem = str(error)
        except Exception as error:  # one host's surprise is that host's problem
            problem = f"{target.name}: gathering broke: {type(error).__name__}: {error}"
        finally:
            self.steps.leave(target.name)
        received = time.time()
        receipt = Receipt(nonce=nonce, asked_unix_s=asked, received_unix_s=received, missing=missing, problem=problem)
        self.journal.answered(target.name, receipt)
        self.progress(target.name, missing or problem or f"evidence after {received - asked:.1f} s", True)
        return receipt

    def _node(self, target: Target) -> str:
        """What Slurm calls this host. Raises NotGathered where it would start nothing there, or must not."""
        if self.refused:
            raise NotGathered(f"{target.name} was not asked: {self.refused}")
        srun.refuse_secret(target)
        name = slurm.name_of(target, self.nodes)
        if refusal := self.nodes[name].refusal:
            raise NotGathered(f"{target.name} {refusal}")
        if (other := self.taken.setdefault(name, target.name)) != target.name:
            raise NotGathered(
                f"{target.name} and {other} are both the node {name} in Slurm: an answer would be of either"
            )
        return name


@dataclass(eq=False)
class _Waiting:
    """One host's question and the answer to come."""

    question: Question
    turn: Turn
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def refuse(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Steps:
    """Puts questions together and asks them by one srun, as soon as nobody else is coming who could join soon."""

    def __init__(self, hosts: Iterable[str], args: Sequence[str], queue_s: float, progress: Progress) -> None:
        self._coming = set(hosts)
        self._args, self._queue_s, self._progress = args, queue_s, progress
        self._waiting: list[_Waiting] = []
        self._news = asyncio.Event()
        self._runner = asyncio.create_task(self._run())
        self._steps: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question, turn: Turn) -> bytes:
        """The document that answers this question. Raises NotGathered, EvidenceError, StateError."""
        waiting = _Waiting(question, turn)
        self._waiting.append(waiting)
        self.leave(question.asked.host)
        return await waiting.answer

    def leave(self, host: str) -> None:
        """This host will not come to ask any more."""
        self._coming.discard(host)
        self._news.set()

    async def close(self) -> None:
        """End whatever still runs."""
        tasks = [self._runner, *self._steps]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._hear()
            if not self._waiting:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(TOGETHER_S):
                    while self._coming:
                        await self._hear()
            together, self._waiting = self._waiting, []
            step = asyncio.create_task(self._step(together))
            self._steps.add(step)
            step.add_done_callback(self._steps.discard)

    async def _hear(self) -> None:
        await self._news.wait()
        self._news.clear()

    async def _step(self, together: list[_Waiting]) -> None:
        try:
            asked = await self._begin(together)
            while asked:
                step = await self._srun(asked)
                left = asked if step.asked else await self._without_lost(step, asked)
                if left == asked:
                    for task, waiting in enumerate(asked):
                        self._conclude(step, task, waiting)
                    return
                asked = left
        except Exception as error:  # of srun as a whole: nobody got an answer
            for waiting in together:
                kind = type(error) if isinstance(error, GpugateError) else EvidenceError
                waiting.refuse(kind(f"{waiting.question.asked.where}: no answer through srun: {error}"))

    async def _begin(self, together: list[_Waiting]) -> list[_Waiting]:
        """Those whose turn it still is: from now on they may burn."""
        begun = []
        for waiting in together:
            try:
                await waiting.turn.begins()
                begun.append(waiting)
            except StateError as error:
                waiting.refuse(error)
        return begun

    async def _srun(self, asked: list[_Waiting]) -> Step:
        questions = [waiting.question for waiting in asked]
        leased = any(q.request.burn is not None and q.target.policy.power_domains for q in questions)
        queue_s = min(self._queue_s, _QUEUE_WITH_LEASE_S) if leased else self._queue_s
        for question in questions:
            self._progress(question.asked.host, f"asked by an srun over {len(questions)} nodes", False)
        return await srun.ask(questions, self._args, queue_s, lambda host, words: self._progress(host, words, False))

    async def _without_lost(self, step: Step, asked: list[_Waiting]) -> list[_Waiting]:
        """Nobody was asked: those without whom the others may be. They are refused here."""
        known = await slurm.nodes()
        left = []
        for task, waiting in enumerate(asked):
            whom = waiting.question.asked
            node = known.get(whom.node)
            refusal = node.refusal if node is not None else "is no longer known to Slurm"
            if lost := step.lost(task, whom.node):
                waiting.refuse(NotGathered(_not_reached(whom, lost)))
            elif refusal:
                waiting.refuse(NotGathered(f"{whom.where} {refusal}"))
            else:
                left.append(waiting)
                continue
            waiting.turn.never_began()
        return left

    def _conclude(self, step: Step, task: int, waiting: _Waiting) -> None:
        lines, asked = step.answers[task], waiting.question.asked
        why = step.why_none(task, asked.node)
        try:
            if not step.asked:
                waiting.turn.never_began()
                next_step = "see to --srun-args and to the partition"
                raise NotGathered(f"{asked.where} was not asked, as srun did not start its step: {why}: {next_step}")
            if not lines.whole:
                raise NotGathered(f"{asked.where} was asked and gave no answer through srun: {why}")
            try:
                payload = lines.payload()
            except EvidenceError as error:
                raise EvidenceError(f"{asked.where}: {error}") from error
            waiting.answer.set_result(document(asked, payload))
        except GpugateError as error:
            waiting.refuse(error)


def _not_reached(asked: Asked, why: str) -> str:
    return (
        f"{asked.where} was not reached by srun: {why}: look at the node in Slurm (scontrol show node {asked.node}) "
        "and at its slurmd's log, or gather it with --through=ssh"
    )
