"""The commands that burn: in the foreground, or detached with start, status, fetch and stop."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from typing import Any, Callable

from ...evidence.facts import Gap, to_json
from ...evidence.request import MIX, WORKS, BurnRequest
from ...evidence.types import Burn
from .. import orders
from ..node import Node
from ..reading import printable
from ..summary import burn_summary
from . import keeper, runs
from .live import line
from .run import Begun, outcome, start
from .runs import Run
from .screen import Screen

DONE, FAILED = 0, 1
_EPILOG = """exit codes:
  0  burnt: everything asked for was done and every answer was right; of start, status, fetch and stop: done
  1  not done: refused, aborted, lost, still under way (fetch), no such burn; or an answer was wrong
  2  the command line or the request is wrong

A burn belongs to nobody's session: when this process, its terminal or its connection ends, the burn goes on to its
own end, and `burn status` and `burn fetch` find it. Ctrl-C stops it. No burn outlasts its deadline.
"""
_MIN_S, _MAX_S = 30.0, 180.0
_HEADROOM_C = 5.0
_BESIDE_S = 180.0  # wall: for the rise, the rates of each work, and the memory test


def add(commands: Any, everywhere: Callable[[], argparse.ArgumentParser], read: Callable[[str], str]) -> None:
    """Put `burn` and what is below it among `commands`. `read` gives the text of a request."""

    def command(under: Any, name: str, words: str, run: Callable[..., int], **how: Any) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = under.add_parser(
            name,
            parents=[everywhere()],
            help=words,
            description=f"{words[0].upper()}{words[1:]}.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **how,
        )
        made.set_defaults(run=_guarded(run))
        return made

    burning = command(commands, "burn", "load all GPUs together and show what they do under load", _foreground)
    so_long = (
        f"burn so long, in the GPUs' own time (default: until the steady state is clear, {_MIN_S:g} to {_MAX_S:g})"
    )
    burning.add_argument("--duration", type=_seconds, metavar="S", help=so_long)
    works = [MIX, *(work for work in WORKS if work != "memory")]
    burning.add_argument("--work", choices=works, default=MIX, help="what to load them with (default %(default)s)")
    burning.add_argument("--no-memory", action="store_true", help="leave the memory test out")
    left = "degrees below slowdown that the steady state has to keep (default %(default)g)"
    burning.add_argument("--headroom", type=_degrees, default=_HEADROOM_C, metavar="C", help=left)
    burning.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="the evidence, not a summary")
    below = burning.add_subparsers(title="detached burns", metavar="COMMAND")

    def starting(node: Node, options: argparse.Namespace) -> int:
        return _start(node, orders.burn_request("the request", orders.plain(read(options.request))))

    begin = command(below, "start", "start a burn and leave it to itself; says its id as JSON", starting)
    begin.add_argument("--request", metavar="FILE", required=True, help="how to burn, as JSON (-: stdin)")
    telling = command(below, "status", "what the burns of this node are at", _status)
    telling.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")
    fetching = command(below, "fetch", "the evidence of a burn that is over, as JSON", _fetch)
    ending = command(below, "stop", "end a burn in good order; it keeps what it has measured", _stop)
    for place in (telling, fetching, ending):
        place.add_argument("id", nargs="?", metavar="ID", help="which burn (default: the newest; status: all)")


def _guarded(run: Callable[[Node, argparse.Namespace], int]) -> Callable[[Node, argparse.Namespace], int]:
    """The same, with a sentence for a state folder that is another user's or broken."""

    def guarded(node: Node, options: argparse.Namespace) -> int:
        try:
            return run(node, options)
        except OSError as error:
            place = error.filename or node.state_dir
            return _failed(f"{place}: {error.strerror}: run it as the user who burnt, or name another --state-dir")

    return guarded


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 86400 seconds")
    return number


def _degrees(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is no number of degrees")
    return number


def _foreground(node: Node, options: argparse.Namespace) -> int:
    most = options.duration or _MAX_S
    request = BurnRequest(
        min_s=options.duration or _MIN_S,
        max_s=most,
        headroom_c=options.headroom,
        abort_below_slowdown_c=0.0,
        deadline_s=2 * most + _BESIDE_S,
        work=options.work,
        memory_share=0.0 if options.no_memory else BurnRequest.memory_share,
    )
    begun = start(request, node.state_dir, node.root)
    if isinstance(begun, Gap):
        return _failed(begun.unavailable)
    found = _watch(begun)
    if found is None:
        return FAILED
    if isinstance(found, Gap):
        return _failed(found.unavailable)
    plain = to_json(found)
    _say(json.dumps(plain) if options.json else burn_summary(plain))
    return DONE if _all_right(found, request) else FAILED


def _watch(begun: Begun) -> Burn | Gap | None:
    """Follow a burn on the terminal; None where the person goes before it has stopped."""
    screen = Screen(sys.stderr)
    title = f"burn {begun.run.id}"
    try:
        try:
            return begun.follow(lambda live: screen.show(title, live))
        except KeyboardInterrupt:
            begun.run.ask_to_stop()
            screen.say("stopping; press Ctrl-C again to leave it to that")
            return begun.follow(lambda live: screen.show(title, live))
    except KeyboardInterrupt:
        screen.say(f"left while it stops: see `gpugate-probe burn status {begun.run.id}`")
        return None


def _all_right(burn: Burn, request: BurnRequest) -> bool:
    """Whether every GPU did all that was asked, and rightly."""
    for gpu in burn.gpus:
        needed = ["mismatches", "threads_completed", *(["memory_test"] if request.memory_share else [])]
        if gpu.ended == "aborted" or any(gpu.gap(name) for name in needed):
            return False
        if gpu.mismatches or gpu.threads_completed != gpu.threads_launched:
            return False
    return True


def _start(node: Node, request: BurnRequest) -> int:
    begun = start(request, node.state_dir, node.root)
    refusal = begun if isinstance(begun, Gap) else begun.begins()
    if refusal:
        return _failed(refusal.unavailable)
    assert not isinstance(begun, Gap)  # noqa: S101  # for mypy
    _say(json.dumps({"id": begun.run.id}))
    return DONE


def _status(node: Node, options: argparse.Namespace) -> int:
    found = _meant(node, options)
    if options.id and not found:
        return _failed(_none(node, options))
    over = outcome(found[0]) if options.id else None
    if options.json:
        _say(json.dumps({"burns": [_state_of(run) for run in found]}))
    elif isinstance(over, Burn):
        _say(burn_summary(to_json(over)))
    else:
        _say("\n".join(words for run in found for words in _words(_state_of(run))) or _none(node, options))
    return DONE


def _state_of(run: Run) -> dict[str, Any]:
    state, live = run.state(), run.read("live") or {}
    over = outcome(run)
    gap = Gap(run.loss()) if state == runs.LOST else over
    return {
        "id": run.id,
        "state": state,
        "pid": live.get("pid"),
        "heard_s_ago": max(0.0, round(time.time() - live["heard_unix_s"], 1)) if live else None,
        "gpus": live.get("gpus", []),
        "why": gap.unavailable if isinstance(gap, Gap) else None,
    }


def _words(state: dict[str, Any]) -> list[str]:
    if state["state"] == runs.DONE:
        return [f"{state['id']}  done: see `gpugate-probe burn status {state['id']}`"]
    if state["why"]:
        return [f"{state['id']}  {state['state']}: {state['why']}"]
    head = f"{state['id']}  {state['state']}, keeper {state['pid']}, heard {state['heard_s_ago']} s ago"
    return [head, *(f"  {line(gpu)}" for gpu in state["gpus"])]


def _fetch(node: Node, options: argparse.Namespace) -> int:
    found = _meant(node, options)
    if not found:
        return _failed(_none(node, options))
    run = found[0]
    state, over = run.state(), outcome(run)
    if isinstance(over, Burn):
        _say(json.dumps(to_json(over)))
        return DONE
    if over:
        return _failed(over.unavailable)
    if state == runs.LOST:
        return _failed(run.loss())
    return _failed(f"burn {run.id} is still under way: follow it with `gpugate-probe burn status`")


def _stop(node: Node, options: argparse.Namespace) -> int:
    found = _meant(node, options)
    if not found:
        return _failed(_none(node, options))
    run = next((run for run in found if run.kept()), found[0])
    if not run.kept():
        _say(f"burn {run.id} is over already: {run.state()}")
        return DONE
    run.ask_to_stop()
    give_up_at = time.monotonic() + keeper.STOP_S + 2 * keeper.LOOK_S
    while run.kept():
        if time.monotonic() >= give_up_at:
            return _failed(f"burn {run.id} did not stop: it is killed at its deadline at the latest")
        time.sleep(0.1)
    _say(f"burn {run.id} stopped: {run.state()}")
    return DONE


def _meant(node: Node, options: argparse.Namespace) -> list[Run]:
    """The run that was named, if it is there; without a name all of them."""
    if options.id is None:
        return runs.runs(node.state_dir)
    run = runs.named(node.state_dir, options.id)
    return [run] if run.folder.is_dir() else []


def _none(node: Node, options: argparse.Namespace) -> str:
    kept = ", ".join(run.id for run in runs.runs(node.state_dir))
    which = f"burn {options.id} is not" if options.id else "no burn is"
    return f"{which} kept below {node.state_dir}" + (f"; there are {kept}" if kept else "")


def _failed(sentence: str) -> int:
    print(f"gpugate-probe: {printable(sentence)}", file=sys.stderr)
    return FAILED


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
        sys.stdout.buffer.flush()
