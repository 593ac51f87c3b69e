"""What Slurm knows of nodes: which there are, and which of them it would start something on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import NotGathered
from ..gather.streams import printable
from ..inventory import Target

SINFO_DEADLINE_S = 60.0
# Long state names of sinfo(1) in which Slurm starts jobs, at once or after those that run; whatever is not named here
# is told with its name.
_STARTS = {"idle", "mixed", "allocated", "completing", "planned", "reserved", "maint"}
_MARKS = "*~#!%$@^-+"
_WRONG_MARKS = {"*": "does not respond", "!": "is being powered down", "%": "is being powered down"}
_REBOOTS = {"@": "waits for a reboot", "^": "is being rebooted"}


@dataclass(frozen=True)
class SlurmNode:
    """One node as sinfo tells it: `state` in the long form with its marks, `reason` as whoever drained it gave it."""

    name: str
    state: str
    reason: str = ""

    @property
    def refusal(self) -> str:
        """Why Slurm would start nothing there, as the rest of a sentence; empty where it would."""
        base, mark = self.state.rstrip(_MARKS), self.state[len(self.state.rstrip(_MARKS)) :]
        why = f" ({self.reason})" if self.reason and self.reason != "none" else ""
        if wrong := {**_WRONG_MARKS, **_REBOOTS}.get(mark):
            return f"{wrong}, as Slurm sees it (state {self.state}){why}: look at its slurmd"
        if base in _STARTS:
            return ""
        if base in ("drained", "draining"):
            return (
                f"is {base} in Slurm{why}, which starts nothing there: gather it with --through=ssh, or keep jobs away "
                "with a maintenance reservation instead"
            )
        look = f"look at it there (scontrol show node {self.name}), or gather it with --through=ssh"
        return f"is {base} in Slurm{why}: {look}"


async def nodes() -> dict[str, SlurmNode]:
    """All nodes of the cluster by name. Raises NotGathered where sinfo cannot say."""
    command = ["sinfo", "--noheader", "--all", "--Node", "--format=%N|%T|%E"]
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise NotGathered(f"sinfo cannot be started ({error.strerror}): run this where Slurm's commands are") from error
    try:
        async with asyncio.timeout(SINFO_DEADLINE_S):
            stdout, stderr = await process.communicate()
    except TimeoutError as error:
        raise NotGathered(f"sinfo gave no answer within {SINFO_DEADLINE_S:g} s: is slurmctld up?") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = printable(stderr.strip().splitlines()[-1]) if stderr.strip() else f"status {process.returncode}"
        raise NotGathered(f"sinfo cannot say which nodes there are: {words}")
    return parse(stdout.decode("utf-8", "backslashreplace"))


def parse(text: str) -> dict[str, SlurmNode]:
    """Nodes from lines of NAME|STATE|REASON; a node stands there once for each of its partitions."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition("|")
        state, _, reason = rest.partition("|")
        found[name.strip()] = SlurmNode(name.strip(), state.strip(), printable(reason.encode()))
    return found


def name_of(target: Target, known: Mapping[str, SlurmNode]) -> str:
    """What Slurm calls a host: what the inventory says, else the same name, or the one without its domain.

    Raises NotGathered where it knows none of them.
    """
    names = [target.node_name] if target.node_name else [target.name, target.name.partition(".")[0]]
    for name in names:
        if name in known:
            return name
    tried = " or ".join(dict.fromkeys(names))
    raise NotGathered(
        f"{target.name} is unknown to Slurm (no node is called {tried}): set gpugate_node_name, or gather it with "
        "--through=ssh"
    )
