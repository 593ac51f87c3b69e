// The kernels, and launches of them that Python can call.
#include "burn.cu"

static u64 given[9];

extern "C" {

int burn(u32 grid, const u64 *arguments) {
    memcpy(given, arguments, sizeof given);
    return card::launch(grid, [] {
        gpugate_burn(given[0], given[1], given[2], given[3], given[4], given[5], u32(given[6]), u32(given[7]),
                     given[8]);
    });
}

int memory(u32 grid, const u64 *arguments) {
    memcpy(given, arguments, sizeof given);
    return card::launch(grid, [] {
        gpugate_memory(given[0], given[1], given[2], u32(given[3]), u32(given[4]), u32(given[5]), u32(given[6]),
                       u32(given[7]), u32(given[8]));
    });
}

u32 pattern(u32 kind, u32 seed, u64 place) { return Pattern::at(Pattern::of(kind, seed), place); }

void set_fault(const card::Fault *fault) { card::fault = *fault; }
void set_summation(u32 order) { card::summation = order; }

void take_counts(u64 *counts) {
    memcpy(counts, card::counted, sizeof card::counted);
    memset(card::counted, 0, sizeof card::counted);
}
}
