"""The memory kernel: patterns as the interface has them, in both directions, each wrong word with its place."""

from __future__ import annotations

import pytest
from cards import FIRST_MULTIPROCESSOR, VECTOR, Buffer, Card, Record, words
from gpugate.probe import kernels

M32 = 0xFFFFFFFF
FIXED, ADDRESS, RANDOM, STREAM = kernels.FIXED, kernels.ADDRESS, kernels.RANDOM, kernels.STREAM
SIZE = 4 * (512 * 9 + 77)  # words: two times four vectors for each thread of a block, and an odd rest


def pattern(kind: int, seed: int, w: int) -> int:
    """A word of a pattern, from its definition."""
    if kind == FIXED:
        return seed
    if kind == ADDRESS:
        return w & M32 ^ seed
    if kind == STREAM:
        return (w * 0x9E3779B1 + 0x7F4A7C15) & M32
    h = (w & M32) * 0x9E3779B1 & M32 ^ w >> 32 ^ seed
    h = (h ^ h >> 15) * 0x85EBCA6B & M32
    h = (h ^ h >> 13) * 0xC2B2AE35 & M32
    return h ^ h >> 16


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("grid", [1, 3])
@pytest.mark.parametrize(
    ("kind", "seed"), [(FIXED, 0), (FIXED, 0xAAAAAAAA), (ADDRESS, 0), (ADDRESS, M32), (RANDOM, 7), (STREAM, 5)]
)
def test_a_pattern_is_written_and_found(card: Card, kind: int, seed: int, grid: int, descending: bool) -> None:
    """Every word of a buffer becomes what the pattern says, and is found to be it."""
    buffer = words(SIZE)

    written = card.memory(buffer, write=(kind, seed), grid=grid, descending=descending)
    assert buffer.words() == [pattern(kind, seed, w) for w in range(SIZE)]
    assert (written.completed, written.vectors, written.wrong) == (512 * grid, SIZE // 4, 0)

    found = card.memory(buffer, expect=(kind, seed), grid=grid, descending=not descending)
    assert (found.completed, found.vectors, found.wrong) == (2 * 512 * grid, SIZE // 2, 0)
    assert buffer.words() == [pattern(kind, seed, w) for w in range(SIZE)]


def test_expecting_and_writing_in_one_launch(card: Card) -> None:
    """A moving inversion: what was there is compared, then its successor stands there."""
    buffer = words(SIZE)
    card.memory(buffer, write=(FIXED, 0x55555555))

    card.memory(buffer, expect=(FIXED, 0x55555555), write=(FIXED, 0xAAAAAAAA))
    result = card.memory(buffer, expect=(FIXED, 0xAAAAAAAA), write=(RANDOM, 3), descending=True)

    assert result.wrong == 0
    assert buffer.words() == [pattern(RANDOM, 3, w) for w in range(SIZE)]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("word", [0, 3, 4 * 512 + 6, 4 * (3 * 512 + 100) + 1, SIZE - 78, SIZE - 1])
def test_one_flipped_bit_is_located(card: Card, word: int, descending: bool) -> None:
    """Wherever it is, by fours or in the rest: which word it was, what it should have been, and who found it."""
    buffer = words(SIZE)
    card.memory(buffer, write=(RANDOM, 99))
    buffer[word] ^= 1 << 19

    result = card.memory(buffer, expect=(RANDOM, 99), write=(FIXED, 1), descending=descending, launch=77)

    right = pattern(RANDOM, 99, word)
    vector = SIZE // 4 - 1 - word // 4 if descending else word // 4
    assert (result.wrong, result.claimed) == (1, 1)
    assert result.records == [
        Record(6, FIRST_MULTIPROCESSOR, 0, vector % 512, 77, 0, word, right, right ^ 1 << 19),
    ]
    assert buffer.words() == [1] * SIZE


def test_memory_that_was_never_written_is_wrong_all_over(card: Card) -> None:
    """Each word counts, not each record."""
    result = card.memory(words(SIZE), expect=(ADDRESS, 0xFFFF0000), grid=2)

    assert (result.wrong, len(result.records)) == (SIZE, 16)
    assert all(record.expected == record.word ^ 0xFFFF0000 and record.found == 0 for record in result.records)


def test_a_wrong_read_is_found(card: Card) -> None:
    """A bit that only the bus turns is wrong too."""
    buffer = words(SIZE)
    card.memory(buffer, write=(STREAM, 0))
    card.fault(VECTOR, thread=200, index=3, first=2, flip=1 << 8)

    (record,) = card.memory(buffer, expect=(STREAM, 0)).records

    assert (record.thread, record.word) == (200, 4 * (2 * 512 + 200) + 3)


@pytest.mark.parametrize("kind", [ADDRESS, RANDOM, STREAM])
def test_neighbouring_words_differ(card: Card, kind: int) -> None:
    """A word that lands at another place is wrong there: patterns that depend on the place never repeat nearby."""
    buffer = words(SIZE)
    card.memory(buffer, write=(kind, 12345))

    assert len(set(buffer.words())) == SIZE


def test_less_than_a_vector_is_nothing(card: Card) -> None:
    """No words at all are no work, and no mistake."""
    result = card.memory(Buffer(b""), expect=(FIXED, 1), write=(FIXED, 2))

    assert (result.completed, result.vectors, result.wrong) == (512, 0, 0)


@pytest.mark.parametrize("kind", [FIXED, ADDRESS, RANDOM, STREAM])
def test_far_words_are_the_patterns(card: Card, kind: int) -> None:
    """Beyond the 16 GiB that 32 bits of words count, patterns go on as they are defined; the CPU has no such buffer."""
    far = [(1 << 32) - 1, 1 << 32, (1 << 32) + 1, (5 << 32) + 77, (1 << 36) + 12345]

    assert [card.pattern(kind, 99, w) for w in far] == [pattern(kind, 99, w) for w in far]
    assert kind != RANDOM or card.pattern(kind, 99, 5 << 32) != card.pattern(kind, 99, 0)
