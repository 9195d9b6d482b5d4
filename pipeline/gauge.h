/* End-to-end error, measured again and again on the same samples: the exact run is made once, every
 * calibrated run is compared with it under the same noise and conditioning.
 */
#ifndef OUSAC_GAUGE_H
#define OUSAC_GAUGE_H

#include "pipeline/session.h"
#include "profile/bundle/factorise.h"
#include "profile/run/calibration.h"
#include "profile/run/evaluate.h"

#include <stddef.h>

typedef struct ousac_gauge {
    ousac_session session; /* with samples computed together as ousac_session_batch says */
    ousac_sample_range range;
    float *exact, *samples; /* (count, channels, height, width); samples: of the last run measured */
    double *squares;        /* (count): relative squared errors of the last run measured */
    size_t evaluations;     /* runs measured */
    double seconds;         /* spent on them */
    double exact_seconds;
} ousac_gauge;

/* Runs the exact samples. Gates do not matter: any schedule of the same steps, branches and scales may be
 * measured. Free with ousac_gauge_free. */
ousac_status ousac_gauge_create(ousac_gauge *g, const ousac_session *session, const ousac_schedule *schedule,
                                const ousac_sample_range *range, ousac_error *error);
void ousac_gauge_free(ousac_gauge *g);

/* What a cached run is made with. */
typedef struct ousac_gauge_arm {
    const char *label;
    const ousac_schedule *schedule;
    const ousac_calibration *calibration; /* NULL: cached evaluations reuse */
    const ousac_gradient *gradient;       /* of reused outputs, as in ousac_run; may be NULL */
} ousac_gauge_arm;

/* *relative_error: root of the mean of the samples' relative squared errors. `counters` may be NULL. */
ousac_status ousac_gauge_measure(ousac_gauge *g, const ousac_gauge_arm *arm, ousac_counters *counters,
                                 double *relative_error, ousac_error *error);

/* The same of ranks, with factors of a set; `forecast` may be NULL. */
ousac_status ousac_gauge_measure_ranks(ousac_gauge *g, const char *label, const ousac_schedule *schedule,
                                       ousac_factor_set *set, const size_t *rank,
                                       const ousac_forecast *forecast, double *relative_error,
                                       ousac_error *error);

#endif
