/* From what is run today and a budget to a schedule: how many of the reference's steps, where each branch
 * refreshes, which ranks, and the free numbers, against the reference's own samples.
 *
 * Candidates cost no more than a share of the reference's multiply-accumulates, or of its time by what evaluations
 * take on a machine (pipeline/timing.h):
 *
 *     fewer   as many of the reference's steps as that pays for, uncached, as they are
 *     fitted  as many, evenly chosen or closer together at the end, their numbers fitted (pipeline/fit.h)
 *     sparse  more steps than that, uncached, some of them without the unconditional branch (pipeline/guide.h), fitted
 *     extrapolated  all of the reference's steps, few of them in full, at the others what modules gave is continued, fitted
 *             (pipeline/search_extrapolate.h)
 *     cached  more steps than that, refreshes and ranks placed (pipeline/place.h), the numbers fitted on the
 *             trajectory with cache and forecast at work
 *
 * Sparse candidates have 7/6, 4/3 and 3/2 times the steps of `fewer`, as long as that helps, and as many guided ones as
 * the budget then holds. Leaving out an unconditional branch that is cached saves less than leaving out one in full, so a
 * cached candidate is sparse only where the sparse one was better than the fitted, and the effort full.
 *
 * Cached candidates have 4/3, 5/3, 2, ... times the steps of `fewer`, or every p-th of the reference's steps where that
 * is near; from 5/3 the search walks to where the error on the validation samples is least, and from fewer where the
 * budget does not hold so many. The result is the best of all on the validation and deciding samples: never worse there
 * than fewer steps. Where two are near each other there, both are measured on more samples (pipeline/search_decide.c).
 * What is taken is fitted once more, and so are fitted steps, beside which it is judged: on twice the samples, for which
 * there was no time while there were many candidates. Under a cache that is left to the caller, whose factors are better.
 */
#ifndef OUSAC_SEARCH_H
#define OUSAC_SEARCH_H

#include "calib/price.h"
#include "pipeline/allocate.h"
#include "pipeline/fit.h"
#include "pipeline/session.h"
#include "pipeline/timing.h"

#include <stddef.h>
#include <stdint.h>

typedef enum ousac_effort {
    OUSAC_EFFORT_QUICK = 0, /* one number of steps, and few end-to-end runs */
    OUSAC_EFFORT_FULL = 1,
    OUSAC_EFFORT_AUTO = 2 /* of a job: one of the two by the model's size; a search itself takes only those */
} ousac_effort;

typedef enum ousac_search_kind {
    OUSAC_SEARCH_FEWER = 0,
    OUSAC_SEARCH_FITTED = 1,
    OUSAC_SEARCH_CACHED = 2,
    OUSAC_SEARCH_SPARSE = 3,
    OUSAC_SEARCH_EXTRAPOLATED = 4,
    OUSAC_SEARCH_KINDS
} ousac_search_kind;
/* "fewer steps", "fitted steps", "cached", "some guided", "extrapolated" */
const char *ousac_search_kind_name(ousac_search_kind kind);

typedef struct ousac_search_options {
    const ousac_schedule *reference; /* uncached, both branches at every step or one branch at all of them */
    double budget;                   /* of the reference's MACs or time, above 0, below 1 */
    const ousac_timing *timing;      /* in time by these measurements; NULL: in MACs */
    ousac_effort effort;
    const char *kept; /* the file in which candidates are kept until the caller removes it; NULL: nowhere */
    int restart;      /* 1: what is kept there is not looked at */
    int curve;        /* 1: fewer steps, plain and fitted, are measured at other costs too */
    uint64_t unused;  /* samples from here on have no other use; 0: those behind the deciding ones */
} ousac_search_options;

typedef struct ousac_search_candidate {
    ousac_search_kind kind;
    ousac_schedule schedule; /* gates closed; owned */
    size_t guided;           /* steps that evaluate both branches */
    size_t full;             /* of a cached or extrapolated one: full evaluations of a sample */
    size_t rank;             /* of a cached one: uniform */
    int forecast;            /* likewise: 1 with a forecast */
    double power; /* of a fitted or sparse one: how its steps are chosen, ousac_fit_spaced_steps; else 1 */
    double share; /* MACs over the reference's */
    double spent; /* what the budget counts, over the reference's */
    double unfitted, error; /* relative error on the validation samples, before and after the fit */
    double decided;         /* after it, on those and the deciding samples together */
    double
        again; /* on the samples of a second look; NAN without one, INFINITY where a state was not finite */
    double seconds;
    int resumed; /* 1: found by an earlier run */
} ousac_search_candidate;

/* Steps that are no candidates, to see how error goes with cost: fewer or fitted ones, uncached. */
typedef struct ousac_search_point {
    ousac_search_kind kind;
    size_t steps;
    double share, spent, error; /* as of a candidate */
} ousac_search_point;

enum { OUSAC_SEARCH_CANDIDATES_MAX = 12, OUSAC_SEARCH_POINTS_MAX = 10 };
typedef struct ousac_search_result {
    ousac_search_candidate candidate[OUSAC_SEARCH_CANDIDATES_MAX];
    size_t count, best;
    ousac_search_point point[OUSAC_SEARCH_POINTS_MAX];
    size_t point_count;
    uint64_t budget; /* of a trajectory, at most, in what the budget counts */
    ousac_sample_range fitting, validation, deciding, again;
    int looked_again;                   /* 1: some candidates were measured on the last */
    ousac_fit_target fitted, validated; /* the reference on those; empty where every candidate was resumed */
    ousac_fit_target decided;           /* likewise, on the deciding samples */
    ousac_fit_target looked;            /* on those of a second look, during a search */
    uint64_t evaluations;               /* branch evaluations of the fits, summed over samples */
    double seconds;
} ousac_search_result;

/* Free with ousac_search_free. USAGE where the reference is cached, has open gates, another conditioning at some
 * steps than at others, or fitted numbers; where the budget is out of range or below what one step costs. */
ousac_status ousac_search(const ousac_session *session, const ousac_search_options *options,
                          ousac_search_result *result, ousac_error *error);
void ousac_search_free(ousac_search_result *result);

/* What of the options can be judged before anything is run: the same USAGE. */
ousac_status ousac_search_check(const ousac_search_options *options, ousac_error *error);

/* The most of the reference's steps, evenly chosen and uncached, whose price is within the budget; 0 for none. */
ousac_status ousac_search_affordable(const ousac_price *price, const ousac_schedule *reference,
                                     uint64_t budget, size_t *steps, ousac_error *error);

/* How ranks are chosen for the best candidate's schedule, within what it may cost: under MACs as asked; under time at
 * the uniform rank that was priced, which alone was measured. Sets the options' budget, and under time methods and
 * forecast. */
ousac_status ousac_search_terms(const ousac_search_options *options, const ousac_search_result *result,
                                const ousac_arch *arch, ousac_choice_options *choice, ousac_error *error);

/* The reference on the samples of the search's fits, run where the search had no need to. */
ousac_status ousac_search_targets(const ousac_session *session, const ousac_schedule *reference,
                                  ousac_search_result *result, ousac_error *error);

/* Fits the numbers of a schedule once more, in the end, by what the search has: its fitting samples and as many of the
 * deciding ones, which have no other use any more. The reference is run on what of them the search had no need to. */
ousac_status ousac_search_fit_last(const ousac_session *session, const ousac_schedule *reference,
                                   const ousac_calibration *calibration, ousac_search_result *result,
                                   ousac_schedule *schedule, ousac_fit_report *report, ousac_error *error);

/* The ranges of samples that a search uses, each from a multiple of the micro-batch, the first three from 0. On the deciding
 * ones candidates are measured once they are fitted: few validation samples miss the single one that goes astray. Those of
 * a second look, where it comes to that, lie from `unused` on and behind the others. */
typedef struct ousac_search_samples {
    ousac_sample_range fitting, validation, deciding, again;
} ousac_search_samples;
ousac_search_samples ousac_search_samples_of(ousac_effort effort, size_t micro_batch, uint64_t unused);

/* The candidate's relative error on all samples that it was measured on behind the fitted ones. */
double ousac_search_error(const ousac_search_result *result, const ousac_search_candidate *candidate);

#endif
