/* Plans: what an allocation says survives the file, and a plan for other sites is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "formats/memory.h"
#include "profile/bundle/plan.h"
#include "profile/files/archive.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

static scratch directory;

static int set_up(void **state) {
    (void)state;
    scratch_create(&directory);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    scratch_remove(&directory);
    return 0;
}

/* A plan with something in every field; numbers that decimal text must not round. */
static ousac_plan *some_plan(const ousac_arch *arch) {
    ousac_plan *plan = NULL;
    ousac_error error = {0};
    size_t rank[SYNTHETIC_BLOCKS * 6];
    for (size_t s = 0; s < sizeof rank / sizeof *rank; s++)
        rank[s] = s % 5;
    const ousac_allocation allocation = {.rank = rank,
                                         .cost = 5001,
                                         .budget = 7003,
                                         .error = 1.0 / 3,
                                         .bound = 0.1,
                                         .gap = 1e-300,
                                         .exact = 1};
    must_succeed(ousac_plan_create(&plan, arch, "fast-2.v_1", "knapsack", &allocation, &error), &error);
    synthetic_digest(plan->model_digest, 'a');
    synthetic_digest(plan->profile_digest, '7');
    (void)snprintf(plan->error_model, sizeof plan->error_model, "weighted-tail");
    (void)snprintf(plan->note, sizeof plan->note, "validation: \"better\" by 3 \xc2\xb1 1 %%");
    return plan;
}

static void assert_equal_plans(const ousac_plan *a, const ousac_plan *b) {
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->method, b->method);
    assert_string_equal(a->model_digest, b->model_digest);
    assert_string_equal(a->profile_digest, b->profile_digest);
    assert_string_equal(a->error_model, b->error_model);
    assert_string_equal(a->note, b->note);
    assert_true(a->cached_step == b->cached_step && a->budget == b->budget);
    assert_true(a->modelled_error == b->modelled_error && a->bound == b->bound && a->gap == b->gap);
    assert_int_equal(a->exact, b->exact);
    assert_int_equal(a->site_count, b->site_count);
    assert_memory_equal(a->rank, b->rank, a->site_count * sizeof *a->rank);
    for (size_t s = 0; s < a->site_count; s++)
        assert_string_equal(a->site[s], b->site[s]);
}

static void a_plan_says_what_the_allocation_said(void **state) {
    ousac_arch arch;
    (void)state;
    synthetic_arch(&arch);
    ousac_plan *plan = some_plan(&arch);
    /* a full forward: 2 blocks of 12 N d^2 + 2 N^2 d, and 6 d^2 each, with N = 4, d = 8 */
    const double full = 2.0 * (12 * 4 * 64 + 2 * 16 * 8 + 6 * 64);
    assert_true(plan->cached_step == 5001 / full);
    assert_true(plan->budget == 7003 / full);
    assert_true(plan->modelled_error == 1.0 / 3 && plan->bound == 0.1 && plan->gap == 1e-300 &&
                plan->exact == 1);
    assert_string_equal(plan->site[11], "blocks.1.mlp.fc2");
    assert_int_equal(plan->rank[9], 4);
    ousac_plan_free(plan);
    ousac_arch_free(&arch);
}

static void a_file_and_a_copy_hold_the_whole_plan(void **state) {
    char a[SCRATCH_PATH_BYTES], b[SCRATCH_PATH_BYTES];
    ousac_arch arch;
    ousac_plan *loaded = NULL, *copy = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_arch(&arch);
    ousac_plan *plan = some_plan(&arch);
    scratch_join(a, directory.path, "a.oca");
    scratch_join(b, directory.path, "b.oca");
    must_succeed(ousac_plan_save(plan, a, &error), &error);
    must_succeed(ousac_plan_load(&loaded, a, &error), &error);
    must_succeed(ousac_plan_copy(&copy, loaded, &error), &error);
    assert_equal_plans(plan, loaded);
    ousac_plan_free(loaded);
    assert_equal_plans(plan, copy);
    must_succeed(ousac_plan_save(copy, b, &error), &error);
    assert_true(files_are_equal(a, b));
    must_succeed(ousac_plan_check(copy, &arch, "here", &error), &error);
    /* digests may be unknown */
    copy->model_digest[0] = copy->profile_digest[0] = '\0';
    must_succeed(ousac_plan_save(copy, b, &error), &error);
    must_succeed(ousac_plan_load(&loaded, b, &error), &error);
    assert_equal_plans(copy, loaded);
    ousac_plan_free(loaded);
    ousac_plan_free(copy);
    ousac_plan_free(plan);
    ousac_arch_free(&arch);
}

static void names_that_cannot_be_keys_are_refused(void **state) {
    static const char *const names[] = {"", "a b", "a/b", "caf\xc3\xa9", "a\n"};
    ousac_arch arch;
    ousac_plan *plan = NULL;
    ousac_error error = {0};
    size_t rank[SYNTHETIC_BLOCKS * 6] = {0};
    char longest[OUSAC_NAME_BYTES + 1], path[SCRATCH_PATH_BYTES];
    const ousac_allocation allocation = {.rank = rank};
    (void)state;
    synthetic_arch(&arch);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        must_fail(ousac_plan_create(&plan, &arch, names[i], "uniform", &allocation, &error),
                  OUSAC_STATUS_USAGE, &error, "cannot name a plan");
    memset(longest, 'x', OUSAC_NAME_BYTES);
    longest[OUSAC_NAME_BYTES] = '\0';
    must_fail(ousac_plan_create(&plan, &arch, longest, "uniform", &allocation, &error), OUSAC_STATUS_USAGE,
              &error, "cannot name a plan");
    must_fail(ousac_plan_create(&plan, &arch, "p", longest, &allocation, &error), OUSAC_STATUS_USAGE, &error,
              "cannot name a method");
    assert_null(plan);
    longest[OUSAC_NAME_BYTES - 1] = '\0';
    must_succeed(ousac_plan_create(&plan, &arch, longest, longest, &allocation, &error), &error);
    scratch_join(path, directory.path, "long.oca");
    must_succeed(ousac_plan_save(plan, path, &error), &error);
    ousac_plan_free(plan);
    must_succeed(ousac_plan_load(&plan, path, &error), &error);
    assert_string_equal(plan->name, longest);
    ousac_plan_free(plan);
    ousac_arch_free(&arch);
}

static void a_plan_for_other_sites_is_refused(void **state) {
    ousac_arch arch, other;
    ousac_error error = {0};
    (void)state;
    synthetic_arch(&arch);
    ousac_plan *plan = some_plan(&arch);
    must_succeed(ousac_arch_create_dit(&other, 3, 4, 8, 32, &error), &error);
    must_fail(ousac_plan_check(plan, &other, "p.oca", &error), OUSAC_STATUS_MISMATCH, &error,
              "p.oca: a plan of 12 sites for a model of 18");
    ousac_arch_free(&other);
    (void)snprintf(plan->site[4], sizeof plan->site[4], "blocks.0.mlp.up");
    must_fail(ousac_plan_check(plan, &arch, "p.oca", &error), OUSAC_STATUS_MISMATCH, &error,
              "site 4 of the plan is blocks.0.mlp.up, of the model blocks.0.mlp.fc1");
    ousac_plan_free(plan);
    plan = some_plan(&arch);
    plan->rank[5] = 8; /* min(8, 32): the exact product */
    must_succeed(ousac_plan_check(plan, &arch, "p.oca", &error), &error);
    plan->rank[5] = 9;
    must_fail(ousac_plan_check(plan, &arch, "p.oca", &error), OUSAC_STATUS_MISMATCH, &error,
              "rank 9 for site blocks.0.mlp.fc2");
    ousac_plan_free(plan);
    ousac_arch_free(&arch);
}

static void a_damaged_file_is_refused(void **state) {
    static const int32_t negative[12] = {0, -3};
    static const double numbers[12] = {0};
    static const struct {
        const char *why;
        archive_edit edit;
    } cases[] = {
        {"expected \"ousac-plan\"", {.key = "format", .value = "ousac-bundle"}},
        {"no metadata \"name\"", {.drop = "name"}},
        {"cannot name a plan", {.key = "name", .value = "a/b"}},
        {"no metadata \"method\"", {.drop = "method"}},
        {"metadata \"budget\"", {.key = "budget", .value = "nan"}},
        {"metadata \"budget\"", {.key = "budget", .value = "1e999"}},
        {"metadata \"budget\"", {.key = "budget", .value = "0x10"}},
        {"metadata \"budget\"", {.key = "budget", .value = ""}},
        {"metadata \"gap\"", {.key = "gap", .value = "0.5 "}},
        {"metadata \"exact\"", {.key = "exact", .value = "2"}},
        {"metadata \"model_digest\"", {.key = "model_digest", .value = "AAAA"}},
        {"metadata \"sites\"", {.key = "sites", .value = "{}"}},
        {"metadata \"sites\"", {.key = "sites", .value = "[]"}},
        {"metadata \"sites\"", {.key = "sites", .value = "[1]"}},
        {"metadata \"sites\"", {.key = "sites", .value = "[\"\"]"}},
        {"(12); expected (1)", {.key = "sites", .value = "[\"blocks.0.attn.q\"]"}},
        {"no tensor \"rank\"", {.drop = "rank"}},
        {"rank -3 of site blocks.0.attn.k",
         {.tensor = "rank", .dtype = OUSAC_DTYPE_I32, .dims = 1, .shape = {12}, .data = negative}},
        {"is f64; expected i32",
         {.tensor = "rank", .dtype = OUSAC_DTYPE_F64, .dims = 1, .shape = {12}, .data = numbers}},
        {"2 tensors; expected 1",
         {.tensor = "more", .dtype = OUSAC_DTYPE_F64, .dims = 1, .shape = {12}, .data = numbers}},
    };
    char good[SCRATCH_PATH_BYTES], bad[SCRATCH_PATH_BYTES];
    ousac_arch arch;
    ousac_plan *loaded = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_arch(&arch);
    ousac_plan *plan = some_plan(&arch);
    scratch_join(good, directory.path, "good.oca");
    scratch_join(bad, directory.path, "bad.oca");
    must_succeed(ousac_plan_save(plan, good, &error), &error);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rewrite_archive(good, bad, &cases[i].edit);
        must_fail(ousac_plan_load(&loaded, bad, &error), OUSAC_STATUS_FORMAT, &error, cases[i].why);
        must_fail(error.status, OUSAC_STATUS_FORMAT, &error, bad);
        assert_null(loaded);
    }
    /* nor is one written */
    plan->gap = 1.0 / 0.0;
    must_fail(ousac_plan_save(plan, bad, &error), OUSAC_STATUS_NUMBER, &error, "gap");
    plan->gap = 0;
    plan->model_digest[0] = 'z';
    must_fail(ousac_plan_save(plan, bad, &error), OUSAC_STATUS_USAGE, &error, "model_digest");
    ousac_plan_free(plan);
    ousac_arch_free(&arch);
}

static void short_memory_is_an_error_and_leaves_nothing(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_arch arch;
    ousac_plan *loaded = NULL;
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    (void)state;
    synthetic_arch(&arch);
    ousac_plan *plan = some_plan(&arch);
    scratch_join(path, directory.path, "short.oca");
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_plan_save(plan, path, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        assert_int_equal(file_exists(path), status == OUSAC_STATUS_OK);
    }
    assert_true(allowed > 10);
    status = OUSAC_STATUS_MEMORY;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_plan_load(&loaded, path, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        assert_int_equal(loaded != NULL, status == OUSAC_STATUS_OK);
    }
    assert_true(allowed > 5);
    assert_equal_plans(plan, loaded);
    ousac_plan_free(loaded);
    ousac_plan_free(plan);
    ousac_arch_free(&arch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_says_what_the_allocation_said),
        cmocka_unit_test(a_file_and_a_copy_hold_the_whole_plan),
        cmocka_unit_test(names_that_cannot_be_keys_are_refused),
        cmocka_unit_test(a_plan_for_other_sites_is_refused),
        cmocka_unit_test(a_damaged_file_is_refused),
        cmocka_unit_test(short_memory_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
