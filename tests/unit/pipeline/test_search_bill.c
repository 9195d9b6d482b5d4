/* What a search says beforehand that it will do, against what it does: steps of its candidates, and evaluations counted
 * where the model computes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "calib/cost.h"
#include "pipeline/footprint.h"
#include "pipeline/search_bill.h"
#include "profile/run/walk.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

enum { STEPS = 16, RANK = 2 };

static tiny_session tiny;
static ousac_schedule reference;
static const ousac_family *family; /* the model's own */
static uint64_t counted;

static ousac_status count_forward(const ousac_model *model, void *workspace,
                                  const ousac_evaluation *evaluation, const float *x,
                                  const ousac_linears *linears, float *out, ousac_error *error) {
    (void)__atomic_fetch_add(&counted, evaluation->count, __ATOMIC_RELAXED);
    return family->forward(model, workspace, evaluation, x, linears, out, error);
}

static int set_up(void **state) {
    (void)state;
    tiny_session_open(&tiny, NULL);
    tiny_schedule(&reference, STEPS, 3, 1, 1);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&reference);
    tiny_session_close(&tiny);
    return 0;
}

static int is_listed(const ousac_search_outline *o, const ousac_search_candidate *c) {
    int listed = c->kind <= OUSAC_SEARCH_FITTED && c->schedule.step_count == o->fewer;
    for (size_t i = 0; i < o->sparse_count; i++)
        listed |= c->kind == OUSAC_SEARCH_SPARSE && c->schedule.step_count == o->sparse[i].steps &&
                  c->guided == o->sparse[i].guided;
    if (o->pattern_count)
        listed |= c->kind == OUSAC_SEARCH_EXTRAPOLATED && c->schedule.step_count == STEPS;
    for (size_t i = 0; i < o->cached_count; i++)
        listed |= c->kind == OUSAC_SEARCH_CACHED && c->schedule.step_count == o->cached[i].steps;
    return listed;
}

static void a_search_does_what_it_says(void **state) {
    static const struct {
        double budget;
        ousac_effort effort;
    } cases[] = {{0.4, OUSAC_EFFORT_QUICK}, {0.5, OUSAC_EFFORT_FULL}, {0.07, OUSAC_EFFORT_QUICK}};
    const ousac_search_follows nothing = {0};
    ousac_error error = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ousac_search_options options = {
            .reference = &reference, .budget = cases[i].budget, .effort = cases[i].effort, .curve = 1};
        ousac_search_outline outline;
        ousac_search_bill bill;
        ousac_search_result result;
        uint64_t stated = 0;
        size_t cached = 0;
        must_succeed(ousac_search_outline_make(&tiny.session, &options, &outline, &error), &error);
        ousac_search_bill_make(&tiny.model->arch, &reference, &outline, &nothing, &bill);
        for (size_t k = 0; k < bill.searching; k++)
            stated += bill.charge[k].evaluations;
        ousac_family counting = *tiny.model->family;
        family = tiny.model->family;
        counting.forward = count_forward;
        tiny.model->family = &counting;
        counted = 0;
        must_succeed(ousac_search(&tiny.session, &options, &result, &error), &error);
        tiny.model->family = family;
        print_message("budget %g, effort %d: %llu evaluations, at most %llu stated\n", cases[i].budget,
                      (int)cases[i].effort, (unsigned long long)counted, (unsigned long long)stated);
        assert_true(counted <= stated);
        assert_true(stated <= 2 * counted);
        for (size_t k = 0; k < result.count; k++) {
            assert_true(is_listed(&outline, &result.candidate[k]));
            cached += result.candidate[k].kind == OUSAC_SEARCH_CACHED;
        }
        assert_true(cached <= outline.cached_most && (cached > 0) == (outline.cached_count > 0));
        assert_int_equal(result.point_count, 2 * outline.curve_count);
        for (size_t k = 0; k < outline.curve_count; k++)
            assert_int_equal(result.point[2 * k].steps, outline.curve[k]);
        ousac_search_free(&result);
    }
}

/* Of 50 steps every p-th where that is near to 4/3, 5/3, 2, ... times what the budget pays for, else that number; the quick
 * search has the first, and those that the budget does not hold are left out. */
static void cached_steps_are_of_one_length(void **state) {
    static const struct {
        double budget;
        size_t count, steps[3];
    } cases[] = {{0.2, 2, {17, 13}}, {0.3, 3, {25, 35, 17}}, {0.5, 2, {50, 33}}};
    ousac_schedule fifty;
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&fifty, 50, 3, 1, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int effort = OUSAC_EFFORT_QUICK; effort <= OUSAC_EFFORT_FULL; effort++) {
            const ousac_search_options options = {
                .reference = &fifty, .budget = cases[i].budget, .effort = (ousac_effort)effort};
            ousac_search_outline outline;
            must_succeed(ousac_search_outline_make(&tiny.session, &options, &outline, &error), &error);
            assert_int_equal(outline.cached_count, effort == OUSAC_EFFORT_QUICK ? 1 : cases[i].count);
            for (size_t k = 0; k < outline.cached_count; k++)
                assert_int_equal(outline.cached[k].steps, cases[i].steps[k]);
        }
    ousac_schedule_free(&fifty);
}

/* What follows grows with its samples, and what is computed is what is summed up. */
static void a_bill_adds_up(void **state) {
    const ousac_search_options options = {
        .reference = &reference, .budget = 0.4, .effort = OUSAC_EFFORT_QUICK};
    const ousac_search_follows few = {.pilot = 2, .samples = 4, .validation = 2, .candidates = 2, .test = 4};
    ousac_search_follows more = few;
    ousac_search_outline outline;
    ousac_search_bill one, other;
    ousac_error error = {0};
    uint64_t evaluations = 0, macs = 0;
    (void)state;
    more.fine = 4 * STEPS;
    must_succeed(ousac_search_outline_make(&tiny.session, &options, &outline, &error), &error);
    ousac_search_bill_make(&tiny.model->arch, &reference, &outline, &few, &one);
    ousac_search_bill_make(&tiny.model->arch, &reference, &outline, &more, &other);
    assert_int_equal(other.evaluations - one.evaluations, 4 * 4 * STEPS * 2);
    for (size_t k = 0; k < one.count; k++) {
        evaluations += one.charge[k].evaluations;
        macs += one.charge[k].macs;
        assert_true(one.charge[k].macs <= one.charge[k].evaluations * ousac_cost_full(&tiny.model->arch));
    }
    assert_true(evaluations == one.evaluations && macs == one.macs);
    assert_true(outline.curve_count == 0);
}

static void refusals_are_those_of_the_search(void **state) {
    const ousac_search_options options = {
        .reference = &reference, .budget = 0.01, .effort = OUSAC_EFFORT_QUICK};
    ousac_search_outline outline;
    ousac_error error = {0};
    (void)state;
    must_fail(ousac_search_outline_make(&tiny.session, &options, &outline, &error), OUSAC_STATUS_USAGE,
              &error, "below what one of the reference's 16 steps costs");
}

static uint64_t allocated;
static void *count_alloc(const ousac_backend *backend, size_t count, size_t size) {
    allocated += count * size;
    return ousac_backend_cpu()->alloc(backend, count, size);
}

static ousac_status no_factors(void *self, size_t site, size_t rank, float *a, float *b, ousac_error *error) {
    const ousac_site *s = &tiny.model->arch.sites[site];
    (void)self;
    (void)error;
    memset(a, 0, rank * s->m * sizeof *a);
    memset(b, 0, rank * s->n * sizeof *b);
    return OUSAC_STATUS_OK;
}

/* What a walk takes of the backend's memory is within what is said, which has the host's besides. */
static void walks_take_what_is_said(void **state) {
    ousac_backend counting = *ousac_backend_cpu();
    const ousac_backend *given = tiny.model->backend;
    ousac_calibration *calibration = NULL;
    ousac_schedule even;
    ousac_walk *walk = NULL;
    size_t rank[64];
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    ousac_error error = {0};
    (void)state;
    assert_true(tiny.model->arch.site_count <= sizeof rank / sizeof *rank);
    for (size_t s = 0; s < tiny.model->arch.site_count; s++)
        rank[s] = RANK;
    must_succeed(ousac_calibration_create(&calibration, given, &tiny.model->arch, &ranks, no_factors, NULL,
                                          NULL, &error),
                 &error);
    tiny_schedule(&even, STEPS, 3, 1, 3);
    counting.alloc = count_alloc;
    for (size_t count = 3; count <= 8; count += 5)
        for (int exact = 0; exact < 2; exact++) {
            const ousac_walk_options options = {.model = tiny.model,
                                                .schedule = &even,
                                                .calibration = exact ? NULL : calibration,
                                                .exact = exact,
                                                .seed = 3,
                                                .count = count,
                                                .micro_batch = 4,
                                                .threads = 1};
            const uint64_t host =
                count * ousac_model_sample_size(tiny.model) * (3 * sizeof(float) + 4 * sizeof(double));
            const uint64_t stated = ousac_footprint_walk(tiny.model, count, 4, exact ? 0 : 1, RANK);
            tiny.model->backend = &counting;
            allocated = 0;
            must_succeed(ousac_walk_create(&walk, &options, &error), &error);
            ousac_walk_free(walk);
            tiny.model->backend = given;
            assert_true(allocated + host <= stated && stated <= 2 * (allocated + host));
        }
    ousac_calibration_free(calibration);
    ousac_schedule_free(&even);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_search_does_what_it_says),
        cmocka_unit_test(cached_steps_are_of_one_length),
        cmocka_unit_test(a_bill_adds_up),
        cmocka_unit_test(refusals_are_those_of_the_search),
        cmocka_unit_test(walks_take_what_is_said),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
