"""The known-answer launch: can a fresh process compute on every GPU, with all that the GPU has, and is it right?"""

from __future__ import annotations

from typing import Any

from ...errors import ProbeError
from ...evidence.types import Launch
from .. import kernels
from ..reading import record
from .driver import Cuda
from .each import DEADLINE_S, STEP_S, answer_each, ask_each
from .kernel import Kernels, warps_of

_ROUNDS = kernels.SETS  # rounds take the sets of the tables in turn
_UNLIMITED_CYCLES = 1 << 62
_SLOT = 0


def known_answer_launches(uuids: list[str], deadline_s: float = DEADLINE_S, step_s: float = STEP_S) -> list[Launch]:
    """One Launch for each UUID, in their order, within `deadline_s` wall seconds, `step_s` of silence at most.

    `correct` is a Gap wherever CUDA did not get as far as an answer; its code is the CUresult.
    """
    answers = ask_each(__name__, None, uuids, "launching", deadline_s, step_s)
    return [record(Launch, uuid=uuid, correct=answer) for uuid, answer in answers.items()]


def main() -> None:
    """The child."""
    answer_each(_launch)


def _launch(cuda: Cuda, device: int, _order: Any) -> bool:
    """Whether each work that the GPU has gives what is known, on every warp. ProbeError where one was not done."""
    gpu = Kernels(cuda, device)
    chunks = gpu.blocks * kernels.WARPS_A_BLOCK
    buffer = cuda.allocate(chunks * kernels.STREAM_CHUNK_BYTES)
    due = {}
    for work in gpu.works:
        roles = kernels.roles(work, gpu.capability)
        if work == "stream":
            gpu.stream_over(buffer, chunks * kernels.STREAM_CHUNK_BYTES, roles, _SLOT)
        gpu.burn(roles, _ROUNDS, _UNLIMITED_CYCLES, _SLOT)
        due[work] = _ROUNDS * gpu.blocks * warps_of(roles, work)
    gpu.wait()
    answer = gpu.answer(_SLOT)
    for work, rounds in due.items():
        if answer.rounds[work] != rounds:
            raise ProbeError(f"{work} did {answer.rounds[work]} rounds of {rounds}")
    return answer.threads_completed == gpu.threads_launched and answer.wrong_words == 0
