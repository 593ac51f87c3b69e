/* The tables of `gpugate_burn`: operands and golden words of the compute works, decoded and computed here.
 *
 * The head has 32 words; word r is where the region of role r begins, in words. A region is SETS sets; a set is rows of
 * 32 words, one for each lane: for tensor work the registers of four fragments of A, of four of B, and of the 16 golden
 * C; for fma eight starts, eight golden ends and the addend. Where an element lies in a fragment: PTX ISA, "Matrix
 * fragments for mma.m16n8k8, .m16n8k16, .m16n8k32 and .m8n8k16". */
#include "cuda_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_WORDS = 32, CHAINS = 8, STEPS = 128, MOST_ROWS = 16, COLUMNS = 8, MOST_DEPTH = 32 };

/* Of one mma: rows of A and C, columns of A, and how many elements share a register. */
struct shape {
    uint32_t rows, depth, packed;
};

static struct shape shape_of(const struct sim_device *d, enum role role)
{
    if (d->cc_major == 7)
        return role == S8 ? (struct shape){8, 16, 4} : (struct shape){16, 8, 2};
    return role == S8 ? (struct shape){16, 32, 4} : (struct shape){16, 16, 2};
}

int tables_have(const struct sim_device *d, enum role role)
{
    return role == FMA || role == F16 || role == S8 || (role == BF16 && d->cc_major >= 8);
}

uint32_t tables_registers(const struct sim_device *d, enum role role)
{
    return role == F16 || role == BF16 || role == S8 ? shape_of(d, role).rows * COLUMNS / LANES : 1;
}

struct rows {
    uint32_t a, b, c, all; /* registers of a fragment, and rows of a set */
};

static struct rows rows_of(const struct sim_device *d, enum role role)
{
    if (role == FMA)
        return (struct rows){1, 1, 1, 2 * CHAINS + 1};
    struct shape s = shape_of(d, role);
    struct rows r = {s.rows * s.depth / s.packed / LANES, s.depth * COLUMNS / s.packed / LANES, s.rows * COLUMNS / LANES, 0};
    r.all = TILES * r.a + TILES * r.b + TILES * TILES * r.c;
    return r;
}

static float half_to_float(uint16_t bits)
{
    int exponent = bits >> 10 & 31;
    float fraction = (float)(bits & 1023), sign = bits >> 15 ? -1.0F : 1.0F;
    if (exponent == 31)
        return bits & 1023 ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24));
}

static float bits_to_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Element `part` of a register, counted from its low bits. */
static double element(enum role role, uint32_t word, uint32_t part)
{
    if (role == S8)
        return (int8_t)(word >> 8 * part);
    uint16_t bits = (uint16_t)(word >> 16 * part);
    return role == F16 ? half_to_float(bits) : bits_to_float((uint32_t)bits << 16);
}

/* A fragment of A (rows x depth) and one of B (depth x 8), out of rows of 32 lanes. Elements ai and bi of a lane are
 * numbered through its registers, as the ISA numbers them. */
static void decode_a(struct shape s, enum role role, const uint32_t *rows, double a[MOST_ROWS][MOST_DEPTH])
{
    uint32_t elements = s.rows * s.depth / LANES, halves = s.rows / 8;
    for (uint32_t lane = 0; lane < LANES; lane++)
        for (uint32_t i = 0; i < elements; i++) {
            uint32_t row = lane / 4 + (i / s.packed % halves ? 8 : 0);
            uint32_t column = lane % 4 * s.packed + i % s.packed + i / (s.packed * halves) * 4 * s.packed;
            a[row][column] = element(role, rows[i / s.packed * LANES + lane], i % s.packed);
        }
}

static void decode_b(struct shape s, enum role role, const uint32_t *rows, double b[MOST_DEPTH][COLUMNS])
{
    uint32_t elements = s.depth * COLUMNS / LANES;
    for (uint32_t lane = 0; lane < LANES; lane++)
        for (uint32_t i = 0; i < elements; i++) {
            uint32_t row = lane % 4 * s.packed + i % s.packed + i / s.packed * 4 * s.packed;
            b[row][lane / 4] = element(role, rows[i / s.packed * LANES + lane], i % s.packed);
        }
}

/* What a lane's register of C must hold: all sums are integers that a double has. */
static uint32_t answer(struct shape s, enum role role, double a[MOST_ROWS][MOST_DEPTH], double b[MOST_DEPTH][COLUMNS],
                       uint32_t lane, uint32_t register_)
{
    uint32_t row = lane / 4 + (register_ >= 2 ? 8 : 0), column = lane % 4 * 2 + register_ % 2;
    double sum = 0;
    for (uint32_t k = 0; k < s.depth; k++)
        sum += a[row][k] * b[k][column];
    return role == S8 ? (uint32_t)(int64_t)sum * PASSES : float_to_bits((float)sum);
}

static void note(struct table_check *check, enum role role, uint32_t set, uint32_t lane, uint32_t word,
                 uint32_t expected, uint32_t found)
{
    if (expected == found)
        return;
    check->count[role][set]++;
    if (check->known < MOST_WRONG_GOLDEN)
        check->wrong[check->known++] = (struct wrong_golden){role, set, lane, word, expected, found};
}

static void check_tensor(const struct sim_device *d, enum role role, uint32_t set, const uint32_t *rows,
                         struct table_check *check)
{
    static double a[MOST_ROWS][MOST_DEPTH], b[TILES][MOST_DEPTH][COLUMNS]; /* the node's lock guards them */
    struct shape s = shape_of(d, role);
    struct rows r = rows_of(d, role);
    const uint32_t *golden = rows + LANES * TILES * (r.a + r.b);
    for (uint32_t j = 0; j < TILES; j++)
        decode_b(s, role, rows + LANES * (TILES * r.a + j * r.b), b[j]);
    for (uint32_t i = 0; i < TILES; i++) {
        decode_a(s, role, rows + LANES * i * r.a, a);
        for (uint32_t j = 0; j < TILES; j++)
            for (uint32_t c = 0; c < r.c; c++)
                for (uint32_t lane = 0; lane < LANES; lane++) {
                    uint32_t word = (i * TILES + j) * r.c + c;
                    note(check, role, set, lane, word, golden[word * LANES + lane], answer(s, role, a, b[j], lane, c));
                }
    }
}

static void check_fma(uint32_t set, const uint32_t *rows, struct table_check *check)
{
    for (uint32_t lane = 0; lane < LANES; lane++) {
        float addend = bits_to_float(rows[2 * CHAINS * LANES + lane]);
        for (uint32_t chain = 0; chain < CHAINS; chain++) {
            float y = bits_to_float(rows[chain * LANES + lane]);
            for (int step = 0; step < STEPS; step++)
                y = fmaf(y, y, addend);
            note(check, FMA, set, lane, chain, rows[(CHAINS + chain) * LANES + lane], float_to_bits(y));
        }
    }
}

static const uint32_t *set_of(const struct allocation *a, uint64_t offset, const struct sim_device *d, enum role role,
                              uint32_t set)
{
    const uint32_t *words = (const uint32_t *)(const void *)(a->start + offset);
    return words + words[role] + (uint64_t)set * rows_of(d, role).all * LANES;
}

uint32_t tables_golden(const struct allocation *a, uint64_t offset, const struct sim_device *d, enum role role,
                       uint32_t set, uint32_t lane, uint32_t word)
{
    struct rows r = rows_of(d, role);
    uint32_t first = role == FMA ? CHAINS : TILES * (r.a + r.b);
    return set_of(a, offset, d, role, set)[(first + word) * LANES + lane];
}

const struct table_check *tables_check(struct allocation *a, uint64_t offset, const struct sim_device *d)
{
    if (a->check && a->check->written == a->written && a->check->offset == offset)
        return a->check;
    uint64_t bytes = a->size - offset;
    if (bytes < HEAD_WORDS * 4)
        return NULL;
    contents_settle(a, offset, a->size);
    struct table_check *check = calloc(1, sizeof *check);
    if (!check)
        return NULL;
    free(a->check);
    a->check = check;
    check->written = a->written;
    check->offset = offset;
    const uint32_t *words = (const uint32_t *)(const void *)(a->start + offset);
    for (enum role role = FMA; role <= S8; role++) {
        uint64_t end = ((uint64_t)words[role] + (uint64_t)SETS * rows_of(d, role).all * LANES) * 4;
        check->has[role] = tables_have(d, role) && words[role] >= HEAD_WORDS && end <= bytes;
        for (uint32_t set = 0; check->has[role] && set < SETS; set++) {
            const uint32_t *rows = set_of(a, offset, d, role, set);
            if (role == FMA)
                check_fma(set, rows, check);
            else
                check_tensor(d, role, set, rows, check);
        }
    }
    return check;
}
