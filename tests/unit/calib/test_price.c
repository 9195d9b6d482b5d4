/* Prices: what a trajectory costs in any unit, and the rank that a budget holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "calib/cost.h"
#include "calib/price.h"

enum { STEPS = 6 };

static ousac_arch arch;
static ousac_schedule schedule; /* cfg cfg cond cfg cond cfg, gates full cached cached full cached cached */

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        (void)fprintf(stderr, "%s\n", error->message);
    assert_int_equal(status, OUSAC_STATUS_OK);
}

static int set_up(void **state) {
    static const ousac_mode modes[STEPS] = {OUSAC_MODE_CFG, OUSAC_MODE_CFG,  OUSAC_MODE_COND,
                                            OUSAC_MODE_CFG, OUSAC_MODE_COND, OUSAC_MODE_CFG};
    double scales[STEPS];
    ousac_gate gates[STEPS];
    ousac_error error = {0};
    (void)state;
    for (size_t i = 0; i < STEPS; i++) {
        scales[i] = modes[i] == OUSAC_MODE_CFG ? 2 : (double)NAN;
        gates[i] = i % 3 == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    }
    const ousac_schedule_options options = {"made",          STEPS,  1000,  OUSAC_SPACING_LINSPACE,
                                            OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must(ousac_arch_create_dit(&arch, 2, 4, 8, 32, &error), &error);
    must(ousac_schedule_build(&schedule, &options, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&schedule);
    ousac_arch_free(&arch);
    return 0;
}

static void parts_are_counted_as_they_run(void **state) {
    ousac_price_parts parts;
    ousac_error error = {0};
    (void)state;
    must(ousac_price_count(&parts, &schedule, &error), &error);
    assert_int_equal(parts.steps, 6);
    assert_int_equal(parts.branches, 2);
    assert_int_equal(parts.full, 4);
    assert_int_equal(parts.cached, 6);
    assert_int_equal(parts.reuse, 0);
    const ousac_gate gate = schedule.steps[1].gate[0];
    schedule.steps[1].gate[0] = OUSAC_GATE_AUTO;
    assert_int_equal(ousac_price_count(&parts, &schedule, &error), OUSAC_STATUS_USAGE);
    schedule.steps[1].gate[0] = gate;
}

/* The cost model's own sum, at every rank, with and without a forecast. */
static void macs_are_those_of_the_cost_model(void **state) {
    ousac_price price = {0};
    ousac_price_parts parts;
    ousac_cost_total total;
    ousac_error error = {0};
    size_t rank[64];
    (void)state;
    assert_true(arch.site_count <= 64);
    must(ousac_price_of_macs(&price, &arch, &error), &error);
    must(ousac_price_count(&parts, &schedule, &error), &error);
    assert_int_equal(price.rank_most, ousac_cost_largest_rank(&arch));
    for (int forecast = 0; forecast < 2; forecast++)
        for (size_t uniform = 0; uniform <= price.rank_most; uniform++) {
            for (size_t s = 0; s < arch.site_count; s++)
                rank[s] = uniform < ousac_cost_dense_rank(&arch.sites[s])
                              ? uniform
                              : ousac_cost_dense_rank(&arch.sites[s]);
            const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1, .forecast = forecast};
            must(ousac_cost_trajectory(&arch, &schedule, &ranks, &total, &error), &error);
            assert_true(ousac_price_trajectory(&price, &parts, uniform, forecast) == total.schedule_cached);
            assert_true(ousac_price_exact(&price, &parts) == total.schedule_full);
            /* and a budget that is the price of a rank holds it; near the dense rank a forecast costs more than
             * the layer, so that prices need not rise */
            if (uniform > 0 && uniform + 1 < ousac_cost_smallest_rank(&arch))
                assert_int_equal(ousac_price_rank(&price, &parts, forecast, total.schedule_cached), uniform);
        }
    ousac_price_free(&price);
}

static void any_unit_adds_up(void **state) {
    ousac_price price = {0};
    ousac_error error = {0};
    char text[OUSAC_PRICE_TEXT_BYTES];
    const ousac_price_parts parts = {.steps = 7, .branches = 2, .full = 3, .cached = 5, .reuse = 2};
    (void)state;
    must(ousac_price_create(&price, OUSAC_PRICE_PICOSECONDS, 4, &error), &error);
    price.exact = 1000;
    price.full = 1100;
    price.reuse = 10;
    price.step = 7;
    price.branch = 13;
    for (size_t r = 1; r <= 4; r++) {
        price.cached[0][r] = 200 + 30 * r;
        price.cached[1][r] = 300 + 30 * r;
    }
    assert_true(ousac_price_trajectory(&price, &parts, 2, 0) == 7 * 7 + 2 * 13 + 3 * 1100 + 5 * 260 + 2 * 10);
    assert_true(ousac_price_trajectory(&price, &parts, 2, 1) == 7 * 7 + 2 * 13 + 3 * 1100 + 5 * 360 + 2 * 10);
    assert_true(ousac_price_exact(&price, &parts) == 7 * 7 + 2 * 13 + 10 * 1000);
    const uint64_t at3 = ousac_price_trajectory(&price, &parts, 3, 1);
    assert_int_equal(ousac_price_rank(&price, &parts, 1, at3), 3);
    assert_int_equal(ousac_price_rank(&price, &parts, 1, at3 - 1), 2);
    assert_int_equal(ousac_price_rank(&price, &parts, 1, 1), 0);
    assert_int_equal(ousac_price_rank(&price, &parts, 1, UINT64_MAX), 4);
    ousac_price_text(&price, 12500000000, text);
    assert_string_equal(text, "0.0125 s");
    price.unit = OUSAC_PRICE_MACS;
    ousac_price_text(&price, 12, text);
    assert_string_equal(text, "12 MACs");
    /* what does not fit in 64 bits is the largest, and in no budget but that */
    price.full = UINT64_MAX / 2;
    assert_true(ousac_price_trajectory(&price, &parts, 1, 0) == UINT64_MAX);
    assert_int_equal(ousac_price_rank(&price, &parts, 0, UINT64_MAX - 1), 0);
    ousac_price_free(&price);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_counted_as_they_run),
        cmocka_unit_test(macs_are_those_of_the_cost_model),
        cmocka_unit_test(any_unit_adds_up),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
