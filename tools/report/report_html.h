/* The HTML of a report: a growing text, escaping, tables, and plots made fit for the page.
 */
#ifndef OUSAC_REPORT_HTML_H
#define OUSAC_REPORT_HTML_H

#include "tools/report/table.h"

#include <stddef.h>

/* Failure is sticky: append freely, ask once at the end. Zero-initialise; release data with ousac_free. */
typedef struct html {
    char *data;
    size_t size, capacity;
    int failed;
} html;

void html_raw(html *h, const char *text);
void html_format(html *h, const char *format, ...)
    __attribute__((format(printf, 2, 3))); /* not escaped; 1 KiB */
void html_text(html *h, const char *text); /* escaped */
void html_base64(html *h, const void *bytes, size_t size);

/* Head and style, up to the title; and the end. */
void html_begin(html *h, const char *title);
void html_end(html *h);

/* A row of a two-column table: a name, and a value that is escaped; digests may break anywhere. */
void html_pair(html *h, const char *name, const char *value);

/* The table as HTML, its first 400 rows where it has more, and all of it as a link that holds the data. */
void html_table(html *h, const table *t);

/* An SVG of gnuplot for a page: no XML head, ids prefixed by `name` so that plots do not meet, no background,
 * and black turned into the colour of the text. */
void html_svg(html *h, const char *name, const char *label, const char *svg);

#endif
