/* Grids of images as PNG files (libpng).
 */
#ifndef OUSAC_PNG_GRID_H
#define OUSAC_PNG_GRID_H

#include "formats/status.h"

#include <stddef.h>

/* images[row * columns + column]: (channels, height, width) float32 in [-1, 1], clamped; NULL leaves the cell
 * blank. channels 1 or 3 as gray or RGB; of any other number (latents) the first three channels are shown,
 * each scaled to its own range over the grid. `zoom` >= 1 repeats pixels. Row labels are drawn in a left
 * margin with a built-in bitmap font where labels is not NULL. Columns beyond the width of a PNG go on in further
 * lines of all rows. Written atomically. */
typedef struct png_grid {
    const float *const *images;
    size_t rows, columns, channels, height, width, zoom;
    const char *const *labels; /* (rows), or NULL */
} png_grid;

/* USAGE where such a grid does not fit into a PNG; images need not be there. */
ousac_status png_grid_check(const png_grid *grid, const char *path, ousac_error *error);
ousac_status png_grid_write(const png_grid *grid, const char *path, ousac_error *error);

#endif
