/* What the files of `ousac calibrate` share: what is asked, what is held, and what of it is written and printed.
 */
#ifndef OUSAC_CALIBRATE_PARTS_H
#define OUSAC_CALIBRATE_PARTS_H

#include "pipeline/evaluation.h"
#include "pipeline/gates.h"
#include "pipeline/memory_stages.h"
#include "pipeline/partial.h"
#include "pipeline/search.h"
#include "pipeline/search_time.h"
#include "pipeline/stopwatch.h"
#include "tools/cli/options.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef struct calibrate_request {
    ousac_session_model model;
    const char *schedule, *reference, *directory;
    size_t samples, validation, test, micro_batch, tokens, period;
    uint64_t seed;
    double reference_scale;
    options_storage storage;
    ousac_method made_of;
    ousac_choice_options allocate;
    ousac_record_auto_options automatic; /* where samples is 0; its budget is the allocation's */
    ousac_partial_options partial;
    ousac_memory_options memory;
    ousac_effort effort; /* of a search, where no schedule is given */
    double budget_time;  /* of a search in time; NAN: in MACs */
    const char *time;    /* its measurements; NULL: made here */
} calibrate_request;

/* What the command writes. */
enum { SCHEDULE, WEIGHTS, PROFILE, PLAN, BUNDLE, EVAL, RAW_SAMPLES, SAMPLES, COST, REPORT, FILES };

/* Wall time of the steps, in the order of cost.json. */
enum { TIME_PLACEMENT, TIME_PROFILING, TIME_ALLOCATION, TIME_EVALUATION, TIMES };

/* Everything that the command holds, freed in one place. */
typedef struct calibration_work {
    char *path[FILES];
    char *marker; /* a file that stands from the moment at which the profile is complete until the end */
    char *gates;  /* one that holds gates decided here until then, or a search's candidates */
    ousac_partial partial;
    ousac_model *model;
    ousac_schedule schedule, reference;
    ousac_profile *pilot, *profile;
    ousac_factor_set *set;
    ousac_choice choice;
    ousac_bundle *bundle;
    ousac_calibration *calibration;
    ousac_eval result;
    ousac_sample_range samples, validation, test;
    ousac_sample_range searched; /* samples behind gates decided here; count 0 for none */
    int undecided;               /* 1: the schedule's gates were left to a plan */
    ousac_search_result found;   /* where no schedule was given */
    ousac_timing timing;         /* under a budget in time */
    char *timing_path;           /* where that is measured here */
    char *record_path;           /* what a search compared */
    char budget_text[OUSAC_SEARCH_TIME_BYTES];
    ousac_stopwatch_share measured;
    ousac_choice_options terms; /* how ranks are chosen */
    ousac_fit_report fit;
    ousac_budget budget;
    ousac_record_cost cost;
    ousac_memory_plan memory;
    int done;                     /* nothing else was asked for than the plan of memory */
    double seconds[TIMES], start; /* of the monotonic clock */
} calibration_work;

static inline int calibrate_is_timed(const calibrate_request *request) {
    return !isnan(request->budget_time);
}

/* The first test samples of every run, as they are and as an image. */
ousac_status calibrate_draw(const calibration_work *work, ousac_error *error);
/* search.json (formats/EVAL.md): what the search compared, and where there is a plan what ships. */
ousac_status calibrate_save_search(const calibration_work *work, const ousac_session *session,
                                   const ousac_search_options *options, ousac_error *error);
/* cost.json (formats/EVAL.md). */
ousac_status calibrate_save_cost(const calibration_work *work, const ousac_session *session,
                                 ousac_error *error);
/* The report on what was just written, and the plots beside it. */
ousac_status calibrate_write_report(const cli_common *common, const calibrate_request *request,
                                    const calibration_work *work, ousac_error *error);
/* What is printed: where no cache pays, of which the schedule is all there is, and else of everything. */
ousac_status calibrate_report_search(const cli_common *common, const calibrate_request *request,
                                     const calibration_work *work, ousac_error *error);
ousac_status calibrate_report(const cli_common *common, const calibrate_request *request,
                              const calibration_work *work, const ousac_session *session, double seconds,
                              ousac_error *error);

#endif
