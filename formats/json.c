#include "formats/json.h"

#include "formats/memory.h"
#include "formats/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct scanner {
    const char *text;
    size_t size;
    size_t at;
    size_t depth;
    size_t end;    /* just behind the bracket that closes the outermost array or object; 0 before it */
    size_t values; /* an upper bound of the nodes that cJSON will build */
    ousac_json_numbers numbers;
} scanner;

static int is_digit(int c) {
    return c >= '0' && c <= '9';
}

static int is_hex(int c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The byte `ahead` of the position; -1 past the end. */
static int peek(const scanner *scan, size_t ahead) {
    return ahead < scan->size - scan->at ? (unsigned char)scan->text[scan->at + ahead] : -1;
}

static const char *scan_string(scanner *scan) {
    scan->at++; /* the opening quote */
    for (;;) {
        int c = peek(scan, 0);
        if (c < 0)
            return "a string without end";
        if (c < 0x20)
            return "a control byte in a string";
        scan->at++;
        if (c == '"')
            return NULL;
        if (c != '\\')
            continue;
        c = peek(scan, 0);
        if (c < 0 || !c || !strchr("\"\\/bfnrtu", c))
            return "an unknown escape in a string";
        scan->at++;
        if (c != 'u')
            continue;
        for (size_t i = 0; i < 4; i++)
            if (!is_hex(peek(scan, i)))
                return "a malformed \\u escape";
        if (memcmp(scan->text + scan->at, "0000", 4) == 0)
            return "\\u0000 in a string";
        scan->at += 4;
    }
}

static const char *scan_digits(scanner *scan) {
    if (!is_digit(peek(scan, 0)))
        return "a malformed number";
    while (is_digit(peek(scan, 0)))
        scan->at++;
    return NULL;
}

static const char *scan_number(scanner *scan) {
    const char *wrong = NULL;
    if (peek(scan, 0) == '-')
        scan->at++;
    if (peek(scan, 0) == '0' && is_digit(peek(scan, 1)))
        return "a number with a leading zero";
    wrong = scan_digits(scan);
    if (!wrong && scan->numbers == OUSAC_JSON_NUMBERS_INTEGERS &&
        (peek(scan, 0) == '.' || peek(scan, 0) == 'e' || peek(scan, 0) == 'E'))
        return "a number that is not written as an integer";
    if (!wrong && peek(scan, 0) == '.') {
        scan->at++;
        wrong = scan_digits(scan);
    }
    if (!wrong && (peek(scan, 0) == 'e' || peek(scan, 0) == 'E')) {
        scan->at++;
        if (peek(scan, 0) == '+' || peek(scan, 0) == '-')
            scan->at++;
        wrong = scan_digits(scan);
    }
    return wrong;
}

/* Walks the tokens; their order is cJSON's to check. Returns what is wrong at scan->at, or NULL. */
static const char *scan_text(scanner *scan) {
    scan->values = 1;
    while (scan->at < scan->size) {
        const char *wrong = NULL;
        int c = peek(scan, 0);
        if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
            scan->at++;
            continue;
        }
        if (scan->end)
            return "something after the end";
        if (c == '"') {
            wrong = scan_string(scan);
        } else if (c == '-' || is_digit(c)) {
            wrong = scan_number(scan);
        } else if (c == '{' || c == '[') {
            if (++scan->depth > OUSAC_JSON_DEPTH_MAX)
                return "nesting too deep";
            scan->values++;
            scan->at++;
        } else if (c == '}' || c == ']') {
            if (scan->depth == 0)
                return "a closing bracket without an opening one";
            scan->at++;
            if (--scan->depth == 0)
                scan->end = scan->at;
        } else if (c == ',') {
            scan->values++;
            scan->at++;
        } else if (c == ':' || (c >= 'a' && c <= 'z')) { /* true, false, null: spelt out by cJSON */
            scan->at++;
        } else {
            return "an unexpected byte";
        }
        if (wrong)
            return wrong;
    }
    return scan->end ? NULL : "the text ends too early";
}

/* ---- after the parse ---- */

/* The next number of a text that was scanned: 1 where it is written as an integer without a sign. */
static int next_number_is_integer(scanner *scan) {
    for (;;) {
        const int c = peek(scan, 0);
        if (c == '"') {
            (void)scan_string(scan);
        } else if (c == '-' || is_digit(c)) {
            const size_t from = scan->at;
            (void)scan_number(scan);
            for (size_t i = from; i < scan->at; i++)
                if (scan->text[i] == '-' || scan->text[i] == '.' || scan->text[i] == 'e' ||
                    scan->text[i] == 'E')
                    return 0;
            return 1;
        } else {
            scan->at++;
        }
    }
}

/* Numbers in the order of the text, which is that of the tree. Returns 0 for one beyond a double's range. */
static int mark_numbers(cJSON *item, scanner *scan) {
    for (; item; item = item->next) {
        if (cJSON_IsNumber(item)) {
            if (!isfinite(item->valuedouble))
                return 0;
            if (!next_number_is_integer(scan))
                item->valuedouble = NAN;
        } else if (!mark_numbers(item->child, scan)) {
            return 0;
        }
    }
    return 1;
}

ousac_status ousac_json_parse(cJSON **root, const char *text, size_t size, size_t values_max,
                              ousac_json_numbers numbers, const char *name, ousac_error *error) {
    scanner scan = {.text = text, .size = size, .numbers = numbers};
    const char *wrong, *end = NULL;

    *root = NULL;
    if (!ousac_utf8_valid(text, size))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not UTF-8 text", name);
    wrong = scan_text(&scan);
    if (wrong)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not valid JSON: %s at byte %zu", name, wrong,
                          scan.at);
    if (scan.values > values_max)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "%s: more than %zu JSON values", name, values_max);
    *root = cJSON_ParseWithLengthOpts(text, size, &end, 0);
    if (!*root || end != text + scan.end) {
        cJSON_Delete(*root);
        *root = NULL;
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not valid JSON near byte %zu", name,
                          end ? (size_t)(end - text) : 0);
    }
    scanner again = {.text = text, .size = size};
    if (numbers == OUSAC_JSON_NUMBERS_MARKED && !mark_numbers(*root, &again)) {
        cJSON_Delete(*root);
        *root = NULL;
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: a number beyond the range of a double", name);
    }
    return OUSAC_STATUS_OK;
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ousac_status check_keys(const cJSON *object, const char *name, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const cJSON *item = NULL;
    size_t count = 0;
    const char **keys = ousac_malloc((size_t)cJSON_GetArraySize(object), sizeof *keys);
    if (!keys)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for its keys", name);
    cJSON_ArrayForEach(item, object) keys[count++] = item->string;
    qsort(keys, count, sizeof *keys, compare_keys);
    for (size_t i = 1; i < count && !status; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            status =
                OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: key \"%.64s\" is there twice", name, keys[i]);
    ousac_free(keys);
    return status;
}

/* The depth of nesting is bounded by the scan. */
ousac_status ousac_json_check_unique(const cJSON *root, const char *name, ousac_error *error) {
    const cJSON *item = NULL;
    ousac_status status = cJSON_IsObject(root) ? check_keys(root, name, error) : OUSAC_STATUS_OK;
    cJSON_ArrayForEach(item, root) {
        if (!status && (cJSON_IsObject(item) || cJSON_IsArray(item)))
            status = ousac_json_check_unique(item, name, error);
    }
    return status;
}

int ousac_json_whole(const cJSON *item, unsigned long long *value) {
    double number;
    if (!cJSON_IsNumber(item))
        return 0;
    number = item->valuedouble;
    if (!(number >= 0 && number <= 0x1p53 - 1) || number != floor(number))
        return 0;
    *value = (unsigned long long)number;
    return 1;
}
