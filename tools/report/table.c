#include "tools/report/table.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "formats/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void separate(table *t) {
    if (t->cells_in_line++ > 0)
        ousac_text_add(&t->text, "\t");
}

void table_begin(table *t, const char *name, const char *columns) {
    memset(t, 0, sizeof *t);
    t->name = name;
    for (const char *at = columns; *at != '\0'; at += strspn(at, " ")) {
        const size_t length = strcspn(at, " ");
        separate(t);
        ousac_text_add(&t->text, "%.*s", (int)length, at);
        at += length;
    }
    ousac_text_add(&t->text, "\n");
    t->cells_in_line = 0;
}

void table_text(table *t, const char *value) {
    const size_t size = strlen(value);
    char *shown = ousac_malloc(size + 1, 1);
    separate(t);
    if (shown)
        (void)ousac_utf8_show(value, size, shown, size + 1);
    ousac_text_add(&t->text, "%s", shown ? shown : "?");
    ousac_free(shown);
}

void table_size(table *t, size_t value) {
    separate(t);
    ousac_text_add(&t->text, "%zu", value);
}

void table_real(table *t, double value) {
    separate(t);
    if (isfinite(value))
        ousac_text_add(&t->text, "%.9g", value);
    else
        ousac_text_add(&t->text, "nan");
}

void table_end_row(table *t) {
    ousac_text_add(&t->text, "\n");
    t->cells_in_line = 0;
    t->rows++;
}

ousac_status table_check(const table *t, ousac_error *error) {
    return t->text.failed ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the table %s", t->name)
                          : OUSAC_STATUS_OK;
}

void table_free(table *t) {
    ousac_free(t->text.data);
    memset(t, 0, sizeof *t);
}

char *join_texts(const char *a, const char *b, const char *c) {
    const size_t size = strlen(a) + strlen(b) + strlen(c) + 1;
    char *text = ousac_malloc(size, 1);
    if (text != NULL)
        (void)snprintf(text, size, "%s%s%s", a, b, c);
    return text;
}

ousac_status table_save(const table *t, const char *directory, ousac_error *error) {
    ousac_status status = table_check(t, error);
    if (status)
        return status;
    char *path = join_texts(directory, t->name, ".tsv");
    status = path == NULL ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of a table")
                          : ousac_file_replace(path, t->text.data, t->text.size, error);
    ousac_free(path);
    return status;
}

size_t table_next_cell(const char **at, const char **start, int *ends_line) {
    *start = **at == '\0' ? NULL : *at;
    *ends_line = 0;
    if (*start == NULL)
        return 0;
    const size_t length = strcspn(*at, "\t\n");
    *at += length;
    *ends_line = **at != '\t';
    if (**at != '\0')
        ++*at;
    return length;
}
