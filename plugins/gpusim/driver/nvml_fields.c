/* Field values: each carries its own return code. Which driver has which field: nvml.h of that branch. */
#include "nvml_common.h"

#include <math.h>

/* Fields 269 to 271 came with R575; 230 with R570; 206 to 222 with R560. */
enum { R560 = 560, R570 = 570, R575 = 575 };

static nvmlReturn_t unsigned_int(nvmlFieldValue_t *v, unsigned int value)
{
    v->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    v->value.uiVal = value;
    return NVML_SUCCESS;
}

static nvmlReturn_t signed_int(nvmlFieldValue_t *v, double value)
{
    v->valueType = NVML_VALUE_TYPE_SIGNED_INT;
    v->value.siVal = (int)lround(value);
    return NVML_SUCCESS;
}

static nvmlReturn_t unsigned_long_long(nvmlFieldValue_t *v, unsigned long long value)
{
    v->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    v->value.ullVal = value;
    return NVML_SUCCESS;
}

static nvmlReturn_t nanoseconds(nvmlFieldValue_t *v, double seconds)
{
    return unsigned_long_long(v, (unsigned long long)(seconds * 1e9));
}

static nvmlReturn_t milliwatts(nvmlFieldValue_t *v, double watts)
{
    if (v->scopeId != NVML_POWER_SCOPE_GPU) /* a module is more than its GPU on Grace boards only */
        return NVML_ERROR_NOT_SUPPORTED;
    return unsigned_int(v, (unsigned int)llround(watts * 1000));
}

static nvmlReturn_t ecc(const struct sim_device *d, nvmlFieldValue_t *v, uint64_t value)
{
    return d->ecc_current ? unsigned_long_long(v, value) : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t margin(const struct sim_device *d, nvmlFieldValue_t *v, double limit_c)
{
    return d->has_margin ? signed_int(v, d->slowdown_c - limit_c) : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t remap(const struct sim_device *d, nvmlFieldValue_t *v, uint32_t value)
{
    return d->remap_supported && !d->mig_current ? unsigned_int(v, value) : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t retired(const struct sim_device *d, nvmlFieldValue_t *v, uint32_t value)
{
    return d->remap_supported ? NVML_ERROR_NOT_SUPPORTED : unsigned_long_long(v, value);
}

static nvmlReturn_t link(const struct sim_device *d, nvmlFieldValue_t *v, int before_gen5, int *number)
{
    if (d->nvlink_count == 0 || (before_gen5 && d->nvlink_version >= 5))
        return NVML_ERROR_NOT_SUPPORTED;
    (void)v;
    *number = (int)v->scopeId;
    return v->scopeId < d->nvlink_count ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

static nvmlReturn_t link_counter(const struct sim_device *d, nvmlFieldValue_t *v, int before_gen5, const uint64_t *values)
{
    int number;
    nvmlReturn_t result = link(d, v, before_gen5, &number);
    return result == NVML_SUCCESS ? unsigned_long_long(v, values ? values[number] : 0) : result;
}

static nvmlReturn_t gen5_counter(const struct sim_state *s, const struct sim_device *d, nvmlFieldValue_t *v,
                                 const uint64_t *values)
{
    if (s->driver_branch < R560 || d->nvlink_version < 5)
        return NVML_ERROR_NOT_SUPPORTED;
    return link_counter(d, v, 0, values);
}

static nvmlReturn_t link_field(const struct sim_state *s, const struct sim_device *d, nvmlFieldValue_t *v)
{
    int number;
    nvmlReturn_t result;
    switch (v->fieldId) {
    case NVML_FI_DEV_NVLINK_LINK_COUNT: return unsigned_int(v, d->nvlink_count);
    case NVML_FI_DEV_NVLINK_GET_STATE:
        result = link(d, v, 1, &number);
        return result == NVML_SUCCESS ? unsigned_int(v, d->nvlink_state[number]) : result;
    case NVML_FI_DEV_NVLINK_GET_VERSION:
        result = link(d, v, 0, &number);
        return result == NVML_SUCCESS ? unsigned_int(v, d->nvlink_version) : result;
    case NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY: return link_counter(d, v, 1, d->nvlink_replays);
    case NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY: return link_counter(d, v, 1, d->nvlink_recoveries);
    case NVML_FI_DEV_NVLINK_ERROR_DL_CRC: return link_counter(d, v, 1, d->nvlink_crc_errors);
    case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS: return gen5_counter(s, d, v, d->nvlink_recoveries);
    case NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS: return gen5_counter(s, d, v, d->nvlink_crc_errors);
    case NVML_FI_DEV_NVLINK_COUNT_MALFORMED_PACKET_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_BUFFER_OVERRUN_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_RCV_REMOTE_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_RCV_GENERAL_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS:
    case NVML_FI_DEV_NVLINK_COUNT_XMIT_DISCARDS:
    case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS:
    case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS: return gen5_counter(s, d, v, NULL);
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

static nvmlReturn_t field(const struct sim_state *s, const struct sim_device *d, nvmlFieldValue_t *v)
{
    switch (v->fieldId) {
    case NVML_FI_DEV_ECC_CURRENT: return d->ecc_supported ? unsigned_int(v, d->ecc_current) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_ECC_PENDING: return d->ecc_supported ? unsigned_int(v, d->ecc_pending) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL: return ecc(d, v, d->ecc_corrected_volatile);
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL: return ecc(d, v, d->ecc_uncorrected_volatile);
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: return ecc(d, v, d->ecc_corrected_aggregate);
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: return ecc(d, v, d->ecc_uncorrected_aggregate + d->sram_parity + d->sram_secded);
    case NVML_FI_DEV_ECC_SBE_VOL_DEV: return ecc(d, v, d->ecc_corrected_volatile);
    case NVML_FI_DEV_ECC_DBE_VOL_DEV: return ecc(d, v, d->ecc_uncorrected_volatile);
    case NVML_FI_DEV_ECC_SBE_AGG_DEV: return ecc(d, v, d->ecc_corrected_aggregate);
    case NVML_FI_DEV_ECC_DBE_AGG_DEV: return ecc(d, v, d->ecc_uncorrected_aggregate);
    case NVML_FI_DEV_RETIRED_SBE: return retired(d, v, d->retired_pages_single);
    case NVML_FI_DEV_RETIRED_DBE: return retired(d, v, d->retired_pages_double);
    case NVML_FI_DEV_RETIRED_PENDING: return retired(d, v, d->retired_pending);
    case NVML_FI_DEV_REMAPPED_COR: return remap(d, v, d->remapped_corrected);
    case NVML_FI_DEV_REMAPPED_UNC: return remap(d, v, d->remapped_uncorrected);
    case NVML_FI_DEV_REMAPPED_PENDING: return remap(d, v, d->remap_pending);
    case NVML_FI_DEV_REMAPPED_FAILURE: return remap(d, v, d->remap_failed);
    case NVML_FI_DEV_PERF_POLICY_POWER: return nanoseconds(v, d->sw_power_s);
    case NVML_FI_DEV_PERF_POLICY_THERMAL: return nanoseconds(v, d->sw_thermal_s + d->hw_thermal_s);
    case NVML_FI_DEV_PERF_POLICY_SYNC_BOOST: return nanoseconds(v, 0);
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN:
        return s->driver_branch >= R575 ? nanoseconds(v, d->sw_thermal_s) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN:
        return s->driver_branch >= R575 ? nanoseconds(v, d->hw_thermal_s) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN:
        return s->driver_branch >= R575 ? nanoseconds(v, d->power_brake_s) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_MEMORY_TEMP:
        return d->has_memory_sensor ? unsigned_int(v, (unsigned int)lround(fmax(d->memory_temperature_c, 0)))
                                    : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION:
    case NVML_FI_DEV_ENERGY: return unsigned_long_long(v, (unsigned long long)(d->energy_j * 1000));
    case NVML_FI_DEV_PCIE_REPLAY_COUNTER: return unsigned_int(v, (unsigned int)d->pcie_replays);
    case NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER:
    case NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS:
    case NVML_FI_DEV_PCIE_COUNT_NAKS_RECEIVED:
    case NVML_FI_DEV_PCIE_COUNT_RECEIVER_ERROR:
    case NVML_FI_DEV_PCIE_COUNT_BAD_TLP:
    case NVML_FI_DEV_PCIE_COUNT_NAKS_SENT:
    case NVML_FI_DEV_PCIE_COUNT_BAD_DLLP:
    case NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR:
    case NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR:
    case NVML_FI_DEV_PCIE_COUNT_UNSUPPORTED_REQ:
    case NVML_FI_DEV_PCIE_COUNT_LCRC_ERROR:
    case NVML_FI_DEV_PCIE_COUNT_LANE_ERROR: return unsigned_int(v, 0);
    case NVML_FI_DEV_POWER_AVERAGE: /* GA100 has no mean */
        return d->architecture > NVML_DEVICE_ARCH_AMPERE ? milliwatts(v, sim_told_w(s, d, d->power_mean_w)) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_POWER_INSTANT: return milliwatts(v, sim_told_w(s, d, d->power_w));
    case NVML_FI_DEV_POWER_MIN_LIMIT: return milliwatts(v, d->power_min_w);
    case NVML_FI_DEV_POWER_MAX_LIMIT: return milliwatts(v, d->power_max_w);
    case NVML_FI_DEV_POWER_DEFAULT_LIMIT: return milliwatts(v, d->power_default_w);
    case NVML_FI_DEV_POWER_CURRENT_LIMIT: return milliwatts(v, sim_enforced_w(d));
    case NVML_FI_DEV_POWER_REQUESTED_LIMIT: return milliwatts(v, d->power_limit_w);
    case NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT: return margin(d, v, d->shutdown_c);
    case NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT: return margin(d, v, d->hw_slowdown_c);
    case NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT:
        return d->has_memory_sensor && d->has_margin ? signed_int(v, 0) : NVML_ERROR_NOT_SUPPORTED;
    case NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT: return margin(d, v, d->slowdown_c);
    case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION:
        return s->driver_branch >= R570 ? unsigned_int(v, d->recovery_action) : NVML_ERROR_NOT_SUPPORTED;
    default: return link_field(s, d, v);
    }
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    DEVICE_CALL(device, NEED_IDENTITY);
    REQUIRE(values && count > 0, NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < count; i++) {
        nvmlFieldValue_t *v = &values[i];
        v->timestamp = (long long)sim_unix_us(s);
        v->latencyUsec = 1;
        v->value.ullVal = 0;
        v->nvmlReturn = d->reset_required && v->fieldId != NVML_FI_DEV_GET_GPU_RECOVERY_ACTION ? NVML_ERROR_RESET_REQUIRED
                                                                                               : field(s, d, v);
    }
    END(NVML_SUCCESS);
}
