/* How factors are stored: the rounding, what it adds to the error against an oracle that applies the factors
 * to every single delta, and the choice of types.
 */
#include "profile/bundle/storage.h"

#include "formats/memory.h"
#include "profile/bundle/factorise.h"
#include "tests/support/profile_support.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DELTAS = 400, WIDEST = SYNTHETIC_HIDDEN, RANK = 4, FC1 = 4, FC2 = 5 };

static double uniform(uint64_t *state) { /* splitmix64, to (-1, 1) */
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return (double)(z >> 11) / 4503599627370496.0 - 1;
}

/* A model, a profile of known deltas of one site, and the factors made of it. */
typedef struct stage {
    ousac_model *model;
    ousac_profile *profile;
    ousac_factor_set *set;
    size_t site, m, n;
    double delta[DELTAS][WIDEST];
} stage;

static void stage_create(stage *s, size_t site, uint64_t seed) {
    ousac_error error = {0};
    synthetic_model(&s->model, seed);
    synthetic_profile(&s->profile, 0, 4, 1, 1);
    const ousac_site *of = &s->model->arch.sites[site];
    const size_t groups = s->profile->arch.group_count, sites = s->profile->arch.site_count;
    const float *w = synthetic_weight(s->model, site);
    double dx2 = 0, dy2 = 0, *packed = s->profile->moment[of->group];
    s->site = site;
    s->m = of->m;
    s->n = of->n;
    memset(packed, 0, ousac_profile_moment_size(&s->profile->arch.groups[of->group]) * sizeof *packed);
    for (int t = 0; t < DELTAS; t++) {
        double y[WIDEST] = {0};
        for (size_t j = 0; j < s->n; j++) { /* uneven channels, so that their sizes matter */
            s->delta[t][j] = uniform(&seed) * (j % 3 == 0 ? 3 : 0.5);
            dx2 += s->delta[t][j] * s->delta[t][j];
        }
        for (size_t i = 0; i < s->m; i++) {
            for (size_t j = 0; j < s->n; j++)
                y[i] += (double)w[i * s->n + j] * s->delta[t][j];
            dy2 += y[i] * y[i];
        }
        const int output = s->model->arch.groups[of->group].side == OUSAC_SIDE_OUTPUT;
        const double *v = output ? y : s->delta[t];
        for (size_t i = 0; i < (output ? s->m : s->n); i++)
            for (size_t j = 0; j <= i; j++)
                packed[i * (i + 1) / 2 + j] += v[i] * v[j];
    }
    /* energies in the proportion of the deltas, whatever the step; other steps must not count */
    for (size_t e = 0; e < s->profile->schedule.step_count * OUSAC_BRANCHES; e++) {
        const int cached = s->profile->gate[e] == OUSAC_GATE_CACHED;
        s->profile->scalar[OUSAC_SCALAR_DX2][e * groups + of->group] = cached ? dx2 : 1e9;
        s->profile->scalar[OUSAC_SCALAR_DY2][e * sites + site] = cached ? dy2 : 7;
    }
    const size_t rank_max[] = {RANK, RANK, RANK, RANK, RANK, RANK, RANK, RANK, RANK, RANK, RANK, RANK};
    const ousac_factorise_options options = {.rank_max = rank_max, .threads = 1};
    must_succeed(ousac_factor_set_create(&s->set, s->model, s->profile, &options, &error), &error);
    assert_int_equal(s->set->site[site].rank, RANK);
}

static void stage_free(stage *s) {
    ousac_factor_set_free(s->set);
    ousac_profile_free(s->profile);
    synthetic_model_free(s->model);
}

/* What (a, b) leave of every delta's image, summed. */
static double energy_left(const stage *s, const float *a, const float *b) {
    const float *w = synthetic_weight(s->model, s->site);
    double sum = 0;
    for (int t = 0; t < DELTAS; t++) {
        double z[RANK] = {0};
        for (size_t r = 0; r < RANK; r++)
            for (size_t j = 0; j < s->n; j++)
                z[r] += (double)b[r * s->n + j] * s->delta[t][j];
        for (size_t i = 0; i < s->m; i++) {
            double y = 0;
            for (size_t j = 0; j < s->n; j++)
                y += (double)w[i * s->n + j] * s->delta[t][j];
            for (size_t r = 0; r < RANK; r++)
                y -= (double)a[r * s->m + i] * z[r];
            sum += y * y;
        }
    }
    return sum;
}

/* Rounding as the format has it, written anew. */
static void naive_round(ousac_dtype dtype, const float *from, size_t cols, float *to) {
    for (size_t r = 0; r < RANK; r++) {
        float largest = 0;
        for (size_t j = 0; j < cols; j++)
            largest = fmaxf(largest, fabsf(from[r * cols + j]));
        for (size_t j = 0; j < cols; j++) {
            const float v = from[r * cols + j];
            to[r * cols + j] = dtype == OUSAC_DTYPE_I8 ? (float)lrintf(v / (largest / 127)) * (largest / 127)
                               : dtype == OUSAC_DTYPE_BF16 ? ousac_bf16_to_f32(ousac_f32_to_bf16(v))
                               : dtype == OUSAC_DTYPE_F16  ? ousac_f16_to_f32(ousac_f32_to_f16(v))
                                                           : v;
        }
    }
}

static double naive_added(const stage *s, ousac_dtype a, ousac_dtype b) {
    const ousac_factors *f = &s->set->site[s->site];
    float ra[RANK * WIDEST], rb[RANK * WIDEST];
    naive_round(a, f->a, s->m, ra);
    naive_round(b, f->b, s->n, rb);
    const double left = energy_left(s, f->a, f->b);
    return (energy_left(s, ra, rb) - left) / left;
}

static const ousac_dtype types[] = {OUSAC_DTYPE_I8, OUSAC_DTYPE_BF16, OUSAC_DTYPE_F16, OUSAC_DTYPE_F32};
enum { TYPES = sizeof types / sizeof *types };

static void added_is_exact_where_the_moment_is_of_the_input(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++)
        for (size_t site = 0; site <= FC1; site++) {
            stage s;
            stage_create(&s, site, seed);
            for (int a = 0; a < TYPES; a++)
                for (int b = 0; b < TYPES; b++) {
                    ousac_storage found;
                    ousac_error error = {0};
                    must_succeed(ousac_storage_measure(s.model, s.profile, &s.set->site[site], site, RANK, 1,
                                                       types[a], types[b], &found, &error),
                                 &error);
                    assert_true(found.measured && !found.estimated);
                    /* the factors themselves are rounded to f32, which the first-order part sees */
                    const double limit = 1e-9;
                    const double both = naive_added(&s, types[a], types[b]);
                    if (!(fabs(found.added - both) <= limit + 1e-4 * fabs(both)))
                        fail_msg("site %zu, %s and %s: %g, expected %g", site, ousac_dtype_name(types[a]),
                                 ousac_dtype_name(types[b]), found.added, both);
                    assert_true(fabs(found.added_a - naive_added(&s, types[a], OUSAC_DTYPE_F32)) <=
                                limit + 1e-4 * fabs(found.added_a));
                    assert_true(fabs(found.added_b - naive_added(&s, OUSAC_DTYPE_F32, types[b])) <=
                                limit + 1e-4 * fabs(found.added_b));
                }
            stage_free(&s);
        }
}

/* Of the layer whose output's moment is recorded: A's part holds, B's is right on average. */
static void added_is_estimated_where_the_moment_is_of_the_output(void **state) {
    double sum = 0;
    enum { SEEDS = 40 };
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        ousac_storage found;
        ousac_error error = {0};
        stage s;
        stage_create(&s, FC2, seed);
        must_succeed(ousac_storage_measure(s.model, s.profile, &s.set->site[FC2], FC2, RANK, 1,
                                           OUSAC_DTYPE_I8, OUSAC_DTYPE_I8, &found, &error),
                     &error);
        assert_true(found.measured && found.estimated);
        const double a = naive_added(&s, OUSAC_DTYPE_I8, OUSAC_DTYPE_F32);
        const double b = naive_added(&s, OUSAC_DTYPE_F32, OUSAC_DTYPE_I8);
        assert_true(fabs(found.added_a - a) <= 0.02 * a);
        assert_true(found.added_b > 0.4 * b && found.added_b < 2.5 * b);
        assert_true(fabs(found.added - found.added_a - found.added_b) <= 1e-12);
        sum += found.added_b / b;
        stage_free(&s);
    }
    assert_true(fabs(sum / SEEDS - 1) < 0.1);
}

static void the_cheapest_below_the_limit_is_chosen(void **state) {
    (void)state;
    for (size_t site = 0; site <= FC2; site++)
        for (uint64_t seed = 1; seed <= 6; seed++) {
            ousac_storage chosen, other;
            ousac_error error = {0};
            stage s;
            stage_create(&s, site, seed);
            const ousac_factors *f = &s.set->site[site];
            must_succeed(ousac_storage_choose(s.model, s.profile, f, site, RANK, 1, &chosen, &error), &error);
            assert_true(chosen.added < OUSAC_STORAGE_ADDED_MAX);
            const size_t price = s.m * ousac_dtype_bytes(chosen.a) + s.n * ousac_dtype_bytes(chosen.b) +
                                 4 * (size_t)((chosen.a == OUSAC_DTYPE_I8) + (chosen.b == OUSAC_DTYPE_I8));
            for (int a = 0; a < TYPES; a++)
                for (int b = 0; b < TYPES; b++) {
                    if (types[a] == OUSAC_DTYPE_F16 || types[b] == OUSAC_DTYPE_F16)
                        continue;
                    must_succeed(ousac_storage_measure(s.model, s.profile, f, site, RANK, 1, types[a],
                                                       types[b], &other, &error),
                                 &error);
                    const size_t its =
                        s.m * ousac_dtype_bytes(types[a]) + s.n * ousac_dtype_bytes(types[b]) +
                        4 * (size_t)((types[a] == OUSAC_DTYPE_I8) + (types[b] == OUSAC_DTYPE_I8));
                    assert_true(its >= price || other.added >= OUSAC_STORAGE_ADDED_MAX);
                }
            stage_free(&s);
        }
}

static void what_leaves_no_error_is_kept_exactly(void **state) {
    ousac_storage chosen;
    ousac_error error = {0};
    stage s;
    (void)state;
    stage_create(&s, 0, 3);
    ousac_factors *f = &s.set->site[0];
    for (size_t i = RANK; i < f->lambda_count; i++)
        f->lambda[i] = 0;
    must_succeed(ousac_storage_choose(s.model, s.profile, f, 0, RANK, 1, &chosen, &error), &error);
    assert_int_equal(chosen.a, OUSAC_DTYPE_F32);
    assert_int_equal(chosen.b, OUSAC_DTYPE_F32);
    assert_true(chosen.added == 0);
    must_succeed(ousac_storage_measure(s.model, s.profile, f, 0, RANK, 1, OUSAC_DTYPE_I8, OUSAC_DTYPE_I8,
                                       &chosen, &error),
                 &error);
    assert_true(isinf(chosen.added));
    /* factors that the moments did not make */
    must_succeed(ousac_storage_choose(s.model, s.profile, f, 0, RANK, 0, &chosen, &error), &error);
    assert_int_equal(chosen.a, OUSAC_DTYPE_F32);
    assert_false(chosen.measured);
    stage_free(&s);
}

static void rounding_to_i8_stays_within_half_a_step(void **state) {
    static const float rows[][4] = {{1, -2, 0.5F, 0},
                                    {0, 0, 0, 0},
                                    {-1e30F, 1e30F, 3e29F, 1},
                                    {1e-40F, -3e-41F, 0, 2e-45F},
                                    {5e-45F, 0, 0, -5e-45F}};
    signed char data[4];
    float scale, back[4];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(ousac_storage_round(OUSAC_DTYPE_I8, rows[i], 1, 4, data, &scale, back), 0);
        assert_true(isfinite(scale) && scale >= 0);
        for (int j = 0; j < 4; j++) {
            assert_true(data[j] >= -127 && data[j] <= 127);
            assert_true(back[j] == (float)data[j] * scale);
            /* below the smallest normal number the scale itself is coarse */
            assert_true(fabsf(back[j] - rows[i][j]) <= 0.5001F * scale || fabsf(rows[i][j]) < 1e-37F);
        }
    }
    const float wrong[] = {1, INFINITY};
    assert_int_equal(ousac_storage_round(OUSAC_DTYPE_I8, wrong, 1, 2, data, &scale, back), -1);
    const float large[] = {1, 1e5F};
    unsigned short half[2];
    assert_int_equal(ousac_storage_round(OUSAC_DTYPE_F16, large, 1, 2, half, &scale, back), -1);
}

static void every_allocation_may_fail(void **state) {
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    stage s;
    (void)state;
    stage_create(&s, FC1, 2);
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        ousac_storage chosen;
        (void)ousac_memory_fail_after(allowed);
        status = ousac_storage_choose(s.model, s.profile, &s.set->site[FC1], FC1, RANK, 1, &chosen, NULL);
        (void)ousac_memory_fail_after(-1);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 10);
    stage_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(added_is_exact_where_the_moment_is_of_the_input),
        cmocka_unit_test(added_is_estimated_where_the_moment_is_of_the_output),
        cmocka_unit_test(the_cheapest_below_the_limit_is_chosen),
        cmocka_unit_test(what_leaves_no_error_is_kept_exactly),
        cmocka_unit_test(rounding_to_i8_stays_within_half_a_step),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
