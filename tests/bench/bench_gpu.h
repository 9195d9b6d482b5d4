/* Shared by the parts of bench_gpu: one device, and helpers that end the program where something fails. */
#ifndef OUSAC_TESTS_BENCH_GPU_H
#define OUSAC_TESTS_BENCH_GPU_H

#include "calib/backend/backend.h"
#include "formats/status.h"

#include <stddef.h>

typedef struct bench_device {
    const ousac_backend *device, *cpu;
    size_t repeats; /* of which the median is taken */
    size_t inner;   /* calls within one of them */
} bench_device;

void bench_must(ousac_status status, const ousac_error *error);
void bench_check(int holds, const char *what);
void *bench_room(size_t count, size_t size); /* ousac_free */
double bench_now(void);
double bench_median(double *values, size_t count);
/* ||a - b|| / ||b|| */
double bench_difference(size_t count, const float *a, const float *b);
/* Values in [-1, 1), the same each time. */
void bench_fill(size_t count, float *x);
/* A copy in the backend's memory. */
float *bench_place(const ousac_backend *backend, const float *host, size_t count);
/* Waits for what is queued: a download does. */
void bench_drain(const ousac_backend *backend, const float *block);

/* Attention over that many tokens: one line of JSON, checked before it is timed. */
void bench_attention(const bench_device *bench, size_t batch, size_t tokens, size_t heads, size_t width);

/* Factors of the sites of a DiT of that shape, from weights and delta moments with the decay of real ones
 * (profile/synth/synth_law.h), made once for each of a block's sites and used for every block. Answers on standard
 * output, one line of JSON each. */

/* Time of all sites, by the program's own way: leading directions where they suffice, else all, and as many threads
 * as it has on a device. */
void bench_factors(const bench_device *bench, size_t width, size_t hidden, size_t blocks, size_t rank);
/* G (m, k), float64 and row-major, with G G^T = W C W^T of one kind of site into `path`, and what of it the
 * factors of `rank` directions leave, ||G - A A^T G||^2: leading ones and of the full solver; `brief` 1: those of
 * the program's own way alone. */
void bench_energy(const bench_device *bench, size_t width, size_t hidden, size_t rank, const char *kind,
                  const char *path, int brief);

#endif
