/* Rows that the tables of several commands share. `at`: the offset of the part of the request that they fill.
 */
#ifndef OUSAC_CLI_OPTIONS_H
#define OUSAC_CLI_OPTIONS_H

#include "pipeline/allocate.h"
#include "pipeline/budget.h"
#include "pipeline/memory_plan.h"
#include "pipeline/pack.h"
#include "pipeline/partial.h"
#include "pipeline/record_auto.h"
#include "pipeline/session.h"
#include "tools/cli/cli.h"

/* clang-format off */

/* Fills an ousac_session_model. */
#define OPTIONS_MODEL(at) \
    {"model", 'm', CLI_INPUT, (at) + offsetof(ousac_session_model, path), "FILE", CLI_REQUIRED, \
     "checkpoint: .safetensors, an index of shards, or a folder of diffusers", 0, 0}, \
    {"config", 0, CLI_INPUT, (at) + offsetof(ousac_session_model, config), "FILE", NULL, \
     "the model's config.json (default: beside the checkpoint)", 0, 0}, \
    {"compute", 0, CLI_CHOICE, (at) + offsetof(ousac_session_model, bf16), "f32|bf16", "f32", \
     "how the model's linears run, on a GPU attention too; bf16 needs bfloat16 units, on a CPU oneDNN", 0, 0}, \
    {"inputs", 0, CLI_INPUT, (at) + offsetof(ousac_session_model, inputs), "FILE", NULL, \
     "what the samples are conditioned on, and their noise, .safetensors; sample j takes row j mod P (default: drawn " \
     "by the seed)", 0, 0}, \
    {"heads", 0, CLI_SIZE, (at) + offsetof(ousac_session_model, heads), "N", NULL, \
     "attention heads (default: from the config)", 1, 4096}

/* Of a command that runs the model. */
#define OPTIONS_DEVICE(at) \
    {"device", 0, CLI_TEXT, (at) + offsetof(ousac_session_model, device), "NAME", "cpu", \
     "where to compute: cpu, cuda, cuda:N, or auto, cuda where there is one", 0, 0}

#define OPTIONS_SEED(at) {"seed", 0, CLI_U64, at, "N", "0", "of noise and conditioning", 0, 0}

#define OPTIONS_MICRO_BATCH(at) \
    {"micro-batch", 0, CLI_SIZE, at, "N", CLI_TEXT_OF(OUSAC_DEFAULT_MICRO_BATCH), "samples computed together", \
     1, OUSAC_MICRO_BATCH_MAX}

/* Fills an ousac_budget. */
#define OPTIONS_BUDGET(at) \
    {"budget-step", 0, CLI_REAL, (at) + offsetof(ousac_budget, step), "X", NULL, \
     "MACs of a cached evaluation over a full one (default " CLI_TEXT_OF(OUSAC_DEFAULT_BUDGET_STEP) ")", 0, 0}, \
    {"budget-total", 0, CLI_REAL, (at) + offsetof(ousac_budget, total), "X", NULL, \
     "instead: MACs of the trajectory over constant guidance uncached", 0, 0}

/* Fills an ousac_choice_options' methods, evaluations and forecast. */
#define OPTIONS_METHOD(at) \
    {"method", 0, CLI_CHOICES, (at) + offsetof(ousac_choice_options, methods), \
     "uniform|knapsack|regions|descent", "uniform,knapsack", \
     "how ranks are chosen: some of these, separated by commas, compared end to end", 0, 0}
#define OPTIONS_FORECAST(at) \
    {"forecast", 0, CLI_CHOICE, (at) + offsetof(ousac_choice_options, forecast), "off|on|auto", "auto", \
     "extrapolate what the factors leave; auto: where better end to end", 0, 0}

/* Fills an ousac_method. */
#define OPTIONS_FACTORS(at) \
    {"factors", 0, CLI_CHOICE, at, "delta-cov|svd|ca-svd|cd-svd", "delta-cov", \
     "what factors are made of: the deltas, or as published", 0, 0}

/* Fills an options_storage. */
#define OPTIONS_STORAGE(at) \
    {"dtype", 0, CLI_CHOICE, (at) + offsetof(options_storage, dtype), "auto|f32|bf16|f16|i8", "auto", \
     "of the stored factors; auto: the cheapest that adds below 1 % to a layer's error", 0, 0}, \
    {"codec", 0, CLI_CHOICE, (at) + offsetof(options_storage, codec), "raw|zstd|shuffle+zstd", "shuffle+zstd", \
     "of the stored factors; raw is what a runtime can map", 0, 0}

/* Fills an ousac_record_auto_options. */
#define OPTIONS_RECORD_AUTO(at) \
    {"tolerance", 0, CLI_REAL, (at) + offsetof(ousac_record_auto_options, tolerance), "X", \
     CLI_TEXT_OF(OUSAC_DEFAULT_TOLERANCE), \
     "of --samples auto: what the factors may leave above the best, squared", 1e-6, 10}, \
    {"samples-max", 0, CLI_SIZE, (at) + offsetof(ousac_record_auto_options, most), "N", \
     CLI_TEXT_OF(OUSAC_DEFAULT_AUTO_MOST), "of --samples auto: stop there in any case", 1, OUSAC_SAMPLES_MAX}

/* Fills an ousac_partial_options. */
#define OPTIONS_PARTIAL(at) \
    {"checkpoint-every", 0, CLI_REAL, (at) + offsetof(ousac_partial_options, every_s), "SECONDS", \
     CLI_TEXT_OF(OUSAC_DEFAULT_CHECKPOINT_S), \
     "least time between two saves of the partial profile; 0 saves after every micro-batch", 0, 1e9}, \
    {"restart", 0, CLI_FLAG, (at) + offsetof(ousac_partial_options, restart), NULL, NULL, \
     "discard what an interrupted run left, and begin anew", 0, 0}

/* Fills an ousac_memory_options. */
#define OPTIONS_MEMORY(at) \
    {"memory", 0, CLI_TEXT, (at) + offsetof(ousac_memory_options, limit), "SIZE", NULL, \
     "stay below this much resident memory, for instance 6GiB, with fewer threads where need be, or refuse at once " \
     "(default: no limit)", 0, 0}, \
    {"dry-run", 0, CLI_FLAG, (at) + offsetof(ousac_memory_options, dry_run), NULL, NULL, \
     "say what memory, multiply-accumulates and files it will take, and do nothing", 0, 0}
#define OPTIONS_SPILL(at) \
    {"spill", 0, CLI_TEXT, (at) + offsetof(ousac_memory_options, spill), "DIR", NULL, \
     "keep the moments in a nameless file in DIR instead of in memory (default: beside the output, where --memory " \
     "asks for it)", 0, 0}

#define OPTIONS_END {NULL, 0, CLI_END, 0, NULL, NULL, NULL, 0, 0}

/* clang-format on */

typedef struct options_storage {
    int dtype; /* 0 auto, then as listed in OPTIONS_STORAGE */
    ousac_oca_codec codec;
} options_storage;

ousac_pack_storage options_pack_storage(const options_storage *storage);
/* "auto", "f32", ...; "raw", ... */
const char *options_dtype_name(const options_storage *storage);

#endif
