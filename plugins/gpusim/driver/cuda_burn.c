/* The kernel `gpugate_burn`(u64 result, u64 tables, u64 stream, u64 stream_chunks, u64 progress, u64 roles, u32 launch,
 * u32 max_rounds, u64 cycles): sixteen warps a block, each does rounds of its role until its time is up.
 *
 * How many rounds that are follows from the board's rates and its clock. Tables are computed once for each upload
 * (cuda_tables.c): a wrong golden word is then wrong in each round that uses it. */
#include "cuda_kernels.h"

#include <math.h>
#include <unistd.h>

static const double FMA_EFFICIENCY = 0.85, MEMORY_EFFICIENCY = 0.92; /* of the peaks of a data sheet */
static const double SATURATES = 4;       /* warps: one for each of a multiprocessor's four schedulers */
static const double LAUNCH_S = 4e-6;     /* the least that a launch takes */
/* Dynamic power of one work alone, as a share of the mix's. The mix has all of them at once. */
static const double WORK_POWER[ROLES] = {[FMA] = 0.85, [F16] = 0.90, [BF16] = 0.92, [S8] = 0.82, [STREAM_WORK] = 0.60};
static const double MORE_BY_ANOTHER = 0.15; /* two works together, over the mean of both */
static const double FMA_ROUND = 2.0 * LANES * 8 * 128;
static const double STREAM_ROUND = 2.0 * STREAM_CHUNKS * STREAM_CHUNK_WORDS * 4; /* bytes */

enum role burn_role_of(const struct burn *b, unsigned int warp)
{
    unsigned int role = b->roles >> 4 * warp & 15;
    if (role >= ROLES || (role == STREAM_WORK ? b->chunks == 0 : role != IDLE && role != FMA && !tables_have(b->d, role)))
        return IDLE;
    return role;
}

unsigned int burn_first_warp(const struct burn *b, enum role role)
{
    unsigned int warp = 0;
    while (burn_role_of(b, warp) != role)
        warp++;
    return warp;
}

/* Operations (stream: bytes) of a round, and of the whole GPU in a second at full clock. */
static double round_work(const struct sim_device *d, enum role role)
{
    if (role == FMA)
        return FMA_ROUND;
    if (role == STREAM_WORK)
        return STREAM_ROUND;
    double tile = d->cc_major == 7 ? 2.0 * 16 * 8 * 8 : role == S8 ? 2.0 * 16 * 8 * 32 : 2.0 * 16 * 8 * 16;
    return tile * TILES * TILES * PASSES;
}

static double peak(const struct sim_device *d, enum role role)
{
    switch (role) {
    case FMA: return d->fp32_tflops * 1e12 * FMA_EFFICIENCY;
    case F16: return d->f16_tflops * 1e12 * d->mma_efficiency;
    case BF16: return d->bf16_tflops * 1e12 * d->mma_efficiency;
    case S8: return d->s8_tops * 1e12 * d->mma_efficiency;
    case STREAM_WORK: return d->memory_gb_s * 1e9 * MEMORY_EFFICIENCY;
    default: return 0;
    }
}

/* How many warps of a block share the unit that a role works on: tensor cores are one for three of them. */
static uint32_t sharing(const struct burn *b, enum role role)
{
    return role == FMA || role == STREAM_WORK ? b->warps[role] : b->warps[F16] + b->warps[BF16] + b->warps[S8];
}

/* The power of these warps on all multiprocessors, as a share of the mix's. */
static double power_share(const struct burn *b)
{
    double sum = 0, warps = 0, works = 0;
    for (enum role r = FMA; r < ROLES; r++)
        if (b->warps[r]) {
            sum += WORK_POWER[r] * b->warps[r];
            warps += b->warps[r];
            works++;
        }
    if (warps == 0)
        return 0;
    return fmin(1, sum / warps + MORE_BY_ANOTHER * (works - 1)) * warps / WARPS_A_BLOCK;
}

static void set_rates(struct burn *b, double clock_share, double busy)
{
    for (enum role r = FMA; r < ROLES; r++) {
        if (!b->warps[r])
            continue;
        double unit = fmin(1, sharing(b, r) / SATURATES) * b->d->speed_factor;
        double rate = peak(b->d, r) * unit * (r == STREAM_WORK ? 1 : clock_share); /* of all warps, on all SMs */
        double warps = (double)sharing(b, r) * b->d->sm_count * (r == STREAM_WORK ? busy : 1);
        b->round_s[r] = round_work(b->d, r) * warps / rate;
    }
}

/* Rounds of each warp, and how long the longest takes. */
static double set_rounds(struct burn *b, double seconds, uint32_t max_rounds)
{
    double longest = 0;
    for (enum role r = FMA; r < ROLES; r++) {
        if (!b->warps[r] || max_rounds == 0 || seconds <= 0)
            continue;
        double rounds = fmin(fmax(ceil(seconds / b->round_s[r]), 1), max_rounds);
        b->rounds[r] = (uint32_t)rounds;
        b->result[RESULT_ROUNDS + r] += (uint64_t)(rounds * b->warps[r]) * b->blocks;
        longest = fmax(longest, rounds * b->round_s[r]);
    }
    return longest;
}

static struct place place_of(const struct burn *b, enum role role, uint64_t block, unsigned int warp, uint32_t lane)
{
    return (struct place){
        .role = role,
        .sm = (uint32_t)(block % b->d->sm_count),
        .block = (uint32_t)block,
        .thread = warp * LANES + lane,
        .launch = b->launch,
    };
}

/* What the tables claim and arithmetic does not: wrong in every warp of the role, in every round of the set. */
static void find_wrong_golden(const struct burn *b)
{
    for (enum role r = FMA; r <= S8; r++) {
        uint64_t words = 0, warps = (uint64_t)b->warps[r] * b->blocks;
        for (uint32_t set = 0; set < SETS && set < b->rounds[r]; set++)
            words += b->check->count[r][set] * ((b->rounds[r] + SETS - 1 - set) / SETS) * warps;
        uint64_t recorded = 0;
        for (uint32_t i = 0; words && i < b->check->known; i++) {
            const struct wrong_golden *w = &b->check->wrong[i];
            if (w->role != r || w->set >= b->rounds[r])
                continue;
            struct place place = place_of(b, r, 0, burn_first_warp(b, r), w->lane);
            place.round = w->set;
            place.word = w->word;
            place.expected = w->expected;
            place.found = w->found;
            result_wrong(b->result, &place);
            recorded++;
        }
        result_wrong_too(b->result, words - recorded);
    }
}

/* A defective unit: one warp of one block has the same tile (a chain, a row of words) wrong in each round; once: one bit. */
static void go_wrong(const struct burn *b, enum role role, uint32_t how)
{
    enum { TILE = 6 }; /* i = 1, j = 2 */
    uint32_t registers = tables_registers(b->d, role), words = how == CORRUPTION_BIT_ONCE ? 1 : LANES * registers;
    uint32_t recorded = words < MOST_RECORDS ? words : MOST_RECORDS;
    unsigned int warp = burn_first_warp(b, role);
    uint64_t block = b->blocks / 3, stream_warp = block * b->warps[STREAM_WORK];
    for (uint32_t i = 0; i < recorded; i++) {
        uint32_t lane = i / registers;
        struct place place = place_of(b, role, block, warp, lane);
        if (role == STREAM_WORK) {
            uint32_t progress = b->progressed[stream_warp];
            place.word = (stream_warp * b->chunks + progress % b->chunks) * STREAM_CHUNK_WORDS + lane * 4;
            place.expected = traffic_word(b, place.word, progress);
        } else {
            place.word = role == FMA ? TILE : TILE * registers + i % registers;
            place.expected =
                tables_golden(b->tables_in, b->check->offset, b->d, role, 0, lane, (uint32_t)place.word);
        }
        place.found = how == CORRUPTION_NAN ? UINT32_C(0x7fc00000) : place.expected ^ UINT32_C(0x00000400);
        result_wrong(b->result, &place);
    }
    uint64_t all = how == CORRUPTION_BIT_ONCE ? 1 : (uint64_t)words * b->rounds[role];
    result_wrong_too(b->result, all - recorded);
}

static CUresult prepare(struct burn *b)
{
    for (unsigned int warp = 0; warp < WARPS_A_BLOCK; warp++) {
        enum role r = burn_role_of(b, warp);
        b->warps[r] += r != IDLE;
    }
    uint64_t offset;
    if (b->tables % 4 != 0)
        return CUDA_ERROR_MISALIGNED_ADDRESS;
    b->tables_in = allocation_around(b->tables, 1, &offset);
    b->check = b->tables_in ? tables_check(b->tables_in, offset, b->d) : NULL;
    if (!b->check) /* warps of all roles read its head */
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    for (enum role r = FMA; r <= S8; r++)
        if (b->warps[r] && !b->check->has[r])
            return CUDA_ERROR_ILLEGAL_ADDRESS;
    return b->warps[STREAM_WORK] ? traffic_find(b) : CUDA_SUCCESS;
}

CUresult burn_launch(struct sim_state *s, struct sim_device *d, uint64_t blocks, void *const *parameters)
{
    struct burn b = {
        .d = d,
        .blocks = blocks,
        .result = result_at(*(const uint64_t *)parameters[0]),
        .tables = *(const uint64_t *)parameters[1],
        .stream = *(const uint64_t *)parameters[2],
        .chunks = *(const uint64_t *)parameters[3],
        .progress = *(const uint64_t *)parameters[4],
        .roles = *(const uint64_t *)parameters[5],
        .launch = *(const uint32_t *)parameters[6],
    };
    uint32_t max_rounds = *(const uint32_t *)parameters[7];
    uint64_t cycles = *(const uint64_t *)parameters[8];
    if (!b.result)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    CUresult prepared = prepare(&b);
    if (prepared != CUDA_SUCCESS)
        return prepared;

    int never_ends = launch_count(d);
    double busy = fmin(1, (double)blocks / d->sm_count), waves = ceil((double)blocks / d->sm_count);
    struct sim_work work = {
        .power_share = power_share(&b) * busy,
        .traffic = fmin(1, b.warps[STREAM_WORK] / SATURATES) * busy,
    };
    double clock_share = sim_clock_share(d, work.power_share);
    set_rates(&b, clock_share, busy);
    double longest = set_rounds(&b, (double)cycles / (d->max_sm_mhz * 1e6 * clock_share), max_rounds);
    work.seconds = never_ends ? INFINITY : LAUNCH_S + longest * waves;

    b.result[0] += blocks * THREADS_A_BLOCK;
    find_wrong_golden(&b);
    enum role role;
    uint32_t how = corruption_armed(d, b.rounds, &role);
    if (how != CORRUPTION_NONE)
        go_wrong(&b, role, how);
    if (b.rounds[STREAM_WORK])
        traffic_run(&b);
    sim_enqueue(s, d, work);
    d->busy_pid = (uint32_t)getpid();
    return CUDA_SUCCESS;
}
