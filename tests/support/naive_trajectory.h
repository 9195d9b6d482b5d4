/* A whole denoising trajectory in double precision: the naive forward and the solvers from their textbook
 * forms, one sample at a time, with hooks that see and may replace what every site and module computes.
 */
#ifndef OUSAC_TESTS_NAIVE_TRAJECTORY_H
#define OUSAC_TESTS_NAIVE_TRAJECTORY_H

#include "formats/schedule.h"
#include "profile/model/noise.h"
#include "tests/support/naive_dit.h"

#include <stddef.h>
#include <stdint.h>

typedef struct naive_hooks {
    void *self;
    void (*begin)(void *self, size_t step, int branch);
    /* sites and modules numbered in order of execution from 0 */
    void (*site)(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x, double *y);
    void (*module)(void *self, size_t module, size_t rows, size_t d, double *out);
    /* what the network's output is of, and on how many channels guidance acts; 0: all */
    ousac_prediction prediction;
    size_t guided;
} naive_hooks;

/* Noise and label as ousac draws them for (seed, sample), `classes` labels; betas linear from 1e-4 to 0.02
 * over 1000 steps, alpha_bar between whole timesteps geometric. The final state into x (channels, H, W). Gates are the hooks' business: the forward itself
 * is exact. */
ousac_status naive_trajectory(const naive_dit *net, const ousac_schedule *schedule, uint64_t seed,
                              uint64_t sample, size_t classes, const naive_hooks *hooks, float *x,
                              ousac_error *error);

/* sqrt(sum (a - b)^2 / sum b^2) */
double naive_relative_error(const float *a, const float *b, size_t count);

#endif
