"""What host and device code agree on, by name: entries, roles, patterns and the words of a result.

A result is RESULT_WORDS u64 that launches only ever add to:

    [0] threads completed  [1] wrong words  [2] records claimed  [3] 16-byte vectors that MEMORY has done
    [4 + role] rounds of a warp done in that role, for roles 1 to 5
    [16 + 6 i ...] record i < MOST_RECORDS: role (6: memory) | multiprocessor << 32, block | thread in block << 32,
        launch | round << 32, index of the word, expected | found << 32, 1 once the five before it are written

The index of a word is, for tensor work, (i * 4 + j) * registers of C + register; for fma the chain; for stream and
memory the 32-bit word's place from the start of the buffer.
"""

from __future__ import annotations

BURN, MEMORY = "gpugate_burn", "gpugate_memory"
WARPS_A_BLOCK = 16
THREADS_A_BLOCK = 32 * WARPS_A_BLOCK

RESULT_WORDS = 112
MOST_RECORDS = 16

ROLES = {"fma": 1, "f16": 2, "bf16": 3, "s8": 4, "stream": 5}
MEMORY_ROLE = 6

SETS = 4  # of operands: a warp takes them in turn, one a round
TILES = 4  # fragments of A, and of B, that a warp holds: their 16 products are one pass
PASSES = 25  # odd: with B's sign changing (+ + - + - ... + -), what is left is one A x B
CHAINS, STEPS = 8, 128  # of fma: chains a thread, steps a round
STREAM_CHUNK_BYTES = 8192  # a warp's 32 lanes, 16 vectors of 16 bytes each
STREAM_CHUNKS = 16  # a round

FIXED, ADDRESS, RANDOM, STREAM = 1, 2, 3, 4  # kinds of memory pattern; 0 is none
