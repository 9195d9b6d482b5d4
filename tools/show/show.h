/* Results as text on standard output and as JSON: what the pipeline found, told to a person and to a machine.
 */
#ifndef OUSAC_SHOW_H
#define OUSAC_SHOW_H

#include "formats/json_build.h"
#include "pipeline/allocate.h"
#include "pipeline/compare.h"
#include "pipeline/evaluation.h"
#include "pipeline/memory_plan.h"
#include "pipeline/record_auto.h"
#include "pipeline/refit.h"
#include "pipeline/search.h"
#include "pipeline/search_bill.h"
#include "pipeline/stopwatch.h"
#include "pipeline/timing.h"
#include "pipeline/transfer.h"
#include "pipeline/yardstick.h"
#include "tools/cli/cli.h"

void choice_print(const ousac_choice *choice, const ousac_arch *arch);
void choice_put(ousac_json_doc *doc, cJSON *object, const ousac_choice *choice, const ousac_arch *arch);

void convergence_print(const ousac_record_convergence *found);

/* Keys of the JSON form: formats/EVAL.md. */
void evaluation_print(const ousac_eval *result);
void evaluation_put(ousac_json_doc *doc, cJSON *object, const ousac_eval *result);
/* Its headline alone, as member "headline" of the object. */
void headline_print(const ousac_headline *headline);
void headline_put(ousac_json_doc *doc, cJSON *object, const ousac_headline *headline);
/* Distances from a fine run, as member "fine"; nothing where there is none. */
void fine_print(const ousac_fine *fine);
void fine_put(ousac_json_doc *doc, cJSON *object, const ousac_fine *fine);
/* The JSON form into a file. */
ousac_status evaluation_save(const ousac_eval *result, const char *path, ousac_error *error);

void transfer_print(const ousac_transfer *t, const ousac_eval *result);
void transfer_put(ousac_json_doc *doc, cJSON *object, const ousac_transfer *t, const ousac_eval *result);

void compare_print(const ousac_compare_cell *cell);
void compare_put(ousac_json_doc *doc, cJSON *object, const ousac_compare_cell *cell);

void yardstick_print(const ousac_yardstick *result);
/* As a table of qualities with one cell, which `ousac plot curve` draws; `model` names it there. */
void yardstick_put(ousac_json_doc *doc, cJSON *root, const char *model, const ousac_yardstick *result);

/* Keys of the JSON form: formats/EVAL.md. */
void refit_print(const ousac_refit *result);
void refit_put(ousac_json_doc *doc, cJSON *object, const ousac_refit *result);

/* Keys of the JSON form: formats/TIME.md, written by ousac_timing_put. */
void timing_print(const ousac_timing *timing);

/* What a search found; its candidates as members of `object`. */
void search_print(const ousac_search_result *found, int timed);
void search_put(ousac_json_doc *doc, cJSON *object, const ousac_search_result *found, int timed);

/* What a search compared, and what each stage from fewer steps to what ships gained: search.json. */
typedef struct search_record {
    const ousac_search_options *options;
    const ousac_search_result *found;
    const ousac_model *model;
    uint64_t seed;
    const ousac_fit_report
        *shipped;         /* the last fit, on the trajectory that ships; NULL where nothing is cached */
    double shipped_share; /* of the reference's MACs */
    const ousac_schedule *schedule; /* what ships */
    const ousac_headline *headline; /* of a result without a cache, on `test`; count 0 for none */
    const ousac_fine *fine;         /* of such a result; steps 0 for none */
    ousac_sample_range test;
} search_record;
ousac_status search_record_save(const search_record *record, const char *path, ousac_error *error);

/* A budget in time, and what was measured of the result. */
typedef struct timed_result {
    const ousac_timing *timing;
    double budget, modelled; /* shares of the reference's time */
    ousac_stopwatch_share measured;
} timed_result;
void timed_print(const timed_result *timed);
void timed_put(ousac_json_doc *doc, cJSON *object, const timed_result *timed);

/* What --dry-run prints; `search` NULL where nothing is searched for. */
typedef struct dry_search {
    const ousac_search_options *options;
    const ousac_search_outline *outline;
    const ousac_search_bill *bill;
} dry_search;
ousac_status memory_print(const ousac_memory_plan *plan, const cli_common *common, const char *command,
                          const dry_search *search, ousac_error *error);
/* Its part of that. */
void dry_search_print(const dry_search *search);
void dry_search_put(ousac_json_doc *doc, cJSON *object, const dry_search *search);

#endif
