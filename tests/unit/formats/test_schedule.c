/* Schedules: what the file says is what runs, nothing is inferred, and the digest is the one that
 * formats/SCHEDULE.md defines. Expected digests and timesteps were computed by other programs; the commands
 * stand beside them. */
#include "formats/memory.h"
#include "formats/schedule.h"
#include "tests/support/schedule_text.h"
#include "tests/support/scratch.h"

#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_same_schedule(const ousac_schedule *a, const ousac_schedule *b) {
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->solver, b->solver);
    assert_int_equal(a->step_count, b->step_count);
    for (size_t i = 0; i < a->step_count; i++) {
        assert_memory_equal(&a->steps[i].timestep, &b->steps[i].timestep, sizeof(double));
        assert_memory_equal(&a->steps[i].scale, &b->steps[i].scale, sizeof(double));
        assert_int_equal(a->steps[i].mode, b->steps[i].mode);
        assert_int_equal(a->steps[i].gate[0], b->steps[i].gate[0]);
        assert_int_equal(a->steps[i].gate[1], b->steps[i].gate[1]);
        assert_int_equal(a->steps[i].tells, b->steps[i].tells);
        assert_memory_equal(&a->steps[i].guidance, &b->steps[i].guidance, sizeof(double));
    }
    assert_int_equal(ousac_schedule_is_fitted(a), ousac_schedule_is_fitted(b));
    if (ousac_schedule_is_fitted(a))
        assert_memory_equal(a->fitted, b->fitted, a->step_count * sizeof *a->fitted);
}

/* The example of formats/SCHEDULE.md, as the printer lays it out. */
static const char example[] =
    "{\n"
    "  \"format\": \"ousac-schedule\",\n"
    "  \"version\": 1,\n"
    "  \"name\": \"three steps\",\n"
    "  \"solver\": \"ddim\",\n"
    "  \"step_count\": 3,\n"
    "  \"steps\": [\n"
    "    {\"timestep\": 999, \"mode\": \"cfg\", \"scale\": 4, \"gate\": \"full\"},\n"
    "    {\"timestep\": 499.5, \"mode\": \"cfg\", \"scale\": 1.5, \"gate\": "
    "{\"cond\": \"cached\", \"uncond\": \"full\"}},\n"
    "    {\"timestep\": 0, \"mode\": \"cond\", \"gate\": \"reuse\"}\n"
    "  ]\n"
    "}\n";

/* printf 'ousac-schedule/1\nsolver=ddim\nsteps=3\n408f380000000000 cfg 4010000000000000 full full\n'\
 * '407f380000000000 cfg 3ff8000000000000 cached full\n0000000000000000 cond 3ff0000000000000 reuse -\n' |
 * sha256sum */
static const char example_digest[] = "b464154064dc673ac2d3d08e7e8f6fbbd2d7551510b9baaa0c355b4a76f20831";

static void the_example_is_read_as_written(void **state) {
    ousac_schedule schedule;
    (void)state;
    assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
    assert_string_equal(schedule.name, "three steps");
    assert_int_equal(schedule.solver, OUSAC_SOLVER_DDIM);
    assert_int_equal(schedule.step_count, 3);
    assert_true(schedule.steps[0].timestep == 999);
    assert_int_equal(schedule.steps[0].mode, OUSAC_MODE_CFG);
    assert_true(schedule.steps[0].scale == 4);
    assert_int_equal(schedule.steps[0].gate[OUSAC_BRANCH_COND], OUSAC_GATE_FULL);
    assert_int_equal(schedule.steps[0].gate[OUSAC_BRANCH_UNCOND], OUSAC_GATE_FULL);
    assert_true(schedule.steps[1].timestep == 499.5);
    assert_true(schedule.steps[1].scale == 1.5);
    assert_int_equal(schedule.steps[1].gate[OUSAC_BRANCH_COND], OUSAC_GATE_CACHED);
    assert_int_equal(schedule.steps[1].gate[OUSAC_BRANCH_UNCOND], OUSAC_GATE_FULL);
    assert_int_equal(schedule.steps[2].mode, OUSAC_MODE_COND);
    assert_true(schedule.steps[2].scale == 1);
    assert_int_equal(schedule.steps[2].gate[OUSAC_BRANCH_COND], OUSAC_GATE_REUSE);
    assert_int_equal(schedule.steps[2].gate[OUSAC_BRANCH_UNCOND], OUSAC_GATE_REUSE);
    ousac_schedule_free(&schedule);
    assert_null(schedule.steps);
    assert_int_equal(schedule.step_count, 0);
}

static void the_example_prints_byte_for_byte(void **state) {
    ousac_schedule schedule;
    char *text;
    (void)state;
    assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
    assert_string_equal(text, example);
    ousac_free(text);
    ousac_schedule_free(&schedule);
}

/* The digest's text as above, with solver=dpmpp-2m. */
static void the_solver_is_part_of_the_identity(void **state) {
    static const char digest_2m[] = "20b52eecdedb3b301b08a20e1bab9e529e240879a68e429d963ef28bb54b3512";
    ousac_schedule schedule;
    char digest[OUSAC_DIGEST_CHARS], *text;
    (void)state;
    assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
    schedule.solver = OUSAC_SOLVER_DPMPP_2M;
    ousac_schedule_digest(&schedule, digest);
    assert_string_equal(digest, digest_2m);
    assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
    assert_non_null(strstr(text, "\"solver\": \"dpmpp-2m\""));
    ousac_free(text);
    ousac_schedule_free(&schedule);
}

static void the_digest_is_the_documented_one(void **state) {
    ousac_schedule schedule;
    char digest[OUSAC_DIGEST_CHARS];
    (void)state;
    assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
    ousac_schedule_digest(&schedule, digest);
    assert_string_equal(digest, example_digest);

    strcpy(schedule.name, "another name");                         /* no part of the identity */
    schedule.steps[2].gate[OUSAC_BRANCH_UNCOND] = OUSAC_GATE_FULL; /* of a branch that does not run */
    schedule.steps[2].timestep = -0.0;
    ousac_schedule_digest(&schedule, digest);
    assert_string_equal(digest, example_digest);
    ousac_schedule_free(&schedule);
}

static void everything_that_runs_moves_the_digest(void **state) {
    ousac_schedule schedule;
    char digests[8][OUSAC_DIGEST_CHARS];
    (void)state;
    for (int change = 0; change < 8; change++) {
        assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
        ousac_step *steps = schedule.steps;
        if (change == 1)
            steps[0].timestep = nextafter(steps[0].timestep, 0);
        if (change == 2)
            steps[0].scale = nextafter(steps[0].scale, 0);
        if (change == 3)
            steps[2].mode = OUSAC_MODE_UNCOND;
        if (change == 4)
            steps[1].gate[OUSAC_BRANCH_COND] = OUSAC_GATE_REUSE;
        if (change == 5)
            steps[1].gate[OUSAC_BRANCH_UNCOND] = OUSAC_GATE_CACHED;
        if (change == 6)
            steps[2].gate[OUSAC_BRANCH_COND] = OUSAC_GATE_AUTO;
        if (change == 7)
            schedule.step_count = 2;
        ousac_schedule_digest(&schedule, digests[change]);
        for (int i = 0; i < change; i++)
            assert_string_not_equal(digests[i], digests[change]);
        ousac_schedule_free(&schedule);
    }
}

/* The example of version 2 of formats/SCHEDULE.md. */
static const char fitted_example[] = "{\n"
                                     "  \"format\": \"ousac-schedule\",\n"
                                     "  \"version\": 2,\n"
                                     "  \"name\": \"fitted\",\n"
                                     "  \"solver\": \"ddim\",\n"
                                     "  \"step_count\": 3,\n"
                                     "  \"steps\": [\n"
                                     "    {\"timestep\": 999, \"mode\": \"cfg\", \"scale\": 3.25, \"k\": 0, "
                                     "\"m\": 0.015625, \"c\": 0, \"d\": 0, "
                                     "\"gate\": \"full\"},\n"
                                     "    {\"timestep\": 499.5, \"mode\": \"cond\", \"hold\": 2, \"k\": 0, "
                                     "\"m\": -0.0625, \"c\": 0.25, \"d\": 0, "
                                     "\"gate\": \"full\"},\n"
                                     "    {\"timestep\": 0, \"mode\": \"cfg\", \"scale\": 1.5, \"k\": "
                                     "-0.001, \"m\": 0.03125, \"c\": 0.125, \"d\": "
                                     "-0.5, \"gate\": {\"cond\": \"cached\", \"uncond\": \"full\"}}\n"
                                     "  ]\n"
                                     "}\n";

/* hashlib.sha256 of the text in formats/SCHEDULE.md, made with struct.pack('>d', x).hex() */
static const char fitted_digest[] = "805ae5e44d1469c43d3c0305303eb8408e355d3e78cbe6afc4e50dedf850483c";

static void coefficients_are_read_written_and_part_of_the_identity(void **state) {
    ousac_schedule schedule, copy;
    char digest[OUSAC_DIGEST_CHARS], *text;
    (void)state;
    assert_int_equal(schedule_parse(&schedule, fitted_example, NULL), OUSAC_STATUS_OK);
    assert_true(ousac_schedule_is_fitted(&schedule));
    assert_true(schedule.fitted[1].value[OUSAC_COEFFICIENT_HOLD] == 2);
    assert_true(schedule.fitted[2].value[OUSAC_COEFFICIENT_STATE] == -0.001);
    assert_true(schedule.fitted[1].value[OUSAC_COEFFICIENT_GAIN] == -0.0625);
    assert_true(schedule.fitted[1].value[OUSAC_COEFFICIENT_CHANGE] == 0.25);
    assert_true(schedule.fitted[2].value[OUSAC_COEFFICIENT_EARLIER] == -0.5);
    ousac_schedule_digest(&schedule, digest);
    assert_string_equal(digest, fitted_digest);
    assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
    assert_string_equal(text, fitted_example);
    ousac_free(text);
    for (size_t i = 0; i < 3; i++)
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++) {
            char moved[OUSAC_DIGEST_CHARS];
            assert_int_equal(ousac_schedule_copy(&copy, &schedule, NULL), OUSAC_STATUS_OK);
            copy.fitted[i].value[k] += 1;
            ousac_schedule_digest(&copy, moved);
            assert_string_not_equal(moved, digest);
            ousac_schedule_free(&copy);
        }
    assert_int_equal(schedule.steps[0].mode, OUSAC_MODE_CFG);
    schedule.fitted[0].value[OUSAC_COEFFICIENT_HOLD] = 1;
    assert_int_equal(ousac_schedule_validate(&schedule, "s", NULL), OUSAC_STATUS_FORMAT);
    schedule.fitted[0].value[OUSAC_COEFFICIENT_HOLD] = 0;
    schedule.fitted[0].value[OUSAC_COEFFICIENT_GAIN] = NAN;
    assert_int_equal(ousac_schedule_validate(&schedule, "s", NULL), OUSAC_STATUS_FORMAT);
    ousac_schedule_free(&schedule);
}

/* Coefficients of 0 are the textbook, whether the file is of version 1 or 2. */
static void no_coefficients_and_zeros_are_one_schedule(void **state) {
    ousac_schedule schedule;
    char digest[OUSAC_DIGEST_CHARS], *text;
    (void)state;
    assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
    assert_false(ousac_schedule_is_fitted(&schedule));
    assert_int_equal(ousac_schedule_make_fitted(&schedule, NULL), OUSAC_STATUS_OK);
    schedule.fitted[1].value[OUSAC_COEFFICIENT_GAIN] = -0.0;
    ousac_schedule_digest(&schedule, digest);
    assert_string_equal(digest, example_digest);
    assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
    assert_string_equal(text, example);
    ousac_free(text);
    ousac_schedule_free(&schedule);
    assert_int_equal(
        schedule_parse(&schedule, FITTED_OF("\"cond\",\"hold\":0,\"k\":-0,\"m\":0,\"c\":0,\"d\":0"), NULL),
        OUSAC_STATUS_OK);
    assert_false(ousac_schedule_is_fitted(&schedule));
    ousac_schedule_free(&schedule);
}

/* The example of version 3 of formats/SCHEDULE.md. */
static const char told_example[] =
    "{\n"
    "  \"format\": \"ousac-schedule\",\n"
    "  \"version\": 3,\n"
    "  \"name\": \"told\",\n"
    "  \"solver\": \"flow-euler\",\n"
    "  \"step_count\": 3,\n"
    "  \"steps\": [\n"
    "    {\"timestep\": 1000, \"mode\": \"cond\", \"guidance\": 3.5, \"gate\": \"full\"},\n"
    "    {\"timestep\": 750, \"mode\": \"cond\", \"guidance\": 5, \"gate\": \"cached\"},\n"
    "    {\"timestep\": 250, \"mode\": \"cond\", \"gate\": \"full\"}\n"
    "  ]\n"
    "}\n";

/* hashlib.sha256 of the text in formats/SCHEDULE.md */
static const char told_digest[] = "4ce8535e7bb716040c0b1e112a2b289124ebbc3fc710c0c1aa2303ff8fb18571";

static void guidance_is_read_written_and_part_of_the_identity(void **state) {
    ousac_schedule schedule, copy;
    char digest[OUSAC_DIGEST_CHARS], moved[OUSAC_DIGEST_CHARS], *text;
    (void)state;
    assert_int_equal(schedule_parse(&schedule, told_example, NULL), OUSAC_STATUS_OK);
    assert_true(ousac_schedule_tells(&schedule));
    assert_false(ousac_schedule_is_fitted(&schedule));
    assert_true(schedule.steps[0].tells && schedule.steps[0].guidance == 3.5 && schedule.steps[0].scale == 1);
    assert_true(schedule.steps[1].tells && schedule.steps[1].guidance == 5);
    assert_false(schedule.steps[2].tells);
    ousac_schedule_digest(&schedule, digest);
    assert_string_equal(digest, told_digest);
    assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
    assert_string_equal(text, told_example);
    ousac_free(text);
    for (int change = 0; change < 4; change++) {
        assert_int_equal(ousac_schedule_copy(&copy, &schedule, NULL), OUSAC_STATUS_OK);
        copy.steps[0].guidance += change == 0;
        copy.steps[1].tells -= change == 1;
        copy.steps[2].tells += change == 2; /* 0 is a guidance like any other */
        if (change == 3) {
            assert_int_equal(ousac_schedule_make_fitted(&copy, NULL), OUSAC_STATUS_OK);
            copy.fitted[2].value[OUSAC_COEFFICIENT_GAIN] = 0.25;
        }
        ousac_schedule_digest(&copy, moved);
        assert_string_not_equal(moved, digest);
        ousac_schedule_free(&copy);
    }
    schedule.steps[1].guidance = NAN;
    assert_int_equal(ousac_schedule_validate(&schedule, "s", NULL), OUSAC_STATUS_FORMAT);
    ousac_schedule_free(&schedule);
}

/* Of a version 3, one schedule with those before it, where nothing is told. */
static void nothing_told_is_the_schedule_of_the_versions_before(void **state) {
    static const struct {
        const char *three, *same;
    } pairs[] = {
        {TELLING_OF("\"cond\""), FILE_OF("1", "{\"timestep\":9,\"gate\":\"full\",\"mode\":\"cond\"}")},
        {TELLING_OF("\"cond\",\"m\":0.5"),
         FITTED_OF("\"cond\",\"hold\":0,\"k\":0,\"m\":0.5,\"c\":0,\"d\":0")}};
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        ousac_schedule one, other;
        char first[OUSAC_DIGEST_CHARS], second[OUSAC_DIGEST_CHARS], *text;
        assert_int_equal(schedule_parse(&one, pairs[i].three, NULL), OUSAC_STATUS_OK);
        assert_int_equal(schedule_parse(&other, pairs[i].same, NULL), OUSAC_STATUS_OK);
        ousac_schedule_digest(&one, first);
        ousac_schedule_digest(&other, second);
        assert_string_equal(first, second);
        assert_int_equal(ousac_schedule_print(&one, &text, NULL), OUSAC_STATUS_OK);
        assert_non_null(strstr(text, i ? "\"version\": 2" : "\"version\": 1"));
        ousac_free(text);
        ousac_schedule_free(&one);
        ousac_schedule_free(&other);
    }
}

/* The example of version 4 of formats/SCHEDULE.md. */
static const char extrapolated_example[] =
    "{\n"
    "  \"format\": \"ousac-schedule\",\n"
    "  \"version\": 4,\n"
    "  \"name\": \"extrapolated\",\n"
    "  \"solver\": \"ddim\",\n"
    "  \"step_count\": 4,\n"
    "  \"steps\": [\n"
    "    {\"timestep\": 999, \"mode\": \"cfg\", \"scale\": 4, \"gate\": \"full\"},\n"
    "    {\"timestep\": 666, \"mode\": \"cfg\", \"scale\": 4, \"gate\": {\"cond\": \"full\", \"uncond\": "
    "\"extrapolate\"}},\n"
    "    {\"timestep\": 333, \"mode\": \"cfg\", \"scale\": 2.5, \"gate\": {\"cond\": \"extrapolate\", "
    "\"uncond\": "
    "\"full\"}},\n"
    "    {\"timestep\": 0, \"mode\": \"cond\", \"gate\": \"extrapolate\"}\n"
    "  ]\n"
    "}\n";

/* hashlib.sha256 of the text in formats/SCHEDULE.md */
static const char extrapolated_digest[] = "487dcdb951eefe28228ea149b71be4ec86e6ae71093e7062376f6bfaea9e2fc6";

static void extrapolation_is_read_written_and_part_of_the_identity(void **state) {
    ousac_schedule schedule;
    char digest[OUSAC_DIGEST_CHARS], *text, lower[sizeof extrapolated_example];
    int effective[4 * OUSAC_BRANCHES];
    ousac_error error = {0};
    (void)state;
    assert_int_equal(schedule_parse(&schedule, extrapolated_example, NULL), OUSAC_STATUS_OK);
    assert_true(ousac_schedule_has_gate(&schedule, OUSAC_GATE_EXTRAPOLATE));
    assert_false(ousac_schedule_has_gate(&schedule, OUSAC_GATE_REUSE));
    ousac_schedule_digest(&schedule, digest);
    assert_string_equal(digest, extrapolated_digest);
    assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
    assert_string_equal(text, extrapolated_example);
    ousac_free(text);
    /* Uncond has one full evaluation when its gate first says extrapolate. */
    assert_int_equal(ousac_schedule_effective_gates(&schedule, effective, NULL), OUSAC_STATUS_OK);
    assert_int_equal(effective[1 * OUSAC_BRANCHES + OUSAC_BRANCH_UNCOND], OUSAC_GATE_REUSE);
    assert_int_equal(effective[2 * OUSAC_BRANCHES + OUSAC_BRANCH_COND], OUSAC_GATE_EXTRAPOLATE);
    assert_int_equal(effective[3 * OUSAC_BRANCHES + OUSAC_BRANCH_COND], OUSAC_GATE_EXTRAPOLATE);

    /* Where no evaluated branch has the gate, it is a schedule of the versions before. */
    for (size_t i = 1; i < 4; i++)
        schedule.steps[i].gate[0] = schedule.steps[i].gate[1] = OUSAC_GATE_FULL;
    schedule.steps[3].gate[OUSAC_BRANCH_UNCOND] = OUSAC_GATE_EXTRAPOLATE;
    assert_false(ousac_schedule_has_gate(&schedule, OUSAC_GATE_EXTRAPOLATE));
    assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
    assert_non_null(strstr(text, "\"version\": 1"));
    ousac_free(text);
    ousac_schedule_free(&schedule);

    memcpy(lower, extrapolated_example, sizeof lower);
    *strstr(lower, "4,") = '3';
    assert_int_equal(schedule_parse(&schedule, lower, &error), OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "step 1: a gate \"extrapolate\" needs version 4"));
}

/* ---- round trips ---- */

static uint64_t next_random(uint64_t *seed) {
    *seed += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = *seed;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static double random_finite(uint64_t *seed) {
    double value;
    do {
        uint64_t bits = next_random(seed);
        memcpy(&value, &bits, sizeof value);
    } while (!isfinite(value) || value == 0);
    return value;
}

static int falling(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* Any doubles, names with every awkward character, every gate in every mode. */
static void printing_and_parsing_give_the_same(void **state) {
    enum { STEPS = 200 };
    static const char *const names[] = {"", "plain", "\"quoted\\", "\xc3\xbc \xe2\x82\xac \xf0\x9f\x8e\xb2",
                                        "a/b\xc2\xa0"};
    uint64_t seed = 7;
    (void)state;
    for (size_t round = 0; round < 25; round++) {
        ousac_step steps[STEPS];
        ousac_fitted fitted[STEPS];
        double times[STEPS];
        ousac_schedule schedule = {.step_count = STEPS, .steps = steps, .fitted = round % 2 ? fitted : NULL},
                       back;
        schedule.solver = round % 3 ? OUSAC_SOLVER_DDIM : OUSAC_SOLVER_DPMPP_2M;
        char *text, *again, one[OUSAC_DIGEST_CHARS], other[OUSAC_DIGEST_CHARS];
        strcpy(schedule.name, names[round % 5]);
        for (size_t i = 0; i < STEPS; i++)
            times[i] =
                round % 2 ? fabs(random_finite(&seed)) : (double)(next_random(&seed) % 1000000000) / 64;
        qsort(times, STEPS, sizeof *times, falling);
        for (size_t i = 0; i < STEPS; i++) {
            steps[i].timestep = times[i];
            steps[i].mode = (ousac_mode)(next_random(&seed) % 3);
            steps[i].scale = steps[i].mode == OUSAC_MODE_CFG ? random_finite(&seed) : 1;
            steps[i].gate[0] = (ousac_gate)(next_random(&seed) % 4);
            steps[i].gate[1] =
                steps[i].mode == OUSAC_MODE_CFG ? (ousac_gate)(next_random(&seed) % 4) : steps[i].gate[0];
            steps[i].tells = round % 4 > 1 && next_random(&seed) % 2;
            steps[i].guidance = steps[i].tells ? random_finite(&seed) : 0;
            for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
                fitted[i].value[k] =
                    k == OUSAC_COEFFICIENT_HOLD && steps[i].mode == OUSAC_MODE_CFG ? 0 : random_finite(&seed);
        }
        assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
        assert_int_equal(schedule_parse(&back, text, NULL), OUSAC_STATUS_OK);
        assert_same_schedule(&schedule, &back);
        assert_int_equal(ousac_schedule_print(&back, &again, NULL), OUSAC_STATUS_OK);
        assert_string_equal(text, again);
        ousac_schedule_digest(&schedule, one);
        ousac_schedule_digest(&back, other);
        assert_string_equal(one, other);
        ousac_free(text);
        ousac_free(again);
        ousac_schedule_free(&back);
    }
}

static void numbers_print_as_short_as_they_can(void **state) {
    static const struct {
        double value;
        const char *text;
    } numbers[] = {{0, "0"},
                   {-0.0, "0"},
                   {900, "900"},
                   {0.1, "0.1"},
                   {1.0 / 3, "0.3333333333333333"},
                   {0.1 + 0.2, "0.30000000000000004"},
                   {-7.5, "-7.5"},
                   {1e22, "1e+22"},
                   {5e-324, "5e-324"},
                   {9007199254740991, "9007199254740991"},
                   {1.7976931348623157e308, "1.7976931348623157e+308"}};
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        ousac_step step = {3, OUSAC_MODE_CFG, numbers[i].value, {OUSAC_GATE_FULL, OUSAC_GATE_FULL}};
        ousac_schedule schedule = {.step_count = 1, .steps = &step};
        char *text, expected[80];
        assert_int_equal(ousac_schedule_print(&schedule, &text, NULL), OUSAC_STATUS_OK);
        (void)snprintf(expected, sizeof expected, "\"scale\": %s, ", numbers[i].text);
        if (!strstr(text, expected))
            fail_msg("expected %s in: %s", expected, text);
        ousac_free(text);
    }
}

/* A program that took over the user's locale must write and read the same text. */
static void the_locale_changes_nothing(void **state) {
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE", "ps_AF.UTF-8"};
    const char *found = NULL;
    ousac_schedule schedule;
    ousac_status status;
    char *text = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof commas / sizeof *commas && !found; i++)
        found = setlocale(LC_NUMERIC, commas[i]);
    if (!found) {
        print_message("skipped: no locale with a decimal comma is installed\n");
        skip();
    }
    status = schedule_parse(&schedule, example, NULL);
    if (!status)
        status = ousac_schedule_print(&schedule, &text, NULL);
    (void)setlocale(LC_NUMERIC, "C");
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_string_equal(text, example);
    ousac_free(text);
    ousac_schedule_free(&schedule);
}

static void the_order_of_keys_is_free(void **state) {
    static const char shuffled[] =
        "{\"steps\":[{\"gate\":\"full\",\"scale\":4.0,\"mode\":\"cfg\",\"timestep\":9.99e2},{\"gate\":{"
        "\"uncond\":"
        "\"full\",\"cond\":\"cached\"},\"scale\":15e-1,\"timestep\":499.5,\"mode\":\"cfg\"},\r\n\t{"
        "\"timestep\":-0,"
        "\"mode\":\"cond\",\"gate\":{\"cond\":\"reuse\",\"uncond\":\"reuse\"}}],\"step_count\":3,\"solver\":"
        "\"\\u0064dim\",\"name\":\"three\\u0020steps\",\"version\":1,\"format\":\"ousac-schedule\"}";
    ousac_schedule one, other;
    (void)state;
    assert_int_equal(schedule_parse(&one, example, NULL), OUSAC_STATUS_OK);
    assert_int_equal(schedule_parse(&other, shuffled, NULL), OUSAC_STATUS_OK);
    assert_same_schedule(&one, &other);
    ousac_schedule_free(&one);
    ousac_schedule_free(&other);
}

static void saving_and_loading(void **state) {
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    ousac_schedule schedule, back;
    ousac_error error = {0};
    (void)state;
    scratch_create(&dir);
    assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_schedule_save(&schedule, scratch_path(&dir, "s.json", path), NULL),
                     OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, "s.json", example, strlen(example)));
    assert_int_equal(ousac_schedule_load(&back, path, NULL), OUSAC_STATUS_OK);
    assert_same_schedule(&schedule, &back);
    ousac_schedule_free(&back);

    schedule.steps[1].timestep = NAN;
    assert_int_equal(ousac_schedule_save(&schedule, path, &error), OUSAC_STATUS_FORMAT);
    assert_ptr_equal(strstr(error.message, path), error.message);
    assert_true(scratch_holds(&dir, "s.json", example, strlen(example)));
    assert_int_equal(ousac_schedule_load(&back, scratch_path(&dir, "absent", path), &error), OUSAC_STATUS_IO);
    assert_ptr_equal(strstr(error.message, path), error.message);
    assert_null(back.steps);
    scratch_put(&dir, "bad", "{}", 2);
    assert_int_equal(ousac_schedule_load(&back, scratch_path(&dir, "bad", path), &error),
                     OUSAC_STATUS_FORMAT);
    assert_ptr_equal(strstr(error.message, path), error.message);
    ousac_schedule_free(&schedule);
    scratch_remove(&dir);
}

static void copies_are_independent(void **state) {
    ousac_schedule one, other;
    (void)state;
    assert_int_equal(schedule_parse(&one, example, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_schedule_copy(&other, &one, NULL), OUSAC_STATUS_OK);
    assert_same_schedule(&one, &other);
    one.steps[0].timestep = 5;
    assert_true(other.steps[0].timestep == 999);
    ousac_schedule_free(&one);
    ousac_schedule_free(&one); /* twice is fine */
    ousac_schedule_free(NULL);
    assert_true(other.steps[1].timestep == 499.5);
    ousac_schedule_free(&other);
}

/* ---- schedules built in memory ---- */

static void validation_finds_what_a_program_can_break(void **state) {
    enum { BREAKS = 14 };
    static const char *const expected[BREAKS] = {"",
                                                 "name must",
                                                 "name must",
                                                 "solver 7",
                                                 "0 steps",
                                                 "100001 steps",
                                                 "step 1: timestep is -1",
                                                 "step 1: timestep is nan",
                                                 "step 2: timestep",
                                                 "step 0: scale is inf",
                                                 "step 2: scale is 2",
                                                 "step 1: mode 3",
                                                 "step 1: gate 5 of branch uncond",
                                                 "step 0: gate -1 of branch cond"};
    (void)state;
    for (int which = 0; which < BREAKS; which++) {
        ousac_schedule schedule;
        ousac_error error = {0};
        ousac_status status;
        assert_int_equal(schedule_parse(&schedule, example, NULL), OUSAC_STATUS_OK);
        if (which == 1)
            memset(schedule.name, 'x', sizeof schedule.name); /* no NUL */
        if (which == 2)
            strcpy(schedule.name, "\xff");
        if (which == 3)
            schedule.solver = (ousac_solver)7;
        if (which == 4)
            schedule.step_count = 0;
        if (which == 5)
            schedule.step_count = OUSAC_SCHEDULE_STEPS_MAX + 1;
        if (which == 6)
            schedule.steps[1].timestep = -1;
        if (which == 7)
            schedule.steps[1].timestep = NAN;
        if (which == 8)
            schedule.steps[2].timestep = 499.5;
        if (which == 9)
            schedule.steps[0].scale = INFINITY;
        if (which == 10)
            schedule.steps[2].scale = 2;
        if (which == 11)
            schedule.steps[1].mode = (ousac_mode)3;
        if (which == 12)
            schedule.steps[1].gate[OUSAC_BRANCH_UNCOND] = (ousac_gate)5;
        if (which == 13)
            schedule.steps[0].gate[OUSAC_BRANCH_COND] = (ousac_gate)-1;
        status = ousac_schedule_validate(&schedule, "built", &error);
        assert_int_equal(status, which ? OUSAC_STATUS_FORMAT : OUSAC_STATUS_OK);
        if (status && !strstr(error.message, expected[which]))
            fail_msg("break %d: expected \"%s\" in: %s", which, expected[which], error.message);
        ousac_schedule_free(&schedule);
    }
}

static void effective_gates_follow_each_branch(void **state) {
    enum {
        F = OUSAC_GATE_FULL,
        C = OUSAC_GATE_CACHED,
        R = OUSAC_GATE_REUSE,
        E = OUSAC_GATE_EXTRAPOLATE,
        A = OUSAC_GATE_AUTO
    };
    static const int CFG = OUSAC_MODE_CFG, COND = OUSAC_MODE_COND, UNCOND = OUSAC_MODE_UNCOND;
    const struct {
        int mode, gate[2], effective[2];
    } cases[] = {
        {COND, {C, C}, {F, -1}}, /* nothing cached yet */
        {COND, {R, A}, {R, -1}}, /* the gate of a branch that does not run is ignored */
        {COND, {E, A}, {R, -1}}, /* no line through one full evaluation */
        {CFG, {C, E}, {C, F}},   /* first evaluation of uncond */
        {UNCOND, {A, C}, {-1, C}}, {CFG, {F, R}, {F, R}}, {CFG, {R, F}, {R, F}}, {CFG, {E, E}, {E, E}},
    };
    enum { COUNT = sizeof cases / sizeof *cases };
    ousac_step steps[COUNT];
    ousac_schedule schedule = {.step_count = COUNT, .steps = steps};
    int effective[COUNT * OUSAC_BRANCHES];
    ousac_error error = {0};
    (void)state;
    for (int i = 0; i < COUNT; i++)
        steps[i] = (ousac_step){100 - i,
                                (ousac_mode)cases[i].mode,
                                1,
                                {(ousac_gate)cases[i].gate[0], (ousac_gate)cases[i].gate[1]}};
    assert_int_equal(ousac_schedule_effective_gates(&schedule, effective, NULL), OUSAC_STATUS_OK);
    for (int i = 0; i < COUNT; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            assert_int_equal(effective[i * OUSAC_BRANCHES + b], cases[i].effective[b]);

    steps[5].gate[1] = OUSAC_GATE_AUTO;
    assert_int_equal(ousac_schedule_effective_gates(&schedule, effective, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "step 5: gate of branch uncond"));
    steps[0].gate[0] = OUSAC_GATE_AUTO; /* undecided even where it would run full */
    assert_int_equal(ousac_schedule_effective_gates(&schedule, effective, &error), OUSAC_STATUS_USAGE);
    assert_non_null(strstr(error.message, "step 0: gate of branch cond"));
}

static void names_map_both_ways(void **state) {
    static const char *const modes[] = {"cfg", "cond", "uncond"}, *const gates[] = {"full", "cached", "reuse",
                                                                                    "extrapolate", "auto"};
    ousac_mode mode = OUSAC_MODE_CFG;
    ousac_gate gate = OUSAC_GATE_FULL;
    ousac_solver solver;
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_string_equal(ousac_mode_name((ousac_mode)i), modes[i]);
        assert_int_equal(ousac_mode_parse(&mode, modes[i]), 0);
        assert_int_equal(mode, i);
    }
    for (int i = 0; i < 5; i++) {
        assert_string_equal(ousac_gate_name((ousac_gate)i), gates[i]);
        assert_int_equal(ousac_gate_parse(&gate, gates[i]), 0);
        assert_int_equal(gate, i);
    }
    assert_string_equal(ousac_solver_name(OUSAC_SOLVER_DDIM), "ddim");
    assert_int_equal(ousac_solver_parse(&solver, "ddim"), 0);
    assert_int_equal(solver, OUSAC_SOLVER_DDIM);
    assert_string_equal(ousac_branch_name(OUSAC_BRANCH_COND), "cond");
    assert_string_equal(ousac_branch_name(OUSAC_BRANCH_UNCOND), "uncond");
    assert_int_equal(ousac_mode_parse(&mode, "Cfg"), -1);
    assert_int_equal(ousac_gate_parse(&gate, ""), -1);
    assert_int_equal(ousac_solver_parse(&solver, "ddim "), -1);
    assert_string_equal(ousac_mode_name((ousac_mode)3), "?");
    assert_string_equal(ousac_gate_name((ousac_gate)-1), "?");
    assert_string_equal(ousac_solver_name(OUSAC_SOLVER_DPMPP_2M), "dpmpp-2m");
    assert_int_equal(ousac_solver_parse(&solver, "dpmpp-2m"), 0);
    assert_int_equal(solver, OUSAC_SOLVER_DPMPP_2M);
    assert_string_equal(ousac_solver_name(OUSAC_SOLVER_FLOW_EULER), "flow-euler");
    assert_int_equal(ousac_solver_parse(&solver, "flow-euler"), 0);
    assert_int_equal(solver, OUSAC_SOLVER_FLOW_EULER);
    assert_string_equal(ousac_solver_name((ousac_solver)3), "?");
    assert_string_equal(ousac_solver_name((ousac_solver)-1), "?");
    assert_string_equal(ousac_branch_name(2), "?");
}

static void every_failed_allocation_is_survived(void **state) {
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    (void)state;
    scratch_create(&dir);
    scratch_path(&dir, "s.json", path);
    scratch_put(&dir, "s.json", example, strlen(example));
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        ousac_schedule schedule = {0}, copy = {0};
        ousac_error error = {0};
        (void)ousac_memory_fail_after(allowed);
        status = ousac_schedule_load(&schedule, path, &error);
        if (!status)
            status = ousac_schedule_copy(&copy, &schedule, &error);
        if (!status)
            status = ousac_schedule_save(&copy, path, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            assert_true(strlen(error.message) > 0);
        assert_true(scratch_holds(&dir, "s.json", example, strlen(example)));
        assert_int_equal(scratch_entries(&dir), 1);
        ousac_schedule_free(&schedule);
        ousac_schedule_free(&copy);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 6);
    scratch_remove(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_is_read_as_written),
        cmocka_unit_test(the_example_prints_byte_for_byte),
        cmocka_unit_test(the_digest_is_the_documented_one),
        cmocka_unit_test(the_solver_is_part_of_the_identity),
        cmocka_unit_test(everything_that_runs_moves_the_digest),
        cmocka_unit_test(coefficients_are_read_written_and_part_of_the_identity),
        cmocka_unit_test(no_coefficients_and_zeros_are_one_schedule),
        cmocka_unit_test(guidance_is_read_written_and_part_of_the_identity),
        cmocka_unit_test(nothing_told_is_the_schedule_of_the_versions_before),
        cmocka_unit_test(extrapolation_is_read_written_and_part_of_the_identity),
        cmocka_unit_test(printing_and_parsing_give_the_same),
        cmocka_unit_test(numbers_print_as_short_as_they_can),
        cmocka_unit_test(the_locale_changes_nothing),
        cmocka_unit_test(the_order_of_keys_is_free),
        cmocka_unit_test(saving_and_loading),
        cmocka_unit_test(copies_are_independent),
        cmocka_unit_test(validation_finds_what_a_program_can_break),
        cmocka_unit_test(effective_gates_follow_each_branch),
        cmocka_unit_test(names_map_both_ways),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
