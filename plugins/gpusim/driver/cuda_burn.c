/* The kernel `gpugate_burn`(u64 result, u32 iterations, u32 seed, u32 multiplier, u32 increment), computed here.
 *
 * Thread t starts from x = seed + t, makes `iterations` steps x = x * 1664525 + 1013904223, and compares with
 * (seed + t) * multiplier + increment. `result` points to five u64, added to by each launch: threads done, threads that
 * differ, and of the first that ever differed its number + 1, the value expected and the value found.
 *
 * It also computes chains of exact FP32 steps that return to their start after an even number of iterations, so that an
 * odd number differs everywhere.
 *
 * Steps of this kind compose: n of them are x -> a x + c. The simulator finds a and c by taking the steps, one after another, and
 * compares each thread's two values, so that a wrong golden answer differs everywhere. */
#include "cuda_common.h"

#include <math.h>
#include <unistd.h>

enum { FLOP_PER_ITERATION = 16, TILE = 128 };
static const double EFFICIENCY = 0.85; /* of the FP32 peak */

struct affine {
    uint32_t a, c;
};

/* The GPUs of a node are launched in turn, each with its own number of iterations: the answers of the latest are kept. */
static struct affine take_steps(uint32_t iterations)
{
    static struct { uint32_t iterations; struct affine answer; } known[64]; /* the node's lock guards it */
    static unsigned int oldest;
    for (unsigned int i = 0; i < 64; i++)
        if (iterations && known[i].iterations == iterations)
            return known[i].answer;
    struct affine f = {1, 0};
    for (uint32_t i = 0; i < iterations; i++) {
        f.a *= 1664525U;
        f.c = f.c * 1664525U + 1013904223U;
    }
    known[oldest].iterations = iterations;
    known[oldest].answer = f;
    oldest = (oldest + 1) % 64;
    return f;
}

static void differ(uint64_t *result, uint64_t thread, uint32_t expected, uint32_t found)
{
    result[1]++;
    if (result[2] == 0) {
        result[2] = thread + 1;
        result[3] = expected;
        result[4] = found;
    }
}

/* Is this launch to go wrong, and how? */
static uint32_t armed(struct sim_device *d)
{
    switch (d->corruption) {
    case CORRUPTION_BIT_ONCE: d->corruption = CORRUPTION_NONE; return CORRUPTION_BIT_ONCE;
    case CORRUPTION_AFTER_WARMUP: return d->launches > d->corruption_after_launches ? CORRUPTION_ALWAYS : CORRUPTION_NONE;
    case CORRUPTION_UNDER_HEAT: return d->temperature_c > d->corruption_above_c ? CORRUPTION_ALWAYS : CORRUPTION_NONE;
    default: return d->corruption;
    }
}

static void corrupt(uint64_t *result, uint32_t how, uint64_t threads, struct affine right, uint32_t seed)
{
    uint64_t first = threads / 3, count = how == CORRUPTION_BIT_ONCE ? 1 : TILE;
    for (uint64_t t = first; t < threads && t < first + count; t++) {
        uint32_t good = (seed + (uint32_t)t) * right.a + right.c;
        uint32_t bad = how == CORRUPTION_NAN ? UINT32_C(0x7fffffff) : good ^ UINT32_C(0x00000400);
        differ(result, t, good, bad == good ? ~good : bad);
    }
}

CUresult burn_launch(struct sim_state *s, struct sim_device *d, uint64_t threads, void *const *parameters)
{
    uint64_t address = *(const uint64_t *)parameters[0];
    uint32_t iterations = *(const uint32_t *)parameters[1], seed = *(const uint32_t *)parameters[2];
    struct affine claimed = {*(const uint32_t *)parameters[3], *(const uint32_t *)parameters[4]};
    if (address % sizeof(uint64_t) != 0 || !allocation_at(address, 5 * sizeof(uint64_t)))
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    uint64_t *result = (uint64_t *)(uintptr_t)address;
    struct affine right = take_steps(iterations);

    d->launches++;
    result[0] += threads;
    uint32_t how = armed(d);
    if (claimed.a != right.a || claimed.c != right.c || iterations % 2 != 0)
        for (uint64_t t = 0; t < threads; t++) {
            uint32_t x = seed + (uint32_t)t, expected = x * claimed.a + claimed.c, found = x * right.a + right.c;
            if (expected != found || iterations % 2 != 0)
                differ(result, t, expected, found);
        }
    else if (how != CORRUPTION_NONE)
        corrupt(result, how, threads, right, seed);

    double flop = (double)FLOP_PER_ITERATION * (double)threads * iterations;
    double rate = d->fp32_tflops * 1e12 * EFFICIENCY * d->clock_share * d->speed_factor;
    d->busy_until = fmax(d->busy_until, sim_now(s)) + flop / rate;
    d->busy_pid = (uint32_t)getpid();
    return CUDA_SUCCESS;
}
