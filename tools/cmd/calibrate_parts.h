/* What the files of `ousac calibrate` share: what is asked, what is held, and what of it is written and printed.
 */
#ifndef OUSAC_CALIBRATE_PARTS_H
#define OUSAC_CALIBRATE_PARTS_H

#include "pipeline/evaluation.h"
#include "pipeline/job.h"
#include "pipeline/memory_stages.h"
#include "pipeline/stopwatch.h"
#include "tools/cli/options.h"

#include <stddef.h>
#include <stdint.h>

typedef struct calibrate_request {
    ousac_session_model model;
    const char *schedule, *reference, *directory;
    size_t samples, validation, test, micro_batch, tokens, period;
    size_t fine; /* steps of a fine run; with fine_given 0: by the effort */
    int fine_given;
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

/* What the command writes beside the job's results. */
enum { EVAL, RAW_SAMPLES, SAMPLES, COST, REPORT, FILES };

/* Everything that the command holds, freed in one place. */
typedef struct calibration_work {
    char *path[FILES];
    char *record; /* what a search compared */
    ousac_job job;
    ousac_model *model;
    ousac_bundle *bundle;
    ousac_calibration *calibration;
    ousac_eval result;
    ousac_headline
        headline; /* where no cache pays: its rows, distances from a fine run, and the reference's samples */
    ousac_fine fine;
    float *reference;
    ousac_sample_range test;
    ousac_stopwatch_share measured; /* under a budget in time */
    ousac_memory_plan memory;
    double evaluating, start; /* seconds, and of the monotonic clock */
} calibration_work;

/* How much memory it will take, and with how many threads; *done 1 where nothing else was asked for, and it is printed. */
ousac_status calibrate_plan_memory(calibration_work *work, cli_common *common,
                                   const calibrate_request *request, int *done, ousac_error *error);
/* Steps of the fine run that the evaluation makes; 0: none. After the job's check. */
size_t calibrate_fine_steps(const calibration_work *work, const calibrate_request *request);
/* A result without a cache against the reference, beside plain fewer steps. */
ousac_status calibrate_judge_uncached(calibration_work *work, const calibrate_request *request,
                                      const ousac_session *session, ousac_error *error);
/* The first test samples of every run, as they are and as an image. */
ousac_status calibrate_draw(const calibration_work *work, const ousac_session *session, ousac_error *error);
/* search.json (formats/EVAL.md): what the search compared, and what each stage to what ships gained. */
ousac_status calibrate_save_search(const calibration_work *work, const ousac_session *session,
                                   ousac_error *error);
/* cost.json (formats/EVAL.md). */
ousac_status calibrate_save_cost(const calibration_work *work, const ousac_session *session,
                                 ousac_error *error);
/* The report on what was just written, and the plots beside it; of a result without a cache its own page. */
ousac_status calibrate_write_report(const cli_common *common, const calibration_work *work,
                                    ousac_error *error);
/* What is printed: where no cache pays, of which the schedule is all there is, and else of everything. */
ousac_status calibrate_report_search(const cli_common *common, const calibration_work *work,
                                     ousac_error *error);
ousac_status calibrate_report(const cli_common *common, const calibration_work *work,
                              const ousac_session *session, ousac_error *error);

#endif
