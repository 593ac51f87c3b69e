/* Initialisation, errors, versions, processes' names, and how calls begin and end. */
#include "nvml_common.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int users;

nvmlReturn_t nvml_end(nvmlReturn_t result)
{
    sim_unlock();
    return result;
}

nvmlReturn_t nvml_begin(const char *function, struct sim_state **s)
{
    if (atomic_load(&users) <= 0)
        return NVML_ERROR_UNINITIALIZED;
    *s = sim_lock();
    int code;
    return sim_fault(function, -1, &code) ? nvml_end((nvmlReturn_t)code) : NVML_SUCCESS;
}

nvmlReturn_t nvml_begin_device(const char *function, nvmlDevice_t handle, enum nvml_need need, struct sim_state **s,
                               struct sim_device **d)
{
    if (atomic_load(&users) <= 0)
        return NVML_ERROR_UNINITIALIZED;
    *s = sim_lock();
    *d = (struct sim_device *)(void *)handle;
    int index = -1;
    for (uint32_t i = 0; i < (*s)->gpu_count; i++)
        if (*d == &(*s)->device[i])
            index = (int)i;
    int code;
    if (sim_fault(function, index, &code))
        return nvml_end((nvmlReturn_t)code);
    if (index < 0)
        return nvml_end(NVML_ERROR_INVALID_ARGUMENT);
    if ((*d)->lost || !(*d)->listed)
        return nvml_end(NVML_ERROR_GPU_IS_LOST);
    if ((*d)->reset_required && need != NEED_IDENTITY)
        return nvml_end(NVML_ERROR_RESET_REQUIRED);
    if (need == NEED_ADMIN && !nvml_is_admin(*s))
        return nvml_end(NVML_ERROR_NO_PERMISSION);
    return NVML_SUCCESS;
}

/* What the driver exports and the simulator has no own answer for; the generated stubs call it. */
int sim_unsupported(const char *function)
{
    struct sim_state *s;
    nvmlReturn_t begun = nvml_begin(function, &s);
    return (int)(begun == NVML_SUCCESS ? nvml_end(NVML_ERROR_NOT_SUPPORTED) : begun);
}

int nvml_is_admin(const struct sim_state *s)
{
    if (s->real_users)
        return geteuid() == 0;
    const char *become = getenv("GPUSIM_BECOME");
    return become && strcmp(become, "1") == 0;
}

nvmlReturn_t nvml_copy_text(char *to, unsigned int size, const char *from)
{
    if (!to)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(from) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(to, from);
    return NVML_SUCCESS;
}

static nvmlReturn_t initialise(const char *function)
{
    int opened = sim_open();
    if (opened != SIM_OK)
        return opened == SIM_NO_STATE ? NVML_ERROR_DRIVER_NOT_LOADED : NVML_ERROR_UNKNOWN;
    struct sim_state *s = sim_lock();
    int code = (int)s->nvml_init_code;
    if (code == 0)
        sim_fault(function, -1, &code);
    if (code == 0)
        atomic_fetch_add(&users, 1);
    return nvml_end((nvmlReturn_t)code);
}

nvmlReturn_t nvmlInit(void)
{
    return initialise(__func__);
}

nvmlReturn_t nvmlInit_v2(void)
{
    return initialise(__func__);
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    return initialise(__func__);
}

nvmlReturn_t nvmlShutdown(void)
{
    int before = atomic_load(&users);
    while (before > 0)
        if (atomic_compare_exchange_weak(&users, &before, before - 1))
            return NVML_SUCCESS;
    return NVML_ERROR_UNINITIALIZED;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED: return "Already Initialized";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER: return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_IRQ_ISSUE: return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND: return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM: return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires reset";
    case NVML_ERROR_OPERATING_SYSTEM: return "The operating system has blocked the request.";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "RM has detected an NVML/RM version mismatch.";
    case NVML_ERROR_IN_USE: return "In use by another client";
    case NVML_ERROR_MEMORY: return "Insufficient Memory";
    case NVML_ERROR_NO_DATA: return "No data";
    case NVML_ERROR_INSUFFICIENT_RESOURCES: return "Insufficient Resources";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument Version Mismatch";
    case NVML_ERROR_DEPRECATED: return "Deprecated";
    default: return "Unknown Error";
    }
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    SYSTEM_CALL();
    END(nvml_copy_text(version, length, s->driver_version));
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    SYSTEM_CALL();
    END(nvml_copy_text(version, length, s->nvml_version));
}

static nvmlReturn_t cuda_version(const char *function, int *version)
{
    struct sim_state *s;
    nvmlReturn_t begun = nvml_begin(function, &s);
    if (begun != NVML_SUCCESS)
        return begun;
    REQUIRE(version, NVML_ERROR_INVALID_ARGUMENT);
    *version = (int)s->cuda_version;
    END(NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return cuda_version(__func__, version);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return cuda_version(__func__, version);
}

nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_t *info, unsigned int length)
{
    SYSTEM_CALL();
    REQUIRE(info, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(info->version == nvmlSystemDriverBranchInfo_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    char branch[32];
    snprintf(branch, sizeof branch, "r%u_00", s->driver_branch);
    END(nvml_copy_text(info->branch, length, branch));
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    SYSTEM_CALL();
    REQUIRE(name && length > 0, NVML_ERROR_INVALID_ARGUMENT);
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0, NVML_ERROR_NOT_FOUND);
    ssize_t got = read(fd, name, length - 1);
    close(fd);
    name[got > 0 ? got : 0] = 0; /* the first argument ends itself */
    END(NVML_SUCCESS);
}
