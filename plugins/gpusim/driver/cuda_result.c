/* The result buffer of a kernel: counters that are only ever added to, and where the first wrong words were found. */
#include "cuda_kernels.h"

uint64_t *result_at(uint64_t address)
{
    uint64_t from, size = RESULT_WORDS * sizeof(uint64_t);
    struct allocation *a = address % sizeof(uint64_t) == 0 ? allocation_around(address, size, &from) : NULL;
    if (!a)
        return NULL;
    contents_settle(a, from, from + size);
    return (uint64_t *)(void *)(a->start + from);
}

void result_wrong(uint64_t *result, const struct place *p)
{
    result[1]++;
    uint64_t slot = result[2];
    if (slot >= MOST_RECORDS)
        return;
    result[2]++;
    uint64_t *record = result + RESULT_RECORDS + slot * RECORD_WORDS;
    record[0] += (uint64_t)p->role | (uint64_t)p->sm << 32;
    record[1] += (uint64_t)p->block | (uint64_t)p->thread << 32;
    record[2] += (uint64_t)p->launch | (uint64_t)p->round << 32;
    record[3] += p->word;
    record[4] += (uint64_t)p->expected | (uint64_t)p->found << 32;
    record[5] = 1;
}

void result_wrong_too(uint64_t *result, uint64_t words)
{
    result[1] += words;
}
