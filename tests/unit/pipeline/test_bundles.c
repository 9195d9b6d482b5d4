/* A bundle under another schedule, and its factors as the code of ICC takes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/file.h"
#include "formats/memory.h"
#include "pipeline/allocate.h"
#include "pipeline/evaluation.h"
#include "pipeline/export_icc.h"
#include "pipeline/factors.h"
#include "pipeline/pack.h"
#include "pipeline/record.h"
#include "pipeline/transfer.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

static tiny_session tiny;
static ousac_schedule schedule;
static ousac_profile *profile;
static ousac_factor_set *set;
static ousac_choice choice; /* uniform ranks with a forecast */
static char bundle[SCRATCH_PATH_BYTES], output[SCRATCH_PATH_BYTES];

static int set_up(void **state) {
    const ousac_record_options options = {.range = {0, 8}, .segments = 1};
    const ousac_choice_options choose = {.name = "default",
                                         .methods = 1U << OUSAC_ALLOCATOR_UNIFORM,
                                         .forecast = OUSAC_FORECAST_ON,
                                         .budget = {0.5, NAN}};
    const ousac_pack_storage storage = {.dtype = OUSAC_DTYPE_F32, .codec = OUSAC_OCA_CODEC_RAW};
    const ousac_used_ranges pilots = {0};
    ousac_record_cost cost = {0};
    ousac_error error = {0};
    (void)state;
    tiny_session_open(&tiny, NULL);
    tiny_schedule(&schedule, 9, 2, 2, 3);
    must_succeed(ousac_record_profile(&tiny.session, &schedule, &options, &profile, &cost, &error), &error);
    must_succeed(ousac_session_factors(&tiny.session, profile, OUSAC_METHOD_DELTA_COV, &set, &error), &error);
    must_succeed(ousac_choice_create(&tiny.session, profile, set, &choose, &choice, &error), &error);
    (void)scratch_path(&tiny.directory, "bundle.oca", bundle);
    (void)scratch_path(&tiny.directory, "factors.pt", output);
    const ousac_plan *plan = choice.plan;
    must_succeed(ousac_pack(bundle, tiny.model, profile, &pilots, set, &plan, 1, NULL, &storage, 0, &error),
                 &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_choice_free(&choice);
    ousac_factor_set_free(set);
    ousac_profile_free(profile);
    ousac_schedule_free(&schedule);
    tiny_session_close(&tiny);
    return 0;
}

/* --- transfer --- */

static void evaluate(ousac_eval *result, const ousac_schedule *under, const ousac_plan *plan) {
    ousac_bundle *opened = NULL;
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    must_succeed(ousac_bundle_open(&opened, bundle, &error), &error);
    must_succeed(
        ousac_bundle_calibration(opened, plan, &tiny.model->arch, ousac_backend_cpu(), &calibration, &error),
        &error);
    const ousac_eval_options options = {.schedule = under,
                                        .plan = plan,
                                        .calibration = calibration,
                                        .reference_scale = NAN,
                                        .range = {24, 6},
                                        .held_out = 1};
    must_succeed(ousac_eval_create(result, &tiny.session, &options, &error), &error);
    ousac_calibration_free(calibration);
    ousac_bundle_close(opened);
}

static void a_transfer_is_compared_with_a_calibration_of_its_own(void **state) {
    ousac_schedule longer = {0};
    ousac_plan *mapped = NULL;
    ousac_transfer transfer;
    ousac_eval result = {0};
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&longer, 12, 2, 2, 3);
    must_succeed(ousac_transfer_plan(&mapped, choice.plan, &schedule, &longer, &error), &error);
    assert_memory_equal(mapped->rank, choice.plan->rank, mapped->site_count * sizeof *mapped->rank);
    assert_int_equal(mapped->forecast->step_count, 12);
    evaluate(&result, &longer, mapped);
    const ousac_transfer_options options = {.from = &schedule,
                                            .to = &longer,
                                            .plan = mapped,
                                            .samples = 8,
                                            .threshold = OUSAC_TRANSFER_THRESHOLD};
    must_succeed(ousac_transfer_create(&transfer, &tiny.session, &options, &result, &error), &error);
    assert_int_equal(transfer.corrects, 1);
    assert_int_equal(transfer.forecast, 1);
    assert_true(transfer.calibration.first == 0 && transfer.calibration.count == 8);
    /* the ratio is that of the two errors, which stand for themselves */
    const double moved = result.pair[0].difference.relative_error.mean;
    const double made = transfer.difference.relative_error.mean;
    assert_true(result.pair[0].arm == OUSAC_EVAL_CALIBRATED && result.pair[0].against == OUSAC_EVAL_EXACT);
    assert_true(made > 0 && fabs(transfer.ratio.mean - moved / made) <= 1e-9 * moved / made);
    assert_true(transfer.verdict != OUSAC_PAIRED_ABOVE || transfer.ratio.low > transfer.threshold);
    ousac_transfer_free(&transfer);
    ousac_eval_free(&result);
    ousac_plan_free(mapped);
    ousac_schedule_free(&longer);
}

static void nothing_is_to_compare_where_nothing_is_corrected(void **state) {
    ousac_schedule full = {0};
    ousac_plan *mapped = NULL;
    ousac_transfer transfer;
    ousac_eval result = {0};
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&full, 9, 2, 2, 1);
    must_succeed(ousac_transfer_plan(&mapped, choice.plan, &schedule, &full, &error), &error);
    evaluate(&result, &full, mapped);
    const ousac_transfer_options options = {
        .from = &schedule, .to = &full, .plan = mapped, .samples = 8, .threshold = OUSAC_TRANSFER_THRESHOLD};
    must_succeed(ousac_transfer_create(&transfer, &tiny.session, &options, &result, &error), &error);
    assert_int_equal(transfer.corrects, 0);
    assert_null(transfer.run.samples);
    ousac_transfer_free(&transfer);
    ousac_eval_free(&result);
    ousac_plan_free(mapped);
    ousac_schedule_free(&full);
}

static void samples_of_the_recalibration_are_not_evaluated(void **state) {
    const ousac_sample_range behind = {16, 4}, among = {15, 4};
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_transfer_check(&behind, 16, &error), &error);
    must_succeed(ousac_transfer_check(&among, 0, &error), &error);
    must_fail(ousac_transfer_check(&among, 16, &error), OUSAC_STATUS_USAGE, &error, "15");
}

/* --- export --- */

/* How often the bytes stand in the file. */
static size_t occurrences(const char *path, const void *bytes, size_t size) {
    ousac_file_view view = {0};
    ousac_error error = {0};
    size_t found = 0;
    must_succeed(ousac_file_map(&view, path, &error), &error);
    for (size_t i = 0; i + size <= view.size; i++)
        found += memcmp((const char *)view.data + i, bytes, size) == 0;
    ousac_file_unmap(&view);
    return found;
}

static void the_factors_are_those_of_the_set(void **state) {
    enum { RANK = 3 };
    const ousac_arch *arch = &tiny.model->arch;
    const ousac_export_icc_request request = {.bundle = bundle, .output = output, .rank = RANK, .uniform = 1};
    ousac_export_icc_result result;
    ousac_error error = {0};
    float a[RANK * 128];
    (void)state;
    must_succeed(ousac_export_icc(&request, &result, &error), &error);
    assert_true(result.blocks == 2 && result.exact == 0 && result.frozen == 0);
    assert_true(result.rank_low == RANK && result.rank_high == RANK);
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        /* wa (m, rank) row-major; a set holds A (rank, m) */
        for (size_t i = 0; i < site->m; i++)
            for (size_t k = 0; k < RANK; k++)
                a[i * RANK + k] = set->site[s].a[k * site->m + i];
        assert_true(occurrences(output, a, site->m * RANK * sizeof *a) == 1);
        assert_true(occurrences(output, set->site[s].b, RANK * site->n * sizeof *set->site[s].b) == 1);
    }
}

static void ranks_of_a_plan_are_written(void **state) {
    const ousac_export_icc_request request = {
        .bundle = bundle, .output = output, .model = {.path = tiny.model_path}};
    ousac_export_icc_result result;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_export_icc(&request, &result, &error), &error);
    assert_int_equal(result.forecast, 1);
    assert_true(result.rank_low == choice.plan->rank[0] && result.rank_high == choice.plan->rank[0]);
}

static void what_cannot_be_exported_is_refused(void **state) {
    ousac_export_icc_request request = {.bundle = bundle, .output = output, .rank = 1000, .uniform = 1};
    ousac_export_icc_result result;
    ousac_error error = {0};
    char nowhere[SCRATCH_PATH_BYTES];
    (void)state;
    request.output = scratch_path(&tiny.directory, "never.pt", nowhere);
    must_fail(ousac_export_icc(&request, &result, &error), OUSAC_STATUS_MISMATCH, &error, "bundle.oca");
    request.uniform = 0;
    request.plan = "other";
    must_fail(ousac_export_icc(&request, &result, &error), OUSAC_STATUS_USAGE, &error, "no plan \"other\"");
    request.bundle = tiny.model_path;
    must_fail(ousac_export_icc(&request, &result, &error), OUSAC_STATUS_FORMAT, &error, "model.safetensors");
    assert_false(file_exists(nowhere));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_transfer_is_compared_with_a_calibration_of_its_own),
        cmocka_unit_test(nothing_is_to_compare_where_nothing_is_corrected),
        cmocka_unit_test(samples_of_the_recalibration_are_not_evaluated),
        cmocka_unit_test(the_factors_are_those_of_the_set),
        cmocka_unit_test(ranks_of_a_plan_are_written),
        cmocka_unit_test(what_cannot_be_exported_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
