/* Random orthogonal matrices that are applied in O(n log n) and never stored: Q = S2 H P S1 H, where H is a
 * fixed symmetric orthogonal transform without zeros, S1 and S2 are random signs and P is a random
 * permutation (without it, H S1 H would hold n different magnitudes alone). (Products of Hadamard matrices
 * and random signs in place of Haar matrices: Ailon and Chazelle, SIAM J. Comput. 39, 2009; Yu et al.,
 * "Orthogonal Random Features", NIPS 2016.)
 *
 * For n = 2^k q, q odd, H is the Kronecker product of the Hartley matrix of order q, (cos + sin)(2 pi i j /
 * q) / sqrt(q), and the Walsh-Hadamard matrix of order 2^k over sqrt(2^k). Orthogonal up to rounding for
 * every n; the cost per vector is n (q + k) additions, small for the widths of transformers.
 */
#ifndef OUSAC_MIXING_H
#define OUSAC_MIXING_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Vectors are handled side by side: component i of vector l is at x[i * OUSAC_MIXING_LANES + l]. */
enum { OUSAC_MIXING_LANES = 8 };

/* Immutable after its creation; safe to share between threads. */
typedef struct ousac_mixing {
    size_t n, power, odd; /* n = power * odd */
    double *hartley;      /* (odd, odd) */
    double *sign[2];      /* (n) each: the inner S1 and the outer S2 */
    uint32_t *order;      /* (n): P takes component i to order[i] */
} ousac_mixing;

/* Drawn from the OUSAC_STREAM_MATRIX of (seed, sample): a function of n, seed and sample. n from 1 to 2^31 -
 * 1. Free with ousac_mixing_free. */
ousac_status ousac_mixing_create(ousac_mixing *mixing, size_t n, uint64_t seed, uint64_t sample,
                                 ousac_error *error);
void ousac_mixing_free(ousac_mixing *mixing);

/* x := Q x, in place; x (n, LANES). `work` holds n * LANES doubles. */
void ousac_mixing_apply(const ousac_mixing *mixing, double *x, double *work);
/* x := Q^T e for the unit vectors e of components [first, first + LANES), those beyond n zero: rows of Q. */
void ousac_mixing_rows(const ousac_mixing *mixing, size_t first, double *x, double *work);

#ifdef __cplusplus
}
#endif
#endif
