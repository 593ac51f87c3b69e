/* Which GPUs there are, and what they are. */
#include "nvml_common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static nvmlReturn_t count(const char *function, unsigned int *value)
{
    struct sim_state *s;
    nvmlReturn_t begun = nvml_begin(function, &s);
    if (begun != NVML_SUCCESS)
        return begun;
    REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);
    *value = 0;
    for (uint32_t i = 0; i < s->gpu_count; i++)
        *value += s->device[i].listed;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *value)
{
    return count(__func__, value);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *value)
{
    return count(__func__, value);
}

typedef int (*matches)(const struct sim_device *d, const void *wanted, unsigned int listed_before);

static nvmlReturn_t find(const char *function, matches match, const void *wanted, nvmlReturn_t otherwise,
                         nvmlDevice_t *device)
{
    struct sim_state *s;
    nvmlReturn_t begun = nvml_begin(function, &s);
    if (begun != NVML_SUCCESS)
        return begun;
    REQUIRE(device && wanted, NVML_ERROR_INVALID_ARGUMENT);
    unsigned int listed = 0;
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        struct sim_device *d = &s->device[i];
        if (!d->listed)
            continue;
        if (match(d, wanted, listed++)) {
            REQUIRE(!d->lost, NVML_ERROR_GPU_IS_LOST);
            *device = (nvmlDevice_t)(void *)d;
            END(NVML_SUCCESS);
        }
    }
    END(otherwise);
}

static int by_index(const struct sim_device *d, const void *wanted, unsigned int listed_before)
{
    (void)d;
    return *(const unsigned int *)wanted == listed_before;
}

static int by_uuid(const struct sim_device *d, const void *wanted, unsigned int listed_before)
{
    (void)listed_before;
    return strcmp(d->uuid, wanted) == 0;
}

static int by_serial(const struct sim_device *d, const void *wanted, unsigned int listed_before)
{
    (void)listed_before;
    return strcmp(d->serial, wanted) == 0;
}

/* "0:18:0.0", "0000:18:00.0" and "00000000:18:00.0" are the same address. */
static int by_bus(const struct sim_device *d, const void *wanted, unsigned int listed_before)
{
    (void)listed_before;
    unsigned int domain, bus, slot, function = 0;
    if (sscanf(wanted, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
        domain = 0;
        if (sscanf(wanted, "%x:%x.%x", &bus, &slot, &function) < 2)
            return 0;
    }
    return domain == 0 && bus == d->pci_bus && slot == 0 && function == 0;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return find(__func__, by_index, &index, NVML_ERROR_INVALID_ARGUMENT, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    return find(__func__, by_index, &index, NVML_ERROR_INVALID_ARGUMENT, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return find(__func__, by_uuid, uuid, NVML_ERROR_NOT_FOUND, device);
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    return find(__func__, by_serial, serial, NVML_ERROR_NOT_FOUND, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device)
{
    return find(__func__, by_bus, bus_id, NVML_ERROR_NOT_FOUND, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    return find(__func__, by_bus, bus_id, NVML_ERROR_NOT_FOUND, device);
}

static unsigned int listed_index(const struct sim_state *s, const struct sim_device *d)
{
    unsigned int index = 0;
    for (const struct sim_device *other = s->device; other < d; other++)
        index += other->listed;
    return index;
}

GETTER(nvmlDeviceGetIndex, unsigned int, NEED_IDENTITY, 1, listed_index(s, d))
GETTER(nvmlDeviceGetMinorNumber, unsigned int, NEED_IDENTITY, 1, d->minor)
GETTER(nvmlDeviceGetModuleId, unsigned int, NEED_IDENTITY, d->nvlink_count > 0, d->minor + 1)
GETTER(nvmlDeviceGetBrand, nvmlBrandType_t, NEED_IDENTITY, 1, NVML_BRAND_NVIDIA)
GETTER(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, NEED_IDENTITY, 1, d->architecture)
GETTER(nvmlDeviceGetNumGpuCores, unsigned int, NEED_IDENTITY, 1, d->sm_count * d->cores_per_sm)
GETTER(nvmlDeviceGetBoardId, unsigned int, NEED_IDENTITY, 1, d->pci_bus << 8)
GETTER(nvmlDeviceGetMultiGpuBoard, unsigned int, NEED_IDENTITY, 1, 0)
GETTER(nvmlDeviceGetMemoryBusWidth, unsigned int, NEED_IDENTITY, 1, d->memory_bus_bits)
TEXT_GETTER(nvmlDeviceGetName, NEED_IDENTITY, d->name)
TEXT_GETTER(nvmlDeviceGetUUID, NEED_IDENTITY, d->uuid)
TEXT_GETTER(nvmlDeviceGetSerial, NEED_IDENTITY, d->serial)
TEXT_GETTER(nvmlDeviceGetVbiosVersion, NEED_IDENTITY, d->vbios)
TEXT_GETTER(nvmlDeviceGetBoardPartNumber, NEED_IDENTITY, d->board_part)

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    DEVICE_CALL(device, NEED_IDENTITY);
    REQUIRE(major && minor, NVML_ERROR_INVALID_ARGUMENT);
    *major = (int)d->cc_major;
    *minor = (int)d->cc_minor;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvml_pci_info(const struct sim_device *d, nvmlPciInfo_t *pci)
{
    if (!pci)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    pci->bus = d->pci_bus;
    pci->pciDeviceId = d->pci_device_id;
    pci->pciSubSystemId = d->pci_subsystem_id;
    snprintf(pci->busId, sizeof pci->busId, "%.*s", (int)sizeof pci->busId - 1, d->bus_id);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", d->pci_bus & 0xffU);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    DEVICE_CALL(device, NEED_IDENTITY);
    END(nvml_pci_info(d, pci));
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    DEVICE_CALL(device, NEED_IDENTITY);
    END(nvml_pci_info(d, pci));
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    DEVICE_CALL(device, NEED_IDENTITY);
    END(nvml_pci_info(d, pci));
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *pci)
{
    DEVICE_CALL(device, NEED_IDENTITY);
    REQUIRE(pci, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(pci->version == nvmlPciInfoExt_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    pci->domain = pci->device = 0;
    pci->bus = d->pci_bus;
    pci->pciDeviceId = d->pci_device_id;
    pci->pciSubSystemId = d->pci_subsystem_id;
    pci->baseClass = 3;
    pci->subClass = 2;
    snprintf(pci->busId, sizeof pci->busId, "%.*s", (int)sizeof pci->busId - 1, d->bus_id);
    END(NVML_SUCCESS);
}

/* InfoROM. */

TEXT_GETTER(nvmlDeviceGetInforomImageVersion, NEED_HEALTH, d->inforom_version)

nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
    DEVICE_CALL(device, NEED_HEALTH);
    END(d->inforom_corrupt ? NVML_ERROR_CORRUPTED_INFOROM : NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetInforomConfigurationChecksum(nvmlDevice_t device, unsigned int *checksum)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(checksum, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(!d->inforom_corrupt, NVML_ERROR_CORRUPTED_INFOROM);
    *checksum = d->pci_device_id ^ 0x5A5A5A5AU;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetInforomVersion(nvmlDevice_t device, nvmlInforomObject_t object, char *text, unsigned int length)
{
    DEVICE_CALL(device, NEED_HEALTH);
    static const char *const versions[] = {"2.1", "6.16", "0.0"}; /* OEM, ECC, power */
    REQUIRE((unsigned int)object < 3, object == NVML_INFOROM_COUNT ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_SUPPORTED);
    END(nvml_copy_text(text, length, versions[object]));
}

/* Firmware of the GPU system processor: comes with the driver, from Turing on. */

nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version)
{
    DEVICE_CALL(device, NEED_HEALTH);
    END(nvml_copy_text(version, NVML_GSP_FIRMWARE_VERSION_BUF_SIZE, s->driver_version));
}

nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t device, unsigned int *enabled, unsigned int *by_default)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(enabled && by_default, NVML_ERROR_INVALID_ARGUMENT);
    *enabled = *by_default = 1;
    END(NVML_SUCCESS);
}
