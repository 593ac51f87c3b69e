#include "sim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static struct sim_state *state;
static double last_reap; /* the node's lock guards it */
static const double REAP_EVERY_S = 0.02;

static int state_path(char *path, size_t size)
{
    /* dladdr answers with the name that the loader was given: a symlink stays one, so a node finds its own folder. */
    static const char here;
    Dl_info self;
    if (!dladdr(&here, &self) || !self.dli_fname)
        return 0;
    const char *slash = strrchr(self.dli_fname, '/');
    int folder = slash ? (int)(slash - self.dli_fname) : 1;
    int length = snprintf(path, size, "%.*s/gpusim.state", folder, slash ? self.dli_fname : ".");
    return length > 0 && (size_t)length < size;
}

static int map_state(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return SIM_NO_STATE;
    struct stat info;
    void *map = MAP_FAILED;
    if (fstat(fd, &info) == 0 && info.st_size == (off_t)sizeof(struct sim_state))
        map = mmap(NULL, sizeof(struct sim_state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return SIM_BAD_STATE;
    struct sim_state *candidate = map;
    if (candidate->magic != SIM_MAGIC || candidate->abi != SIM_ABI) {
        munmap(map, sizeof(struct sim_state));
        return SIM_BAD_STATE;
    }
    state = candidate;
    return SIM_OK;
}

int sim_open(void)
{
    pthread_mutex_lock(&opening);
    int result = SIM_OK;
    if (!state) {
        char path[4096];
        result = state_path(path, sizeof path) ? map_state(path) : SIM_NO_STATE;
        if (result == SIM_BAD_STATE)
            fprintf(stderr, "gpusim: %s was made by another version of gpusim; create the node again\n", path);
    }
    pthread_mutex_unlock(&opening);
    return result;
}

static double wall_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double sim_now(const struct sim_state *s)
{
    return s->anchor_sim_s + (wall_now() - s->anchor_wall_s) * s->time_scale;
}

uint64_t sim_unix_us(const struct sim_state *s)
{
    return (uint64_t)((s->epoch_s + sim_now(s)) * 1e6);
}

struct sim_state *sim_lock(void)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)state->mutex;
    /* The state is advanced in small consistent steps: whoever dies with the lock leaves it usable. */
    if (pthread_mutex_lock(mutex) == EOWNERDEAD)
        pthread_mutex_consistent(mutex);
    double wall = wall_now();
    if (wall < state->anchor_wall_s) { /* the machine was rebooted: its monotonic clock began anew */
        state->anchor_wall_s = wall;
        state->anchor_sim_s = state->model_time_s;
    }
    sim_advance(state, sim_now(state));
    if (wall - last_reap > REAP_EVERY_S) {
        last_reap = wall;
        for (uint32_t i = 0; i < state->gpu_count; i++)
            sim_reap(state, &state->device[i]);
    }
    return state;
}

void sim_unlock(void)
{
    pthread_mutex_unlock((pthread_mutex_t *)state->mutex);
}

static void sleep_wall(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&t, &t) && errno == EINTR)
        ;
}

int sim_fault(const char *function, int gpu, int *code)
{
    for (uint32_t i = 0; i < state->rule_count; i++) {
        struct sim_rule *rule = &state->rule[i];
        if ((rule->gpu >= 0 && rule->gpu != gpu) || strcmp(rule->function, function) != 0)
            continue;
        if (rule->seen++ < rule->after || rule->fired >= rule->times)
            continue;
        rule->fired++;
        if (rule->hang) {
            sim_unlock();
            for (;;)
                pause();
        }
        int answer = rule->code;
        if (rule->delay_s > 0) {
            double delay = rule->delay_s;
            sim_unlock();
            sleep_wall(delay);
            sim_lock();
        }
        if (answer == 0)
            continue;
        *code = answer;
        return 1;
    }
    return 0;
}

uint64_t sim_start_ticks(uint32_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    const char *field = strrchr(text, ')'); /* the name before it may hold anything */
    if (!field || field[1] == 0 || field[2] == 'Z' || field[2] == 'X')
        return 0;
    unsigned long long ticks = 0;
    const char *format = ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu";
    return sscanf(field, format, &ticks) == 1 ? (uint64_t)ticks : 0;
}

void sim_reap(struct sim_state *s, struct sim_device *d)
{
    for (int i = 0; i < MAX_PROCESSES; i++) {
        struct sim_process *p = &d->process[i];
        if (p->pid == 0 || p->start_ticks == 0 || sim_start_ticks(p->pid) == p->start_ticks)
            continue;
        if (d->busy_pid == p->pid)
            sim_stop_work(s, d);
        memset(p, 0, sizeof *p);
    }
}

double sim_memory_used_mib(const struct sim_device *d)
{
    double used = d->memory_leaked_mib;
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (d->process[i].pid)
            used += d->process[i].memory_mib;
    double most = d->memory_total_mib - d->memory_reserved_mib;
    return used < most ? used : most;
}

int sim_is_active(const struct sim_device *d)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (d->process[i].pid)
            return 1;
    return d->load_utilization > 0;
}
