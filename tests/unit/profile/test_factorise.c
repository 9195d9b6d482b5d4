/* Factors of a profile against the residual that they leave, computed naively; and errors in a fixed order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/memory.h"
#include "profile/bundle/factorise.h"
#include "tests/support/calib_support.h"
#include "tests/support/profile_support.h"

enum { SAMPLES = 40, SEGMENTS = 2 };

typedef struct fixture {
    ousac_model *model;
    ousac_profile *profile;
} fixture;

static void create(fixture *f) {
    synthetic_model(&f->model, 11);
    synthetic_profile(&f->profile, 0, SAMPLES, SEGMENTS, 1);
}

static void destroy(fixture *f) {
    synthetic_model_free(f->model);
    ousac_profile_free(f->profile);
}

/* Element (i, j) of a group's moment over all segments. */
static double moment_at(const ousac_profile *profile, size_t group, size_t i, size_t j) {
    const size_t high = i > j ? i : j, low = i > j ? j : i;
    double sum = 0;
    for (size_t segment = 0; segment < profile->identity.segments; segment++)
        sum += profile->moment[segment * profile->arch.group_count + group][high * (high + 1) / 2 + low];
    return sum;
}

/* W less its first `rank` directions, (m, n). */
static double *remainder_of(const fixture *f, const ousac_factors *factors, size_t site, size_t rank) {
    const size_t m = factors->m, n = factors->n;
    double *rest = malloc(m * n * sizeof *rest);
    assert_non_null(rest);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            rest[i * n + j] = (double)f->model->weight[site][i * n + j];
            for (size_t r = 0; r < rank; r++)
                rest[i * n + j] -= (double)factors->a[r * m + i] * (double)factors->b[r * n + j];
        }
    return rest;
}

/* E || (W - M) dx ||^2 for M of the first `rank` directions: tr (W - M) C (W - M)^T. */
static double input_residual(const fixture *f, const ousac_factors *factors, size_t site, size_t rank) {
    const size_t m = factors->m, n = factors->n, group = f->model->arch.sites[site].group;
    double *rest = remainder_of(f, factors, site, rank);
    double residual = 0;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            for (size_t k = 0; k < n; k++)
                residual += rest[i * n + j] * moment_at(f->profile, group, j, k) * rest[i * n + k];
    free(rest);
    return residual;
}

/* The same from D: with M = U U^T W, tr (1 - U U^T) D (1 - U U^T). That b = U^T W is checked on the way. */
static double output_residual(const fixture *f, const ousac_factors *factors, size_t site, size_t rank) {
    const size_t m = factors->m, n = factors->n, group = f->model->arch.sites[site].group;
    double residual = 0;
    for (size_t i = 0; i < m; i++)
        residual += moment_at(f->profile, group, i, i);
    for (size_t r = 0; r < rank; r++) {
        const float *u = factors->a + r * m;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < m; j++)
                residual -= (double)u[i] * moment_at(f->profile, group, i, j) * (double)u[j];
        for (size_t j = 0; j < n; j++) {
            double b = 0;
            for (size_t i = 0; i < m; i++)
                b += (double)u[i] * (double)f->model->weight[site][i * n + j];
            assert_true(fabs(b - (double)factors->b[r * n + j]) < 1e-5);
        }
    }
    return residual;
}

static void every_rank_leaves_the_energy_that_its_spectrum_says(void **state) {
    const ousac_factorise_options options = {.threads = 2};
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    fixture f;
    (void)state;
    create(&f);
    must_succeed(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), &error);
    assert_int_equal(set->site_count, f.model->arch.site_count);
    for (size_t s = 0; s < set->site_count; s++) {
        const ousac_factors *factors = &set->site[s];
        const ousac_site *site = &f.model->arch.sites[s];
        const int input = f.model->arch.groups[site->group].side == OUSAC_SIDE_INPUT;
        double total = 0;
        assert_int_equal(factors->m, site->m);
        assert_int_equal(factors->n, site->n);
        assert_int_equal(factors->lambda_count, 8);
        /* ceil(m n / (m + n)) - 1: (8, 8) 3, (32, 8) and (8, 32) 6 */
        assert_int_equal(factors->rank, site->m == site->n ? 3 : 6);
        for (size_t i = 0; i < 8; i++)
            total += factors->lambda[i];
        double tail = total;
        for (size_t rank = 0; rank <= factors->rank; rank++) {
            const double residual =
                input ? input_residual(&f, factors, s, rank) : output_residual(&f, factors, s, rank);
            assert_true(fabs(residual - tail) < 1e-5 * total);
            tail -= factors->lambda[rank];
        }
    }
    ousac_factor_set_free(set);
    destroy(&f);
}

/* --- the scaled methods --- */

/* Root of the mean, at least a thousandth of the largest, plus 1e-6; 1 for plain SVD. */
static double naive_scale(const double *sum, size_t count, size_t i) {
    double largest = 0;
    for (size_t j = 0; sum && j < count; j++)
        largest = fmax(largest, sqrt(sum[j] / SAMPLES));
    return sum ? fmax(sqrt(sum[i] / SAMPLES), largest / 1000) + 1e-6 : 1;
}

/* What the first `rank` directions leave of the scaled weight, and against Jacobi what no truncation can
 * undercut. */
static void check_scaled_site(const fixture *f, const ousac_factors *factors, size_t s,
                              ousac_magnitude right_kind, ousac_magnitude left_kind, int scaled) {
    const ousac_arch *arch = &f->model->arch;
    const size_t m = factors->m, n = factors->n;
    const double *right = f->profile->magnitude[right_kind], *left = f->profile->magnitude[left_kind];
    double *gram = calloc(m * m, sizeof *gram), *vectors = calloc(m * m, sizeof *vectors);
    double *lambda = calloc(m, sizeof *lambda), *scale = calloc(m * n, sizeof *scale);
    double total = 0;
    assert_true(gram && vectors && lambda && scale);
    for (size_t g = 0; g < arch->sites[s].group; g++)
        right += arch->sites[arch->groups[g].first_site].n;
    for (size_t i = 0; i < s; i++)
        left += arch->sites[i].m;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            scale[i * n + j] =
                naive_scale(scaled ? left : NULL, m, i) * naive_scale(scaled ? right : NULL, n, j);
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < m; k++)
            for (size_t j = 0; j < n; j++)
                gram[i * m + k] += scale[i * n + j] * (double)f->model->weight[s][i * n + j] *
                                   scale[k * n + j] * (double)f->model->weight[s][k * n + j];
    calib_jacobi(m, gram, lambda, vectors);
    for (size_t i = 0; i < m; i++)
        total += lambda[i];
    for (size_t i = 0; i < factors->lambda_count; i++)
        assert_true(fabs(factors->lambda[i] - lambda[i]) < 1e-10 * total);
    double tail = total;
    for (size_t rank = 0; rank <= factors->rank; rank++) {
        double *rest = remainder_of(f, factors, s, rank), residual = 0;
        for (size_t i = 0; i < m * n; i++)
            residual += rest[i] * rest[i] * scale[i] * scale[i];
        assert_true(fabs(residual - tail) < 1e-5 * total);
        tail -= lambda[rank];
        free(rest);
    }
    free(gram), free(vectors), free(lambda), free(scale);
}

static void scaled_methods_leave_what_their_spectrum_says(void **state) {
    ousac_error error = {0};
    fixture f;
    (void)state;
    synthetic_model(&f.model, 12);
    synthetic_profile_with_magnitudes(&f.profile, 0, SAMPLES);
    for (int method = OUSAC_METHOD_SVD; method < OUSAC_METHOD_COUNT; method++) {
        const ousac_factorise_options options = {.method = (ousac_method)method, .threads = 2};
        const int adjacent = method == OUSAC_METHOD_CD_SVD;
        ousac_factor_set *set = NULL;
        must_succeed(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), &error);
        assert_int_equal(set->method, method);
        for (size_t s = 0; s < set->site_count; s++) {
            assert_int_equal(set->site[s].rank, set->site[s].m == set->site[s].n ? 3 : 6);
            check_scaled_site(&f, &set->site[s], s, adjacent ? OUSAC_MAGNITUDE_ADX : OUSAC_MAGNITUDE_X,
                              adjacent ? OUSAC_MAGNITUDE_ADY : OUSAC_MAGNITUDE_Y, method != OUSAC_METHOD_SVD);
        }
        ousac_factor_set_free(set);
    }
    destroy(&f);
}

static void methods_need_what_they_are_made_of(void **state) {
    ousac_factorise_options options = {.method = OUSAC_METHOD_SVD, .threads = 1};
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    ousac_method method = OUSAC_METHOD_COUNT;
    fixture f;
    (void)state;
    synthetic_model(&f.model, 12);
    synthetic_profile(&f.profile, 0, 4, 1, 0); /* a pilot without magnitudes: enough for the weights alone */
    must_succeed(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), &error);
    ousac_factor_set_free(set);
    options.method = OUSAC_METHOD_CA_SVD;
    must_fail(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), OUSAC_STATUS_MISMATCH,
              &error, "ca-svd");
    options.method = OUSAC_METHOD_COUNT;
    must_fail(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), OUSAC_STATUS_USAGE, &error,
              "method 4");
    for (int i = 0; i < OUSAC_METHOD_COUNT; i++) {
        assert_int_equal(ousac_method_parse(&method, ousac_method_name((ousac_method)i)), 0);
        assert_int_equal(method, i);
    }
    assert_string_equal(ousac_method_name(OUSAC_METHOD_CD_SVD), "cd-svd");
    assert_int_equal(ousac_method_parse(&method, "cd-svd "), -1);
    assert_string_equal(ousac_method_name(OUSAC_METHOD_COUNT), "?");
    destroy(&f);
}

static void count_groups(void *self, uint64_t done, uint64_t total) {
    uint64_t *seen = self;
    assert_true(done == *seen + 1 && total == 8);
    *seen = done;
}

static void results_do_not_depend_on_threads(void **state) {
    ousac_factor_set *one = NULL, *many = NULL;
    ousac_error error = {0};
    uint64_t seen = 0;
    size_t rank_max[12];
    ousac_factorise_options options = {
        .rank_max = rank_max, .progress = count_groups, .progress_self = &seen};
    fixture f;
    (void)state;
    create(&f);
    for (size_t s = 0; s < 12; s++)
        rank_max[s] = s % 9;
    must_succeed(ousac_factor_set_create(&one, f.model, f.profile, &options, &error), &error);
    assert_true(seen == 8);
    seen = 0;
    options.threads = 5;
    must_succeed(ousac_factor_set_create(&many, f.model, f.profile, &options, &error), &error);
    assert_true(seen == 8);
    for (size_t s = 0; s < one->site_count; s++) {
        const ousac_factors *a = &one->site[s], *b = &many->site[s];
        assert_int_equal(a->rank, rank_max[s]);
        assert_int_equal(b->rank, a->rank);
        assert_int_equal(a->directions, 8);
        assert_memory_equal(a->lambda, b->lambda, 8 * sizeof *a->lambda);
        if (a->rank) {
            assert_memory_equal(a->a, b->a, a->rank * a->m * sizeof *a->a);
            assert_memory_equal(a->b, b->b, a->rank * a->n * sizeof *a->b);
        }
    }
    ousac_factor_set_free(one);
    ousac_factor_set_free(many);
    destroy(&f);
}

static void the_first_bad_group_is_reported_whatever_the_threads(void **state) {
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    fixture f;
    (void)state;
    create(&f);
    /* far from positive semidefinite: groups 7 (blocks.1.mlp.fc2), 5 (blocks.1.attn.proj), 3
     * (blocks.0.mlp.fc2) */
    for (size_t group = 7; group >= 3; group -= 2)
        f.profile->moment[group][0] = -1e9;
    for (size_t threads = 1; threads <= 4; threads++)
        for (int again = 0; again < 10; again++) {
            const ousac_factorise_options options = {.threads = threads};
            must_fail(ousac_factor_set_create(&set, f.model, f.profile, &options, &error),
                      OUSAC_STATUS_NUMBER, &error, "blocks.0.mlp.fc2");
            assert_null(set);
        }
    destroy(&f);
}

typedef struct stopper {
    ousac_stop stop;
    uint64_t done;
} stopper;

static void stop_after_three(void *self, uint64_t done, uint64_t total) {
    stopper *stopping = self;
    (void)total;
    stopping->done = done;
    if (done >= 3)
        ousac_stop_ask(&stopping->stop);
}

static void it_stops_when_told(void **state) {
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    stopper stopping = {0};
    const ousac_factorise_options options = {
        .threads = 1, .progress = stop_after_three, .progress_self = &stopping, .stop = &stopping.stop};
    fixture f;
    (void)state;
    create(&f);
    must_fail(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), OUSAC_STATUS_INTERRUPTED,
              &error, "3 of 8");
    assert_true(stopping.done == 3);
    assert_null(set);
    destroy(&f);
}

static void a_profile_of_something_else_is_refused(void **state) {
    ousac_factorise_options options = {.threads = 1};
    ousac_factor_set *set = NULL;
    ousac_profile *pilot = NULL;
    ousac_error error = {0};
    fixture f;
    (void)state;
    create(&f);
    synthetic_digest(f.model->digest, 'c');
    must_fail(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), OUSAC_STATUS_MISMATCH,
              &error, "of model aaaaaaaaaaaa, and this is model cccccccccccc");
    options.force = 1;
    must_succeed(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), &error);
    ousac_factor_set_free(set);
    f.model->arch.sites[2].name[0] = 'x';
    must_fail(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), OUSAC_STATUS_MISMATCH,
              &error, "site 2");
    f.model->arch.sites[2].name[0] = 'b';
    synthetic_profile(&pilot, 0, 4, 1, 0);
    must_fail(ousac_factor_set_create(&set, f.model, pilot, &options, &error), OUSAC_STATUS_MISMATCH, &error,
              "pilot");
    assert_null(set);
    ousac_profile_free(pilot);
    destroy(&f);
}

static void a_source_gives_prefixes_and_no_more(void **state) {
    const ousac_factorise_options options = {.threads = 1};
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    float a[3 * 8], b[3 * 8];
    fixture f;
    (void)state;
    create(&f);
    must_succeed(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), &error);
    must_succeed(ousac_factor_set_source(set, 1, 2, a, b, &error), &error);
    assert_memory_equal(a, set->site[1].a, 2 * 8 * sizeof *a);
    assert_memory_equal(b, set->site[1].b, 2 * 8 * sizeof *b);
    must_fail(ousac_factor_set_source(set, 1, 4, a, b, &error), OUSAC_STATUS_MISMATCH, &error,
              "rank 4 of site 1, whose factors hold 3");
    must_fail(ousac_factor_set_source(set, 12, 1, a, b, &error), OUSAC_STATUS_MISMATCH, &error, "site 12");
    ousac_factor_set_free(set);
    destroy(&f);
}

static void clipping_keeps_what_the_spectrum_holds(void **state) {
    const ousac_factorise_options options = {.threads = 1};
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    size_t rank[12];
    fixture f;
    (void)state;
    create(&f);
    /* blocks.0.attn.proj (group 1, site 3) saw one direction only, blocks.1.mlp.fc1 (group 6, site 10) none
     */
    for (size_t segment = 0; segment < SEGMENTS; segment++) {
        memset(f.profile->moment[segment * 8 + 1], 0, 36 * sizeof(double));
        memset(f.profile->moment[segment * 8 + 6], 0, 36 * sizeof(double));
        f.profile->moment[segment * 8 + 1][0] = 2;
    }
    must_succeed(ousac_factor_set_create(&set, f.model, f.profile, &options, &error), &error);
    assert_int_equal(set->site[3].directions, 1);
    assert_int_equal(set->site[10].directions, 0);
    for (size_t s = 0; s < 12; s++)
        rank[s] = 2;
    ousac_factor_set_clip(set, &f.model->arch, rank);
    for (size_t s = 0; s < 12; s++)
        assert_int_equal(rank[s], s == 3 ? 1 : s == 10 ? 0 : 2);
    rank[3] = 4; /* dense */
    rank[10] = 7;
    ousac_factor_set_clip(set, &f.model->arch, rank);
    assert_int_equal(rank[3], 4);
    assert_int_equal(rank[10], 7);
    ousac_factor_set_free(set);
    destroy(&f);
}

static void short_memory_is_an_error(void **state) {
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    fixture f;
    (void)state;
    create(&f);
    for (size_t threads = 1; threads <= 2; threads++) {
        const ousac_factorise_options options = {.threads = threads};
        ousac_status status = OUSAC_STATUS_MEMORY;
        long allowed;
        for (allowed = 0; status; allowed++) {
            (void)ousac_memory_fail_after(allowed);
            status = ousac_factor_set_create(&set, f.model, f.profile, &options, &error);
            (void)ousac_memory_fail_after(-1);
            if (status)
                must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
            assert_int_equal(set != NULL, status == OUSAC_STATUS_OK);
        }
        assert_true(allowed > 50);
        ousac_factor_set_free(set);
        set = NULL;
    }
    destroy(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_leaves_the_energy_that_its_spectrum_says),
        cmocka_unit_test(scaled_methods_leave_what_their_spectrum_says),
        cmocka_unit_test(methods_need_what_they_are_made_of),
        cmocka_unit_test(results_do_not_depend_on_threads),
        cmocka_unit_test(the_first_bad_group_is_reported_whatever_the_threads),
        cmocka_unit_test(it_stops_when_told),
        cmocka_unit_test(a_profile_of_something_else_is_refused),
        cmocka_unit_test(a_source_gives_prefixes_and_no_more),
        cmocka_unit_test(clipping_keeps_what_the_spectrum_holds),
        cmocka_unit_test(short_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
