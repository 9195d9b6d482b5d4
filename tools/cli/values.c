#include "tools/cli/values.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_unsigned(const char *text) {
    return *text != '\0' && text[strspn(text, "0123456789")] == '\0';
}

static int parse_u64(const char *text, uint64_t *value) {
    char *end = NULL;
    if (!is_unsigned(text))
        return -1;
    errno = 0;
    const unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return -1;
    *value = number;
    return 0;
}

static int parse_real(const char *text, double *value) {
    char *end = NULL;
    if (*text == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0')
        return -1; /* neither blanks nor "inf", "nan" and hexadecimal, which strtod takes */
    const double number = strtod(text, &end);
    if (*end != '\0' || !isfinite(number))
        return -1;
    *value = number;
    return 0;
}

static int parse_range(const char *text, ousac_sample_range *range) {
    const char *colon = strchr(text, ':');
    char first_text[24];
    uint64_t first = 0, end = 0;
    if (colon) {
        const size_t length = (size_t)(colon - text);
        if (length >= sizeof first_text)
            return -1;
        memcpy(first_text, text, length);
        first_text[length] = '\0';
        if (parse_u64(first_text, &first) != 0)
            return -1;
        text = colon + 1;
    }
    if (parse_u64(text, &end) != 0 || end <= first)
        return -1;
    *range = (ousac_sample_range){first, end - first};
    return 0;
}

static int unbounded(const cli_option *option) {
    return option->low == 0 && option->high == 0;
}

static int within(const cli_option *option, double value) {
    return unbounded(option) || (value >= option->low && value <= option->high);
}

static ousac_status bad_number(const cli_option *option, const char *kind, const char *text,
                               ousac_error *error) {
    if (unbounded(option))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s, not '%s'", option->name, kind, text);
    if (isinf(option->high))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s of at least %.10g, not '%s'",
                          option->name, kind, option->low, text);
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s from %.10g to %.10g, not '%s'",
                      option->name, kind, option->low, option->high, text);
}

/* --- choices --- */

const char *cli_choice_word(const char *words, size_t index, size_t *length) {
    for (; index > 0; index--)
        words += strcspn(words, "|") + 1;
    *length = strcspn(words, "|");
    return words;
}

/* The place of a word, -1 for none. */
static int find_word(const char *words, const char *text, size_t size) {
    int place = 0;
    for (const char *at = words;; at++, place++) {
        const size_t length = strcspn(at, "|");
        if (length == size && memcmp(at, text, size) == 0)
            return place;
        at += length;
        if (*at == '\0')
            return -1;
    }
}

/* "a, b or c" of "a|b|c". */
static void spell(char *out, size_t size, const char *words, const char *last) {
    size_t used = 0;
    for (const char *at = words; used < size;) {
        const size_t length = strcspn(at, "|");
        const char *rest = at + length;
        const int final = *rest == '\0', next_final = !final && strchr(rest + 1, '|') == NULL;
        used += (size_t)snprintf(out + used, size - used, "%.*s%s", (int)length, at,
                                 final        ? ""
                                 : next_final ? last
                                              : ", ");
        if (final)
            return;
        at = rest + 1;
    }
}

static ousac_status set_choice(const cli_option *option, void *value, const char *text, ousac_error *error) {
    char words[256];
    const int place = find_word(option->meta, text, strlen(text));
    if (place >= 0) {
        *(int *)value = place;
        return OUSAC_STATUS_OK;
    }
    spell(words, sizeof words, option->meta, " or ");
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s, not '%s'", option->name, words, text);
}

static ousac_status set_choices(const cli_option *option, void *value, const char *text, ousac_error *error) {
    unsigned bits = 0;
    char words[256];
    if (strcmp(text, "auto") == 0)
        text = option->preset;
    for (const char *at = text;; at++) {
        const size_t length = strcspn(at, ",");
        const int place = find_word(option->meta, at, length);
        if (place < 0) {
            spell(words, sizeof words, option->meta, " and ");
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--%s expects auto, or some of %s, separated by commas, not '%s'", option->name,
                              words, text);
        }
        bits |= 1U << place;
        at += length;
        if (*at == '\0')
            break;
    }
    *(unsigned *)value = bits;
    return OUSAC_STATUS_OK;
}

/* --- values --- */

ousac_status cli_set_value(const cli_option *option, void *base, const char *text, ousac_error *error) {
    void *value = (char *)base + option->at;
    uint64_t whole = 0;
    double real = 0;
    switch (option->kind) {
    case CLI_FLAG:
        *(int *)value = 1;
        return OUSAC_STATUS_OK;
    case CLI_TEXT:
    case CLI_INPUT:
    case CLI_OUTPUT:
    case CLI_INTO:
        if (*text == '\0')
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s, not an empty text", option->name,
                              option->meta);
        *(const char **)value = text;
        return OUSAC_STATUS_OK;
    case CLI_CHOICE:
        return set_choice(option, value, text, error);
    case CLI_CHOICES:
        return set_choices(option, value, text, error);
    case CLI_SIZE_OR_AUTO:
        if (strcmp(text, "auto") == 0) {
            *(size_t *)value = 0;
            return OUSAC_STATUS_OK;
        }
        /* fall through */
    case CLI_SIZE:
    case CLI_U64:
        if (parse_u64(text, &whole) != 0 || !within(option, (double)whole) ||
            (option->kind != CLI_U64 && whole > SIZE_MAX))
            return bad_number(option, "a whole number", text, error);
        if (option->kind == CLI_U64)
            *(uint64_t *)value = whole;
        else
            *(size_t *)value = (size_t)whole;
        return OUSAC_STATUS_OK;
    case CLI_REAL:
        if (parse_real(text, &real) != 0 || !within(option, real))
            return bad_number(option, "a number", text, error);
        *(double *)value = real;
        return OUSAC_STATUS_OK;
    case CLI_RANGE_OR_AUTO:
        if (strcmp(text, "auto") == 0) {
            *(ousac_sample_range *)value = (ousac_sample_range){0, 0};
            return OUSAC_STATUS_OK;
        }
        /* fall through */
    case CLI_RANGE:
        if (parse_range(text, value) != 0)
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--%s expects FIRST:END with END above FIRST, or a COUNT of at least 1%s, not '%s'",
                option->name, option->kind == CLI_RANGE_OR_AUTO ? ", or auto" : "", text);
        return OUSAC_STATUS_OK;
    case CLI_END:
        break;
    }
    return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "--%s has no known kind", option->name);
}
