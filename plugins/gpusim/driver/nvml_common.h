/* How every NVML function begins and ends. */
#ifndef GPUSIM_NVML_COMMON_H
#define GPUSIM_NVML_COMMON_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include "sim.h"

#define MIB (1024ULL * 1024ULL)

/* The node's state, locked, once NVML is initialised and no fault rule answers. */
nvmlReturn_t nvml_begin(const char *function, struct sim_state **s);

enum nvml_need {
    NEED_IDENTITY, /* works while a reset is required */
    NEED_HEALTH,   /* does not */
    NEED_ADMIN,    /* and the caller has to be root; where users are not real: GPUSIM_BECOME=1 */
};
nvmlReturn_t nvml_begin_device(const char *function, nvmlDevice_t handle, enum nvml_need need, struct sim_state **s,
                               struct sim_device **d);
nvmlReturn_t nvml_end(nvmlReturn_t result);

int nvml_is_admin(const struct sim_state *s);
nvmlReturn_t nvml_copy_text(char *to, unsigned int size, const char *from);
nvmlReturn_t nvml_pci_info(const struct sim_device *d, nvmlPciInfo_t *pci);

/* Takes the lock and declares `s`, or returns. */
#define SYSTEM_CALL()                                                                                                  \
    struct sim_state *s;                                                                                               \
    do {                                                                                                               \
        nvmlReturn_t begun = nvml_begin(__func__, &s);                                                                 \
        if (begun != NVML_SUCCESS)                                                                                     \
            return begun;                                                                                              \
    } while (0)

/* Takes the lock and declares `s` and `d`, or returns. */
#define DEVICE_CALL(handle, need)                                                                                      \
    struct sim_state *s;                                                                                               \
    struct sim_device *d;                                                                                              \
    do {                                                                                                               \
        nvmlReturn_t begun = nvml_begin_device(__func__, handle, need, &s, &d);                                        \
        if (begun != NVML_SUCCESS)                                                                                     \
            return begun;                                                                                              \
    } while (0)

#define END(result) return nvml_end(result)
#define REQUIRE(condition, code)                                                                                       \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return nvml_end(code);                                                                                     \
    } while (0)

/* A getter that writes one value of the device. */
#define GETTER(function, type, need, supported, expression)                                                            \
    nvmlReturn_t function(nvmlDevice_t device, type *value)                                                            \
    {                                                                                                                  \
        DEVICE_CALL(device, need);                                                                                     \
        REQUIRE(value, NVML_ERROR_INVALID_ARGUMENT);                                                                   \
        REQUIRE(supported, NVML_ERROR_NOT_SUPPORTED);                                                                  \
        *value = (type)(expression);                                                                                   \
        END(NVML_SUCCESS);                                                                                             \
    }

/* A getter that writes text into a buffer of the caller's size. */
#define TEXT_GETTER(function, need, expression)                                                                        \
    nvmlReturn_t function(nvmlDevice_t device, char *text, unsigned int length)                                        \
    {                                                                                                                  \
        DEVICE_CALL(device, need);                                                                                     \
        END(nvml_copy_text(text, length, expression));                                                                 \
    }

#endif
