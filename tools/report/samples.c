#include "tools/report/samples.h"

#include "formats/memory.h"
#include "formats/oca_write.h"
#include "profile/files/archive.h"
#include "tools/report/png_grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES_FORMAT "ousac-samples"
enum { CELL_PIXELS = 96, SIDE_MAX = 1 << 16 };

const char *samples_run_name(int run) {
    static const char *const names[SAMPLES_RUNS] = {"exact",       "calibrated",   "reuse",       "today",
                                                    "fewer-steps", "fitted-steps", "extrapolated"};
    return names[run];
}

ousac_status samples_recognise(const char *path, int *are_samples, ousac_error *error) {
    oca_file *file = NULL;
    const ousac_status status = ousac_archive_open_any(&file, path, error);
    const char *format = status ? NULL : oca_metadata(file, "format");
    *are_samples = format && strcmp(format, SAMPLES_FORMAT) == 0;
    oca_close(file);
    return status;
}

int samples_base(const samples *s) {
    return s->run[SAMPLES_TODAY] != NULL ? SAMPLES_TODAY : s->run[SAMPLES_EXACT] != NULL ? SAMPLES_EXACT : -1;
}

ousac_status samples_check(const char *path, ousac_error *error) {
    ousac_archive archive = {0};
    const ousac_status status = ousac_archive_open(&archive, path, SAMPLES_FORMAT, error);
    if (!status)
        ousac_archive_close(&archive);
    return status;
}

/* Takes the shape of the first run found, which the others must have. */
static ousac_status take_shape(samples *s, const ousac_archive *archive, const oca_tensor *found,
                               ousac_error *error) {
    if (found->dims != 4 || found->shape[1] > SIDE_MAX || found->shape[2] > SIDE_MAX ||
        found->shape[3] > SIDE_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: tensor \"%s\": expected (samples, channels, height, width)", archive->path,
                          found->name);
    s->count = (size_t)found->shape[0];
    s->channels = (size_t)found->shape[1];
    s->height = (size_t)found->shape[2];
    s->width = (size_t)found->shape[3];
    return OUSAC_STATUS_OK;
}

static ousac_status take_run(samples *s, const ousac_archive *archive, int run, ousac_error *error) {
    char name[OUSAC_TENSOR_NAME_BYTES];
    oca_tensor found;
    ousac_status status = OUSAC_STATUS_OK;
    (void)snprintf(name, sizeof name, "samples/%s", samples_run_name(run));
    if (oca_tensor_find(archive->file, name, &found) != OCA_OK)
        return OUSAC_STATUS_OK;
    if (s->count == 0)
        status = take_shape(s, archive, &found, error);
    if (status)
        return status;
    const uint64_t shape[4] = {s->count, s->channels, s->height, s->width};
    status = ousac_archive_find(archive, name, OUSAC_DTYPE_F32, 4, shape, &found, error);
    if (status)
        return status;
    s->run[run] = ousac_malloc((size_t)found.count, sizeof(float));
    if (s->run[run] == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %s", archive->path, name);
    status = ousac_archive_read(archive, name, OUSAC_DTYPE_F32, 4, shape, s->run[run], error);
    for (uint64_t i = 0; !status && i < found.count; i++)
        if (!isfinite(s->run[run][i]))
            status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "%s: tensor \"%s\": value %llu is not finite",
                                archive->path, name, (unsigned long long)i);
    return status;
}

/* Metadata: the ends of data_range. */
static const char *const range_keys[] = {"data_low", "data_high"};

const double *samples_range(const samples *s) {
    return s->data_range[0] < s->data_range[1] ? s->data_range : NULL;
}

static ousac_status take_range(samples *s, const ousac_archive *archive, ousac_error *error) {
    double *range = s->data_range;
    ousac_status status = OUSAC_STATUS_OK;
    if (!oca_metadata(archive->file, range_keys[0]))
        return OUSAC_STATUS_OK;
    for (int i = 0; i < 2 && !status; i++)
        status = ousac_archive_f64(archive, range_keys[i], &range[i], error);
    if (!status && !samples_range(s))
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: metadata \"%s\" is %g, not below \"%s\"",
                            archive->path, range_keys[0], range[0], range_keys[1]);
    return status;
}

ousac_status samples_put_range(ousac_oca_writer *writer, const double *range, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (int i = 0; range && i < 2 && !status; i++)
        status = ousac_archive_put_f64(writer, range_keys[i], range[i], error);
    return status;
}

ousac_status samples_load(samples *s, const char *path, ousac_error *error) {
    ousac_archive archive = {0};
    memset(s, 0, sizeof *s);
    ousac_status status = ousac_archive_open(&archive, path, SAMPLES_FORMAT, error);
    if (status)
        return status;
    for (int run = 0; !status && run < SAMPLES_RUNS; run++)
        status = take_run(s, &archive, run, error);
    if (!status)
        status = ousac_archive_u64(&archive, "seed", 0, UINT64_MAX, &s->seed, error);
    if (!status)
        status = ousac_archive_u64(&archive, "first_sample", 0, UINT64_MAX, &s->first, error);
    if (!status)
        status = take_range(s, &archive, error);
    if (!status)
        status = ousac_archive_digest(&archive, "model_digest", 0, s->model_digest, error);
    if (!status)
        status = ousac_archive_digest(&archive, "schedule_digest", 0, s->schedule_digest, error);
    if (!status && s->count == 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: holds no tensor \"samples/exact\" or another run", path);
    ousac_archive_close(&archive);
    if (status)
        samples_free(s);
    return status;
}

ousac_status samples_save(const samples *s, const char *path, ousac_error *error) {
    const uint64_t shape[4] = {s->count, s->channels, s->height, s->width};
    ousac_oca_writer *writer = NULL;
    char name[OUSAC_TENSOR_NAME_BYTES];
    ousac_status status = ousac_archive_begin(&writer, SAMPLES_FORMAT, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "schedule_digest", s->schedule_digest, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "model_digest", s->model_digest, error);
    if (!status)
        status = ousac_archive_put_u64(writer, "seed", s->seed, error);
    if (!status)
        status = ousac_archive_put_u64(writer, "first_sample", s->first, error);
    if (!status)
        status = samples_put_range(writer, samples_range(s), error);
    for (int run = 0; !status && run < SAMPLES_RUNS; run++) {
        (void)snprintf(name, sizeof name, "samples/%s", samples_run_name(run));
        if (s->run[run] != NULL)
            status = ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F32, 4, shape,
                                             OUSAC_OCA_CODEC_SHUFFLE_ZSTD, s->run[run], error);
    }
    if (!status)
        status = ousac_oca_writer_save(writer, path, error);
    ousac_oca_writer_free(writer);
    return status;
}

void samples_free(samples *s) {
    for (int run = 0; run < SAMPLES_RUNS; run++)
        ousac_free(s->run[run]);
    memset(s, 0, sizeof *s);
}

/* ---- the image ---- */

static int compare_floats(const void *left, const void *right) {
    const float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

/* The amplification for differences of which `size` magnitudes are given; sorts them. */
static double choose_gain(float *magnitude, size_t size) {
    double gain = 1;
    qsort(magnitude, size, sizeof *magnitude, compare_floats);
    const double most = magnitude[size - 1 - size / 100];
    while (most > 0 && gain < 1024 && 2 * gain * most <= 1)
        gain *= 2;
    return gain;
}

static float within(float value) {
    return value < -1 ? -1 : value > 1 ? 1 : value;
}

/* From top to bottom. */
static const int row_order[SAMPLES_RUNS] = {SAMPLES_TODAY, SAMPLES_EXACT,        SAMPLES_CALIBRATED,
                                            SAMPLES_REUSE, SAMPLES_EXTRAPOLATED, SAMPLES_FITTED,
                                            SAMPLES_FEWER};

/* What is shown of a run minus what is shown of the base: values are clamped as an image clamps them. */
static void subtract(const samples *s, int run, size_t values, float *out) {
    const int image = s->channels == 1 || s->channels == 3;
    for (size_t i = 0; i < values; i++) {
        const float a = s->run[run][i], b = s->run[samples_base(s)][i];
        out[i] = image ? within(a) - within(b) : a - b;
    }
}

ousac_status samples_draw(const samples *s, size_t columns, int labelled, const char *path,
                          samples_grid *drawn, ousac_error *error) {
    enum { ROWS_MAX = SAMPLES_ROWS_MAX };
    const size_t size = s->channels * s->height * s->width;
    const float *row_values[ROWS_MAX];
    const char *labels[ROWS_MAX];
    const float **images = NULL;
    float *difference[SAMPLES_RUNS] = {NULL}, *magnitude = NULL;
    const int base = samples_base(s);
    double factor = 0;
    size_t rows = 0;
    ousac_status status = OUSAC_STATUS_OK;

    memset(drawn, 0, sizeof *drawn);
    if (columns > s->count)
        columns = s->count;
    const size_t values = columns * size; /* no more than a run holds */
    images = ousac_calloc(columns * ROWS_MAX, sizeof *images);
    magnitude = ousac_malloc(values, sizeof *magnitude);
    if (images == NULL || magnitude == NULL)
        goto memory;
    for (int k = 0; k < SAMPLES_RUNS; k++) {
        const int run = row_order[k];
        if (s->run[run] != NULL) {
            (void)snprintf(drawn->label[rows], SAMPLES_LABEL_BYTES, "%s", samples_run_name(run));
            row_values[rows++] = s->run[run];
        }
    }
    for (int run = 0; run < SAMPLES_RUNS && base >= 0; run++) {
        if (s->run[run] == NULL || run == base)
            continue;
        difference[run] = ousac_malloc(values, sizeof(float));
        if (difference[run] == NULL)
            goto memory;
        subtract(s, run, values, difference[run]);
        for (size_t i = 0; i < values; i++)
            magnitude[i] = fabsf(difference[run][i]);
        const double own = choose_gain(magnitude, values);
        factor = factor == 0 || own < factor ? own : factor;
    }
    for (int k = 0; k < SAMPLES_RUNS; k++) {
        const int run = row_order[k];
        if (difference[run] == NULL)
            continue;
        for (size_t i = 0; i < values; i++)
            difference[run][i] *= (float)factor;
        (void)snprintf(drawn->label[rows], SAMPLES_LABEL_BYTES, "%s - %s, x%g", samples_run_name(run),
                       samples_run_name(base), factor);
        row_values[rows++] = difference[run];
    }
    for (size_t row = 0; row < rows; row++) {
        labels[row] = drawn->label[row];
        for (size_t column = 0; column < columns; column++)
            images[row * columns + column] = row_values[row] + column * size;
    }
    const png_grid grid = {
        .images = images,
        .rows = rows,
        .columns = columns,
        .channels = s->channels,
        .height = s->height,
        .width = s->width,
        .zoom = s->width < CELL_PIXELS ? CELL_PIXELS / s->width : 1,
        .labels = labelled ? labels : NULL,
    };
    status = png_grid_write(&grid, path, error);
    drawn->rows = rows;
    drawn->gain = factor;
    goto done;
memory:
    status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a grid of %zu samples", path, columns);
done:
    for (int run = 0; run < SAMPLES_RUNS; run++)
        ousac_free(difference[run]);
    ousac_free(magnitude);
    ousac_free(images);
    return status;
}
