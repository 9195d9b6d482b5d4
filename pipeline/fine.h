/* The reference's pipeline with many more steps: nearer to what the model's flow leads to than the reference itself. A
 * method must not be praised for imitating the reference's own discretisation error, nor blamed for being nearer to the
 * truth than the reference is.
 */
#ifndef OUSAC_FINE_H
#define OUSAC_FINE_H

#include "pipeline/headline.h"
#include "pipeline/session.h"

#include <stddef.h>
#include <stdint.h>

#define OUSAC_FINE_TIMES 4 /* as many of the reference's steps, where nothing else is asked for */

/* Steps of a schedule that has all of the reference's timesteps and `times` - 1 between each two of them, and behind the
 * last where there is room. */
size_t ousac_fine_steps(const ousac_schedule *reference, size_t times);

/* `steps` of them, at even distances along the reference's timesteps: its solver, and the conditioning and scale of the
 * step that each lies behind; no gate cached, nothing fitted. USAGE where they are not more than the reference's, or too many.
 * Free with ousac_schedule_free. */
ousac_status ousac_fine_schedule(ousac_schedule *fine, const ousac_schedule *reference, size_t steps,
                                 ousac_error *error);

typedef struct ousac_fine {
    size_t steps;               /* 0: there is no fine run */
    double macs_share, seconds; /* of the reference's; wall time */
    ousac_headline
        headline;   /* the distance of each from the fine run; "reference" is the first row, which the others'
                                   ratios are to */
    float *samples; /* (count, size), owned */
} ousac_fine;

/* Runs it on the samples of `range`. Free with ousac_fine_free, also after a failure. */
ousac_status ousac_fine_run(ousac_fine *fine, const ousac_session *session, const ousac_schedule *reference,
                            size_t steps, const ousac_sample_range *range, ousac_error *error);
/* Adds a row: samples (count, size) of the same range; `row` says all but the errors. */
ousac_status ousac_fine_add(ousac_fine *fine, const ousac_session *session, const ousac_headline_row *row,
                            const float *samples, const ousac_sample_range *range, ousac_error *error);
void ousac_fine_free(ousac_fine *fine);

#endif
