/* The top of a report: what somebody who reads nothing else should know.
 */
#ifndef OUSAC_REPORT_HEAD_H
#define OUSAC_REPORT_HEAD_H

#include "tools/report/plot_inputs.h"
#include "tools/report/report_html.h"

/* Pieces of its sentences, of rows as in `headline` (formats/EVAL.md): "0.0147 [0.0115, 0.0181]", and how another method
 * compares. */
void report_add_error(html *h, const cJSON *row);
void report_add_rival(html *h, const cJSON *row, const char *name);
/* Distances from a fine run, where an evaluation or a search has them. */
void report_add_fine(html *h, const cJSON *root);

/* Of the first bundle, and of the first evaluation where one is given. */
void report_add_head(html *h, const plot_inputs *inputs);

#endif
