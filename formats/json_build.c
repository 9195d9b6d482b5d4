#include "formats/json_build.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "formats/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void ousac_json_begin(ousac_json_doc *doc) {
    doc->root = cJSON_CreateObject();
    doc->failed = doc->root == NULL;
}

void ousac_json_end(ousac_json_doc *doc) {
    cJSON_Delete(doc->root);
    doc->root = NULL;
}

/* Hands `item` over to `object`; frees it where that fails. Returns it, or NULL. */
static cJSON *put(ousac_json_doc *doc, cJSON *object, const char *key, cJSON *item) {
    int added = 0;

    if (object != NULL && item != NULL) {
        added = cJSON_IsArray(object) ? cJSON_AddItemToArray(object, item)
                                      : cJSON_AddItemToObject(object, key, item);
    }
    if (!added) {
        cJSON_Delete(item);
        doc->failed = 1;
        return NULL;
    }
    return item;
}

void ousac_json_put_text(ousac_json_doc *doc, cJSON *object, const char *key, const char *value) {
    put(doc, object, key, cJSON_CreateString(value));
}

void ousac_json_put_real(ousac_json_doc *doc, cJSON *object, const char *key, double value) {
    put(doc, object, key, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

void ousac_json_put_u64(ousac_json_doc *doc, cJSON *object, const char *key, uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    put(doc, object, key, cJSON_CreateRaw(text)); /* a cJSON number is a double */
}

void ousac_json_put_bool(ousac_json_doc *doc, cJSON *object, const char *key, int value) {
    put(doc, object, key, cJSON_CreateBool(value != 0));
}

void ousac_json_put_null(ousac_json_doc *doc, cJSON *object, const char *key) {
    put(doc, object, key, cJSON_CreateNull());
}

cJSON *ousac_json_put_object(ousac_json_doc *doc, cJSON *object, const char *key) {
    return put(doc, object, key, cJSON_CreateObject());
}

cJSON *ousac_json_put_array(ousac_json_doc *doc, cJSON *object, const char *key) {
    return put(doc, object, key, cJSON_CreateArray());
}

void ousac_json_put_parsed(ousac_json_doc *doc, cJSON *object, const char *key, const char *text) {
    cJSON *item = cJSON_Parse(text);
    put(doc, object, key, item != NULL ? item : cJSON_CreateString(text));
}

/* A copy that is UTF-8, whatever paths and options were put into it, and in which characters that JSON may hold and
 * terminals obey are escaped; they stand in strings alone. */
static char *make_plain(const char *printed) {
    const size_t size = strlen(printed);
    size_t used = 0;
    char *text = size < SIZE_MAX / 6 ? ousac_malloc(3 * size + 1, 1) : NULL;
    char *plain = text ? ousac_malloc(6 * size + 1, 1) : NULL;
    const size_t length = text ? ousac_utf8_repair(printed, size, text, 3 * size + 1) : 0;

    for (size_t i = 0; plain && i < length;) {
        unsigned obeyed = 0;
        const size_t bytes = ousac_utf8_obeyed(text + i, length - i, &obeyed);
        if (bytes > 0 && obeyed >= 0x7f)
            used += (size_t)sprintf(plain + used, "\\u%04x", obeyed);
        else
            plain[used++] = text[i];
        i += bytes > 0 ? bytes : 1;
    }
    if (plain)
        plain[used] = '\0';
    ousac_free(text);
    return plain;
}

ousac_status ousac_json_text(const ousac_json_doc *doc, int indented, char **text, ousac_error *error) {
    char *printed = NULL, *copy = NULL;

    if (!doc->failed) {
        printed = indented ? cJSON_Print(doc->root) : cJSON_PrintUnformatted(doc->root);
        copy = printed != NULL ? make_plain(printed) : NULL;
        cJSON_free(printed);
    }
    if (copy == NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the JSON output");
    }
    *text = copy;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_json_save(const ousac_json_doc *doc, const char *path, ousac_error *error) {
    char *text = NULL;
    ousac_status status = ousac_json_text(doc, 1, &text, error);
    if (!status) {
        const size_t length = strlen(text);
        text[length] = '\n'; /* a text file ends with a line feed; the NUL is not written */
        status = ousac_file_replace(path, text, length + 1, error);
    }
    ousac_free(text);
    return status;
}
