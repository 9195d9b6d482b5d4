/* Choosing which evaluations refresh, and how many: a search on the end-to-end error under a budget for the
 * whole trajectory.
 *
 * A probe (profile/run/probe.h) of the evenly spaced schedule predicts the error of any placement; for every
 * number of refreshes the shortest path (calib/choose/placement.h) is the best one, and what refreshes leave of the
 * budget buys the largest uniform rank, which scales the prediction by the root of the spectra's tails. From
 * the number predicted best, the search walks on measured errors: other numbers, the path under a new probe
 * of the best contender, single refreshes moved by one evaluation. Whatever it measures is calibrated for its
 * own placement: profile, factors, forecast.
 */
#ifndef OUSAC_PLACE_H
#define OUSAC_PLACE_H

#include "pipeline/pipeline.h"

#include <stddef.h>
#include <stdint.h>

enum {
    PLACE_SAMPLES = 8,
    PLACE_PROBE_SAMPLES = 8,
    PLACE_HORIZON = 12,
    PLACE_STRIDE = 3,
    PLACE_EVALUATIONS = 24,
    PLACE_PERIOD = 3
};

typedef struct place_options {
    const ousac_schedule *even; /* the evenly spaced schedule to begin from; all its gates are decided */
    uint64_t macs;              /* of one sample's whole trajectory, at most */
    size_t full;                /* full evaluations over both branches; 0: searched */
    size_t samples; /* calibration samples, from 0; PIPELINE_SEARCH_SAMPLES behind them are searched on */
    size_t probe_samples, horizon, stride; /* of the probe; see profile/run/probe.h */
    size_t evaluations;                    /* end-to-end runs, at most; at least 2 */
} place_options;

/* One end-to-end run. */
typedef struct place_step {
    const char *kind; /* "even", "path", "probe", "move": static text */
    size_t full, rank;
    double predicted; /* by the placement's model; NAN where it says nothing */
    double error;     /* relative, of the final sample, on the search samples */
} place_step;

typedef struct place_result {
    ousac_schedule schedule; /* the better of even and placed */
    int placed;              /* 0: nothing was better than even spacing */
    size_t rank;             /* uniform, with a forecast where `forecast` is set */
    int forecast;            /* 0: the budget did not hold one */
    double even_error, error, even_predicted, predicted;
    ousac_cost_total even_cost, cost;
    place_step *steps; /* (step_count), owned */
    size_t step_count;
    double seconds;
} place_result;

/* Free with place_result_free. USAGE where not even rank 1 fits the budget. */
ousac_status place_search(const pipeline_runs *runs, const place_options *options, place_result *result,
                          ousac_error *error);
void place_result_free(place_result *result);

/* 1 where the schedule leaves a gate of an evaluated branch to a plan. */
int place_undecided(const ousac_schedule *schedule);

/* Every period-th step full, the others cached. */
void place_evenly(ousac_schedule *schedule, size_t period);

/* MACs of one sample's trajectory under the schedule with the largest uniform rank within `step_macs` per
 * cached evaluation, without a forecast: what the published methods cost. */
ousac_status place_budget(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t step_macs,
                          uint64_t *macs, size_t *rank, ousac_error *error);

/* The largest uniform rank with which the trajectory stays within `macs`; 0 where none does. */
ousac_status place_rank(const ousac_arch *arch, const ousac_schedule *schedule, int forecast, uint64_t macs,
                        size_t *rank, ousac_error *error);

#endif
