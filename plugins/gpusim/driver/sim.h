/* The node's mapped state: finding it, holding its lock, advancing its model. Shared by both libraries. */
#ifndef GPUSIM_SIM_H
#define GPUSIM_SIM_H

#include "layout.h"

enum { SIM_OK = 0, SIM_NO_STATE = 1, SIM_BAD_STATE = 2 };

/* Maps <folder of this library>/gpusim.state once for the process. */
int sim_open(void);

/* Takes the lock and brings the model to the present. Only after sim_open() answered SIM_OK. */
struct sim_state *sim_lock(void);
void sim_unlock(void);

/* Simulated seconds, and the simulated wall clock in microseconds since 1970. Lock held. */
double sim_now(const struct sim_state *s);
uint64_t sim_unix_us(const struct sim_state *s);

/* Does a fault rule answer this call? Counts it; 1 and the code when one does. Lock held on entry and on return; a
 * hanging rule never returns, a slow one sleeps without the lock. */
int sim_fault(const char *function, int gpu, int *code);

/* Brings the model up to simulated time `now`. */
void sim_advance(struct sim_state *s, double now);

/* Work of a GPU: how long it takes, the power it would draw at full clock as a share of a full burn's, and how much of
 * the memory's bandwidth it keeps busy. */
struct sim_work {
    double seconds, power_share, traffic;
};
/* After all work before it. */
void sim_enqueue(const struct sim_state *s, struct sim_device *d, struct sim_work work);
void sim_stop_work(const struct sim_state *s, struct sim_device *d);
/* What runs at time t, and until when; 0: nothing does. */
int sim_running(const struct sim_device *d, double t, struct sim_work *work, double *until);
/* Share of its clock that work of this power gets now. */
double sim_clock_share(struct sim_device *d, double power_share);

/* Frees what dead processes held on this GPU. */
void sim_reap(struct sim_state *s, struct sim_device *d);

/* Start time of a process in clock ticks, 0 when there is none. */
uint64_t sim_start_ticks(uint32_t pid);

/* Memory in use by processes and by the leak, and how many processes of any kind there are. */
double sim_memory_used_mib(const struct sim_device *d);
int sim_is_active(const struct sim_device *d);

double sim_enforced_w(const struct sim_device *d);

/* Value after `h` seconds on its way to `goal`. */
double sim_approach(double value, double goal, double h, double tau);
/* The temperatures after `h` seconds at the present power; `traffic` as in sim_work. */
void heat_step(struct sim_device *d, double h, double traffic);
/* What the GPUs' waste heat does to each other's inlets in `h` seconds. */
void heat_neighbours(struct sim_state *s, double h);
/* Per cent that the fans are on their way to. */
double sim_fan_goal(const struct sim_device *d);

/* As the sensors tell it, which may lie. */
double sim_margin_c(const struct sim_state *s, const struct sim_device *d);
double sim_core_c(const struct sim_state *s, const struct sim_device *d);
double sim_told_w(const struct sim_state *s, const struct sim_device *d, double watts);
uint32_t sim_pcie_gen(const struct sim_device *d);

static inline int sim_index(const struct sim_state *s, const struct sim_device *d) { return (int)(d - s->device); }

#endif
