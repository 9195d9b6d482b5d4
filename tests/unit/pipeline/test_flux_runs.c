/* Runs of a small FLUX against its oracle: exact, and with every way of caching; and what they cost, by stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "calib/cost.h"
#include "profile/model/flux.h"
#include "tests/support/family_oracle.h"
#include "tests/support/flux_session.h"
#include "tests/support/profile_support.h"

enum { RANK = 3 };

/* --- runs --- */

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
    ousac_schedule gated = family_gated(&flux_schedule, ranks, extrapolate);
    if (ranks && ranks->forecast) {
        must_succeed(ousac_forecast_create(&forecast, FLUX_STEPS, FLUX_GROUPS, &error), &error);
        for (size_t i = 0; i < FLUX_STEPS * 2 * FLUX_GROUPS; i++)
            forecast->coefficient[i] =
                family_coefficient(i / FLUX_GROUPS / 2, (int)(i / FLUX_GROUPS % 2), i % FLUX_GROUPS);
    }
    if (ranks)
        must_succeed(ousac_calibration_create(&calibration, flux.model->backend, &flux.model->arch, ranks,
                                              family_factors, &flux.model->arch, forecast, &error),
                     &error);
    ousac_run run = flux_run_of(got, &counters);
    run.exact = is_exact;
    run.calibration = calibration;
    run.schedule = &gated;
    must_succeed(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < FLUX_SAMPLES; s++) {
        family_cache *cache = family_cache_create(&(family_caching){&flux.model->arch, &gated, ranks});
        const family_hooks h = family_cache_hooks(cache);
        const naive_flux_hooks hooks = {h.self, h.begin, h.skip, h.site, h.output};
        naive_flux_trajectory(flux.oracle, flux.model->inputs, &gated, FLUX_SEED, s, is_exact ? NULL : &hooks,
                              expected);
        worst = fmax(worst, flux_relative(got + s * FLUX_SIZE, expected, FLUX_SIZE));
        family_cache_free(cache);
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
