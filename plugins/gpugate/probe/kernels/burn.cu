// The burn's kernels. Whatever they compute is compared on the device, bit for bit, with words that the host computed
// (operands.py) or that follow from an address; a difference is counted and located in `result` (abi.py).
//
// The same text compiles as C++17 for a CPU, where tests/kernels/device.h plays the part of the hardware.

using u32 = unsigned int;
using u64 = unsigned long long;

struct alignas(16) Vector {
    u32 word[4];
};

#ifdef __CUDACC__

#define DEVICE static __device__ __forceinline__
#define KERNEL(blocks) extern "C" __global__ void __launch_bounds__(512, blocks)
#define SM (__CUDA_ARCH__ / 10)

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_index() { return blockIdx.x; }
DEVICE u32 blocks() { return gridDim.x; }
DEVICE u32 ones(u32 bits) { return __popc(bits); }
DEVICE u32 lowest(u32 bits) { return __ffs(bits) - 1; }
DEVICE u32 bits_of(float number) { return __float_as_uint(number); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE u32 of_first_lane(u32 value) { return __shfl_sync(0xffffffff, value, 0); }
DEVICE bool in_any_lane(bool value) { return __any_sync(0xffffffff, value); }
DEVICE void fence() { __threadfence(); }
DEVICE u64 add(u64 *word, u64 value) { return atomicAdd(word, value); }

DEVICE u64 clock_now() {
    u64 now;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(now));
    return now;
}

DEVICE u32 multiprocessor() {
    u32 number;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(number));
    return number;
}

// Tables stay the same for all of a launch, so they may be kept in the L1 cache, and loaded early.
DEVICE u32 load_constant(const u32 *word) {
    u32 value;
    asm("ld.global.nc.u32 %0, [%1];" : "=r"(value) : "l"(word));
    return value;
}

// What is tested goes past L1, and is really read and written, in this order.
DEVICE Vector load(const Vector *from) {
    Vector v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(from)
                 : "memory");
    return v;
}

DEVICE void store(Vector *to, const Vector &v) {
    asm volatile("st.global.cg.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.word[0]), "r"(v.word[1]),
                 "r"(v.word[2]), "r"(v.word[3])
                 : "memory");
}

// C += A x B in the tensor cores, by all 32 lanes together. FP32 accumulators are handled as their bits.
#if SM >= 80
DEVICE void mma_f16(u32 *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void mma_bf16(u32 *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void mma_s8(u32 *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
DEVICE void mma_f16(u32 *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

DEVICE void mma_s8(u32 *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[0]), "+r"(c[1])
                 : "r"(a[0]), "r"(b[0]));
}
#endif

#else
#include "device.h"
#endif

enum Role : u32 { FMA = 1, F16 = 2, BF16 = 3, S8 = 4, STREAM = 5, MEMORY = 6 };
enum ResultWord : u32 { COMPLETED, WRONG, CLAIMED, VECTORS, ROUNDS, RECORDS = 16 };

enum Size : u32 { // not constexpr: of that the compiler would make variables
    MOST_RECORDS = 16,
    RECORD_WORDS = 6,
    LANES = 32,
    WARPS = 16,
    THREADS = LANES * WARPS,
    SETS = 4,
    TILES = 4,
    CHAINS = 8,
    STEPS = 128,
    SIGNS_WORD = 8, // of the tables, as the next
    PASSES_WORD = 9,
    CHUNK_VECTORS = 16, // of a chunk, each lane's
    CHUNKS = 16,        // a round
};
enum Hash : u32 { WEYL = 0x9E3779B1, START = 0x7F4A7C15, MIX_1 = 0x85EBCA6B, MIX_2 = 0xC2B2AE35 };

// Where a mismatch is found, as far as all words of a round share it.
struct Place {
    u64 *result;
    u32 role, launch, round;
};

DEVICE void record(const Place &at, u64 word, u32 expected, u32 found) {
    // A look first: where everything is wrong, adding is slow.
    if (*static_cast<volatile u64 *>(at.result + CLAIMED) >= MOST_RECORDS) return;
    const u64 number = add(at.result + CLAIMED, 1);
    if (number >= MOST_RECORDS) return;
    volatile u64 *const to = at.result + RECORDS + number * RECORD_WORDS;
    to[0] = at.role | static_cast<u64>(multiprocessor()) << 32;
    to[1] = block_index() | static_cast<u64>(thread_index()) << 32;
    to[2] = at.launch | static_cast<u64>(at.round) << 32;
    to[3] = word;
    to[4] = expected | static_cast<u64>(found) << 32;
    fence();
    to[5] = 1;
}

// values[n] where n is not known when compiled: by selection, as registers have no index.
template <u32 N> DEVICE u32 pick(const u32 (&values)[N], u32 n) {
    u32 value = values[0];
#pragma unroll
    for (u32 k = 1; k < N; ++k) value = n == k ? values[k] : value;
    return value;
}

// How many of the words found are not expected(n), each bit for bit; each of those is recorded as word(n).
template <u32 N, class Expected, class Word>
DEVICE u32 compare(const Place &at, const u32 (&found)[N], Expected expected, Word word) {
    constexpr u32 PARTS = (N + 31) / 32;
    u32 wrong[PARTS] = {}, count = 0;
#pragma unroll
    for (u32 n = 0; n < N; ++n) wrong[n / 32] |= static_cast<u32>(found[n] != expected(n)) << (n % 32);
#pragma unroll
    for (u32 part = 0; part < PARTS; ++part) {
        count += ones(wrong[part]);
#pragma unroll 1
        for (u32 left = wrong[part]; left != 0; left &= left - 1) {
            const u32 n = part * 32 + lowest(left);
            record(at, word(n), expected(n), pick(found, n));
        }
    }
    return count;
}

// The tensor works: registers of a lane's fragments, whether B's sign changes from pass to pass, and the instruction.
struct TensorF16 {
    enum : u32 { A = SM >= 80 ? 4 : 2, B = SM >= 80 ? 2 : 1, C = 4, ALTERNATES = true };
    DEVICE void mma(u32 *c, const u32 *a, const u32 *b) { mma_f16(c, a, b); }
};

#if SM >= 80
struct TensorBf16 {
    enum : u32 { A = 4, B = 2, C = 4, ALTERNATES = true };
    DEVICE void mma(u32 *c, const u32 *a, const u32 *b) { mma_bf16(c, a, b); }
};
#endif

struct TensorS8 {
    enum : u32 { A = SM >= 80 ? 4 : 1, B = SM >= 80 ? 2 : 1, C = SM >= 80 ? 4 : 2, ALTERNATES = false };
    DEVICE void mma(u32 *c, const u32 *a, const u32 *b) { mma_s8(c, a, b); }
};

// 16 products A_i x B_j, `passes` times over, then compared. `row`: the lane's word in the first row of the region.
// Signs and passes come from the tables: what the compiler does not know it neither cancels nor unrolls.
// They are odd in number, so that an error which changes its sign with B's does not cancel either. Signs change after
// the second pass and each one from there on: C is the product and twice the product in turn, and never 0, in which
// flipped bits would be lost with the next addition.
template <class Work> DEVICE u32 tensor_round(const Place &at, const u32 *row, u32 signs, u32 passes) {
    constexpr u32 WORDS = TILES * TILES * Work::C;
    row += at.round % SETS * (TILES * Work::A + TILES * Work::B + WORDS) * LANES;

    u32 a[TILES][Work::A], b[TILES][Work::B], c[WORDS] = {};
#pragma unroll
    for (u32 n = 0; n < TILES * Work::A; ++n, row += LANES) a[n / Work::A][n % Work::A] = load_constant(row);
#pragma unroll
    for (u32 n = 0; n < TILES * Work::B; ++n, row += LANES) b[n / Work::B][n % Work::B] = load_constant(row);

#pragma unroll 1
    for (u32 pass = 0; pass < passes; ++pass) {
#pragma unroll
        for (u32 tile = 0; tile < TILES * TILES; ++tile)
            Work::mma(c + tile * Work::C, a[tile / TILES], b[tile % TILES]);
        if (Work::ALTERNATES && pass != 0) {
#pragma unroll
            for (u32 n = 0; n < TILES * Work::B; ++n) b[n / Work::B][n % Work::B] ^= signs;
        }
    }
    return compare(at, c, [row](u32 n) { return load_constant(row + n * LANES); }, [](u32 n) { return u64(n); });
}

DEVICE u32 fma_round(const Place &at, const u32 *row) {
    row += at.round % SETS * (2 * CHAINS + 1) * LANES;

    float y[CHAINS];
#pragma unroll
    for (u32 n = 0; n < CHAINS; ++n) y[n] = float_of(load_constant(row + n * LANES));
    const float addend = float_of(load_constant(row + 2 * CHAINS * LANES));
    row += CHAINS * LANES;

#pragma unroll 16
    for (u32 step = 0; step < STEPS; ++step) {
#pragma unroll
        for (u32 n = 0; n < CHAINS; ++n) y[n] = fma_rn(y[n], y[n], addend);
    }
    u32 found[CHAINS];
#pragma unroll
    for (u32 n = 0; n < CHAINS; ++n) found[n] = bits_of(y[n]);
    return compare(at, found, [row](u32 n) { return load_constant(row + n * LANES); }, [](u32 n) { return u64(n); });
}

// One stream warp's slice of the buffer, and how far it is in it.
struct Slice {
    Vector *vectors; // the lane's first
    u64 first_word;  // its place from the start of the buffer
    u32 chunks, position, inverted;

    DEVICE Slice at(u64 stream, u64 chunks, u32 warp, u32 lane, u32 progress) {
        const u64 vector = warp * chunks * (CHUNK_VECTORS * LANES) + lane;
        const u32 many = static_cast<u32>(chunks);
        return {reinterpret_cast<Vector *>(stream) + vector, vector * 4, many, progress % many,
                progress / many % 2 == 1 ? 0xffffffff : 0};
    }

    // Chunks done, modulo those of two passes: the pattern is the same again then, and no counter ever overflows.
    DEVICE u32 progress(const Slice &slice) { return slice.position + (slice.inverted ? slice.chunks : 0); }
};

DEVICE u32 stream_round(const Place &at, Slice &slice) {
    u32 wrong = 0;
#pragma unroll 1
    for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
        const u64 vector = static_cast<u64>(slice.position) * (CHUNK_VECTORS * LANES);
        Vector *const vectors = slice.vectors + vector;
        const u64 first = slice.first_word + vector * 4;
        const u32 base = static_cast<u32>(first) * WEYL + START, inverted = slice.inverted;
        const auto word = [](u32 n) { return n / 4 * (LANES * 4) + n % 4; };
        const auto expected = [=](u32 n) { return (base + word(n) * WEYL) ^ inverted; };

        u32 found[CHUNK_VECTORS * 4];
#pragma unroll
        for (u32 v = 0; v < CHUNK_VECTORS; ++v) {
            const Vector vector_found = load(vectors + v * LANES);
#pragma unroll
            for (u32 n = 0; n < 4; ++n) found[v * 4 + n] = vector_found.word[n];
        }
        wrong += compare(at, found, expected, [=](u32 n) { return first + word(n); });
#pragma unroll
        for (u32 v = 0; v < CHUNK_VECTORS; ++v)
            store(vectors + v * LANES,
                  {{~expected(v * 4), ~expected(v * 4 + 1), ~expected(v * 4 + 2), ~expected(v * 4 + 3)}});

        if (++slice.position == slice.chunks) {
            slice.position = 0;
            slice.inverted = ~slice.inverted;
        }
    }
    return wrong;
}

DEVICE u32 role_of(u64 roles, u32 warp) { return static_cast<u32>(roles >> (4 * warp)) & 15; }

// How many of the first `warps` warps of a block stream.
DEVICE u32 stream_warps(u64 roles, u32 warps) {
    u32 count = 0;
    for (u32 warp = 0; warp < warps; ++warp) count += role_of(roles, warp) == STREAM;
    return count;
}

// Rounds of one warp, until it has done enough of them or the time is up; all lanes leave together, as mma needs.
template <class Round> DEVICE u32 rounds(u32 most, u64 cycles, Round round) {
    const u64 start = clock_now();
    u32 done = 0;
    while (done < most && cycles != 0) {
        round(done++);
        if (in_any_lane(clock_now() - start >= cycles)) break;
    }
    return done;
}

KERNEL(1)
gpugate_burn(u64 result_at, u64 tables_at, u64 stream, u64 stream_chunks, u64 progress_at, u64 roles, u32 launch,
             u32 max_rounds, u64 cycles) {
    u64 *const result = reinterpret_cast<u64 *>(result_at);
    const u32 *const tables = reinterpret_cast<const u32 *>(tables_at);
    const u32 lane = thread_index() % LANES, warp = of_first_lane(thread_index() / LANES);
    const u32 role = role_of(roles, warp);
    const u32 *const region = tables + load_constant(tables + role % 8) + lane;
    const u32 signs = load_constant(tables + SIGNS_WORD), passes = load_constant(tables + PASSES_WORD);
    Place at = {result, role, launch, 0};
    u32 done = 0, wrong = 0;

    if (role == FMA) {
        done = rounds(max_rounds, cycles, [&](u32 round) {
            at.round = round;
            wrong += fma_round(at, region);
        });
    } else if (role == F16) {
        done = rounds(max_rounds, cycles, [&](u32 round) {
            at.round = round;
            wrong += tensor_round<TensorF16>(at, region, signs, passes);
        });
#if SM >= 80
    } else if (role == BF16) {
        done = rounds(max_rounds, cycles, [&](u32 round) {
            at.round = round;
            wrong += tensor_round<TensorBf16>(at, region, signs, passes);
        });
#endif
    } else if (role == S8) {
        done = rounds(max_rounds, cycles, [&](u32 round) {
            at.round = round;
            wrong += tensor_round<TensorS8>(at, region, signs, passes);
        });
    } else if (role == STREAM && stream_chunks != 0) {
        const u32 number = block_index() * stream_warps(roles, WARPS) + stream_warps(roles, warp);
        u32 *const progress = reinterpret_cast<u32 *>(progress_at) + number;
        Slice slice = Slice::at(stream, stream_chunks, number, lane, *progress);
        done = rounds(max_rounds, cycles, [&](u32 round) {
            at.round = round;
            wrong += stream_round(at, slice);
        });
        if (lane == 0) *progress = Slice::progress(slice);
    }

    if (wrong != 0) add(result + WRONG, wrong);
    if (lane == 0 && done != 0) add(result + ROUNDS + role, done);
    add(result + COMPLETED, 1);
}

// What a word of memory shall hold: (place * factor + addend) ^ seed, and for random words a hash of that.
struct Pattern {
    enum Kind : u32 { NOTHING, FIXED, ADDRESS, RANDOM, STREAMED };
    u32 factor, addend, seed;
    bool any, random;

    DEVICE Pattern of(u32 kind, u32 seed) {
        switch (kind) {
        case FIXED:
            return {0, 0, seed, true, false};
        case ADDRESS:
            return {1, 0, seed, true, false};
        case RANDOM:
            return {WEYL, 0, seed, true, true};
        case STREAMED:
            return {WEYL, START, 0, true, false};
        default:
            return {0, 0, 0, false, false};
        }
    }

    DEVICE u32 at(const Pattern &pattern, u64 place) {
        u32 word = (static_cast<u32>(place) * pattern.factor + pattern.addend) ^ pattern.seed;
        if (pattern.random) {
            word ^= static_cast<u32>(place >> 32);
            word = (word ^ word >> 15) * MIX_1;
            word = (word ^ word >> 13) * MIX_2;
            word ^= word >> 16;
        }
        return word;
    }
};

// COUNT vectors, each `stride` after the one before, which may be backwards: read and compared, then written.
template <u32 COUNT>
DEVICE u32 memory_vectors(const Place &at, Vector *first, u64 first_word, long long stride, const Pattern &expect,
                          const Pattern &write) {
    const auto word = [=](u32 n) { return first_word + static_cast<u64>(n / 4 * stride) * 4 + n % 4; };
    u32 wrong = 0;
    if (expect.any) {
        u32 found[COUNT * 4];
#pragma unroll
        for (u32 v = 0; v < COUNT; ++v) {
            const Vector vector = load(first + v * stride);
#pragma unroll
            for (u32 n = 0; n < 4; ++n) found[v * 4 + n] = vector.word[n];
        }
        wrong = compare(at, found, [&](u32 n) { return Pattern::at(expect, word(n)); }, word);
    }
    if (write.any) {
#pragma unroll
        for (u32 v = 0; v < COUNT; ++v) {
            const u64 place = word(v * 4);
            store(first + v * stride, {{Pattern::at(write, place), Pattern::at(write, place + 1),
                                        Pattern::at(write, place + 2), Pattern::at(write, place + 3)}});
        }
    }
    return wrong;
}

KERNEL(2)
gpugate_memory(u64 result_at, u64 base, u64 words, u32 expect_kind, u32 expect_seed, u32 write_kind, u32 write_seed,
               u32 launch, u32 descending) {
    constexpr u32 AT_ONCE = 4;
    u64 *const result = reinterpret_cast<u64 *>(result_at);
    const Place at = {result, MEMORY, launch, 0};
    const Pattern expect = Pattern::of(expect_kind, expect_seed), write = Pattern::of(write_kind, write_seed);
    const u64 vectors = words / 4, threads = static_cast<u64>(blocks()) * THREADS;
    const long long stride = static_cast<long long>(threads) * (descending ? -1 : 1);

    u64 done = 0, wrong = 0;
    for (u64 next = static_cast<u64>(block_index()) * THREADS + thread_index(); next < vectors;) {
        const u64 vector = descending ? vectors - 1 - next : next;
        Vector *const first = reinterpret_cast<Vector *>(base) + vector;
        const bool several = next + (AT_ONCE - 1) * threads < vectors;
        wrong += several ? memory_vectors<AT_ONCE>(at, first, vector * 4, stride, expect, write)
                         : memory_vectors<1>(at, first, vector * 4, stride, expect, write);
        done += several ? AT_ONCE : 1;
        next += several ? AT_ONCE * threads : threads;
    }

    if (wrong != 0) add(result + WRONG, wrong);
    if (done != 0) add(result + VECTORS, done);
    add(result + COMPLETED, 1);
}
