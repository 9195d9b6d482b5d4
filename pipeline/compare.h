/* Methods side by side at equal cost: one cell of a comparison.
 *
 * A cell is a guidance schedule, a refresh period and a budget for a cached evaluation. Its budget is that of
 * the whole trajectory with a refresh at every period-th step and the largest uniform rank that fits. The
 * published methods run at that period; ours may place refreshes and ranks as they like but may not cost more
 * in total, forecast included. Reuse and extrapolation of module outputs cost next to nothing and are shown
 * as they are. Calibration, search, validation and test samples are disjoint; all methods see the same noise;
 * a method is settled before it meets the test samples.
 */
#ifndef OUSAC_COMPARE_H
#define OUSAC_COMPARE_H

#include "calib/stats/stats.h"
#include "pipeline/session.h"

#include <stddef.h>
#include <stdint.h>

enum { OUSAC_COMPARE_ROWS_MAX = 16 };
#define OUSAC_COMPARE_CALIBRATION 32
#define OUSAC_COMPARE_VALIDATION 32
#define OUSAC_COMPARE_TEST 64
#define OUSAC_COMPARE_EVALUATIONS 40

typedef struct ousac_compare_options {
    const ousac_schedule *schedule; /* its gates are not looked at */
    size_t period;
    double budget_step; /* MACs of a cached evaluation over a full one */
    size_t evaluations; /* end-to-end runs that a method may search with; at least 4. From 44 on ours descends
                           on the ranks as well */
    uint64_t
        calibration; /* samples, from 0, searches included; at least two micro-batches, for searches as large
                             as elsewhere at least 24 */
    uint64_t validation; /* samples behind them, at least 1 */
    ousac_sample_range test;
} ousac_compare_options;

typedef struct ousac_compare_row {
    const char *method;    /* "exact", "reuse", "extrapolation", "svd", "ca-svd", "cd-svd", "delta-cov" */
    const char *allocator; /* "", "uniform", "uniform+forecast", "regions", ... as shipped after validation */
    const char *asked;     /* as asked for, where validation preferred another; else the same */
    int ours, placed;      /* placed: refreshes where our search put them, else at the period */
    int shipped;           /* 1: what our pipeline delivers */
    double macs_total;     /* of the trajectory over constant guidance uncached */
    int measured;          /* 1 in every row of a whole cell */
    ousac_interval error;  /* relative, of the final sample; zero, without an interval, for the exact run */
    double validation;     /* the same on the validation samples; NAN where it was not measured */
    double seconds;        /* of calibrating and searching, what it stands on included */
    size_t evaluations;    /* end-to-end runs that it searched with */
} ousac_compare_row;

typedef struct ousac_compare_cell {
    char schedule_name[OUSAC_SCHEDULE_NAME_BYTES];
    char solver[OUSAC_SCHEDULE_NAME_BYTES];
    size_t period, rank; /* the uniform rank of the budget */
    double budget_step, budget_total;
    ousac_sample_range calibration, validation, test;
    ousac_compare_row row[OUSAC_COMPARE_ROWS_MAX];
    size_t row_count;
    ousac_schedule placed; /* the schedule that our search wrote */
} ousac_compare_cell;

/* Free with ousac_compare_free. Errors: those of the steps; USAGE where the budget holds no rank. After INTERRUPTED the
 * cell holds the rows that were complete, and is to be freed as well. */
ousac_status ousac_compare_run(const ousac_session *session, const ousac_compare_options *options,
                               ousac_compare_cell *cell, ousac_error *error);
void ousac_compare_free(ousac_compare_cell *cell);

#endif
