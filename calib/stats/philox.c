#include "calib/stats/philox.h"

#include <math.h>

/* Multipliers and Weyl increments of Philox4x32 (Salmon et al., SC 2011, section 3.3 and table 2). */
#define MULTIPLIER_0 0xD2511F53U
#define MULTIPLIER_1 0xCD9E8D57U
#define WEYL_0 0x9E3779B9U
#define WEYL_1 0xBB67AE85U
enum { ROUNDS = 10 };

void ousac_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t p0 = (uint64_t)MULTIPLIER_0 * c0;
        const uint64_t p1 = (uint64_t)MULTIPLIER_1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void ousac_philox_draw(uint64_t seed, uint32_t stream, uint64_t sample, uint32_t index, uint32_t out[4]) {
    const uint32_t counter[4] = {index, (uint32_t)sample, (uint32_t)(sample >> 32), stream};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    ousac_philox4x32(counter, key, out);
}

void ousac_philox_normals(uint64_t seed, uint32_t stream, uint64_t sample, size_t count, float *out) {
    const double unit = 1.0 / 4294967296.0;
    const double two_pi = 6.28318530717958647692;
    for (size_t i = 0; i < count; i += 4) {
        uint32_t words[4];
        float values[4];
        ousac_philox_draw(seed, stream, sample, (uint32_t)(i / 4), words);
        for (size_t pair = 0; pair < 2; pair++) {
            const double u = ((double)words[2 * pair] + 1.0) * unit;
            const double v = (double)words[2 * pair + 1] * unit;
            const double radius = sqrt(-2.0 * log(u));
            values[2 * pair] = (float)(radius * cos(two_pi * v));
            values[2 * pair + 1] = (float)(radius * sin(two_pi * v));
        }
        for (size_t l = 0; l < 4 && i + l < count; l++)
            out[i + l] = values[l];
    }
}

uint32_t ousac_philox_below(uint64_t seed, uint32_t stream, uint64_t sample, uint32_t index, uint32_t bound) {
    /* 2^32 mod bound; words below it would make the small residues likelier. */
    const uint32_t surplus = (0U - bound) % bound;
    for (;; index++) {
        uint32_t words[4];
        ousac_philox_draw(seed, stream, sample, index, words);
        for (size_t l = 0; l < 4; l++)
            if (words[l] >= surplus)
                return words[l] % bound;
    }
}
