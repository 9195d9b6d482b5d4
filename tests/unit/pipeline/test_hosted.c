/* A model that the caller runs, through the public interface: the family of the tests (tests/support/duo.h), whose forward is
 * called here and its linears by the host's functions. What comes out is what the family's own engine gives, bit for
 * bit; what a host does wrong is said by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ousac/ousac.h>
#include <stdio.h>
#include <string.h>

#include "formats/memory.h"
#include "pipeline/record.h"
#include "profile/files/arch_text.h"
#include "profile/run/runner.h"
#include "tests/support/duo.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

enum { STEPS = 6, SAMPLES = 4, SEED = 5 };

static scratch directory;
static char inputs[SCRATCH_PATH_BYTES], schedule_path[SCRATCH_PATH_BYTES], profile_path[SCRATCH_PATH_BYTES],
    plan_path[SCRATCH_PATH_BYTES], bundle_path[SCRATCH_PATH_BYTES];
static ousac_model *duo_model;
static char *arch;

#define BOTH(g)                                                                                              \
    { OUSAC_GATE_##g, OUSAC_GATE_##g }
static ousac_step steps[STEPS] = {
    {1000, OUSAC_MODE_CFG, 3, BOTH(FULL)},  {800, OUSAC_MODE_CFG, 3, BOTH(CACHED)},
    {600, OUSAC_MODE_CFG, 2, BOTH(CACHED)}, {400, OUSAC_MODE_COND, 1, BOTH(FULL)},
    {200, OUSAC_MODE_COND, 1, BOTH(REUSE)}, {100, OUSAC_MODE_COND, 1, BOTH(CACHED)}};
static const ousac_schedule schedule = {
    .name = "hosted", .solver = OUSAC_SOLVER_FLOW_EULER, .step_count = STEPS, .steps = steps};

/* What a host does wrong. */
typedef enum fault { NONE, FAILS, FORGETS, REPEATS, STRAYS, LEAVES } fault;

typedef struct host {
    fault fault;
    ousac_host_call *call;
    size_t calls;
} host;

/* --- the family's linears, by the host's functions --- */

static ousac_status module_begin(void *self, size_t module, const ousac_rows *out, int *live,
                                 ousac_error *error) {
    const host *h = self;
    float *data[OUSAC_OUTPUTS_MAX];
    (void)error;
    for (size_t o = 0; o < duo_model->arch.modules[module].output_count; o++) {
        assert_int_equal(out[o].ld, duo_model->arch.modules[module].output[o].width);
        data[o] = out[o].data;
    }
    return ousac_host_module_begin(h->call, module, data, live);
}

static ousac_status linear(void *self, size_t group, size_t rows, const float *x, size_t ldx, float *y,
                           size_t ldy, ousac_error *error) {
    const host *h = self;
    (void)error, (void)rows;
    assert_int_equal(ldx, duo_model->arch.sites[duo_model->arch.groups[group].first_site].n);
    (void)ldy;
    if (h->fault == FORGETS && group == 3)
        return OUSAC_STATUS_OK;
    const ousac_status status = ousac_host_linear(h->call, group, x, y);
    return h->fault == REPEATS && group == 3 && !status ? ousac_host_linear(h->call, group, x, y) : status;
}

static ousac_status module_end(void *self, size_t module, const ousac_rows *out, ousac_error *error) {
    const host *h = self;
    const float *data[OUSAC_OUTPUTS_MAX];
    (void)error;
    if (h->fault == LEAVES && module == 1)
        return OUSAC_STATUS_OK;
    for (size_t o = 0; o < duo_model->arch.modules[module].output_count; o++)
        data[o] = out[o].data;
    return ousac_host_module_end(h->call, module, data);
}

static int forward(void *self, const ousac_host_evaluation *e, ousac_host_call *call, char *message,
                   size_t bytes) {
    host *h = self;
    const ousac_linears linears = {
        .self = h, .module_begin = module_begin, .linear = linear, .module_end = module_end};
    const ousac_evaluation evaluation = {e->branch, (size_t)e->count, e->timestep, e->guidance};
    ousac_error error = {0};
    void *workspace = NULL;
    h->call = call;
    h->calls++;
    if (h->fault == FAILS) {
        (void)snprintf(message, bytes, "out of ideas");
        return 1;
    }
    if (h->fault == STRAYS)
        (void)ousac_host_linear(call, 0, e->x, e->out);
    const ousac_family *family = duo_model->family;
    int failed = family->workspace_create(duo_model, (size_t)e->count, &workspace, &error) ||
                 family->set_inputs(duo_model, workspace, SEED, e->first, (size_t)e->count, &error) ||
                 family->forward(duo_model, workspace, &evaluation, e->x, &linears, e->out, &error);
    family->workspace_free(duo_model, workspace);
    return failed;
}

static ousac_host_model described(host *h) {
    ousac_host_model model;
    ousac_host_model_init(&model);
    model.name = "duo";
    model.arch = arch;
    model.levels = "flow 1000";
    model.prediction = "flow";
    model.constants = duo_model->constants;
    model.channels = DUO_CHANNELS;
    model.height = DUO_HEIGHT;
    model.width = DUO_WIDTH;
    model.guided_channels = 1;
    model.has_uncond = 1;
    model.weight = duo_model->weight;
    model.bias = duo_model->bias;
    model.self = h;
    model.forward = forward;
    return model;
}

static ousac_status open_host(ousac_context **context, const ousac_host_model *model, ousac_error *error) {
    ousac_context_options options;
    ousac_context_options_init(&options);
    options.seed = SEED;
    options.micro_batch = 2;
    options.threads = 2;
    options.inputs = inputs;
    return ousac_context_open_host(context, &options, model, error);
}

static int set_up(void **state) {
    ousac_error error = {0};
    (void)state;
    scratch_create(&directory);
    scratch_join(inputs, directory.path, "inputs.safetensors");
    scratch_join(schedule_path, directory.path, "schedule.json");
    scratch_join(profile_path, directory.path, "profile.oca");
    scratch_join(plan_path, directory.path, "plan.oca");
    scratch_join(bundle_path, directory.path, "bundle.oca");
    must_succeed(duo_write_inputs(inputs, 9, &error), &error);
    must_succeed(duo_create(&duo_model, 2, inputs, &error), &error);
    must_succeed(ousac_arch_print(&duo_model->arch, &arch, &error), &error);
    must_succeed(ousac_schedule_save(&schedule, schedule_path, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_free(arch);
    ousac_model_free(duo_model);
    scratch_remove(&directory);
    return 0;
}

/* --- tests --- */

static void samples_and_profiles_are_the_engines(void **state) {
    enum { VALUES = SAMPLES * DUO_SIZE };
    host h = {0};
    const ousac_host_model model = described(&h);
    const ousac_session native = {.model = duo_model, .seed = SEED, .micro_batch = 2, .threads = 2};
    const ousac_record_options record = {.range = {0, SAMPLES}, .segments = 1};
    ousac_context_profile_options options;
    ousac_record_cost cost = {0};
    ousac_profile *ours = NULL, *theirs = NULL;
    ousac_context *context = NULL;
    ousac_error error = {0};
    float got[VALUES], wanted[VALUES];
    size_t shape[3];
    (void)state;
    must_succeed(open_host(&context, &model, &error), &error);
    ousac_context_sample_shape(context, shape);
    assert_true(shape[0] == DUO_CHANNELS && shape[1] == DUO_HEIGHT && shape[2] == DUO_WIDTH);
    must_succeed(ousac_context_sample(context, schedule_path, NULL, 0, SAMPLES, got, &error), &error);
    const ousac_run run = {.model = duo_model,
                           .schedule = &schedule,
                           .seed = SEED,
                           .count = SAMPLES,
                           .micro_batch = 2,
                           .threads = 1,
                           .exact = 1,
                           .samples = wanted};
    must_succeed(ousac_run_samples(&run, &error), &error);
    assert_memory_equal(got, wanted, sizeof got);
    assert_int_equal(h.calls, (size_t)(SAMPLES / 2 * (3 * 2 + 3)));

    ousac_context_profile_options_init(&options);
    options.count = SAMPLES;
    options.pilot = 0;
    must_succeed(ousac_context_profile(context, schedule_path, &options, profile_path, &error), &error);
    must_succeed(ousac_record_profile(&native, &schedule, &record, &theirs, &cost, &error), &error);
    must_succeed(ousac_profile_open(&ours, profile_path, &error), &error);
    char digests[2][OUSAC_DIGEST_CHARS];
    memcpy(theirs->identity.model_digest, ours->identity.model_digest, OUSAC_DIGEST_CHARS);
    ousac_profile_digest(ours, digests[0]);
    ousac_profile_digest(theirs, digests[1]);
    assert_string_equal(digests[0], digests[1]);
    ousac_profile_free(ours);
    ousac_profile_free(theirs);
    ousac_context_close(context);
}

static void the_whole_way(void **state) {
    host h = {0};
    const ousac_host_model model = described(&h);
    ousac_context_plan_options budget;
    ousac_context_evaluate_options test;
    ousac_context_evaluation found;
    ousac_context_calibrate_options calibrate;
    ousac_context_calibration made;
    ousac_context *context = NULL;
    ousac_error error = {0};
    (void)state;
    must_succeed(open_host(&context, &model, &error), &error);
    ousac_context_plan_options_init(&budget);
    budget.budget_step = 0.7;
    must_succeed(ousac_context_plan(context, profile_path, &budget, plan_path, &error), &error);
    must_succeed(ousac_context_pack(context, profile_path, plan_path, bundle_path, &error), &error);
    ousac_context_evaluate_options_init(&test);
    ousac_context_evaluation_init(&found);
    test.first = 40;
    test.count = 4;
    must_succeed(ousac_context_evaluate(context, bundle_path, &test, &found, &error), &error);
    assert_true(found.held_out && found.calibrated.mean > 0 && found.macs_share < 1);

    ousac_context_calibrate_options_init(&calibrate);
    ousac_context_calibration_init(&made);
    calibrate.schedule = schedule_path;
    calibrate.budget_total = 0.6;
    calibrate.samples = 8;
    calibrate.validation = 4;
    must_succeed(ousac_context_calibrate(context, &calibrate, directory.path, &made, &error), &error);
    assert_true(made.cached && made.steps == STEPS && made.next_sample == 12);
    test.first = 12;
    must_succeed(ousac_context_evaluate(context, bundle_path, &test, &found, &error), &error);
    assert_true(found.held_out);
    test.first = 8; /* validated the plan */
    must_fail(ousac_context_evaluate(context, bundle_path, &test, &found, &error), OUSAC_STATUS_USAGE, &error,
              "validation");
    calibrate.reference = schedule_path;
    must_fail(ousac_context_calibrate(context, &calibrate, directory.path, &made, &error), OUSAC_STATUS_USAGE,
              &error, "reference");
    /* a budget in time is one of a search, and the only one */
    calibrate.reference = NULL;
    calibrate.time = plan_path;
    must_fail(ousac_context_calibrate(context, &calibrate, directory.path, &made, &error), OUSAC_STATUS_USAGE,
              &error, "`budget_time`");
    calibrate.budget_time = 0.4;
    must_fail(ousac_context_calibrate(context, &calibrate, directory.path, &made, &error), OUSAC_STATUS_USAGE,
              &error, "without `schedule`");
    ousac_context_close(context);
}

static void what_a_host_does_wrong_is_said_by_name(void **state) {
    static const struct {
        fault fault;
        const char *said;
    } cases[] = {{FAILS, "out of ideas"},
                 {FORGETS, "transformer_blocks.0"},
                 {REPEATS, "came twice"},
                 {STRAYS, "outside of its module"},
                 {LEAVES, "did not end"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        host h = {.fault = cases[i].fault};
        const ousac_host_model model = described(&h);
        ousac_context *context = NULL;
        ousac_error error = {0};
        float samples[DUO_SIZE];
        must_succeed(open_host(&context, &model, &error), &error);
        must_fail(ousac_context_sample(context, schedule_path, NULL, 0, 1, samples, &error),
                  OUSAC_STATUS_USAGE, &error,
                  cases[i].fault == FORGETS ? duo_model->arch.groups[3].name : cases[i].said);
        ousac_context_close(context);
    }
}

static void descriptions_are_checked(void **state) {
    host h = {0};
    ousac_context *context = NULL;
    ousac_error error = {0};
    (void)state;
#define REFUSED(change, status, what)                                                                        \
    do {                                                                                                     \
        ousac_host_model model = described(&h);                                                              \
        change;                                                                                              \
        must_fail(open_host(&context, &model, &error), status, &error, what);                                \
        assert_null(context);                                                                                \
    } while (0)
    REFUSED(model.arch = NULL, OUSAC_STATUS_USAGE, "`arch`");
    REFUSED(model.arch = "{}", OUSAC_STATUS_FORMAT, "`arch`");
    REFUSED(model.forward = NULL, OUSAC_STATUS_USAGE, "`forward`");
    REFUSED(model.weight = NULL, OUSAC_STATUS_USAGE, "`weight`");
    REFUSED(model.levels = "steep", OUSAC_STATUS_FORMAT, "`levels`");
    REFUSED(model.prediction = "tomorrow", OUSAC_STATUS_USAGE, "tomorrow");
    REFUSED(model.height = 0, OUSAC_STATUS_USAGE, "`height`");
    REFUSED(model.guided_channels = 9, OUSAC_STATUS_USAGE, "`guided_channels`");
    REFUSED(model.rescaled = 1, OUSAC_STATUS_USAGE, "`rescaled`"); /* beside 1 guided channel */
    REFUSED(model.size = 9999, OUSAC_STATUS_USAGE, "size");
    const float *weights[DUO_SITES] = {NULL};
    REFUSED(model.weight = weights, OUSAC_STATUS_USAGE, duo_model->arch.sites[0].name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_and_profiles_are_the_engines),
        cmocka_unit_test(the_whole_way),
        cmocka_unit_test(what_a_host_does_wrong_is_said_by_name),
        cmocka_unit_test(descriptions_are_checked),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
