/* Initialisation and the devices that this process may see. */
#include "cuda_common.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_int initialised;
static struct sim_device *visible[MAX_GPUS];
static int visible_count;

struct sim_device *cuda_device(CUdevice ordinal)
{
    return ordinal >= 0 && ordinal < visible_count ? visible[ordinal] : NULL;
}

/* CUDA's own order, before CUDA_VISIBLE_DEVICES. Lost and unlisted GPUs are not enumerated. */
static int enumerate(struct sim_state *s, struct sim_device **devices)
{
    int count = 0;
    for (uint32_t i = 0; i < s->gpu_count; i++)
        if (s->device[i].listed && !s->device[i].lost)
            devices[count++] = &s->device[i];
    const char *order = getenv("CUDA_DEVICE_ORDER");
    int by_bus = order && strcmp(order, "PCI_BUS_ID") == 0;
    if (s->cuda_order == CUDA_ORDER_REVERSED && !by_bus)
        for (int i = 0; i < count / 2; i++) {
            struct sim_device *swap = devices[i];
            devices[i] = devices[count - 1 - i];
            devices[count - 1 - i] = swap;
        }
    return count;
}

static struct sim_device *named(const char *name, struct sim_device *const *devices, int count)
{
    if (strncmp(name, "GPU-", 4) == 0) { /* a UUID, or a beginning that only one has */
        struct sim_device *found = NULL;
        for (int i = 0; i < count; i++)
            if (strncmp(devices[i]->uuid, name, strlen(name)) == 0) {
                if (found)
                    return NULL;
                found = devices[i];
            }
        return found;
    }
    char *end;
    long index = strtol(name, &end, 10);
    return end != name && *end == 0 && index >= 0 && index < count ? devices[index] : NULL;
}

/* The list ends at the first name that is none, and names nothing when it repeats one. */
static void choose_visible(struct sim_state *s)
{
    struct sim_device *devices[MAX_GPUS];
    int count = enumerate(s, devices);
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    visible_count = 0;
    if (!list) {
        memcpy(visible, devices, sizeof visible);
        visible_count = count;
        return;
    }
    char copy[1024], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", list);
    for (char *name = strtok_r(copy, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        while (*name == ' ')
            name++;
        struct sim_device *d = named(name, devices, count);
        if (!d)
            return;
        for (int i = 0; i < visible_count; i++)
            if (visible[i] == d) {
                visible_count = 0;
                return;
            }
        visible[visible_count++] = d;
    }
}

CUresult cuda_end(CUresult result)
{
    sim_unlock();
    return result;
}

CUresult cuda_lock(struct sim_state **s)
{
    if (!atomic_load(&initialised))
        return CUDA_ERROR_NOT_INITIALIZED;
    *s = sim_lock();
    return CUDA_SUCCESS;
}

CUresult cuda_begin(const char *function, CUdevice device, struct sim_state **s)
{
    CUresult locked = cuda_lock(s);
    if (locked != CUDA_SUCCESS)
        return locked;
    const struct sim_device *d = cuda_device(device);
    int code;
    return sim_fault(function, d ? sim_index(*s, d) : -1, &code) ? cuda_end(code) : CUDA_SUCCESS;
}

CUresult cuInit(unsigned int flags)
{
    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    int opened = sim_open();
    if (opened != SIM_OK)
        return opened == SIM_NO_STATE ? CUDA_ERROR_NO_DEVICE : CUDA_ERROR_UNKNOWN;
    struct sim_state *s = sim_lock();
    int code = (int)s->cuda_init_code;
    if (code == 0)
        sim_fault(__func__, -1, &code);
    if (code == 0 && !atomic_load(&initialised)) {
        choose_visible(s);
        if (visible_count == 0)
            code = CUDA_ERROR_NO_DEVICE;
        else
            atomic_store(&initialised, 1);
    }
    END(code);
}

/* Works without cuInit, as the real one does. */
CUresult cuDriverGetVersion(int *version)
{
    if (!version)
        return CUDA_ERROR_INVALID_VALUE;
    int opened = sim_open();
    if (opened != SIM_OK)
        return opened == SIM_NO_STATE ? CUDA_ERROR_NO_DEVICE : CUDA_ERROR_UNKNOWN;
    struct sim_state *s = sim_lock();
    int code = 0;
    if (!sim_fault(__func__, -1, &code))
        *version = (int)s->cuda_version;
    END(code);
}

CUdevice cuda_ordinal(const struct sim_device *d)
{
    for (int i = 0; i < visible_count; i++)
        if (visible[i] == d)
            return i;
    return -1;
}

#define DEVICE_CALL(ordinal, value)                                                                                    \
    CUDA_CALL(ordinal);                                                                                                \
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);                                                                          \
    struct sim_device *d = cuda_device(ordinal);                                                                         \
    REQUIRE(d, CUDA_ERROR_INVALID_DEVICE)

CUresult cuDeviceGetCount(int *count)
{
    CUDA_CALL(NO_DEVICE);
    (void)s;
    REQUIRE(count, CUDA_ERROR_INVALID_VALUE);
    *count = visible_count;
    END(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    DEVICE_CALL(ordinal, device);
    *device = ordinal;
    (void)d;
    (void)s;
    END(CUDA_SUCCESS);
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    DEVICE_CALL(device, name);
    (void)s;
    REQUIRE(length > 0, CUDA_ERROR_INVALID_VALUE);
    snprintf(name, (size_t)length, "%s", d->name);
    END(CUDA_SUCCESS);
}

static CUresult uuid(const char *function, CUuuid *value, CUdevice device)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, device, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    struct sim_device *d = cuda_device(device);
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(d, CUDA_ERROR_INVALID_DEVICE);
    const char *hex = d->uuid + 4; /* after "GPU-" */
    for (int i = 0; i < 16; i++) {
        if (*hex == '-')
            hex++;
        unsigned int byte = 0;
        sscanf(hex, "%2x", &byte);
        value->bytes[i] = (char)byte;
        hex += 2;
    }
    END(CUDA_SUCCESS);
}

CUresult cuDeviceGetUuid(CUuuid *value, CUdevice device)
{
    return uuid(__func__, value, device);
}

CUresult cuDeviceGetUuid_v2(CUuuid *value, CUdevice device)
{
    return uuid(__func__, value, device);
}

static CUresult total(const char *function, size_t *bytes, CUdevice device)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, device, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    struct sim_device *d = cuda_device(device);
    REQUIRE(bytes, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(d, CUDA_ERROR_INVALID_DEVICE);
    *bytes = (size_t)((d->memory_total_mib - d->memory_reserved_mib) * MIB);
    END(CUDA_SUCCESS);
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
    return total(__func__, bytes, device);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    return total(__func__, bytes, device);
}

CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device)
{
    DEVICE_CALL(device, text);
    (void)s;
    REQUIRE(length >= 13, CUDA_ERROR_INVALID_VALUE);
    snprintf(text, (size_t)length, "0000:%02X:00.0", d->pci_bus & 0xffU);
    END(CUDA_SUCCESS);
}

CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *text)
{
    CUDA_CALL(NO_DEVICE);
    (void)s;
    REQUIRE(device && text, CUDA_ERROR_INVALID_VALUE);
    unsigned int domain, bus, slot;
    REQUIRE(sscanf(text, "%x:%x:%x", &domain, &bus, &slot) == 3, CUDA_ERROR_INVALID_VALUE);
    for (int i = 0; i < visible_count; i++)
        if (domain == 0 && visible[i]->pci_bus == bus) {
            *device = i;
            END(CUDA_SUCCESS);
        }
    END(CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    DEVICE_CALL(device, value);
    (void)s;
    switch (attribute) {
    case ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case ATTRIBUTE_MAX_BLOCK_DIM_X:
    case ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; break;
    case ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
    case ATTRIBUTE_MAX_GRID_DIM_X: *value = 0x7fffffff; break;
    case ATTRIBUTE_MAX_GRID_DIM_Y:
    case ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
    case ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 49152; break;
    case ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
    case ATTRIBUTE_CLOCK_RATE: *value = (int)d->max_sm_mhz * 1000; break;
    case ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = (int)d->sm_count; break;
    case ATTRIBUTE_INTEGRATED: *value = 0; break;
    case ATTRIBUTE_COMPUTE_MODE: *value = (int)d->compute_mode; break;
    case ATTRIBUTE_CONCURRENT_KERNELS:
    case ATTRIBUTE_UNIFIED_ADDRESSING: *value = 1; break;
    case ATTRIBUTE_ECC_ENABLED: *value = (int)d->ecc_current; break;
    case ATTRIBUTE_PCI_BUS_ID: *value = (int)d->pci_bus; break;
    case ATTRIBUTE_PCI_DEVICE_ID:
    case ATTRIBUTE_PCI_DOMAIN_ID: *value = 0; break;
    case ATTRIBUTE_MEMORY_CLOCK_RATE: *value = (int)d->max_mem_mhz * 1000; break;
    case ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = (int)d->memory_bus_bits; break;
    case ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        *value = d->cc_major == 7 ? 1024 : d->cc_major == 8 && d->cc_minor == 9 ? 1536 : 2048;
        break;
    case ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = (int)d->cc_major; break;
    case ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = (int)d->cc_minor; break;
    default: END(CUDA_ERROR_NOT_SUPPORTED); /* the simulator has no fact for it */
    }
    END(CUDA_SUCCESS);
}

/* Errors. */

static const char *const errors[][3] = {
    {"0", "CUDA_SUCCESS", "no error"},
    {"1", "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {"2", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {"3", "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {"36", "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {"46", "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {"100", "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {"101", "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {"201", "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {"209", "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {"214", "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {"218", "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {"222", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {"400", "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {"500", "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {"600", "CUDA_ERROR_NOT_READY", "device not ready"},
    {"700", "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {"701", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {"716", "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {"719", "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {"801", "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {"802", "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {"803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {"804", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
     "forward compatibility was attempted on non supported HW"},
    {"919", "CUDA_ERROR_FABRIC_NOT_READY", "fabric is not ready"},
    {"999", "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static CUresult describe(CUresult error, int column, const char **text)
{
    if (!text)
        return CUDA_ERROR_INVALID_VALUE;
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (atoi(errors[i][0]) == error)
            *text = errors[i][column];
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorName(CUresult error, const char **text)
{
    return describe(error, 1, text);
}

CUresult cuGetErrorString(CUresult error, const char **text)
{
    return describe(error, 2, text);
}
