/* Utilisation, memory and processes. */
#include "nvml_common.h"

#include <math.h>
#include <string.h>

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(!d->mig_current, NVML_ERROR_NOT_SUPPORTED);
    value->gpu = (unsigned int)lround(d->utilization);
    value->memory = (unsigned int)lround(d->utilization * 0.4);
    END(NVML_SUCCESS);
}

/* The newest sample: the simulator keeps no older ones. */
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long last_seen,
                                  nvmlValueType_t *value_type, unsigned int *count, nvmlSample_t *samples)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value_type && count, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(!d->mig_current, NVML_ERROR_NOT_SUPPORTED);
    unsigned int value;
    switch (type) {
    case NVML_TOTAL_POWER_SAMPLES: value = (unsigned int)llround(d->power_w * 1000); break;
    case NVML_GPU_UTILIZATION_SAMPLES: value = (unsigned int)lround(d->utilization); break;
    case NVML_MEMORY_UTILIZATION_SAMPLES: value = (unsigned int)lround(d->utilization * 0.4); break;
    case NVML_PROCESSOR_CLK_SAMPLES: value = d->sm_mhz; break;
    case NVML_MEMORY_CLK_SAMPLES: value = sim_is_active(d) ? d->max_mem_mhz : d->idle_mem_mhz; break;
    default: END(NVML_ERROR_NOT_SUPPORTED);
    }
    *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
    uint64_t now = sim_unix_us(s);
    REQUIRE(now > last_seen, NVML_ERROR_NOT_FOUND);
    if (samples) {
        REQUIRE(*count >= 1, NVML_ERROR_INVALID_ARGUMENT);
        memset(samples, 0, sizeof *samples);
        samples->timeStamp = now;
        samples->sampleValue.uiVal = value;
    }
    *count = 1;
    END(NVML_SUCCESS);
}

#define ENGINE_GETTER(function)                                                                                        \
    nvmlReturn_t function(nvmlDevice_t device, unsigned int *utilization, unsigned int *period_us)                     \
    {                                                                                                                  \
        DEVICE_CALL(device, NEED_HEALTH);                                                                              \
        REQUIRE(utilization && period_us, NVML_ERROR_INVALID_ARGUMENT);                                                \
        *utilization = 0;                                                                                              \
        *period_us = 167000;                                                                                           \
        END(NVML_SUCCESS);                                                                                             \
    }

ENGINE_GETTER(nvmlDeviceGetEncoderUtilization)
ENGINE_GETTER(nvmlDeviceGetDecoderUtilization)

/* Memory. */

static unsigned long long bytes(double mib)
{
    return (unsigned long long)(mib * (double)MIB);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    sim_reap(s, d);
    value->total = bytes(d->memory_total_mib);
    value->used = bytes(sim_memory_used_mib(d) + d->memory_reserved_mib);
    value->free = value->total - value->used;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(value->version == nvmlMemory_v2, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    sim_reap(s, d);
    value->total = bytes(d->memory_total_mib);
    value->reserved = bytes(d->memory_reserved_mib);
    value->used = bytes(sim_memory_used_mib(d));
    value->free = value->total - value->reserved - value->used;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    value->bar1Total = d->bar1_mib * MIB;
    value->bar1Used = 2 * MIB;
    value->bar1Free = value->bar1Total - value->bar1Used;
    END(NVML_SUCCESS);
}

/* Processes. The three generations of the calls differ in the size of an entry: the first had pid and memory only. */

static nvmlReturn_t list(const char *function, nvmlDevice_t device, uint32_t kind, unsigned int *count, void *entries,
                         size_t entry_size)
{
    struct sim_state *s;
    struct sim_device *d;
    nvmlReturn_t begun = nvml_begin_device(function, device, NEED_HEALTH, &s, &d);
    if (begun != NVML_SUCCESS)
        return begun;
    REQUIRE(count, NVML_ERROR_INVALID_ARGUMENT);
    sim_reap(s, d);
    unsigned int found = 0;
    for (int i = 0; i < MAX_PROCESSES; i++) {
        const struct sim_process *p = &d->process[i];
        if (p->pid == 0 || p->kind != kind || p->invisible)
            continue;
        if (entries && found < *count) {
            nvmlProcessInfo_t entry = {
                .pid = p->pid,
                .usedGpuMemory =
                    p->memory_unavailable ? (unsigned long long)NVML_VALUE_NOT_AVAILABLE : bytes(p->memory_mib),
                .gpuInstanceId = 0xFFFFFFFF,
                .computeInstanceId = 0xFFFFFFFF,
            };
            memcpy((char *)entries + found * entry_size, &entry, entry_size);
        }
        found++;
    }
    int fits = found == 0 || (entries && found <= *count);
    *count = found;
    END(fits ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE);
}

#define LIST(function, type, kind)                                                                                     \
    nvmlReturn_t function(nvmlDevice_t device, unsigned int *count, type *entries)                                     \
    {                                                                                                                  \
        return list(__func__, device, kind, count, entries, sizeof(type));                                             \
    }

LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t, KIND_COMPUTE)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, KIND_COMPUTE)
LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t, KIND_COMPUTE)
LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t, KIND_GRAPHICS)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t, KIND_GRAPHICS)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t, KIND_GRAPHICS)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t, KIND_MPS)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, KIND_MPS)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t, KIND_MPS)

/* Utilisation by process: all of it belongs to the process whose work is on the GPU. */
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                             unsigned int *count, unsigned long long last_seen)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(count, NVML_ERROR_INVALID_ARGUMENT);
    uint64_t now = sim_unix_us(s);
    sim_reap(s, d);
    REQUIRE(now > last_seen && d->busy_pid && d->busy_until > s->model_time_s, NVML_ERROR_NOT_FOUND);
    if (!samples || *count < 1) {
        *count = 1;
        END(NVML_ERROR_INSUFFICIENT_SIZE);
    }
    memset(samples, 0, sizeof *samples);
    samples->pid = d->busy_pid;
    samples->timeStamp = now;
    samples->smUtil = (unsigned int)lround(d->utilization);
    samples->memUtil = (unsigned int)lround(d->utilization * 0.4);
    *count = 1;
    END(NVML_SUCCESS);
}
