/* What the files of a report share: the inputs, what was drawn of them, and the page that grows.
 */
#ifndef OUSAC_REPORT_PARTS_H
#define OUSAC_REPORT_PARTS_H

#include "tools/report/plot_inputs.h"
#include "tools/report/plot_set.h"
#include "tools/report/report_html.h"

typedef struct report_work {
    plot_inputs inputs;
    plot_set set;
    table evaluation, runs;
    char *svg[PLOT_COUNT];           /* NULL where it was not drawn */
    const char *missing[PLOT_COUNT]; /* why */
    char why[OUSAC_ERROR_MESSAGE_BYTES + 64];
    html page;
} report_work;

/* A section with the plot, its caption and the table behind it. */
void report_add_plot(report_work *work, plot_id id, const char *plots, ousac_error *error);
/* Rows of a table of pairs: a number, left out where it is NAN, and the wall times of cost.json. */
void report_add_real(html *h, const char *name, double value, const char *unit);
void report_add_times(report_work *work);

/* 1 where the inputs are a search that ended without a bundle, and the schedule that it found. */
int report_is_uncached(const plot_inputs *inputs);
/* The page of such a search: all of a report but what a bundle is needed for. */
void report_add_uncached(report_work *work, const char *plots, ousac_error *error);

#endif
