/* The report: one HTML file with the plots, the tables behind them, provenance, digests, costs and the
 * evaluation. A function of the files it is made from: the same files give the same bytes.
 */
#ifndef OUSAC_REPORT_H
#define OUSAC_REPORT_H

#include "formats/status.h"
#include "tools/cli/cli.h"

#include <stddef.h>

typedef struct report_request {
    char *const *files; /* as plot_inputs_load takes them; a bundle must be among them */
    size_t file_count;
    const char *plan;   /* to show; NULL: the default one */
    const char *site;   /* of the single spectrum; NULL: the one with the largest share left */
    const char *output; /* the HTML file */
    const char *plots;  /* directory for NAME.svg, NAME.png and NAME.tsv, made where missing */
} report_request;

/* Writes the report and the plots beside it. Without gnuplot the tables and the report are written all the
 * same, with a note to standard error and 0 in *plotted, which otherwise counts the plots drawn. */
ousac_status report_write(const cli_common *common, const report_request *request, size_t *plotted,
                          ousac_error *error);

#endif
