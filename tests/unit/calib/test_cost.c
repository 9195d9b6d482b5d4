/* The cost model: the published accounting of DiT-XL/2, and what follows from gates and ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/cost.h"
#include "calib/price.h"
#include "formats/memory.h"
#include "tests/support/calib_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { XL_BLOCKS = 28, XL_WIDTH = 1152, XL_SITES = XL_BLOCKS * 6 };

static size_t rank_of[XL_SITES];

static ousac_ranks uniform(size_t sites, size_t rank) {
    for (size_t s = 0; s < sites; s++)
        rank_of[s] = rank;
    return (ousac_ranks){.rank = rank_of, .dense_fallback = 1};
}

static void assert_printed(const char *format, double value, const char *expected) {
    char text[64];
    snprintf(text, sizeof text, format, value);
    assert_string_equal(text, expected);
}

/* Table and text of arXiv 2505.05829: GMACs of a full forward, a cached forward's share at uniform ranks, and
 * the share that no rank removes (attention and modulation). */
static void published_figures_of_dit_xl_2(void **unused) {
    static const struct {
        size_t tokens;
        const char *full, *share[3], *floor;
        const char *floor_format;
    } cases[] = {
        {256, "118.6", {"11.8", "19.8", "35.8"}, "3.75", "%.2f"},
        {1024, "524.5", {"20.2", "27.5", "42.0"}, "12.9", "%.1f"},
    };
    static const size_t ranks[3] = {64, 128, 256};
    (void)unused;
    for (size_t c = 0; c < 2; c++) {
        ousac_arch arch;
        assert_int_equal(
            ousac_arch_create_dit(&arch, XL_BLOCKS, cases[c].tokens, XL_WIDTH, 4 * XL_WIDTH, NULL),
            OUSAC_STATUS_OK);
        const double full = (double)ousac_cost_full(&arch);
        uint64_t fixed = ousac_cost_reuse(&arch);
        assert_printed("%.1f", full / 1e9, cases[c].full);
        for (size_t i = 0; i < 3; i++) {
            const ousac_ranks plan = uniform(XL_SITES, ranks[i]);
            assert_printed("%.1f", 100 * (double)ousac_cost_cached(&arch, &plan) / full, cases[c].share[i]);
        }
        for (size_t i = 0; i < arch.module_count; i++)
            fixed += arch.modules[i].fixed_macs;
        assert_printed(cases[c].floor_format, 100 * (double)fixed / full, cases[c].floor);
        ousac_arch_free(&arch);
    }
}

/* 12 N d^2 + 2 N^2 d + 6 d^2 a block, with numbers small enough to count by hand. */
static void a_block_costs_its_formula(void **unused) {
    ousac_arch arch;
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 3, 5, 7, 28, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_cost_full(&arch), 3 * (12 * 5 * 49 + 2 * 25 * 7 + 6 * 49));
    assert_int_equal(ousac_cost_reuse(&arch), 3 * 6 * 49);
    assert_int_equal(ousac_cost_site_full(&arch, 4), 5 * 28 * 7);
    const ousac_ranks one = uniform(18, 1);
    assert_int_equal(ousac_cost_cached(&arch, &one), 3 * (5 * (4 * 14 + 2 * 35) + 2 * 25 * 7 + 6 * 49));
    /* d x d: dense from ceil(49 / 14) = 4; d x 4d: from ceil(196 / 35) = 6. */
    assert_int_equal(ousac_cost_dense_rank(&arch.sites[0]), 4);
    assert_int_equal(ousac_cost_dense_rank(&arch.sites[4]), 6);
    const ousac_ranks most = uniform(18, 1000);
    assert_int_equal(ousac_cost_cached(&arch, &most), ousac_cost_full(&arch));
    assert_int_equal(ousac_cost_path(&arch, 0, &most), OUSAC_PATH_DENSE);
    const ousac_ranks low_rank_only = {.rank = rank_of};
    assert_int_equal(ousac_cost_path(&arch, 0, &low_rank_only), OUSAC_PATH_LOW_RANK);
    assert_int_equal(ousac_cost_site_cached(&arch, 0, &low_rank_only), 5 * 1000 * 14);
    ousac_arch_free(&arch);
}

static void the_dense_rank_is_where_the_exact_product_is_no_dearer(void **unused) {
    uint64_t state = 1;
    (void)unused;
    for (int i = 0; i < 2000; i++) {
        const ousac_site site = {.m = 1 + calib_below(&state, 300), .n = 1 + calib_below(&state, 300)};
        const size_t rank = ousac_cost_dense_rank(&site);
        assert_true(rank * (site.m + site.n) >= site.m * site.n);
        assert_true((rank - 1) * (site.m + site.n) < site.m * site.n);
    }
}

/* Every pattern of zero and non-zero ranks of one block. */
static void a_module_with_a_dead_stage_costs_nothing(void **unused) {
    ousac_arch arch;
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 1, 4, 6, 24, NULL), OUSAC_STATUS_OK);
    for (unsigned pattern = 0; pattern < 64; pattern++) {
        size_t rank[6];
        for (size_t s = 0; s < 6; s++)
            rank[s] = pattern >> s & 1;
        const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
        const int attention = (pattern & 7) != 0 && (pattern & 8) != 0;
        const int mlp = (pattern & 16) != 0 && (pattern & 32) != 0;
        uint64_t expected = 6 * 36;
        assert_int_equal(ousac_cost_module_live(&arch, 0, &ranks), attention);
        assert_int_equal(ousac_cost_module_live(&arch, 1, &ranks), mlp);
        for (size_t s = 0; s < 6; s++) {
            const int live = s < 4 ? attention : mlp;
            const ousac_path path = !live     ? OUSAC_PATH_SKIPPED
                                    : rank[s] ? OUSAC_PATH_LOW_RANK
                                              : OUSAC_PATH_FROZEN;
            const uint64_t macs = live && rank[s] ? 4 * arch.sites[s].m + 4 * arch.sites[s].n : 0;
            assert_int_equal(ousac_cost_path(&arch, s, &ranks), path);
            assert_int_equal(ousac_cost_site_cached(&arch, s, &ranks), macs);
            expected += macs;
        }
        if (attention)
            expected += 2 * 16 * 6;
        assert_int_equal(ousac_cost_cached(&arch, &ranks), expected);
        assert_int_equal(ousac_cost_module_cached(&arch, 0, &ranks) +
                             ousac_cost_module_cached(&arch, 1, &ranks) + ousac_cost_reuse(&arch),
                         expected);
    }
    ousac_arch_free(&arch);
}

static void costs_that_do_not_fit_saturate(void **unused) {
    ousac_arch arch;
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 1, 1024, 64, 256, NULL), OUSAC_STATUS_OK);
    size_t rank[6] = {SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX};
    const ousac_ranks low_rank_only = {.rank = rank}, usual = {.rank = rank, .dense_fallback = 1};
    assert_true(ousac_cost_cached(&arch, &low_rank_only) == UINT64_MAX);
    assert_true(ousac_cost_cached(&arch, &usual) == ousac_cost_full(&arch));
    ousac_arch_free(&arch);
}

/* --- trajectories --- */

typedef struct plan_step {
    ousac_mode mode;
    ousac_gate cond, uncond;
} plan_step;

static ousac_schedule schedule_of(ousac_step *steps, const plan_step *plan, size_t count) {
    for (size_t i = 0; i < count; i++)
        steps[i] = (ousac_step){.timestep = (double)(count - i),
                                .mode = plan[i].mode,
                                .scale = plan[i].mode == OUSAC_MODE_CFG ? 4.0 : 1.0,
                                .gate = {plan[i].cond, plan[i].uncond}};
    return (ousac_schedule){.name = "test", .solver = OUSAC_SOLVER_DDIM, .step_count = count, .steps = steps};
}

/* The unconditional branch is first met at step 2, so that its cached gate there runs full. */
static void a_trajectory_counts_effective_gates(void **unused) {
    static const plan_step plan[] = {
        {OUSAC_MODE_COND, OUSAC_GATE_FULL, OUSAC_GATE_FULL},
        {OUSAC_MODE_COND, OUSAC_GATE_CACHED, OUSAC_GATE_CACHED},
        {OUSAC_MODE_CFG, OUSAC_GATE_CACHED, OUSAC_GATE_CACHED},
        {OUSAC_MODE_CFG, OUSAC_GATE_REUSE, OUSAC_GATE_CACHED},
        {OUSAC_MODE_UNCOND, OUSAC_GATE_FULL, OUSAC_GATE_REUSE},
    };
    ousac_step steps[5];
    ousac_arch arch;
    ousac_cost_total total;
    const ousac_schedule schedule = schedule_of(steps, plan, 5);
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 2, 16, 32, 128, NULL), OUSAC_STATUS_OK);
    const ousac_ranks ranks = uniform(12, 2);
    const uint64_t full = ousac_cost_full(&arch), reuse = ousac_cost_reuse(&arch);
    const uint64_t cached = ousac_cost_cached(&arch, &ranks);
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, &ranks, &total, NULL), OUSAC_STATUS_OK);
    assert_int_equal(total.forwards_full, 2);
    assert_int_equal(total.forwards_cached, 3);
    assert_int_equal(total.forwards_reuse, 2);
    assert_int_equal(total.constant_guidance, 10 * full);
    assert_int_equal(total.schedule_full, 7 * full);
    assert_int_equal(total.schedule_reuse, 2 * full + 5 * reuse);
    assert_int_equal(total.schedule_cached, 2 * full + 3 * cached + 2 * reuse);
    assert_true(fabs(total.cached_step - (double)cached / (double)full) < 1e-15);
    assert_true(fabs(total.total - (double)total.schedule_cached / (10.0 * (double)full)) < 1e-15);
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, NULL, &total, NULL), OUSAC_STATUS_OK);
    assert_int_equal(total.schedule_cached, total.schedule_reuse);
    ousac_arch_free(&arch);
}

/* Branch cond has its second full evaluation at step 3, uncond at step 4: before, the gate is one of reuse. Each output
 * channel costs one MAC per token. */
static void extrapolation_counts_from_the_second_full_evaluation(void **unused) {
    static const plan_step plan[] = {
        {OUSAC_MODE_CFG, OUSAC_GATE_FULL, OUSAC_GATE_FULL},
        {OUSAC_MODE_CFG, OUSAC_GATE_EXTRAPOLATE, OUSAC_GATE_CACHED},
        {OUSAC_MODE_COND, OUSAC_GATE_CACHED, OUSAC_GATE_FULL},
        {OUSAC_MODE_COND, OUSAC_GATE_FULL, OUSAC_GATE_FULL},
        {OUSAC_MODE_CFG, OUSAC_GATE_CACHED, OUSAC_GATE_FULL},
        {OUSAC_MODE_CFG, OUSAC_GATE_EXTRAPOLATE, OUSAC_GATE_EXTRAPOLATE},
        {OUSAC_MODE_UNCOND, OUSAC_GATE_FULL, OUSAC_GATE_REUSE},
    };
    ousac_step steps[7];
    ousac_arch arch;
    ousac_cost_total total;
    ousac_price price;
    ousac_price_parts parts;
    const ousac_schedule schedule = schedule_of(steps, plan, 7);
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 2, 16, 32, 128, NULL), OUSAC_STATUS_OK);
    const ousac_ranks ranks = uniform(12, 2);
    const uint64_t full = ousac_cost_full(&arch), reuse = ousac_cost_reuse(&arch);
    const uint64_t cached = ousac_cost_cached(&arch, &ranks), line = 4 * 16 * 32;
    assert_int_equal(ousac_cost_extrapolation(&arch), line);
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, &ranks, &total, NULL), OUSAC_STATUS_OK);
    /* full: cond 0, 3, uncond 0, 4; cached: cond 2, 4, uncond 1; reuse: cond 1, uncond 6; on the line: both at 5 */
    assert_int_equal(total.forwards_extrapolate, 2);
    assert_int_equal(total.forwards_reuse, 2);
    assert_int_equal(total.schedule_cached, 4 * full + 3 * cached + 2 * reuse + 2 * (reuse + line));
    assert_int_equal(total.schedule_reuse, 4 * full + 3 * reuse + 2 * reuse + 2 * (reuse + line));
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, NULL, &total, NULL), OUSAC_STATUS_OK);
    assert_int_equal(total.schedule_cached, total.schedule_reuse);

    assert_int_equal(ousac_price_of_macs(&price, &arch, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_price_count(&parts, &schedule, NULL), OUSAC_STATUS_OK);
    assert_int_equal(parts.extrapolate, 2);
    assert_int_equal(ousac_price_trajectory(&price, &parts, 2, 0),
                     4 * full + 3 * cached + 2 * reuse + 2 * (reuse + line));
    assert_int_equal(ousac_price_exact(&price, &parts), 11 * full);
    ousac_price_free(&price);
    ousac_arch_free(&arch);
}

static void a_schedule_without_guidance_is_compared_with_one_branch(void **unused) {
    static const plan_step plan[] = {{OUSAC_MODE_COND, OUSAC_GATE_FULL, OUSAC_GATE_FULL},
                                     {OUSAC_MODE_COND, OUSAC_GATE_FULL, OUSAC_GATE_FULL}};
    ousac_step steps[2];
    ousac_arch arch;
    ousac_cost_total total;
    const ousac_schedule schedule = schedule_of(steps, plan, 2);
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 2, 16, 32, 128, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, NULL, &total, NULL), OUSAC_STATUS_OK);
    assert_int_equal(total.constant_guidance, 2 * ousac_cost_full(&arch));
    assert_int_equal(total.schedule_cached, total.constant_guidance);
    assert_true(total.total == 1.0);
    ousac_arch_free(&arch);
}

static void trajectories_that_cannot_be_costed_are_refused(void **unused) {
    static const plan_step automatic[] = {{OUSAC_MODE_COND, OUSAC_GATE_AUTO, OUSAC_GATE_AUTO}};
    static const plan_step three[] = {{OUSAC_MODE_CFG, OUSAC_GATE_FULL, OUSAC_GATE_FULL},
                                      {OUSAC_MODE_CFG, OUSAC_GATE_FULL, OUSAC_GATE_FULL},
                                      {OUSAC_MODE_CFG, OUSAC_GATE_FULL, OUSAC_GATE_FULL}};
    ousac_step steps[3];
    ousac_arch arch;
    ousac_cost_total total;
    ousac_error error = {0};
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 1, 16, 32, 128, NULL), OUSAC_STATUS_OK);
    ousac_schedule schedule = schedule_of(steps, automatic, 1);
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, NULL, &total, &error), OUSAC_STATUS_USAGE);
    schedule = schedule_of(steps, three, 3);
    arch.other_macs = UINT64_MAX / 4; /* one forward fits, six do not */
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, NULL, &total, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "64 bits"));
    assert_int_equal(total.schedule_full, 0);
    arch.other_macs = UINT64_MAX - 1; /* not even one */
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, NULL, &total, &error), OUSAC_STATUS_USAGE);
    arch.other_macs = 0;
    ousac_memory_fail_after(0);
    assert_int_equal(ousac_cost_trajectory(&arch, &schedule, NULL, &total, &error), OUSAC_STATUS_MEMORY);
    ousac_memory_fail_after(-1);
    ousac_arch_free(&arch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_figures_of_dit_xl_2),
        cmocka_unit_test(a_block_costs_its_formula),
        cmocka_unit_test(the_dense_rank_is_where_the_exact_product_is_no_dearer),
        cmocka_unit_test(a_module_with_a_dead_stage_costs_nothing),
        cmocka_unit_test(costs_that_do_not_fit_saturate),
        cmocka_unit_test(a_trajectory_counts_effective_gates),
        cmocka_unit_test(extrapolation_counts_from_the_second_full_evaluation),
        cmocka_unit_test(a_schedule_without_guidance_is_compared_with_one_branch),
        cmocka_unit_test(trajectories_that_cannot_be_costed_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
