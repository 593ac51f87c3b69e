/* Power and energy, temperatures and clocks. */
#include "nvml_common.h"

#include <math.h>

static unsigned int milli(double value)
{
    return (unsigned int)llround(value * 1000);
}

/* Boards with a 1 s mean: Ampere, except GA100, and later. The others answer with the instant. */
static double usage_w(const struct sim_state *s, const struct sim_device *d)
{
    return sim_told_w(s, d, d->architecture > NVML_DEVICE_ARCH_AMPERE ? d->power_mean_w : d->power_w);
}

GETTER(nvmlDeviceGetPowerUsage, unsigned int, NEED_HEALTH, 1, milli(usage_w(s, d)))
GETTER(nvmlDeviceGetPowerManagementMode, nvmlEnableState_t, NEED_HEALTH, 1, NVML_FEATURE_ENABLED)
GETTER(nvmlDeviceGetPowerManagementLimit, unsigned int, NEED_HEALTH, 1, milli(d->power_limit_w))
GETTER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, NEED_HEALTH, 1, milli(d->power_default_w))
GETTER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, NEED_HEALTH, 1, milli(sim_enforced_w(d)))
GETTER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, NEED_HEALTH, 1, d->energy_j * 1000)

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least, unsigned int *most)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(least && most, NVML_ERROR_INVALID_ARGUMENT);
    *least = milli(d->power_min_w);
    *most = milli(d->power_max_w);
    END(NVML_SUCCESS);
}

static nvmlReturn_t set_limit(struct sim_device *d, unsigned int limit_mw)
{
    if (limit_mw < milli(d->power_min_w) || limit_mw > milli(d->power_max_w))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!d->ignore_power_set)
        d->power_limit_w = limit_mw / 1000.0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int limit_mw)
{
    DEVICE_CALL(device, NEED_ADMIN);
    (void)s;
    END(set_limit(d, limit_mw));
}

nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t device, nvmlPowerValue_v2_t *value)
{
    DEVICE_CALL(device, NEED_ADMIN);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(value->version == nvmlPowerValue_v2, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(value->powerScope == NVML_POWER_SCOPE_GPU, NVML_ERROR_NOT_SUPPORTED);
    END(set_limit(d, value->powerValueMw));
}

/* Temperature. */

GETTER(nvmlDeviceGetPerformanceState, nvmlPstates_t, NEED_HEALTH, 1,
       sim_is_active(d) || d->event_reasons != 1 ? NVML_PSTATE_0 : (d->has_memory_sensor ? NVML_PSTATE_0 : NVML_PSTATE_8))
GETTER(nvmlDeviceGetPowerState, nvmlPstates_t, NEED_HEALTH, 1,
       sim_is_active(d) || d->event_reasons != 1 ? NVML_PSTATE_0 : (d->has_memory_sensor ? NVML_PSTATE_0 : NVML_PSTATE_8))

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value && sensor == NVML_TEMPERATURE_GPU, NVML_ERROR_INVALID_ARGUMENT);
    *value = (unsigned int)lround(fmax(sim_core_c(s, d), 0));
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(value->version == nvmlTemperature_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(value->sensorType == NVML_TEMPERATURE_GPU, NVML_ERROR_INVALID_ARGUMENT);
    value->temperature = (int)lround(sim_core_c(s, d));
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(value->version == nvmlMarginTemperature_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(d->has_margin, NVML_ERROR_NOT_SUPPORTED);
    value->marginTemperature = (int)lround(sim_margin_c(s, d));
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t which, unsigned int *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value && (unsigned int)which < NVML_TEMPERATURE_THRESHOLD_COUNT, NVML_ERROR_INVALID_ARGUMENT);
    double limit;
    switch (which) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN: limit = d->shutdown_c; break;
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN: limit = d->hw_slowdown_c; break;
    case NVML_TEMPERATURE_THRESHOLD_GPU_MAX: limit = d->slowdown_c; break;
    case NVML_TEMPERATURE_THRESHOLD_MEM_MAX:
        REQUIRE(d->has_memory_sensor, NVML_ERROR_NOT_SUPPORTED);
        limit = d->memory_max_c;
        break;
    default: END(NVML_ERROR_NOT_SUPPORTED);
    }
    *value = (unsigned int)limit;
    END(NVML_SUCCESS);
}

/* Clocks. */

static int clock_mhz(const struct sim_device *d, nvmlClockType_t type, int most, unsigned int *value)
{
    switch (type) {
    case NVML_CLOCK_GRAPHICS:
    case NVML_CLOCK_SM: *value = most ? d->max_sm_mhz : d->sm_mhz; return 1;
    case NVML_CLOCK_MEM: *value = most || sim_is_active(d) ? d->max_mem_mhz : d->idle_mem_mhz; return 1;
    case NVML_CLOCK_VIDEO: *value = (most ? d->max_sm_mhz : d->sm_mhz) * 9 / 10; return 1;
    default: return 0;
    }
}

#define CLOCK_GETTER(function, most)                                                                                   \
    nvmlReturn_t function(nvmlDevice_t device, nvmlClockType_t type, unsigned int *value)                              \
    {                                                                                                                  \
        DEVICE_CALL(device, NEED_HEALTH);                                                                              \
        REQUIRE(value && clock_mhz(d, type, most, value), NVML_ERROR_INVALID_ARGUMENT);                                \
        END(NVML_SUCCESS);                                                                                             \
    }

CLOCK_GETTER(nvmlDeviceGetClockInfo, 0)
CLOCK_GETTER(nvmlDeviceGetMaxClockInfo, 1)
CLOCK_GETTER(nvmlDeviceGetMaxCustomerBoostClock, 1)
CLOCK_GETTER(nvmlDeviceGetApplicationsClock, 1)
CLOCK_GETTER(nvmlDeviceGetDefaultApplicationsClock, 1)

nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t type, nvmlClockId_t id, unsigned int *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value && (unsigned int)id < NVML_CLOCK_ID_COUNT, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(clock_mhz(d, type, id != NVML_CLOCK_ID_CURRENT, value), NVML_ERROR_INVALID_ARGUMENT);
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned int least_mhz, unsigned int most_mhz)
{
    DEVICE_CALL(device, NEED_ADMIN);
    REQUIRE(least_mhz <= most_mhz && most_mhz > 0, NVML_ERROR_INVALID_ARGUMENT);
    d->locked_sm_mhz = most_mhz < d->max_sm_mhz ? most_mhz : 0;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device)
{
    DEVICE_CALL(device, NEED_ADMIN);
    d->locked_sm_mhz = 0;
    END(NVML_SUCCESS);
}

/* Why the clock is where it is, and for how long that was so. */

GETTER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, NEED_HEALTH, 1, d->event_reasons)
GETTER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, NEED_HEALTH, 1, d->event_reasons)
GETTER(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, NEED_HEALTH, 1, 0x1ff)
GETTER(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, NEED_HEALTH, 1, 0x1ff)

nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, nvmlPerfPolicyType_t policy, nvmlViolationTime_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    double seconds = 0;
    switch (policy) {
    case NVML_PERF_POLICY_POWER: seconds = d->sw_power_s; break;
    case NVML_PERF_POLICY_THERMAL: seconds = d->sw_thermal_s + d->hw_thermal_s; break;
    case NVML_PERF_POLICY_BOARD_LIMIT: seconds = d->power_brake_s; break;
    case NVML_PERF_POLICY_SYNC_BOOST:
    case NVML_PERF_POLICY_LOW_UTILIZATION:
    case NVML_PERF_POLICY_RELIABILITY: break;
    default: END(NVML_ERROR_NOT_SUPPORTED);
    }
    value->referenceTime = sim_unix_us(s);
    value->violationTime = (unsigned long long)(seconds * 1e9);
    END(NVML_SUCCESS);
}
