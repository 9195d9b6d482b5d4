/* Building the JSON object that a command prints under --json (cJSON underneath).
 *
 * A document remembers whether any allocation failed, so that callers check once, when they print. Every
 * function takes a NULL object and then does nothing.
 */
#ifndef OUSAC_JSON_TEXT_H
#define OUSAC_JSON_TEXT_H

#include "formats/status.h"

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

typedef struct json_doc {
    cJSON *root; /* an object */
    int failed;
} json_doc;

void json_begin(json_doc *doc);
void json_end(json_doc *doc);

/* `object` may also be an array; `key` is then ignored. */
void json_put_text(json_doc *doc, cJSON *object, const char *key, const char *value);
void json_put_real(json_doc *doc, cJSON *object, const char *key, double value);  /* null where not finite */
void json_put_u64(json_doc *doc, cJSON *object, const char *key, uint64_t value); /* all 64 bits */
void json_put_bool(json_doc *doc, cJSON *object, const char *key, int value);
void json_put_null(json_doc *doc, cJSON *object, const char *key);
cJSON *json_put_object(json_doc *doc, cJSON *object, const char *key);
cJSON *json_put_array(json_doc *doc, cJSON *object, const char *key);
/* `text` is JSON; a text that is none is put as a string. */
void json_put_parsed(json_doc *doc, cJSON *object, const char *key, const char *text);

/* The document's text, always UTF-8 and free of controls that a terminal would obey, in one line or indented, to be released with ousac_free. MEMORY where anything failed.
 */
ousac_status json_text(const json_doc *doc, int indented, char **text, ousac_error *error);
/* The indented text, with a final newline, as a file that replaces what was there. */
ousac_status json_save(const json_doc *doc, const char *path, ousac_error *error);
/* Prints the document, indented and with a final newline, to standard output; errors of the stream are found
 * when the program ends. */
ousac_status json_print(const json_doc *doc, ousac_error *error);

#endif
