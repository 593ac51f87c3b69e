/* Modes: persistence, compute, ECC, MIG; display; and the fabric. */
#include "nvml_common.h"

#include <string.h>

GETTER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, NEED_HEALTH, 1, d->persistence)
GETTER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, NEED_HEALTH, 1, d->compute_mode)
GETTER(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NEED_HEALTH, 1, NVML_FEATURE_DISABLED)
GETTER(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NEED_HEALTH, 1, NVML_FEATURE_DISABLED)
GETTER(nvmlDeviceGetDefaultEccMode, nvmlEnableState_t, NEED_HEALTH, d->ecc_supported, NVML_FEATURE_ENABLED)
GETTER(nvmlDeviceGetMaxMigDeviceCount, unsigned int, NEED_HEALTH, 1, d->mig_supported ? 7 : 0)

nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
    DEVICE_CALL(device, NEED_ADMIN);
    REQUIRE((unsigned int)mode <= 1, NVML_ERROR_INVALID_ARGUMENT);
    if (!d->ignore_persistence_set)
        d->persistence = mode;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, nvmlComputeMode_t mode)
{
    DEVICE_CALL(device, NEED_ADMIN);
    REQUIRE((unsigned int)mode < NVML_COMPUTEMODE_COUNT, NVML_ERROR_INVALID_ARGUMENT);
    d->compute_mode = mode;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(current && pending, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(d->ecc_supported, NVML_ERROR_NOT_SUPPORTED);
    *current = d->ecc_current;
    *pending = d->ecc_pending;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetEccMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
    DEVICE_CALL(device, NEED_ADMIN);
    REQUIRE(d->ecc_supported, NVML_ERROR_NOT_SUPPORTED);
    REQUIRE((unsigned int)mode <= 1, NVML_ERROR_INVALID_ARGUMENT);
    d->ecc_pending = mode;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(current && pending, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(d->mig_supported, NVML_ERROR_NOT_SUPPORTED);
    *current = d->mig_current;
    *pending = d->mig_pending;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig)
{
    (void)index;
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(mig, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(d->mig_supported, NVML_ERROR_NOT_SUPPORTED);
    END(d->mig_current ? NVML_ERROR_NOT_FOUND : NVML_ERROR_NOT_SUPPORTED); /* no instance is ever made */
}

GETTER(nvmlDeviceIsMigDeviceHandle, unsigned int, NEED_IDENTITY, 1, 0)

/* Fabric: Ada has the call and says that there is none; the boards before it do not have the call. */

static void fabric(const struct sim_state *s, const struct sim_device *d, unsigned char *cluster, nvmlReturn_t *status,
                   unsigned int *clique, nvmlGpuFabricState_t *state)
{
    memset(cluster, 0, NVML_GPU_FABRIC_UUID_LEN);
    (void)s; /* on a single HGX node the cluster's id is all zeroes */
    *status = (nvmlReturn_t)d->fabric_status;
    *clique = 0;
    *state = (nvmlGpuFabricState_t)d->fabric_state;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *info)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(info, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(d->architecture >= NVML_DEVICE_ARCH_ADA, NVML_ERROR_NOT_SUPPORTED);
    fabric(s, d, info->clusterUuid, &info->status, &info->cliqueId, &info->state);
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfoV_t *info)
{
    DEVICE_CALL(device, NEED_HEALTH);
    REQUIRE(info, NVML_ERROR_INVALID_ARGUMENT);
    int is_v3 = info->version == nvmlGpuFabricInfo_v3 && s->driver_branch >= 580;
    REQUIRE(is_v3 || info->version == nvmlGpuFabricInfo_v2, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(d->architecture >= NVML_DEVICE_ARCH_ADA, NVML_ERROR_NOT_SUPPORTED);
    nvmlGpuFabricInfo_v3_t *v3 = (void *)info; /* version 2 is its beginning */
    fabric(s, d, v3->clusterUuid, &v3->status, &v3->cliqueId, &v3->state);
    v3->healthMask = d->fabric_health_mask;
    if (is_v3) /* healthy boards of a single node report no summary */
        v3->healthSummary = d->fabric_health_mask ? NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY
                                                  : NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED;
    END(NVML_SUCCESS);
}
