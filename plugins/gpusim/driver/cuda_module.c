/* Modules are PTX text. What the real driver's compiler refuses at its door is refused here too; a kernel runs when the
 * simulator knows it by name. */
#include "cuda_kernels.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The word after a directive at the beginning of a line, or NULL. Comments do not count. */
static const char *directive(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        const char *word = line + strspn(line, " \t\r");
        if (strncmp(word, name, length) == 0 && isspace((unsigned char)word[length]))
            return word + length + strspn(word + length, " \t");
    }
    return NULL;
}

/* PTX ISA that a driver of this CUDA version understands, as major x 10 + minor. */
static unsigned int newest_ptx(uint32_t cuda_version)
{
    unsigned int major = cuda_version / 1000, minor = cuda_version % 1000 / 10;
    if (major >= 13)
        return 90 + minor;
    return major == 12 ? 80 + minor : 70 + minor;
}

static int is_balanced(const char *text)
{
    int braces = 0, seen = 0;
    for (const char *c = text; *c; c++) {
        if (c[0] == '/' && c[1] == '/') {
            c += strcspn(c, "\n");
            if (!*c)
                break;
        }
        braces += (*c == '{') - (*c == '}');
        seen |= *c == '{';
        if (braces < 0)
            return 0;
    }
    return seen && braces == 0;
}

CUresult ptx_check(const char *text, const struct sim_device *d, uint32_t cuda_version)
{
    if (strncmp(text, "\177ELF", 4) == 0)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    const char *version = directive(text, ".version"), *target = directive(text, ".target");
    unsigned int major, minor, sm;
    char suffix = 0;
    if (!version || sscanf(version, "%u.%u", &major, &minor) != 2 || !target || sscanf(target, "sm_%u%c", &sm, &suffix) < 1)
        return CUDA_ERROR_INVALID_PTX;
    if (major * 10 + minor > newest_ptx(cuda_version))
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    unsigned int capability = d->cc_major * 10 + d->cc_minor;
    int fits = sm <= capability;
    if (suffix == 'a') /* for one architecture only */
        fits = sm == capability;
    if (suffix == 'f') /* for its family */
        fits = sm <= capability && sm / 10 == capability / 10;
    if (!fits)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    return is_balanced(text) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_PTX;
}

int ptx_has_entry(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = text; (at = strstr(at, ".entry")); at += 6) {
        const char *word = at + 6 + strspn(at + 6, " \t\r\n");
        if (word > at + 6 && strncmp(word, name, length) == 0 && !isalnum((unsigned char)word[length]) &&
            word[length] != '_' && word[length] != '$')
            return 1;
    }
    return 0;
}

static CUresult load(const char *function, CUmodule *value, const void *image)
{
    struct sim_state *s;
    struct sim_context *context;
    CUresult begun = cuda_begin_context(function, &s, &context);
    if (begun != CUDA_SUCCESS)
        return begun;
    REQUIRE(value && image, CUDA_ERROR_INVALID_VALUE);
    CUresult checked = ptx_check(image, context->device, s->cuda_version);
    REQUIRE(checked == CUDA_SUCCESS, checked);
    struct sim_module *module = handle_new(MODULE, sizeof *module, context);
    REQUIRE(module, CUDA_ERROR_OUT_OF_MEMORY);
    module->ptx = strdup(image);
    if (!module->ptx) {
        handle_free(module);
        END(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *value = module;
    END(CUDA_SUCCESS);
}

CUresult cuModuleLoadData(CUmodule *value, const void *image)
{
    return load(__func__, value, image);
}

CUresult cuModuleLoadDataEx(CUmodule *value, const void *image, unsigned int count, int *options, void **values)
{
    (void)count;
    (void)options;
    (void)values;
    return load(__func__, value, image);
}

CUresult cuModuleUnload(CUmodule handle)
{
    CONTEXT_CALL();
    (void)s;
    (void)context;
    struct sim_module *module = handle_find(MODULE, handle);
    REQUIRE(module, CUDA_ERROR_INVALID_HANDLE);
    free(module->ptx);
    handle_free(module);
    END(CUDA_SUCCESS);
}

CUresult cuModuleGetFunction(CUfunction *value, CUmodule handle, const char *name)
{
    CONTEXT_CALL();
    (void)s;
    REQUIRE(value && name, CUDA_ERROR_INVALID_VALUE);
    struct sim_module *module = handle_find(MODULE, handle);
    REQUIRE(module, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(*name && ptx_has_entry(module->ptx, name), CUDA_ERROR_NOT_FOUND);
    struct sim_function *function = handle_new(FUNCTION, sizeof *function, context);
    REQUIRE(function, CUDA_ERROR_OUT_OF_MEMORY);
    function->module = module;
    snprintf(function->name, sizeof function->name, "%s", name);
    *value = function;
    END(CUDA_SUCCESS);
}

CUresult cuLaunchKernel(CUfunction handle, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared_bytes,
                        CUstream stream, void **parameters, void **extra)
{
    CONTEXT_CALL();
    (void)shared_bytes;
    struct sim_function *function = handle_find(FUNCTION, handle);
    REQUIRE(function && handle_find(MODULE, function->module), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE((uintptr_t)stream <= 2 || handle_find(STREAM, stream), CUDA_ERROR_INVALID_HANDLE);
    uint64_t block = (uint64_t)block_x * block_y * block_z, grid = (uint64_t)grid_x * grid_y * grid_z;
    REQUIRE(grid > 0 && block > 0 && block <= 1024 && grid_y <= 65535 && grid_z <= 65535 && parameters && !extra,
            CUDA_ERROR_INVALID_VALUE);
    REQUIRE(grid <= 0x7fffffff, CUDA_ERROR_INVALID_VALUE);
    int is_burn = strcmp(function->name, "gpugate_burn") == 0;
    REQUIRE(is_burn || strcmp(function->name, "gpugate_memory") == 0, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE(block <= THREADS_A_BLOCK, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES); /* more than its registers are for */
    REQUIRE(block == THREADS_A_BLOCK, CUDA_ERROR_NOT_SUPPORTED);           /* the simulator knows no other shape of them */
    END((is_burn ? burn_launch : memtest_launch)(s, context->device, grid, parameters));
}
