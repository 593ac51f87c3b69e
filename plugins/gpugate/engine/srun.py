"""One srun over many nodes: requests go in on its standard input, labelled lines come out.

Which node a line is of is what srun itself says with `--label`: the number of a task, whose node is fixed by the host
file (`--distribution=arbitrary`). Nothing that a node prints can change that.

One node on which srun cannot start its task makes srun abort the whole step. So every task first says that it is there,
and nobody gets a request before all have: what is aborted has done nothing yet, and is asked again without that node.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shlex
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import EvidenceError, NotGathered
from ..evidence.request import ProbeRequest
from ..gather.fleet import collect_command
from ..gather.streams import printable
from ..gather.transport import privileged
from ..inventory import Target
from .answers import Asked
from .lines import Lines

LAUNCH_S = 120.0  # for srun to start all tasks, once it has nodes
ANSWER_MARGIN_S = 60.0
_END_S = 30.0
_MOST_LINE = 64 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A node's own lines of the input: its interpreter, the one command, and the request that is left for it to read.
_PICK = (
    "echo gpugate-answer begin; "
    """awk -v node="$SLURMD_NODENAME" '$1 == node { print substr($0, length(node) + 2) }' | { """
    'IFS= read -r python && IFS= read -r command || { echo "no request for $SLURMD_NODENAME" >&2; exit 66; }; '
    'exec "$python" -I -c "$1" - sh -c "$command"; }'
)
_LABELLED = re.compile(rb" *([0-9]+): ?(.*)", re.DOTALL)
_LATE = "not all tasks were there in time"
_TASKS = re.compile(r"\btasks? ([0-9,-]+): (.*)")
_ON_NODE = re.compile(r"(?:failed on node|[Nn]ode failure on) ([^\s:,]+)")


@dataclass(frozen=True)
class Question:
    """What one node is asked: who, and the request for its probe."""

    asked: Asked
    target: Target
    request: ProbeRequest


@dataclass(eq=False)
class Step:
    """What came of one srun. `answers[i]` is of the i-th question; `asked`: the nodes were given their requests, before
    that they do nothing; `ended` says how srun itself ended, if not well."""

    answers: list[Lines]
    asked: bool = False
    ended: str = ""
    words: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def launched(self) -> int:
        """How many tasks have said that they are there."""
        return sum(lines.began for lines in self.answers)

    def lost(self, task: int, node: str) -> str:
        """Why a task was not started, where it was it that kept the others from being asked; else empty."""
        failed = [line for line in self.words if (named := _ON_NODE.search(line)) and named[1] == node]
        if failed:
            return failed[-1]
        late = not self.asked and 0 < self.launched < len(self.answers) and not self.answers[task].began
        return f"its task was not there {LAUNCH_S:g} s after the first" if late and self.ended == _LATE else ""

    def why_none(self, task: int, node: str) -> str:
        """What srun said of a task without an answer, or of itself."""
        numbered = [found[2] for line in self.words if (found := _TASKS.search(line)) and _among(found[1], task)]
        return self.lost(task, node) or (numbered[-1] if numbered else self.ended) or "srun said nothing about it"


async def ask(
    questions: Sequence[Question], args: Sequence[str], queue_s: float, hear: Callable[[str, str], None]
) -> Step:
    """Ask all nodes by one srun. Raises NotGathered where srun cannot be started, EvidenceError where its output
    cannot be told apart by node; `hear(host, words)` hears the nodes' messages, and srun's."""
    patience_s = max(question.request.patience_s for question in questions) + ANSWER_MARGIN_S
    step = Step([Lines() for _ in questions])
    with tempfile.TemporaryDirectory(prefix="gpugate-srun-") as folder:
        hosts = Path(folder) / "hosts"
        hosts.write_text("".join(f"{question.asked.node}\n" for question in questions))
        process = await _start(command(len(questions), args, LAUNCH_S + patience_s, queue_s), hosts)
        streams = [
            asyncio.create_task(_read(process.stdout, step)),
            asyncio.create_task(_listen(process.stderr, questions, hear, step)),
        ]
        over = asyncio.gather(*streams)
        over.add_done_callback(lambda _: step.news.set())
        try:
            if await _launched(step, over, queue_s):
                step.asked = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience_s):
                        await _feed(process, questions)
                        await asyncio.wait([over])
            if over.done():
                over.result()
                status = await process.wait()
                errors = [line for line in step.words if "error:" in line]
                step.ended = (errors or [f"srun ended with status {status}"])[-1] if status else ""
            else:
                step.ended = f"it was ended {patience_s:g} s after it was asked" if step.asked else _LATE
        finally:
            over.cancel()
            await _end(process)
    return step


async def _start(command: list[str], hosts: Path) -> asyncio.subprocess.Process:
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_UNBUFFEREDIO"}
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True,
            env=environment | {"SLURM_HOSTFILE": str(hosts)},
        )  # fmt: skip
    except OSError as error:
        raise NotGathered(f"srun cannot be started ({error.strerror}): run this where Slurm's commands are") from error


async def _launched(step: Step, over: asyncio.Future[list[None]], queue_s: float) -> bool:
    """Wait until all tasks are there. False where srun ended before, or some are not there in time."""
    now = asyncio.get_running_loop().time
    give_up_at, first = now() + queue_s + LAUNCH_S, True
    while step.launched < len(step.answers):
        if step.launched and first:
            give_up_at, first = min(give_up_at, now() + LAUNCH_S), False
        if over.done() or now() >= give_up_at:
            return False
        step.news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(give_up_at):
                await step.news.wait()
    return True


def command(tasks: int, args: Sequence[str], patience_s: float, queue_s: float) -> list[str]:
    """The srun command line. The site's own arguments may set time and queueing, but not how answers come back."""
    ours = Path(__file__).with_name("on_node.py").read_text()
    return [
        "srun", "--job-name=gpugate", f"--time={math.ceil(patience_s / 60) + 1}", f"--immediate={math.ceil(queue_s)}",
        *args,
        f"--ntasks={tasks}", "--distribution=arbitrary", "--label", "--input=all", "--output=all", "--error=all",
        "--no-kill", "--kill-on-bad-exit=0", "--wait=0", "--mpi=none", "--chdir=/", f"--export=PATH={_PATH}",
        "/bin/sh", "-c", _PICK, "sh", ours,
    ]  # fmt: skip


def node_input(question: Question) -> bytes:
    """A node's lines of srun's input, which all nodes of the step get to see."""
    target = question.target
    argv = collect_command(target)
    bare = replace(target, become=True, become_password=None)
    line = privileged(bare, argv, b"")[0] if needs_sudo(target) else shlex.join(argv)
    lines = (target.python, line, json.dumps(asdict(question.request), separators=(",", ":")))
    return b"".join(f"{question.asked.node} {text}\n".encode() for text in lines)


def refuse_secret(target: Target) -> None:
    """Raises NotGathered where the node's command would need a password: there must be no secret in srun's input."""
    if needs_sudo(target) and target.become_password is not None:
        raise NotGathered(
            f"{target.name} wants a password for sudo, and srun would hand it to every node of the step: let the user "
            "run the probe without one (docs/privileges.md), or gather with --through=ssh"
        )


def needs_sudo(target: Target) -> bool:
    """Whether the step's user, who is this process's user on every node, has to become another for the probe.

    Who logs in as root over SSH needs no sudo there, but does so here, where nobody logs in.
    """
    return (target.become or target.user == "root") and os.geteuid() != 0


async def _feed(process: asyncio.subprocess.Process, questions: Sequence[Question]) -> None:
    if process.stdin is None:
        raise NotGathered("srun has no input")
    with suppress(BrokenPipeError, ConnectionResetError):
        for question in questions:
            process.stdin.write(node_input(question))
            await process.stdin.drain()
    process.stdin.close()


async def _read(stream: asyncio.StreamReader | None, step: Step) -> None:
    async for line in _lines(stream):
        labelled = _LABELLED.fullmatch(line)
        if labelled is None:
            continue  # of srun itself or of the site's prolog: never an answer
        task = int(labelled[1])
        if task >= len(step.answers):
            raise EvidenceError(f"srun labels its output with task {task}, of {len(step.answers)} that were started")
        step.answers[task].take(labelled[2])
        step.news.set()


async def _listen(
    stream: asyncio.StreamReader | None, questions: Sequence[Question], hear: Callable[[str, str], None], step: Step
) -> None:
    async for line in _lines(stream):
        labelled = _LABELLED.fullmatch(line)
        if labelled is None:
            step.words.append(printable(line)[:500])
            hear("srun", step.words[-1])
        elif (task := int(labelled[1])) < len(questions):
            hear(questions[task].asked.host, printable(labelled[2])[:200])


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    rest = b""
    while stream is not None and (chunk := await stream.read(65536)):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MOST_LINE:
            raise EvidenceError(f"srun wrote a line of more than {_MOST_LINE} bytes")
    if rest:
        yield rest


async def _end(process: asyncio.subprocess.Process) -> None:
    """End srun, and so the step on every node: asked first, so that Slurm hears of it at once."""
    for stop in (process.terminate, process.kill):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await process.wait()


def _among(ranges: str, task: int) -> bool:
    """Whether a number is among such as `0-3,7`."""
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and int(first) <= task <= int(last if last.isdigit() else first):
            return True
    return False
