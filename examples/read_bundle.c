/* Reads a calibration bundle with nothing but oca.h and oca.c, in C99:
 *
 *     cc -DOCA_WITH_ZSTD -DOCA_WITH_MMAP -I. examples/read_bundle.c formats/oca.c -lzstd -lm -o read_bundle
 *     ./read_bundle build/demo/bundle.oca [PLAN]
 *
 * It lists the layers of a bundle with their ranks under a plan, and for each applies the correction that a
 * runtime adds to a cached output, A (B dx), to one vector. formats/BUNDLE.md says what the tensors mean.
 */
#include "formats/oca.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 256 };

static int fail(const char *what, oca_status status) {
    fprintf(stderr, "read_bundle: %s: %s\n", what, oca_status_string(status));
    return 1;
}

/* The first `rank` rows of a factor as float32, whatever type it is stored in; NULL where that fails. */
static float *read_rows(const oca_file *file, const oca_tensor *tensor, uint64_t rank) {
    const uint64_t count = rank * tensor->shape[1];
    float *values;
    if (rank == 0 || count > SIZE_MAX / sizeof *values)
        return NULL;
    values = malloc((size_t)count * sizeof *values);
    if (values &&
        oca_read(file, tensor->index, 0, rank, OCA_F32, values, (size_t)count * sizeof *values) != OCA_OK) {
        free(values);
        values = NULL;
    }
    return values;
}

/* y (m) = A (B x), with A stored (rank, m) and B (rank, n): row i is direction i. */
static void correct(const float *a, const float *b, size_t rank, size_t m, size_t n, const float *x,
                    float *y) {
    size_t r, i;
    memset(y, 0, m * sizeof *y);
    for (r = 0; r < rank; r++) {
        float z = 0;
        for (i = 0; i < n; i++)
            z += b[r * n + i] * x[i];
        for (i = 0; i < m; i++)
            y[i] += a[r * m + i] * z;
    }
}

/* One layer: `name` is that of its factor A, "factor/SITE/A". */
static int show_site(const oca_file *file, const oca_tensor *a) {
    char name[NAME_BYTES];
    oca_tensor b;
    float *wa = NULL, *wb = NULL, *x = NULL, *y = NULL;
    double energy = 0;
    size_t i, m, n, rank;
    int done = 1;
    const size_t length = strlen(a->name);
    if (length >= sizeof name)
        return fail(a->name, OCA_ERR_LIMIT);
    memcpy(name, a->name, length + 1);
    name[length - 1] = 'B';
    if (oca_tensor_find(file, name, &b) != OCA_OK || a->dims != 2 || b.dims != 2 || a->shape[0] != b.shape[0])
        return fail(name, OCA_ERR_NOT_FOUND);
    rank = (size_t)a->shape[0];
    m = (size_t)a->shape[1];
    n = (size_t)b.shape[1];
    wa = read_rows(file, a, rank);
    wb = read_rows(file, &b, rank);
    x = malloc(n * sizeof *x);
    y = malloc(m * sizeof *y);
    if (wa && wb && x && y) {
        for (i = 0; i < n; i++)
            x[i] = (float)sin(1.0 + (double)i); /* any delta will do */
        correct(wa, wb, rank, m, n, x, y);
        for (i = 0; i < m; i++)
            energy += (double)y[i] * (double)y[i];
        name[length - 2] = '\0'; /* "factor/SITE" */
        printf("%-28s %5lu x %-5lu %4lu directions   |A B x| = %.9g\n", name + strlen("factor/"),
               (unsigned long)m, (unsigned long)n, (unsigned long)rank, sqrt(energy));
        done = 0;
    } else {
        (void)fail(a->name, OCA_ERR_MEMORY);
    }
    free(y);
    free(x);
    free(wb);
    free(wa);
    return done;
}

static int show_plan(const oca_file *file, const char *plan) {
    char name[NAME_BYTES];
    oca_tensor tensor;
    int32_t *ranks;
    uint64_t i;
    oca_status status;
    (void)snprintf(name, sizeof name, "plan/%s/rank", plan);
    status = oca_tensor_find(file, name, &tensor);
    if (status != OCA_OK || tensor.count > 1000000)
        return fail(name, status != OCA_OK ? status : OCA_ERR_LIMIT);
    ranks = malloc((size_t)tensor.count * sizeof *ranks);
    if (!ranks)
        return fail(name, OCA_ERR_MEMORY);
    status = oca_read(file, tensor.index, 0, tensor.shape[0], OCA_I32, ranks,
                      (size_t)tensor.count * sizeof *ranks);
    if (status == OCA_OK) {
        printf("plan %s, ranks in order of the layers:", plan);
        for (i = 0; i < tensor.count; i++)
            printf(" %ld", (long)ranks[i]);
        printf("\n");
    }
    free(ranks);
    return status == OCA_OK ? 0 : fail(name, status);
}

int main(int argc, char **argv) {
    oca_file *file = NULL;
    oca_fault fault = {NULL, 0};
    oca_options options;
    oca_status status;
    const char *format;
    size_t i;
    int failed = 0;
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: read_bundle BUNDLE [PLAN]\n");
        return 2;
    }
    memset(&options, 0, sizeof options);
    options.fault = &fault;
    status = oca_open_path(&file, argv[1], &options);
    if (status != OCA_OK) {
        if (fault.what)
            fprintf(stderr, "read_bundle: %s\n", fault.what);
        return fail(argv[1], status);
    }
    format = oca_metadata(file, "format");
    if (!format || strcmp(format, "ousac-bundle") != 0) {
        fprintf(stderr, "read_bundle: %s is not a bundle\n", argv[1]);
        failed = 1;
    }
    if (!failed)
        failed = show_plan(file, argc == 3 ? argv[2] : "default");
    for (i = 0; !failed && i < oca_tensor_count(file); i++) {
        oca_tensor tensor;
        size_t length;
        if (oca_tensor_at(file, i, &tensor) != OCA_OK)
            continue;
        length = strlen(tensor.name);
        if (strncmp(tensor.name, "factor/", 7) == 0 && length > 9 &&
            strcmp(tensor.name + length - 2, "/A") == 0)
            failed = show_site(file, &tensor);
    }
    oca_close(file);
    return failed;
}
