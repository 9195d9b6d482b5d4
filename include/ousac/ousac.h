/* Calibration as a library: what `ousac profile`, `allocate`, `pack`, `eval`, `sample` and `calibrate` do, without a
 * terminal, on a checkpoint or on a model that the caller runs; and capture, of a loop that the caller runs.
 *
 *     #include <ousac/ousac.h>          cc program.c $(pkg-config --cflags --libs ousac)
 *
 * A context holds a loaded model and how it is run. Its functions read and write the same files as the program, by the
 * same code, and may be mixed with it. Structures that a caller fills begin with their size, set by the matching
 * _init function together with the defaults, so that a program built for an older header goes on working with a newer
 * library: _init is in this header and tells the library, by _init_sized, how long the structure is for the program.
 *
 * Errors: every fallible function returns a status and, where an error object is given, one line that says what was
 * wrong; fields are named in backticks. Outputs appear complete or not at all.
 * Threads: a context is used by one thread at a time, but for ousac_context_interrupt; several contexts may be open.
 * Stable: this header, <ousac/status.h>, <ousac/version.h> and <ousac/oca.h>, within a minor version (see version.h).
 * Nothing else of the library can be linked.
 */
#ifndef OUSAC_OUSAC_H
#define OUSAC_OUSAC_H

#include <ousac/status.h>
#include <ousac/version.h>

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_context ousac_context;

typedef struct ousac_context_options {
    size_t size;        /* of this structure: by ousac_context_options_init */
    const char *model;  /* checkpoint; required */
    const char *config; /* its config.json; NULL: beside the checkpoint */
    const char *device; /* "cpu", "cuda", "cuda:N", "auto"; NULL: cpu */
    size_t heads;       /* attention heads where the config lacks them; 0: from the config */
    int bf16;           /* 1: the linears in bfloat16 */
    uint64_t seed;      /* of noise and conditioning */
    size_t micro_batch; /* samples computed together; part of a profile's identity */
    size_t threads;     /* 0: the processors that the process may use */
    /* Told of progress and notes, from any thread; NULL for nobody. `label` names the work under way. */
    void *self;
    void (*progress)(void *self, const char *label, uint64_t done, uint64_t total);
    void (*note)(void *self, const char *line);
    const char *inputs; /* inputs file (docs/MODELS.md); NULL: conditioning and noise are drawn by the seed */
} ousac_context_options;

void ousac_context_options_init_sized(ousac_context_options *options, size_t size);
static inline void ousac_context_options_init(ousac_context_options *options) {
    ousac_context_options_init_sized(options, sizeof *options);
}

/* Loads the model. Texts of `options` are not kept, `self` is. Errors: USAGE for a structure of another size or without
 * a model; IO, FORMAT, UNSUPPORTED, MEMORY. Close with ousac_context_close. */
ousac_status ousac_context_open(ousac_context **context, const ousac_context_options *options,
                                ousac_error *error);
void ousac_context_close(ousac_context *context); /* NULL is fine */

/* Asks the work under way in the context to end with INTERRUPTED; from another thread or a signal handler. Work that is
 * begun later is interrupted too. */
void ousac_context_interrupt(ousac_context *context);

/* Numbers of one sample: channels, height and width. */
void ousac_context_sample_shape(const ousac_context *context, size_t shape[3]);

/* --- a model that is the caller's --- */

/* The evaluation under way of a model that the caller runs. */
typedef struct ousac_host_call ousac_host_call;

typedef struct ousac_host_evaluation {
    int branch;            /* 0: conditional, 1: unconditional */
    uint64_t first, count; /* samples, whose conditioning the caller knows */
    double timestep,
        guidance; /* guidance: what the step states, else its scale, 1 without: for models that are told it */
    const float *x; /* (count, channels, height, width) */
    float *out;     /* what the model predicts, likewise */
    int told;       /* 1: the step states `guidance`, which counts before what inputs say */
} ousac_host_evaluation;

typedef struct ousac_host_model {
    size_t size;      /* of this structure: by ousac_host_model_init */
    const char *name; /* in messages */
    const char *
        arch; /* sites, groups, modules and streams: JSON as the metadata `arch` of a profile (formats/PROFILE.md) */
    const char
        *levels; /* noise levels as the key `betas` in docs/MODELS.md: "linear 1e-4 0.02 1000", "flow 1000" */
    const char *prediction; /* "epsilon", "v", "flow" or "sample" */
    const char *constants;  /* what else decides a forward, in any words; NULL: nothing */
    const char *rest;       /* a digest of the weights that are no site's; NULL: none */
    size_t channels, height, width;
    size_t guided_channels;     /* guidance acts on the first of the channels; 0: all */
    int has_uncond;             /* 1: the unconditional branch can be run */
    const float *const *weight; /* per site (m, n), row-major; they stay the caller's, and as they are */
    const float *const *bias;   /* per site (m), or NULL; the array may be NULL */
    void *self;
    /* Runs the model, and in it every linear by ousac_host_linear. Called on any thread, one call at a time. 0, or
     * anything else where it failed, which ends the work; it may then put one line of at most `bytes` into `message`. */
    int (*forward)(void *self, const ousac_host_evaluation *evaluation, ousac_host_call *call, char *message,
                   size_t bytes);
    int captured; /* 1: `forward` may be NULL. Such a context captures, packs, and plans without comparing (`compare` 0,
                     `forecast` 0); what would run the model is refused */
    int rescaled; /* 1: where both branches are evaluated, every row of `width` values of the guided prediction is given the
                     length of the conditional one's, as pipelines of Qwen-Image do; guidance is on all channels then */
    int takes_guidance; /* 1: it is told a guidance; 0: schedules whose steps state one are refused */
} ousac_host_model;

void ousac_host_model_init_sized(ousac_host_model *model, size_t size);
static inline void ousac_host_model_init(ousac_host_model *model) {
    ousac_host_model_init_sized(model, sizeof *model);
}

/* As ousac_context_open, for a model that the caller runs: `model`, `config`, `device`, `heads` and `bf16` of the options
 * are not looked at. Texts of `model` are not kept. Errors: USAGE naming the field; FORMAT for `arch`; NUMBER for a weight
 * that is not finite. */
ousac_status ousac_context_open_host(ousac_context **context, const ousac_context_options *options,
                                     const ousac_host_model *model, ousac_error *error);

/* Within ousac_host_model.forward. Matrices are contiguous, (count times the tokens of their stream, columns). After a
 * failure these do nothing but return it, and the evaluation fails by it, whatever the forward returns.
 *
 * Before a module: `out` has a matrix for each of its outputs. *live = 0: they have been written, and the module is to be
 * skipped: neither its linears nor ousac_host_module_end are called. */
ousac_status ousac_host_module_begin(ousac_host_call *call, size_t module, float *const *out, int *live);
/* All sites of a group on their shared input: x (rows, n) -> y (rows, sum of m), sites side by side. Every group of a live
 * module once an evaluation, in the module; USAGE naming one that came twice or not at all. */
ousac_status ousac_host_linear(ousac_host_call *call, size_t group, const float *x, float *y);
/* After a live module, with its outputs before the gate of the residual sum. */
ousac_status ousac_host_module_end(ousac_host_call *call, size_t module, const float *const *out);

/* --- profile: the deltas that a schedule's cache makes --- */

typedef struct ousac_context_profile_options {
    size_t size;
    uint64_t first, count; /* samples; first a multiple of the micro-batch */
    uint64_t pilot;        /* samples 0:pilot find the step weights; 0: every step weighs the same */
    size_t tokens;         /* of a sample that are recorded; 0: at most 64 */
} ousac_context_profile_options;
void ousac_context_profile_options_init_sized(ousac_context_profile_options *options, size_t size);
static inline void ousac_context_profile_options_init(ousac_context_profile_options *options) {
    ousac_context_profile_options_init_sized(options, sizeof *options);
}

/* Runs the model exactly under the schedule (a file) and writes the profile (.oca) to `output`. */
ousac_status ousac_context_profile(ousac_context *context, const char *schedule,
                                   const ousac_context_profile_options *options, const char *output,
                                   ousac_error *error);

/* --- capture: a profile from a loop that is the caller's --- */

/* Activations are handed over as they pass; nothing is run here. Samples come in micro-batches, each from its first
 * evaluation to its last before the next begins, or, with `at_once`, several interleaved. The steps of a branch of a
 * micro-batch come in the schedule's order, none left out; of the two branches either may be ahead, and an evaluation of
 * each may be open at once. In an evaluation every group's input comes exactly once, groups and branches in any order. Sums
 * of the branches are added as they come, and those of a micro-batch at its end: another order changes them by rounding.
 *
 * What breaks the rules is USAGE and names group, site or step. After any failure the micro-batches under way are forgotten;
 * those before stay, and the same samples may come again from their first step. Matrices are read during the call
 * alone. A capture is used by one thread at a time, and not beside other work of its context. */
typedef struct ousac_capture ousac_capture;

typedef enum ousac_capture_dtype {
    OUSAC_CAPTURE_F32 = 0, /* IEEE 754 */
    OUSAC_CAPTURE_F16 = 1,
    OUSAC_CAPTURE_BF16 = 2
} ousac_capture_dtype;

typedef struct ousac_capture_options {
    size_t size;
    uint64_t first,
        count;     /* samples; first a multiple of the micro-batch; shards are merged by `ousac merge` */
    size_t tokens; /* of a sample that are recorded; 0: at most 64 */
    ousac_capture_dtype dtype; /* in which the caller's model computes: part of the profile's identity */
    int outputs;         /* 1: outputs of sites are handed over too; 0: computed from the context's weights */
    int pilot;           /* 1: a pilot, which has step weights and no moments */
    const char *weights; /* a pilot's file, for its step weights; NULL: every step weighs the same */
    size_t at_once; /* micro-batches under way, at most, each with references and moments of its own; 0: 1 */
} ousac_capture_options;
void ousac_capture_options_init_sized(ousac_capture_options *options, size_t size);
static inline void ousac_capture_options_init(ousac_capture_options *options) {
    ousac_capture_options_init_sized(options, sizeof *options);
}

/* Under a schedule (a file), of the context's model, with its micro-batch; samples are its own by seed and inputs. The
 * context is borrowed. Errors: USAGE for options or a schedule that does not suit the model; IO, FORMAT, MISMATCH, MEMORY.
 * Close with ousac_capture_close, which writes nothing. */
ousac_status ousac_capture_open(ousac_capture **capture, ousac_context *context, const char *schedule,
                                const ousac_capture_options *options, ousac_error *error);
void ousac_capture_close(ousac_capture *capture); /* NULL is fine */

/* Row-major, contiguous. */
typedef struct ousac_capture_matrix {
    const void *data;
    ousac_capture_dtype dtype;
    size_t rows, columns; /* rows: tokens of its stream, of all samples one behind another */
    int taken;            /* 1: only the rows of ousac_capture_rows */
} ousac_capture_matrix;

/* An evaluation of samples [first, first + count): the micro-batch, at the end of the range what is left. step: index
 * into the schedule; branch 0: conditional, 1: unconditional. */
ousac_status ousac_capture_begin(ousac_capture *capture, uint64_t first, uint64_t count, size_t step,
                                 int branch, ousac_error *error);
/* Which rows of a stream are looked at in the branch's open evaluation, rising, so that no others need be fetched from
 * a device. *rows NULL: all of them. Valid until the evaluation ends. */
ousac_status ousac_capture_rows(ousac_capture *capture, int branch, size_t stream, const uint32_t **rows,
                                size_t *count, ousac_error *error);
/* Input of a group (rows, n); with `outputs` those of its sites (rows, m), bias included. */
ousac_status ousac_capture_input(ousac_capture *capture, int branch, size_t group,
                                 const ousac_capture_matrix *x, ousac_error *error);
ousac_status ousac_capture_output(ousac_capture *capture, int branch, size_t site,
                                  const ousac_capture_matrix *y, ousac_error *error);
/* Output number `output` of a module, before the gate of the residual sum; not needed where it is that of the module's
 * last linear. */
ousac_status ousac_capture_module(ousac_capture *capture, int branch, size_t module, size_t output,
                                  const ousac_capture_matrix *out, ousac_error *error);
/* USAGE naming what did not come; NUMBER naming site or module, step and branch, where activations are not finite. */
ousac_status ousac_capture_end(ousac_capture *capture, int branch, ousac_error *error);

/* Gives up the micro-batches under way: after a failure of the caller's own. */
void ousac_capture_forget(ousac_capture *capture);

/* Writes the profile (.oca). USAGE, naming the first sample that is missing, unless all came to their last step. */
ousac_status ousac_capture_write(ousac_capture *capture, const char *output, ousac_error *error);

/* --- allocate: ranks under a budget --- */

typedef struct ousac_context_plan_options {
    size_t size;
    double budget_step;  /* MACs of a cached evaluation over a full one; NAN where budget_total is given */
    double budget_total; /* MACs of the trajectory over constant guidance uncached; NAN: by budget_step */
    int forecast;        /* 0: never, 1: always, 2: where better end to end */
    int compare;         /* 1: uniform ranks and the knapsack, compared end to end; 0: uniform ranks */
} ousac_context_plan_options;
void ousac_context_plan_options_init_sized(ousac_context_plan_options *options, size_t size);
static inline void ousac_context_plan_options_init(ousac_context_plan_options *options) {
    ousac_context_plan_options_init_sized(options, sizeof *options);
}

/* Writes the plan (.oca). The context's seed and micro-batch give way to the profile's. */
ousac_status ousac_context_plan(ousac_context *context, const char *profile,
                                const ousac_context_plan_options *options, const char *output,
                                ousac_error *error);

/* --- pack: the bundle that ships --- */

/* Writes factors, plan, schedule and provenance as one verified file (.oca). */
ousac_status ousac_context_pack(ousac_context *context, const char *profile, const char *plan,
                                const char *output, ousac_error *error);

/* --- evaluate: what the bundle is worth --- */

typedef struct ousac_context_evaluate_options {
    size_t size;
    uint64_t first, count; /* held-out samples; first a multiple of the micro-batch */
    const char *
        reference; /* schedule of the uncached reference; NULL: constant guidance at the schedule's own steps */
    int force;     /* 1: samples that made the bundle are allowed */
} ousac_context_evaluate_options;
void ousac_context_evaluate_options_init_sized(ousac_context_evaluate_options *options, size_t size);
static inline void ousac_context_evaluate_options_init(ousac_context_evaluate_options *options) {
    ousac_context_evaluate_options_init_sized(options, sizeof *options);
}

/* Relative error of final samples: root of the mean of squares over samples, with a 95 % bootstrap interval (NAN where it
 * has none). */
typedef struct ousac_context_error {
    double mean, low, high;
} ousac_context_error;

typedef struct ousac_context_evaluation {
    size_t size;
    int held_out;                          /* 1: known to be disjoint from the samples that made the bundle */
    ousac_context_error calibrated, reuse; /* against the exact run of the bundle's schedule */
    ousac_context_error against_reference; /* calibrated against the reference */
    double macs_share;                     /* of the calibrated run, over the reference's */
    double calibrated_s, exact_s, reference_s; /* wall time of the runs */
} ousac_context_evaluation;
void ousac_context_evaluation_init_sized(ousac_context_evaluation *result, size_t size);
static inline void ousac_context_evaluation_init(ousac_context_evaluation *result) {
    ousac_context_evaluation_init_sized(result, sizeof *result);
}

/* Runs the samples exactly, calibrated, with plain reuse, and as the reference. USAGE for samples that made the bundle,
 * MISMATCH for a bundle of another model. The seed is the bundle's. */
ousac_status ousac_context_evaluate(ousac_context *context, const char *bundle,
                                    const ousac_context_evaluate_options *options,
                                    ousac_context_evaluation *result, ousac_error *error);

/* --- sample --- */

/* Final samples [first, first + count) as float32 (count, channels, height, width) into `samples`, which has room for
 * that many values: under `schedule` as its gates say, or in full where those need a bundle; or, where a bundle is given,
 * calibrated by it under its own schedule (`schedule` NULL). */
ousac_status ousac_context_sample(ousac_context *context, const char *schedule, const char *bundle,
                                  uint64_t first, uint64_t count, float *samples, ousac_error *error);

/* --- calibrate: from what is run today and a budget to a bundle --- */

typedef struct ousac_context_calibrate_options {
    size_t size;
    const char
        *reference; /* schedule (a file) of what is run today, uncached; required where `schedule` is NULL */
    const char *schedule; /* with gates decided; NULL: searched for */
    double
        budget_total; /* MACs: of the reference where the schedule is searched for, else of constant guidance */
    int effort;       /* of a search: 0 quick, 1 full, 2 by the model's size as `ousac calibrate` does */
    uint64_t samples, validation; /* calibration samples, from 0, and those that accept the plan */
    size_t tokens;                /* of a sample that are recorded; 0: at most 64 */
    double budget_time; /* of a search, instead of budget_total: seconds over the reference's; NAN: by that */
    const char
        *time; /* of budget_time: what evaluations take, by `ousac time`; NULL: measured, into time.json */
} ousac_context_calibrate_options;
void ousac_context_calibrate_options_init_sized(ousac_context_calibrate_options *options, size_t size);
static inline void ousac_context_calibrate_options_init(ousac_context_calibrate_options *options) {
    ousac_context_calibrate_options_init_sized(options, sizeof *options);
}

typedef struct ousac_context_calibration {
    size_t size;
    int cached;   /* 0: no factors pay at this budget; schedule.json is all, to be run as its gates say */
    size_t steps; /* of the schedule */
    double
        validation_error; /* of the search's best, on all samples that it was chosen on; NAN without a search */
    uint64_t next_sample; /* the first sample that nothing has used: where an evaluation may begin */
} ousac_context_calibration;
void ousac_context_calibration_init_sized(ousac_context_calibration *result, size_t size);
static inline void ousac_context_calibration_init(ousac_context_calibration *result) {
    ousac_context_calibration_init_sized(result, sizeof *result);
}

/* As `ousac calibrate` does, into the folder `directory`, made where it is missing: schedule.json, weights.oca (of the
 * steps), profile.oca, plan.oca, bundle.oca, and time.json where time was measured. Gates that the schedule leaves open are
 * decided first. The same call, made again after one that was interrupted, goes on from what stands there. */
ousac_status ousac_context_calibrate(ousac_context *context, const ousac_context_calibrate_options *options,
                                     const char *directory, ousac_context_calibration *result,
                                     ousac_error *error);

/* --- which weights a bundle was made for --- */

/* The projections by which a bundle knows the weights of its site number `site` (formats/BUNDLE.md, "Identity of the
 * model"): w (m, n), row-major. */
void ousac_site_projections(size_t site, size_t m, size_t n, const float *w, double projections[4]);

#ifdef __cplusplus
}
#endif

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#endif
