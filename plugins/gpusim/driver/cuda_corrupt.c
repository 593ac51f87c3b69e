/* Launches that go wrong: which, how, and how often they are counted. */
#include "cuda_kernels.h"

int launch_count(struct sim_device *d)
{
    d->launches++;
    if (d->lost_after_launches && d->launches > d->lost_after_launches) {
        d->lost = 1;
        d->last_xid = 79;
    }
    return d->hang_launch && d->launches > d->hang_after_launches;
}

/* The role that this GPU gets wrong, of those that this launch does; IDLE when it does none of them. */
static enum role wrong_role(const struct sim_device *d, const uint32_t rounds[ROLES])
{
    static const enum role by_name[] = {IDLE, FMA, F16, BF16, S8, STREAM_WORK}; /* as the key's choices go */
    static const enum role order[] = {F16, BF16, FMA, S8, STREAM_WORK};
    if (d->corruption_work != CORRUPTION_WORK_ANY)
        return rounds[by_name[d->corruption_work]] ? by_name[d->corruption_work] : IDLE;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (rounds[order[i]])
            return order[i];
    return IDLE;
}

uint32_t corruption_armed(struct sim_device *d, const uint32_t rounds[ROLES], enum role *role)
{
    *role = wrong_role(d, rounds);
    if (*role == IDLE)
        return CORRUPTION_NONE;
    switch (d->corruption) {
    case CORRUPTION_BIT_ONCE: d->corruption = CORRUPTION_NONE; return CORRUPTION_BIT_ONCE;
    case CORRUPTION_AFTER_WARMUP:
        return d->launches > d->corruption_after_launches ? CORRUPTION_ALWAYS : CORRUPTION_NONE;
    case CORRUPTION_UNDER_HEAT: return d->temperature_c > d->corruption_above_c ? CORRUPTION_ALWAYS : CORRUPTION_NONE;
    case CORRUPTION_MEMORY: return CORRUPTION_NONE; /* the memory test finds that one */
    default: return d->corruption;
    }
}
