/* What a cached evaluation costs the final sample, measured: how large its error is by the age of its cache,
 * and how much an error at its step still matters at the end.
 *
 * Along the exact trajectory of a few samples, at every step and branch, the corrected evaluation is run from
 * each of the branch's last full evaluations within the horizon:
 *
 *     energy(j, a) = mean over samples || eps_cached - eps ||^2,   evaluation j, cached a evaluations ago
 *
 * the channels that guidance acts on apart from the others;
 * at one of every `stride` steps, the middle one where it can be cached, the trajectory is run to its end
 * with the prediction moved by such an error, of the conditional branch where that has one. That gives the
 * influence of the step, relative squared error of the final sample per unit of squared error of the
 * prediction; steps between are interpolated in the logarithm.
 */
#ifndef OUSAC_PROBE_H
#define OUSAC_PROBE_H

#include "formats/schedule.h"
#include "formats/stop.h"
#include "profile/model/model.h"
#include "profile/run/calibration.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_probe_options {
    const ousac_model *model;
    const ousac_schedule *schedule;       /* its gates are not looked at */
    const ousac_calibration *calibration; /* the corrections; without a forecast */
    uint64_t seed, first; /* samples [first, first + count), first a multiple of micro_batch */
    size_t count, micro_batch, threads;
    size_t horizon; /* ages 1..horizon - 1 are measured; at least 2 */
    size_t stride;  /* of the steps whose influence is measured; at least 1 */
    void (*progress)(void *self, uint64_t done, uint64_t total); /* steps of samples; may be NULL */
    void *progress_self;
    const ousac_stop *stop; /* may be NULL */
} ousac_probe_options;

typedef struct ousac_probe {
    size_t step_count, horizon;
    size_t evaluations[OUSAC_BRANCHES];
    size_t *step[OUSAC_BRANCHES]; /* (evaluations): the step of each */
    /* (evaluations, horizon); 0 at age 0 and at ages beyond the first evaluation. `energy` is of the channels
     * that guidance acts on, `unguided` of the others. */
    double *energy[OUSAC_BRANCHES], *unguided[OUSAC_BRANCHES];
    double *influence; /* (step_count): all 0 where no error moved the end, as of a model that predicts 0 */
} ousac_probe;

/* Errors: those of a run. */
ousac_status ousac_probe_create(ousac_probe **probe, const ousac_probe_options *options, ousac_error *error);
void ousac_probe_free(ousac_probe *probe);

/* Amplitudes of a branch for calib/choose/placement.h, (evaluations, horizon): the root of influence x energy x the
 * square of the weight that guidance gives the branch at that step; of unguided channels it gives the
 * conditional branch 1, the other 0. */
void ousac_probe_amplitude(const ousac_probe *probe, const ousac_schedule *schedule, int branch,
                           double *amplitude);

#ifdef __cplusplus
}
#endif
#endif
