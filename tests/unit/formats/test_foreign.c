/* Files of other programs are named, wherever one of ours was expected, and ours are never taken for them. */
#include "formats/exchange.h"
#include "formats/foreign.h"
#include "formats/safetensors.h"
#include "formats/schedule.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define BYTES(text) (text), sizeof(text) - 1
static const struct {
    ousac_known known;
    const char *bytes;
    size_t size;
    const char *message;
} files[] = {
    {OUSAC_KNOWN_LFS, BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
     "is a Git LFS pointer, expected "},
    {OUSAC_KNOWN_HTML, BYTES("\xef\xbb\xbf \n<!DOCTYPE html><html>404</html>"), "is an HTML page, expected "},
    {OUSAC_KNOWN_HTML, BYTES("<HTML><head>"), "is an HTML page, expected "},
    {OUSAC_KNOWN_XML, BYTES("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>"),
     "is an XML document, expected "},
    {OUSAC_KNOWN_GGUF, BYTES("GGUF\3\0\0\0\1\0\0\0\0\0\0\0"), "is a GGUF file, expected "},
    {OUSAC_KNOWN_ZIP, BYTES("PK\3\4\0\0\10\10\0\0\0\0archive/data.pkl"), "is a zip archive, expected "},
    {OUSAC_KNOWN_PICKLE, BYTES("\x80\2\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19."), "is a Python pickle, expected "},
    {OUSAC_KNOWN_PICKLE, BYTES("\x80\4\x95\x1a\0\0\0\0\0\0\0}"), "is a Python pickle, expected "},
    {OUSAC_KNOWN_NUMPY, BYTES("\x93NUMPY\1\0v\0{'descr': '<f4'"), "is a NumPy array, expected "},
    {OUSAC_KNOWN_HDF5, BYTES("\x89HDF\r\n\x1a\n\0\0\0\0\0"), "is an HDF5 file, expected "},
    {OUSAC_KNOWN_GZIP, BYTES("\x1f\x8b\10\0\0\0\0\0\0\3"), "is a gzip file, expected "},
    {OUSAC_KNOWN_INDEX,
     BYTES("{\n  \"metadata\": {\"total_size\": 1},\n  \"weight_map\": {\"w\": \"a.safetensors\"}}"),
     "is an index of shards, expected "},
};

static void foreign_files_are_named(void **state) {
    scratch dir;
    char path[SCRATCH_PATH_BYTES], out[SCRATCH_PATH_BYTES];
    (void)state;
    scratch_create(&dir);
    scratch_path(&dir, "f", path);
    scratch_path(&dir, "out", out);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ousac_safetensors *model = NULL;
        ousac_schedule schedule;
        ousac_exchange_counts counts;
        ousac_error error = {0};
        scratch_put(&dir, "f", files[i].bytes, files[i].size);
        assert_int_equal(ousac_known_detect(files[i].bytes, files[i].size), files[i].known);

        assert_int_equal(ousac_safetensors_open(&model, path, &error), OUSAC_STATUS_FORMAT);
        if (!strstr(error.message, files[i].message) || !strstr(error.message, "expected a safetensors file"))
            fail_msg("%zu: %s", i, error.message);
        assert_int_equal(ousac_schedule_load(&schedule, path, &error), OUSAC_STATUS_FORMAT);
        if (!strstr(error.message, files[i].message) || !strstr(error.message, "expected a schedule"))
            fail_msg("%zu: %s", i, error.message);
        assert_int_equal(ousac_export_safetensors(path, out, NULL, &counts, &error), OUSAC_STATUS_FORMAT);
        if (!strstr(error.message, files[i].message) || !strstr(error.message, "expected an .oca archive"))
            fail_msg("%zu: %s", i, error.message);
    }
    assert_int_equal(scratch_entries(&dir), 1);
    scratch_remove(&dir);
}

/* Headers of every length, so that the first bytes take every value, those of the magics among them. */
static void our_files_are_ours(void **state) {
    static const char magic[] = "\x89OCA\r\n\x1a\n", json[] = " \n{\"format\": \"ousac-schedule\"}";
    (void)state;
    for (uint32_t length = 2; length < 1u << 22; length++) {
        const unsigned char head[10] = {(unsigned char)length,
                                        (unsigned char)(length >> 8),
                                        (unsigned char)(length >> 16),
                                        0,
                                        0,
                                        0,
                                        0,
                                        0,
                                        '{',
                                        '}'};
        assert_true(ousac_known_detect(head, sizeof head) == OUSAC_KNOWN_SAFETENSORS);
    }
    assert_int_equal(ousac_known_detect(magic, sizeof magic - 1), OUSAC_KNOWN_ARCHIVE);
    assert_int_equal(ousac_known_detect(json, sizeof json - 1), OUSAC_KNOWN_JSON);
    assert_int_equal(ousac_known_detect("", 0), OUSAC_KNOWN_NONE);
    assert_int_equal(ousac_known_detect("\x80", 1), OUSAC_KNOWN_NONE);
    for (int known = OUSAC_KNOWN_NONE; known <= OUSAC_KNOWN_ELF; known++)
        assert_true(strlen(ousac_known_name((ousac_known)known)) > 3);
}

/* What is malformed in a file of the right kind is still said. */
static void the_reason_stays_where_the_kind_is_right(void **state) {
    ousac_error error = {0};
    (void)state;
    (void)OUSAC_FAIL(&error, OUSAC_STATUS_FORMAT, "f: the reason");
    assert_int_equal(
        ousac_known_explain(OUSAC_STATUS_FORMAT, "f", "{}", 2, OUSAC_KNOWN_JSON, "a schedule", &error),
        OUSAC_STATUS_FORMAT);
    assert_string_equal(error.message, "f: the reason");
    assert_int_equal(
        ousac_known_explain(OUSAC_STATUS_IO, "f", "GGUF", 4, OUSAC_KNOWN_JSON, "a schedule", &error),
        OUSAC_STATUS_IO);
    assert_string_equal(error.message, "f: the reason");
    assert_int_equal(
        ousac_known_explain_file(OUSAC_STATUS_FORMAT, "/dev/zero", OUSAC_KNOWN_JSON, "a schedule", &error),
        OUSAC_STATUS_FORMAT);
    assert_string_equal(error.message, "f: the reason");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(foreign_files_are_named),
        cmocka_unit_test(our_files_are_ours),
        cmocka_unit_test(the_reason_stays_where_the_kind_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
