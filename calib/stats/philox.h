/* Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
 * 2011), and what ousac draws from it. Stateless: a value is a function of (seed, stream, sample, draw index)
 * alone.
 *
 * Counter words, from the lowest: draw index (32 bits), sample index low and high, stream id. Key: the seed's
 * low and high words.
 */
#ifndef OUSAC_PHILOX_H
#define OUSAC_PHILOX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Stream ids; pinned, since they are part of what a seed means. */
enum {
    OUSAC_STREAM_NOISE = 0,
    OUSAC_STREAM_LABEL = 1,
    OUSAC_STREAM_TOKENS = 2,
    OUSAC_STREAM_BOOTSTRAP = 3,
    OUSAC_STREAM_PROJECTION = 4,
    OUSAC_STREAM_MATRIX = 5,   /* synthetic weights and moments */
    OUSAC_STREAM_EVOLUTION = 6 /* of guidance */
};

void ousac_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Four words of draw `index` of the stream. */
void ousac_philox_draw(uint64_t seed, uint32_t stream, uint64_t sample, uint32_t index, uint32_t out[4]);

/* `count` standard normals, Box-Muller on pairs: of the words (a, b) of a draw, u = (a + 1) / 2^32 and v = b
 * / 2^32, sqrt(-2 ln u) cos(2 pi v) and sqrt(-2 ln u) sin(2 pi v), in double, rounded to float; two pairs a
 * draw. count <= 2^34. */
void ousac_philox_normals(uint64_t seed, uint32_t stream, uint64_t sample, size_t count, float *out);

/* Uniform in 0..bound-1 (bound >= 1), by rejection, from the words of draws index, index + 1, ... of the
 * stream: the first word >= 2^32 mod bound, modulo bound. */
uint32_t ousac_philox_below(uint64_t seed, uint32_t stream, uint64_t sample, uint32_t index, uint32_t bound);

#ifdef __cplusplus
}
#endif
#endif
