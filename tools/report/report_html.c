#include "tools/report/report_html.h"

#include "formats/memory.h"
#include "formats/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 1024, ROWS_SHOWN = 400, CAPACITY_FIRST = 1 << 16 };

static void html_bytes(html *h, const char *bytes, size_t size) {
    if (h->failed)
        return;
    if (size >= h->capacity - h->size) { /* a byte is kept for the NUL */
        size_t capacity = h->capacity > 0 ? h->capacity : (size_t)CAPACITY_FIRST;
        while (capacity - h->size <= size)
            capacity *= 2;
        char *grown = ousac_regrow(h->data, h->capacity, capacity, 1);
        if (grown == NULL) {
            h->failed = 1;
            return;
        }
        h->data = grown;
        h->capacity = capacity;
    }
    memcpy(h->data + h->size, bytes, size);
    h->size += size;
    h->data[h->size] = '\0';
}

void html_raw(html *h, const char *text) {
    html_bytes(h, text, strlen(text));
}

void html_format(html *h, const char *format, ...) {
    char piece[PIECE_BYTES];
    va_list args;
    va_start(args, format);
    const int size = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (size < 0 || size >= PIECE_BYTES)
        h->failed = 1;
    else
        html_bytes(h, piece, (size_t)size);
}

static void add_escaped(html *h, const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        switch (text[i]) {
        case '&':
            html_raw(h, "&amp;");
            break;
        case '<':
            html_raw(h, "&lt;");
            break;
        case '>':
            html_raw(h, "&gt;");
            break;
        case '"':
            html_raw(h, "&quot;");
            break;
        default:
            html_bytes(h, text + i, 1);
        }
}

void html_text(html *h, const char *text) {
    const size_t size = strlen(text);
    char *shown = ousac_malloc(size + 1, 1);
    if (shown)
        add_escaped(h, shown, ousac_utf8_show(text, size, shown, size + 1));
    else
        add_escaped(h, "?", 1);
    ousac_free(shown);
}

void html_base64(html *h, const void *bytes, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *data = bytes;
    for (size_t i = 0; i < size; i += 3) {
        const size_t left = size - i;
        const unsigned word = (unsigned)data[i] << 16 | (left > 1 ? (unsigned)data[i + 1] << 8 : 0) |
                              (left > 2 ? (unsigned)data[i + 2] : 0);
        const char out[4] = {digits[word >> 18], digits[word >> 12 & 63],
                             left > 1 ? digits[word >> 6 & 63] : '=', left > 2 ? digits[word & 63] : '='};
        html_bytes(h, out, sizeof out);
    }
}

/* ---- the page ---- */

static const char STYLE[] =
    ":root{color-scheme:light dark;--ink:#1c2024;--soft:#5b6570;--line:#d9dee3;--paper:#fff;--card:#f6f8fa;"
    "--link:#0060a8;--warn:#9a4b00;--warnbg:#fff4e5}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa5b1;--line:#333b44;--paper:#14181d;"
    "--card:#1b2027;--link:#7cc0f5;--warn:#ffc27a;--warnbg:#33260f}}"
    "*{box-sizing:border-box}"
    "body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe "
    "UI',"
    "Roboto,'Helvetica Neue',Arial,sans-serif;-webkit-text-size-adjust:100%}"
    "main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}"
    "h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0 .6rem}"
    "h2{font-size:1.25rem;margin:2.4rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line)}"
    "p{margin:.6rem 0}a{color:var(--link)}.soft{color:var(--soft)}.lead{font-size:1.1rem}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.2rem 0}"
    ".tile{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.7rem .9rem}"
    ".tile b{display:block;font-size:1.5rem;line-height:1.25;font-variant-numeric:tabular-nums}"
    ".tile span{color:var(--soft);font-size:.85rem;line-height:1.35;display:block}"
    ".warn{background:var(--warnbg);color:var(--warn);border-radius:.6rem;padding:.6rem .9rem}"
    "figure{margin:1rem 0;border:1px solid "
    "var(--line);border-radius:.6rem;padding:.8rem;background:var(--card)}"
    "figcaption{color:var(--soft);font-size:.9rem;margin-top:.5rem}"
    ".plot{overflow-x:auto}"
    ".plot svg{display:block;width:100%;height:auto;min-width:33rem;max-width:60rem;margin:0 "
    "auto;color:var(--ink)}"
    ".plot img{display:block;max-width:100%;height:auto;margin:0 auto;image-rendering:pixelated}"
    ".plot svg polygon{shape-rendering:crispEdges}.plot svg image{image-rendering:pixelated}"
    ".none{border:1px dashed var(--line);border-radius:.4rem;padding:2rem "
    "1rem;text-align:center;color:var(--soft)}"
    "details{margin-top:.6rem;font-size:.85rem}summary{cursor:pointer;color:var(--link)}"
    ".scroll{overflow:auto;max-height:26rem;border:1px solid "
    "var(--line);border-radius:.4rem;margin-top:.4rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}"
    "th,td{padding:.25rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}"
    "td.n,th.n{text-align:right}td.n{white-space:nowrap}td.ci{white-space:normal}"
    "td.ci span{white-space:nowrap;display:inline-block}"
    "thead th{background:var(--card);font-weight:600}.scroll thead th{position:sticky;top:0}"
    ".pairs th{font-weight:500;color:var(--soft);width:13rem}"
    ".pairs td{overflow-wrap:anywhere;font-family:ui-monospace,'DejaVu Sans "
    "Mono',Menlo,monospace;font-size:.85rem}"
    ".wide{overflow-x:auto}"
    "nav{font-size:.9rem;line-height:1.9;display:flex;flex-wrap:wrap;gap:0 .9rem}"
    "@media(max-width:34rem){.pairs th,.pairs td{display:block;width:auto;border:0;padding:.1rem 0}"
    ".pairs td{border-bottom:1px solid var(--line);padding-bottom:.4rem}figure{padding:.5rem}"
    ".wide{font-size:.85rem}.wide th,.wide td{padding:.25rem .35rem}}"
    "@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--card:#fff;"
    "--link:#000;--warn:#000;--warnbg:#fff}body{font-size:10.5pt}main{max-width:none;padding:0}"
    "details,nav{display:none}figure,.tile,tr{break-inside:avoid}h2{break-after:avoid}"
    ".plot,.wide{overflow:visible}.plot svg{min-width:0;max-height:88mm}.plot img{max-height:120mm}"
    "#plot-samples svg,#plot-delta svg,#plot-spectra svg{max-height:130mm}.wide table{break-inside:avoid}"
    "h2{margin:1rem 0 .3rem}figure{margin:.4rem 0;padding:.4rem}figcaption{font-size:8.5pt;line-height:1.35}"
    "*{-webkit-print-color-adjust:exact;print-color-adjust:exact}@page{margin:15mm}}";

void html_begin(html *h, const char *title) {
    html_raw(h, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    html_text(h, title);
    html_raw(h, "</title>\n<style>");
    html_raw(h, STYLE);
    html_raw(h, "</style>\n</head>\n<body>\n<main>\n");
}

void html_end(html *h) {
    html_raw(h, "</main>\n</body>\n</html>\n");
}

void html_pair(html *h, const char *name, const char *value) {
    html_raw(h, "<tr><th scope=\"row\">");
    html_text(h, name);
    html_raw(h, "</th><td>");
    html_text(h, value);
    html_raw(h, "</td></tr>\n");
}

/* ---- tables ---- */

/* Numbers are shown shorter than they are stored. */
static void add_cell(html *h, const char *cell, size_t length, int head) {
    char number[40], *end = NULL;
    double value = 0;
    int is_number = 0;
    if (length > 0 && length < sizeof number) {
        memcpy(number, cell, length);
        number[length] = '\0';
        value = strtod(number, &end);
        is_number = *end == '\0';
    }
    if (head) {
        html_raw(h, "<th scope=\"col\">");
        for (size_t i = 0; i < length; i++)
            add_escaped(h, cell[i] == '_' ? " " : cell + i, 1);
        html_raw(h, "</th>");
    } else if (is_number && isnan(value)) {
        html_raw(h, "<td class=\"n\">&ndash;</td>");
    } else if (is_number) {
        html_format(h,
                    fabs(value) < 1e6 && value == floor(value) ? "<td class=\"n\">%.0f</td>"
                                                               : "<td class=\"n\">%.5g</td>",
                    value);
    } else {
        html_raw(h, "<td>");
        add_escaped(h, cell, length);
        html_raw(h, "</td>");
    }
}

void html_table(html *h, const table *t) {
    const char *at = t->text.data != NULL ? t->text.data : "", *cell = NULL;
    size_t line = 0;
    int ends = 0;

    html_format(h, "<details><summary>Table: %zu row%s</summary>\n<p>", t->rows, t->rows == 1 ? "" : "s");
    if (t->rows > ROWS_SHOWN)
        html_format(h, "The first %d rows. ", ROWS_SHOWN);
    html_format(h, "<a download=\"%s.tsv\" href=\"data:text/tab-separated-values;charset=utf-8;base64,",
                t->name);
    html_base64(h, t->text.data != NULL ? t->text.data : "", t->text.size);
    html_format(h, "\">All of %s.tsv</a></p>\n<div class=\"scroll\"><table>\n", t->name);
    while (line <= ROWS_SHOWN) {
        int started = 0;
        do {
            const size_t length = table_next_cell(&at, &cell, &ends);
            if (cell == NULL)
                break;
            if (!started)
                html_raw(h, line == 0 ? "<thead><tr>" : "<tr>");
            started = 1;
            add_cell(h, cell, length, line == 0);
        } while (!ends);
        if (!started)
            break;
        html_raw(h, line == 0 ? "</tr></thead>\n<tbody>" : "</tr>\n");
        line++;
    }
    html_raw(h, "</tbody></table></div></details>\n");
}

/* ---- plots ---- */

/* Copies `svg` with the first of the patterns that matches at each place replaced. */
typedef struct replacement {
    const char *from, *to; /* `to` "" drops; "%" stands for the plot's name */
} replacement;

static const replacement SVG_REPLACEMENTS[] = {
    {"id='gp", "id='%-gp"},
    {"'#gp", "'#%-gp"},
    {"id='textbox'", "id='%-textbox'"},
    {"id='greybox'", "id='%-greybox'"},
    {"url(#textbox)", "url(#%-textbox)"},
    {"url(#greybox)", "url(#%-greybox)"},
    {"id=\"gnuplot_canvas\"", "id=\"%-canvas\""},
    {" color=\"black\"", ""},
    {"stroke='black'", "stroke='currentColor'"},
    {"stroke=\"black\"", "stroke=\"currentColor\""},
    {"fill=\"black\"", "fill=\"currentColor\""},
    {"fill = 'black'", "fill='currentColor'"},
    {"rgb(  0,   0,   0)", "currentColor"},
    {"rgb(0,0,0)", "currentColor"},
};

void html_svg(html *h, const char *name, const char *label, const char *svg) {
    const char *at = strstr(svg, "<svg"), *copied = NULL;
    int background = 1;

    if (at == NULL)
        return;
    html_raw(h, "<svg role=\"img\" aria-label=\"");
    html_text(h, label);
    html_raw(h, "\"");
    at += strlen("<svg");
    copied = at;
    while (*at != '\0') {
        const replacement *found = NULL;
        const char *skip = NULL;
        for (size_t i = 0; i < sizeof SVG_REPLACEMENTS / sizeof *SVG_REPLACEMENTS && found == NULL; i++)
            if (*at == SVG_REPLACEMENTS[i].from[0] &&
                strncmp(at, SVG_REPLACEMENTS[i].from, strlen(SVG_REPLACEMENTS[i].from)) == 0)
                found = &SVG_REPLACEMENTS[i];
        /* The first filled rectangle is the paper; titles would be tips that name ids; the description names
         * a program. */
        if (background && strncmp(at, "fill=\"#ffffff\"", 14) == 0) {
            skip = at + 14;
            background = 0;
        } else if (strncmp(at, "<title>", 7) == 0 && strstr(at, "</title>") != NULL) {
            skip = strstr(at, "</title>") + strlen("</title>");
        } else if (strncmp(at, "<desc>", 6) == 0 && strstr(at, "</desc>") != NULL) {
            skip = strstr(at, "</desc>") + strlen("</desc>");
        }
        if (found == NULL && skip == NULL) {
            at++;
            continue;
        }
        html_bytes(h, copied, (size_t)(at - copied));
        if (found != NULL) {
            for (const char *to = found->to; *to != '\0'; to++)
                if (*to == '%')
                    html_raw(h, name);
                else
                    html_bytes(h, to, 1);
            at += strlen(found->from);
        } else {
            if (*at == 'f')
                html_raw(h, "fill=\"none\"");
            at = skip;
        }
        copied = at;
    }
    html_bytes(h, copied, (size_t)(at - copied));
}
