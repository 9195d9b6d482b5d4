/* The laws of profile/synth/synth_law.h, fitted anew: spectra by LAPACK's eigenvalues, least squares by normal
 * equations, on a model and a profile of it. Every function fails the running cmocka test where anything goes
 * wrong.
 */
#ifndef OUSAC_TESTS_SYNTH_FIT_H
#define OUSAC_TESTS_SYNTH_FIT_H

#include "formats/schedule.h"
#include "profile/model/model.h"
#include "profile/record/profile.h"
#include "profile/synth/synth_law.h"

#include <stddef.h>

/* Singular values of w (m, n), falling: values (min(m, n)). */
void synth_singular_values(size_t m, size_t n, const float *w, double *values);
/* Eigenvalues of a packed moment, falling: values (n). */
void synth_eigenvalues(size_t n, const double *packed, double *values);

/* Fits values (n) whose first `used` count; *worst is the largest deviation of their logarithms from the law.
 */
void synth_fit_decay(size_t n, size_t used, const double *logarithms, ousac_decay *decay, double *worst);

/* Of a DiT: weight laws by kind, and the worst deviation of each kind's mean spectrum. */
void synth_fit_weights(const ousac_model *model, ousac_synth_weight_law laws[OUSAC_SYNTH_KIND_COUNT],
                       double worst[OUSAC_SYNTH_KIND_COUNT]);

/* A profile of the model by the schedule: 16 samples of seed 0 in micro-batches of 4, all tokens, weighted by
 * a pilot of the first 8. */
ousac_profile *synth_record(const ousac_model *model, const ousac_schedule *schedule);

/* Root mean square of the eight parts of the modulation, over blocks (geometric mean), eight timesteps and
 * the first 16 labels. */
void synth_fit_modulation(const ousac_model *model, double rms[OUSAC_SYNTH_MODULATIONS]);

void synth_fit_moments(const ousac_profile *profile, ousac_decay laws[OUSAC_SYNTH_GROUPS],
                       double worst[OUSAC_SYNTH_GROUPS]);
void synth_fit_levels(const ousac_profile *profile, ousac_synth_level levels[OUSAC_SYNTH_LEVELS]);

#endif
