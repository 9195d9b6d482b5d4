/* Runs of a small FLUX against its oracle: exact, and with every way of caching; and what they cost, by stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/cost.h"
#include "calib/stats/philox.h"
#include "profile/model/flux.h"
#include "tests/support/flux_session.h"
#include "tests/support/profile_support.h"

enum { CELLS = FLUX_JOINT * (FLUX_D + FLUX_HIDDEN), RANK = 3 };

/* --- the oracle's caches --- */

typedef struct cache {
    int filled; /* full evaluations, at most 2 */
    size_t full_step[2];
    double x[2][FLUX_SITES][CELLS], y[2][FLUX_SITES][CELLS], out[2][FLUX_MODULES][2][FLUX_JOINT * FLUX_D];
} cache;

typedef struct caching {
    const ousac_ranks *ranks; /* NULL: reuse */
    const ousac_schedule *schedule;
    cache branch[2], *now;
    size_t step;
    int gate, at_branch;
} caching;

static float coefficient(size_t step, int branch, size_t group) {
    return 0.3f + 0.1f * (float)((step + (size_t)branch + group) % 5);
}

static ousac_status random_factors(void *self, size_t site, size_t rank, float *a, float *b,
                                   ousac_error *error) {
    const ousac_site *s = &flux.model->arch.sites[site];
    (void)self, (void)error;
    ousac_philox_normals(site, 4000, 0, rank * s->m, a);
    ousac_philox_normals(site, 4001, 0, rank * s->n, b);
    for (size_t i = 0; i < rank * s->m; i++)
        a[i] *= 0.2f;
    return OUSAC_STATUS_OK;
}

static void begin(void *self, size_t step, int branch) {
    caching *c = self;
    c->now = &c->branch[branch];
    c->step = step;
    c->at_branch = branch;
    c->gate = c->now->filled ? (int)c->schedule->steps[step].gate[branch] : OUSAC_GATE_FULL;
    if (c->gate == OUSAC_GATE_FULL) {
        c->now->filled += c->now->filled < 2;
        c->now->full_step[1] = c->now->full_step[0];
        c->now->full_step[0] = step;
    }
}

static int is_skipped(void *self, size_t module) {
    const caching *c = self;
    return c->gate != OUSAC_GATE_FULL && !(c->gate == OUSAC_GATE_CACHED && c->ranks &&
                                           ousac_cost_module_live(&flux.model->arch, module, c->ranks));
}

static void site(void *self, size_t s, size_t rows, size_t m, size_t n, const double *x, double *y) {
    caching *c = self;
    double(*cx)[FLUX_SITES][CELLS] = c->now->x, (*cy)[FLUX_SITES][CELLS] = c->now->y;
    if (c->gate == OUSAC_GATE_FULL) {
        memcpy(cx[1][s], cx[0][s], sizeof cx[0][s]);
        memcpy(cy[1][s], cy[0][s], sizeof cy[0][s]);
        memcpy(cx[0][s], x, rows * n * sizeof *x);
        memcpy(cy[0][s], y, rows * m * sizeof *y);
        return;
    }
    const ousac_path path = ousac_cost_path(&flux.model->arch, s, c->ranks);
    if (path == OUSAC_PATH_DENSE)
        return;
    if (path == OUSAC_PATH_FROZEN) {
        memcpy(y, cy[0][s], rows * m * sizeof *y);
        return;
    }
    const size_t rank = c->ranks->rank[s];
    const double f = c->ranks->forecast && c->now->filled == 2
                         ? (double)coefficient(c->step, c->at_branch, flux.model->arch.sites[s].group)
                         : 0;
    float a[RANK * 64], b[RANK * 64];
    assert_int_equal(random_factors(NULL, s, rank, a, b, NULL), OUSAC_STATUS_OK);
    for (size_t i = 0; i < rows; i++) {
        double z[RANK] = {0};
        for (size_t r = 0; r < rank; r++)
            for (size_t k = 0; k < n; k++)
                z[r] += (double)b[r * n + k] * (x[i * n + k] - cx[0][s][i * n + k] -
                                                f * (cx[0][s][i * n + k] - cx[1][s][i * n + k]));
        for (size_t j = 0; j < m; j++) {
            y[i * m + j] = cy[0][s][i * m + j] + f * (cy[0][s][i * m + j] - cy[1][s][i * m + j]);
            for (size_t r = 0; r < rank; r++)
                y[i * m + j] += z[r] * (double)a[r * m + j];
        }
    }
}

static void output(void *self, size_t module, size_t o, size_t rows, size_t width, double *out) {
    caching *c = self;
    double *last = c->now->out[0][module][o], *before = c->now->out[1][module][o];
    if (c->gate == OUSAC_GATE_FULL) {
        memcpy(before, last, rows * width * sizeof *last);
        memcpy(last, out, rows * width * sizeof *last);
    } else if (is_skipped(c, module)) {
        const size_t *full = c->now->full_step;
        const double s = c->gate == OUSAC_GATE_EXTRAPOLATE && c->now->filled == 2
                             ? (double)(c->step - full[0]) / (double)(full[0] - full[1])
                             : 0;
        for (size_t i = 0; i < rows * width; i++)
            out[i] = last[i] + s * (last[i] - before[i]);
    }
}

/* A run, against the oracle's; `ranks` NULL: reuse. `extrapolate`: what is reused, but not within a cached
 * evaluation. */
static void compare(const char *what, int is_exact, const ousac_ranks *ranks, int extrapolate) {
    static float got[FLUX_SAMPLES * FLUX_SIZE], expected[FLUX_SIZE];
    ousac_calibration *calibration = NULL;
    ousac_forecast *forecast = NULL;
    ousac_counters counters;
    ousac_cost_total total;
    ousac_error error = {0};
    double worst = 0;
    ousac_schedule gated;
    must_succeed(ousac_schedule_copy(&gated, &flux_schedule, &error), &error);
    if (extrapolate)
        ousac_schedule_replace_gate(&gated, OUSAC_GATE_REUSE, OUSAC_GATE_EXTRAPOLATE);
    if (extrapolate && !ranks)
        ousac_schedule_replace_gate(&gated, OUSAC_GATE_CACHED, OUSAC_GATE_EXTRAPOLATE);
    if (ranks && ranks->forecast) {
        must_succeed(ousac_forecast_create(&forecast, FLUX_STEPS, FLUX_GROUPS, &error), &error);
        for (size_t i = 0; i < FLUX_STEPS * 2 * FLUX_GROUPS; i++)
            forecast->coefficient[i] =
                coefficient(i / FLUX_GROUPS / 2, (int)(i / FLUX_GROUPS % 2), i % FLUX_GROUPS);
    }
    if (ranks)
        must_succeed(ousac_calibration_create(&calibration, flux.model->backend, &flux.model->arch, ranks,
                                              random_factors, NULL, forecast, &error),
                     &error);
    ousac_run run = flux_run_of(got, &counters);
    run.exact = is_exact;
    run.calibration = calibration;
    run.schedule = &gated;
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < FLUX_SAMPLES; s++) {
        caching *c = calloc(1, sizeof *c);
        assert_non_null(c);
        c->ranks = ranks;
        c->schedule = &gated;
        const naive_flux_hooks hooks = {c, begin, is_skipped, site, output};
        naive_flux_trajectory(flux.oracle, flux.model->inputs, &gated, FLUX_SEED, s, is_exact ? NULL : &hooks,
                              expected);
        worst = fmax(worst, flux_relative(got + s * FLUX_SIZE, expected, FLUX_SIZE));
        free(c);
    }
    print_message("%s: %.2e\n", what, worst);
    assert_true(worst < 2e-5);
    if (!is_exact) {
        must_succeed(ousac_cost_trajectory(&flux.model->arch, &gated, ranks, &total, &error), &error);
        assert_true(counters.macs == FLUX_SAMPLES * total.schedule_cached);
    }
    ousac_calibration_free(calibration);
    ousac_forecast_free(forecast);
    ousac_schedule_free(&gated);
}

static void runs_match_the_oracle(void **state) {
    size_t rank[FLUX_SITES];
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    (void)state;
    compare("exact", 1, NULL, 0);
    compare("reuse", 0, NULL, 0);
    compare("reuse, extrapolated", 0, NULL, 1);
    for (size_t s = 0; s < FLUX_SITES; s++)
        rank[s] = RANK;
    compare("rank 3", 0, &ranks, 0);
    ranks.forecast = 1;
    compare("rank 3 with forecast", 0, &ranks, 0);
    for (size_t s = 0; s < FLUX_SITES; s++) /* all paths, and modules that are not live */
        rank[s] = s % 5 == 1 ? 0 : s % 5 == 2 ? 99 : 1 + s % RANK;
    rank[6] = rank[7] = 0; /* the first joint attention's second stage */
    rank[10] = 0;          /* an MLP's only first site */
    compare("every path", 0, &ranks, 0);
    compare("every path, extrapolated", 0, &ranks, 1);
}

/* The formulas by hand. */
static void costs_go_by_stream(void **state) {
    enum { D = FLUX_D, H = FLUX_HIDDEN, I = FLUX_IMAGE, T = FLUX_TEXT, J = FLUX_JOINT };
    const uint64_t other = 2 * 12 * D * D + 2 * 3 * D * D,
                   doubles = J * (4 * D * D + 2 * D * H) + 2 * J * J * D,
                   singles = J * (3 * D + H) * D + J * D * (D + H) + 2 * J * J * D;
    const uint64_t full = other + 2 * (doubles + singles);
    ousac_cost_total total;
    ousac_error error = {0};
    size_t rank[FLUX_SITES] = {0};
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    (void)state;
    assert_true(ousac_cost_full(&flux.model->arch) == full);
    assert_true(ousac_cost_constant(&flux.model->arch) == 0);
    must_succeed(ousac_cost_trajectory(&flux.model->arch, &flux_schedule, NULL, &total, &error), &error);
    assert_true(total.schedule_full == 11 * full);
    rank[6] = rank[0] = 1; /* of the joint attention the image's side alone, one rank of one site a stage */
    assert_true(ousac_cost_cached(&flux.model->arch, &ranks) == other + 2 * J * J * D + 2 * I * 2 * D);
    rank[6] = 0, rank[7] = 1; /* the second stage on the text's side */
    assert_true(ousac_cost_cached(&flux.model->arch, &ranks) == other + 2 * J * J * D + (I + T) * 2 * D);
    assert_true(ousac_cost_extrapolation(&flux.model->arch) == D * J * (2 * 2 + 2));
    assert_int_equal(ousac_arch_find_site(&flux.model->arch, "transformer_blocks.1.attn.add_v_proj"), 12 + 5);
    assert_int_equal(ousac_arch_find_site(&flux.model->arch, "single_transformer_blocks.1.proj_mlp"),
                     24 + 5 + 3);
    assert_string_equal(flux.model->arch.groups[FLUX_GROUPS - 2].name, "single_transformer_blocks.1.qkv_mlp");
    assert_string_equal(flux.model->arch.modules[2].name, "transformer_blocks.0.ff_context");
    for (size_t g = 0; g < FLUX_GROUPS; g++) { /* the second linears of the double blocks' MLPs */
        const char *name = flux.model->arch.groups[g].name;
        assert_int_equal(flux.model->arch.groups[g].consumed, strstr(name, ".net.2") != NULL);
    }
}

/* FLUX.1 dev at 256, 512 and 1024 pixels: 5.2, 10.7 and 37.2 TMAC, 57 times what a DiT's block of all tokens takes. */
static void the_public_model_costs_what_it_should(void **state) {
    static const double tera[] = {5.2, 10.7, 37.2};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const size_t edge = (size_t)16 << i;
        const uint64_t d = 3072, tokens = edge * edge + 512;
        const ousac_flux shape = {.d = d,
                                  .hidden = 4 * d,
                                  .heads = 24,
                                  .head_dim = 128,
                                  .doubles = 19,
                                  .singles = 38,
                                  .image = edge * edge,
                                  .text = 512,
                                  .joint = tokens};
        ousac_arch arch = {0};
        ousac_error error = {0};
        must_succeed(ousac_arch_create_flux(&arch, &shape, &error), &error);
        const uint64_t full = ousac_cost_full(&arch);
        assert_true(full ==
                    57 * (12 * tokens * d * d + 2 * tokens * tokens * d) + (12 * 19 + 3 * 38) * d * d);
        assert_true(fabs((double)full / 1e12 - tera[i]) < 0.05);
        assert_int_equal(arch.site_count, 418);
        ousac_arch_free(&arch);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_match_the_oracle),
        cmocka_unit_test(costs_go_by_stream),
        cmocka_unit_test(the_public_model_costs_what_it_should),
    };
    return cmocka_run_group_tests(tests, flux_session_open, flux_session_close);
}
