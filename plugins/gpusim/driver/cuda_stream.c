/* Streams and events. All streams of a GPU share one FIFO in simulated time; an event remembers when the work before it
 * ends. */
#include "cuda_common.h"

#include <math.h>
#include <time.h>

CUresult wait_until(struct sim_state *s, struct sim_device *d, double until)
{
    for (;;) {
        if (d->lost)
            return CUDA_ERROR_UNKNOWN;
        double left = (until - sim_now(s)) / s->time_scale; /* wall seconds */
        if (left <= 0)
            return CUDA_SUCCESS;
        left = fmin(left, 0.05); /* time scale and health may change meanwhile */
        struct timespec t = {.tv_sec = 0, .tv_nsec = (long)(left * 1e9)};
        sim_unlock();
        nanosleep(&t, NULL);
        sim_lock();
        until = fmin(until, fmax(d->busy_until, sim_now(s)));
    }
}

static CUresult create_stream(const char *function, CUstream *value)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    *value = handle_new(STREAM, sizeof **value, context);
    END(*value ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult cuStreamCreate(CUstream *value, unsigned int flags)
{
    (void)flags;
    return create_stream(__func__, value);
}

CUresult cuStreamCreateWithPriority(CUstream *value, unsigned int flags, int priority)
{
    (void)flags;
    (void)priority;
    return create_stream(__func__, value);
}

static CUresult destroy_handle(const char *function, enum handle_kind kind, void *handle)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(handle_find(kind, handle), CUDA_ERROR_INVALID_HANDLE);
    handle_free(handle);
    END(CUDA_SUCCESS);
}

CUresult cuStreamDestroy(CUstream stream)
{
    return destroy_handle(__func__, STREAM, stream);
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    return destroy_handle(__func__, STREAM, stream);
}

/* The device of a stream; NULL is the default stream of the current context, 1 and 2 are its other names. */
static struct sim_device *stream_device(CUstream stream, struct sim_context *context)
{
    if ((uintptr_t)stream <= 2)
        return context->device;
    struct sim_stream *known = handle_find(STREAM, stream);
    return known ? known->handle.context->device : NULL;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    CONTEXT_CALL();
    struct sim_device *d = stream_device(stream, context);
    REQUIRE(d, CUDA_ERROR_INVALID_HANDLE);
    END(wait_until(s, d, d->busy_until));
}

CUresult cuStreamQuery(CUstream stream)
{
    CONTEXT_CALL();
    struct sim_device *d = stream_device(stream, context);
    REQUIRE(d, CUDA_ERROR_INVALID_HANDLE);
    END(d->busy_until > sim_now(s) ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
    CONTEXT_CALL();
    (void)s;
    (void)flags;
    REQUIRE(stream_device(stream, context) && handle_find(EVENT, event), CUDA_ERROR_INVALID_HANDLE);
    END(CUDA_SUCCESS); /* the FIFO keeps the order already */
}

/* Events. */

CUresult cuEventCreate(CUevent *value, unsigned int flags)
{
    CONTEXT_CALL();
    (void)s;
    (void)flags;
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    struct sim_event *event = handle_new(EVENT, sizeof *event, context);
    REQUIRE(event, CUDA_ERROR_OUT_OF_MEMORY);
    event->time = -1;
    *value = event;
    END(CUDA_SUCCESS);
}

CUresult cuEventDestroy(CUevent event)
{
    return destroy_handle(__func__, EVENT, event);
}

CUresult cuEventDestroy_v2(CUevent event)
{
    return destroy_handle(__func__, EVENT, event);
}

CUresult cuEventRecord(CUevent handle, CUstream stream)
{
    CONTEXT_CALL();
    struct sim_event *event = handle_find(EVENT, handle);
    struct sim_device *d = stream_device(stream, context);
    REQUIRE(event && d, CUDA_ERROR_INVALID_HANDLE);
    event->time = fmax(d->busy_until, sim_now(s));
    END(CUDA_SUCCESS);
}

CUresult cuEventQuery(CUevent handle)
{
    CONTEXT_CALL();
    (void)context;
    struct sim_event *event = handle_find(EVENT, handle);
    REQUIRE(event, CUDA_ERROR_INVALID_HANDLE);
    END(event->time > sim_now(s) ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}

CUresult cuEventSynchronize(CUevent handle)
{
    CONTEXT_CALL();
    (void)context;
    struct sim_event *event = handle_find(EVENT, handle);
    REQUIRE(event, CUDA_ERROR_INVALID_HANDLE);
    END(wait_until(s, event->handle.context->device, event->time));
}

static CUresult elapsed(const char *function, float *milliseconds, CUevent from, CUevent to)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(milliseconds, CUDA_ERROR_INVALID_VALUE);
    struct sim_event *start = handle_find(EVENT, from), *end = handle_find(EVENT, to);
    REQUIRE(start && end && start->time >= 0 && end->time >= 0, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(fmax(start->time, end->time) <= sim_now(s), CUDA_ERROR_NOT_READY);
    *milliseconds = (float)((end->time - start->time) * 1000);
    END(CUDA_SUCCESS);
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to)
{
    return elapsed(__func__, milliseconds, from, to);
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent from, CUevent to)
{
    return elapsed(__func__, milliseconds, from, to);
}
