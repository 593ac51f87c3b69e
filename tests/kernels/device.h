// A processor for burn.cu: what the kernels ask of a card, in C++ on the CPU.
//
// A warp's 32 lanes are contexts of one thread. Each runs until it comes to something that all lanes do together (mma,
// a vote, a shuffle) and waits there; when all 32 wait for the same, that is done and they go on. Lanes that part, so
// that some wait where others do not, would hang a card or worse: here the launch ends with DIVERGED.
//
// The layouts of mma's fragments are written down as the PTX ISA has them, element by element: not as layouts.py does.
#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#define DEVICE [[maybe_unused]] static inline
#define KERNEL(blocks_a_multiprocessor) extern "C" void

namespace card {

enum Outcome : int { FINISHED = 0, DIVERGED = 1 };
enum Together : u32 { NOTHING_YET, DONE, SHUFFLE, VOTE, MMA_F16, MMA_BF16, MMA_S8 };
enum { WARP = 32, STACK = 256 * 1024, TICKS = 1000, FIRST_MULTIPROCESSOR = 40 };

// What is counted, over all launches.
enum Counted : u32 { MMAS, FMAS, LOADS, STORES, COUNTERS };

// Where a fault can strike, and on what.
enum Target : u32 { NO_FAULT, OPERAND_A, OPERAND_B, ACCUMULATOR, CHAIN, VECTOR };

struct Fault {
    u32 target;
    u32 block, thread;
    u32 index;        // register of the fragment, or word of the vector
    u32 first, count; // strikes the thread's operations of the kind from `first` on, `count` times
    u32 keep, flip;   // the word becomes (word & keep) ^ flip
};

struct Lane {
    ucontext_t context;
    Together waits_for;
    u32 value;
    u32 *c;
    u32 a[4], b[4];
    u64 clock;
    u32 done[6]; // operations so far, for each target
    alignas(16) char stack[STACK];
};

static Lane lanes[WARP];
static ucontext_t scheduler;
static u32 block, block_count, warp_number, lane_number;
static Fault fault;
static u32 summation;
static u64 counted[COUNTERS];

inline Lane &here() { return lanes[lane_number]; }

inline void wait_for(Together what) {
    here().waits_for = what;
    swapcontext(&here().context, &scheduler);
}

inline void strike(Target target, u32 *words, u32 many) {
    const u32 number = here().done[target]++;
    if (fault.target != target || fault.block != block || fault.thread != warp_number * WARP + lane_number) return;
    if (number - fault.first < fault.count && fault.index < many)
        words[fault.index] = (words[fault.index] & fault.keep) ^ fault.flip;
}

// The elements of a fragment: (row, column) of element i in the lane `group` * 4 + `member`.
struct Cell {
    u32 row, column;
};

struct Shape {
    u32 m, k, packed; // n is 8; `packed` elements of A or B a register
    u32 a, b, c;      // registers
};

inline Shape shape_of(Together what) {
    if (what == MMA_S8) return SM >= 80 ? Shape{16, 32, 4, 4, 2, 4} : Shape{8, 16, 4, 1, 1, 2};
    return SM >= 80 ? Shape{16, 16, 2, 4, 2, 4} : Shape{16, 8, 2, 2, 1, 4};
}

inline Cell cell_a(const Shape &s, u32 group, u32 member, u32 i) {
    if (s.k == 32) // m16n8k32, a0..a15
        return {i < 4 || (i >= 8 && i < 12) ? group : group + 8, member * 4 + (i & 3) + (i < 8 ? 0 : 16)};
    if (s.packed == 4) // m8n8k16, a0..a3
        return {group, member * 4 + i};
    if (s.k == 16) // m16n8k16, a0..a7
        return {i < 2 || (i >= 4 && i < 6) ? group : group + 8, member * 2 + (i & 1) + (i < 4 ? 0 : 8)};
    return {i < 2 ? group : group + 8, member * 2 + (i & 1)}; // m16n8k8, a0..a3
}

inline Cell cell_b(const Shape &s, u32 group, u32 member, u32 i) {
    if (s.packed == 4) // m16n8k32, b0..b7; m8n8k16, b0..b3
        return {member * 4 + (i & 3) + (i < 4 ? 0 : 16), group};
    return {member * 2 + (i & 1) + (i < 2 ? 0 : 8), group}; // m16n8k16, b0..b3; m16n8k8, b0..b1
}

inline Cell cell_c(u32 group, u32 member, u32 i) { // of all
    return {i < 2 ? group : group + 8, member * 2 + (i & 1)};
}

inline float as_float(u32 bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

inline u32 as_bits(float number) {
    u32 bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

inline float half(u32 bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexpf(float(fraction), -24)
                                       : ldexpf(float(fraction + 1024), exponent - 25);
    return bits & 0x8000 ? -size : size;
}

// One element's sum, rounded to FP32 after every addition, in one of several orders.
inline float summed(float c, const float *products, u32 k) {
    float sum = c;
    switch (summation) {
    case 0: // from the accumulator on
        for (u32 i = 0; i < k; ++i) sum += products[i];
        return sum;
    case 1: // backwards
        for (u32 i = k; i-- > 0;) sum += products[i];
        return sum;
    default: // positive ones first, which makes the largest partial sums
        for (u32 i = 0; i < k; ++i) sum += products[i] > 0 ? products[i] : 0;
        for (u32 i = 0; i < k; ++i) sum += products[i] > 0 ? 0 : products[i];
        return sum;
    }
}

inline void multiply(Together what) {
    static float a[16][32], b[32][8];
    static int a8[16][32], b8[32][8];
    const Shape s = shape_of(what);
    const u32 width = 32 / s.packed;
    for (u32 l = 0; l < WARP; ++l) {
        for (u32 i = 0; i < s.a * s.packed; ++i) {
            const Cell at = cell_a(s, l / 4, l % 4, i);
            const u32 bits = lanes[l].a[i / s.packed] >> i % s.packed * width;
            if (what == MMA_S8) a8[at.row][at.column] = static_cast<signed char>(bits & 255);
            else a[at.row][at.column] = what == MMA_F16 ? half(bits & 0xffff) : as_float(bits << 16);
        }
        for (u32 i = 0; i < s.b * s.packed; ++i) {
            const Cell at = cell_b(s, l / 4, l % 4, i);
            const u32 bits = lanes[l].b[i / s.packed] >> i % s.packed * width;
            if (what == MMA_S8) b8[at.row][at.column] = static_cast<signed char>(bits & 255);
            else b[at.row][at.column] = what == MMA_F16 ? half(bits & 0xffff) : as_float(bits << 16);
        }
    }
    for (u32 l = 0; l < WARP; ++l)
        for (u32 i = 0; i < s.c; ++i) {
            const Cell at = cell_c(l / 4, l % 4, i);
            if (what == MMA_S8) {
                u32 sum = lanes[l].c[i];
                for (u32 k = 0; k < s.k; ++k) sum += static_cast<u32>(a8[at.row][k] * b8[k][at.column]);
                lanes[l].c[i] = sum;
            } else {
                float products[16];
                for (u32 k = 0; k < s.k; ++k) products[k] = a[at.row][k] * b[k][at.column];
                lanes[l].c[i] = as_bits(summed(as_float(lanes[l].c[i]), products, s.k));
            }
        }
    ++counted[MMAS];
}

inline void mma(Together what, u32 *c, const u32 *a, const u32 *b) {
    const Shape s = shape_of(what);
    Lane &lane = here();
    memcpy(lane.a, a, s.a * sizeof *a);
    memcpy(lane.b, b, s.b * sizeof *b);
    lane.c = c;
    strike(OPERAND_A, lane.a, s.a);
    strike(OPERAND_B, lane.b, s.b);
    strike(ACCUMULATOR, c, s.c);
    wait_for(what);
}

inline void together(Together what) {
    if (what == SHUFFLE) {
        for (Lane &lane : lanes) lane.value = lanes[0].value;
    } else if (what == VOTE) {
        u32 any = 0;
        for (const Lane &lane : lanes) any |= lane.value;
        for (Lane &lane : lanes) lane.value = any;
    } else {
        multiply(what);
    }
}

static void (*kernel)();

inline void lane_main() {
    kernel();
    here().waits_for = DONE;
}

inline Outcome run_warp() {
    for (lane_number = 0; lane_number < WARP; ++lane_number) {
        Lane &lane = here();
        memset(lane.done, 0, sizeof lane.done);
        lane.clock = 0;
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack;
        lane.context.uc_stack.ss_size = STACK;
        lane.context.uc_link = &scheduler;
        makecontext(&lane.context, lane_main, 0);
    }
    for (;;) {
        for (lane_number = 0; lane_number < WARP; ++lane_number) {
            here().waits_for = NOTHING_YET;
            swapcontext(&scheduler, &here().context);
        }
        for (const Lane &lane : lanes)
            if (lane.waits_for != lanes[0].waits_for) return DIVERGED;
        if (lanes[0].waits_for == DONE) return FINISHED;
        together(lanes[0].waits_for);
    }
}

// All blocks, one warp after the other.
inline Outcome launch(u32 grid, void (*of_one_thread)()) {
    kernel = of_one_thread;
    block_count = grid;
    for (block = 0; block < grid; ++block)
        for (warp_number = 0; warp_number < 16; ++warp_number)
            if (run_warp() == DIVERGED) return DIVERGED;
    return FINISHED;
}

} // namespace card

DEVICE u32 thread_index() { return card::warp_number * card::WARP + card::lane_number; }
DEVICE u32 block_index() { return card::block; }
DEVICE u32 blocks() { return card::block_count; }
DEVICE u32 ones(u32 bits) { return static_cast<u32>(__builtin_popcount(bits)); }
DEVICE u32 lowest(u32 bits) { return static_cast<u32>(__builtin_ctz(bits)); }
DEVICE u32 bits_of(float number) { return card::as_bits(number); }
DEVICE float float_of(u32 bits) { return card::as_float(bits); }
DEVICE void fence() {}
DEVICE u32 multiprocessor() { return card::FIRST_MULTIPROCESSOR + card::block; }
DEVICE u32 load_constant(const u32 *word) { return *word; }

DEVICE u64 add(u64 *word, u64 value) {
    const u64 before = *word;
    *word += value;
    return before;
}

// The lanes' clocks do not agree, as a card's need not.
DEVICE u64 clock_now() { return ++card::here().clock * (card::TICKS + card::lane_number); }

DEVICE float fma_rn(float a, float b, float c) {
    u32 bits = card::as_bits(fmaf(a, b, c));
    card::strike(card::CHAIN, &bits, 1);
    ++card::counted[card::FMAS];
    return card::as_float(bits);
}

DEVICE u32 of_first_lane(u32 value) {
    card::here().value = value;
    card::wait_for(card::SHUFFLE);
    return card::here().value;
}

DEVICE bool in_any_lane(bool value) {
    card::here().value = value;
    card::wait_for(card::VOTE);
    return card::here().value != 0;
}

DEVICE Vector load(const Vector *from) {
    Vector v = *from;
    card::strike(card::VECTOR, v.word, 4);
    ++card::counted[card::LOADS];
    return v;
}

DEVICE void store(Vector *to, const Vector &v) {
    *to = v;
    ++card::counted[card::STORES];
}

DEVICE void mma_f16(u32 *c, const u32 *a, const u32 *b) { card::mma(card::MMA_F16, c, a, b); }
DEVICE void mma_bf16(u32 *c, const u32 *a, const u32 *b) { card::mma(card::MMA_BF16, c, a, b); }
DEVICE void mma_s8(u32 *c, const u32 *a, const u32 *b) { card::mma(card::MMA_S8, c, a, b); }
