/* Power and clock of a GPU: power follows the square of the clock; whoever limits the clock most wins and says so in the
 * event reasons. What the power does to the temperature is in heat.c. */
#include "sim.h"

#include <math.h>

/* nvmlClocksEventReasons */
enum {
    REASON_IDLE = 0x1,
    REASON_POWER_CAP = 0x4,
    REASON_HW_SLOWDOWN = 0x8,
    REASON_SW_THERMAL = 0x20,
    REASON_HW_THERMAL = 0x40,
    REASON_POWER_BRAKE = 0x80,
};

static const double STEP_S = 0.1;            /* the die is quick: longer steps would let the clock control swing */
static const double SETTLED_C = 4e-5;        /* a step that changes less has settled: the next may be as long as it likes */
static const double COUPLED_STEP_S = 0.5;    /* in which neighbours do not yet feel each other */
static const double MOST_COUPLED_STEPS = 2000;
static const int MOST_STEPS = 100000;        /* what never settles is not followed for more than seven hours */
static const double SLOWDOWN_PER_C = 0.1;    /* share of the clock given up for each degree above the limit */
static const double HW_SLOWDOWN_SHARE = 0.5; /* the hardware halves the clock */
static const double LEAST_SHARE = 0.1;
static const double READY_POWER_SHARE = 0.05; /* above idle, while clocks are up and nothing runs */
static const double UTILIZATION_TAU_S = 0.5, POWER_MEAN_TAU_S = 1.0;

double sim_enforced_w(const struct sim_device *d)
{
    return d->cap_w > 0 && d->cap_w < d->power_limit_w ? d->cap_w : d->power_limit_w;
}

/* Degrees above the software slowdown, of the core or of the memory. The slowdown does not depend on the reported sensor. */
static double over_c(const struct sim_device *d)
{
    double over = d->temperature_c - d->slowdown_c;
    if (d->has_memory_sensor)
        over = fmax(over, d->memory_temperature_c - d->memory_max_c);
    return over;
}

uint32_t sim_pcie_gen(const struct sim_device *d)
{
    uint32_t gen = sim_is_active(d) ? d->pcie_gen_loaded : d->pcie_gen_idle;
    return gen < d->pcie_gen_slot ? gen : d->pcie_gen_slot;
}

static void count(double *carry, double gained, uint64_t *a, uint64_t *b)
{
    *carry += gained;
    uint64_t whole = (uint64_t)*carry;
    *carry -= (double)whole;
    *a += whole;
    if (b)
        *b += whole;
}

static void count_faults(struct sim_device *d, double h)
{
    count(&d->ecc_corrected_carry, d->ecc_corrected_per_s * h, &d->ecc_corrected_volatile, &d->ecc_corrected_aggregate);
    count(&d->ecc_uncorrected_carry, d->ecc_uncorrected_per_s * h, &d->ecc_uncorrected_volatile,
          &d->ecc_uncorrected_aggregate);
    count(&d->replay_carry, d->pcie_replays_per_s * h, &d->pcie_replays, NULL);
}

/* Chooses clock and power for a load that would draw `full_w` at full clock; sets the event reasons. */
static double choose_clock(struct sim_device *d, double full_w, uint64_t *reasons)
{
    double share = 1;
    *reasons = 0;
    if (d->locked_sm_mhz && d->locked_sm_mhz < d->max_sm_mhz) /* a locked clock has no reason of its own */
        share = (double)d->locked_sm_mhz / d->max_sm_mhz;
    double over = over_c(d);
    if (over > 0) {
        *reasons |= REASON_SW_THERMAL;
        share = fmin(share, 1 - SLOWDOWN_PER_C * over);
    }
    if (d->temperature_c >= d->hw_slowdown_c)
        d->hw_slow = 1;
    else if (d->temperature_c < d->slowdown_c)
        d->hw_slow = 0;
    if (d->hw_slow) {
        *reasons |= REASON_HW_THERMAL | REASON_HW_SLOWDOWN;
        share = fmin(share, HW_SLOWDOWN_SHARE);
    }
    if (d->power_brake) {
        *reasons |= REASON_POWER_BRAKE | REASON_HW_SLOWDOWN;
        share = fmin(share, HW_SLOWDOWN_SHARE);
    }
    double limit = sim_enforced_w(d), swing = full_w - d->idle_w;
    if (swing > 0 && d->idle_w + swing * share * share > limit) {
        *reasons |= REASON_POWER_CAP;
        share = limit > d->idle_w ? sqrt((limit - d->idle_w) / swing) : LEAST_SHARE;
    }
    return fmax(share, LEAST_SHARE);
}

/* Clocks move in steps of 15 MHz. */
static uint32_t clock_mhz(const struct sim_device *d, double share)
{
    return (uint32_t)(share * d->max_sm_mhz / 15 + 0.5) * 15;
}

static double full_w(const struct sim_device *d, double power_share)
{
    return d->idle_w + power_share * fmax(d->burn_power_share * d->power_max_w - d->idle_w, 0);
}

double sim_clock_share(struct sim_device *d, double power_share)
{
    uint64_t reasons;
    return choose_clock(d, full_w(d, power_share), &reasons);
}

/* `work`: what runs, or NULL; `active`: at least somebody holds the GPU, which keeps its clocks up. */
static void step(struct sim_device *d, double h, const struct sim_work *work, int active)
{
    int loaded = work || d->load_utilization > 0;
    double load_w = work ? full_w(d, work->power_share) : fmax(d->load_power_share * d->power_max_w, d->idle_w);
    uint64_t reasons;
    double share = choose_clock(d, load_w, &reasons);
    if (loaded) {
        d->event_reasons = reasons;
        d->sm_mhz = clock_mhz(d, share);
        d->power_w = d->idle_w + (load_w - d->idle_w) * share * share;
    } else {
        d->event_reasons = reasons & ~(uint64_t)REASON_POWER_CAP;
        d->sm_mhz = clock_mhz(d, share);
        d->power_w = d->idle_w + READY_POWER_SHARE * d->power_max_w;
        if (!active) {
            d->event_reasons |= REASON_IDLE;
            d->sm_mhz = d->idle_sm_mhz;
            d->power_w = d->idle_w;
        }
    }
    d->power_mean_w = sim_approach(d->power_mean_w, d->power_w, h, POWER_MEAN_TAU_S);
    d->utilization = sim_approach(d->utilization, work ? 100 : d->load_utilization, h, UTILIZATION_TAU_S);
    d->energy_j += d->power_w * h;
    heat_step(d, h, work ? work->traffic : 1);
    if (loaded)
        count_faults(d, h);
    if (d->event_reasons & REASON_POWER_CAP)
        d->sw_power_s += h;
    if (d->event_reasons & REASON_SW_THERMAL)
        d->sw_thermal_s += h;
    if (d->event_reasons & REASON_HW_THERMAL)
        d->hw_thermal_s += h;
    if (d->event_reasons & REASON_POWER_BRAKE)
        d->power_brake_s += h;
    d->memory_leaked_mib = fmin(d->memory_leaked_mib + d->memory_leak_mib_per_s * h, d->memory_total_mib);
}

static void advance_device(struct sim_device *d, double t, double now)
{
    int active = sim_is_active(d);
    int settled = 0, was_busy = 0;
    for (int steps = 0; t < now; steps++) {
        double h = now - t, core = d->temperature_c, memory = d->memory_temperature_c;
        struct sim_work work;
        double until;
        int busy = sim_running(d, t, &work, &until);
        if (busy)
            h = fmin(h, until - t);
        if (busy != was_busy)
            settled = 0;
        was_busy = busy;
        /* nothing controls its clock or its fans: any step is exact */
        int idle = !busy && d->load_utilization <= 0 && d->fan_count == 0;
        if (!idle && !settled && steps < MOST_STEPS)
            h = fmin(h, STEP_S);
        step(d, h, busy ? &work : NULL, active);
        settled = h >= STEP_S && fabs(d->temperature_c - core) < SETTLED_C &&
                  fabs(d->memory_temperature_c - memory) < SETTLED_C;
        t += fmax(h, 1e-9);
        if (d->temperature_c >= d->shutdown_c && !d->lost) { /* the board protects itself */
            d->lost = 1;
            d->last_xid = 79;
        }
        if (d->lost) {
            d->power_w = d->power_mean_w = d->utilization = 0;
            d->busy_until = fmin(d->busy_until, t);
            d->queue_length = 0;
            heat_step(d, now - t, 0);
            return;
        }
    }
}

void sim_advance(struct sim_state *s, double now)
{
    double passed = now - s->model_time_s;
    if (passed < 1e-4)
        return;
    int coupled = 0;
    for (uint32_t i = 0; i < s->gpu_count; i++)
        coupled |= s->device[i].neighbour_c_per_w > 0;
    double together = coupled ? fmax(COUPLED_STEP_S, passed / MOST_COUPLED_STEPS) : passed;
    for (double t = s->model_time_s, end; t < now; t = end) {
        end = fmin(t + together, now);
        if (coupled)
            heat_neighbours(s, end - t);
        for (uint32_t i = 0; i < s->gpu_count; i++)
            if (!s->device[i].lost)
                advance_device(&s->device[i], t, end);
    }
    s->model_time_s = now;
}
