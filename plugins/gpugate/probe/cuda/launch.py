"""The known-answer launch: can a fresh process compute on every GPU, and is the answer right?

A child process goes through the GPUs one by one and tells each answer as it has it. Where it hangs or dies, the GPU
that it was at gets the blame, and a new child goes on with the others.
"""

from __future__ import annotations

import time

from ...evidence.facts import Gap
from ...evidence.types import Launch
from ..reading import printable, record
from .driver import Cuda, CudaError
from .fresh import Child, receive, say
from .kernel import BurnKernel

ITERATIONS = 1024
SEED = 20011
DEADLINE_S = 90.0
# cuInit brings up every GPU of the node, where persistence is off one after the other.
STEP_S = 30.0
_INITIALISED = "initialised"


def known_answer_launches(uuids: list[str], deadline_s: float = DEADLINE_S, step_s: float = STEP_S) -> list[Launch]:
    """One Launch for each UUID, in their order, within `deadline_s` wall seconds, `step_s` of silence at most.

    `correct` is a Gap wherever CUDA did not get as far as an answer; its code is the CUresult.
    """
    deadline = time.monotonic() + deadline_s
    told: dict[str, bool | Gap] = {}
    waiting = list(uuids)
    while waiting and time.monotonic() < deadline:
        initialised = False
        child = Child(__name__, waiting)
        try:
            for message in child.messages(deadline, step_s):
                if message == _INITIALISED:
                    initialised = True
                    continue
                uuid, correct, why, code = message
                told[uuid] = correct if why is None else Gap(why, code)
        finally:
            failure = child.end() or "it ended without a word"
        left = [uuid for uuid in waiting if uuid not in told]
        blamed = left[:1] if initialised else left
        stage = "launching" if initialised else "initialising CUDA"
        told.update({uuid: Gap(f"no answer of {uuid}: the process was {stage} and {failure}") for uuid in blamed})
        waiting = left[len(blamed) :]
    late = Gap(f"no kernel was launched within {deadline_s:g} s: other GPUs hung before")
    return [record(Launch, uuid=uuid, correct=told.get(uuid, late)) for uuid in uuids]


def main() -> None:
    """The child: one message [uuid, correct, why not, code] for each GPU."""
    uuids = receive()
    try:
        cuda = Cuda()
        cuda.call("cuInit", 0)
        devices = cuda.devices()
    except CudaError as error:
        _refuse_all(uuids, str(error), error.code)
        return
    except Exception as error:  # whatever it is, it is said in place of an answer
        _refuse_all(uuids, str(error), None)
        return
    say(_INITIALISED)
    for uuid in uuids:
        say([uuid, *_launch(cuda, devices, uuid)])


def _refuse_all(uuids: list[str], why: str, code: int | None) -> None:
    """Say for every GPU that CUDA as a whole does not work."""
    for uuid in uuids:
        say([uuid, None, printable(f"no kernel could be launched: {why}"), code])


def _launch(cuda: Cuda, devices: dict[str, int], uuid: str) -> tuple[bool | None, str | None, int | None]:
    if uuid not in devices:
        seen = ", ".join(devices) or "none"
        return None, f"CUDA does not see {uuid} (it sees {seen})", None
    try:
        kernel = BurnKernel(cuda, devices[uuid])
        kernel.launch(ITERATIONS, SEED)
        kernel.wait()
        answer = kernel.answer()
    except CudaError as error:
        return None, f"{error} on {uuid}", error.code
    return answer.threads_completed == kernel.threads_launched and answer.mismatches == 0, None, None
