/* The published methods against a reference: what a row may cost, what is held out, what a seed means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/evolve.h"
#include "pipeline/inflection.h"
#include "pipeline/place.h"
#include "pipeline/yardstick.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

static tiny_session tiny;
static ousac_schedule reference;
enum { STEPS = 9, ALL = (1U << OUSAC_RIVALS) - 1 };

static int set_up(void **state) {
    (void)state;
    tiny_session_open(&tiny, NULL);
    tiny_schedule(&reference, STEPS, 2, 1, 1);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&reference);
    tiny_session_close(&tiny);
    return 0;
}

static ousac_yardstick_options options_of(unsigned rivals) {
    return (ousac_yardstick_options){.reference = &reference,
                                     .budget = 0.5,
                                     .rivals = rivals,
                                     .calibration = OUSAC_YARDSTICK_LEAST,
                                     .validation = 4,
                                     .test = {28, 4},
                                     .generations = 2};
}

static ousac_status count_rows(void *self, const ousac_yardstick *so_far, ousac_error *error) {
    size_t *calls = self;
    (void)error;
    assert_true(so_far->row_count > *calls);
    *calls = so_far->row_count;
    return OUSAC_STATUS_OK;
}

static void every_row_is_within_the_budget_and_comes_again(void **state) {
    ousac_yardstick_options options = options_of(ALL);
    ousac_yardstick found, again;
    ousac_error error = {0};
    size_t calls = 0;
    (void)state;
    options.finished = count_rows;
    options.self = &calls;
    must_succeed(ousac_yardstick_run(&tiny.session, &options, &found, &error), &error);
    assert_int_equal(found.row_count, OUSAC_RIVALS);
    assert_int_equal(calls, OUSAC_RIVALS);
    /* disjoint, in this order */
    assert_true(found.calibration.first == 0 && found.validation.first >= found.calibration.count &&
                found.test.first >= found.validation.first + found.validation.count);
    for (int i = 0; i < OUSAC_RIVALS; i++) {
        const ousac_yardstick_row *row = &found.row[i];
        assert_string_equal(row->method, ousac_rival_name((ousac_rival)i));
        assert_null(row->left_out);
        assert_true(row->macs_share > 0 && row->macs_share <= options.budget * (1 + 1e-12));
        assert_true(row->error.mean > 0 && row->error.low <= row->error.mean &&
                    row->error.mean <= row->error.high);
        assert_true(row->median <= row->worst && row->error.mean <= row->worst);
        assert_true(row->steps > 0 && row->steps <= STEPS && row->settings[0]);
        /* what chooses, runs the model for it */
        assert_int_equal(row->evaluations > 0,
                         i != OUSAC_RIVAL_FEWER && i != OUSAC_RIVAL_REUSE && i != OUSAC_RIVAL_EXTRAPOLATION);
    }
    /* alone and in company, with other threads: the same to the last bit */
    ousac_session one = tiny.session;
    one.threads = 1;
    options = options_of(1U << OUSAC_RIVAL_GOC | 1U << OUSAC_RIVAL_CA_SVD | 1U << OUSAC_RIVAL_CD_SVD_PLACED |
                         1U << OUSAC_RIVAL_OUSAC);
    must_succeed(ousac_yardstick_run(&one, &options, &again, &error), &error);
    assert_int_equal(again.row_count, 4);
    for (size_t i = 0; i < 4; i++)
        for (int k = 0; k < OUSAC_RIVALS; k++)
            if (strcmp(found.row[k].method, again.row[i].method) == 0) {
                assert_true(found.row[k].error.mean == again.row[i].error.mean);
                assert_true(found.row[k].error.low == again.row[i].error.low);
                assert_string_equal(found.row[k].settings, again.row[i].settings);
            }
    one.seed++;
    must_succeed(ousac_yardstick_run(&one, &options, &again, &error), &error);
    assert_true(found.row[OUSAC_RIVAL_GOC].error.mean != again.row[0].error.mean);
}

static void a_method_that_does_not_apply_says_why(void **state) {
    ousac_yardstick_options options = options_of(1U << OUSAC_RIVAL_OUSAC | 1U << OUSAC_RIVAL_DPMPP);
    ousac_yardstick found;
    ousac_schedule conditional;
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&conditional, STEPS, 2, 1, 1);
    for (size_t i = 0; i < STEPS; i++) {
        conditional.steps[i].mode = OUSAC_MODE_COND;
        conditional.steps[i].scale = 1;
    }
    options.reference = &conditional;
    must_succeed(ousac_yardstick_run(&tiny.session, &options, &found, &error), &error);
    assert_int_equal(found.row_count, 2);
    assert_null(found.row[0].left_out);
    assert_non_null(strstr(found.row[1].left_out, "no guidance"));
    ousac_schedule_free(&conditional);
}

static void what_cannot_be_is_refused(void **state) {
    ousac_yardstick_options options = options_of(ALL);
    ousac_yardstick found;
    ousac_error error = {0};
    (void)state;
    options.test.first = 26;
    assert_int_equal(ousac_yardstick_run(&tiny.session, &options, &found, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "from 28 on"));
    options = options_of(ALL);
    options.calibration = 22;
    assert_int_equal(ousac_yardstick_run(&tiny.session, &options, &found, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "at least 24"));
    options = options_of(ALL);
    options.budget = 1;
    assert_int_equal(ousac_yardstick_run(&tiny.session, &options, &found, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "below 1"));
    options = options_of(ALL);
    const ousac_stop stop = {1};
    ousac_session stopped = tiny.session;
    stopped.stop = &stop;
    assert_int_equal(ousac_yardstick_run(&stopped, &options, &found, &error), OUSAC_STATUS_INTERRUPTED);
    assert_int_equal(found.row_count, 0);
}

/* --- evolution --- */

static void evolution_is_of_the_seed_and_never_worse_than_where_it_began(void **state) {
    const ousac_sample_range range = {0, 4};
    ousac_evolve_options options = {.scale = 2, .population = 6, .generations = 3, .seed = 5};
    ousac_evolve_report one, two;
    ousac_schedule a, b, constant;
    ousac_gauge gauge;
    ousac_error error = {0};
    double relative = 0;
    size_t guided = 0;
    (void)state;
    tiny_schedule(&a, STEPS, 2, 1, 1);
    tiny_schedule(&b, STEPS, 2, 1, 1);
    tiny_schedule(&constant, STEPS, 2, 1, 1);
    must_succeed(ousac_gauge_create(&gauge, &tiny.session, &reference, &range, &error), &error);
    must_succeed(ousac_evolve_guidance(&gauge, &options, &a, &one, &error), &error);
    must_succeed(ousac_evolve_guidance(&gauge, &options, &b, &two, &error), &error);
    assert_memory_equal(a.steps, b.steps, STEPS * sizeof *a.steps);
    assert_true(one.loss == two.loss && one.guided == two.guided);
    assert_int_equal(one.runs, 6 + 3 * (6 - 2)); /* elites are not run again */
    /* the report is of the schedule: below the threshold no guidance, above it the scale */
    const ousac_gauge_arm arm = {.label = "again", .schedule = &a};
    must_succeed(ousac_gauge_measure(&gauge, &arm, NULL, &relative, &error), &error);
    for (size_t i = 0; i < STEPS; i++) {
        guided += a.steps[i].mode == OUSAC_MODE_CFG;
        assert_true(a.steps[i].mode == OUSAC_MODE_CFG ? a.steps[i].scale >= 1 && a.steps[i].scale <= 8
                                                      : a.steps[i].scale == 1);
    }
    assert_int_equal(guided, one.guided);
    assert_true(relative == one.error);
    assert_true(one.loss == relative * relative + OUSAC_EVOLVE_LAMBDA * (double)guided / STEPS);
    /* constant guidance over the same steps is among the first: error 0 here, all of the penalty */
    assert_true(one.loss <= OUSAC_EVOLVE_LAMBDA);
    options.seed = 6;
    must_succeed(ousac_evolve_guidance(&gauge, &options, &b, &two, &error), &error);
    assert_true(memcmp(a.steps, b.steps, STEPS * sizeof *a.steps) != 0);
    options.population = 3;
    assert_int_equal(ousac_evolve_guidance(&gauge, &options, &b, &two, &error), OUSAC_STATUS_USAGE);
    options.population = 6;
    options.scale = 0.25;
    assert_int_equal(ousac_evolve_guidance(&gauge, &options, &b, &two, &error), OUSAC_STATUS_USAGE);
    ousac_gauge_free(&gauge);
    ousac_schedule_free(&a);
    ousac_schedule_free(&b);
    ousac_schedule_free(&constant);
}

/* --- inflections --- */

enum { SAMPLES = 4, VALUES_MAX = 1 << 16 };

/* Everything that modules gave, step after step, averaged over samples: two micro-batches of two. */
typedef struct diary {
    double *mean; /* (step, branch, VALUES_MAX) */
    size_t step, at;
    int branch;
} diary;

static ousac_status diary_begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first,
                                size_t count, ousac_error *error) {
    diary *d = self;
    (void)gate, (void)first, (void)error;
    assert_int_equal(count, 2);
    d->step = step;
    d->branch = branch;
    d->at = (step * OUSAC_BRANCHES + (size_t)branch) * VALUES_MAX;
    return OUSAC_STATUS_OK;
}

static ousac_status diary_module(void *self, size_t module, const ousac_rows *out, ousac_error *error) {
    diary *d = self;
    const size_t width = tiny.model->arch.modules[module].output[0].width, rows = out->rows / 2;
    (void)error;
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < width; k++)
            for (size_t j = 0; j < 2; j++)
                d->mean[d->at + i * width + k] += (double)out->data[(j * rows + i) * out->ld + k] / SAMPLES;
    d->at += rows * width;
    assert_true(d->at <= (d->step * OUSAC_BRANCHES + (size_t)d->branch + 1) * VALUES_MAX);
    return OUSAC_STATUS_OK;
}

static ousac_status diary_attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    (void)worker, (void)error;
    *observer = (ousac_observer){.self = self, .begin = diary_begin, .module = diary_module};
    return OUSAC_STATUS_OK;
}

static void inflections_are_where_the_mean_outputs_turn_back(void **state) {
    diary d = {.mean = ousac_calloc((size_t)STEPS * OUSAC_BRANCHES * VALUES_MAX, sizeof(double))};
    unsigned char found[STEPS], expected[STEPS];
    const ousac_run_observers observers = {.self = &d, .attach = diary_attach};
    ousac_session one = tiny.session;
    ousac_error error = {0};
    size_t turns = 0;
    (void)state;
    assert_non_null(d.mean);
    one.threads = 1;
    const ousac_session_run run = {
        .label = "diary", .schedule = &reference, .range = {0, SAMPLES}, .exact = 1, .observers = &observers};
    must_succeed(ousac_session_run_here(&one, &run, &error), &error);
    for (size_t i = 0; i < STEPS; i++) {
        const double *now = d.mean + i * OUSAC_BRANCHES * VALUES_MAX;
        const size_t back = (size_t)OUSAC_BRANCHES * VALUES_MAX;
        double product = 0;
        for (size_t k = 0; k < back && i >= 2; k++)
            product += (now[k] - now[k - back]) * (now[k - back] - now[k - 2 * back]);
        expected[i] = product < 0;
        turns += expected[i];
    }
    must_succeed(ousac_inflection_find(&tiny.session, &reference, SAMPLES, found, &error), &error);
    print_message("%zu of %d steps are inflections\n", turns, STEPS);
    assert_memory_equal(found, expected, STEPS);
    assert_int_equal(found[0] | found[1], 0);
    ousac_free(d.mean);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_within_the_budget_and_comes_again),
        cmocka_unit_test(a_method_that_does_not_apply_says_why),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(evolution_is_of_the_seed_and_never_worse_than_where_it_began),
        cmocka_unit_test(inflections_are_where_the_mean_outputs_turn_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
