"""The memory test's kernel on the simulated driver: patterns written, compared and found wrong."""

from __future__ import annotations

import ctypes
import resource
import struct

import pytest
from cuda_calls import Burn, CudaError
from driver_node import MakeNode
from gpugate.probe.kernels import ADDRESS, FIXED, MEMORY_ROLE, RANDOM, STREAM

GIB = 1 << 30


def _random(word: int, seed: int) -> int:
    h = (word * 0x9E3779B1 & 0xFFFFFFFF) ^ (word >> 32) ^ seed
    h = (h ^ h >> 15) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


@pytest.mark.parametrize(
    ("kind", "seed", "words"),
    [
        (FIXED, 0xA5A5A5A5, [0xA5A5A5A5] * 3),
        (ADDRESS, 0xFF, [0xFF ^ word for word in (5, 6, 7)]),
        (RANDOM, 99, [_random(word, 99) for word in (5, 6, 7)]),
        (STREAM, 0, [(word * 0x9E3779B1 + 0x7F4A7C15) % 2**32 for word in (5, 6, 7)]),
    ],
)
def test_a_pattern_is_what_can_be_read(make_node: MakeNode, kind: int, seed: int, words: list[int]) -> None:
    """Words count from the launch's base; a copy begins where it likes."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda())
    base = burn.allocate(4096) + 256
    burn.memory(base, 64, write=(kind, seed))
    assert burn.copy(base + 20, 3) == words
    assert burn.copy(base + 22, 1)[0] == words[0] >> 16 | (words[1] & 0xFFFF) << 16
    assert burn.copy(base + 256, 2) == [0, 0]
    assert burn.read().words[:4] == [2 * 132 * 512, 0, 0, burn.stream_words // 4 + 16]
    burn.close()


def test_moving_inversions_over_all_of_the_memory_cost_the_host_nothing(make_node: MakeNode) -> None:
    """95% of what is free, up and down, every pattern: no mismatch, in the memory's time, without host memory."""
    burn = Burn(make_node(gpus=1, time_scale=1000).cuda(), chunks=1)
    unused, total = ctypes.c_size_t(), ctypes.c_size_t()
    burn.cuda.call("cuMemGetInfo_v2", ctypes.byref(unused), ctypes.byref(total))
    size = int(unused.value * 0.95) // 16 * 16
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    base, words = burn.allocate(size), size // 4
    burn.memory(base, words, write=(FIXED, 0))
    for expect, write, descending in (
        ((FIXED, 0), (FIXED, 0xFFFFFFFF), False), ((FIXED, 0xFFFFFFFF), (FIXED, 0), False),
        ((FIXED, 0), (FIXED, 0xFFFFFFFF), True), ((FIXED, 0xFFFFFFFF), (ADDRESS, 0), True),
        ((ADDRESS, 0), (RANDOM, 7), False), ((RANDOM, 7), (0, 0), False),
    ):  # fmt: skip
        burn.memory(base, words, expect, write, descending=descending)
    seconds = burn.seconds(lambda: burn.memory(base, words, (RANDOM, 7), (RANDOM, 7)))
    assert 2 * size / seconds == pytest.approx(3350e9 * 0.92, rel=0.01)
    assert burn.read().wrong == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    burn.free(base)
    after, _ = ctypes.c_size_t(), ctypes.c_size_t()
    burn.cuda.call("cuMemGetInfo_v2", ctypes.byref(after), ctypes.byref(total))
    assert after.value == unused.value
    burn.close()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ((FIXED, 0), (FIXED, 1)),
        ((RANDOM, 7), (RANDOM, 8)),
        ((ADDRESS, 0), (RANDOM, 0)),
        (None, (FIXED, 5)),
    ],
)
def test_what_was_not_written_is_wrong_everywhere(
    make_node: MakeNode, written: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    """Each word counts; the first are recorded in the order in which they are met."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda())
    words = GIB // 4
    base = burn.allocate(GIB)
    if written:
        burn.memory(base, words, write=written)
    burn.memory(base, words, expected)
    result = burn.read()
    assert result.wrong == words
    records = result.records()
    assert [r.word for r in records] == list(range(16))
    assert {(r.role, r.block, r.launch) for r in records} == {(MEMORY_ROLE, 0, burn.launches)}
    assert [r.thread for r in records] == [word // 4 for word in range(16)]
    assert all(r.expected != r.found for r in records)
    burn.clear()
    burn.memory(base, words, expected, descending=True)
    records = burn.read().records()
    assert [r.word for r in records] == [words - 1 - i for i in range(16)]
    assert records[0].thread == 0
    burn.close()


def test_a_pattern_of_another_base_is_another_pattern(make_node: MakeNode) -> None:
    """Addresses count from the base, a fixed word does not care."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda())
    base = burn.allocate(2 * GIB)
    burn.memory(base, GIB // 2, write=(ADDRESS, 0))
    burn.memory(base + GIB, GIB // 4, (ADDRESS, 0))
    assert burn.read().wrong == GIB // 4
    burn.memory(base, GIB // 2, write=(FIXED, 3))
    burn.memory(base + GIB, GIB // 4, (FIXED, 3))
    assert burn.read().wrong == GIB // 4
    burn.close()


def test_a_word_that_somebody_changed_is_found(make_node: MakeNode) -> None:
    """A copy or a fill into the middle of a pattern is met where it is, once overwritten it is gone."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda())
    words = GIB // 4
    base = burn.allocate(GIB)
    burn.memory(base, words, write=(RANDOM, 1))
    burn.write(base + 4 * 1_000_001, struct.pack("<I", _random(1_000_001, 1) ^ 0x10))
    burn.write(base + 4 * 2_000_000, struct.pack("<I", _random(2_000_000, 1)))
    burn.memory(base, words, (RANDOM, 1))
    (found,) = burn.read().records()
    assert (found.word, found.expected ^ found.found) == (1_000_001, 0x10)
    assert found.block == 1_000_001 // 4 % (132 * 512) // 512
    burn.cuda.call("cuMemsetD32_v2", ctypes.c_uint64(base), 5, ctypes.c_size_t(8))
    burn.memory(base, words, (RANDOM, 1), (FIXED, 0))
    burn.memory(base, words, (FIXED, 0))
    assert burn.read().wrong == 1 + 1 + 8
    burn.close()


def test_a_big_fill_is_a_pattern(make_node: MakeNode) -> None:
    """A memset of a whole buffer compares as the fixed word that it is."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda())
    base = burn.allocate(GIB)
    burn.zero(base, GIB)
    burn.memory(base, GIB // 4, (FIXED, 0))
    assert burn.read().wrong == 0
    burn.close()


def test_a_bad_cell_is_found_by_the_memory_test_alone(make_node: MakeNode) -> None:
    """It reads as 1: patterns that have a 0 there show it, always at the same place; the burn's buffer is elsewhere."""
    node = make_node(gpus=1, time_scale=1000)
    node.state.apply("wrong_memory")
    burn = Burn(node.cuda(), chunks=256)
    burn.launch()
    burn.launch()
    unused, total = ctypes.c_size_t(), ctypes.c_size_t()
    burn.cuda.call("cuMemGetInfo_v2", ctypes.byref(unused), ctypes.byref(total))
    words = unused.value * 95 // 100 // 16 * 4
    base = burn.allocate(4 * words)
    assert burn.read().wrong == 0
    for value, wrong in ((0, 1), (0xFFFFFFFF, 0), (0, 1)):
        burn.clear()
        burn.memory(base, words, write=(FIXED, value))
        burn.memory(base, words, (FIXED, value))
        result = burn.read()
        assert result.wrong == wrong
        if wrong:
            (found,) = result.records()
            assert (found.expected, found.found) == (0, 0x1000)
            assert 0.5 < found.word / words < 0.7
    burn.close()


def test_addresses_of_the_memory_test_are_checked(make_node: MakeNode) -> None:
    """Beyond the allocation 700, not on 16 bytes 716."""
    burn = Burn(make_node(gpus=1).cuda())
    base = burn.allocate(4096)
    for address, words, code in ((base, 1028, 700), (base + 16, 1024, 700), (64, 4, 700), (base + 4, 4, 716)):
        with pytest.raises(CudaError) as caught:
            burn.memory(address, words)
        assert caught.value.code == code
    burn.close()
