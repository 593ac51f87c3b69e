"""`gpugate`: what is not a check, a playbook or the probe. Each command is a file of this folder."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import GpugateError
from . import gather, plan

DONE, SOME_MISSING, USAGE, INTERRUPTED = 0, 1, 2, 130
_EPILOG = """exit codes:
  0    done: there is evidence of every host
  1    there is no evidence of some hosts: each is told, with its reason
  2    nothing was done: the command line, the inventory, the policy or a folder is wrong
  130  interrupted; the same command again goes on where it can
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
        description="Brings evidence of GPU nodes through an engine that the site has; pytest --evidence judges it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gpugate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    gather.add(commands)
    plan.add(commands)
    return parser
