/* How the factors of a site are stored: which type, what rounding to it adds to the error, and the rounding
 * itself.
 *
 * With the delta moment C of the site's input, factors A (m, r) and B (r, n) of its weight W leave the energy
 * E = tr (W - A B) C (W - A B)^T. Stored as A + dA and B + dB they leave more by
 *
 *     tr dM C dM^T - 2 tr (W - A B) C dM^T,     dM = dA (B + dB) + A dB
 *
 * which is computed as it stands where the moment is of the input. The factors being optimal, its first-order
 * part vanishes. Where the moment is of the output, D = W C W^T (one layer of a DiT block in six), C itself
 * is not known: then B C B^T = diag(lambda) gives the part of dA exactly, to second order, and that of dB is
 * taken as tr C / n times its squared sum. That is its mean over independent rounding errors of equal size in
 * a row, as those of i8 are, whatever C is; tr C follows from the energies of the deltas that the profile
 * holds.
 *
 * i8: a row of the stored factor has one scale, the largest magnitude over 127; a bundle's reader multiplies.
 */
#ifndef OUSAC_STORAGE_H
#define OUSAC_STORAGE_H

#include "calib/spectra/factors.h"
#include "formats/dtype.h"
#include "formats/status.h"
#include "profile/model/model.h"
#include "profile/record/profile.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What AUTO allows a site to add to the error that its directions leave. */
#define OUSAC_STORAGE_ADDED_MAX 0.01

typedef struct ousac_storage {
    ousac_dtype a, b;
    int measured;  /* 1: the numbers below are known: the factors are of the profile's moments */
    int estimated; /* 1: the part of B is the estimate above */
    /* Added error over the error that the stored directions leave; INFINITY where those leave none and
     * rounding adds any. Of A alone, of B alone, of both. */
    double added_a, added_b, added;
} ousac_storage;

/* What storing the first `rank` directions of site `s` as the two types adds. `by_moment` 0: the factors are
 * not those of the profile's moments, and nothing is measured. NUMBER where a value is not finite in its
 * type. */
ousac_status ousac_storage_measure(const ousac_model *model, const ousac_profile *profile,
                                   const ousac_factors *factors, size_t s, size_t rank, int by_moment,
                                   ousac_dtype a, ousac_dtype b, ousac_storage *storage, ousac_error *error);

/* The cheapest of i8, bf16 and f32, chosen for A and for B, that adds less than OUSAC_STORAGE_ADDED_MAX; f32
 * where nothing can be measured. */
ousac_status ousac_storage_choose(const ousac_model *model, const ousac_profile *profile,
                                  const ousac_factors *factors, size_t s, size_t rank, int by_moment,
                                  ousac_storage *storage, ousac_error *error);

/* The same as ousac_storage_round's failure, in words: NUMBER, naming the tensor "factor/SITE/WHICH" and the
 * value. */
ousac_status ousac_storage_refuse(ousac_dtype dtype, const float *values, size_t count, const char *site,
                                  const char *which, ousac_error *error);

/* Rounds `rows` rows of `cols` values to `data`, and for i8 their scales to `scale` (rows; else unused).
 * `back`, where not NULL, gets the values that a reader will see. Dtypes f32, bf16, f16, i8. Returns 0, or -1
 * where a value does not stay finite. */
int ousac_storage_round(ousac_dtype dtype, const float *values, size_t rows, size_t cols, void *data,
                        float *scale, float *back);

#ifdef __cplusplus
}
#endif
#endif
