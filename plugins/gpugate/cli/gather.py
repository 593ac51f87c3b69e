"""`gpugate gather`: evidence of many hosts into a folder, over SSH or through Slurm."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ..engine import gathering
from ..gather import GatherLog, Pool, gather
from ..inventory import Target
from ..policy import Profile
from . import hosts

QUEUE_S = 600.0
QUIET_S = 10.0


def add(commands: Any) -> None:
    """Put the command among `commands`."""
    words = "gather evidence of hosts into a folder, for pytest --evidence=DIR"
    parser = commands.add_parser("gather", help=words, description=f"{words[0].upper()}{words[1:]}.")
    hosts.add(parser)
    parser.add_argument("--through", choices=("ssh", "srun"), default="ssh", help="the engine (default %(default)s)")
    parser.add_argument("--srun-args", default="", metavar="ARGS", help="for srun, as one word: '-p gpu --exclusive'")
    waiting = "how long srun may wait for the nodes (default %(default)g)"
    parser.add_argument("--queue-s", type=_seconds, default=QUEUE_S, metavar="S", help=waiting)
    parser.add_argument("--evidence", type=Path, required=True, metavar="DIR", help="where evidence goes")
    parser.set_defaults(run=_run)


def _seconds(text: str) -> float:
    number = float(text)
    if not 1 <= number <= 7 * 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 s and a week")
    return number


def _run(options: argparse.Namespace) -> int:
    targets, profile = hosts.chosen(options)
    folder = hosts.evidence_folder(options.evidence, goes_on=True)
    return hosts.summary(asyncio.run(_gather(options, targets, profile, folder)), folder)


async def _gather(options: argparse.Namespace, targets: list[Target], profile: Profile, folder: Path) -> GatherLog:
    state_file = Path.cwd() / "state" / "gpugate.sqlite"
    progress = _Progress(len(targets))
    if task := asyncio.current_task():  # a job that is cancelled is to end its step as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if options.through == "srun":
        args = shlex.split(options.srun_args)
        return await gathering.gather(
            targets, profile, folder, progress, state_file, args=args, queue_s=options.queue_s
        )
    pool = Pool()
    try:
        return await gather(targets, profile, folder, progress, state_file, pool)
    finally:
        await pool.close()


class _Progress:
    """Lines on standard error: how each host ended, what srun says, and now and then what one of the others is at."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._spoke = total, 0, time.monotonic()

    def __call__(self, host: str, text: str, done: bool) -> None:
        self._done += done
        if done or host == "srun" or time.monotonic() - self._spoke >= QUIET_S:
            self._spoke = time.monotonic()
            print(f"[{self._done}/{self._total}] {host}: {text}", file=sys.stderr, flush=True)
