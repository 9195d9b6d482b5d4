/* A table in memory: one text of tab-separated values, as files hold it (plots/TABLES.md) and as the report
 * shows it. The first line names the columns; a missing number is "nan".
 */
#ifndef OUSAC_TABLE_H
#define OUSAC_TABLE_H

#include "formats/status.h"
#include "profile/files/text.h"

#include <stddef.h>

typedef struct table {
    const char *name; /* of the file, without ".tsv"; static storage */
    ousac_text text;
    size_t rows;       /* without the line of names */
    int cells_in_line; /* of the row being written */
    const char
        *nothing; /* static storage: why the table is empty or has nothing but zeros; NULL where it is not */
} table;

/* `columns`: names separated by blanks. */
void table_begin(table *t, const char *name, const char *columns);
/* One cell after another, then table_end_row. Memory that is short is remembered until table_check. */
void table_text(table *t, const char *value); /* tabs and control bytes become blanks */
void table_size(table *t, size_t value);
void table_real(table *t, double value); /* 9 significant digits; "nan" where not finite */
void table_end_row(table *t);
/* MEMORY where any of the above failed. */
ousac_status table_check(const table *t, ousac_error *error);
void table_free(table *t);

/* Three texts in one new block (ousac_free); NULL where memory is short. */
char *join_texts(const char *a, const char *b, const char *c);

/* Writes DIRECTORY/NAME.tsv; `directory` ends with a slash. */
ousac_status table_save(const table *t, const char *directory, ousac_error *error);

/* Walks over cells: *at begins as t->text.data; returns the cell's length and its start, and says whether it
 * ends its line; 0 in *start at the end. */
size_t table_next_cell(const char **at, const char **start, int *ends_line);

#endif
