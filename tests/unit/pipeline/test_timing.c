/* What evaluations take: the reduction to a line and a price, the file, what is refused by name, and the stopwatch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/search_time.h"
#include "pipeline/stopwatch.h"
#include "pipeline/stopwatch_parts.h"
#include "pipeline/timing.h"
#include "tests/support/profile_support.h"
#include "tests/support/tiny_session.h"

static tiny_session tiny;

static int set_up(void **state) {
    (void)state;
    tiny_session_open(&tiny, NULL);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tiny_session_close(&tiny);
    return 0;
}

static ousac_timing_spread spread(double median) {
    return (ousac_timing_spread){median, 0.9 * median, 1.5 * median, 10};
}

/* In full 10 ms, refreshed 11 ms, cached 2 ms + 0.5 ms a rank, with a forecast 1 ms more. */
static ousac_timing example(void) {
    ousac_timing t = {.repeats = 5, .point_count = 3};
    ousac_timing_identify(&t, &tiny.session, OUSAC_MODE_CFG);
    (void)snprintf(t.processor, sizeof t.processor, "a \"processor\"");
    t.part[OUSAC_TIMING_FULL] = spread(10e-3);
    t.part[OUSAC_TIMING_REFRESH] = spread(11e-3);
    t.part[OUSAC_TIMING_REUSE] = spread(0.5e-3);
    t.part[OUSAC_TIMING_EXTRAPOLATE] = spread(0.75e-3);
    t.part[OUSAC_TIMING_ALONE] = spread(9.9e-3);
    t.part[OUSAC_TIMING_STEP] = spread(0.25e-3);
    for (size_t i = 0; i < t.point_count; i++) {
        t.point[i].rank = i + 1;
        for (int f = 0; f < 2; f++)
            t.point[i].cached[f] = spread(2e-3 + 1e-3 * f + 0.5e-3 * (double)(i + 1));
    }
    ousac_timing_reduce(&t);
    return t;
}

/* --- reduction --- */

static void medians_of_odd_and_even_counts(void **state) {
    double odd[] = {5, 1, 3}, even[] = {4, 1, 2, 9};
    (void)state;
    const ousac_timing_spread a = ousac_timing_spread_of(odd, 3), b = ousac_timing_spread_of(even, 4);
    assert_true(a.median == 3 && a.least == 1 && a.most == 5 && a.count == 3);
    assert_true(b.median == 3 && b.least == 1 && b.most == 9 && b.count == 4);
}

static void a_line_through_points_on_it_leaves_nothing(void **state) {
    const ousac_timing t = example();
    (void)state;
    for (int f = 0; f < 2; f++) {
        assert_true(fabs(t.line[f].fixed - (2e-3 + 1e-3 * f)) < 1e-12);
        assert_true(fabs(t.line[f].per_rank - 0.5e-3) < 1e-12);
        assert_true(t.line[f].residual < 1e-9);
    }
    assert_true(ousac_timing_cache_saves(&t));
}

/* Points 1, 2, 4 at 3, 5, 10: slope 33/14, by the textbook's sums. */
static void least_squares_and_their_residual(void **state) {
    static const double rank[] = {1, 2, 4}, seconds[] = {3, 5, 10};
    ousac_timing t = {.point_count = 3};
    double sr = 0, ss = 0, srr = 0, srs = 0, most = 0;
    (void)state;
    for (int i = 0; i < 3; i++) {
        t.point[i].rank = (size_t)rank[i];
        t.point[i].cached[0].median = t.point[i].cached[1].median = seconds[i];
        sr += rank[i];
        ss += seconds[i];
        srr += rank[i] * rank[i];
        srs += rank[i] * seconds[i];
    }
    ousac_timing_reduce(&t);
    const double slope = (3 * srs - sr * ss) / (3 * srr - sr * sr), fixed = (ss - slope * sr) / 3;
    assert_true(fabs(t.line[0].per_rank - slope) < 1e-12 && fabs(t.line[0].fixed - fixed) < 1e-12);
    for (int i = 0; i < 3; i++)
        most = fmax(most, fabs(seconds[i] / (fixed + slope * rank[i]) - 1));
    assert_true(fabs(t.line[0].residual - most) < 1e-12);
}

/* Noise can turn a line over; a rank never pays for itself, nor does a cached evaluation begin below 0. */
static void a_line_neither_falls_nor_begins_below_nothing(void **state) {
    ousac_timing t = {.point_count = 2};
    (void)state;
    t.point[0] = (ousac_timing_point){1, {spread(2), spread(1)}};
    t.point[1] = (ousac_timing_point){3, {spread(1), spread(9)}};
    ousac_timing_reduce(&t);
    assert_true(t.line[0].per_rank == 0 && fabs(t.line[0].fixed - 1.5) < 1e-12);
    assert_true(t.line[1].fixed == 0 && fabs(t.line[1].per_rank - (1 * 1 + 3 * 9) / 10.0) < 1e-12);
    assert_true(t.line[1].residual > 0.05);
}

static void a_price_is_the_line_by_rank(void **state) {
    const ousac_timing t = example();
    ousac_price price;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_timing_price(&price, &t, &tiny.model->arch, &error), &error);
    assert_int_equal(price.unit, OUSAC_PRICE_PICOSECONDS);
    assert_int_equal(price.rank_most, 3); /* the largest that was measured */
    assert_true(price.exact == 10000000000 && price.full == 11000000000 && price.step == 250000000);
    assert_true(price.cached[0][0] == price.reuse && price.reuse == 500000000);
    assert_true(price.extrapolate == 750000000);
    for (size_t r = 1; r <= price.rank_most; r++) {
        assert_true(price.cached[0][r] == 2000000000 + r * 500000000);
        assert_true(price.cached[1][r] == 3000000000 + r * 500000000);
    }
    assert_true(price.wanted >= price.cached[1][1] && price.wanted <= price.cached[1][3]);
    ousac_price_free(&price);
}

/* --- the file --- */

static char *text_of(const ousac_timing *t) {
    ousac_json_doc doc;
    ousac_error error = {0};
    char *text = NULL;
    ousac_json_begin(&doc);
    ousac_timing_put(&doc, doc.root, t);
    must_succeed(ousac_json_text(&doc, 0, &text, &error), &error);
    ousac_json_end(&doc);
    return text;
}

static void what_is_written_is_read(void **state) {
    const ousac_timing t = example();
    ousac_timing got;
    ousac_error error = {0};
    char path[SCRATCH_PATH_BYTES], digest[2][OUSAC_DIGEST_CHARS];
    (void)state;
    must_succeed(ousac_timing_save(&t, scratch_path(&tiny.directory, "time.json", path), &error), &error);
    must_succeed(ousac_timing_load(&got, path, &error), &error);
    assert_string_equal(got.processor, t.processor);
    assert_string_equal(got.model_digest, t.model_digest);
    assert_string_equal(got.backend, t.backend);
    assert_int_equal(got.threads, t.threads);
    assert_int_equal(got.micro_batch, t.micro_batch);
    assert_int_equal(got.mode, t.mode);
    assert_int_equal(got.processor_clock, t.processor_clock);
    assert_int_equal(got.point_count, t.point_count);
    for (int p = 0; p < OUSAC_TIMING_PARTS; p++)
        assert_true(fabs(got.part[p].median - t.part[p].median) < 1e-12 && got.part[p].count == 10);
    for (int f = 0; f < 2; f++)
        assert_true(fabs(got.line[f].fixed - t.line[f].fixed) < 1e-12 &&
                    fabs(got.line[f].per_rank - t.line[f].per_rank) < 1e-12);
    must_succeed(ousac_timing_check(&got, &t, path, &error), &error);
    /* read again and written, it stays to the last digit, so that a search takes up its candidates */
    must_succeed(ousac_timing_save(&got, path, &error), &error);
    ousac_timing_digest(&got, digest[0]);
    must_succeed(ousac_timing_load(&got, path, &error), &error);
    ousac_timing_digest(&got, digest[1]);
    assert_string_equal(digest[0], digest[1]);
    got.part[OUSAC_TIMING_FULL].median *= 1.001;
    ousac_timing_digest(&got, digest[1]);
    assert_string_not_equal(digest[0], digest[1]);
}

/* The text with its first `old` replaced. */
static char *with(const char *text, const char *old, const char *new) {
    const char *at = strstr(text, old);
    assert_non_null(at);
    const size_t head = (size_t)(at - text), bytes = strlen(text) + strlen(new) + 1;
    char *made = malloc(bytes);
    assert_non_null(made);
    (void)snprintf(made, bytes, "%.*s%s%s", (int)head, text, new, at + strlen(old));
    return made;
}

static void what_is_wrong_is_named(void **state) {
    static const struct {
        const char *old, *new, *said;
    } cases[] = {
        {"{", "[", "JSON"},
        {"\"ousac time\"", "\"ousac cost\"", "\"kind\""},
        {"\"version\":2", "\"version\":2.5", "\"version\""},
        {"\"threads\":", "\"fibres\":", "\"machine.fibres\": unknown key"},
        {"\"threads\":2", "\"threads\":0", "\"machine.threads\": expected"},
        {"\"device\":\"cpu\"", "\"device\":3", "\"machine.device\": expected"},
        {"\"model\":\"", "\"model\":\"x", "\"model\": expected the 64"},
        {"\"mode\":\"cfg\"", "\"mode\":\"both\"", "\"mode\": expected cfg"},
        {"\"clock\":\"processor\"", "\"clock\":\"sun\"", "\"clock\": expected"},
        {"\"repeats\":5", "\"repeats\":-5", "\"repeats\""},
        {"\"full\":", "\"fully\":", "\"fully\": unknown key"},
        {"\"median_s\":0.01,", "\"median_s\":0,", "\"full.median_s\": expected a number above 0"},
        {"\"median_s\":0.01,", "\"median_s\":1e999,", "\"full.median_s\""},
        {"\"median_s\":0.01,", "", "\"full.median_s\""},
        {"\"median_s\":0.01,", "\"median_s\":0.5,", "between \"least_s\" and \"most_s\""},
        {"\"median_s\":0.01,", "\"median_s\":0.01,\"median_s\":0.01,", "median_s"},
        {"\"rank\":2", "\"rank\":1", "\"cached[1].rank\": expected ranks that rise"},
        {"\"rank\":2,\"plain\":", "\"rank\":2,\"p\":", "\"cached[1].p\": unknown key"},
        {"\"fixed_s\":", "\"fixed_s\":7, \"was\":", "\"line.plain.was\": unknown key"},
        {"\"per_rank_s\":", "\"per_rank_s\":-", "\"line.plain.per_rank_s\": expected"},
        {"\"per_rank_s\":0.000", "\"per_rank_s\":0.001", "\"line.plain.residual\""},
    };
    const ousac_timing t = example();
    char *text = text_of(&t);
    ousac_timing got;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_timing_parse(&got, text, strlen(text), "t.json", &error), &error);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *wrong = with(text, cases[i].old, cases[i].new);
        must_fail(ousac_timing_parse(&got, wrong, strlen(wrong), "t.json", &error), OUSAC_STATUS_FORMAT,
                  &error, cases[i].said);
        assert_non_null(strstr(error.message, "t.json"));
        free(wrong);
    }
    char *newer = with(text, "\"version\":2", "\"version\":3");
    must_fail(ousac_timing_parse(&got, newer, strlen(newer), "t.json", &error), OUSAC_STATUS_UNSUPPORTED,
              &error, "\"version\": 3");
    free(newer);
    ousac_free(text);
}

static void another_setting_is_refused_by_name(void **state) {
    const ousac_timing t = example();
    ousac_timing other;
    ousac_error error = {0};
    (void)state;
#define REFUSED(change, said)                                                                                \
    do {                                                                                                     \
        other = t;                                                                                           \
        change;                                                                                              \
        must_fail(ousac_timing_check(&other, &t, "t.json", &error), OUSAC_STATUS_MISMATCH, &error, said);    \
    } while (0)
    REFUSED(other.model_digest[0] ^= 1, "another model");
    REFUSED(other.threads++, "\"machine.threads\" is 3; expected 2");
    REFUSED(other.micro_batch = 8, "\"machine.micro_batch\" is 8; expected 2");
    REFUSED((void)strcpy(other.device, "cuda"), "\"machine.device\" is cuda; expected cpu");
    REFUSED((void)strcpy(other.compute, "bf16"), "\"machine.compute\" is bf16; expected f32");
    REFUSED(other.mode = OUSAC_MODE_COND, "\"mode\" is cond; expected cfg");
#undef REFUSED
    other = t;
    (void)strcpy(other.processor, "another");
    must_succeed(ousac_timing_check(&other, &t, "t.json", &error), &error);
}

/* --- the stopwatch --- */

static void the_stopwatch_measures_every_part(void **state) {
    static const size_t ranks[] = {1, 3};
    const ousac_stopwatch_options options = {.rank = ranks, .rank_count = 2, .repeats = 2};
    const size_t threads = tiny.session.threads;
    ousac_timing t;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_stopwatch_measure(&t, &tiny.session, &options, &error), &error);
    assert_string_equal(t.model_digest, tiny.model->digest);
    assert_int_equal(t.mode, OUSAC_MODE_CFG);
    assert_int_equal(t.processor_clock, 1);
    assert_true(*t.processor != '\0');
    for (int p = 0; p < OUSAC_TIMING_PARTS; p++) {
        assert_true(p == OUSAC_TIMING_STEP || t.part[p].least > 0);
        assert_true(t.part[p].least <= t.part[p].median && t.part[p].median <= t.part[p].most);
    }
    /* two steps of three, both branches, on every thread, twice; alone one branch; a step both together */
    assert_int_equal(t.part[OUSAC_TIMING_FULL].count, 2 * 2 * threads * 2);
    assert_int_equal(t.part[OUSAC_TIMING_ALONE].count, 2 * threads * 2);
    assert_int_equal(t.part[OUSAC_TIMING_STEP].count, 2 * threads * 2);
    assert_int_equal(t.part[OUSAC_TIMING_REUSE].count, 2 * 2 * threads * 2);
    assert_int_equal(t.part[OUSAC_TIMING_EXTRAPOLATE].count, 2 * 2 * threads * 2);
    assert_int_equal(t.part[OUSAC_TIMING_REFRESH].count, 2 * threads * 2 * 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(t.point[i].rank, ranks[i]);
        assert_int_equal(t.point[i].cached[0].count, 2 * threads * 2);
        assert_int_equal(t.point[i].cached[1].count, 2 * 2 * threads * 2);
    }
}

static void ranks_and_steps_that_cannot_be_timed_are_refused(void **state) {
    static const size_t falling[] = {3, 2}, beyond[] = {1, 100000}, one[] = {2};
    ousac_stopwatch_options options = {.rank = falling, .rank_count = 2, .repeats = 1};
    ousac_schedule mixed = {0};
    ousac_timing t;
    ousac_error error = {0};
    (void)state;
    must_fail(ousac_stopwatch_measure(&t, &tiny.session, &options, &error), OUSAC_STATUS_USAGE, &error,
              "2 after 3");
    options.rank = beyond;
    must_fail(ousac_stopwatch_measure(&t, &tiny.session, &options, &error), OUSAC_STATUS_USAGE, &error,
              "from 1 to");
    options.rank = one;
    options.rank_count = 1;
    must_fail(ousac_stopwatch_measure(&t, &tiny.session, &options, &error), OUSAC_STATUS_USAGE, &error,
              "expected 2 to 16");
    tiny_schedule(&mixed, 9, 2, 2, 1);
    options = (ousac_stopwatch_options){.like = &mixed, .repeats = 1};
    must_fail(ousac_stopwatch_measure(&t, &tiny.session, &options, &error), OUSAC_STATUS_USAGE, &error,
              "expected one mode at all steps");
    ousac_schedule_free(&mixed);
}

/* Right as it is made; wrong once a layer's correction is taken away. */
static void the_check_sees_a_correction_that_is_missing(void **state) {
    enum { STEPS = 4, RANK = 3 };
    ousac_schedule schedule = {0};
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&schedule, STEPS, 2, 1, 2);
    must_succeed(ousac_stopwatch_calibration(&calibration, tiny.model, RANK, STEPS, &error), &error);
    must_succeed(ousac_stopwatch_check(&tiny.session, &schedule, calibration, RANK, &error), &error);
    must_succeed(ousac_calibration_zero_site(calibration, &tiny.model->arch, 1, &error), &error);
    must_fail(ousac_stopwatch_check(&tiny.session, &schedule, calibration, RANK, &error),
              OUSAC_STATUS_INTERNAL, &error, "rank 3");
    ousac_calibration_free(calibration);
    ousac_schedule_free(&schedule);
}

static void a_run_beside_itself_takes_about_as_long(void **state) {
    ousac_schedule reference = {0}, fewer = {0};
    ousac_stopwatch_share share;
    ousac_error error = {0};
    (void)state;
    tiny_schedule(&reference, 32, 2, 1, 1);
    tiny_schedule(&fewer, 4, 2, 1, 1);
    must_succeed(ousac_stopwatch_compare(&share, &tiny.session, &reference, &fewer, NULL, 3, &error), &error);
    assert_true(share.wall_least <= share.wall && share.wall <= share.wall_most && share.wall_least > 0);
    assert_true(share.processor > 0 && share.processor < 0.8); /* an eighth of the steps */
    ousac_schedule_free(&reference);
    ousac_schedule_free(&fewer);
}

/* What an interrupted search measured is used again; where it is of another setting, or not to be, it is measured anew. */
static void a_search_measures_once(void **state) {
    ousac_schedule reference = {0};
    ousac_timing first, second;
    ousac_error error = {0};
    char path[SCRATCH_PATH_BYTES];
    (void)state;
    tiny_schedule(&reference, 8, 2, 1, 1);
    ousac_search_time_options options = {.reference = &reference,
                                         .measured = scratch_path(&tiny.directory, "measured.json", path),
                                         .take_up = 1};
    must_succeed(ousac_search_time(&tiny.session, &options, &first, &error), &error);
    must_succeed(ousac_search_time(&tiny.session, &options, &second, &error), &error);
    assert_memory_equal(&first, &second, sizeof first);
    options.take_up = 0;
    must_succeed(ousac_search_time(&tiny.session, &options, &second, &error), &error);
    assert_memory_not_equal(&first.part, &second.part, sizeof first.part);
    ousac_session other = tiny.session;
    other.threads = 1;
    options.take_up = 1;
    must_succeed(ousac_search_time(&other, &options, &second, &error), &error);
    assert_int_equal(second.threads, 1);
    /* one that is given is not measured anew */
    options.given = path;
    must_fail(ousac_search_time(&tiny.session, &options, &second, &error), OUSAC_STATUS_MISMATCH, &error,
              "machine.threads");
    ousac_schedule_free(&reference);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(medians_of_odd_and_even_counts),
        cmocka_unit_test(a_line_through_points_on_it_leaves_nothing),
        cmocka_unit_test(least_squares_and_their_residual),
        cmocka_unit_test(a_line_neither_falls_nor_begins_below_nothing),
        cmocka_unit_test(a_price_is_the_line_by_rank),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(another_setting_is_refused_by_name),
        cmocka_unit_test(the_stopwatch_measures_every_part),
        cmocka_unit_test(ranks_and_steps_that_cannot_be_timed_are_refused),
        cmocka_unit_test(the_check_sees_a_correction_that_is_missing),
        cmocka_unit_test(a_run_beside_itself_takes_about_as_long),
        cmocka_unit_test(a_search_measures_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
