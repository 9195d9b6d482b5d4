#include "tools/cli/print.h"
#include "tools/show/inspect.h"

#include "formats/file.h"
#include "formats/json.h"
#include "formats/memory.h"

#include <string.h>

enum { SHOWN_DEPTH = 2, SHOWN_BYTES = 96, NAME_COLUMNS = 24 };

/* Objects below the depth, and arrays, in one line, cut. */
static void print_members(const cJSON *object, int indent, int depth) {
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        const char *name = item->string ? item->string : "-";
        if (depth > 0 && cJSON_IsObject(item)) {
            cli_printf("%*s%s\n", indent, "", name);
            print_members(item, indent + 2, depth - 1);
        } else if (cJSON_IsString(item)) {
            cli_printf("%*s%-*s %s\n", indent, "", NAME_COLUMNS - indent, name, item->valuestring);
        } else {
            char *text = cJSON_PrintUnformatted(item);
            cli_printf("%*s%-*s %.*s%s\n", indent, "", NAME_COLUMNS - indent, name, SHOWN_BYTES,
                       text ? text : "?", text && strlen(text) > SHOWN_BYTES ? "..." : "");
            cJSON_free(text);
        }
    }
}

ousac_status inspect_json(inspection *in, ousac_error *error) {
    char *text = NULL;
    size_t size = 0;
    cJSON *root = NULL;
    ousac_status status = ousac_file_read_text(&text, &size, in->path, FILE_JSON_BYTES_MAX, error);
    if (!status)
        status = ousac_json_parse(&root, text, size, FILE_JSON_VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, in->path,
                                  error);
    if (!status && in->common->json)
        ousac_json_put_parsed(&in->doc, in->doc.root, "content", text);
    else if (!status)
        print_members(root, 0, SHOWN_DEPTH);
    cJSON_Delete(root);
    ousac_free(text);
    return status;
}
