/* Capture through the public interface: activations of the tests' family (tests/support/duo.h), kept while its own engine
 * runs, handed over in other orders. The profile is the recorder's own; what breaks the rules is said by name and leaves
 * what was captured before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <ousac/ousac.h>
#include <stdlib.h>
#include <string.h>

#include "formats/dtype.h"
#include "formats/memory.h"
#include "pipeline/record.h"
#include "profile/bundle/bundle.h"
#include "profile/files/arch_text.h"
#include "profile/run/runner.h"
#include "tests/support/duo.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

enum { STEPS = 6, SAMPLES = 5, BATCH = 2, BATCHES = 3, SEED = 5, TOKENS = 3 };

static scratch directory;
static char inputs[SCRATCH_PATH_BYTES], schedule_path[SCRATCH_PATH_BYTES], profile_path[SCRATCH_PATH_BYTES],
    plan_path[SCRATCH_PATH_BYTES], bundle_path[SCRATCH_PATH_BYTES], pilot_path[SCRATCH_PATH_BYTES];
static ousac_model *model;
static char *arch;
static ousac_context *context;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[STEPS] = {
    {1000, OUSAC_MODE_CFG, 3, GATES(FULL, FULL)},   {800, OUSAC_MODE_CFG, 3, GATES(CACHED, CACHED)},
    {600, OUSAC_MODE_CFG, 2, GATES(CACHED, FULL)},  {400, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},
    {200, OUSAC_MODE_CFG, 2, GATES(REUSE, CACHED)}, {100, OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)}};
static const ousac_schedule schedule = {
    .name = "captured", .solver = OUSAC_SOLVER_FLOW_EULER, .step_count = STEPS, .steps = steps};

/* --- the activations, as the engine's observer saw them --- */

typedef struct kept {
    float *data;
    size_t rows, columns;
} kept;

static kept input[BATCHES][STEPS][OUSAC_BRANCHES][DUO_GROUPS],
    output[BATCHES][STEPS][OUSAC_BRANCHES][DUO_SITES],
    module[BATCHES][STEPS][OUSAC_BRANCHES][DUO_MODULES][OUSAC_OUTPUTS_MAX];
static int is_site[DUO_MODULES][OUSAC_OUTPUTS_MAX]; /* a module's output was its linear's */

typedef struct keeper {
    size_t batch, step;
    int branch;
    const float *y[DUO_GROUPS];
} keeper;

static void keep(kept *k, size_t rows, size_t columns, const float *x, size_t ld) {
    *k = (kept){malloc(rows * columns * sizeof(float)), rows, columns};
    assert_non_null(k->data);
    for (size_t i = 0; i < rows; i++)
        memcpy(k->data + i * columns, x + i * ld, columns * sizeof(float));
}

static ousac_status keep_begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first,
                               size_t count, ousac_error *error) {
    keeper *k = self;
    (void)gate, (void)count, (void)error;
    k->batch = (size_t)first / BATCH;
    k->step = step;
    k->branch = branch;
    return OUSAC_STATUS_OK;
}

static ousac_status keep_linear(void *self, size_t group, size_t rows, const float *x, size_t ldx,
                                const float *y, size_t ldy, ousac_error *error) {
    keeper *k = self;
    const ousac_group *g = &model->arch.groups[group];
    size_t column = 0;
    (void)error;
    keep(&input[k->batch][k->step][k->branch][group], rows, model->arch.sites[g->first_site].n, x, ldx);
    for (size_t s = g->first_site; s < g->first_site + g->site_count; s++) {
        keep(&output[k->batch][k->step][k->branch][s], rows, model->arch.sites[s].m, y + column, ldy);
        column += model->arch.sites[s].m;
    }
    k->y[group] = y;
    return OUSAC_STATUS_OK;
}

static ousac_status keep_module(void *self, size_t index, const ousac_rows *out, ousac_error *error) {
    keeper *k = self;
    (void)error;
    for (size_t o = 0; o < model->arch.modules[index].output_count; o++) {
        const size_t group = ousac_arch_output_group(&model->arch, index, o);
        keep(&module[k->batch][k->step][k->branch][index][o], out[o].rows,
             model->arch.modules[index].output[o].width, out[o].data, out[o].ld);
        is_site[index][o] = group != SIZE_MAX && out[o].data == k->y[group];
    }
    return OUSAC_STATUS_OK;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    (void)worker, (void)error;
    *observer =
        (ousac_observer){.self = self, .begin = keep_begin, .linear = keep_linear, .module = keep_module};
    return OUSAC_STATUS_OK;
}

/* --- the capture --- */

static ousac_status open_capture(ousac_capture **capture, uint64_t first, uint64_t count, size_t tokens,
                                 int outputs, ousac_error *error) {
    ousac_capture_options options;
    ousac_capture_options_init(&options);
    options.first = first;
    options.count = count;
    options.tokens = tokens;
    options.outputs = outputs;
    return ousac_capture_open(capture, context, schedule_path, &options, error);
}

/* How activations are handed over. */
typedef struct manner {
    ousac_capture_dtype dtype;
    int outputs; /* 1: those of sites too */
    int rounded; /* 1: float32 of the values that `half` has */
    ousac_dtype half;
    int taken; /* 1: only the rows that are looked at */
} manner;

/* Hands a matrix over by `give` as the manner says. */
typedef ousac_status (*giver)(ousac_capture *, int, size_t, const ousac_capture_matrix *, ousac_error *);
static ousac_status give_matrix(ousac_capture *c, int branch, size_t index, const kept *k, size_t stream,
                                const manner *how, giver give, ousac_error *error) {
    float *values = malloc(k->rows * k->columns * sizeof(float));
    const uint32_t *taken = NULL;
    size_t rows = k->rows;
    assert_non_null(values);
    memcpy(values, k->data, rows * k->columns * sizeof(float));
    if (how->taken) {
        size_t count = 0;
        must_succeed(ousac_capture_rows(c, branch, stream, &taken, &count, error), error);
        assert_true(count <= rows && (taken || count == rows));
        for (size_t i = 0; i < count && taken; i++) {
            assert_true(taken[i] < rows && (i == 0 || taken[i] > taken[i - 1]));
            memmove(values + i * k->columns, k->data + taken[i] * k->columns, k->columns * sizeof(float));
        }
        rows = count;
    }
    if (how->dtype != OUSAC_CAPTURE_F32 || how->rounded) {
        uint16_t *half = malloc(k->rows * k->columns * sizeof *half);
        assert_int_equal(ousac_dtype_from_f32(how->half, values, rows * k->columns, half), 0);
        if (how->rounded)
            assert_int_equal(ousac_dtype_to_f32(how->half, half, rows * k->columns, values), 0);
        else
            memcpy(values, half, rows * k->columns * sizeof *half);
        free(half);
    }
    const ousac_capture_matrix x = {.data = values,
                                    .dtype = how->rounded ? OUSAC_CAPTURE_F32 : how->dtype,
                                    .rows = rows,
                                    .columns = k->columns,
                                    .taken = how->taken};
    const ousac_status status = give(c, branch, index, &x, error);
    memset(values, 0xff, k->rows * k->columns * sizeof(float)); /* they are not to be read again */
    free(values);
    return status;
}

static size_t current_output; /* of the module that give_output hands over */
static ousac_status give_output(ousac_capture *c, int branch, size_t index, const ousac_capture_matrix *x,
                                ousac_error *error) {
    return ousac_capture_module(c, branch, index, current_output, x, error);
}

/* A group, its sites' outputs, and behind the last group of a module that module's. */
static void give_group(ousac_capture *c, size_t batch, size_t step, int branch, size_t group,
                       const manner *how) {
    const ousac_group *g = &model->arch.groups[group];
    ousac_error error = {0};
    must_succeed(give_matrix(c, branch, group, &input[batch][step][branch][group], g->stream, how,
                             ousac_capture_input, &error),
                 &error);
    for (size_t s = g->first_site; s < g->first_site + g->site_count && how->outputs; s++)
        must_succeed(give_matrix(c, branch, s, &output[batch][step][branch][s], g->stream, how,
                                 ousac_capture_output, &error),
                     &error);
}

static void give_modules(ousac_capture *c, size_t batch, size_t step, int branch, const manner *how) {
    ousac_error error = {0};
    for (size_t m = 0; m < model->arch.module_count; m++)
        for (size_t o = 0; o < model->arch.modules[m].output_count; o++) {
            current_output = o;
            if (!is_site[m][o])
                must_succeed(give_matrix(c, branch, m, &module[batch][step][branch][m][o],
                                         model->arch.modules[m].output[o].stream, how, give_output, &error),
                             &error);
        }
}

static uint64_t count_of(size_t batch) {
    return batch == BATCHES - 1 ? SAMPLES - (BATCHES - 1) * BATCH : BATCH;
}

static void begin(ousac_capture *c, size_t batch, size_t step, int branch) {
    ousac_error error = {0};
    must_succeed(ousac_capture_begin(c, batch * BATCH, count_of(batch), step, branch, &error), &error);
}

static void finish(ousac_capture *c, int branch) {
    ousac_error error = {0};
    must_succeed(ousac_capture_end(c, branch, &error), &error);
}

/* Both branches of a step at once, groups in another order, the unconditional branch ahead in each: the order of sums is
 * the recorder's. `cond_first`: not so. */
static void give_step(ousac_capture *c, size_t batch, size_t step, int cond_first, const manner *how) {
    const int both = steps[step].mode == OUSAC_MODE_CFG;
    begin(c, batch, step, OUSAC_BRANCH_COND);
    if (both)
        begin(c, batch, step, OUSAC_BRANCH_UNCOND);
    give_modules(c, batch, step, OUSAC_BRANCH_COND, how);
    for (size_t i = 0; i < DUO_GROUPS; i++) {
        const size_t group = (i * 7 + 3 + step) % DUO_GROUPS;
        if (cond_first)
            give_group(c, batch, step, OUSAC_BRANCH_COND, group, how);
        if (both)
            give_group(c, batch, step, OUSAC_BRANCH_UNCOND, group, how);
        if (!cond_first)
            give_group(c, batch, step, OUSAC_BRANCH_COND, group, how);
    }
    if (both) {
        give_modules(c, batch, step, OUSAC_BRANCH_UNCOND, how);
        finish(c, OUSAC_BRANCH_UNCOND);
    }
    finish(c, OUSAC_BRANCH_COND);
}

static void give_batches(ousac_capture *c, size_t first, size_t end, int cond_first, const manner *how) {
    for (size_t b = first; b < end; b++)
        for (size_t i = 0; i < STEPS; i++)
            give_step(c, b, i, cond_first, how);
}

/* The profile of a capture of all samples, or of some micro-batches. */
static ousac_profile *captured_of(size_t first, size_t end, size_t tokens, int cond_first,
                                  const manner *how) {
    ousac_capture *capture = NULL;
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    const uint64_t last = end == BATCHES ? SAMPLES : end * BATCH;
    must_succeed(open_capture(&capture, first * BATCH, last - first * BATCH, tokens, how->outputs, &error),
                 &error);
    give_batches(capture, first, end, cond_first, how);
    must_succeed(ousac_capture_write(capture, profile_path, &error), &error);
    ousac_capture_close(capture);
    must_succeed(ousac_profile_load(&profile, profile_path, &error), &error);
    return profile;
}

static ousac_profile *recorded(size_t tokens) {
    const ousac_session session = {.model = model, .seed = SEED, .micro_batch = BATCH, .threads = 1};
    const ousac_record_options record = {.range = {0, SAMPLES}, .segments = 1, .tokens = tokens};
    ousac_record_cost cost = {0};
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    must_succeed(ousac_record_profile(&session, &schedule, &record, &profile, &cost, &error), &error);
    return profile;
}

/* The largest relative distance of any sum, by the norm of its array. */
static double distance(ousac_profile *a, ousac_profile *b) {
    double largest = 0;
    assert_int_equal(ousac_profile_sum_count(a), ousac_profile_sum_count(b));
    for (size_t i = 0; i < ousac_profile_sum_count(a); i++) {
        size_t count = 0, other = 0;
        const double *x = ousac_profile_sum(a, i, &count), *y = ousac_profile_sum(b, i, &other);
        double difference = 0, norm = 0;
        assert_int_equal(count, other);
        for (size_t k = 0; k < count; k++) {
            difference += (x[k] - y[k]) * (x[k] - y[k]);
            norm += y[k] * y[k];
        }
        if (norm > 0 && !(sqrt(difference / norm) <= largest))
            largest = sqrt(difference / norm);
    }
    return largest;
}

static int set_up(void **state) {
    ousac_context_options options;
    ousac_host_model host;
    ousac_error error = {0};
    keeper k = {0};
    (void)state;
    scratch_create(&directory);
    scratch_join(inputs, directory.path, "inputs.safetensors");
    scratch_join(schedule_path, directory.path, "schedule.json");
    scratch_join(profile_path, directory.path, "profile.oca");
    scratch_join(pilot_path, directory.path, "pilot.oca");
    scratch_join(plan_path, directory.path, "plan.oca");
    scratch_join(bundle_path, directory.path, "bundle.oca");
    must_succeed(duo_write_inputs(inputs, 9, &error), &error);
    must_succeed(duo_create(&model, 2, inputs, &error), &error);
    must_succeed(ousac_arch_print(&model->arch, &arch, &error), &error);
    must_succeed(ousac_schedule_save(&schedule, schedule_path, &error), &error);
    const ousac_run_observers observers = {.self = &k, .attach = attach};
    const ousac_run run = {.model = model,
                           .schedule = &schedule,
                           .seed = SEED,
                           .count = SAMPLES,
                           .micro_batch = BATCH,
                           .threads = 1,
                           .exact = 1,
                           .observers = &observers};
    must_succeed(ousac_run_samples(&run, &error), &error);

    ousac_host_model_init(&host);
    host.name = "duo";
    host.arch = arch;
    host.levels = "flow 1000";
    host.prediction = "flow";
    host.constants = model->constants;
    host.channels = DUO_CHANNELS;
    host.height = DUO_HEIGHT;
    host.width = DUO_WIDTH;
    host.guided_channels = 1;
    host.has_uncond = 1;
    host.weight = model->weight;
    host.bias = model->bias;
    host.captured = 1;
    ousac_context_options_init(&options);
    options.seed = SEED;
    options.micro_batch = BATCH;
    options.inputs = inputs;
    must_succeed(ousac_context_open_host(&context, &options, &host, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_context_close(context);
    for (size_t i = 0; i < sizeof input / sizeof(kept); i++)
        free(((kept *)input)[i].data);
    for (size_t i = 0; i < sizeof output / sizeof(kept); i++)
        free(((kept *)output)[i].data);
    for (size_t i = 0; i < sizeof module / sizeof(kept); i++)
        free(((kept *)module)[i].data);
    ousac_free(arch);
    ousac_model_free(model);
    scratch_remove(&directory);
    return 0;
}

static const manner PLAIN = {.outputs = 1};

/* --- tests --- */

static void profiles_are_the_recorders_bit_for_bit(void **state) {
    (void)state;
    for (size_t tokens = 0; tokens <= TOKENS; tokens += TOKENS)
        for (int taken = 0; taken < 2; taken++) {
            const manner how = {.outputs = 1, .taken = taken};
            ousac_profile *ours = captured_of(0, BATCHES, tokens, 0, &how), *theirs = recorded(tokens);
            char digests[2][OUSAC_DIGEST_CHARS];
            memcpy(theirs->identity.model_digest, ours->identity.model_digest, OUSAC_DIGEST_CHARS);
            ousac_profile_digest(ours, digests[0]);
            ousac_profile_digest(theirs, digests[1]);
            assert_string_equal(digests[0], digests[1]);
            ousac_profile_free(ours);
            ousac_profile_free(theirs);
        }
}

static void other_orders_differ_by_rounding(void **state) {
    ousac_profile *ours = captured_of(0, BATCHES, TOKENS, 1, &PLAIN), *theirs = recorded(TOKENS);
    (void)state;
    assert_true(distance(ours, theirs) < 1e-6);
    ousac_profile_free(ours);
    ousac_profile_free(theirs);
}

/* Opens a capture of all samples of which two micro-batches may be under way. */
static ousac_capture *open_interleaved(size_t at_once) {
    ousac_capture_options options;
    ousac_capture *c = NULL;
    ousac_error error = {0};
    ousac_capture_options_init(&options);
    options.count = SAMPLES;
    options.tokens = TOKENS;
    options.outputs = 1;
    options.at_once = at_once;
    must_succeed(ousac_capture_open(&c, context, schedule_path, &options, &error), &error);
    return c;
}

/* What was captured, which is the recorder's, to `bound`; 0: to the digest. */
static void check_interleaved(ousac_capture *c, double bound) {
    ousac_profile *ours = NULL, *theirs = recorded(TOKENS);
    char digests[2][OUSAC_DIGEST_CHARS];
    ousac_error error = {0};
    must_succeed(ousac_capture_write(c, profile_path, &error), &error);
    ousac_capture_close(c);
    must_succeed(ousac_profile_load(&ours, profile_path, &error), &error);
    if (bound == 0) {
        memcpy(theirs->identity.model_digest, ours->identity.model_digest, OUSAC_DIGEST_CHARS);
        ousac_profile_digest(ours, digests[0]);
        ousac_profile_digest(theirs, digests[1]);
        assert_string_equal(digests[0], digests[1]);
    }
    assert_true(distance(ours, theirs) <= bound);
    ousac_profile_free(ours);
    ousac_profile_free(theirs);
}

/* Step by step, all micro-batches at each: they end in the order in which the recorder adds them up. */
static void micro_batches_side_by_side_are_one_after_another(void **state) {
    ousac_capture *c = open_interleaved(BATCHES);
    (void)state;
    for (size_t i = 0; i < STEPS; i++)
        for (size_t b = 0; b < BATCHES; b++)
            give_step(c, b, i, 0, &PLAIN);
    check_interleaved(c, 0);

    /* one step apart, two under way: a place that was used is used again */
    c = open_interleaved(2);
    for (size_t i = 0; i < STEPS + 1; i++) {
        if (i < STEPS)
            give_step(c, 0, i, 0, &PLAIN);
        if (i > 0)
            give_step(c, 1, i - 1, 0, &PLAIN);
    }
    give_batches(c, 2, 3, 0, &PLAIN);
    check_interleaved(c, 0);

    /* ends in another order */
    c = open_interleaved(BATCHES);
    for (size_t i = 0; i < STEPS; i++)
        for (size_t b = BATCHES; b-- > 0;)
            give_step(c, b, i, 0, &PLAIN);
    check_interleaved(c, 1e-12);
}

/* The branches' open evaluations are of two micro-batches. */
static void branches_of_two_micro_batches_are_open_at_once(void **state) {
    ousac_capture *c = open_interleaved(2);
    (void)state;
    for (size_t i = 0; i < STEPS; i++)
        for (size_t k = 0; k < 2;
             k++) { /* the unconditional branch of one beside the conditional one of the other */
            const int both = steps[i].mode == OUSAC_MODE_CFG;
            if (both)
                begin(c, k, i, OUSAC_BRANCH_UNCOND);
            begin(c, 1 - k, i, OUSAC_BRANCH_COND);
            for (size_t g = 0; g < DUO_GROUPS; g++) {
                give_group(c, 1 - k, i, OUSAC_BRANCH_COND, g, &PLAIN);
                if (both)
                    give_group(c, k, i, OUSAC_BRANCH_UNCOND, g, &PLAIN);
            }
            give_modules(c, 1 - k, i, OUSAC_BRANCH_COND, &PLAIN);
            finish(c, OUSAC_BRANCH_COND);
            if (both) {
                give_modules(c, k, i, OUSAC_BRANCH_UNCOND, &PLAIN);
                finish(c, OUSAC_BRANCH_UNCOND);
            }
        }
    give_batches(c, 2, 3, 0, &PLAIN);
    check_interleaved(c, 1e-6);
}

/* More than were asked for are refused; a failure forgets all that are under way, and what was before stays. */
static void a_failure_forgets_all_that_are_under_way(void **state) {
    ousac_capture *c = open_interleaved(2);
    ousac_error error = {0};
    (void)state;
    give_batches(c, 0, 1, 0, &PLAIN);
    give_step(c, 1, 0, 0, &PLAIN);
    give_step(c, 2, 0, 0, &PLAIN);
    must_fail(ousac_capture_write(c, profile_path, &error), OUSAC_STATUS_USAGE, &error,
              "from 2 on has not been");
    must_fail(ousac_capture_begin(c, 2, BATCH, 3, 0, &error), OUSAC_STATUS_USAGE, &error, "expected step 1");
    must_fail(ousac_capture_begin(c, 4, 1, 1, 0, &error), OUSAC_STATUS_USAGE, &error, "expected step 0");
    must_fail(ousac_capture_write(c, profile_path, &error), OUSAC_STATUS_USAGE, &error,
              "from 2 on did not come");
    give_batches(c, 1, BATCHES, 0, &PLAIN);
    check_interleaved(c, 0);
    c = open_interleaved(2);
    for (size_t b = 0; b < 2; b++)
        give_step(c, b, 0, 0, &PLAIN);
    must_fail(ousac_capture_begin(c, 4, 1, 0, 0, &error), OUSAC_STATUS_USAGE, &error, "`at_once` is 2");
    ousac_capture_close(c);

    /* no memory for another */
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed = 0;
    c = open_interleaved(2);
    for (; status; allowed++) {
        give_step(c, 0, 0, 0, &PLAIN);
        (void)ousac_memory_fail_after(allowed);
        status = ousac_capture_begin(c, BATCH, BATCH, 0, 0, &error);
        (void)ousac_memory_fail_after(-1);
        assert_true(status == OUSAC_STATUS_OK || status == OUSAC_STATUS_MEMORY);
    }
    assert_true(allowed > 20);
    ousac_capture_forget(c);
    give_batches(c, 0, BATCHES, 0, &PLAIN);
    check_interleaved(c, 0);
}

/* Of the inputs alone. */
static void outputs_are_computed(void **state) {
    (void)state;
    for (size_t tokens = 0; tokens <= TOKENS; tokens += TOKENS)
        for (int taken = 0; taken < 2; taken++) {
            const manner how = {.outputs = 0, .taken = taken};
            ousac_profile *ours = captured_of(0, BATCHES, tokens, 0, &how), *theirs = recorded(tokens);
            assert_true(distance(ours, theirs) < 1e-5);
            ousac_profile_free(ours);
            ousac_profile_free(theirs);
        }
}

static void halves_are_their_values_in_float32(void **state) {
    static const ousac_capture_dtype dtypes[] = {OUSAC_CAPTURE_F16, OUSAC_CAPTURE_BF16};
    static const ousac_dtype halves[] = {OUSAC_DTYPE_F16, OUSAC_DTYPE_BF16};
    (void)state;
    for (size_t i = 0; i < 2; i++)
        for (int taken = 0; taken < 2; taken++) {
            const manner half = {.dtype = dtypes[i], .half = halves[i], .outputs = 1, .taken = taken};
            const manner rounded = {.rounded = 1, .half = halves[i], .outputs = 1};
            ousac_profile *ours = captured_of(0, BATCHES, TOKENS, 0, &half);
            ousac_profile *theirs = captured_of(0, BATCHES, TOKENS, 0, &rounded);
            ousac_profile *exact = recorded(TOKENS);
            assert_true(distance(ours, theirs) == 0);
            assert_true(distance(ours, exact) > 0);
            ousac_profile_free(ours);
            ousac_profile_free(theirs);
            ousac_profile_free(exact);
        }
}

static void shards_add_up(void **state) {
    ousac_profile *whole = captured_of(0, BATCHES, TOKENS, 0, &PLAIN);
    ousac_profile *first = captured_of(0, 2, TOKENS, 0, &PLAIN),
                  *second = captured_of(2, 3, TOKENS, 0, &PLAIN);
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_profile_merge(second, first, &error), &error);
    assert_int_equal(ousac_profile_samples(second), SAMPLES);
    assert_true(distance(second, whole) < 1e-12);
    must_fail(ousac_profile_merge(second, first, &error), OUSAC_STATUS_MISMATCH, &error, "");
    ousac_profile_free(whole);
    ousac_profile_free(first);
    ousac_profile_free(second);
}

/* Numbers of the model are part of what must agree; a pilot's weights are those of the recorder's pilot. */
static void pilots_and_dtypes(void **state) {
    const ousac_session session = {.model = model, .seed = SEED, .micro_batch = BATCH, .threads = 1};
    ousac_capture *capture = NULL;
    ousac_capture_options options;
    ousac_profile *ours = NULL, *theirs = NULL;
    ousac_record_cost cost = {0};
    ousac_error error = {0};
    (void)state;
    ousac_capture_options_init(&options);
    options.count = SAMPLES;
    options.outputs = 1;
    options.pilot = 1;
    must_succeed(ousac_capture_open(&capture, context, schedule_path, &options, &error), &error);
    give_batches(capture, 0, BATCHES, 0, &PLAIN);
    must_succeed(ousac_capture_write(capture, pilot_path, &error), &error);
    ousac_capture_close(capture);
    must_succeed(ousac_record_pilot(&session, &schedule, SAMPLES, NULL, &theirs, &cost, &error), &error);

    options.weights = pilot_path;
    must_fail(ousac_capture_open(&capture, context, schedule_path, &options, &error), OUSAC_STATUS_USAGE,
              &error, "`pilot`");
    options.pilot = 0;
    options.dtype = OUSAC_CAPTURE_BF16;
    must_fail(ousac_capture_open(&capture, context, schedule_path, &options, &error), OUSAC_STATUS_MISMATCH,
              &error, "compute");
    options.dtype = OUSAC_CAPTURE_F32;
    must_succeed(ousac_capture_open(&capture, context, schedule_path, &options, &error), &error);
    give_batches(capture, 0, BATCHES, 0, &PLAIN);
    must_succeed(ousac_capture_write(capture, profile_path, &error), &error);
    ousac_capture_close(capture);
    must_succeed(ousac_profile_load(&ours, profile_path, &error), &error);
    assert_string_equal(ours->identity.weights_digest, theirs->identity.weights_digest);
    ousac_profile_free(ours);

    options.weights = NULL;
    options.dtype = OUSAC_CAPTURE_F16;
    must_succeed(ousac_capture_open(&capture, context, schedule_path, &options, &error), &error);
    give_batches(capture, 0, BATCHES, 0, &PLAIN);
    must_succeed(ousac_capture_write(capture, profile_path, &error), &error);
    ousac_capture_close(capture);
    must_succeed(ousac_profile_load(&ours, profile_path, &error), &error);
    assert_int_equal(ours->identity.compute, OUSAC_COMPUTE_F16_ATTENTION);
    ousac_profile_free(ours);
    ousac_profile_free(theirs);
}

/* A captured context plans and packs, and says that it cannot run. */
static void a_bundle_comes_of_it(void **state) {
    ousac_context_plan_options budget;
    ousac_bundle *bundle = NULL;
    ousac_error error = {0};
    float samples[DUO_SIZE];
    (void)state;
    ousac_profile_free(captured_of(0, BATCHES, 0, 0, &PLAIN));
    ousac_context_plan_options_init(&budget);
    budget.budget_step = 0.7;
    budget.compare = 0;
    budget.forecast = 0;
    must_succeed(ousac_context_plan(context, profile_path, &budget, plan_path, &error), &error);
    must_succeed(ousac_context_pack(context, profile_path, plan_path, bundle_path, &error), &error);
    must_succeed(ousac_bundle_open(&bundle, bundle_path, &error), &error);
    ousac_bundle_close(bundle);
    budget.compare = 1;
    must_fail(ousac_context_plan(context, profile_path, &budget, plan_path, &error), OUSAC_STATUS_USAGE,
              &error, "captured");
    must_fail(ousac_context_sample(context, schedule_path, NULL, 0, 1, samples, &error), OUSAC_STATUS_USAGE,
              &error, "captured");
}

/* Every way to break the rules; each forgets the micro-batch under way and nothing else, so that the capture goes on to
 * the recorder's profile. */
static void what_is_wrong_is_named_and_harms_nothing(void **state) {
    ousac_profile *ours = NULL, *theirs = recorded(TOKENS);
    ousac_capture *c = NULL;
    ousac_error error = {0};
    const char *group = model->arch.groups[3].name;
    const kept *k = &input[1][0][0][3];
    ousac_capture_matrix x = {.data = k->data, .rows = k->rows, .columns = k->columns};
    (void)state;
    must_succeed(open_capture(&c, 0, SAMPLES, TOKENS, 1, &error), &error);
    give_batches(c, 0, 1, 0, &PLAIN);
#define REFUSED(call, status, what) must_fail(call, status, &error, what)
    REFUSED(ousac_capture_write(c, plan_path, &error), OUSAC_STATUS_USAGE, "from 2 on");
    REFUSED(ousac_capture_begin(c, 0, BATCH, 0, 0, &error), OUSAC_STATUS_MISMATCH, "captured already");
    REFUSED(ousac_capture_begin(c, 1, BATCH, 0, 0, &error), OUSAC_STATUS_USAGE, "micro-batches of 2");
    REFUSED(ousac_capture_begin(c, 6, BATCH, 0, 0, &error), OUSAC_STATUS_USAGE, "0:5");
    REFUSED(ousac_capture_begin(c, 2, 1, 0, 0, &error), OUSAC_STATUS_USAGE, "expected 2");
    REFUSED(ousac_capture_begin(c, 2, BATCH, 1, 0, &error), OUSAC_STATUS_USAGE, "expected step 0");
    REFUSED(ousac_capture_begin(c, 2, BATCH, 3, 1, &error), OUSAC_STATUS_USAGE, "not evaluated");
    REFUSED(ousac_capture_begin(c, 2, BATCH, 0, 2, &error), OUSAC_STATUS_USAGE, "branch 2");
    REFUSED(ousac_capture_input(c, 0, 3, &x, &error), OUSAC_STATUS_USAGE, "no evaluation");

    begin(c, 1, 0, 0);
    REFUSED(ousac_capture_begin(c, 4, 1, 0, 1, &error), OUSAC_STATUS_USAGE, "before the last step");
    begin(c, 1, 0, 0);
    REFUSED(ousac_capture_begin(c, 2, BATCH, 1, 0, &error), OUSAC_STATUS_USAGE, "before step 0 ended");
    begin(c, 1, 0, 0);
    give_group(c, 1, 0, 0, 3, &PLAIN);
    REFUSED(ousac_capture_input(c, 0, 3, &x, &error), OUSAC_STATUS_USAGE, group);
    assert_non_null(strstr(error.message, "came twice"));
    begin(c, 1, 0, 0);
    x.columns++;
    REFUSED(ousac_capture_input(c, 0, 3, &x, &error), OUSAC_STATUS_USAGE, group);
    x.columns--;
    begin(c, 1, 0, 0);
    x.rows--;
    REFUSED(ousac_capture_input(c, 0, 3, &x, &error), OUSAC_STATUS_USAGE, group);
    x.rows++;
    begin(c, 1, 0, 0);
    x.dtype = (ousac_capture_dtype)7;
    REFUSED(ousac_capture_input(c, 0, 3, &x, &error), OUSAC_STATUS_USAGE, "f32, f16 or bf16");
    x.dtype = OUSAC_CAPTURE_F32;
    begin(c, 1, 0, 0);
    REFUSED(ousac_capture_input(c, 0, DUO_GROUPS, &x, &error), OUSAC_STATUS_USAGE, "beyond");

    /* what does not come: a group, a site's output, and with the second branch open */
    for (int missing = 0; missing < 3; missing++) {
        begin(c, 1, 0, 1);
        begin(c, 1, 0, 0);
        for (size_t g = 0; g < DUO_GROUPS; g++) {
            const manner inputs_alone = {.outputs = 0};
            if (g != 3 || missing == 1)
                give_group(c, 1, 0, 0, g, g == 3 ? &inputs_alone : &PLAIN);
            else if (missing == 2)
                give_group(c, 1, 0, 0, g, &PLAIN);
        }
        REFUSED(ousac_capture_end(c, missing == 2, &error), OUSAC_STATUS_USAGE, "did not come");
        assert_non_null(strstr(error.message, missing == 2 ? "uncond" : "branch cond"));
        assert_non_null(strstr(error.message, missing == 0 ? group
                                              : missing == 1
                                                  ? model->arch.sites[model->arch.groups[3].first_site].name
                                                  : model->arch.groups[0].name));
    }

    /* a value that is no number, in the second step of a trajectory */
    give_step(c, 1, 0, 0, &PLAIN);
    begin(c, 1, 1, 0);
    give_modules(c, 1, 1, 0, &PLAIN);
    kept *spoilt = &input[1][1][0][3];
    float *column = malloc(spoilt->rows * sizeof *column);
    assert_non_null(column);
    for (size_t i = 0; i < spoilt->rows; i++) {
        column[i] = spoilt->data[i * spoilt->columns];
        spoilt->data[i * spoilt->columns] = NAN;
    }
    for (size_t g = 0; g < DUO_GROUPS; g++)
        give_group(c, 1, 1, 0, g, &PLAIN);
    REFUSED(ousac_capture_end(c, 0, &error), OUSAC_STATUS_NUMBER, "step 1, branch cond");
    assert_non_null(strstr(error.message, model->arch.sites[model->arch.groups[3].first_site].name));
    for (size_t i = 0; i < spoilt->rows; i++)
        spoilt->data[i * spoilt->columns] = column[i];
    free(column);

    /* given up halfway, and again from the first step */
    give_step(c, 2, 0, 0, &PLAIN);
    begin(c, 2, 1, 0);
    ousac_capture_forget(c);
    REFUSED(ousac_capture_begin(c, 4, 1, 1, 0, &error), OUSAC_STATUS_USAGE, "expected step 0");
    give_batches(c, 1, 2, 0, &PLAIN);
    give_batches(c, 2, 3, 0, &PLAIN);
    must_succeed(ousac_capture_write(c, profile_path, &error), &error);
    ousac_capture_close(c);
    must_succeed(ousac_profile_load(&ours, profile_path, &error), &error);
    assert_true(distance(ours, theirs) == 0);
    ousac_profile_free(ours);
    ousac_profile_free(theirs);
}

static void allocation_failures_are_reported(void **state) {
    (void)state;
    for (long n = 0;; n++) {
        ousac_capture *capture = NULL;
        ousac_error error = {0};
        (void)ousac_memory_fail_after(n);
        const ousac_status status = open_capture(&capture, 0, SAMPLES, TOKENS, 0, &error);
        (void)ousac_memory_fail_after(-1);
        ousac_capture_close(capture);
        if (!status) {
            assert_true(n > 20);
            return;
        }
        assert_null(capture);
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(profiles_are_the_recorders_bit_for_bit),
        cmocka_unit_test(other_orders_differ_by_rounding),
        cmocka_unit_test(micro_batches_side_by_side_are_one_after_another),
        cmocka_unit_test(branches_of_two_micro_batches_are_open_at_once),
        cmocka_unit_test(a_failure_forgets_all_that_are_under_way),
        cmocka_unit_test(outputs_are_computed),
        cmocka_unit_test(halves_are_their_values_in_float32),
        cmocka_unit_test(shards_add_up),
        cmocka_unit_test(pilots_and_dtypes),
        cmocka_unit_test(a_bundle_comes_of_it),
        cmocka_unit_test(what_is_wrong_is_named_and_harms_nothing),
        cmocka_unit_test(allocation_failures_are_reported),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
