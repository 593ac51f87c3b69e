/* Fans. Boards that their chassis cools have none, and say so. */
#include "nvml_common.h"

#include <math.h>

static const unsigned int RPM_OF_FULL_FAN = 6000;

static unsigned int percent(double value)
{
    return (unsigned int)lround(value);
}

GETTER(nvmlDeviceGetNumFans, unsigned int, NEED_HEALTH, 1, d->fan_count)
GETTER(nvmlDeviceGetFanSpeed, unsigned int, NEED_HEALTH, d->fan_count > 0, percent(d->fan_percent))

#define FAN_GETTER(function, type, expression)                                                                         \
    nvmlReturn_t function(nvmlDevice_t device, unsigned int fan, type *value)                                          \
    {                                                                                                                  \
        DEVICE_CALL(device, NEED_HEALTH);                                                                              \
        REQUIRE(d->fan_count > 0, NVML_ERROR_NOT_SUPPORTED);                                                           \
        REQUIRE(value && fan < d->fan_count, NVML_ERROR_INVALID_ARGUMENT);                                             \
        *value = (type)(expression);                                                                                   \
        END(NVML_SUCCESS);                                                                                             \
    }

FAN_GETTER(nvmlDeviceGetFanSpeed_v2, unsigned int, percent(d->fan_percent))
FAN_GETTER(nvmlDeviceGetTargetFanSpeed, unsigned int, percent(sim_fan_goal(d)))
FAN_GETTER(nvmlDeviceGetFanControlPolicy_v2, nvmlFanControlPolicy_t, NVML_FAN_POLICY_TEMPERATURE_CONTINOUS_SW)

nvmlReturn_t nvmlDeviceGetMinMaxFanSpeed(nvmlDevice_t device, unsigned int *least, unsigned int *most)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(d->fan_count > 0, NVML_ERROR_NOT_SUPPORTED);
    REQUIRE(least && most, NVML_ERROR_INVALID_ARGUMENT);
    *least = percent(d->fan_idle_percent);
    *most = percent(d->fan_max_percent);
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetFanSpeedRPM(nvmlDevice_t device, nvmlFanSpeedInfo_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(d->fan_count > 0, NVML_ERROR_NOT_SUPPORTED);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(value->version == nvmlFanSpeedInfo_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(value->fan < d->fan_count, NVML_ERROR_INVALID_ARGUMENT);
    value->speed = percent(d->fan_percent) * RPM_OF_FULL_FAN / 100;
    END(NVML_SUCCESS);
}
