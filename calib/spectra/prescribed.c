#include "calib/spectra/prescribed.h"

#include "calib/spectra/mixing.h"
#include "formats/memory.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { LANES = OUSAC_MIXING_LANES, THREADS_MAX = 1024 };

/* One matrix: its vectors along the longer side are made LANES at a time. */
typedef struct job {
    const ousac_mixing *along;  /* of the length of the vectors made */
    const ousac_mixing *across; /* of their number; the same for a moment */
    const double *spectrum;
    size_t spectrum_count;
    float *weight; /* or NULL */
    size_t ld;
    int columns;    /* 1: the vectors are columns of `weight`, else its rows */
    double *packed; /* or NULL */
    size_t threads;
} job;

typedef struct worker {
    const job *job;
    size_t index;
    double *x, *work; /* room for a tile each */
} worker;

static void store(const job *j, size_t first, size_t lanes, const double *x) {
    const size_t length = j->along->n;
    for (size_t l = 0; l < lanes; l++) {
        const size_t c = first + l;
        if (j->packed)
            for (size_t i = c; i < length; i++)
                j->packed[i * (i + 1) / 2 + c] = x[i * LANES + l];
        else if (!j->columns)
            for (size_t i = 0; i < length; i++)
                j->weight[c * j->ld + i] = (float)x[i * LANES + l];
    }
    if (!j->packed && j->columns)
        for (size_t i = 0; i < length; i++)
            for (size_t l = 0; l < lanes; l++)
                j->weight[i * j->ld + first + l] = (float)x[i * LANES + l];
}

/* Column c of the matrix is U diag(spectrum) times row c of V. */
static void *run_worker(void *pointer) {
    const worker *self = pointer;
    const job *j = self->job;
    const size_t count = j->across->n, length = j->along->n, stride = j->threads * LANES;
    for (size_t first = self->index * LANES; first < count; first += stride) {
        const size_t lanes = count - first < LANES ? count - first : LANES;
        ousac_mixing_rows(j->across, first, self->x, self->work);
        for (size_t i = 0; i < j->spectrum_count; i++)
            for (size_t l = 0; l < LANES; l++)
                self->x[i * LANES + l] *= j->spectrum[i];
        memset(self->x + j->spectrum_count * LANES, 0,
               (length - j->spectrum_count) * LANES * sizeof *self->x);
        ousac_mixing_apply(j->along, self->x, self->work);
        store(j, first, lanes, self->x);
    }
    return NULL;
}

static ousac_status run(job *j, size_t threads, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const size_t tile = j->along->n * LANES, tiles = (j->across->n + LANES - 1) / LANES;
    pthread_t *handles = NULL;
    worker *workers = NULL;
    double *room = NULL;
    size_t started = 0;
    threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
    j->threads = threads < tiles ? threads : tiles;
    handles = ousac_calloc(j->threads, sizeof *handles);
    workers = ousac_calloc(j->threads, sizeof *workers);
    room = tile <= SIZE_MAX / 2 / j->threads ? ousac_malloc(2 * tile * j->threads, sizeof *room) : NULL;
    if (!handles || !workers || !room) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to make vectors of length %zu", j->along->n);
        goto done;
    }
    for (size_t i = 0; i < j->threads; i++)
        workers[i] = (worker){j, i, room + 2 * tile * i, room + 2 * tile * i + tile};
    while (started + 1 < j->threads &&
           pthread_create(&handles[started + 1], NULL, run_worker, &workers[started + 1]) == 0)
        started++;
    (void)run_worker(&workers[0]);
    for (size_t i = started + 1; i < j->threads; i++) /* those that found no thread */
        (void)run_worker(&workers[i]);
    for (size_t i = 1; i <= started; i++)
        (void)pthread_join(handles[i], NULL);
done:
    ousac_free(room);
    ousac_free(workers);
    ousac_free(handles);
    return status;
}

ousac_status ousac_prescribed_weight(size_t m, size_t n, const double *sigma, uint64_t seed, uint64_t sample,
                                     size_t threads, float *w, ousac_error *error) {
    ousac_mixing left = {0}, right = {0};
    ousac_status status = ousac_mixing_create(&left, m, seed, sample, error);
    if (!status)
        status = ousac_mixing_create(&right, n, seed, sample + 1, error);
    if (!status) {
        job j = {.along = m >= n ? &left : &right,
                 .across = m >= n ? &right : &left,
                 .spectrum = sigma,
                 .spectrum_count = m < n ? m : n,
                 .weight = w,
                 .ld = n,
                 .columns = m >= n};
        status = run(&j, threads, error);
    }
    ousac_mixing_free(&left);
    ousac_mixing_free(&right);
    return status;
}

ousac_status ousac_prescribed_moment(size_t n, const double *lambda, uint64_t seed, uint64_t sample,
                                     size_t threads, double *packed, ousac_error *error) {
    ousac_mixing basis = {0};
    ousac_status status = ousac_mixing_create(&basis, n, seed, sample, error);
    if (!status) {
        job j = {
            .along = &basis, .across = &basis, .spectrum = lambda, .spectrum_count = n, .packed = packed};
        status = run(&j, threads, error);
    }
    ousac_mixing_free(&basis);
    return status;
}

void ousac_decay_fill(const ousac_decay *decay, size_t n, int moment, double *values) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double t = ((double)i + 0.5) / (double)n;
        values[i] = exp(-decay->a * log(t) + decay->b * log1p(-t) - decay->c * t);
        sum += pow(values[i], moment);
    }
    const double scale = pow(sum / (double)n, -1.0 / moment);
    for (size_t i = 0; i < n; i++)
        values[i] *= scale;
}
