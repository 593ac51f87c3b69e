/* The kernel `gpugate_memory`(u64 result, u64 base, u64 words, u32 expect_kind, u32 expect_seed, u32 write_kind,
 * u32 write_seed, u32 launch, u32 descending): compares memory with a pattern and writes another one.
 *
 * Nothing is touched: patterns that were written are known as such and are compared as such. What is in host memory is
 * compared word by word when it is little; a lot of it is wrong throughout, since nobody can have put a pattern there. */
#include "cuda_kernels.h"

#include <math.h>
#include <unistd.h>

static const uint64_t LITTLE = 1 << 20;
static const uint32_t STUCK_BIT = 0x1000;          /* a cell that always reads as one */
static const double PLACE_OF_THE_BAD_CELL = 0.6;   /* share of the GPU's memory */
static const double EFFICIENCY = 0.92;             /* of the memory's peak */
static const double POWER_SHARE = 0.6;             /* of a full burn's */

struct test {
    uint64_t *result;
    struct allocation *allocation;
    uint64_t from, words, blocks;
    struct pattern expected;
    uint32_t sm_count, launch;
    int descending;
};

static void wrong_at(const struct test *t, uint64_t word, uint32_t found)
{
    uint64_t vector = t->descending ? t->words / 4 - 1 - word / 4 : word / 4;
    uint64_t thread = vector % (t->blocks * THREADS_A_BLOCK);
    struct place place = {
        .role = MEMORY_WORK,
        .sm = (uint32_t)(thread / THREADS_A_BLOCK % t->sm_count),
        .block = (uint32_t)(thread / THREADS_A_BLOCK),
        .thread = (uint32_t)(thread % THREADS_A_BLOCK),
        .launch = t->launch,
        .word = word,
        .expected = pattern_word(t->expected.kind, t->expected.seed, word),
        .found = found,
    };
    result_wrong(t->result, &place);
}

/* All words from `first` to before `end` are wrong; the records go the way the kernel goes. */
static void all_wrong(const struct test *t, uint64_t first, uint64_t end, const struct piece *piece)
{
    uint64_t recorded = end - first < MOST_RECORDS ? end - first : MOST_RECORDS;
    for (uint64_t i = 0; i < recorded; i++) {
        uint64_t word = t->descending ? end - 1 - i : first + i;
        uint32_t expected = pattern_word(t->expected.kind, t->expected.seed, word), found = 0;
        if (piece->pattern.kind == NOTHING || piece->pattern.kind == STREAMED)
            found = ~expected;
        else
            contents_read(t->allocation, t->from + word * 4, &found, 4);
        wrong_at(t, word, found == expected ? ~expected : found);
    }
    result_wrong_too(t->result, end - first - recorded);
}

static int is_expected(const struct test *t, const struct pattern *p)
{
    const struct pattern *e = &t->expected;
    return p->kind == e->kind && (p->kind == STREAM_FILL || p->seed == e->seed) &&
           (p->kind == FIXED || p->base == e->base);
}

static void verify(const struct test *t)
{
    uint64_t end = t->from + t->words * 4;
    for (uint64_t at = t->from; at < end;) {
        struct piece piece = contents_piece(t->allocation, at, end);
        uint64_t first = (at - t->from) / 4, last = (piece.to - t->from + 3) / 4;
        if (piece.pattern.kind == NOTHING && piece.to - piece.from <= LITTLE) {
            for (uint64_t word = first; word < last; word++) {
                uint32_t found;
                contents_read(t->allocation, t->from + word * 4, &found, 4);
                if (found != pattern_word(t->expected.kind, t->expected.seed, word))
                    wrong_at(t, word, found);
            }
        } else if (!is_expected(t, &piece.pattern)) {
            all_wrong(t, first, last, &piece);
        }
        at = piece.to;
    }
}

static void read_bad_cell(const struct test *t, const struct sim_device *d)
{
    double cell = PLACE_OF_THE_BAD_CELL * (d->memory_total_mib - d->memory_reserved_mib) - t->allocation->first_mib;
    if (cell < 0 || cell * MIB >= (double)t->allocation->size)
        return;
    uint64_t offset = (uint64_t)(cell * MIB) & ~UINT64_C(3);
    if (offset < t->from || offset >= t->from + t->words * 4)
        return;
    uint64_t word = (offset - t->from) / 4;
    uint32_t expected = pattern_word(t->expected.kind, t->expected.seed, word);
    if (!(expected & STUCK_BIT))
        wrong_at(t, word, expected | STUCK_BIT);
}

CUresult memtest_launch(struct sim_state *s, struct sim_device *d, uint64_t blocks, void *const *parameters)
{
    uint64_t base = *(const uint64_t *)parameters[1], words = *(const uint64_t *)parameters[2];
    uint32_t expect = *(const uint32_t *)parameters[3], write = *(const uint32_t *)parameters[5];
    struct test t = {
        .result = result_at(*(const uint64_t *)parameters[0]),
        .words = words & ~UINT64_C(3), /* whole vectors */
        .blocks = blocks,
        .sm_count = d->sm_count,
        .launch = *(const uint32_t *)parameters[7],
        .descending = *(const uint32_t *)parameters[8] != 0,
    };
    if (!t.result || words > UINT64_MAX / 4)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (base % 16 != 0)
        return CUDA_ERROR_MISALIGNED_ADDRESS;
    t.allocation = allocation_around(base, t.words * 4, &t.from);
    if (t.words > 0 && !t.allocation)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (expect > STREAM_FILL)
        expect = NOTHING;
    if (write > STREAM_FILL)
        write = NOTHING;
    int never_ends = launch_count(d);
    t.result[0] += blocks * THREADS_A_BLOCK;
    t.result[3] += t.words / 4;
    if (expect && t.words > 0) {
        t.expected = (struct pattern){expect, *(const uint32_t *)parameters[4], t.from, 0};
        verify(&t);
        if (d->corruption == CORRUPTION_MEMORY)
            read_bad_cell(&t, d);
    }
    if (write && t.words > 0) {
        struct pattern written = {write, *(const uint32_t *)parameters[6], t.from, 0};
        contents_write(t.allocation, t.from, t.from + t.words * 4, &written);
    }
    double bytes = (double)t.words * 4 * ((expect != 0) + (write != 0));
    double busy = fmin(1, (double)blocks / d->sm_count);
    double rate = d->memory_gb_s * 1e9 * EFFICIENCY * busy * d->speed_factor;
    struct sim_work work = {.seconds = bytes / rate, .power_share = POWER_SHARE * busy, .traffic = busy};
    sim_enqueue(s, d, never_ends ? (struct sim_work){INFINITY, work.power_share, work.traffic} : work);
    d->busy_pid = (uint32_t)getpid();
    return CUDA_SUCCESS;
}
