/* Choosing which evaluations refresh, and how many: a search on the end-to-end error under a budget for the
 * whole trajectory, in multiply-accumulates or whatever else a price (calib/price.h) counts.
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

#include "calib/cost.h"
#include "calib/price.h"
#include "pipeline/session.h"
#include "profile/run/calibration.h"

#include <stddef.h>
#include <stdint.h>

#define OUSAC_PLACE_SAMPLES 8
#define OUSAC_PLACE_PILOT_SAMPLES 8 /* behind the step weights of a contender, at most */
#define OUSAC_PLACE_PROBE_SAMPLES 8
#define OUSAC_PLACE_HORIZON 12
#define OUSAC_PLACE_STRIDE 3
#define OUSAC_PLACE_EVALUATIONS 24
#define OUSAC_PLACE_PERIOD 3

typedef struct ousac_place_options {
    const ousac_schedule *even; /* the evenly spaced schedule to begin from; all its gates are decided */
    const ousac_price *price;   /* in which the budget is; NULL: multiply-accumulates */
    uint64_t budget;            /* of a whole trajectory, at most */
    size_t full;                /* full evaluations over both branches; 0: searched */
    size_t samples;             /* calibration samples, from 0 */
    size_t search_samples;      /* behind them, searched on; 0: OUSAC_DEFAULT_SEARCH_SAMPLES */
    size_t probe_samples, horizon, stride; /* of the probe; see profile/run/probe.h */
    size_t evaluations;                    /* end-to-end runs, at most; at least 2 */
} ousac_place_options;

/* One end-to-end run. */
typedef struct ousac_place_step {
    const char *kind; /* "even", "path", "probe", "move": static text */
    size_t full, rank;
    double predicted; /* by the placement's model; NAN where it says nothing */
    double error;     /* relative, of the final sample, on the search samples */
} ousac_place_step;

typedef struct ousac_place_result {
    ousac_schedule schedule; /* the better of even and placed */
    int placed;              /* 0: nothing was better than even spacing */
    size_t rank;             /* uniform, with a forecast where `forecast` is set */
    int forecast;            /* 0: the budget did not hold one */
    double even_error, error, even_predicted, predicted;
    ousac_cost_total even_cost, cost;
    uint64_t price;                 /* of the schedule at that rank, at most the budget */
    ousac_calibration *calibration; /* what `error` was measured with, owned */
    ousac_place_step *steps;        /* (step_count), owned */
    size_t step_count;
    double seconds;
} ousac_place_result;

/* Free with ousac_place_result_free. USAGE where not even rank 1 fits the budget. */
ousac_status ousac_place_search(const ousac_session *session, const ousac_place_options *options,
                                ousac_place_result *result, ousac_error *error);
void ousac_place_result_free(ousac_place_result *result);

/* 1 where the schedule leaves a gate of an evaluated branch to a plan. */
int ousac_place_undecided(const ousac_schedule *schedule);

/* Every period-th step full, the others cached. */
void ousac_place_evenly(ousac_schedule *schedule, size_t period);

/* MACs of one sample's trajectory under the schedule with the largest uniform rank within `step_macs` per
 * cached evaluation, without a forecast: what the published methods cost. */
ousac_status ousac_place_budget(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t step_macs,
                                uint64_t *macs, size_t *rank, ousac_error *error);

/* The largest uniform rank with which the trajectory stays within the budget; 0 where none does. */
ousac_status ousac_place_rank(const ousac_price *price, const ousac_schedule *schedule, int forecast,
                              uint64_t budget, size_t *rank, ousac_error *error);

#endif
