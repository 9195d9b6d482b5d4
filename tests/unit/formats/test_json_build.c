/* What goes into a document comes out as JSON, as UTF-8, and with nothing that a terminal would obey. */
#include "formats/json.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "formats/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static char *print_one(const char *key, const char *value) {
    ousac_json_doc doc;
    char *text = NULL;
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, key, value);
    assert_int_equal(ousac_json_text(&doc, 0, &text, NULL), OUSAC_STATUS_OK);
    ousac_json_end(&doc);
    return text;
}

static void text_that_is_not_utf8_is_repaired(void **state) {
    char *text = print_one("k\xff", "/a/\xe9t\xc3\xa9/\xe2\x82");
    (void)state;
    assert_string_equal(text, "{\"k\xef\xbf\xbd\":\"/a/\xef\xbf\xbdt\xc3\xa9/\xef\xbf\xbd\xef\xbf\xbd\"}");
    ousac_free(text);
}

static void controls_are_escaped(void **state) {
    char *text = print_one("k", "a\033[31m\x7f\xc2\x9b"
                                "2J\xc2\xa0\n\xe2\x80\xae");
    (void)state;
    assert_string_equal(text, "{\"k\":\"a\\u001b[31m\\u007f\\u009b2J\xc2\xa0\\n\\u202e\"}");
    ousac_free(text);
}

/* Any bytes as a text, read back by the strict parser. */
static void every_text_prints_as_json(void **state) {
    uint64_t bits = 1;
    (void)state;
    for (int round = 0; round < 2000; round++) {
        char value[40], *text;
        cJSON *root = NULL;
        const size_t size = (size_t)round % sizeof value;
        for (size_t i = 0; i < size; i++) {
            bits = bits * 6364136223846793005u + 1442695040888963407u;
            value[i] = (char)(bits >> 56);
            if (value[i] == '\0')
                value[i] = 'x';
        }
        value[size] = '\0';
        text = print_one("k", value);
        assert_true(ousac_utf8_valid(text, strlen(text)));
        assert_true(ousac_utf8_printable(text, strlen(text)));
        assert_int_equal(ousac_json_parse(&root, text, strlen(text), 10, OUSAC_JSON_NUMBERS_ANY, "t", NULL),
                         OUSAC_STATUS_OK);
        if (ousac_utf8_valid(value, size))
            assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(root, "k")), value);
        cJSON_Delete(root);
        ousac_free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_that_is_not_utf8_is_repaired),
        cmocka_unit_test(controls_are_escaped),
        cmocka_unit_test(every_text_prints_as_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
