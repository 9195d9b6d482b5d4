/* Strict JSON (RFC 8259) over cJSON, for text that is not trusted.
 *
 * cJSON alone takes some texts that are not JSON (01, control bytes as blanks), ends a string at \u0000 and
 * builds a tree of any size. A scan before it refuses: bytes that are not UTF-8, control bytes, malformed
 * numbers and escapes, \u0000, nesting deeper than OUSAC_JSON_DEPTH_MAX, unbalanced brackets, anything after
 * the value, and more values than the caller allows. Numbers become double, and may then be infinite; duplicate
 * names are the caller's to find, or ousac_json_check_unique's. For the layers above too.
 */
#ifndef OUSAC_JSON_H
#define OUSAC_JSON_H

#include "formats/status.h"

#include <cjson/cJSON.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_JSON_DEPTH_MAX = 64 };

typedef enum ousac_json_numbers {
    OUSAC_JSON_NUMBERS_ANY = 0,
    OUSAC_JSON_NUMBERS_INTEGERS = 1, /* no fraction and no exponent anywhere */
    OUSAC_JSON_NUMBERS_MARKED =
        2 /* for unsigned integers among values that are not read: a number written with a
                                     sign, a fraction or an exponent becomes NAN, which is no whole number; one
                                     beyond a double is refused */
} ousac_json_numbers;

/* Parses one object or array of `size` bytes (need not be NUL-terminated). Errors: FORMAT with the byte
 * offset; UNSUPPORTED for more than `values_max` values. Messages begin with `name`. Free with cJSON_Delete.
 */
ousac_status ousac_json_parse(cJSON **root, const char *text, size_t size, size_t values_max,
                              ousac_json_numbers numbers, const char *name, ousac_error *error);

/* FORMAT, naming the key, where an object anywhere in the tree holds one twice. */
ousac_status ousac_json_check_unique(const cJSON *root, const char *name, ousac_error *error);

/* 1, and the value, where the item is a whole number in [0, 2^53 - 1], that is, exact in a double. */
int ousac_json_whole(const cJSON *item, unsigned long long *value);

#ifdef __cplusplus
}
#endif
#endif
