/* Scales for stable-diffusion.cpp, read back as its code counts: VALUExCOUNT from the last step, one value more at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/export_sdcpp.h"
#include "tests/support/scratch.h"

enum { STEPS = 7, TEXT_BYTES = 4096 };

static scratch directory;

/* A schedule of those scales; 0 skips the unconditional pass, less than 0 runs it alone. */
static void put_schedule(const double scales[STEPS]) {
    char text[TEXT_BYTES];
    size_t used =
        (size_t)snprintf(text, sizeof text,
                         "{\"format\": \"ousac-schedule\", \"version\": 1, \"name\": \"a\", \"solver\": "
                         "\"ddim\", \"step_count\": %d, \"steps\": [",
                         STEPS);
    for (int i = 0; i < STEPS; i++) {
        char mode[64];
        if (scales[i] > 0)
            (void)snprintf(mode, sizeof mode, "\"cfg\", \"scale\": %.17g", scales[i]);
        else
            (void)snprintf(mode, sizeof mode, "%s", scales[i] < 0 ? "\"uncond\"" : "\"cond\"");
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "%s{\"timestep\": %d, \"mode\": %s, \"gate\": \"full\"}", i ? ", " : "",
                                 900 - 100 * i, mode);
    }
    used += (size_t)snprintf(text + used, sizeof text - used, "]}");
    scratch_put(&directory, "s.json", text, used);
}

static ousac_status export(ousac_export_sdcpp_result *result, ousac_error *error) {
    char from[SCRATCH_PATH_BYTES], to[SCRATCH_PATH_BYTES];
    return ousac_export_sdcpp(scratch_path(&directory, "s.json", from), scratch_path(&directory, "s.txt", to),
                              result, error);
}

static size_t read_back(double *values) {
    char text[TEXT_BYTES] = "", path[SCRATCH_PATH_BYTES];
    size_t count = 0;
    FILE *file = fopen(scratch_path(&directory, "s.txt", path), "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof text, file));
    (void)fclose(file);
    assert_int_equal(strncmp(text, "--steps 7 ", 10), 0);
    char *at = strchr(text, '=');
    assert_non_null(at);
    do {
        const double value = strtod(at + 1, &at);
        assert_int_equal(*at, 'x');
        for (long n = strtol(at + 1, &at, 10); n > 0; n--)
            values[count++] = value;
    } while (*at == '+');
    assert_string_equal(at, "\n");
    return count;
}

static void every_step_gets_its_scale(void **state) {
    static const double all[][STEPS] = {
        {7.5, 7.5, 7.5, 7.5, 7.5, 7.5, 7.5}, {1.25, 2, 2, 0, 0, 3, 4}, {0, 2, 3, 4, 5, 6, 7.123456789}};
    (void)state;
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        double values[TEXT_BYTES];
        ousac_export_sdcpp_result result;
        ousac_error error = {0};
        size_t skipped = 0;
        put_schedule(all[k]);
        assert_int_equal(export(&result, &error), OUSAC_STATUS_OK);
        const size_t count = read_back(values);
        assert_int_equal(count, STEPS + 1);
        for (size_t step = 1; step <= STEPS; step++) { /* numbered from 1, as its samplers do */
            const double scale = all[k][step - 1];
            assert_true((float)values[count - 1 - step] ==
                        (float)(scale > 0 ? scale : 1)); /* which it reads */
            skipped += scale == 0;
        }
        assert_int_equal(result.steps, STEPS);
        assert_int_equal(result.skipped, skipped);
        assert_int_equal(result.fitted, 0);
    }
}

static void what_has_no_scale_is_refused(void **state) {
    static const double alone[STEPS] = {3, 3, -1, 3, 3, 3, 3};
    ousac_export_sdcpp_result result;
    ousac_error error = {0};
    (void)state;
    put_schedule(alone);
    assert_int_equal(export(&result, &error), OUSAC_STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "step 2"));
    scratch_put(&directory, "s.json", "{}", 2);
    assert_int_equal(export(&result, &error), OUSAC_STATUS_FORMAT);
}

static int set_up(void **state) {
    (void)state;
    scratch_create(&directory);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    scratch_remove(&directory);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_gets_its_scale),
        cmocka_unit_test(what_has_no_scale_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
