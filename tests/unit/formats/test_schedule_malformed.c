/* Schedules that are none: every way in which a text breaks formats/SCHEDULE.md is refused with the line that says which,
 * and names and texts have a limit. */
#include "formats/memory.h"
#include "formats/schedule.h"
#include "tests/support/schedule_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct malformed {
    const char *name;
    const char *text;
    ousac_status status;
    const char *message;
} malformed[] = {
    {"empty", "", OUSAC_STATUS_FORMAT, "JSON"},
    {"no object", "[]", OUSAC_STATUS_FORMAT, "object"},
    {"a string", "\"ousac-schedule\"", OUSAC_STATUS_FORMAT, "JSON"},
    {"cut", "{\"format\":\"ousac-schedule\"", OUSAC_STATUS_FORMAT, "JSON"},
    {"followed by more", FILE_OF("1", STEP9) "x", OUSAC_STATUS_FORMAT, "JSON"},
    {"comment", "/* */" FILE_OF("1", STEP9), OUSAC_STATUS_FORMAT, "JSON"},
    {"trailing comma", FILE_OF("1", STEP9 ","), OUSAC_STATUS_FORMAT, "JSON"},
    {"single quotes", "{'format':'ousac-schedule'}", OUSAC_STATUS_FORMAT, "JSON"},
    {"Infinity", SECOND("{\"timestep\":Infinity,\"mode\":\"cond\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "JSON"},
    {"hexadecimal", SECOND("{\"timestep\":0x1,\"mode\":\"cond\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "JSON"},
    {"number without digits behind the point",
     SECOND("{\"timestep\":1.,\"mode\":\"cond\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT, "JSON"},
    {"number without digits in the exponent", SECOND("{\"timestep\":1e,\"mode\":\"cond\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "JSON"},

    {"format is missing", "{\"version\":1}", OUSAC_STATUS_FORMAT, "\"format\""},
    {"format is another", "{\"format\":\"schedule\",\"version\":1}", OUSAC_STATUS_FORMAT, "\"format\""},
    {"version is missing", "{\"format\":\"ousac-schedule\"}", OUSAC_STATUS_FORMAT, "\"version\""},
    {"version is a string", "{\"format\":\"ousac-schedule\",\"version\":\"1\"}", OUSAC_STATUS_FORMAT,
     "\"version\""},
    {"version is 1.5", "{\"format\":\"ousac-schedule\",\"version\":1.5}", OUSAC_STATUS_FORMAT, "\"version\""},
    {"version is 5, with keys of its own", "{\"format\":\"ousac-schedule\",\"version\":5,\"novel\":{}}",
     OUSAC_STATUS_UNSUPPORTED, "version 5"},
    {"version 1 tells nothing",
     FILE_OF("1", "{\"timestep\":9,\"mode\":\"cond\",\"gate\":\"full\",\"guidance\":3}"), OUSAC_STATUS_FORMAT,
     "step 0: unknown key \"guidance\""},
    {"version 2 tells nothing",
     FITTED_OF("\"cond\",\"hold\":0,\"k\":0,\"m\":0,\"c\":0,\"d\":0,\"guidance\":3"), OUSAC_STATUS_FORMAT,
     "step 0: unknown key \"guidance\""},
    {"guidance is a string", TELLING_OF("\"cond\",\"guidance\":\"3\""), OUSAC_STATUS_FORMAT,
     "step 0: \"guidance\" must be a finite number"},
    {"guidance is null", TELLING_OF("\"cond\",\"guidance\":null"), OUSAC_STATUS_FORMAT,
     "step 0: \"guidance\" must be a finite number"},
    {"guidance is infinite", TELLING_OF("\"cond\",\"guidance\":1e999"), OUSAC_STATUS_FORMAT,
     "\"guidance\" must be a finite number"},
    {"guidance twice", TELLING_OF("\"cond\",\"guidance\":3,\"guidance\":3"), OUSAC_STATUS_FORMAT,
     "\"guidance\" occurs twice"},
    {"guidance is no scale", TELLING_OF("\"cfg\",\"guidance\":3"), OUSAC_STATUS_FORMAT,
     "step 0: missing key \"scale\""},
    {"hold in mode cfg of version 3", TELLING_OF("\"cfg\",\"scale\":2,\"hold\":0"), OUSAC_STATUS_FORMAT,
     "step 0: mode \"cfg\" has no \"hold\""},
    {"version 1 has no coefficients",
     FILE_OF("1", "{\"timestep\":9,\"mode\":\"cond\",\"gate\":\"full\",\"m\":0}"), OUSAC_STATUS_FORMAT,
     "step 0: unknown key \"m\""},
    {"version 2 lacks one", FITTED_OF("\"cond\",\"hold\":0,\"k\":0,\"c\":0,\"d\":0"), OUSAC_STATUS_FORMAT,
     "step 0: missing key \"m\""},
    {"hold in mode cfg", FITTED_OF("\"cfg\",\"scale\":2,\"hold\":0,\"k\":0,\"m\":0,\"c\":0,\"d\":0"),
     OUSAC_STATUS_FORMAT, "step 0: mode \"cfg\" has no \"hold\""},
    {"no hold in mode cond", FITTED_OF("\"cond\",\"k\":0,\"m\":0,\"c\":0,\"d\":0"), OUSAC_STATUS_FORMAT,
     "step 0: missing key \"hold\""},
    {"a coefficient is a string", FITTED_OF("\"cond\",\"hold\":0,\"k\":\"0\",\"m\":0,\"c\":0,\"d\":0"),
     OUSAC_STATUS_FORMAT, "step 0: \"k\" must be a finite number"},
    {"a coefficient is infinite", FITTED_OF("\"cond\",\"hold\":0,\"k\":0,\"m\":0,\"c\":1e999,\"d\":0"),
     OUSAC_STATUS_FORMAT, "\"c\" must be a finite number"},
    {"unknown key", HEAD "\"step_count\":1,\"eta\":0,\"steps\":[" STEP9 "]}", OUSAC_STATUS_FORMAT,
     "unknown key \"eta\""},
    {"key twice", HEAD "\"step_count\":1,\"name\":\"m\",\"steps\":[" STEP9 "]}", OUSAC_STATUS_FORMAT,
     "\"name\" occurs twice"},
    {"key in capitals", HEAD "\"Step_count\":1,\"steps\":[" STEP9 "]}", OUSAC_STATUS_FORMAT,
     "unknown key \"Step_count\""},
    {"name is missing",
     "{\"format\":\"ousac-schedule\",\"version\":1,\"solver\":\"ddim\",\"step_count\":1,\"steps\":[" STEP9
     "]}",
     OUSAC_STATUS_FORMAT, "missing key \"name\""},
    {"name is a number",
     "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":1,\"solver\":\"ddim\",\"step_count\":1,\"steps\":"
     "[" STEP9 "]}",
     OUSAC_STATUS_FORMAT, "\"name\" must be a string"},
    {"name with an escaped line feed",
     "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":\"a\\nb\",\"solver\":\"ddim\",\"step_count\":1,"
     "\"steps\":[" STEP9 "]}",
     OUSAC_STATUS_FORMAT, "name must be"},
    {"name with an escaped C1 control",
     "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":\"a\\u0085b\",\"solver\":\"ddim\",\"step_count\":"
     "1,\"steps\":[" STEP9 "]}",
     OUSAC_STATUS_FORMAT, "name must be"},
    {"name with an escaped NUL",
     "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":\"a\\u0000b\",\"solver\":\"ddim\",\"step_count\":"
     "1,\"steps\":[" STEP9 "]}",
     OUSAC_STATUS_FORMAT, "u0000"},
    {"solver is missing",
     "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":\"n\",\"step_count\":1,\"steps\":[" STEP9 "]}",
     OUSAC_STATUS_FORMAT, "missing key \"solver\""},
    {"solver is unknown",
     "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":\"n\",\"solver\":\"euler\",\"step_count\":1,"
     "\"steps\":[" STEP9 "]}",
     OUSAC_STATUS_FORMAT, "\"solver\" is \"euler\""},
    {"step_count is missing", HEAD "\"steps\":[" STEP9 "]}", OUSAC_STATUS_FORMAT, "\"step_count\""},
    {"step_count is too small", FILE_OF("1", STEP9 ",{\"timestep\":8,\"mode\":\"cond\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "2 steps, but \"step_count\" says 1"},
    {"step_count is too large", FILE_OF("2", STEP9), OUSAC_STATUS_FORMAT,
     "1 steps, but \"step_count\" says 2"},
    {"step_count has a fraction", FILE_OF("1.5", STEP9), OUSAC_STATUS_FORMAT, "\"step_count\""},
    {"step_count is negative", FILE_OF("-1", STEP9), OUSAC_STATUS_FORMAT, "\"step_count\""},
    {"step_count beyond 2^53", FILE_OF("1e300", STEP9), OUSAC_STATUS_FORMAT, "\"step_count\""},
    {"no steps", FILE_OF("0", ""), OUSAC_STATUS_FORMAT, "0 steps"},
    {"steps are missing", HEAD "\"step_count\":1}", OUSAC_STATUS_FORMAT, "\"steps\""},
    {"steps are an object", HEAD "\"step_count\":1,\"steps\":{}}", OUSAC_STATUS_FORMAT, "\"steps\""},

    {"step is a number", SECOND("8"), OUSAC_STATUS_FORMAT, "step 1: expected an object"},
    {"step with an unknown key", SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":\"full\",\"w\":1}"),
     OUSAC_STATUS_FORMAT, "step 1: unknown key \"w\""},
    {"step with a key twice", SECOND("{\"timestep\":8,\"timestep\":7,\"mode\":\"cond\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: key \"timestep\" occurs twice"},
    {"timestep is missing", SECOND("{\"mode\":\"cond\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "step 1: missing key \"timestep\""},
    {"timestep is a string", SECOND("{\"timestep\":\"8\",\"mode\":\"cond\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: \"timestep\" must be"},
    {"timestep is null", SECOND("{\"timestep\":null,\"mode\":\"cond\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: \"timestep\" must be"},
    {"timestep overflows", FILE_OF("1", "{\"timestep\":1e999,\"mode\":\"cond\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 0: \"timestep\" must be a finite"},
    {"timestep is negative", SECOND("{\"timestep\":-1,\"mode\":\"cond\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: timestep is -1"},
    {"timestep stays", SECOND("{\"timestep\":9,\"mode\":\"cond\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "step 1: timestep 9 is not below"},
    {"timestep rises", SECOND("{\"timestep\":10,\"mode\":\"cond\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "step 1: timestep 10 is not below"},
    {"mode is missing", SECOND("{\"timestep\":8,\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "step 1: missing key \"mode\""},
    {"mode is unknown", SECOND("{\"timestep\":8,\"mode\":\"CFG\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "step 1: \"mode\" is \"CFG\""},
    {"mode is a number", SECOND("{\"timestep\":8,\"mode\":0,\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "step 1: \"mode\" must be"},
    {"scale is missing", SECOND("{\"timestep\":8,\"mode\":\"cfg\",\"gate\":\"full\"}"), OUSAC_STATUS_FORMAT,
     "step 1: missing key \"scale\""},
    {"scale is a string", SECOND("{\"timestep\":8,\"mode\":\"cfg\",\"scale\":\"4\",\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: \"scale\" must be"},
    {"scale overflows", SECOND("{\"timestep\":8,\"mode\":\"cfg\",\"scale\":-1e400,\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: \"scale\" must be a finite"},
    {"scale beside cond", SECOND("{\"timestep\":8,\"mode\":\"cond\",\"scale\":1,\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: mode \"cond\" has no \"scale\""},
    {"scale beside uncond", SECOND("{\"timestep\":8,\"mode\":\"uncond\",\"scale\":1,\"gate\":\"full\"}"),
     OUSAC_STATUS_FORMAT, "step 1: mode \"uncond\" has no \"scale\""},
    {"gate is missing", SECOND("{\"timestep\":8,\"mode\":\"cond\"}"), OUSAC_STATUS_FORMAT,
     "step 1: missing key \"gate\""},
    {"gate is unknown", SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":\"skip\"}"), OUSAC_STATUS_FORMAT,
     "step 1: \"gate\" is \"skip\""},
    {"gate is a list", SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":[\"full\"]}"), OUSAC_STATUS_FORMAT,
     "step 1: \"gate\" must be"},
    {"gate of one branch", SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":{\"cond\":\"full\"}}"),
     OUSAC_STATUS_FORMAT, "step 1: gate: missing key \"uncond\""},
    {"gate of an unknown branch",
     SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":{\"cond\":\"full\",\"both\":\"full\"}}"),
     OUSAC_STATUS_FORMAT, "step 1: gate: unknown key \"both\""},
    {"gate of a branch twice",
     SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":{\"cond\":\"full\",\"cond\":\"full\"}}"),
     OUSAC_STATUS_FORMAT, "step 1: gate: key \"cond\" occurs twice"},
    {"gate of a branch is a number",
     SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":{\"cond\":\"full\",\"uncond\":0}}"),
     OUSAC_STATUS_FORMAT, "step 1: gate: \"uncond\" must be"},
    {"gates differ where one branch runs",
     SECOND("{\"timestep\":8,\"mode\":\"cond\",\"gate\":{\"cond\":\"full\",\"uncond\":\"reuse\"}}"),
     OUSAC_STATUS_FORMAT, "step 1: the gates differ"},
};

static void malformed_texts_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        const struct malformed *bad = &malformed[i];
        ousac_schedule schedule;
        ousac_error error = {0};
        ousac_status status;
        memset(&schedule, 0x5a, sizeof schedule);
        status = schedule_parse(&schedule, bad->text, &error);
        if (status != bad->status || strstr(error.message, "s.json: ") != error.message ||
            !strstr(error.message, bad->message))
            fail_msg("%s: status %s, message: %s", bad->name, ousac_status_name(status), error.message);
        assert_null(schedule.steps);
        assert_int_equal(schedule.step_count, 0);
    }
}

static void names_have_a_limit(void **state) {
    char text[400], name[130];
    ousac_schedule schedule;
    ousac_error error = {0};
    (void)state;
    for (size_t length = 126; length <= 128; length++) {
        ousac_status status;
        memset(name, 'n', sizeof name);
        name[length] = '\0';
        (void)snprintf(text, sizeof text,
                       "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":\"%s\",\"solver\":\"ddim\","
                       "\"step_count\":1,\"steps\":[" STEP9 "]}",
                       name);
        status = schedule_parse(&schedule, text, &error);
        assert_int_equal(status, length < 128 ? OUSAC_STATUS_OK : OUSAC_STATUS_FORMAT);
        assert_int_equal(strlen(schedule.name), status ? 0 : length);
        ousac_schedule_free(&schedule);
    }
    assert_non_null(strstr(error.message, "127 bytes"));
}

static void texts_and_step_counts_have_a_limit(void **state) {
    const size_t limit = 100000;
    ousac_schedule schedule;
    ousac_error error = {0};
    char *text = malloc(64 * (limit + 2)), *blank;
    (void)state;
    assert_non_null(text);
    for (size_t count = limit; count <= limit + 1; count++) {
        size_t used = (size_t)sprintf(text, HEAD "\"step_count\":%zu,\"steps\":[", count);
        for (size_t i = 0; i < count; i++)
            used += (size_t)sprintf(text + used, "{\"timestep\":%zu,\"mode\":\"uncond\",\"gate\":\"auto\"}%s",
                                    count - i, i + 1 < count ? "," : "]}");
        assert_int_equal(ousac_schedule_parse(&schedule, text, used, "s.json", &error),
                         count > limit ? OUSAC_STATUS_FORMAT : OUSAC_STATUS_OK);
        if (count == limit) {
            char *printed;
            assert_int_equal(schedule.step_count, limit);
            assert_int_equal(ousac_schedule_print(&schedule, &printed, NULL), OUSAC_STATUS_OK);
            ousac_free(printed);
        }
        ousac_schedule_free(&schedule);
    }
    assert_non_null(strstr(error.message, "expected 1 to 100000"));
    free(text);

    blank = malloc((64u << 20) + 1);
    assert_non_null(blank);
    memset(blank, ' ', (64u << 20) + 1);
    assert_int_equal(ousac_schedule_parse(&schedule, blank, (64u << 20) + 1, "s.json", &error),
                     OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "longer than"));
    free(blank);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_texts_are_refused),
        cmocka_unit_test(names_have_a_limit),
        cmocka_unit_test(texts_and_step_counts_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
