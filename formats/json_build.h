/* Building the JSON object that is printed or saved (cJSON underneath).
 *
 * A document remembers whether any allocation failed, so that callers check once, when they print. Every
 * function takes a NULL object and then does nothing.
 */
#ifndef OUSAC_JSON_BUILD_H
#define OUSAC_JSON_BUILD_H

#include "formats/status.h"

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ousac_json_doc {
    cJSON *root; /* an object */
    int failed;
} ousac_json_doc;

void ousac_json_begin(ousac_json_doc *doc);
void ousac_json_end(ousac_json_doc *doc);

/* `object` may also be an array; `key` is then ignored. */
void ousac_json_put_text(ousac_json_doc *doc, cJSON *object, const char *key, const char *value);
void ousac_json_put_real(ousac_json_doc *doc, cJSON *object, const char *key,
                         double value); /* null where not finite */
void ousac_json_put_u64(ousac_json_doc *doc, cJSON *object, const char *key,
                        uint64_t value); /* all 64 bits */
void ousac_json_put_bool(ousac_json_doc *doc, cJSON *object, const char *key, int value);
void ousac_json_put_null(ousac_json_doc *doc, cJSON *object, const char *key);
cJSON *ousac_json_put_object(ousac_json_doc *doc, cJSON *object, const char *key);
cJSON *ousac_json_put_array(ousac_json_doc *doc, cJSON *object, const char *key);
/* `text` is JSON; a text that is none is put as a string. */
void ousac_json_put_parsed(ousac_json_doc *doc, cJSON *object, const char *key, const char *text);

/* The document's text, always UTF-8 and free of controls that a terminal would obey, in one line or indented, to be
 * released with ousac_free. MEMORY where anything failed. */
ousac_status ousac_json_text(const ousac_json_doc *doc, int indented, char **text, ousac_error *error);
/* The indented text, with a final newline, as a file that replaces what was there. */
ousac_status ousac_json_save(const ousac_json_doc *doc, const char *path, ousac_error *error);

#endif
