/* Memory: device memory is host memory that the kernel maps when it is first touched, counted against the GPU's. */
#include "cuda_kernels.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const uint64_t LITTLE = 1 << 20; /* bytes of a fill that are really written */

void allocation_release(struct allocation *a)
{
    struct sim_process *own = own_process(a->handle.context->device, 0);
    if (own)
        own->memory_mib -= a->mib;
    munmap(a->start, a->size);
    free(a->pieces);
    free(a->check);
}

static CUresult allocate(const char *function, CUdeviceptr *address, size_t size)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(address && size > 0, CUDA_ERROR_INVALID_VALUE);
    struct sim_device *d = context->device;
    sim_reap(s, d);
    double mib = (double)size / MIB;
    double room = d->memory_total_mib - d->memory_reserved_mib - sim_memory_used_mib(d);
    struct sim_process *own = own_process(d, 0);
    REQUIRE(own && mib <= room, CUDA_ERROR_OUT_OF_MEMORY);
    char *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(start != MAP_FAILED, CUDA_ERROR_OUT_OF_MEMORY);
    struct allocation *a = handle_new(ALLOCATION, sizeof *a, context);
    if (!a) {
        munmap(start, size);
        END(CUDA_ERROR_OUT_OF_MEMORY);
    }
    a->start = start;
    a->size = size;
    a->mib = mib;
    a->first_mib = sim_memory_used_mib(d);
    own->memory_mib += mib;
    *address = (CUdeviceptr)(uintptr_t)start;
    END(CUDA_SUCCESS);
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t size)
{
    return allocate(__func__, address, size);
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size)
{
    return allocate(__func__, address, size);
}

static CUresult release(const char *function, CUdeviceptr address)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    struct allocation *a = allocation_at(address, 1);
    REQUIRE(a && address == (CUdeviceptr)(uintptr_t)a->start, CUDA_ERROR_INVALID_VALUE);
    struct sim_device *d = a->handle.context->device;
    CUresult waited = wait_until(s, d, d->busy_until); /* the real one synchronises too */
    allocation_release(a);
    handle_free(a);
    END(waited);
}

CUresult cuMemFree(CUdeviceptr address)
{
    return release(__func__, address);
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
    return release(__func__, address);
}

/* Host memory that the GPU may reach: ordinary memory here. */
static CUresult allocate_host(const char *function, void **address, size_t size)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(address && size > 0, CUDA_ERROR_INVALID_VALUE);
    struct host_allocation *a = handle_new(HOST_ALLOCATION, sizeof *a, context);
    REQUIRE(a, CUDA_ERROR_OUT_OF_MEMORY);
    a->start = calloc(1, size);
    if (!a->start) {
        handle_free(a);
        END(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *address = a->start;
    END(CUDA_SUCCESS);
}

CUresult cuMemAllocHost(void **address, size_t size)
{
    return allocate_host(__func__, address, size);
}

CUresult cuMemAllocHost_v2(void **address, size_t size)
{
    return allocate_host(__func__, address, size);
}

CUresult cuMemHostAlloc(void **address, size_t size, unsigned int flags)
{
    (void)flags;
    return allocate_host(__func__, address, size);
}

CUresult cuMemFreeHost(void *address)
{
    CONTEXT_CALL();
    (void)s;
    for (struct handle *h = handles_first(); h; h = h->next) {
        struct host_allocation *a = (struct host_allocation *)h;
        if (h->kind == HOST_ALLOCATION && a->start == address) {
            free(a->start);
            handle_free(a);
            END(CUDA_SUCCESS);
        }
    }
    END(CUDA_ERROR_INVALID_VALUE);
}

static CUresult info(const char *function, size_t *unused, size_t *total)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(unused && total, CUDA_ERROR_INVALID_VALUE);
    struct sim_device *d = context->device;
    sim_reap(s, d);
    double all = d->memory_total_mib - d->memory_reserved_mib;
    *total = (size_t)(all * MIB);
    *unused = (size_t)((all - sim_memory_used_mib(d)) * MIB);
    END(CUDA_SUCCESS);
}

CUresult cuMemGetInfo(size_t *unused, size_t *total)
{
    return info(__func__, unused, total);
}

CUresult cuMemGetInfo_v2(size_t *unused, size_t *total)
{
    return info(__func__, unused, total);
}

#define HOST(address) ((void *)(uintptr_t)(address))

/* One FIFO for each GPU: a copy, asynchronous or not, comes after all work before it. Copies take no simulated time. */
static CUresult copy(const char *function, CUdeviceptr on_device, void *to, const void *from, size_t size, int wait)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    uint64_t first;
    struct allocation *a = allocation_around(on_device, size, &first);
    REQUIRE(to && from && a, CUDA_ERROR_INVALID_VALUE);
    struct sim_device *d = context->device;
    CUresult waited = wait ? wait_until(s, d, d->busy_until) : CUDA_SUCCESS;
    if (waited != CUDA_SUCCESS)
        END(waited);
    if (from == HOST(on_device)) {
        contents_read(a, first, to, size);
    } else {
        memcpy(to, from, size);
        contents_forget(a, first, first + size);
    }
    END(CUDA_SUCCESS);
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t size)
{
    return copy(__func__, to, HOST(to), from, size, 1);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size)
{
    return copy(__func__, to, HOST(to), from, size, 1);
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t size)
{
    return copy(__func__, from, to, HOST(from), size, 1);
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size)
{
    return copy(__func__, from, to, HOST(from), size, 1);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream)
{
    (void)stream;
    return copy(__func__, to, HOST(to), from, size, 0);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream)
{
    (void)stream;
    return copy(__func__, to, HOST(to), from, size, 0);
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream)
{
    (void)stream;
    return copy(__func__, from, to, HOST(from), size, 0);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream)
{
    (void)stream;
    return copy(__func__, from, to, HOST(from), size, 0);
}

static CUresult fill(const char *function, CUdeviceptr address, uint32_t value, size_t width, size_t count)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    (void)s;
    REQUIRE(count <= SIZE_MAX / width && address % width == 0, CUDA_ERROR_INVALID_VALUE);
    uint64_t first, bytes = count * width;
    struct allocation *a = allocation_around(address, bytes, &first);
    REQUIRE(a, CUDA_ERROR_INVALID_VALUE);
    struct pattern filled = {FIXED, width == 1 ? value * UINT32_C(0x01010101) : value, first, 0};
    contents_write(a, first, first + bytes, &filled);
    if (bytes <= LITTLE)
        contents_settle(a, first, first + bytes);
    END(CUDA_SUCCESS);
}

CUresult cuMemsetD8(CUdeviceptr address, unsigned char value, size_t count)
{
    return fill(__func__, address, value, 1, count);
}

CUresult cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t count)
{
    return fill(__func__, address, value, 1, count);
}

CUresult cuMemsetD32(CUdeviceptr address, unsigned int value, size_t count)
{
    return fill(__func__, address, value, 4, count);
}

CUresult cuMemsetD32_v2(CUdeviceptr address, unsigned int value, size_t count)
{
    return fill(__func__, address, value, 4, count);
}

CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count, CUstream stream)
{
    (void)stream;
    return fill(__func__, address, value, 1, count);
}

CUresult cuMemsetD32Async(CUdeviceptr address, unsigned int value, size_t count, CUstream stream)
{
    (void)stream;
    return fill(__func__, address, value, 4, count);
}
