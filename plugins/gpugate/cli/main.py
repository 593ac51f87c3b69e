"""`gpugate`: what is not a check, a playbook or the probe. Each command is a file of this folder."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import GpugateError
from . import gather, hold, metrics, plan, why

DONE, SOME_MISSING, USAGE, INTERRUPTED = 0, 1, 2, 130
_EPILOG = """exit codes:
  0    done: there is evidence of every host; the word is said of every node
  1    of some there is no evidence, or it could not be done: each is told, with its reason
  2    nothing was done: the command line, the inventory, the policy, a folder or the state store is wrong
  130  interrupted; the same command again goes on where it can
`gpugate why --help` has its own.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        answer: int = options.run(options)
    except (GpugateError, OSError) as error:
        print(f"gpugate: {error}", file=sys.stderr)
        return USAGE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("gpugate: interrupted", file=sys.stderr)
        return INTERRUPTED
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpugate",
        description="Brings evidence of GPU nodes through an engine that the site has; pytest --evidence judges it. "
        "Tells the person on call why a node is where it is, and takes their word about it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gpugate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (gather, plan, why, hold, metrics):
        command.add(commands)
    return parser
