/* The stream warps of `gpugate_burn`: each goes round its slice of a buffer, compares, and writes the inverse back.
 *
 * A buffer that was filled and that nobody touched is right as a whole. Else each piece that a warp comes by is looked at. */
#include "cuda_kernels.h"

static const uint64_t LITTLE = 1 << 20;
enum { CHUNK_BYTES = STREAM_CHUNK_WORDS * 4 };

static unsigned int nth_stream_warp(const struct burn *b, uint64_t n)
{
    unsigned int warp = burn_first_warp(b, STREAM_WORK);
    while (n-- > 0)
        do
            warp++;
        while (burn_role_of(b, warp) != STREAM_WORK);
    return warp;
}

/* The word at `word` of the buffer, when the warp that has done `progress` chunks comes to it. */
uint32_t traffic_word(const struct burn *b, uint64_t word, uint32_t progress)
{
    uint64_t chunk = word / STREAM_CHUNK_WORDS % b->chunks;
    uint64_t pass = progress / b->chunks + (chunk < progress % b->chunks);
    uint32_t value = pattern_word(STREAM_FILL, 0, word);
    return pass % 2 ? ~value : value;
}

static void wrong_word(const struct burn *b, uint64_t warp, uint64_t word, uint32_t progress, uint32_t found)
{
    uint64_t of_block = b->warps[STREAM_WORK], chunk = word / STREAM_CHUNK_WORDS % b->chunks;
    uint32_t thread = nth_stream_warp(b, warp % of_block) * LANES + (uint32_t)(word % STREAM_CHUNK_WORDS / 4 % LANES);
    struct place place = {
        .role = STREAM_WORK,
        .sm = (uint32_t)(warp / of_block % b->d->sm_count),
        .block = (uint32_t)(warp / of_block),
        .thread = thread,
        .launch = b->launch,
        .round = (uint32_t)((chunk + b->chunks - progress % b->chunks) % b->chunks / STREAM_CHUNKS),
        .word = word,
        .expected = traffic_word(b, word, progress),
        .found = found,
    };
    result_wrong(b->result, &place);
}

static int is_right(const struct burn *b, const struct pattern *p, uint64_t done)
{
    return (p->kind == STREAM_FILL || p->kind == STREAMED) && p->base == b->stream_from &&
           (p->kind == STREAMED ? p->streamed_chunks : 0) == done;
}

/* A warp comes by this piece; what it leaves there is right. */
static void pass(const struct burn *b, uint64_t warp, uint32_t progress, const struct piece *piece)
{
    uint64_t first = (piece->from - b->stream_from + 3) / 4, last = (piece->to - b->stream_from + 3) / 4, seen = 0;
    int readable = piece->pattern.kind == NOTHING && piece->to - piece->from <= LITTLE;
    for (uint64_t word = first; word < last && (readable || seen < MOST_RECORDS); word++, seen++) {
        uint32_t expected = traffic_word(b, word, progress), found = ~expected;
        if (readable)
            contents_read(b->stream_in, b->stream_from + word * 4, &found, 4);
        if (found != expected)
            wrong_word(b, warp, word, progress, found);
    }
    result_wrong_too(b->result, last - first - seen);
}

static void look_at(const struct burn *b, uint64_t warp, uint32_t progress, uint64_t first, uint64_t end, uint64_t done,
                    const struct pattern *after)
{
    uint64_t slice = b->stream_from + warp * b->chunks * CHUNK_BYTES;
    uint64_t from = slice + first * CHUNK_BYTES, to = slice + end * CHUNK_BYTES;
    for (uint64_t at = from; at < to;) {
        struct piece piece = contents_piece(b->stream_in, at, to);
        if (!is_right(b, &piece.pattern, done))
            pass(b, warp, progress, &piece);
        at = piece.to;
    }
    contents_write(b->stream_in, from, to, after);
}

CUresult traffic_find(struct burn *b)
{
    uint64_t warps = b->blocks * b->warps[STREAM_WORK];
    if (b->chunks > INT32_MAX || warps > UINT32_MAX)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (b->stream % 16 != 0 || b->progress % 4 != 0)
        return CUDA_ERROR_MISALIGNED_ADDRESS;
    uint64_t from, size = warps * b->chunks * CHUNK_BYTES;
    struct allocation *progress_in = allocation_around(b->progress, warps * 4, &from);
    if (size / CHUNK_BYTES / b->chunks != warps || !progress_in)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    b->stream_in = allocation_around(b->stream, size, &b->stream_from);
    if (!b->stream_in)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    contents_settle(progress_in, from, from + warps * 4);
    b->progressed = (uint32_t *)(void *)(progress_in->start + from);
    return CUDA_SUCCESS;
}

void traffic_run(const struct burn *b)
{
    uint64_t warps = b->blocks * b->warps[STREAM_WORK], chunks = (uint64_t)b->rounds[STREAM_WORK] * STREAM_CHUNKS;
    uint64_t end = b->stream_from + warps * b->chunks * CHUNK_BYTES, done = 0;
    for (uint64_t w = 0; w < warps; w++)
        done += b->progressed[w];
    uint64_t after_all = 0; /* counters begin anew after two passes, when the pattern is the same again */
    for (uint64_t w = 0; w < warps; w++)
        after_all += (b->progressed[w] + chunks) % (2 * b->chunks);
    struct pattern after = {STREAMED, 0, b->stream_from, after_all};
    struct piece whole = contents_piece(b->stream_in, b->stream_from, end);
    if (whole.to == end && is_right(b, &whole.pattern, done)) {
        contents_write(b->stream_in, b->stream_from, end, &after);
    } else {
        for (uint64_t w = 0; w < warps; w++) {
            uint32_t progress = b->progressed[w];
            uint64_t next = progress % b->chunks, run = chunks < b->chunks ? chunks : b->chunks;
            uint64_t over = next + run > b->chunks ? next + run - b->chunks : 0;
            look_at(b, w, progress, next, next + run - over, done, &after);
            if (over)
                look_at(b, w, progress, 0, over, done, &after);
        }
        for (uint64_t at = b->stream_from; at < end;) { /* what no warp came by is as right as it was */
            struct piece piece = contents_piece(b->stream_in, at, end);
            if (is_right(b, &piece.pattern, done))
                contents_write(b->stream_in, piece.from, piece.to, &after);
            at = piece.to;
        }
    }
    for (uint64_t w = 0; w < warps; w++)
        b->progressed[w] = (uint32_t)((b->progressed[w] + chunks) % (2 * b->chunks));
}
