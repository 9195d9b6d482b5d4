/* The plots, by name: which inputs each needs, its table, and its drawing.
 */
#ifndef OUSAC_PLOT_SET_H
#define OUSAC_PLOT_SET_H

#include "tools/cli/files.h"
#include "tools/report/gnuplot.h"
#include "tools/report/plot_inputs.h"
#include "tools/report/samples.h"
#include "tools/report/table.h"

#include <stddef.h>

/* In the order of the report. */
typedef enum plot_id {
    PLOT_CURVE = 0,
    PLOT_STAGES,
    PLOT_SAMPLES,
    PLOT_PARETO,
    PLOT_MACS,
    PLOT_SCHEDULE,
    PLOT_DELTA,
    PLOT_ERROR,
    PLOT_RANKS,
    PLOT_SPECTRA,
    PLOT_SPECTRUM,
    PLOT_COUNT
} plot_id;

typedef struct plot_info {
    const char *name;    /* of the script, the table and the files */
    const char *title;   /* of its section in the report */
    const char *needs;   /* "a profile" */
    const char *caption; /* what is plotted, precisely */
} plot_info;

const plot_info *plot_info_of(plot_id id);
/* The files that plots may become in a directory; NULL for none. */
void plot_set_list(cli_files *files, const char *directory);
/* PLOT_COUNT where there is no such plot. */
plot_id plot_find(const char *name);

typedef struct plot_set {
    table tables[PLOT_COUNT];
    int given[PLOT_COUNT]; /* 1: the inputs hold what the plot needs; otherwise its table is empty */
    samples pictures;      /* count 0 where there are none */
    size_t image_columns;  /* samples shown in the image */
    samples_grid grid;     /* rows 0 before plot_set_save */
} plot_set;

/* Fills every table. Free with plot_set_free, also after a failure. */
ousac_status plot_set_create(plot_set *set, const plot_inputs *inputs, ousac_error *error);
void plot_set_free(plot_set *set);

/* Writes a plot's tables (delta also reads the schedule's) into `directory`, which ends with a slash, and the
 * grid of the samples as samples.grid.png. */
ousac_status plot_set_save(plot_set *set, plot_id id, const char *directory, ousac_error *error);
/* Draws from the saved tables. */
ousac_status plot_set_draw(const plot_set *set, plot_id id, const char *directory, gnuplot_terminal terminal,
                           size_t columns, char **image, size_t *size, ousac_error *error);

#endif
