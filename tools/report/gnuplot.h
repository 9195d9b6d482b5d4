/* Runs gnuplot on the scripts of plots/, which are built into the program. The only file that starts a
 * process.
 */
#ifndef OUSAC_GNUPLOT_H
#define OUSAC_GNUPLOT_H

#include "formats/status.h"

#include <stddef.h>

typedef enum gnuplot_terminal { GNUPLOT_SVG = 0, GNUPLOT_PNG = 1, GNUPLOT_TEXT = 2 } gnuplot_terminal;

typedef struct gnuplot_job {
    const char *script; /* "delta" */
    const char *tables; /* directory of the tables, ending with a slash */
    gnuplot_terminal terminal;
    size_t columns;      /* of GNUPLOT_TEXT */
    const char *nothing; /* what an empty plot says; may be NULL */
    const char *
        grid; /* labels of the rows of samples.grid.png, separated by '|'; "" or NULL where it is not there */
} gnuplot_job;

/* UNSUPPORTED, saying how to get it, where gnuplot cannot be started. */
ousac_status gnuplot_check(ousac_error *error);

/* What gnuplot draws, `size` bytes and a NUL, to be released with ousac_free. UNSUPPORTED where gnuplot is
 * missing or lacks the terminal; INTERNAL, with gnuplot's own message, where the script fails or draws
 * nothing. */
ousac_status gnuplot_draw(const gnuplot_job *job, char **image, size_t *size, ousac_error *error);

#endif
