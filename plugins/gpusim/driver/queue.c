/* Work that waits on a GPU: one FIFO of pieces that differ in their power. */
#include "sim.h"

#include <math.h>

static int is_like(const struct sim_device *d, uint32_t i, struct sim_work work)
{
    return fabs(d->queue_power_share[i] - work.power_share) < 1e-9 && fabs(d->queue_traffic[i] - work.traffic) < 1e-9;
}

static void forget_done(const struct sim_state *s, struct sim_device *d)
{
    uint32_t done = 0;
    while (done < d->queue_length && d->queue_until[done] <= s->model_time_s)
        done++;
    d->queue_length -= done;
    for (uint32_t i = 0; i < d->queue_length; i++) {
        d->queue_until[i] = d->queue_until[i + done];
        d->queue_power_share[i] = d->queue_power_share[i + done];
        d->queue_traffic[i] = d->queue_traffic[i + done];
    }
}

void sim_enqueue(const struct sim_state *s, struct sim_device *d, struct sim_work work)
{
    forget_done(s, d);
    uint32_t last = d->queue_length - 1;
    /* Like work makes the last piece longer, and so does what finds no room. */
    if (d->queue_length == 0 || (d->queue_length < MAX_QUEUE && !is_like(d, last, work)))
        last = d->queue_length++;
    d->queue_power_share[last] = work.power_share;
    d->queue_traffic[last] = work.traffic;
    d->queue_until[last] = d->busy_until = fmax(d->busy_until, sim_now(s)) + work.seconds;
}

void sim_stop_work(const struct sim_state *s, struct sim_device *d)
{
    d->busy_until = fmin(d->busy_until, s->model_time_s);
    d->queue_length = 0;
}

int sim_running(const struct sim_device *d, double t, struct sim_work *work, double *until)
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
