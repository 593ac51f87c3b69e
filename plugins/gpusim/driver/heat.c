/* The temperatures of a GPU and what its sensors say of them.
 *
 * The core is above its heat sink by a quick part that follows the power, and the sink above its inlet by a slow one; both parts
 * of `thermal_resistance` together are the whole. Fans that run slower than they can let the sink's part grow. The inlet
 * is the room's plus what the neighbours' waste heat adds. The memory is above the core, the more so the more it is read. */
#include "sim.h"

#include <math.h>

static const double MEMORY_TAU_S = 5.0;
static const double MEMORY_IDLE_SHARE = 0.5; /* of memory_offset_c, where nothing is read */
static const double FULL_FAN = 100;          /* per cent; where thermal_resistance is measured */

double sim_approach(double value, double goal, double h, double tau)
{
    return goal + (value - goal) * exp(-h / tau);
}

/* How much larger the sink's resistance is than at full speed: heat transfer grows with the root of the flow. */
static double fan_factor(const struct sim_device *d)
{
    return d->fan_count ? sqrt(FULL_FAN / fmax(d->fan_percent, 1)) : 1;
}

double sim_fan_goal(const struct sim_device *d)
{
    double most = fmax(d->fan_max_percent, d->fan_idle_percent);
    return fmin(fmax(d->fan_idle_percent + d->fan_percent_per_c * (d->temperature_c - d->fan_target_c), d->fan_idle_percent),
                most);
}

static void turn_fans(struct sim_device *d, double h)
{
    double goal = sim_fan_goal(d), most = d->fan_slew_percent_per_s * h;
    d->fan_percent = d->fan_count ? d->fan_percent + fmin(fmax(goal - d->fan_percent, -most), most) : d->fan_idle_percent;
}

void heat_step(struct sim_device *d, double h, double traffic)
{
    double factor = fan_factor(d), die = d->thermal_resistance * d->die_share;
    double sink = (d->thermal_resistance - die) * factor;
    d->die_rise_c = sim_approach(d->die_rise_c, die * d->power_w, h, d->die_tau_s);
    d->sink_c = sim_approach(d->sink_c, d->ambient_c + d->inlet_rise_c + sink * d->power_w, h, d->thermal_tau_s * factor);
    d->temperature_c = d->sink_c + d->die_rise_c;
    double read = MEMORY_IDLE_SHARE + (1 - MEMORY_IDLE_SHARE) * traffic;
    double memory_c = d->temperature_c + d->memory_offset_c * d->power_w / d->power_max_w * read;
    d->memory_temperature_c = sim_approach(d->memory_temperature_c, memory_c, h, MEMORY_TAU_S);
    turn_fans(d, h);
}

void heat_neighbours(struct sim_state *s, double h)
{
    double all_w = 0;
    for (uint32_t i = 0; i < s->gpu_count; i++)
        all_w += s->device[i].power_w;
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        struct sim_device *d = &s->device[i];
        double rise = d->neighbour_c_per_w * (all_w - d->power_w);
        d->inlet_rise_c = sim_approach(d->inlet_rise_c, rise, h, d->neighbour_tau_s);
    }
}

/* What sensors say. */

/* Noise in [-1, 1], the same for one sensor in one tenth of a second. */
static double noise(const struct sim_state *s, const struct sim_device *d, uint64_t sensor)
{
    uint64_t x = s->seed ^ (uint64_t)sim_index(s, d) << 56 ^ sensor << 48 ^ (uint64_t)(sim_now(s) * 10);
    for (int i = 0; i < 3; i++) { /* the finaliser of a 64-bit mixer */
        x ^= x >> 31;
        x *= UINT64_C(0x9E3779B97F4A7C15);
    }
    return (double)(x >> 11) / (double)(UINT64_C(1) << 52) - 1;
}

double sim_core_c(const struct sim_state *s, const struct sim_device *d)
{
    return d->sensor_stuck ? d->sensor_stuck_c : d->temperature_c + d->sensor_noise_c * noise(s, d, 0);
}

double sim_margin_c(const struct sim_state *s, const struct sim_device *d)
{
    double margin = d->slowdown_c - sim_core_c(s, d);
    return d->has_memory_sensor ? fmin(margin, d->memory_max_c - d->memory_temperature_c) : margin;
}

double sim_told_w(const struct sim_state *s, const struct sim_device *d, double watts)
{
    return fmax(watts + d->power_noise_w * noise(s, d, 1), 0);
}
