"""Memory that policy promises to jobs: allocated in one piece on every GPU, written, read back and freed."""

from __future__ import annotations

from typing import Any

from ...evidence.facts import Gap, to_json
from ...evidence.types import Allocation
from .. import kernels
from ..reading import record
from .driver import Cuda, CudaError
from .each import DEADLINE_S, STEP_S, answer_each, ask_each
from .kernel import NOTHING, Kernels

_VECTOR_BYTES = 16
# Each word its own address, then the same with every bit the other way round: no stuck bit can hide in both.
_THERE, _BACK = (kernels.ADDRESS, 0), (kernels.ADDRESS, 0xFFFFFFFF)
_WALKS = [(NOTHING, _THERE), (_THERE, _BACK), (_BACK, NOTHING)]
_SLOT = 0
_GIB = float(1 << 30)


def allocations(
    uuids: list[str], asked_bytes: int, reserve_bytes: int, deadline_s: float = DEADLINE_S, step_s: float = STEP_S
) -> list[Allocation]:
    """One Allocation for each UUID, in their order, within `deadline_s` wall seconds, `step_s` of silence at most.

    Where `asked_bytes` would leave less than `reserve_bytes` free nothing is allocated: others may live there.
    """
    order = {"asked": asked_bytes, "reserve": reserve_bytes}
    answers = ask_each(__name__, order, uuids, f"allocating {asked_bytes} bytes", deadline_s, step_s)
    return [_allocation(uuid, asked_bytes, answer) for uuid, answer in answers.items()]


def _allocation(uuid: str, asked: int, answer: Any) -> Allocation:
    if isinstance(answer, Gap):
        return record(Allocation, uuid, asked, free_bytes=answer, correct=answer)
    correct = answer["correct"]
    return record(
        Allocation,
        uuid,
        asked,
        free_bytes=answer["free"],
        correct=Gap(**correct) if isinstance(correct, dict) else correct,
    )


def main() -> None:
    """The child."""
    answer_each(_try)


def _try(cuda: Cuda, device: int, order: dict[str, int]) -> dict[str, Any]:
    gpu = Kernels(cuda, device)
    free = cuda.free_bytes()
    return {"free": free, "correct": to_json(_correct(gpu, free, order["asked"], order["reserve"]))}


def _correct(gpu: Kernels, free: int, asked: int, reserve: int) -> bool | Gap:
    """Whether what was written came back from `asked` bytes, rounded up to whole vectors."""
    sizes = f"{_gib(free)} are free, {_gib(asked)} were asked for"
    if free < asked + reserve:
        return Gap(f"not tried: {sizes} and {_gib(reserve)} must stay free beside them")
    vectors = -(-asked // _VECTOR_BYTES)
    try:
        base = gpu.cuda.allocate(vectors * _VECTOR_BYTES)
    except CudaError as error:
        return Gap(f"not to be had in one piece: {sizes}, and {error}", error.code)
    words = vectors * _VECTOR_BYTES // 4
    for expect, write in _WALKS:
        gpu.sweep(base, words, expect, write, False, _SLOT)
    gpu.wait()
    answer = gpu.answer(_SLOT)
    gpu.cuda.free(base)
    if answer.vectors != len(_WALKS) * vectors:
        return Gap(f"the kernel went over {answer.vectors} pieces of 16 bytes, {len(_WALKS) * vectors} were due")
    return answer.threads_completed == gpu.threads_launched and answer.wrong_words == 0


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB"
