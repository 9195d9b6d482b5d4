/* The steps that the calibration commands share: load, pilot, profile, allocate, pack. Each takes plain
 * arguments, shows progress, and returns a status; none prints a result.
 *
 * Samples fall into three disjoint ranges: calibration (statistics; it includes the pilot's), validation
 * (accepting a plan) and test (reported once). A plan remembers its validation range at the head of its note,
 * a bundle remembers both ranges in its provenance, and `ousac eval` refuses to report on either.
 */
#ifndef OUSAC_PIPELINE_H
#define OUSAC_PIPELINE_H

#include "calib/cost.h"
#include "formats/json_build.h"
#include "formats/schedule.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/factorise.h"
#include "profile/bundle/plan.h"
#include "profile/model/model.h"
#include "profile/record/profile.h"
#include "profile/run/runner.h"
#include "tools/cli/cli.h"

#include <stddef.h>
#include <stdint.h>

/* Defaults, as --help states them. */
enum {
    PIPELINE_MICRO_BATCH = 4,
    PIPELINE_TOKENS = 64,
    PIPELINE_PILOT_SAMPLES = 8,
    PIPELINE_CALIBRATION_SAMPLES = 48,
    PIPELINE_VALIDATION_SAMPLES = 8,
    PIPELINE_TEST_SAMPLES = 24,
    PIPELINE_GRANULARITY = 8,
    PIPELINE_RANK_MIN = 8,
    PIPELINE_FORECAST_SAMPLES = 16,
    PIPELINE_SEARCH_SAMPLES = 16,
    PIPELINE_AUTO_FIRST = 16,
    PIPELINE_AUTO_MOST = 256
};
enum { PIPELINE_SAMPLES_MAX = 1 << 30, PIPELINE_MICRO_BATCH_MAX = 4096 };
#define PIPELINE_BUDGET_STEP 0.25
/* On the shipped model 32 samples exceed it (2.4 %) and 64 do not (1.2 %). */
#define PIPELINE_TOLERANCE 0.02
/* A forecast that takes a smaller fraction off the squared residual of a step is left out. */
#define PIPELINE_FORECAST_LEAST_GAIN 0.02

/* --- options, files, output --- */

typedef struct pipeline_model_options {
    const char *path;
    const char *config;
    size_t heads;
    const char *compute; /* "f32", "bf16"; NULL: f32 */
    const char *inputs;  /* inputs file; NULL: drawn */
    ousac_model_use use;
    const char *device; /* NULL: cpu */
} pipeline_model_options;

/* Rows of a command's option table. */
#define PIPELINE_MODEL_OPTIONS(options)                                                                      \
    {"model", 'm', CLI_TEXT, &(options)->path, 0, 0, 1, "FILE", "checkpoint (.safetensors)"},                \
        {"config",                                                                                           \
         0,                                                                                                  \
         CLI_TEXT,                                                                                           \
         &(options)->config,                                                                                 \
         0,                                                                                                  \
         0,                                                                                                  \
         0,                                                                                                  \
         "FILE",                                                                                             \
         "the model's config.json (default: beside the checkpoint)"},                                        \
        {"compute",                                                                                          \
         0,                                                                                                  \
         CLI_TEXT,                                                                                           \
         &(options)->compute,                                                                                \
         0,                                                                                                  \
         0,                                                                                                  \
         0,                                                                                                  \
         "f32|bf16",                                                                                         \
         "how the model's linears run, on a GPU attention too; bf16 needs matrix units, on a CPU oneDNN "    \
         "(default f32)"},                                                                                   \
        {"inputs",                                                                                           \
         0,                                                                                                  \
         CLI_TEXT,                                                                                           \
         &(options)->inputs,                                                                                 \
         0,                                                                                                  \
         0,                                                                                                  \
         0,                                                                                                  \
         "FILE",                                                                                             \
         "what the samples are conditioned on, and their noise, .safetensors; sample j takes row j mod P "   \
         "(default: drawn by the seed)"},                                                                    \
    {                                                                                                        \
        "heads", 0, CLI_SIZE, &(options)->heads, 1, 4096, 0, "N",                                            \
            "attention heads (default: from the config)"                                                     \
    }

/* Row of the option table of a command that runs the model. */
#define PIPELINE_DEVICE_OPTION(device)                                                                       \
    {                                                                                                        \
        "device", 0, CLI_TEXT, device, 0, 0, 0, "NAME",                                                      \
            "where to compute: cpu, cuda, cuda:N, or auto, cuda where there is one (default cpu)"            \
    }

#define PIPELINE_BUDGET_OPTIONS(budget)                                                                      \
    {"budget-step",                                                                                          \
     0,                                                                                                      \
     CLI_REAL,                                                                                               \
     &(budget)->step,                                                                                        \
     0,                                                                                                      \
     0,                                                                                                      \
     0,                                                                                                      \
     "X",                                                                                                    \
     "MACs of a cached evaluation over a full one (default 0.25)"},                                          \
    {                                                                                                        \
        "budget-total", 0, CLI_REAL, &(budget)->total, 0, 0, 0, "X",                                         \
            "instead: MACs of the trajectory over constant guidance uncached"                                \
    }

/* The backend of --compute (NULL or "f32", "bf16") where the device is the CPU; NULL where another is to be
 * opened with the model, in bfloat16 where pipeline_is_bf16. USAGE for another name, UNSUPPORTED where it is
 * missing. */
ousac_status pipeline_backend(const ousac_backend **backend, const char *compute, const char *device,
                              ousac_error *error);
int pipeline_is_bf16(const char *compute);
ousac_status pipeline_load_model(ousac_model **model, const pipeline_model_options *options,
                                 ousac_error *error);

/* A schedule that says when it refreshes: USAGE, naming the file, where a gate is left to a plan. */
ousac_status pipeline_load_schedule(ousac_schedule *schedule, const char *path, ousac_error *error);

/* Fails before long work rather than after it: IO where the directory of `path` is missing or not writable,
 * or where `path` is a directory. */
ousac_status pipeline_check_output(const char *path, ousac_error *error);

/* USAGE, naming `option`, where the range is empty or does not begin at a multiple of the micro-batch. */
ousac_status pipeline_check_range(const char *option, const cli_range *range, size_t micro_batch,
                                  ousac_error *error);

/* How a bundle stores factors. */
typedef struct pipeline_storage {
    const char *dtype_name, *codec_name; /* as asked for: "auto", "f32", ...; "raw", ... */
    ousac_dtype dtype;
    int choose; /* "auto" */
    ousac_oca_codec codec;
} pipeline_storage;

/* Rows of a command's option table. */
#define PIPELINE_STORAGE_OPTIONS(storage)                                                                    \
    {"dtype",                                                                                                \
     0,                                                                                                      \
     CLI_TEXT,                                                                                               \
     &(storage)->dtype_name,                                                                                 \
     0,                                                                                                      \
     0,                                                                                                      \
     0,                                                                                                      \
     "NAME",                                                                                                 \
     "of the stored factors: f32, bf16, f16, i8, or auto, the cheapest that adds below 1 % to a layer's "    \
     "error (default auto)"},                                                                                \
    {                                                                                                        \
        "codec", 0, CLI_TEXT, &(storage)->codec_name, 0, 0, 0, "NAME",                                       \
            "of the stored factors: shuffle+zstd, zstd, or raw, which a runtime can map (default "           \
            "shuffle+zstd)"                                                                                  \
    }

/* Takes the names, NULL for the defaults. USAGE for unknown ones. */
ousac_status pipeline_storage_parse(pipeline_storage *storage, ousac_error *error);

int pipeline_ranges_overlap(const cli_range *range, uint64_t first, uint64_t count);

/* Adds [first, end]. */
void pipeline_json_range(json_doc *doc, cJSON *object, const char *key, uint64_t first, uint64_t count);

/* --- running and profiling --- */

/* Asked for: one of the two, the other NAN. Both NAN: PIPELINE_BUDGET_STEP. */
typedef struct pipeline_budget {
    double step;  /* MACs of a cached evaluation over a full one */
    double total; /* MACs of the trajectory over the constant-guidance, uncached one */
} pipeline_budget;

/* What every run of a command has in common. */
typedef struct pipeline_runs {
    const cli_common *common;
    const ousac_model *model;
    uint64_t seed;
    size_t micro_batch;
} pipeline_runs;

/* Threads of a run: those asked for, else the processors, but on another device at most
 * PIPELINE_DEVICE_THREADS: each keeps caches in the device's memory, of which there is less. */
enum { PIPELINE_DEVICE_THREADS = 2 };
size_t pipeline_threads(const pipeline_runs *runs);

/* One run with a progress line. `samples`, `counters`, `seconds` and `observers` may be NULL. */
typedef struct pipeline_run {
    const char *label;
    const ousac_schedule *schedule;
    cli_range range;
    int exact;
    const ousac_calibration *calibration;
    int extrapolate_modules; /* as in ousac_run */
    const ousac_run_observers *observers;
    float *samples;
    ousac_counters *counters;
    double *seconds;
} pipeline_run;
ousac_status pipeline_run_samples(const pipeline_runs *runs, const pipeline_run *run, ousac_error *error);

/* How samples converged where their number was left to the recording: after every round, by how much the
 * factors at uniform ranks leave more than the best of these ranks would (calib/stats/convergence.h). */
enum { PIPELINE_ROUNDS_MAX = 96 };
typedef struct pipeline_round {
    uint64_t samples;
    double excess, upper; /* averaged over layers: estimate and one-sided 95 % limit */
    double worst;         /* of a single layer */
    char worst_site[OUSAC_NAME_BYTES];
} pipeline_round;
typedef struct pipeline_convergence {
    size_t rounds; /* 0: the number of samples was given */
    int converged; /* the last limit is within the tolerance */
    double tolerance;
    double budget_step; /* the ranks at which it was judged, as MACs of a cached evaluation over a full one */
    pipeline_round round[PIPELINE_ROUNDS_MAX];
} pipeline_convergence;

/* What profiling cost. */
typedef struct pipeline_cost {
    double seconds;    /* over all the runs that it was interrupted into */
    uint64_t forwards; /* branch evaluations, summed over samples */
    cli_range pilot;   /* samples behind the step weights; count 0 for plain weights */
    pipeline_convergence convergence;
} pipeline_cost;

/* The state that an interrupted recording leaves and goes on from: pipeline/partial.h. */
typedef struct pipeline_partial pipeline_partial;

/* What a recording of these runs is of; `tokens` 0: the default number. */
ousac_profile_identity pipeline_identity(const pipeline_runs *runs, size_t tokens, size_t segments);

/* An exact run of samples [0, samples), recorded without moments; its step weights are set. Where `partial`
 * (may be NULL) holds the weights of an earlier run, nothing is run, and the pilot has weights but no sums.
 */
ousac_status pipeline_pilot(const pipeline_runs *runs, const ousac_schedule *schedule, uint64_t samples,
                            pipeline_partial *partial, ousac_profile **pilot, pipeline_cost *cost,
                            ousac_error *error);

/* Step weights of a pilot (or of any profile) in a file, and its samples as cost->pilot: MISMATCH where it is
 * of another model, schedule or seed. */
ousac_status pipeline_load_weights(const pipeline_runs *runs, const ousac_schedule *schedule,
                                   const char *path, ousac_profile **weights, pipeline_cost *cost,
                                   ousac_error *error);

typedef struct pipeline_profile_options {
    cli_range range;
    int magnitudes;               /* 1: channel magnitudes too, which ca-svd and cd-svd factors need */
    size_t tokens;                /* per sample and step; 0: min(N, PIPELINE_TOKENS) */
    size_t segments;              /* at least 1 */
    const ousac_profile *weights; /* NULL: every step weighs 1 */
    pipeline_partial *partial;    /* NULL: an interrupted recording leaves nothing */
    const char *spill;            /* NULL, or a directory in which to keep the moments */
} pipeline_profile_options;
ousac_status pipeline_profile(const pipeline_runs *runs, const ousac_schedule *schedule,
                              const pipeline_profile_options *options, ousac_profile **profile,
                              pipeline_cost *cost, ousac_error *error);

/* As many samples from 0 as it takes until the upper limit of the excess is within the tolerance, at the
 * uniform ranks of a budget, or until there are `most`. The profile is that of pipeline_profile on as many
 * samples, byte for byte; five more of its size are held meanwhile. What was found is left in
 * cost->convergence. options->range is not looked at. USAGE where no layer is corrected. */
typedef struct pipeline_auto {
    double tolerance;
    size_t most; /* samples; used in full micro-batches, four at a time */
    pipeline_budget budget;
} pipeline_auto;
ousac_status pipeline_auto_check(const pipeline_auto *automatic, size_t micro_batch, ousac_error *error);
ousac_status pipeline_profile_auto(const pipeline_runs *runs, const ousac_schedule *schedule,
                                   const pipeline_profile_options *options, const pipeline_auto *automatic,
                                   ousac_profile **profile, pipeline_cost *cost, ousac_error *error);
void pipeline_convergence_print(const pipeline_convergence *found);
void pipeline_convergence_put(json_doc *doc, cJSON *object, const pipeline_convergence *found);

#define PIPELINE_AUTO_OPTIONS(automatic)                                                                     \
    {"tolerance",                                                                                            \
     0,                                                                                                      \
     CLI_REAL,                                                                                               \
     &(automatic)->tolerance,                                                                                \
     1e-6,                                                                                                   \
     10,                                                                                                     \
     0,                                                                                                      \
     "X",                                                                                                    \
     "of --samples auto: what the factors may leave above the best, squared (default 0.02)"},                \
    {                                                                                                        \
        "samples-max", 0, CLI_SIZE, &(automatic)->most, 1, PIPELINE_SAMPLES_MAX, 0, "N",                     \
            "of --samples auto: stop there in any case (default 256)"                                        \
    }

/* Adds a cost and what is known of this process, for a profile's metadata and for --json. */
void pipeline_put_run(json_doc *doc, cJSON *object, const pipeline_runs *runs, const pipeline_cost *cost);
/* `reproducible` 1: without what differs from run to run (time, memory, threads), so that the same samples
 * give the same bytes. */
ousac_status pipeline_save_profile(const pipeline_runs *runs, const ousac_profile *profile, const char *path,
                                   const pipeline_cost *cost, int reproducible, ousac_error *error);

/* --- allocating --- */

/* The budget in MACs of one cached forward, and as a fraction of a full one. USAGE where both are given,
 * where the schedule has no cached evaluation, or where the budget lies outside what ranks can reach: floor
 * and ceiling are named. */
ousac_status pipeline_budget_solve(const ousac_arch *arch, const ousac_schedule *schedule,
                                   const pipeline_budget *budget, uint64_t *macs, double *step,
                                   ousac_error *error);

/* "delta-cov", "svd", "ca-svd", "cd-svd": what factors are made of. */
ousac_status pipeline_factors_parse(ousac_method *method, const char *name, ousac_error *error);

#define PIPELINE_FACTORS_OPTION(name)                                                                        \
    {                                                                                                        \
        "factors", 0, CLI_TEXT, (name), 0, 0, 0, "NAME",                                                     \
            "what factors are made of: delta-cov, or as published: svd, ca-svd, cd-svd (default delta-cov)"  \
    }

ousac_status pipeline_factors(const pipeline_runs *runs, const ousac_profile *profile, ousac_method method,
                              ousac_factor_set **set, ousac_error *error);
/* The same, at most rank_max[site] directions of each: spectra alone where those are 0. */
ousac_status pipeline_factors_within(const pipeline_runs *runs, const ousac_profile *profile,
                                     ousac_method method, const size_t *rank_max, ousac_factor_set **set,
                                     ousac_error *error);

/* How ranks are chosen. */
typedef enum pipeline_method {
    PIPELINE_UNIFORM = 0,  /* one rank for all sites */
    PIPELINE_KNAPSACK = 1, /* least sum of relative local errors */
    PIPELINE_REGIONS = 2,  /* calib/choose/regions.h, on the end-to-end error */
    PIPELINE_DESCENT = 3,  /* calib/choose/descent.h, on the end-to-end error */
    PIPELINE_METHODS = 4
} pipeline_method;
/* What "auto" compares: bits, 1 << method. */
enum { PIPELINE_METHODS_AUTO = 1 << PIPELINE_UNIFORM | 1 << PIPELINE_KNAPSACK };
/* A comma-separated list of names, or "auto", as bits. */
ousac_status pipeline_methods_parse(unsigned *methods, const char *text, ousac_error *error);

/* Whether a plan forecasts what its factors leave: never, always, or where it is better end to end. */
typedef enum pipeline_forecast {
    PIPELINE_FORECAST_OFF = 0,
    PIPELINE_FORECAST_ON = 1,
    PIPELINE_FORECAST_AUTO = 2
} pipeline_forecast;
ousac_status pipeline_forecast_parse(pipeline_forecast *forecast, const char *name, ousac_error *error);

typedef struct pipeline_allocate_options {
    const char *name; /* of the plan */
    unsigned methods; /* bits, 1 << pipeline_method */
    pipeline_forecast forecast;
    pipeline_budget budget;
    size_t granularity, rank_min; /* of the knapsack */
    size_t evaluations;           /* of a search on the end-to-end error, which runs on the first
                                     PIPELINE_SEARCH_SAMPLES           calibration samples; 0 for
                                     OUSAC_REGIONS_EVALUATIONS */
    cli_range validation; /* count 0: none; where plans are compared, the samples after the calibration's */
} pipeline_allocate_options;

/* A plan that was considered. */
typedef struct pipeline_candidate {
    int present;
    int probed; /* 1: the certificate is of a descent's own error model, see calib/choose/descent.h */
    ousac_allocation allocation;
    ousac_forecast *forecast; /* NULL for none */
    double cached_step;       /* forecast included */
    double measured;    /* relative error of the final sample on the validation samples; NAN: not measured */
    size_t evaluations; /* of its search; 0 where there was none */
    double seconds;     /* of making it */
} pipeline_candidate;

/* Candidate i allocates by method i % PIPELINE_METHODS; from PIPELINE_METHODS on with a forecast. */
enum { PIPELINE_CANDIDATES = 2 * PIPELINE_METHODS };
const char *pipeline_candidate_name(int candidate); /* "uniform+forecast" */

typedef struct pipeline_choice {
    pipeline_candidate candidate[PIPELINE_CANDIDATES];
    int chosen;
    int validated;
    cli_range validation;
    ousac_plan *plan;      /* of the chosen candidate */
    ousac_cost_total cost; /* of its trajectory */
    double budget_step;    /* as solved */
} pipeline_choice;

/* The residual forecast of ranks, fitted along the exact trajectory of `range`. */
ousac_status pipeline_fit_forecast(const pipeline_runs *runs, const ousac_schedule *schedule,
                                   const cli_range *range, ousac_factor_set *set, const size_t *rank,
                                   const char *label, ousac_forecast **forecast, ousac_error *error);
/* MACs that a forecast adds to a cached evaluation in which every site is corrected. */
uint64_t pipeline_forecast_macs(const ousac_arch *arch);

/* `runs` carries the profile's own seed and micro-batch. Free with pipeline_choice_free. */
ousac_status pipeline_allocate(const pipeline_runs *runs, const ousac_profile *profile, ousac_factor_set *set,
                               const pipeline_allocate_options *options, pipeline_choice *choice,
                               ousac_error *error);
/* 1 where pipeline_allocate will run the model: to compare, to fit, or as asked. */
int pipeline_allocate_runs(const pipeline_allocate_options *options);
/* The most directions that any candidate can take of each site (site_count), from shapes alone: none where no
 * model is run and the spectra suffice. */
ousac_status pipeline_allocate_ranks(const ousac_arch *arch, uint64_t macs,
                                     const pipeline_allocate_options *options, size_t *rank_max,
                                     ousac_error *error);
void pipeline_choice_free(pipeline_choice *choice);
void pipeline_choice_print(const pipeline_choice *choice, const ousac_arch *arch);
void pipeline_choice_put(json_doc *doc, cJSON *object, const pipeline_choice *choice, const ousac_arch *arch);

/* The validation range that a plan's note begins with; 0 where there is none. */
int pipeline_note_range(const char *note, cli_range *range);

/* --- packing --- */

enum { PIPELINE_RANGES_MAX = 64 };

/* Ranges of samples and what each was used for: static texts. */
typedef struct pipeline_ranges {
    size_t count;
    cli_range range[PIPELINE_RANGES_MAX];
    const char *use[PIPELINE_RANGES_MAX]; /* "calibration", "pilot", "validation" */
} pipeline_ranges;

/* The samples behind the step weights of a saved profile, from what it records of its runs; none where it
 * says nothing. */
ousac_status pipeline_read_pilots(const char *path, pipeline_ranges *pilots, ousac_error *error);

/* Writes the bundle with its provenance; opened again and verified as a whole before it gets its name. */
ousac_status pipeline_pack(const char *path, const ousac_model *model, const ousac_profile *profile,
                           const pipeline_ranges *pilots, const ousac_factor_set *set,
                           const ousac_plan *const *plans, size_t plan_count, const pipeline_storage *storage,
                           int keep_all, ousac_error *error);

/* The same without a set: factors by `method` are made and written group by group, with progress. */
ousac_status pipeline_pack_stream(const char *path, const pipeline_runs *runs, const ousac_profile *profile,
                                  const pipeline_ranges *pilots, ousac_method method,
                                  const ousac_plan *const *plans, size_t plan_count,
                                  const pipeline_storage *storage, int keep_all, ousac_error *error);

/* Which samples made a bundle. */
typedef struct pipeline_provenance {
    int known; /* 0: the bundle does not say */
    uint64_t seed;
    pipeline_ranges used;
} pipeline_provenance;
ousac_status pipeline_read_provenance(const char *path, pipeline_provenance *provenance, ousac_error *error);

#endif
