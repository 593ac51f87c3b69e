/* The kernels that the simulator runs: what they share. Their interface is the one of the CUDA C++ source that ships
 * with the probe; numbers here are that interface's. */
#ifndef GPUSIM_CUDA_KERNELS_H
#define GPUSIM_CUDA_KERNELS_H

#include "cuda_common.h"

enum { LANES = 32, WARPS_A_BLOCK = 16, THREADS_A_BLOCK = LANES * WARPS_A_BLOCK };
enum { SETS = 4, TILES = 4, PASSES = 25 };                 /* of tensor work */
enum { STREAM_CHUNKS = 16, STREAM_CHUNK_WORDS = 8192 / 4 }; /* chunks of a round */
enum role { IDLE, FMA, F16, BF16, S8, STREAM_WORK, MEMORY_WORK };
#define ROLES (STREAM_WORK + 1)
enum { RESULT_WORDS = 112, RESULT_ROUNDS = 4, RESULT_RECORDS = 16, MOST_RECORDS = 16, RECORD_WORDS = 6 };
enum pattern_kind { NOTHING, FIXED, ADDRESS, RANDOM, STREAM_FILL, STREAMED };

/* Where one wrong word was found. */
struct place {
    enum role role;
    uint32_t sm, block, thread, launch, round;
    uint64_t word;
    uint32_t expected, found;
};

/* Adds one wrong word to the result and records it while there is room. */
void result_wrong(uint64_t *result, const struct place *place);
/* Adds wrong words beyond those that were recorded. */
void result_wrong_too(uint64_t *result, uint64_t words);
/* The result buffer at this address, in host memory; NULL when it is none. */
uint64_t *result_at(uint64_t address);

/* What stands in device memory. A pattern is kept as such and never written out, so that terabytes cost nothing; all
 * else is in the allocation's host memory. Offsets are bytes in the allocation. */
struct pattern {
    enum pattern_kind kind;
    uint32_t seed;
    uint64_t base;            /* offset of the word 0 */
    uint64_t streamed_chunks; /* STREAMED: the sum of all warps' progress */
};
struct piece {
    uint64_t from, to;
    struct pattern pattern;
};
uint32_t pattern_word(enum pattern_kind kind, uint32_t seed, uint64_t word);
void contents_write(struct allocation *a, uint64_t from, uint64_t to, const struct pattern *pattern);
/* Whatever stood there: from now on it is what host memory holds. */
void contents_forget(struct allocation *a, uint64_t from, uint64_t to);
/* The same, after writing patterns out. */
void contents_settle(struct allocation *a, uint64_t from, uint64_t to);
void contents_read(const struct allocation *a, uint64_t from, void *to, uint64_t size);
/* The piece of one content that begins at `from` and ends at `to` or earlier; kind NOTHING: host memory. */
struct piece contents_piece(const struct allocation *a, uint64_t from, uint64_t to);

/* The allocation around `size` bytes at `address`, `*from` their offset; NULL: there is none. */
struct allocation *allocation_around(uint64_t address, uint64_t size, uint64_t *from);

/* The tables of the compute works. */
enum { MOST_WRONG_GOLDEN = 64 };
struct wrong_golden {
    enum role role;
    uint32_t set, lane, word, expected, found;
};
struct table_check {
    uint64_t written; /* of the allocation, when it was checked */
    uint64_t offset;
    int has[ROLES];              /* the region is there, whole */
    uint32_t known;              /* of `wrong` */
    uint64_t count[ROLES][SETS]; /* wrong words of one warp in one round */
    struct wrong_golden wrong[MOST_WRONG_GOLDEN];
};
/* Computes all tiles and chains once for each upload; NULL: there is no room for its head. */
const struct table_check *tables_check(struct allocation *a, uint64_t offset, const struct sim_device *d);
/* The golden word of a lane. */
uint32_t tables_golden(const struct allocation *a, uint64_t offset, const struct sim_device *d, enum role role,
                       uint32_t set, uint32_t lane, uint32_t word);
uint32_t tables_registers(const struct sim_device *d, enum role role); /* of one accumulator tile, a thread */
int tables_have(const struct sim_device *d, enum role role);

/* One launch of `gpugate_burn`. */
struct burn {
    struct sim_device *d;
    uint64_t *result, blocks, roles, tables, stream, chunks, progress; /* addresses; chunks of a stream warp's slice */
    uint32_t launch;
    uint32_t warps[ROLES], rounds[ROLES]; /* warps of a block by role, and the rounds of each such warp */
    double round_s[ROLES];
    struct allocation *tables_in, *stream_in;
    const struct table_check *check;
    uint64_t stream_from;
    uint32_t *progressed; /* chunks done by each stream warp since the fill, modulo those of two passes */
};
/* IDLE too where the warp of another role has nothing to do. */
enum role burn_role_of(const struct burn *b, unsigned int warp);
unsigned int burn_first_warp(const struct burn *b, enum role role);

/* Finds buffer and progress of the stream warps. */
CUresult traffic_find(struct burn *b);
/* Lets them do their rounds. */
void traffic_run(const struct burn *b);
uint32_t traffic_word(const struct burn *b, uint64_t word, uint32_t progress);

/* Is this launch with these rounds to go wrong, how (CORRUPTION_NONE: it is not) and in which role? */
uint32_t corruption_armed(struct sim_device *d, const uint32_t rounds[ROLES], enum role *role);

/* Counts the launch, and loses the GPU when that is due; 1 when the launch is one that never ends. */
int launch_count(struct sim_device *d);

CUresult burn_launch(struct sim_state *s, struct sim_device *d, uint64_t blocks, void *const *parameters);
CUresult memtest_launch(struct sim_state *s, struct sim_device *d, uint64_t blocks, void *const *parameters);

#endif
