/* End-to-end error, measured again and again on the same samples: the exact run is made once, every
 * calibrated run is compared with it under the same noise and conditioning.
 */
#ifndef OUSAC_GAUGE_H
#define OUSAC_GAUGE_H

#include "pipeline/pipeline.h"
#include "profile/run/calibration.h"
#include "profile/run/evaluate.h"

#include <stddef.h>

typedef struct gauge {
    const pipeline_runs *runs;
    cli_range range;
    float *exact, *samples; /* (count, channels, height, width); samples: of the last run measured */
    double *squares;        /* (count): relative squared errors of the last run measured */
    size_t evaluations;     /* runs measured */
    double seconds;         /* spent on them */
    double exact_seconds;
} gauge;

/* Runs the exact samples. Gates do not matter: any schedule of the same steps, branches and scales may be
 * measured. Free with gauge_free. */
ousac_status gauge_create(gauge *g, const pipeline_runs *runs, const ousac_schedule *schedule,
                          const cli_range *range, ousac_error *error);
void gauge_free(gauge *g);

/* What a cached run is made with. */
typedef struct gauge_arm {
    const char *label;
    const ousac_schedule *schedule;
    const ousac_calibration *calibration; /* NULL: cached evaluations reuse */
    int extrapolate_modules;              /* 1: reused outputs are extrapolated */
} gauge_arm;

/* *relative_error: root of the mean of the samples' relative squared errors. `counters` may be NULL. */
ousac_status gauge_measure(gauge *g, const gauge_arm *arm, ousac_counters *counters, double *relative_error,
                           ousac_error *error);

/* The same of ranks, with factors of a set; `forecast` may be NULL. */
ousac_status gauge_measure_ranks(gauge *g, const char *label, const ousac_schedule *schedule,
                                 ousac_factor_set *set, const size_t *rank, const ousac_forecast *forecast,
                                 double *relative_error, ousac_error *error);

#endif
