/* Samples of the same noise and conditioning made in several ways, as `ousac sample --raw` and `ousac
 * calibrate` keep them (an .oca archive of format "ousac-samples", tensors "samples/RUN"), and as an image
 * that shows what caching changed.
 */
#ifndef OUSAC_SAMPLES_H
#define OUSAC_SAMPLES_H

#include "formats/oca_write.h"
#include "formats/sha256.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SAMPLES_EXACT = 0,
    SAMPLES_CALIBRATED = 1,
    SAMPLES_REUSE = 2,
    SAMPLES_TODAY = 3,        /* the reference that a search began from */
    SAMPLES_FEWER = 4,        /* fewer of its steps, at the cost of the calibrated run */
    SAMPLES_FITTED = 5,       /* the same with fitted numbers, where no cache pays */
    SAMPLES_EXTRAPOLATED = 6, /* a schedule that extrapolates, where no factors pay */
    SAMPLES_RUNS = 7
};

typedef struct samples {
    size_t count, channels, height, width;
    uint64_t first, seed; /* of the first sample */
    double data_range[2]; /* least and largest value of a sample; both 0: not known */
    char model_digest[OUSAC_DIGEST_CHARS], schedule_digest[OUSAC_DIGEST_CHARS];
    float *run[SAMPLES_RUNS]; /* (count, channels, height, width); NULL where it was not made */
} samples;

const char *samples_run_name(
    int run); /* "exact", "calibrated", "reuse", "today", "fewer-steps", "fitted-steps", "extrapolated" */
/* The run that the others are compared with: SAMPLES_TODAY, where there is one, else SAMPLES_EXACT; -1 for neither. */
int samples_base(const samples *s);

/* data_range; NULL where it is not known. */
const double *samples_range(const samples *s);
/* Puts a range into an archive of samples; NULL is none. */
ousac_status samples_put_range(ousac_oca_writer *writer, const double *range, ousac_error *error);

/* Whether the archive says that it holds samples. */
ousac_status samples_recognise(const char *path, int *are_samples, ousac_error *error);
/* FORMAT where the file is no archive of samples. */
ousac_status samples_check(const char *path, ousac_error *error);
ousac_status samples_load(samples *s, const char *path, ousac_error *error);
ousac_status samples_save(const samples *s, const char *path, ousac_error *error);
void samples_free(samples *s);

enum { SAMPLES_ROWS_MAX = 2 * SAMPLES_RUNS - 1, SAMPLES_LABEL_BYTES = 40 };

typedef struct samples_grid {
    size_t rows;
    double gain; /* amplification of the difference rows; 0 where there are none */
    char label[SAMPLES_ROWS_MAX][SAMPLES_LABEL_BYTES];
} samples_grid;

/* A grid as PNG: a column is one sample; rows today, exact, calibrated, reuse, extrapolated, fitted-steps, fewer-steps, as far as they were made,
 * and the differences of the others from the base's row, signed around middle gray and amplified by the power of two at which all but a
 * hundredth of the values of the largest difference stay within the range. At most `columns` samples.
 * `labelled`: draw the rows' labels into the image. `drawn` receives what the rows are. */
ousac_status samples_draw(const samples *s, size_t columns, int labelled, const char *path,
                          samples_grid *drawn, ousac_error *error);

#endif
