/* Contexts, and the row that a process with contexts has in the device's process table. */
#include "cuda_common.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STACK_DEPTH = 16 };
static _Thread_local struct sim_context *stack[STACK_DEPTH];
static _Thread_local int depth; /* stack[depth - 1] is current */

static struct handle *handles; /* the node's lock guards it */

void *handle_new(enum handle_kind kind, size_t size, struct sim_context *context)
{
    struct handle *h = calloc(1, size);
    if (!h)
        return NULL;
    h->kind = kind;
    h->context = context;
    h->next = handles;
    handles = h;
    return h;
}

void *handle_find(enum handle_kind kind, const void *handle)
{
    for (struct handle *h = handles; h; h = h->next)
        if (h == handle && h->kind == kind)
            return h;
    return NULL;
}

void handle_free(void *handle)
{
    for (struct handle **at = &handles; *at; at = &(*at)->next)
        if (*at == handle) {
            struct handle *gone = *at;
            *at = gone->next;
            free(gone);
            return;
        }
}

struct handle *handles_first(void)
{
    return handles;
}

static void free_one(struct handle *h)
{
    if (h->kind == ALLOCATION)
        allocation_release((struct allocation *)h);
    if (h->kind == HOST_ALLOCATION)
        free(((struct host_allocation *)h)->start);
    if (h->kind == MODULE)
        free(((struct sim_module *)h)->ptx);
    handle_free(h);
}

void handles_free_of(struct sim_context *context)
{
    for (struct handle *h = handles, *next; h; h = next) {
        next = h->next;
        if (h->context == context)
            free_one(h);
    }
}

struct allocation *allocation_at(CUdeviceptr address, size_t size)
{
    for (struct handle *h = handles; h; h = h->next) {
        struct allocation *a = (struct allocation *)h;
        if (h->kind == ALLOCATION && address >= (CUdeviceptr)(uintptr_t)a->start &&
            address + size <= (CUdeviceptr)(uintptr_t)a->start + a->size)
            return a;
    }
    return NULL;
}

struct sim_process *own_process(struct sim_device *d, int make)
{
    uint32_t pid = (uint32_t)getpid();
    struct sim_process *empty = NULL;
    for (int i = 0; i < MAX_PROCESSES; i++) {
        struct sim_process *p = &d->process[i];
        if (p->pid == pid && p->start_ticks)
            return p;
        if (p->pid == 0 && !empty)
            empty = p;
    }
    if (make && empty) {
        memset(empty, 0, sizeof *empty);
        empty->kind = KIND_COMPUTE;
        empty->start_ticks = sim_start_ticks(pid);
        empty->pid = pid;
    }
    return make ? empty : NULL;
}

CUresult cuda_begin_context(const char *function, struct sim_state **s, struct sim_context **context)
{
    CUresult locked = cuda_lock(s);
    if (locked != CUDA_SUCCESS)
        return locked;
    *context = depth > 0 ? handle_find(CONTEXT, stack[depth - 1]) : NULL;
    if (!*context)
        return cuda_end(CUDA_ERROR_INVALID_CONTEXT);
    const struct sim_device *d = (*context)->device;
    int code;
    if (sim_fault(function, sim_index(*s, d), &code))
        return cuda_end(code);
    return d->lost || !d->listed || d->reset_required ? cuda_end(CUDA_ERROR_UNKNOWN) : CUDA_SUCCESS;
}

static CUresult may_use(struct sim_state *s, struct sim_device *d)
{
    if (d->lost || !d->listed || d->reset_required)
        return CUDA_ERROR_UNKNOWN;
    sim_reap(s, d);
    if (d->compute_mode == COMPUTE_MODE_PROHIBITED)
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    if (d->compute_mode == COMPUTE_MODE_EXCLUSIVE_PROCESS)
        for (int i = 0; i < MAX_PROCESSES; i++)
            if (d->process[i].pid && d->process[i].kind == KIND_COMPUTE && d->process[i].pid != (uint32_t)getpid())
                return CUDA_ERROR_DEVICE_UNAVAILABLE;
    return CUDA_SUCCESS;
}

static CUresult make_context(struct sim_state *s, struct sim_device *d, int primary, struct sim_context **made)
{
    CUresult allowed = may_use(s, d);
    if (allowed != CUDA_SUCCESS)
        return allowed;
    double room = d->memory_total_mib - d->memory_reserved_mib - sim_memory_used_mib(d);
    if (room < d->context_mib)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct sim_process *own = own_process(d, 1);
    struct sim_context *context = own ? handle_new(CONTEXT, sizeof *context, NULL) : NULL;
    if (!context)
        return CUDA_ERROR_OUT_OF_MEMORY;
    context->device = d;
    context->primary = primary;
    context->users = 1;
    if (own->contexts++ == 0)
        d->launches = 0;
    own->memory_mib += d->context_mib;
    *made = context;
    return CUDA_SUCCESS;
}

static void destroy(struct sim_state *s, struct sim_context *context)
{
    struct sim_device *d = context->device;
    handles_free_of(context);
    struct sim_process *own = own_process(d, 0);
    if (own) {
        own->memory_mib -= d->context_mib;
        if (--own->contexts == 0) {
            if (d->busy_pid == own->pid)
                sim_stop_work(s, d);
            memset(own, 0, sizeof *own);
        }
    }
    handle_free(context);
}

static struct sim_context *primary_of(const struct sim_device *d)
{
    for (struct handle *h = handles; h; h = h->next) {
        struct sim_context *context = (struct sim_context *)h;
        if (h->kind == CONTEXT && context->primary && context->device == d)
            return context;
    }
    return NULL;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *value, CUdevice device)
{
    CUDA_CALL(device);
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    struct sim_device *d = cuda_device(device);
    REQUIRE(d, CUDA_ERROR_INVALID_DEVICE);
    struct sim_context *context = primary_of(d);
    CUresult result = CUDA_SUCCESS;
    if (context)
        context->users++;
    else
        result = make_context(s, d, 1, &context);
    if (result == CUDA_SUCCESS)
        *value = context;
    END(result);
}

static CUresult release(const char *function, CUdevice device)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, device, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    struct sim_device *d = cuda_device(device);
    REQUIRE(d, CUDA_ERROR_INVALID_DEVICE);
    struct sim_context *context = primary_of(d);
    REQUIRE(context, CUDA_ERROR_INVALID_CONTEXT);
    if (--context->users == 0)
        destroy(s, context);
    END(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    return release(__func__, device);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    return release(__func__, device);
}

static CUresult set_flags(const char *function, CUdevice device)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, device, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    END(cuda_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE); /* waiting always sleeps here */
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags)
{
    (void)flags;
    return set_flags(__func__, device);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags)
{
    (void)flags;
    return set_flags(__func__, device);
}

static CUresult create(const char *function, CUcontext *value, CUdevice device)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, device, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(depth < STACK_DEPTH, CUDA_ERROR_OUT_OF_MEMORY);
    struct sim_device *d = cuda_device(device);
    REQUIRE(d, CUDA_ERROR_INVALID_DEVICE);
    CUresult result = make_context(s, d, 0, value);
    if (result == CUDA_SUCCESS)
        stack[depth++] = *value;
    END(result);
}

CUresult cuCtxCreate(CUcontext *value, unsigned int flags, CUdevice device)
{
    (void)flags;
    return create(__func__, value, device);
}

CUresult cuCtxCreate_v2(CUcontext *value, unsigned int flags, CUdevice device)
{
    (void)flags;
    return create(__func__, value, device);
}

static CUresult destroy_context(const char *function, CUcontext handle)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, NO_DEVICE, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    struct sim_context *context = handle_find(CONTEXT, handle);
    REQUIRE(context && !context->primary, CUDA_ERROR_INVALID_CONTEXT);
    if (depth > 0 && stack[depth - 1] == context)
        depth--;
    destroy(s, context);
    END(CUDA_SUCCESS);
}

CUresult cuCtxDestroy(CUcontext handle)
{
    return destroy_context(__func__, handle);
}

CUresult cuCtxDestroy_v2(CUcontext handle)
{
    return destroy_context(__func__, handle);
}

CUresult cuCtxSetCurrent(CUcontext handle)
{
    CUDA_CALL(NO_DEVICE);
    (void)s;
    struct sim_context *context = handle ? handle_find(CONTEXT, handle) : NULL;
    REQUIRE(context || !handle, CUDA_ERROR_INVALID_CONTEXT);
    if (depth > 0)
        depth--;
    if (context)
        stack[depth++] = context;
    END(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *value)
{
    CUDA_CALL(NO_DEVICE);
    (void)s;
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    *value = depth > 0 ? stack[depth - 1] : NULL;
    END(CUDA_SUCCESS);
}

static CUresult push(const char *function, CUcontext handle)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, NO_DEVICE, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    struct sim_context *context = handle_find(CONTEXT, handle);
    REQUIRE(context, CUDA_ERROR_INVALID_CONTEXT);
    REQUIRE(depth < STACK_DEPTH, CUDA_ERROR_INVALID_VALUE);
    stack[depth++] = context;
    END(CUDA_SUCCESS);
}

CUresult cuCtxPushCurrent(CUcontext handle)
{
    return push(__func__, handle);
}

CUresult cuCtxPushCurrent_v2(CUcontext handle)
{
    return push(__func__, handle);
}

static CUresult pop(const char *function, CUcontext *value)
{
    struct sim_state *s;
    CUresult begun = cuda_begin(function, NO_DEVICE, &s);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (value)
        *value = stack[depth];
    END(CUDA_SUCCESS);
}

CUresult cuCtxPopCurrent(CUcontext *value)
{
    return pop(__func__, value);
}

CUresult cuCtxPopCurrent_v2(CUcontext *value)
{
    return pop(__func__, value);
}

CUresult cuCtxGetDevice(CUdevice *value)
{
    CONTEXT_CALL();
    (void)s;
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    *value = cuda_ordinal(context->device);
    END(CUDA_SUCCESS);
}

CUresult cuCtxSynchronize(void)
{
    CONTEXT_CALL();
    END(wait_until(s, context->device, context->device->busy_until));
}
