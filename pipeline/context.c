#include <ousac/ousac.h>

#include "formats/memory.h"
#include "formats/stop.h"
#include "pipeline/allocate.h"
#include "pipeline/context_parts.h"
#include "pipeline/evaluation.h"
#include "pipeline/factors.h"
#include "pipeline/machine.h"
#include "pipeline/pack.h"
#include "pipeline/record.h"
#include "pipeline/session.h"
#include "pipeline/shard.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/provenance.h"
#include "profile/record/run_text.h"

#include <math.h>
#include <string.h>

/* --- the context --- */

/* A piece of work under way. */
typedef struct told {
    const ousac_context *context;
    char label[64];
} told;

static void *start(void *self, const char *label) {
    const ousac_context *context = self;
    told *work = context->progress ? ousac_calloc(1, sizeof *work) : NULL;
    if (work) {
        work->context = context;
        (void)strncat(work->label, label, sizeof work->label - 1);
    }
    return work; /* work without progress is better than none */
}

static void update(void *handle, uint64_t done, uint64_t total) {
    const told *work = handle;
    work->context->progress(work->context->self, work->label, done, total);
}

static void note(void *self, const char *line) {
    const ousac_context *context = self;
    if (context->note)
        context->note(context->self, line);
}

void ousac_context_options_init_sized(ousac_context_options *options, size_t size) {
    const ousac_context_options defaults = {.size = sizeof defaults,
                                            .micro_batch = OUSAC_DEFAULT_MICRO_BATCH};
    INIT_OPTIONS(options, size, defaults);
}

ousac_status ousac_context_begin(ousac_context **context, const ousac_context_options *o,
                                 ousac_error *error) {
    *context = NULL;
    if (o->micro_batch == 0 || o->micro_batch > OUSAC_MICRO_BATCH_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`micro_batch` is %zu; expected 1 to %d", o->micro_batch,
                          OUSAC_MICRO_BATCH_MAX);
    ousac_context *made = ousac_calloc(1, sizeof *made);
    if (!made)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a context");
    made->self = o->self;
    made->progress = o->progress;
    made->note = o->note;
    made->hooks = (ousac_session_hooks){
        .self = made, .start = start, .update = update, .end = ousac_free, .note = note};
    made->session = (ousac_session){.seed = o->seed,
                                    .micro_batch = o->micro_batch,
                                    .threads = o->threads ? o->threads : ousac_processors(),
                                    .threads_chosen = o->threads != 0,
                                    .stop = &made->stop,
                                    .hooks = &made->hooks};
    *context = made;
    return OUSAC_STATUS_OK;
}

void ousac_context_take_model(ousac_context *context, ousac_model *model) {
    context->model = model;
    context->session.model = model;
}

ousac_status ousac_context_open(ousac_context **context, const ousac_context_options *options,
                                ousac_error *error) {
    ousac_context_options o;
    ousac_context *made = NULL;
    ousac_model *model = NULL;
    *context = NULL;
    TAKE_OPTIONS(ousac_context_options, o, options, error);
    if (!o.model)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`model`: expected the path of a checkpoint");
    ousac_status status = ousac_context_begin(&made, &o, error);
    if (status)
        return status;
    const ousac_session_model load = {.path = o.model,
                                      .config = o.config,
                                      .inputs = o.inputs,
                                      .heads = o.heads,
                                      .bf16 = o.bf16 != 0,
                                      .device = o.device};
    status = ousac_session_load_model(&model, &load, NULL, error);
    if (status) {
        ousac_free(made);
        return status;
    }
    ousac_context_take_model(made, model);
    *context = made;
    return OUSAC_STATUS_OK;
}

void ousac_context_close(ousac_context *context) {
    if (!context)
        return;
    ousac_model_free(context->model);
    ousac_free(context->bridge);
    ousac_free(context);
}

void ousac_context_interrupt(ousac_context *context) {
    ousac_stop_ask(&context->stop);
}

void ousac_context_sample_shape(const ousac_context *context, size_t shape[3]) {
    shape[0] = context->model->channels;
    shape[1] = context->model->height;
    shape[2] = context->model->width;
}

/* --- profile --- */

void ousac_context_profile_options_init_sized(ousac_context_profile_options *options, size_t size) {
    const ousac_context_profile_options defaults = {.size = sizeof defaults,
                                                    .count = OUSAC_DEFAULT_CALIBRATION_SAMPLES,
                                                    .pilot = OUSAC_DEFAULT_PILOT_SAMPLES};
    INIT_OPTIONS(options, size, defaults);
}

ousac_status ousac_context_profile(ousac_context *context, const char *schedule,
                                   const ousac_context_profile_options *options, const char *output,
                                   ousac_error *error) {
    const ousac_session *session = &context->session;
    ousac_context_profile_options o;
    ousac_schedule loaded = {0};
    ousac_profile *pilot = NULL, *profile = NULL;
    ousac_record_cost cost = {0};
    TAKE_OPTIONS(ousac_context_profile_options, o, options, error);
    const ousac_sample_range range = {o.first, o.count};
    ousac_status status = ousac_range_check("first", &range, session->micro_batch, error);
    if (!status)
        status = ousac_session_load_schedule(&loaded, schedule, error);
    if (!status && o.pilot)
        status = ousac_record_pilot(session, &loaded, o.pilot, NULL, &pilot, &cost, error);
    const ousac_record_options record = {.range = range, .tokens = o.tokens, .segments = 1, .weights = pilot};
    if (!status)
        status = ousac_record_profile(session, &loaded, &record, &profile, &cost, error);
    if (!status)
        status = ousac_record_save(session, profile, output, &cost, 0, error);
    ousac_profile_free(profile);
    ousac_profile_free(pilot);
    ousac_schedule_free(&loaded);
    return status;
}

/* --- plan --- */

void ousac_context_plan_options_init_sized(ousac_context_plan_options *options, size_t size) {
    const ousac_context_plan_options defaults = {.size = sizeof defaults,
                                                 .budget_step = NAN,
                                                 .budget_total = NAN,
                                                 .forecast = OUSAC_FORECAST_AUTO,
                                                 .compare = 1};
    INIT_OPTIONS(options, size, defaults);
}

/* The session under which a profile was recorded. */
static ousac_session of_profile(const ousac_context *context, const ousac_profile *profile) {
    ousac_session session = context->session;
    session.seed = profile->identity.seed;
    session.micro_batch = profile->identity.micro_batch;
    return session;
}

ousac_status ousac_context_plan(ousac_context *context, const char *profile,
                                const ousac_context_plan_options *options, const char *output,
                                ousac_error *error) {
    const ousac_arch *arch = &context->model->arch;
    ousac_context_plan_options o;
    ousac_profile *opened = NULL;
    ousac_factor_set *set = NULL;
    ousac_choice choice = {0};
    size_t *rank_max = NULL;
    uint64_t macs = 0;
    double step = 0;
    TAKE_OPTIONS(ousac_context_plan_options, o, options, error);
    if (o.forecast < OUSAC_FORECAST_OFF || o.forecast > OUSAC_FORECAST_AUTO)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`forecast` is %d; expected 0, 1 or 2", o.forecast);
    const ousac_choice_options choose = {.name = "default",
                                         .methods = o.compare ? OUSAC_ALLOCATORS_AUTO
                                                              : 1U << OUSAC_ALLOCATOR_UNIFORM,
                                         .forecast = (ousac_forecast_use)o.forecast,
                                         .budget = {o.budget_step, o.budget_total},
                                         .granularity = OUSAC_DEFAULT_GRANULARITY,
                                         .rank_min = OUSAC_DEFAULT_RANK_MIN};
    ousac_status status = ousac_profile_open(&opened, profile, error);
    if (!status)
        status = ousac_budget_solve(&opened->arch, &opened->schedule, &choose.budget, &macs, &step, error);
    if (status)
        goto done;
    rank_max = ousac_calloc(arch->site_count, sizeof *rank_max);
    if (!rank_max) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks of %zu sites",
                            arch->site_count);
        goto done;
    }
    status = ousac_choice_ranks(arch, macs, &choose, rank_max, error);
    const ousac_session session = of_profile(context, opened);
    if (!status)
        status =
            ousac_session_factors_within(&session, opened, OUSAC_METHOD_DELTA_COV, rank_max, &set, error);
    if (!status)
        status = ousac_choice_create(&session, opened, set, &choose, &choice, error);
    if (!status)
        status = ousac_plan_save(choice.plan, output, error);
done:
    ousac_free(rank_max);
    ousac_choice_free(&choice);
    ousac_factor_set_free(set);
    ousac_profile_free(opened);
    return status;
}

/* --- pack --- */

ousac_status ousac_context_pack(ousac_context *context, const char *profile, const char *plan,
                                const char *output, ousac_error *error) {
    const ousac_pack_storage storage = {.choose = 1, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD};
    ousac_profile *opened = NULL;
    ousac_plan *loaded = NULL;
    ousac_used_ranges pilots;
    char digest[OUSAC_DIGEST_CHARS];
    ousac_status status = ousac_profile_open(&opened, profile, error);
    if (!status)
        status = ousac_run_text_read_pilots(profile, &pilots, error);
    if (!status)
        status = ousac_plan_load(&loaded, plan, error);
    if (!status)
        status = ousac_plan_check(loaded, &opened->arch, plan, error);
    if (status)
        goto done;
    ousac_profile_digest(opened, digest);
    if (strcmp(loaded->profile_digest, digest) != 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                            "%s: not made from %s; expected a plan of this profile", plan, profile);
        goto done;
    }
    const ousac_session session = of_profile(context, opened);
    status = ousac_pack_stream(output, &session, opened, &pilots, OUSAC_METHOD_DELTA_COV,
                               (const ousac_plan *const *)&loaded, 1, &storage, 0, error);
done:
    ousac_plan_free(loaded);
    ousac_profile_free(opened);
    return status;
}

/* --- a bundle at work --- */

typedef struct opened_bundle {
    ousac_bundle *bundle;
    ousac_provenance provenance;
    const ousac_plan *plan;
    ousac_calibration *calibration;
} opened_bundle;

static void close_bundle(opened_bundle *b) {
    ousac_calibration_free(b->calibration);
    ousac_bundle_close(b->bundle);
}

static ousac_status open_bundle(opened_bundle *b, const ousac_context *context, const char *path,
                                ousac_error *error) {
    const ousac_model *model = context->model;
    char remark[OUSAC_ERROR_MESSAGE_BYTES] = "";
    ousac_status status = ousac_bundle_open(&b->bundle, path, error);
    if (!status)
        status = ousac_provenance_read(path, &b->provenance, error);
    if (status)
        return status;
    b->plan = ousac_bundle_find_plan(b->bundle, NULL);
    if (!b->plan)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: several plans and none named \"default\"", path);
    status = ousac_bundle_check_model(b->bundle, model, remark, error);
    if (*remark)
        ousac_session_note(&context->session, "%s", remark);
    return status ? status
                  : ousac_bundle_calibration(b->bundle, b->plan, &model->arch, model->backend,
                                             &b->calibration, error);
}

void ousac_context_evaluate_options_init_sized(ousac_context_evaluate_options *options, size_t size) {
    const ousac_context_evaluate_options defaults = {.size = sizeof defaults};
    INIT_OPTIONS(options, size, defaults);
}

void ousac_context_evaluation_init_sized(ousac_context_evaluation *result, size_t size) {
    const ousac_context_evaluation defaults = {.size = sizeof defaults};
    INIT_OPTIONS(result, size, defaults);
}

static ousac_context_error pair_of(const ousac_eval *result, ousac_eval_arm arm, ousac_eval_arm against) {
    for (size_t i = 0; i < OUSAC_EVAL_PAIRS; i++)
        if (result->pair[i].arm == arm && result->pair[i].against == against) {
            const ousac_interval *found = &result->pair[i].difference.relative_error;
            const int known = ousac_interval_known(found);
            return (ousac_context_error){found->mean, known ? found->low : NAN, known ? found->high : NAN};
        }
    return (ousac_context_error){NAN, NAN, NAN};
}

ousac_status ousac_context_evaluate(ousac_context *context, const char *bundle,
                                    const ousac_context_evaluate_options *options,
                                    ousac_context_evaluation *result, ousac_error *error) {
    ousac_context_evaluate_options o;
    ousac_context_evaluation out;
    opened_bundle b = {0};
    ousac_schedule reference = {0};
    ousac_eval found = {0};
    TAKE_OPTIONS(ousac_context_evaluate_options, o, options, error);
    TAKE_OPTIONS(ousac_context_evaluation, out, result, error);
    const ousac_sample_range range = {o.first, o.count};
    ousac_eval_options evaluate = {.range = range, .reference_scale = NAN};
    ousac_status status = ousac_range_check("first", &range, context->session.micro_batch, error);
    if (!status)
        status = open_bundle(&b, context, bundle, error);
    if (!status && o.reference)
        status = ousac_schedule_load(&reference, o.reference, error);
    if (status)
        goto done;
    ousac_session session = context->session;
    session.seed = b.provenance.known ? b.provenance.seed : session.seed;
    evaluate.schedule = ousac_bundle_schedule(b.bundle);
    evaluate.plan = b.plan;
    evaluate.calibration = b.calibration;
    evaluate.reference = o.reference ? &reference : NULL;
    status = ousac_eval_check_samples(&session, &b.provenance, &range, session.seed, o.force,
                                      &evaluate.held_out, error);
    if (!status)
        status = ousac_eval_create(&found, &session, &evaluate, error);
    if (status)
        goto done;
    out.held_out = found.held_out;
    out.calibrated = pair_of(&found, OUSAC_EVAL_CALIBRATED, OUSAC_EVAL_EXACT);
    out.reuse = pair_of(&found, OUSAC_EVAL_REUSE, OUSAC_EVAL_EXACT);
    out.against_reference = pair_of(&found, OUSAC_EVAL_CALIBRATED, OUSAC_EVAL_REFERENCE);
    out.macs_share = (double)found.run[OUSAC_EVAL_CALIBRATED].model_macs /
                     ((double)found.reference_macs * (double)range.count);
    out.calibrated_s = found.run[OUSAC_EVAL_CALIBRATED].seconds;
    out.exact_s = found.run[OUSAC_EVAL_EXACT].seconds;
    out.reference_s = found.reference_same ? out.exact_s : found.run[OUSAC_EVAL_REFERENCE].seconds;
    out.size = result->size;
    memcpy(result, &out, result->size);
done:
    ousac_eval_free(&found);
    ousac_schedule_free(&reference);
    close_bundle(&b);
    return status;
}

ousac_status ousac_context_sample(ousac_context *context, const char *schedule, const char *bundle,
                                  uint64_t first, uint64_t count, float *samples, ousac_error *error) {
    const ousac_sample_range range = {first, count};
    opened_bundle b = {0};
    ousac_schedule loaded = {0};
    if (!schedule == !bundle)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expected one of `schedule` and `bundle`");
    ousac_status status = ousac_range_check("first", &range, context->session.micro_batch, error);
    if (!status)
        status =
            bundle ? open_bundle(&b, context, bundle, error) : ousac_schedule_load(&loaded, schedule, error);
    const ousac_session_run run = {.label = "sample",
                                   .schedule = bundle && !status ? ousac_bundle_schedule(b.bundle) : &loaded,
                                   .range = range,
                                   .exact = !bundle && !ousac_schedule_needs_no_factors(&loaded),
                                   .calibration = b.calibration,
                                   .samples = samples};
    if (!status)
        status = ousac_session_run_samples(&context->session, &run, error);
    ousac_schedule_free(&loaded);
    close_bundle(&b);
    return status;
}

/* --- which weights a bundle was made for --- */

void ousac_site_projections(size_t site, size_t m, size_t n, const float *w, double projections[4]) {
    memset(projections, 0, OUSAC_PROBE_COUNT * sizeof *projections);
    for (size_t i = 0; i < m; i++)
        ousac_model_project_row(site, n, i, w + i * n, projections);
    for (size_t p = 0; p < OUSAC_PROBE_COUNT; p++)
        projections[p] /= sqrt((double)m * (double)n);
}
