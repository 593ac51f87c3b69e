"""The probe's command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import EvidenceError, NotYet, ProbeError
from ..evidence.frame import pack
from ..evidence.request import ProbeRequest
from . import build, loader
from .burn import command
from .collect import collect
from .document import serialise
from .node import Node
from .orders import probe_request
from .reading import printable
from .summary import summary

DONE, FAILED, USAGE, NOT_YET = 0, 1, 2, 75  # 75: what sendmail calls a temporary failure
_EPILOG = """exit codes:
  0  done; what could not be measured is named in the answer
  1  not done: the settings were refused or did not stick, no document could be made, or a burn went wrong
  2  the command line or the request is wrong
  3  this Python is older than 3.9
  75 not yet: the burn is under way for longer than the request waits; ask again with the same nonce
"""
_MOST_REQUEST_BYTES = 256 * 1024
_REST_S = 600.0  # wall: for what is neither burn nor driver, on a host that is very busy
_BY_HAND = ProbeRequest(nonce="by-hand", profile="by-hand", launch=False)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _see_driver_root(options.driver_root)
        answer: int = options.run(_node(options), options)
    except NotYet as error:
        _progress(f"not yet: {error}")
        return NOT_YET
    except ProbeError as error:
        return _refuse(options, str(error), USAGE)
    return answer


def _node(options: argparse.Namespace) -> Node:
    root = options.rootfs.absolute()
    if not root.is_dir():
        raise ProbeError(f"--rootfs {root} is no folder")
    return Node(root=root, state_dir=(options.state_dir or root / "var/lib/gpugate").absolute())


def _collect(node: Node, options: argparse.Namespace) -> int:
    request = probe_request(_read(options.request)) if options.request else _BY_HAND
    signal.setitimer(signal.ITIMER_REAL, request.patience_s + _REST_S)  # whoever asks may be gone, and cannot end it
    evidence = collect(node, request, _progress)
    try:
        document = serialise(evidence)
        if options.request:
            sys.stdout.buffer.write(pack(document))
        else:
            text = document.decode() if options.json else summary(json.loads(document))
            sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
    except EvidenceError as error:
        return _refuse(options, str(error), FAILED)
    sys.stdout.buffer.flush()
    return DONE


def _identity(node: Node, _: argparse.Namespace) -> int:
    from .identity import identity  # reads NVML's bindings, which `collect` leaves to its child

    print(json.dumps(identity(node), sort_keys=True))
    return DONE


def _settings(node: Node, options: argparse.Namespace) -> int:
    from .settings import apply, settings_request  # for the same reason

    try:
        print(json.dumps(apply(node, settings_request(_read(options.request)), options.check), sort_keys=True))
    except ProbeError as error:
        print(json.dumps({"error": printable(str(error))}))
        return FAILED
    return DONE


def _precompile(_: Node, __: argparse.Namespace) -> int:
    from . import bytecode  # whose own start nobody else has to pay

    print(json.dumps({"bytecode": str(bytecode.write())}))
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpugate-probe",
        description="Measures a GPU node: facts with named gaps, no judgement. Without a command it collects.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_everywhere()],
    )
    parser.set_defaults(rootfs=Path("/"), driver_root=None, state_dir=None, json=False, request=None, run=_collect)
    parser.add_argument("--version", action="version", version=f"gpugate-probe {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    collecting = commands.add_parser("collect", parents=[_everywhere()], help="collect facts (the default)")
    for place in (parser, collecting):
        nothing = argparse.SUPPRESS
        place.add_argument("--json", action="store_true", default=nothing, help="the document instead of a summary")
        place.add_argument("--request", metavar="FILE", default=nothing, help="answer it (-: stdin) with one frame")
    collecting.set_defaults(run=_collect)

    naming = commands.add_parser("identity", parents=[_everywhere()], help="machine id, boot id, host name, GPU UUIDs")
    naming.add_argument("--json", action="store_true", help="as JSON (it always is)")
    naming.set_defaults(run=_identity)

    setting = commands.add_parser(
        "settings", parents=[_everywhere()], help="bring persistence and power limits to policy"
    )
    setting.add_argument("--request", metavar="FILE", required=True, help="what is wanted (- is standard input)")
    setting.add_argument("--check", action="store_true", help="change nothing, say what would be changed")
    setting.set_defaults(run=_settings)

    compiling = commands.add_parser(
        "precompile", parents=[_everywhere()], help="start faster with this Python from now on"
    )
    compiling.set_defaults(run=_precompile)

    command.add(commands, _everywhere, _read)
    return parser


def _everywhere() -> argparse.ArgumentParser:
    """Options of the probe and of each of its commands: a new parser each time, as argparse shares defaults by object.

    They have no default here, since a command's would be put over what stood before the command.
    """
    everywhere = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    where = everywhere.add_argument_group("where the node is")
    where.add_argument("--rootfs", type=Path, metavar="DIR", help="the node's root as seen from here (default /)")
    where.add_argument("--driver-root", type=Path, metavar="DIR", help="below which the driver's libraries are")
    where.add_argument("--state-dir", type=Path, metavar="DIR", help="for results (default ROOTFS/var/lib/gpugate)")
    return everywhere


def _see_driver_root(driver_root: Path | None) -> None:
    """Start again with the driver's folders first in the loader's path, which it reads only when a process starts."""
    if driver_root is None:
        return
    folders = ":".join(loader.folders_below(driver_root.absolute()))
    found = os.environ.get("LD_LIBRARY_PATH", "")
    if found == folders or found.startswith(folders + ":"):
        return
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{folders}:{found}" if found else folders}
    program: list[str] = [str(build.archive())] if build.archive() else ["-m", "gpugate.probe"]
    isolated = ["-I"] if sys.flags.isolated else []
    command = [sys.executable, *isolated, *program, *sys.argv[1:]]
    os.execve(sys.executable, command, environment)  # noqa: S606  # itself, no shell


def _read(place: str) -> str:
    try:
        # Standard input stays open: its number must not become that of a lock, which others inherit.
        with contextlib.nullcontext(sys.stdin.buffer) if place == "-" else Path(place).open("rb") as stream:
            data = stream.read(_MOST_REQUEST_BYTES + 1)
        if len(data) > _MOST_REQUEST_BYTES:
            raise ProbeError(f"the request {place} has more than {_MOST_REQUEST_BYTES} bytes")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(f"the request {place} cannot be read: {error}") from error


def _progress(words: Any) -> None:
    print(printable(str(words)), file=sys.stderr, flush=True)


def _refuse(options: argparse.Namespace, sentence: str, code: int) -> int:
    print(f"gpugate-probe: {printable(sentence)}", file=sys.stderr)
    if options.run is _settings:
        print(json.dumps({"error": printable(sentence)}))
        return FAILED
    return code
