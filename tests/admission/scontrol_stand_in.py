"""A stand-in for scontrol over a JSON file: prints and changes nodes as Slurm's update_node does, and logs its calls.

    {"nodes": {"gpu0": ["IDLE+DRAIN", "reason"]}, "refused": ["gpu3"], "hangs": "", "exit": ""}

The user is always root. An update stops at the first node of `refused`; those before it are done. `hangs` is the word
(show, update) whose call never returns; an update that hangs is done.
"""

import json
import sys
import time
from pathlib import Path

FILE = Path(sys.argv[0]).with_name("nodes.json")


def main(arguments: list[str]) -> int:
    """What scontrol would exit with."""
    with FILE.with_name("calls").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    world = json.loads(FILE.read_text())
    if world["hangs"] == "show" and "show" in arguments:
        time.sleep(60)
    if world["exit"]:
        print(world["exit"], file=sys.stderr)
        return 1
    if arguments == ["--all", "show", "node"]:
        for name, (state, reason) in world["nodes"].items():
            said = f"   Reason={reason} [root@2026-03-01T12:00:00Z]\n" if reason else ""
            print(f"NodeName={name} Arch=x86_64 \n   State={state} Weight=1 \n   Partitions=gpu \n{said}")
        return 0
    verb, names, *settings = arguments
    assert verb == "update", arguments
    values = dict(setting.split("=", 1) for setting in settings)
    try:
        for name in names.removeprefix("NodeName=").split(","):
            if name in world["refused"] or name not in world["nodes"]:
                print("slurm_update error: Invalid node name specified", file=sys.stderr)
                return 1
            undrained = values["State"] == "UNDRAIN"
            world["nodes"][name] = ["IDLE", ""] if undrained else ["IDLE+DRAIN", values["Reason"]]
    finally:
        FILE.write_text(json.dumps(world))
    if world["hangs"] == "update":
        time.sleep(60)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
