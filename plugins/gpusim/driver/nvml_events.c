/* Events: an Xid reaches those who listen while it happens (the key `last_xid` changes), and nobody else. */
#include "nvml_common.h"

#include <stdlib.h>
#include <time.h>

enum { SET_MAGIC = 0x45564e54, POLL_MS = 10 };

struct event_set {
    int magic;
    unsigned long long types[MAX_GPUS];
    uint32_t seen[MAX_GPUS];
};

static struct event_set *valid(nvmlEventSet_t handle)
{
    struct event_set *set = (struct event_set *)(void *)handle;
    return set && set->magic == SET_MAGIC ? set : NULL;
}

GETTER(nvmlDeviceGetSupportedEventTypes, unsigned long long, NEED_HEALTH, 1, nvmlEventTypeXidCriticalError)

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *value)
{
    SYSTEM_CALL();
    (void)s;
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    struct event_set *set = calloc(1, sizeof *set);
    REQUIRE(set, NVML_ERROR_MEMORY);
    set->magic = SET_MAGIC;
    *value = (nvmlEventSet_t)(void *)set;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t handle)
{
    DEVICE_CALL(device, NEED_HEALTH);
    struct event_set *set = valid(handle);
    REQUIRE(set, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE((types & ~(unsigned long long)nvmlEventTypeXidCriticalError) == 0, NVML_ERROR_NOT_SUPPORTED);
    set->types[sim_index(s, d)] |= types;
    set->seen[sim_index(s, d)] = d->last_xid;
    END(NVML_SUCCESS);
}

static int next_event(struct sim_state *s, struct event_set *set, nvmlEventData_t *data)
{
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        uint32_t xid = s->device[i].last_xid;
        if (!set->types[i] || xid == set->seen[i])
            continue;
        set->seen[i] = xid;
        if (xid == 0)
            continue;
        *data = (nvmlEventData_t){
            .device = (nvmlDevice_t)(void *)&s->device[i],
            .eventType = nvmlEventTypeXidCriticalError,
            .eventData = xid,
            .gpuInstanceId = 0xFFFFFFFF,
            .computeInstanceId = 0xFFFFFFFF,
        };
        return 1;
    }
    return 0;
}

static nvmlReturn_t wait(const char *function, nvmlEventSet_t handle, nvmlEventData_t *data, unsigned int timeout_ms)
{
    struct sim_state *s;
    nvmlReturn_t begun = nvml_begin(function, &s);
    if (begun != NVML_SUCCESS)
        return begun;
    struct event_set *set = valid(handle);
    REQUIRE(set && data, NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned int waited = 0;; waited += POLL_MS) {
        REQUIRE(!next_event(s, set, data), NVML_SUCCESS);
        REQUIRE(waited < timeout_ms, NVML_ERROR_TIMEOUT);
        sim_unlock();
        struct timespec t = {.tv_sec = 0, .tv_nsec = POLL_MS * 1000000L};
        nanosleep(&t, NULL);
        sim_lock();
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    return wait(__func__, set, data, timeout_ms);
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    return wait(__func__, set, data, timeout_ms);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t handle)
{
    SYSTEM_CALL();
    (void)s;
    struct event_set *set = valid(handle);
    REQUIRE(set, NVML_ERROR_INVALID_ARGUMENT);
    set->magic = 0;
    free(set);
    END(NVML_SUCCESS);
}
