/* One linear layer of a cached step, computed from a bundle with nothing but oca.h and oca.c:
 *
 *     cc -DOCA_WITH_ZSTD -DOCA_WITH_MMAP -I. examples/cached_linear.c formats/oca.c -lzstd -lm -o cached_linear
 *     ./cached_linear build/demo/bundle.oca blocks.0.mlp.fc1
 *
 * At the last full evaluation of the branch a runtime kept x_c and y_c = W x_c + bias, and from the one before, where
 * the plan forecasts, x_cc and y_cc. On a cached step it computes
 *
 *     y = y_c + s (y_c - y_cc) + A B (x - x_c - s (x_c - x_cc))
 *
 * with s = forecast[step, branch, group of the site], or s = 0 without a forecast. y_c holds the bias, so none is added.
 * `correct` below is that line; the rest reads A and B, and tries it on numbers that stand for activations.
 * formats/BUNDLE.md says what the tensors mean, and which rank a plan gives the site.
 */
#include "formats/oca.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* What a branch keeps of a layer for one token: (n) and (m) numbers. */
typedef struct kept {
    const float *x_c, *y_c, *x_cc, *y_cc;
} kept;

/* y (m) of a cached step. A is stored as (rank, m), B as (rank, n): row i of both is direction i. */
static void correct(const kept *k, const float *a, const float *b, size_t rank, size_t m, size_t n, float s,
                    const float *x, float *y) {
    size_t r, i;
    for (i = 0; i < m; i++)
        y[i] = k->y_c[i] + s * (k->y_c[i] - k->y_cc[i]);
    for (r = 0; r < rank; r++) {
        float z = 0;
        for (i = 0; i < n; i++)
            z += b[r * n + i] * (x[i] - k->x_c[i] - s * (k->x_c[i] - k->x_cc[i]));
        for (i = 0; i < m; i++)
            y[i] += a[r * m + i] * z;
    }
}

/* All rows of a factor as float32, whatever type it is stored in; NULL where that fails. */
static float *read_factor(const oca_file *file, const char *site, char which, oca_tensor *tensor) {
    char name[256];
    float *values;
    size_t size;
    if (snprintf(name, sizeof name, "factor/%s/%c", site, which) >= (int)sizeof name ||
        oca_tensor_find(file, name, tensor) != OCA_OK)
        return NULL;
    size = (size_t)(tensor->shape[0] * tensor->shape[1]) * sizeof *values;
    values = malloc(size);
    if (values && oca_read(file, tensor->index, 0, tensor->shape[0], OCA_F32, values, size) != OCA_OK) {
        free(values);
        values = NULL;
    }
    return values;
}

int main(int argc, char **argv) {
    oca_file *file = NULL;
    oca_tensor a, b;
    float *wa = NULL, *wb = NULL, *numbers = NULL;
    double moved = 0;
    size_t i, m, n;
    int failed = 1;
    oca_status status;
    if (argc != 3) {
        fprintf(stderr, "usage: cached_linear BUNDLE SITE\n");
        return 2;
    }
    status = oca_open_path(&file, argv[1], NULL);
    if (status != OCA_OK) {
        fprintf(stderr, "cached_linear: %s: %s\n", argv[1], oca_status_string(status));
        return 1;
    }
    wa = read_factor(file, argv[2], 'A', &a);
    wb = read_factor(file, argv[2], 'B', &b);
    if (wa && wb) {
        kept k;
        float *x, *y;
        m = (size_t)a.shape[1];
        n = (size_t)b.shape[1];
        numbers = malloc((3 * n + 3 * m) * sizeof *numbers);
        if (numbers) {
            for (i = 0; i < 3 * n + 3 * m; i++)
                numbers[i] = (float)sin(0.37 * (double)i);
            x = numbers;
            y = numbers + 3 * n;
            k.x_c = x + n;
            k.x_cc = x + 2 * n;
            k.y_c = y + m;
            k.y_cc = y + 2 * m;
            correct(&k, wa, wb, (size_t)a.shape[0], m, n, 0.5F, x, y);
            for (i = 0; i < m; i++)
                moved += (double)(y[i] - k.y_c[i]) * (double)(y[i] - k.y_c[i]);
            printf("%s: %zu outputs from %zu inputs at rank %zu, moved by %.6g\n", argv[2], m, n,
                   (size_t)a.shape[0], sqrt(moved));
            failed = 0;
        }
    } else {
        fprintf(stderr, "cached_linear: %s holds no factors of %s\n", argv[1], argv[2]);
    }
    free(numbers);
    free(wb);
    free(wa);
    oca_close(file);
    return failed;
}
