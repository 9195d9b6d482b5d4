/* What synthetic models and profiles are made to resemble: laws fitted on the shipped model and on a profile
 * of it under data/schedules/sparse.json. The law of every spectrum is ousac_decay (calib/spectra/prescribed.h),
 * t^-a (1 - t)^b exp(-c t) of the relative position t: that it does not depend on the width is an assumption.
 *
 * How it was fitted: the spectra of a kind's layers, each scaled to mean square 1 (weights) or mean 1
 * (moments), are averaged over the blocks in the logarithm; a, b, c and the scale follow by linear least
 * squares in the logarithm, value i weighing (i + 1/2)^-1/2, for weights without the smallest 2 % of the
 * values, which in a square layer are those of noise. tests/tools/fit_synth.c prints the tables again and
 * tests/unit/profile/test_synth.c compares.
 */
#ifndef OUSAC_SYNTH_LAW_H
#define OUSAC_SYNTH_LAW_H

#include "calib/spectra/prescribed.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The weights that have a spectrum; the first six in the order of a block's sites. */
typedef enum ousac_synth_kind {
    OUSAC_SYNTH_Q = 0,
    OUSAC_SYNTH_K = 1,
    OUSAC_SYNTH_V = 2,
    OUSAC_SYNTH_PROJ = 3,
    OUSAC_SYNTH_FC1 = 4,
    OUSAC_SYNTH_FC2 = 5,
    OUSAC_SYNTH_MODULATION = 6, /* each of the six (d, d) parts of a block's */
    OUSAC_SYNTH_KIND_COUNT = 7
} ousac_synth_kind;
enum {
    OUSAC_SYNTH_SITES = 6,
    OUSAC_SYNTH_GROUPS = 4,
    OUSAC_SYNTH_MODULES = 2,
    OUSAC_SYNTH_LEVELS = 12,
    OUSAC_SYNTH_MODULATIONS = 8
};

/* `gain` is ||W||_F / sqrt(m), the root mean square of W x for x of independent components of variance 1;
 * geometric mean over blocks. */
typedef struct ousac_synth_weight_law {
    ousac_decay decay;
    double gain;
} ousac_synth_weight_law;

/* How large activations and deltas are: root mean square over the run, and ||delta||^2 / ||value||^2 = share
 * * age^growth of the steps at that age, by least squares in the logarithm over the schedule's evaluations.
 */
typedef struct ousac_synth_level {
    double rms, share, growth;
} ousac_synth_level;

extern const ousac_synth_weight_law ousac_synth_weight_laws[OUSAC_SYNTH_KIND_COUNT];
/* Of the delta moments of a block's groups: input of q, k, v; of proj; of fc1; output of fc2. */
extern const ousac_decay ousac_synth_moment_laws[OUSAC_SYNTH_GROUPS];
/* Inputs of the four groups, outputs of the six sites, outputs of the two modules. */
extern const ousac_synth_level ousac_synth_levels[OUSAC_SYNTH_LEVELS];

/* Root mean square of shift, scale and gate of attention, of those of the MLP, and of shift and scale before
 * the final layer. */
extern const double ousac_synth_modulations[OUSAC_SYNTH_MODULATIONS];

#ifdef __cplusplus
}
#endif
#endif
