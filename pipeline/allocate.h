/* Choosing ranks under a budget: candidates by several methods, with and without a forecast, compared end to end on
 * validation samples, the best of them as a plan.
 *
 * Samples fall into three disjoint ranges: calibration (statistics; it includes the pilot's), validation (accepting a
 * plan) and test (reported once). A plan remembers its validation range, a bundle both, and an evaluation refuses to
 * report on either.
 */
#ifndef OUSAC_CHOICE_H
#define OUSAC_CHOICE_H

#include "calib/cost.h"
#include "pipeline/budget.h"
#include "pipeline/factors.h"
#include "pipeline/session.h"
#include "profile/bundle/plan.h"

#include <stddef.h>
#include <stdint.h>

#define OUSAC_DEFAULT_VALIDATION_SAMPLES 8
#define OUSAC_DEFAULT_SEARCH_SAMPLES 16
#define OUSAC_DEFAULT_GRANULARITY 8
#define OUSAC_DEFAULT_RANK_MIN 8

/* How ranks are chosen. */
typedef enum ousac_allocator {
    OUSAC_ALLOCATOR_UNIFORM = 0,  /* one rank for all sites */
    OUSAC_ALLOCATOR_KNAPSACK = 1, /* least sum of relative local errors */
    OUSAC_ALLOCATOR_REGIONS = 2,  /* calib/choose/regions.h, on the end-to-end error */
    OUSAC_ALLOCATOR_DESCENT = 3,  /* calib/choose/descent.h, on the end-to-end error */
    OUSAC_ALLOCATORS = 4
} ousac_allocator;
/* What "auto" compares: bits, 1 << allocator. */
enum { OUSAC_ALLOCATORS_AUTO = 1 << OUSAC_ALLOCATOR_UNIFORM | 1 << OUSAC_ALLOCATOR_KNAPSACK };

/* Whether a plan forecasts what its factors leave: never, always, or where it is better end to end. */
typedef enum ousac_forecast_use {
    OUSAC_FORECAST_OFF = 0,
    OUSAC_FORECAST_ON = 1,
    OUSAC_FORECAST_AUTO = 2
} ousac_forecast_use;

typedef struct ousac_choice_options {
    const char *name;   /* of the plan */
    const char *remark; /* put behind its note; NULL: nothing */
    unsigned methods;   /* bits, 1 << ousac_allocator */
    ousac_forecast_use forecast;
    ousac_budget budget;
    size_t granularity, rank_min; /* of the knapsack */
    size_t evaluations;           /* of a search on the end-to-end error; 0 for OUSAC_REGIONS_EVALUATIONS */
    size_t search_samples;        /* the first so many calibration samples, which it runs on; 0:
                                     OUSAC_DEFAULT_SEARCH_SAMPLES */
    ousac_sample_range
        validation; /* count 0: none; where plans are compared, the samples after the calibration's */
} ousac_choice_options;

/* A plan that was considered. */
typedef struct ousac_candidate {
    int present;
    int probed; /* 1: the certificate is of a descent's own error model, see calib/choose/descent.h */
    ousac_allocation allocation;
    ousac_forecast *forecast; /* NULL for none */
    double cached_step;       /* forecast included */
    double measured;    /* relative error of the final sample on the validation samples; NAN: not measured */
    size_t evaluations; /* of its search; 0 where there was none */
    double seconds;     /* of making it */
} ousac_candidate;

/* Candidate i allocates by method i % OUSAC_ALLOCATORS; from OUSAC_ALLOCATORS on with a forecast. */
enum { OUSAC_CANDIDATES = 2 * OUSAC_ALLOCATORS };
const char *ousac_candidate_name(int candidate); /* "uniform+forecast" */

typedef struct ousac_choice {
    ousac_candidate candidate[OUSAC_CANDIDATES];
    int chosen;
    int validated;
    ousac_sample_range validation;
    ousac_plan *plan;      /* of the chosen candidate */
    ousac_cost_total cost; /* of its trajectory */
    double budget_step;    /* as solved */
} ousac_choice;

/* `session` carries the profile's own seed and micro-batch. Free with ousac_choice_free. */
ousac_status ousac_choice_create(const ousac_session *session, const ousac_profile *profile,
                                 ousac_factor_set *set, const ousac_choice_options *options,
                                 ousac_choice *choice, ousac_error *error);
/* What of the options can be judged before the model is loaded: the plan's name, and a forecast that the budget of
 * `macs` a cached evaluation does not hold. USAGE. */
ousac_status ousac_choice_check(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t macs,
                                const ousac_choice_options *options, ousac_error *error);
/* USAGE where validation samples are among those that the profile was made of. */
ousac_status ousac_choice_check_validation(const ousac_profile *profile, const ousac_choice_options *options,
                                           ousac_error *error);
void ousac_choice_free(ousac_choice *choice);

/* 1 where ousac_choice_create will run the model: to compare, to fit, or as asked. */
int ousac_choice_runs(const ousac_choice_options *options);
/* The most directions that any candidate can take of each site (site_count), from shapes alone: none where no model is
 * run and the spectra suffice. */
ousac_status ousac_choice_ranks(const ousac_arch *arch, uint64_t macs, const ousac_choice_options *options,
                                size_t *rank_max, ousac_error *error);

#endif
