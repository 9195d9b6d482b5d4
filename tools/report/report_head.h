/* The top of a report: what somebody who reads nothing else should know.
 */
#ifndef OUSAC_REPORT_HEAD_H
#define OUSAC_REPORT_HEAD_H

#include "tools/report/plot_inputs.h"
#include "tools/report/report_html.h"

/* Of the first bundle, and of the first evaluation where one is given. */
void report_add_head(html *h, const plot_inputs *inputs);

#endif
