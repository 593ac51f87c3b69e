/* PCIe and NVLink. */
#include "nvml_common.h"

#include <string.h>

/* Megabits a second and lane, by generation. */
static unsigned int lane_speed(uint32_t gen)
{
    static const unsigned int speed[] = {0, 2500, 5000, 8000, 16000, 32000, 64000};
    return gen < sizeof speed / sizeof *speed ? speed[gen] : 0;
}

GETTER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, NEED_HEALTH, 1, sim_pcie_gen(d))
GETTER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, NEED_HEALTH, 1, d->pcie_width_loaded)
GETTER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, NEED_HEALTH, 1, d->pcie_gen_slot)
GETTER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, NEED_HEALTH, 1, d->pcie_width_gpu)
GETTER(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned int, NEED_HEALTH, 1, d->pcie_gen_gpu)
GETTER(nvmlDeviceGetPcieSpeed, unsigned int, NEED_HEALTH, 1, lane_speed(sim_pcie_gen(d)))
GETTER(nvmlDeviceGetPcieLinkMaxSpeed, unsigned int, NEED_HEALTH, 1, d->pcie_gen_gpu)
GETTER(nvmlDeviceGetPcieReplayCounter, unsigned int, NEED_HEALTH, 1, d->pcie_replays)

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter, unsigned int *kb_per_s)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(kb_per_s && (unsigned int)counter < NVML_PCIE_UTIL_COUNT, NVML_ERROR_INVALID_ARGUMENT);
    *kb_per_s = (unsigned int)(d->utilization * 20);
    END(NVML_SUCCESS);
}

/* NVLink. */

#define LINK_CALL(device, link, value)                                                                                 \
    DEVICE_CALL(device, NEED_HEALTH);                                                                                  \
    REQUIRE(d->nvlink_count > 0, NVML_ERROR_NOT_SUPPORTED);                                                            \
    REQUIRE((value) && (link) < d->nvlink_count, NVML_ERROR_INVALID_ARGUMENT)

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *value)
{
    LINK_CALL(device, link, value);
    *value = d->nvlink_state[link] != 0 ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link, unsigned int *value)
{
    LINK_CALL(device, link, value);
    *value = d->nvlink_version;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned int link, nvmlNvLinkCapability_t which,
                                           unsigned int *value)
{
    LINK_CALL(device, link, value);
    REQUIRE((unsigned int)which < NVML_NVLINK_CAP_COUNT, NVML_ERROR_INVALID_ARGUMENT);
    *value = which != NVML_NVLINK_CAP_SLI_BRIDGE;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link, nvmlNvLinkErrorCounter_t which,
                                             unsigned long long *value)
{
    LINK_CALL(device, link, value);
    REQUIRE(d->nvlink_version < 5, NVML_ERROR_NOT_SUPPORTED);
    switch (which) {
    case NVML_NVLINK_ERROR_DL_REPLAY: *value = d->nvlink_replays[link]; break;
    case NVML_NVLINK_ERROR_DL_RECOVERY: *value = d->nvlink_recoveries[link]; break;
    case NVML_NVLINK_ERROR_DL_CRC_FLIT: *value = d->nvlink_crc_errors[link]; break;
    case NVML_NVLINK_ERROR_DL_CRC_DATA:
    case NVML_NVLINK_ERROR_DL_ECC_DATA: *value = 0; break;
    default: END(NVML_ERROR_INVALID_ARGUMENT);
    }
    END(NVML_SUCCESS);
}

/* All links lead to a switch on the boards that have them. */
nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link,
                                                 nvmlIntNvLinkDeviceType_t *value)
{
    LINK_CALL(device, link, value);
    *value = NVML_NVLINK_DEVICE_TYPE_SWITCH;
    END(NVML_SUCCESS);
}
