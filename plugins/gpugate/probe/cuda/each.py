"""Something done on every GPU in fresh processes, one GPU after the other, so that a hang costs only its own GPU.

A child process goes through the GPUs and tells each answer as it has it. Where it hangs or dies, the GPU that it was at
gets the blame, and a new child goes on with the others.
"""

from __future__ import annotations

import time
from typing import Any, Callable

from ...errors import ProbeError
from ...evidence.facts import Gap
from ..reading import printable
from .driver import Cuda, CudaError
from .fresh import Child, receive, say

DEADLINE_S = 90.0
# cuInit brings up every GPU of the node, where persistence is off one after the other.
STEP_S = 30.0
_INITIALISED = "initialised"


def ask_each(
    module: str, order: Any, uuids: list[str], doing: str, deadline_s: float = DEADLINE_S, step_s: float = STEP_S
) -> dict[str, Any]:
    """What `module`'s children answer for each UUID, or a Gap; its code is the CUresult.

    All of it takes `deadline_s` wall seconds at most, one GPU `step_s` of silence at most. `doing` names the act.
    """
    deadline = time.monotonic() + deadline_s
    told: dict[str, Any] = {}
    waiting = list(uuids)
    while waiting and time.monotonic() < deadline:
        initialised, broke = False, ""
        child = Child(module, {"uuids": waiting, "order": order})
        try:
            for message in child.messages(deadline, step_s):
                if message == _INITIALISED:
                    initialised = True
                    continue
                uuid, answer, why, code = message
                told[uuid] = answer if why is None else Gap(why, code)
        except ProbeError as error:
            broke = str(error)
        finally:
            failure = child.end() or broke or "it ended without a word"
        left = [uuid for uuid in waiting if uuid not in told]
        blamed = left[:1] if initialised else left
        stage = doing if initialised else "initialising CUDA"
        for uuid in blamed:
            told[uuid] = Gap(printable(f"no answer of {uuid}: the process was {stage} and {failure}"))
        waiting = left[len(blamed) :]
    late = Gap(f"not asked within {deadline_s:g} s, the process was {doing}: other GPUs hung before")
    return {uuid: told.get(uuid, late) for uuid in uuids}


def answer_each(act: Callable[[Cuda, int, Any], Any]) -> None:
    """The child: `act(cuda, CUDA's device, order)` on each GPU, its answer told as [uuid, answer, why not, code]."""
    task = receive()
    uuids, order = task["uuids"], task["order"]
    try:
        cuda = Cuda()
        cuda.call("cuInit", 0)
        devices = cuda.devices()
    except Exception as error:  # whatever it is, it is said in place of an answer
        why = printable(f"nothing could be done on any GPU: {error}")
        for uuid in uuids:
            say([uuid, None, why, getattr(error, "code", None)])
        return
    say(_INITIALISED)
    for uuid in uuids:
        say([uuid, *_one(cuda, devices, uuid, order, act)])


def _one(
    cuda: Cuda, devices: dict[str, int], uuid: str, order: Any, act: Callable[[Cuda, int, Any], Any]
) -> tuple[Any, str | None, int | None]:
    if uuid not in devices:
        seen = ", ".join(devices) or "none"
        return None, f"CUDA does not see {uuid} (it sees {seen})", None
    try:
        return act(cuda, devices[uuid], order), None, None
    except CudaError as error:
        return None, printable(f"{error} on {uuid}"), error.code
    except ProbeError as error:
        return None, printable(f"{error} on {uuid}"), None
