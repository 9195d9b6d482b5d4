/* The warp's matrix unit: what its lanes give is collected, and each takes what the PTX ISA says of it. */
#include <calib/cuda/matrix_unit.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

enum { LANES = 32, THREADS_MAX = 1024, COPY_BYTES = 16 };

/* Started by a thread of a block, and not yet waited for. */
struct Copy {
    unsigned block;
    void *shared;
    const void *global;
};
thread_local std::vector<Copy> copies[THREADS_MAX];

uint16_t rounded(float value) {
    uint32_t bits = __float_as_uint(value);
    if (std::isnan(value))
        return 0x7fff;
    bits += 0x7fffU + (bits >> 16 & 1U);
    return static_cast<uint16_t>(bits >> 16);
}

float widened(uint32_t half) {
    const uint32_t bits = half << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/* Of the pair that a register holds. */
float value_of(uint32_t packed, unsigned which) {
    return widened(which ? packed >> 16 : packed & 0xffffU);
}

/* Row j of matrix i, where all lanes say it is. */
const ousac_emulation::Exchange *collect_rows(const void *row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        std::fprintf(stderr, "emulation: a matrix row that is not aligned\n");
        std::abort();
    }
    return ousac_emulation::share(&row, sizeof row);
}

const uint16_t *row_of(const ousac_emulation::Exchange *rows, unsigned lane) {
    const uint16_t *row;
    std::memcpy(&row, rows[lane], sizeof row);
    return row;
}

/* Word `i` of what a lane gave. */
uint32_t word_of(const ousac_emulation::Exchange &given, unsigned i) {
    uint32_t word;
    std::memcpy(&word, given + i * sizeof word, sizeof word);
    return word;
}

} // namespace

uint32_t ousac_cuda::pack_bf16(float low, float high) {
    return static_cast<uint32_t>(rounded(low)) | static_cast<uint32_t>(rounded(high)) << 16;
}

/* Reads there, so that a sanitizer sees an address that is nobody's. */
void ousac_cuda::prefetch(const void *address) {
    (void)*static_cast<const volatile char *>(address);
}

float ousac_cuda::exp2_fast(float x) {
    const float y = std::exp2(x);
    return y < FLT_MIN ? 0.0F : y;
}

/* Other lanes' rows are read between two exchanges, so that none is changed meanwhile. */
void ousac_cuda::load_matrices(uint32_t out[4], const void *row) {
    const auto rows = collect_rows(row);
    const unsigned lane = threadIdx.x % LANES, g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; i++)
        std::memcpy(&out[i], row_of(rows, 8 * i + g) + static_cast<size_t>(2) * t, sizeof out[i]);
    (void)collect_rows(row);
}

void ousac_cuda::load_matrices_transposed(uint32_t out[4], const void *row) {
    const auto rows = collect_rows(row);
    const unsigned lane = threadIdx.x % LANES, g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; i++)
        out[i] = static_cast<uint32_t>(row_of(rows, 8 * i + 2 * t)[g]) |
                 static_cast<uint32_t>(row_of(rows, 8 * i + 2 * t + 1)[g]) << 16;
    (void)collect_rows(row);
}

void ousac_cuda::multiply_add(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    enum { B = 4 }; /* the first word of b */
    const uint32_t mine[] = {a[0], a[1], a[2], a[3], b0, b1};
    const auto all = ousac_emulation::share(mine, sizeof mine);
    const unsigned lane = threadIdx.x % LANES, g = lane / 4, t = lane % 4;
    /* Rows g and g + 8 of the one, columns 2 t and 2 t + 1 of the other. */
    float left[2][16], right[2][16];
    for (unsigned k = 0; k < 16; k++)
        for (unsigned i = 0; i < 2; i++) {
            left[i][k] = value_of(word_of(all[g * 4 + k % 8 / 2], k / 8 * 2 + i), k % 2);
            right[i][k] = value_of(word_of(all[(2 * t + i) * 4 + k % 8 / 2], B + k / 8), k % 2);
        }
    for (unsigned k = 0; k < 16; k++)
        for (unsigned e = 0; e < 4; e++)
            c[e] += left[e / 2][k] * right[e % 2][k];
}

void ousac_cuda::multiply_add_half(float c[4], const uint32_t a[2], uint32_t b) {
    const uint32_t whole[4] = {a[0], a[1], 0, 0};
    multiply_add(c, whole, b, 0);
}

/* A copy may land as soon as it is started or as late as it is waited for: every second block sees the one, the others
 * the other. */
void ousac_cuda::start_copy(void *shared, const void *global) {
    std::vector<Copy> &mine = copies[threadIdx.x];
    if (reinterpret_cast<uintptr_t>(shared) % COPY_BYTES != 0 ||
        reinterpret_cast<uintptr_t>(global) % COPY_BYTES != 0) {
        std::fprintf(stderr, "emulation: a copy that is not aligned\n");
        std::abort();
    }
    if (!mine.empty() && mine[0].block != blockIdx.x) {
        std::fprintf(stderr, "emulation: copies that a block never waited for\n");
        std::abort();
    }
    if (blockIdx.x % 2 == 0)
        std::memcpy(shared, global, COPY_BYTES);
    else
        mine.push_back({blockIdx.x, shared, global});
}

void ousac_cuda::finish_copies() {
    for (const Copy &copy : copies[threadIdx.x])
        std::memcpy(copy.shared, copy.global, COPY_BYTES);
    copies[threadIdx.x].clear();
}

bool ousac_cuda::any_lane(bool so) {
    const auto all = ousac_emulation::share(&so, sizeof so);
    return std::any_of(all, all + LANES, [](const auto &given) { return given[0] != 0; });
}
