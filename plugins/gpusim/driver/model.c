/* The physics of a GPU, to first order: T relaxes to ambient + R x P with time constant tau; power follows the square of the
 * clock; whoever limits the clock most wins and says so in the event reasons. */
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

static const double STEP_S = 0.25;           /* the clock control is stable up to 2 s */
static const double SETTLED_C = 1e-4;        /* a step that changes less has settled: the next may be as long as it likes */
static const int MOST_STEPS = 100000;        /* what never settles is not followed for more than seven hours */
static const double SLOWDOWN_PER_C = 0.1;    /* share of the clock given up for each degree above the limit */
static const double HW_SLOWDOWN_SHARE = 0.5; /* the hardware halves the clock */
static const double LEAST_SHARE = 0.1;
static const double READY_POWER_SHARE = 0.05; /* above idle, while clocks are up and nothing runs */
static const double UTILIZATION_TAU_S = 0.5, POWER_MEAN_TAU_S = 1.0, MEMORY_TAU_S = 5.0;

static double approach(double value, double goal, double h, double tau)
{
    return goal + (value - goal) * exp(-h / tau);
}

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

/* Noise in [-1, 1], the same for one sensor in one tenth of a second. */
static double noise(uint64_t seed, uint64_t sensor, double now)
{
    uint64_t x = seed ^ (sensor << 56) ^ (uint64_t)(now * 10);
    for (int i = 0; i < 3; i++) { /* the finaliser of a 64-bit mixer */
        x ^= x >> 31;
        x *= UINT64_C(0x9E3779B97F4A7C15);
    }
    return (double)(x >> 11) / (double)(UINT64_C(1) << 52) - 1;
}

double sim_core_c(const struct sim_state *s, const struct sim_device *d)
{
    if (d->sensor_stuck)
        return d->sensor_stuck_c;
    double t = d->temperature_c;
    if (d->sensor_noise_c > 0)
        t += d->sensor_noise_c * noise(s->seed, (uint64_t)sim_index(s, d), sim_now(s));
    return t;
}

double sim_margin_c(const struct sim_state *s, const struct sim_device *d)
{
    double margin = d->slowdown_c - sim_core_c(s, d);
    return d->has_memory_sensor ? fmin(margin, d->memory_max_c - d->memory_temperature_c) : margin;
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

void sim_enqueue(struct sim_state *s, struct sim_device *d, struct sim_work work)
{
    double start = fmax(d->busy_until, sim_now(s));
    uint32_t first = 0, last;
    while (first < d->queue_length && d->queue_until[first] <= s->model_time_s)
        first++;
    for (uint32_t i = first; i < d->queue_length; i++) {
        d->queue_until[i - first] = d->queue_until[i];
        d->queue_power_share[i - first] = d->queue_power_share[i];
        d->queue_traffic[i - first] = d->queue_traffic[i];
    }
    d->queue_length -= first;
    last = d->queue_length - 1;
    if (d->queue_length == 0 || (d->queue_length < MAX_QUEUE && (fabs(d->queue_power_share[last] - work.power_share) > 1e-9 ||
                                                                 fabs(d->queue_traffic[last] - work.traffic) > 1e-9)))
        last = d->queue_length++;
    d->queue_power_share[last] = work.power_share; /* like work, and what finds no room, makes the last one longer */
    d->queue_traffic[last] = work.traffic;
    d->queue_until[last] = d->busy_until = start + work.seconds;
}

void sim_stop_work(const struct sim_state *s, struct sim_device *d)
{
    d->busy_until = fmin(d->busy_until, s->model_time_s);
    d->queue_length = 0;
}

/* What runs now, and until when; 0: nothing does. */
static int running(const struct sim_device *d, double t, struct sim_work *work, double *until)
{
    if (d->busy_until <= t)
        return 0;
    uint32_t i = 0;
    while (i + 1 < d->queue_length && d->queue_until[i] <= t)
        i++;
    *work = (struct sim_work){0, d->queue_power_share[i], d->queue_traffic[i]};
    *until = fmin(d->queue_until[i], d->busy_until);
    return 1;
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
    d->power_mean_w = approach(d->power_mean_w, d->power_w, h, POWER_MEAN_TAU_S);
    d->utilization = approach(d->utilization, work ? 100 : d->load_utilization, h, UTILIZATION_TAU_S);
    d->energy_j += d->power_w * h;
    d->temperature_c = approach(d->temperature_c, d->ambient_c + d->thermal_resistance * d->power_w, h, d->thermal_tau_s);
    double memory_c = d->temperature_c + d->memory_offset_c * d->power_w / d->power_max_w;
    d->memory_temperature_c = approach(d->memory_temperature_c, memory_c, h, MEMORY_TAU_S);
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
        int busy = running(d, t, &work, &until);
        if (busy)
            h = fmin(h, until - t);
        if (busy != was_busy)
            settled = 0;
        was_busy = busy;
        int idle = !busy && d->load_utilization <= 0; /* nothing controls its clock: any step is exact */
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
            d->temperature_c = approach(d->temperature_c, d->ambient_c, now - t, d->thermal_tau_s);
            return;
        }
    }
}

void sim_advance(struct sim_state *s, double now)
{
    if (now - s->model_time_s < 1e-4)
        return;
    for (uint32_t i = 0; i < s->gpu_count; i++)
        if (!s->device[i].lost)
            advance_device(&s->device[i], s->model_time_s, now);
    s->model_time_s = now;
}
