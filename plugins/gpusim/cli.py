"""The command line of the simulated fleet. Exit codes: 0 done, 1 cannot be done (one sentence says why), 2 misuse."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from gpusim import kernel_log
from gpusim.errors import GpusimError, unknown
from gpusim.fleet import control, description
from gpusim.fleet.control import MODES
from gpusim.host_processes import HostProcess
from gpusim.node import Node, all_faults, allowed
from gpusim.paths import FleetLayout

DEFAULT = Path("inventory/simulated/fleet.yml")


def project() -> Path:
    """The nearest folder, from here upwards, that holds a fleet or the description of one; else the current one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".gpusim/fleet.json").exists() or (folder / DEFAULT).exists():
            return folder
    return here


def _layout(args: argparse.Namespace) -> FleetLayout:
    return FleetLayout((args.dir or project() / ".gpusim").absolute())


def _described(args: argparse.Namespace) -> description.FleetDescription:
    found = description.load(args.fleet or project() / DEFAULT, allowed())
    return found.only(args.nodes) if args.nodes else found


def _node(args: argparse.Namespace) -> Node:
    layout = _layout(args)
    nodes = control.current(layout).nodes
    for node in nodes:
        if node.name == args.node:
            return Node(layout.node(node.name))
    raise unknown("node", args.node, [node.name for node in nodes])


def _up(args: argparse.Namespace) -> None:
    from gpusim.fleet import fleet  # here, because SSH takes longer to import than most commands to run

    described, layout = _described(args), _layout(args)
    begun = time.monotonic()
    names = [node.name for node in described.nodes]
    what = f"{len(names)} node{'s' if len(names) > 1 else ''} ({names[0]}{'..' + names[-1] if len(names) > 1 else ''})"
    if fleet.up(described, layout, args.drivers):
        print(f"up: {what} in {time.monotonic() - begun:.1f} s; try ssh -F {layout.ssh_config} {names[0]} hostname")
    else:
        print(f"already up: {what} in {layout.dir}")


def _down(args: argparse.Namespace) -> None:
    from gpusim.fleet import fleet

    layout = _layout(args)
    print(f"{'down' if fleet.down(layout) else 'nothing was up'}: {layout.dir}")


def _status(args: argparse.Namespace) -> None:
    layout = _layout(args)
    described = control.current(layout)
    answer = control.ask(layout, op="status")
    since = time.strftime("%H:%M:%S", time.localtime(answer["started"]))
    print(f"up since {since}, process {answer['pid']}, {layout.dir}")
    for node in described.nodes:
        served = answer["nodes"][node.name]
        faults = ", ".join(Node(layout.node(node.name)).faults()) or "no faults"
        print(
            f"{node.name:<12} {node.address}:{described.port}  {served['mode']:<9} {node.gpus} x {node.board}, "
            f"driver {node.driver}, {faults}"
        )


def _inventory(args: argparse.Namespace) -> None:
    from gpusim.fleet import access

    print(yaml.safe_dump(access.inventory(_described(args), str(_layout(args).dir)), sort_keys=False), end="")


def _show(args: argparse.Namespace) -> None:
    for key, value in _node(args).show(args.key).items():
        print(f"{key}: {str(value).lower() if isinstance(value, bool) else value}")


def _set(args: argparse.Namespace) -> None:
    _node(args).set(args.key, args.value)


def _inject(args: argparse.Namespace) -> None:
    node = _node(args)
    if args.function:
        if args.fault or (args.code is None and not args.hang):
            raise GpusimError("give either the name of a fault, or --function with --code or --hang")
        node.inject_rule(
            args.function, args.code or 0, after=args.after, times=args.times, gpu=args.gpu, hang=args.hang
        )
    elif args.fault:
        node.inject(args.fault, args.gpu)
    else:
        raise GpusimError("give the name of a fault (`gpusim faults` lists them), or --function with --code or --hang")


def _clear(args: argparse.Namespace) -> None:
    _node(args).clear()


def _faults(args: argparse.Namespace) -> None:
    for name, doc in sorted(all_faults().items()):
        print(f"{name:<24} {doc}")


def _process_add(args: argparse.Namespace) -> None:
    node = _node(args)
    pid = args.pid or node.free_pid()
    process = HostProcess(pid, args.command, args.user, args.unit, args.container)
    node.add_process(process, args.gpu, args.memory_mib, args.kind)
    print(pid)


def _process_remove(args: argparse.Namespace) -> None:
    _node(args).remove_process(args.pid)


def _kmsg(args: argparse.Namespace) -> None:
    kernel_log.append(_node(args).paths.root, args.text)


def _mode(args: argparse.Namespace, mode: str) -> None:
    node = _node(args)
    control.ask(_layout(args), op="mode", node=node.paths.name, mode=mode)


def _reboot(args: argparse.Namespace) -> None:
    node = _node(args)
    _mode(args, "refuse")
    node.reboot()
    _mode(args, "serve")


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    top = argparse.ArgumentParser(prog="gpusim", description="A simulated fleet of GPU nodes that serve real SSH.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], doc: str, *, node: bool = False
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=doc, description=doc)
        return _arguments(one, run, node=node)

    for name, run, doc in (
        ("up", _up, "bring a fleet up; --nodes picks some of its nodes"),
        ("inventory", _inventory, "print an Ansible inventory for a fleet"),
    ):
        one = command(name, run, doc)
        one.add_argument("fleet", nargs="?", type=Path, metavar="FLEET.yml", help=f"default: {DEFAULT}")
        one.add_argument("--nodes", nargs="+", metavar="NODE")
        if name == "up":
            one.add_argument(
                "--drivers", type=Path, help="a folder of built drivers to share; default: the fleet's own"
            )
    command("down", _down, "end the fleet and everything that runs on its nodes")
    command("status", _status, "say what is up")
    one = command("show", _show, "show a node's state, or what one key names", node=True)
    one.add_argument("key", nargs="?", help="such as time_scale, gpu.3.power_limit_w, gpu.*.temperature_c")
    one = command("set", _set, "set a node's state", node=True)
    one.add_argument("key")
    one.add_argument("value")
    one = command("inject", _inject, "inject a fault, or make a driver function fail", node=True)
    one.add_argument("fault", nargs="?")
    one.add_argument("--gpu", type=int)
    one.add_argument("--function", help="such as nvmlDeviceGetTemperature or cuInit")
    one.add_argument("--code", type=int, help="the code that it returns")
    one.add_argument("--after", type=int, default=0, help="calls that pass first")
    one.add_argument("--times", type=int, help="calls that fail; default: all")
    one.add_argument("--hang", action="store_true", help="the call never returns")
    command("clear", _clear, "take back every fault, rule, set key and added process of a node", node=True)
    command("faults", _faults, "list the faults by name")
    process = commands.add_parser("process", help="add or remove a process of a node").add_subparsers(
        metavar="add|remove", required=True
    )
    one = _arguments(process.add_parser("add", help="print its pid"), _process_add, node=True)
    one.add_argument("--gpu", type=int, required=True)
    one.add_argument("--pid", type=int)
    one.add_argument("--command", default="/usr/bin/python3 train.py")
    one.add_argument("--memory-mib", type=float, default=1024)
    one.add_argument("--kind", default="compute")
    one.add_argument("--user", default="deploy")
    where = one.add_mutually_exclusive_group()
    where.add_argument("--unit", help="the systemd unit that it belongs to")
    where.add_argument("--container", help="the container that it runs in")
    one = _arguments(process.add_parser("remove"), _process_remove, node=True)
    one.add_argument("--pid", type=int, required=True)
    one = command("kmsg", _kmsg, "append a line to a node's kernel log", node=True)
    one.add_argument("text", help='such as "NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus."')
    command("reboot", _reboot, "reboot a node", node=True)
    one = command(
        "stop", lambda args: _mode(args, args.mode), "take a node off the network; nothing runs on it", node=True
    )
    one.add_argument("--mode", choices=("refuse", "blackhole"), default="refuse", help=_modes("refuse", "blackhole"))
    command("start", lambda args: _mode(args, "serve"), "let a stopped or hanging node answer again", node=True)
    command("hang", lambda args: _mode(args, "hang"), f"let a node hang: it {MODES['hang']}", node=True)
    return top


def _modes(*names: str) -> str:
    return "; ".join(f"{name}: {MODES[name]}" for name in names)


def _arguments(
    one: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], *, node: bool
) -> argparse.ArgumentParser:
    one.set_defaults(run=run)
    one.add_argument("--dir", type=Path, help="the fleet's folder; default: .gpusim of the current project")
    if node:
        one.add_argument("node", metavar="NODE")
    return one


def main(argv: list[str] | None = None) -> int:
    """Run one command."""
    args = parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except GpusimError as error:
        print(f"gpusim: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
