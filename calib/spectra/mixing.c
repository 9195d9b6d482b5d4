#include "calib/spectra/mixing.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

enum { LANES = OUSAC_MIXING_LANES };

/* What the draws of one (seed, sample) are for; the upper part of the draw index. */
enum { DRAW_SIGNS = 0, DRAW_ORDER = 1 << 30 };

/* A random permutation (Durstenfeld's shuffle, CACM 7, 1964); its words are drawn four at a time. The bias of
 * scaling 32 bits to i + 1 values is below (i + 1) / 2^32. */
static void shuffle(uint32_t *order, size_t n, uint64_t seed, uint64_t sample) {
    uint32_t words[4] = {0};
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = n - 1, draw = 0; i > 0; i--, draw++) {
        if (draw % 4 == 0)
            ousac_philox_draw(seed, OUSAC_STREAM_MATRIX, sample, DRAW_ORDER + (uint32_t)(draw / 4), words);
        const size_t j = (size_t)((uint64_t)words[draw % 4] * (i + 1) >> 32);
        const uint32_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

/* 2 n random signs: bit b of the words is that of entry b. */
static void draw_signs(const ousac_mixing *mixing, uint64_t seed, uint64_t sample) {
    uint32_t words[4] = {0};
    for (size_t i = 0; i < 2 * mixing->n; i++) {
        if (i % 128 == 0)
            ousac_philox_draw(seed, OUSAC_STREAM_MATRIX, sample, DRAW_SIGNS + (uint32_t)(i / 128), words);
        const double value = words[i % 128 / 32] >> i % 32 & 1 ? -1 : 1;
        mixing->sign[i / mixing->n][i % mixing->n] = value;
    }
}

ousac_status ousac_mixing_create(ousac_mixing *mixing, size_t n, uint64_t seed, uint64_t sample,
                                 ousac_error *error) {
    const double two_pi = 6.28318530717958647692;
    memset(mixing, 0, sizeof *mixing);
    if (n < 1 || n > INT32_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "orthogonal matrix of order %zu: expected 1 to 2^31 - 1",
                          n);
    mixing->n = mixing->odd = n;
    mixing->power = 1;
    while (mixing->odd % 2 == 0) {
        mixing->odd /= 2;
        mixing->power *= 2;
    }
    const size_t q = mixing->odd;
    mixing->hartley = q <= SIZE_MAX / q ? ousac_malloc(q * q, sizeof(double)) : NULL;
    mixing->sign[0] = ousac_malloc(n, sizeof(double));
    mixing->sign[1] = ousac_malloc(n, sizeof(double));
    mixing->order = ousac_malloc(n, sizeof(uint32_t));
    if (!mixing->hartley || !mixing->sign[0] || !mixing->sign[1] || !mixing->order) {
        ousac_mixing_free(mixing);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an orthogonal matrix of order %zu", n);
    }
    for (size_t i = 0; i < q; i++)
        for (size_t j = 0; j < q; j++) {
            const double angle = two_pi * (double)(i * j % q) / (double)q;
            mixing->hartley[i * q + j] = (cos(angle) + sin(angle)) / sqrt((double)q);
        }
    shuffle(mixing->order, n, seed, sample);
    draw_signs(mixing, seed, sample);
    return OUSAC_STATUS_OK;
}

void ousac_mixing_free(ousac_mixing *mixing) {
    ousac_free(mixing->hartley);
    ousac_free(mixing->sign[0]);
    ousac_free(mixing->sign[1]);
    ousac_free(mixing->order);
    memset(mixing, 0, sizeof *mixing);
}

/* --- H --- */

/* Two butterflies at once, of strides h and 2h: a quarter of the passes over memory of one at a time. */
static void butterfly4(double *restrict a, double *restrict b, double *restrict c, double *restrict d) {
    for (size_t l = 0; l < LANES; l++) {
        const double p = a[l] + b[l], q = a[l] - b[l], r = c[l] + d[l], s = c[l] - d[l];
        a[l] = p + r;
        b[l] = q + s;
        c[l] = p - r;
        d[l] = q - s;
    }
}

static void butterfly2(double *restrict a, double *restrict b) {
    for (size_t l = 0; l < LANES; l++) {
        const double p = a[l] + b[l], q = a[l] - b[l];
        a[l] = p;
        b[l] = q;
    }
}

/* The Walsh-Hadamard transform of order n = 2^k, without its factor. */
static void walsh(double *x, size_t n) {
    size_t h = 1;
    for (; 4 * h <= n; h *= 4)
        for (size_t block = 0; block < n; block += 4 * h)
            for (size_t i = block; i < block + h; i++)
                butterfly4(x + i * LANES, x + (i + h) * LANES, x + (i + 2 * h) * LANES,
                           x + (i + 3 * h) * LANES);
    if (2 * h <= n)
        for (size_t i = 0; i < h; i++)
            butterfly2(x + i * LANES, x + (i + h) * LANES);
}

static void scale_add(double *restrict y, double factor, const double *restrict x) {
    for (size_t l = 0; l < LANES; l++)
        y[l] += factor * x[l];
}

/* x := H x. Component i is (i / power, i % power). */
static void transform(const ousac_mixing *mixing, double *x, double *work) {
    const size_t q = mixing->odd, power = mixing->power, row = power * LANES;
    for (size_t i = 0; i < q; i++)
        walsh(x + i * row, power);
    if (q == 1)
        return;
    memcpy(work, x, q * row * sizeof *x);
    memset(x, 0, q * row * sizeof *x);
    for (size_t j = 0; j < power; j++)
        for (size_t i = 0; i < q; i++)
            for (size_t k = 0; k < q; k++)
                scale_add(x + (i * power + j) * LANES, mixing->hartley[i * q + k],
                          work + (k * power + j) * LANES);
}

static int odd_bits(size_t bits) {
    for (size_t shift = 32; shift > 0; shift /= 2)
        bits ^= bits >> shift;
    return (int)(bits & 1);
}

/* Element (i, j) of H without the factor of the Walsh part. */
static double element(const ousac_mixing *mixing, size_t i, size_t j) {
    const size_t power = mixing->power;
    const double h = mixing->hartley[i / power * mixing->odd + j / power];
    return odd_bits(i % power & j % power) ? -h : h;
}

/* --- Q --- */

static void multiply_signs(const ousac_mixing *mixing, int which, double factor, double *restrict x) {
    const double *restrict sign = mixing->sign[which];
    for (size_t i = 0; i < mixing->n; i++)
        for (size_t l = 0; l < LANES; l++)
            x[i * LANES + l] *= factor * sign[i];
}

void ousac_mixing_apply(const ousac_mixing *mixing, double *x, double *work) {
    transform(mixing, x, work);
    multiply_signs(mixing, 0, 1 / (double)mixing->power, x); /* the factors of both transforms */
    for (size_t i = 0; i < mixing->n; i++)
        memcpy(work + mixing->order[i] * LANES, x + i * LANES, LANES * sizeof *x);
    transform(mixing, work, x);
    memcpy(x, work, mixing->n * LANES * sizeof *x);
    multiply_signs(mixing, 1, 1, x);
}

void ousac_mixing_rows(const ousac_mixing *mixing, size_t first, double *x, double *work) {
    const double factor = 1 / (double)mixing->power;
    for (size_t i = 0; i < mixing->n; i++)
        for (size_t l = 0; l < LANES; l++) {
            const size_t c = first + l;
            x[i * LANES + l] = c < mixing->n ? factor * mixing->sign[0][i] * mixing->sign[1][c] *
                                                   element(mixing, mixing->order[i], c)
                                             : 0;
        }
    transform(mixing, x, work);
}
