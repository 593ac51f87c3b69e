"""One srun over many nodes: requests go in on its standard input, labelled lines come out.

Which node a line is of is what srun itself says with `--label`: the number of a task, whose node is fixed by the host
file (`--distribution=arbitrary`). Nothing that a node prints can change that.
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

ANSWER_MARGIN_S = 120.0  # for srun to start and end everywhere
_END_S = 30.0
_MOST_LINE = 64 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A node's own lines of the input: its interpreter, the one command, and the request that is left for it to read.
_PICK = (
    """awk -v node="$SLURMD_NODENAME" '$1 == node { print substr($0, length(node) + 2) }' | { """
    'IFS= read -r python && IFS= read -r command || { echo "no request for $SLURMD_NODENAME" >&2; exit 66; }; '
    'exec "$python" -I -c "$1" - sh -c "$command"; }'
)
_LABELLED = re.compile(rb" *([0-9]+): ?(.*)", re.DOTALL)
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
    """What came of one srun. `answers[i]` is of the i-th question; `ended` says how srun itself ended, if not well;
    `late`: it was ended at its deadline."""

    answers: list[Lines]
    ended: str = ""
    late: bool = False
    words: deque[str] = field(default_factory=lambda: deque(maxlen=200))

    @property
    def may_have_begun(self) -> bool:
        """Whether any node may have started its probe."""
        return self.late or any(lines.began for lines in self.answers)

    def why_none(self, task: int, node: str) -> str:
        """What srun said of a task without an answer, or of itself."""
        about = [words for line in self.words if (words := _about(line, task, node))]
        return about[-1] if about else self.ended or "srun said nothing about it"


async def ask(
    questions: Sequence[Question], args: Sequence[str], queue_s: float, hear: Callable[[str, str], None]
) -> Step:
    """Ask all nodes by one srun. Raises NotGathered where srun cannot be started, EvidenceError where its output
    cannot be told apart by node; `hear(host, words)` hears the nodes' messages."""
    patience_s = max(question.request.patience_s for question in questions) + ANSWER_MARGIN_S
    step = Step([Lines() for _ in questions])
    with tempfile.TemporaryDirectory(prefix="gpugate-srun-") as folder:
        hosts = Path(folder) / "hosts"
        hosts.write_text("".join(f"{question.asked.node}\n" for question in questions))
        environment = {key: value for key, value in os.environ.items() if key != "SLURM_UNBUFFEREDIO"}
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command(len(questions), args, patience_s, queue_s),
                stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True,
                env=environment | {"SLURM_HOSTFILE": str(hosts)},
            )  # fmt: skip
        except OSError as error:
            raise NotGathered(
                f"srun cannot be started ({error.strerror}): run this where Slurm's commands are"
            ) from error
        try:
            async with asyncio.timeout(queue_s + patience_s):
                await asyncio.gather(
                    _feed(process, questions), _listen(process, questions, step, hear), _read(process, step)
                )
                status = await process.wait()
                step.ended = f"srun ended with status {status}" if status else ""
        except TimeoutError:
            step.late = True
            step.ended = f"it was ended after {queue_s + patience_s:g} s, the deadline of the whole step"
        finally:
            await _end(process)
    errors = [line for line in step.words if "error:" in line]
    if errors and not step.may_have_begun:
        step.ended = errors[-1]
    return step


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


async def _read(process: asyncio.subprocess.Process, step: Step) -> None:
    async for line in _lines(process.stdout):
        labelled = _LABELLED.fullmatch(line)
        if labelled is None:
            continue  # of srun itself or of the site's prolog: never an answer
        task = int(labelled[1])
        if task >= len(step.answers):
            raise EvidenceError(f"srun labels its output with task {task}, of {len(step.answers)} that were started")
        step.answers[task].take(labelled[2])


async def _listen(
    process: asyncio.subprocess.Process, questions: Sequence[Question], step: Step, hear: Callable[[str, str], None]
) -> None:
    async for line in _lines(process.stderr):
        labelled = _LABELLED.fullmatch(line)
        if labelled is None:
            step.words.append(printable(line)[:500])
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


def _about(line: str, task: int, node: str) -> str:
    """What a line of srun's messages says of this task or node; empty where it is about others."""
    if (named := _ON_NODE.search(line)) and named[1] == node:
        return line
    if (numbered := _TASKS.search(line)) and task in _numbers(numbered[1]):
        return numbered[2]
    return ""


def _numbers(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found.update(range(int(first), int(last if last.isdigit() else first) + 1))
    return found
