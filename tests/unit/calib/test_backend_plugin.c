/* Devices by name and the plug-in behind "cuda": what is found, what is refused and with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/backend/backend_plugin.h"
#include "formats/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[4096];

/* Points the variable at a file of the build directory. */
static const char *choose(const char *file) {
    const char *build = getenv("BUILD");
    (void)snprintf(path, sizeof path, "%s/%s", build ? build : "build", file);
    assert_int_equal(setenv("OUSAC_CUDA_PLUGIN", path, 1), 0);
    return path;
}

static void assert_refused(const char *name, ousac_status expected, const char *const *words) {
    ousac_device *device = NULL;
    ousac_error error = {0};
    assert_int_equal(ousac_device_open(&device, name, 0, &error), expected);
    assert_int_equal(error.status, expected);
    assert_null(device);
    for (; *words; words++)
        if (!strstr(error.message, *words))
            fail_msg("\"%s\": expected to read \"%s\"", error.message, *words);
    assert_null(strchr(error.message, '\n'));
}

static void names_that_are_none_are_refused(void **unused) {
    static const char *const names[] = {
        "",        "gpu",    "CPU",   "cpu:0", "cuda:",   "cuda:x",    "cuda:-1",
        "cuda:1x", "cuda 0", "cudax", "autox", "cuda:+1", "cuda:1024", "cuda:99999999999999999999"};
    (void)unused;
    choose("tests/plugins/strict.so");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_refused(names[i], OUSAC_STATUS_USAGE, (const char *[]){"cuda:N", "auto", NULL});
}

static void the_cpu_needs_no_plug_in(void **unused) {
    ousac_device *device = NULL;
    (void)unused;
    choose("missing.so");
    assert_int_equal(ousac_device_open(&device, "cpu", 0, NULL), OUSAC_STATUS_OK);
    assert_ptr_equal(ousac_device_backend(device), ousac_backend_cpu());
    ousac_device_close(device);
    ousac_device_close(NULL);
}

static void files_that_are_no_plug_in_are_refused_by_name(void **unused) {
    (void)unused;
    assert_refused("cuda", OUSAC_STATUS_UNSUPPORTED,
                   (const char *[]){choose("missing.so"), "OUSAC_CUDA_PLUGIN", "cannot be loaded", NULL});
    assert_refused("cuda:0", OUSAC_STATUS_UNSUPPORTED,
                   (const char *[]){choose("lib/libousac_calib.a"), "cannot be loaded", NULL});
    assert_refused("cuda", OUSAC_STATUS_UNSUPPORTED,
                   (const char *[]){choose("tests/plugins/no_entry.so"), "ousac_backend_plugin", NULL});
}

static void plug_ins_of_other_builds_are_refused(void **unused) {
    char theirs[16], ours[16];
    (void)unused;
    (void)snprintf(theirs, sizeof theirs, "version %d", OUSAC_PLUGIN_ABI + 41);
    (void)snprintf(ours, sizeof ours, "program's %d", OUSAC_PLUGIN_ABI);
    assert_refused("cuda", OUSAC_STATUS_UNSUPPORTED,
                   (const char *[]){choose("tests/plugins/wrong_abi.so"), theirs, ours, NULL});
    assert_refused("cuda", OUSAC_STATUS_UNSUPPORTED,
                   (const char *[]){choose("tests/plugins/wrong_table.so"), "table of another size", NULL});
}

static void a_plug_in_serves_the_device_asked_for(void **unused) {
    static const char *const names[] = {"cuda", "cuda:0", "cuda:1", "auto"};
    (void)unused;
    choose("tests/plugins/strict.so");
    for (size_t i = 0; i < 4; i++) {
        ousac_device *device = NULL;
        ousac_error error = {0};
        assert_int_equal(ousac_device_open(&device, names[i], 0, &error), OUSAC_STATUS_OK);
        const ousac_backend *backend = ousac_device_backend(device);
        assert_string_equal(backend->name, "strict");
        assert_non_null(backend->expand_onto);
        ousac_device_close(device);
    }
    /* the plug-in's own words pass through */
    assert_refused("cuda:2", OUSAC_STATUS_UNSUPPORTED, (const char *[]){"strict: no device 2", NULL});
}

static void auto_falls_back_to_the_cpu(void **unused) {
    static const char *const files[] = {"missing.so", "tests/plugins/no_entry.so",
                                        "tests/plugins/wrong_abi.so"};
    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        ousac_device *device = NULL;
        choose(files[i]);
        assert_int_equal(ousac_device_open(&device, "auto", 0, NULL), OUSAC_STATUS_OK);
        assert_ptr_equal(ousac_device_backend(device), ousac_backend_cpu());
        ousac_device_close(device);
    }
}

static void the_default_place_is_named_where_nothing_is_there(void **unused) {
    (void)unused;
    assert_int_equal(unsetenv("OUSAC_CUDA_PLUGIN"), 0);
    assert_refused("cuda", OUSAC_STATUS_UNSUPPORTED, (const char *[]){"libousac_cuda.so", NULL});
    assert_int_equal(setenv("OUSAC_CUDA_PLUGIN", "", 1), 0); /* empty counts as not set */
    assert_refused("cuda", OUSAC_STATUS_UNSUPPORTED, (const char *[]){"libousac_cuda.so", NULL});
}

static void a_failed_allocation_is_reported(void **unused) {
    ousac_device *device = NULL;
    ousac_error error = {0};
    (void)unused;
    choose("tests/plugins/strict.so");
    (void)ousac_memory_fail_after(0);
    assert_int_equal(ousac_device_open(&device, "cuda", 0, &error), OUSAC_STATUS_MEMORY);
    (void)ousac_memory_fail_after(-1);
    assert_null(device);
}

/* The real plug-in, where it was built: without a driver or a device it says so; with one it opens. */
static void the_built_plug_in_opens_or_says_that_there_is_no_device(void **unused) {
    ousac_device *device = NULL;
    ousac_error error = {0};
    (void)unused;
    if (access(choose("libousac_cuda.so"), F_OK) != 0) {
        print_message("skipped: the CUDA plug-in was not built\n");
        skip();
    }
    const ousac_status status = ousac_device_open(&device, "cuda", 0, &error);
    if (status == OUSAC_STATUS_OK) {
        assert_string_equal(ousac_device_backend(device)->name, "cuda");
        ousac_device_close(device);
    } else {
        assert_int_equal(status, OUSAC_STATUS_UNSUPPORTED);
        assert_non_null(strstr(error.message, "no device"));
    }
    assert_refused("cuda:1000", OUSAC_STATUS_UNSUPPORTED, (const char *[]){"no device", NULL});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_are_none_are_refused),
        cmocka_unit_test(the_cpu_needs_no_plug_in),
        cmocka_unit_test(files_that_are_no_plug_in_are_refused_by_name),
        cmocka_unit_test(plug_ins_of_other_builds_are_refused),
        cmocka_unit_test(a_plug_in_serves_the_device_asked_for),
        cmocka_unit_test(auto_falls_back_to_the_cpu),
        cmocka_unit_test(the_default_place_is_named_where_nothing_is_there),
        cmocka_unit_test(a_failed_allocation_is_reported),
        cmocka_unit_test(the_built_plug_in_opens_or_says_that_there_is_no_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
