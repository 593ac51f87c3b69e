/* What stands in device memory: sorted pieces of patterns; what lies between them is in host memory. */
#include "cuda_kernels.h"

#include <stdlib.h>
#include <string.h>

uint32_t pattern_word(enum pattern_kind kind, uint32_t seed, uint64_t word)
{
    uint32_t low = (uint32_t)word;
    switch (kind) {
    case FIXED: return seed;
    case ADDRESS: return low ^ seed;
    case RANDOM: {
        uint32_t h = (low * UINT32_C(0x9E3779B1)) ^ (uint32_t)(word >> 32) ^ seed;
        h ^= h >> 15;
        h *= UINT32_C(0x85EBCA6B);
        h ^= h >> 13;
        h *= UINT32_C(0xC2B2AE35);
        return h ^ h >> 16;
    }
    case STREAM_FILL: return low * UINT32_C(0x9E3779B1) + UINT32_C(0x7F4A7C15);
    default: return 0; /* STREAMED: which words are inverted is in the progress, which nobody but the kernel reads */
    }
}

struct allocation *allocation_around(uint64_t address, uint64_t size, uint64_t *from)
{
    struct allocation *a = address + size >= address ? allocation_at(address, size) : NULL;
    if (a)
        *from = address - (uint64_t)(uintptr_t)a->start;
    return a;
}

struct piece contents_piece(const struct allocation *a, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < a->pieces_used; i++) {
        const struct piece *p = &a->pieces[i];
        if (p->to <= from)
            continue;
        if (p->from > from)
            return (struct piece){from, p->from < to ? p->from : to, {NOTHING, 0, 0, 0}};
        return (struct piece){from, p->to < to ? p->to : to, p->pattern};
    }
    return (struct piece){from, to, {NOTHING, 0, 0, 0}};
}

static void insert(struct allocation *a, size_t at, struct piece piece)
{
    if (a->pieces_used == a->pieces_room) {
        size_t room = a->pieces_room ? 2 * a->pieces_room : 8;
        struct piece *grown = realloc(a->pieces, room * sizeof *grown);
        if (!grown)
            abort(); /* a handful of bytes: this host is done for */
        a->pieces = grown;
        a->pieces_room = room;
    }
    memmove(&a->pieces[at + 1], &a->pieces[at], (a->pieces_used - at) * sizeof piece);
    a->pieces[at] = piece;
    a->pieces_used++;
}

/* Leaves no piece inside; the answer is where one belongs. */
static size_t cut(struct allocation *a, uint64_t from, uint64_t to)
{
    size_t i = 0;
    while (i < a->pieces_used && a->pieces[i].to <= from)
        i++;
    if (i < a->pieces_used && a->pieces[i].from < from) {
        struct piece rest = a->pieces[i];
        a->pieces[i++].to = from;
        if (rest.to > to) {
            rest.from = to;
            insert(a, i, rest);
            return i;
        }
    }
    size_t last = i;
    while (last < a->pieces_used && a->pieces[last].to <= to)
        last++;
    memmove(&a->pieces[i], &a->pieces[last], (a->pieces_used - last) * sizeof *a->pieces);
    a->pieces_used -= last - i;
    if (i < a->pieces_used && a->pieces[i].from < to)
        a->pieces[i].from = to;
    return i;
}

void contents_forget(struct allocation *a, uint64_t from, uint64_t to)
{
    a->written++;
    if (a->pieces_used)
        cut(a, from, to);
}

void contents_write(struct allocation *a, uint64_t from, uint64_t to, const struct pattern *pattern)
{
    a->written++;
    if (from < to) {
        size_t at = cut(a, from, to);
        insert(a, at, (struct piece){from, to, *pattern});
    }
}

void contents_read(const struct allocation *a, uint64_t from, void *to, uint64_t size)
{
    for (uint64_t at = from, end = from + size; at < end;) {
        struct piece p = contents_piece(a, at, end);
        char *out = (char *)to + (at - from);
        if (p.pattern.kind == NOTHING) {
            if (out != a->start + at)
                memcpy(out, a->start + at, p.to - at);
        } else {
            for (uint64_t byte = at; byte < p.to; byte++) { /* copies need not begin at a word */
                uint64_t offset = byte - p.pattern.base;
                uint32_t word = pattern_word(p.pattern.kind, p.pattern.seed, offset / 4);
                out[byte - at] = (char)(word >> 8 * (offset % 4));
            }
        }
        at = p.to;
    }
}

void contents_settle(struct allocation *a, uint64_t from, uint64_t to)
{
    if (!a->pieces_used)
        return;
    contents_read(a, from, a->start + from, to - from);
    cut(a, from, to);
}
