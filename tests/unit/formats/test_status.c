/* The error object always holds one printable line; the allocation hook checks sizes and fails on demand. */
#include "formats/memory.h"
#include "formats/status.h"
#include "formats/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void status_values_are_pinned(void **state) {
    static const struct {
        int value;
        const char *name;
    } expected[] = {{0, "ok"},           {-1, "usage"},    {-2, "io"},     {-3, "format"},
                    {-4, "mismatch"},    {-5, "memory"},   {-6, "number"}, {-7, "unsupported"},
                    {-8, "interrupted"}, {-9, "internal"}, {1, "unknown"}, {-10, "unknown"}};
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_string_equal(ousac_status_name((ousac_status)expected[i].value), expected[i].name);
    assert_int_equal(OUSAC_STATUS_OK, 0);
    assert_int_equal(OUSAC_STATUS_USAGE, -1);
    assert_int_equal(OUSAC_STATUS_IO, -2);
    assert_int_equal(OUSAC_STATUS_FORMAT, -3);
    assert_int_equal(OUSAC_STATUS_MISMATCH, -4);
    assert_int_equal(OUSAC_STATUS_MEMORY, -5);
    assert_int_equal(OUSAC_STATUS_NUMBER, -6);
    assert_int_equal(OUSAC_STATUS_UNSUPPORTED, -7);
    assert_int_equal(OUSAC_STATUS_INTERRUPTED, -8);
    assert_int_equal(OUSAC_STATUS_INTERNAL, -9);
}

static void error_records_where_and_what(void **state) {
    ousac_error error = {0};
    int line = __LINE__ + 1;
    assert_int_equal(OUSAC_FAIL(&error, OUSAC_STATUS_FORMAT, "%s: %d", "file", 7), OUSAC_STATUS_FORMAT);
    (void)state;
    assert_int_equal(error.status, OUSAC_STATUS_FORMAT);
    assert_int_equal(error.line, line);
    assert_non_null(strstr(error.file, "test_status.c"));
    assert_string_equal(error.message, "file: 7");
}

static void error_may_be_dropped(void **state) {
    (void)state;
    assert_int_equal(OUSAC_FAIL(NULL, OUSAC_STATUS_IO, "nobody reads this"), OUSAC_STATUS_IO);
    assert_int_equal(ousac_error_prefix(NULL, "nor this"), OUSAC_STATUS_OK);
}

static void hostile_text_stays_one_line(void **state) {
    ousac_error error = {0};
    (void)state;
    (void)OUSAC_FAIL(&error, OUSAC_STATUS_FORMAT, "%s", "a\nb\rc\033[31md\177e");
    assert_string_equal(error.message, "a?b?c?[31md?e");
    (void)ousac_error_prefix(&error, "p\nq");
    assert_string_equal(error.message, "p?q: a?b?c?[31md?e");
    /* CSI as one character of C1 and as a lone byte, a right-to-left override, a line separator; an umlaut stays */
    (void)OUSAC_FAIL(&error, OUSAC_STATUS_FORMAT, "%s",
                     "a\xc2\x9b"
                     "2Jb\x9b"
                     "2Jc\xe2\x80\xae"
                     "d\xe2\x80\xa8"
                     "e\xc3\xbc\xc3");
    assert_string_equal(error.message, "a?2Jb?2Jc?d?e\xc3\xbc?");
}

static void long_messages_are_cut(void **state) {
    ousac_error error = {0};
    char text[2 * OUSAC_ERROR_MESSAGE_BYTES];
    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)OUSAC_FAIL(&error, OUSAC_STATUS_IO, "%s", text);
    assert_int_equal(strlen(error.message), OUSAC_ERROR_MESSAGE_BYTES - 1);
}

/* However long a path is, what is wrong with it and both of its ends are there. */
static void long_names_never_hide_the_reason(void **state) {
    ousac_error error = {0};
    char path[4000];
    (void)state;
    for (size_t length = 3; length < sizeof path; length += 37) {
        memset(path, 'd', length);
        path[0] = '/';
        path[length - 1] = 'f';
        path[length] = '\0';
        (void)OUSAC_FAIL(&error, OUSAC_STATUS_MISMATCH, "%s is of model %s, and %s is another: the reason",
                         path, "0123456789ab", path);
        assert_true(strlen(error.message) < OUSAC_ERROR_MESSAGE_BYTES);
        assert_true(strncmp(error.message, "/d", 2) == 0);
        assert_non_null(strstr(error.message, "f is of model 0123456789ab, and /d"));
        assert_non_null(strstr(error.message, "f is another: the reason"));
        (void)ousac_error_prefix(&error, "%s", path);
        assert_non_null(strstr(error.message, "is another: the reason"));
    }
    /* cut between characters */
    for (size_t length = 400; length < 1200; length++) {
        char text[1300];
        size_t used = 0;
        while (used < length) {
            memcpy(text + used, "\xc3\xbc", 2);
            used += 2;
        }
        text[used] = '\0';
        (void)OUSAC_FAIL(&error, OUSAC_STATUS_IO, "%s: no", text);
        assert_true(ousac_utf8_valid(error.message, strlen(error.message)));
    }
}

static void repaired_text_is_utf8(void **state) {
    char target[64];
    (void)state;
    assert_int_equal(ousac_utf8_repair("a\xff\xc3\xbc\n\xe2\x82", 7, target, sizeof target), 13);
    assert_string_equal(target, "a\xef\xbf\xbd\xc3\xbc\n\xef\xbf\xbd\xef\xbf\xbd");
    assert_int_equal(ousac_utf8_repair("a\xff", 2, target, 4), 1); /* no room for all of it */
    assert_string_equal(target, "a");
    assert_int_equal(ousac_utf8_show("\xc3\xbc", 2, target, 2), 0);
    assert_string_equal(target, "");
}

static void prefix_names_the_file_and_keeps_the_message(void **state) {
    ousac_error error = {0};
    char text[2 * OUSAC_ERROR_MESSAGE_BYTES];
    (void)state;
    (void)OUSAC_FAIL(&error, OUSAC_STATUS_NUMBER, "not finite");
    assert_int_equal(ousac_error_prefix(&error, "tensor %s", "w"), OUSAC_STATUS_NUMBER);
    assert_string_equal(error.message, "tensor w: not finite");

    memset(text, 'x', sizeof text - 1); /* a very long name must not push the reason out */
    text[sizeof text - 1] = '\0';
    (void)OUSAC_FAIL(&error, OUSAC_STATUS_NUMBER, "not finite");
    (void)ousac_error_prefix(&error, "%s", text);
    assert_string_equal(error.message + strlen(error.message) - strlen(": not finite"), ": not finite");
}

static void blocks_are_aligned_and_zeroed(void **state) {
    (void)state;
    for (size_t bytes = 0; bytes < 300; bytes += 7) {
        unsigned char *zeroed = ousac_calloc(bytes, 1), *plain = ousac_malloc(1, bytes);
        assert_non_null(zeroed);
        assert_non_null(plain);
        assert_int_equal((uintptr_t)zeroed % 64, 0);
        assert_int_equal((uintptr_t)plain % 64, 0);
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(zeroed[i], 0);
        ousac_free(zeroed);
        ousac_free(plain);
    }
    ousac_free(NULL);
}

static void overflowing_sizes_give_null(void **state) {
    volatile size_t huge = SIZE_MAX; /* not a constant to the compiler's own check */
    (void)state;
    assert_null(ousac_malloc(huge, 2));
    assert_null(ousac_malloc(2, huge));
    assert_null(ousac_malloc(huge, 1)); /* rounding up to the alignment would overflow */
    assert_null(ousac_calloc(huge / 2 + 1, 2));
    assert_null(ousac_regrow(NULL, 0, huge / 4, 8));
}

static void regrow_keeps_the_old_and_zeroes_the_new(void **state) {
    uint32_t *block = NULL, *grown;
    (void)state;
    block = ousac_regrow(block, 0, 3, sizeof *block);
    assert_non_null(block);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(block[i], 0);
        block[i] = i + 1;
    }
    block = ousac_regrow(block, 3, 100, sizeof *block);
    assert_non_null(block);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(block[i], i < 3 ? i + 1 : 0);
    block = ousac_regrow(block, 100, 2, sizeof *block);
    assert_non_null(block);
    assert_int_equal(block[0], 1);
    assert_int_equal(block[1], 2);

    (void)ousac_memory_fail_after(0);
    grown = ousac_regrow(block, 2, 50, sizeof *block);
    (void)ousac_memory_fail_after(-1);
    assert_null(grown);
    assert_int_equal(block[0], 1); /* untouched, still ours */
    assert_int_equal(block[1], 2);
    ousac_free(block);
}

static void strdup_copies(void **state) {
    char text[] = "blocks.0";
    char *copy = ousac_strdup(text);
    (void)state;
    assert_non_null(copy);
    text[0] = 'X';
    assert_string_equal(copy, "blocks.0");
    ousac_free(copy);
}

static void hook_fails_exactly_after_n(void **state) {
    void *blocks[5];
    (void)state;
    for (long allowed = 0; allowed < 4; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        for (int i = 0; i < 5; i++) {
            blocks[i] = ousac_malloc(1, 8);
            if (i < allowed)
                assert_non_null(blocks[i]);
            else
                assert_null(blocks[i]);
        }
        assert_int_equal(ousac_memory_fail_after(-1), 5);
        for (int i = 0; i < 5; i++)
            ousac_free(blocks[i]);
    }
    blocks[0] = ousac_malloc(1, 8);
    assert_non_null(blocks[0]); /* switched off again */
    ousac_free(blocks[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_values_are_pinned),
        cmocka_unit_test(error_records_where_and_what),
        cmocka_unit_test(error_may_be_dropped),
        cmocka_unit_test(hostile_text_stays_one_line),
        cmocka_unit_test(long_messages_are_cut),
        cmocka_unit_test(long_names_never_hide_the_reason),
        cmocka_unit_test(repaired_text_is_utf8),
        cmocka_unit_test(prefix_names_the_file_and_keeps_the_message),
        cmocka_unit_test(blocks_are_aligned_and_zeroed),
        cmocka_unit_test(overflowing_sizes_give_null),
        cmocka_unit_test(regrow_keeps_the_old_and_zeroes_the_new),
        cmocka_unit_test(strdup_copies),
        cmocka_unit_test(hook_fails_exactly_after_n),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
