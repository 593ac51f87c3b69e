/* ECC counters, remapped rows, retired pages, repair. */
#include "nvml_common.h"

#include <string.h>

static uint64_t dram_errors(const struct sim_device *d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter)
{
    if (type == NVML_MEMORY_ERROR_TYPE_CORRECTED)
        return counter == NVML_VOLATILE_ECC ? d->ecc_corrected_volatile : d->ecc_corrected_aggregate;
    return counter == NVML_VOLATILE_ECC ? d->ecc_uncorrected_volatile : d->ecc_uncorrected_aggregate;
}

static uint64_t sram_errors(const struct sim_device *d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter)
{
    if (type == NVML_MEMORY_ERROR_TYPE_CORRECTED || counter == NVML_VOLATILE_ECC)
        return 0;
    return d->sram_parity + d->sram_secded;
}

#define REQUIRE_ECC(type, counter, value)                                                                              \
    REQUIRE((value) && (unsigned int)(type) < NVML_MEMORY_ERROR_TYPE_COUNT &&                                          \
                (unsigned int)(counter) < NVML_ECC_COUNTER_TYPE_COUNT,                                                 \
            NVML_ERROR_INVALID_ARGUMENT);                                                                              \
    REQUIRE(d->ecc_supported && d->ecc_current, NVML_ERROR_NOT_SUPPORTED)

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         unsigned long long *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE_ECC(type, counter, value);
    *value = dram_errors(d, type, counter) + sram_errors(d, type, counter);
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                             nvmlEccCounterType_t counter, nvmlMemoryLocation_t where,
                                             unsigned long long *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE_ECC(type, counter, value);
    switch (where) {
    case NVML_MEMORY_LOCATION_DRAM: *value = dram_errors(d, type, counter); break;
    case NVML_MEMORY_LOCATION_SRAM: *value = sram_errors(d, type, counter); break;
    default: END(NVML_ERROR_NOT_SUPPORTED);
    }
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_t *value)
{
    DEVICE_CALL(device, NEED_ADMIN);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(value->version == nvmlEccSramErrorStatus_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(d->architecture >= NVML_DEVICE_ARCH_AMPERE && d->ecc_current, NVML_ERROR_NOT_SUPPORTED);
    memset(value, 0, sizeof *value);
    value->version = nvmlEccSramErrorStatus_v1;
    value->aggregateUncParity = d->sram_parity;
    value->aggregateUncSecDed = d->sram_secded;
    value->aggregateUncBucketSm = d->sram_parity;
    value->aggregateUncBucketL2 = d->sram_secded;
    value->bThresholdExceeded = d->sram_parity > 4 || d->sram_secded > 2;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceClearEccErrorCounts(nvmlDevice_t device, nvmlEccCounterType_t counter)
{
    DEVICE_CALL(device, NEED_ADMIN);
    REQUIRE(d->ecc_supported && d->ecc_current, NVML_ERROR_NOT_SUPPORTED);
    REQUIRE((unsigned int)counter < NVML_ECC_COUNTER_TYPE_COUNT, NVML_ERROR_INVALID_ARGUMENT);
    if (counter == NVML_VOLATILE_ECC)
        d->ecc_corrected_volatile = d->ecc_uncorrected_volatile = 0;
    else
        d->ecc_corrected_aggregate = d->ecc_uncorrected_aggregate = 0;
    END(NVML_SUCCESS);
}

/* Remapped rows (Ampere and later). */

#define REQUIRE_REMAP() REQUIRE(d->remap_supported && !d->mig_current, NVML_ERROR_NOT_SUPPORTED)

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                                       unsigned int *pending, unsigned int *failed)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(corrected && uncorrected && pending && failed, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE_REMAP();
    *corrected = d->remapped_corrected;
    *uncorrected = d->remapped_uncorrected;
    *pending = d->remap_pending;
    *failed = d->remap_failed;
    END(NVML_SUCCESS);
}

/* Banks by what is left of their spare rows: each remapped row costs one bank a part, a failure used one up. */
nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE_REMAP();
    unsigned int banks = 640, touched = d->remapped_corrected + d->remapped_uncorrected;
    memset(value, 0, sizeof *value);
    value->none = d->remap_failed;
    value->high = touched < banks ? touched : banks - value->none;
    value->max = banks - value->high - value->none;
    END(NVML_SUCCESS);
}

/* Retired pages (before Ampere). */

static nvmlReturn_t retired_pages(const char *function, nvmlDevice_t device, nvmlPageRetirementCause_t cause,
                                  unsigned int *count, unsigned long long *addresses, unsigned long long *times)
{
    struct sim_state *s;
    struct sim_device *d;
    nvmlReturn_t begun = nvml_begin_device(function, device, NEED_HEALTH, &s, &d);
    if (begun != NVML_SUCCESS)
        return begun;
    REQUIRE(count && (unsigned int)cause < NVML_PAGE_RETIREMENT_CAUSE_COUNT, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(!d->remap_supported, NVML_ERROR_NOT_SUPPORTED);
    unsigned int pages = cause == NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS ? d->retired_pages_single
                                                                                           : d->retired_pages_double;
    unsigned int room = *count;
    *count = pages;
    REQUIRE(pages <= room, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned int i = 0; addresses && i < pages; i++) {
        addresses[i] = 0x1000ULL * (i + 1);
        if (times)
            times[i] = (unsigned long long)s->epoch_s;
    }
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *count,
                                       unsigned long long *addresses)
{
    return retired_pages(__func__, device, cause, count, addresses, NULL);
}

nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *count,
                                          unsigned long long *addresses, unsigned long long *times)
{
    return retired_pages(__func__, device, cause, count, addresses, times);
}

GETTER(nvmlDeviceGetRetiredPagesPendingStatus, nvmlEnableState_t, NEED_HEALTH, !d->remap_supported, d->retired_pending)

nvmlReturn_t nvmlDeviceGetRepairStatus(nvmlDevice_t device, nvmlRepairStatus_t *value)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(value->version == nvmlRepairStatus_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(d->architecture >= NVML_DEVICE_ARCH_HOPPER, NVML_ERROR_NOT_SUPPORTED);
    value->bChannelRepairPending = value->bTpcRepairPending = 0;
    END(NVML_SUCCESS);
}
