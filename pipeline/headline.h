/* What a user asks of a calibration: how far its samples are from those of the pipeline that is run today, at which
 * cost, beside fewer steps of the same pipeline at that cost.
 */
#ifndef OUSAC_HEADLINE_H
#define OUSAC_HEADLINE_H

#include "calib/stats/paired.h"
#include "calib/stats/stats.h"
#include "pipeline/session.h"

#include <stddef.h>

typedef struct ousac_headline_row {
    /* "calibrated", "extrapolated", "fewer-steps", "fitted-steps", "reference", "exact": static text */
    const char *method;
    size_t steps;
    double macs_share;    /* of the reference's */
    double seconds_share; /* wall time of this run over the reference's */
    ousac_interval error; /* relative, of the final sample against the reference's */
    double median, worst; /* of single samples */
    /* The first row's error over this one's, paired; NAN in the first, where a sample here has none, and where the
     * samples are others. */
    ousac_interval ratio;
} ousac_headline_row;

enum { OUSAC_HEADLINE_ROWS = 5 };
typedef struct ousac_headline {
    ousac_headline_row row[OUSAC_HEADLINE_ROWS];
    size_t count;
    double *first; /* squared errors of the first row's samples, (first_count), owned */
    size_t first_count;
    float *fewer, *fitted,
        *extrapolated; /* samples of those methods where they were kept, (count, size), owned */
} ousac_headline;
void ousac_headline_free(ousac_headline *headline);

/* Adds a row: samples against the reference's, (count, size) each; `row` says all but the errors. */
ousac_status ousac_headline_add(ousac_headline *headline, const ousac_headline_row *row, const float *samples,
                                const float *reference, size_t count, size_t size, uint64_t seed,
                                ousac_error *error);

/* Runs a schedule without factors on the samples of `range`, and adds it. */
typedef struct ousac_headline_run {
    const char *method;
    const ousac_schedule *schedule;
    ousac_sample_range range;
    const float *reference; /* (count, size) */
    double reference_seconds;
    uint64_t reference_macs; /* of one sample */
    float **keep;            /* a member of the headline, where the samples are to stay; NULL: nowhere */
} ousac_headline_run;
ousac_status ousac_headline_run_and_add(ousac_headline *headline, const ousac_session *session,
                                        const ousac_headline_run *run, ousac_error *error);

#endif
