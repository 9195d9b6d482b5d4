/* Helpers of the calibration tests: a generator of their own and naive double-precision references. They
 * share no code with what they check.
 */
#ifndef OUSAC_TEST_CALIB_SUPPORT_H
#define OUSAC_TEST_CALIB_SUPPORT_H

#include "calib/arch.h"

#include <stddef.h>
#include <stdint.h>

/* SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). */
uint64_t calib_random(uint64_t *state);
double calib_uniform(uint64_t *state); /* [0, 1) */
double calib_normal(uint64_t *state);  /* sum of twelve uniforms less six: near enough for test data */
size_t calib_below(uint64_t *state, size_t bound);
void calib_fill(uint64_t *state, size_t count, float *x);

/* Cyclic Jacobi rotations on a symmetric a (n, n), all of it read and destroyed: values falling, row i of
 * vectors the unit eigenvector of values[i]. Sign as it comes. */
void calib_jacobi(size_t n, double *a, double *values, double *vectors);

/* An architecture of `modules` modules of `stages` stages of one to three sites each, with random shapes
 * below `most`, random fixed costs and one block. Every group holds one site. */
void calib_random_arch(ousac_arch *arch, uint64_t *state, size_t modules, size_t stages, size_t most);

#endif
