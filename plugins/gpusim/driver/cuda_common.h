/* What the files of the CUDA side share: handles of this process, and how calls begin and end. */
#ifndef GPUSIM_CUDA_COMMON_H
#define GPUSIM_CUDA_COMMON_H

#include "cuda_abi.h"
#include "sim.h"

#define MIB (1024.0 * 1024.0)

enum { NO_DEVICE = -1 };

/* Everything this process made is kept in one list; a handle is good while it is in it. */
enum handle_kind { CONTEXT, MODULE, FUNCTION, STREAM, EVENT, ALLOCATION, HOST_ALLOCATION };

struct handle {
    enum handle_kind kind;
    struct handle *next;
    struct sim_context *context;
};

struct sim_context {
    struct handle handle;
    struct sim_device *device;
    int primary;
    int users;
};

struct sim_module {
    struct handle handle;
    char *ptx;
};

struct sim_function {
    struct handle handle;
    struct sim_module *module;
    char name[128];
};

struct sim_stream {
    struct handle handle;
};

struct sim_event {
    struct handle handle;
    double time; /* simulated; negative: not recorded */
};

struct allocation {
    struct handle handle;
    char *start;
    size_t size;
    double mib, first_mib; /* what it takes of the GPU's memory, from where on */
    uint64_t written;      /* how often anybody wrote to it, kernels' own counters aside */
    struct piece *pieces;  /* cuda_contents.c */
    size_t pieces_used, pieces_room;
    struct table_check *check; /* cuda_tables.c */
};

/* Locks the node, unless cuInit has not been called. Every successful one, of these three, is closed by cuda_end(). */
CUresult cuda_lock(struct sim_state **s);
/* The same, unless a fault rule answers the call for this device (NO_DEVICE: it concerns none). */
CUresult cuda_begin(const char *function, CUdevice device, struct sim_state **s);
/* The same, with the current context, which must be there and its GPU well. */
CUresult cuda_begin_context(const char *function, struct sim_state **s, struct sim_context **context);
CUresult cuda_end(CUresult result);

void *handle_new(enum handle_kind kind, size_t size, struct sim_context *context);
/* The handle when it is a good one of this kind, else NULL. */
void *handle_find(enum handle_kind kind, const void *handle);
void handle_free(void *handle);
struct handle *handles_first(void);
/* Frees all that was made in a context. */
void handles_free_of(struct sim_context *context);

struct allocation *allocation_at(CUdeviceptr address, size_t size);
void allocation_release(struct allocation *a);

/* A device that this process sees, by CUDA's ordinal (NULL: there is none), and back (-1). */
struct sim_device *cuda_device(CUdevice ordinal);
CUdevice cuda_ordinal(const struct sim_device *d);

/* This process's row in the device's table; made when `make`. NULL: none, or the table is full. */
struct sim_process *own_process(struct sim_device *d, int make);

/* Waits, without the lock, until the simulated time `until`, or until the GPU is lost. Lock held on entry and on return. */
CUresult wait_until(struct sim_state *s, struct sim_device *d, double until);

struct host_allocation {
    struct handle handle;
    void *start;
};

CUresult ptx_check(const char *text, const struct sim_device *d, uint32_t cuda_version);
int ptx_has_entry(const char *text, const char *name);

#define CUDA_CALL(device)                                                                                              \
    struct sim_state *s;                                                                                               \
    do {                                                                                                               \
        CUresult begun = cuda_begin(__func__, device, &s);                                                                     \
        if (begun != CUDA_SUCCESS)                                                                                     \
            return begun;                                                                                              \
    } while (0)

#define CONTEXT_CALL()                                                                                                 \
    struct sim_state *s;                                                                                               \
    struct sim_context *context;                                                                                       \
    do {                                                                                                               \
        CUresult begun = cuda_begin_context(__func__, &s, &context);                                                   \
        if (begun != CUDA_SUCCESS)                                                                                     \
            return begun;                                                                                              \
    } while (0)

#define END(result) return cuda_end(result)
#define REQUIRE(condition, code)                                                                                       \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return cuda_end(code);                                                                                     \
    } while (0)

#endif
