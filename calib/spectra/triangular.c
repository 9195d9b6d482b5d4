#include "calib/spectra/triangular.h"

#include <math.h>
#include <string.h>

/* row -= f[0] r + f[1] (r + ld) + ..., four rows in one pass over the fifth; as rounded as one after another.
 */
static void subtract_four(size_t count, const double *f, const double *r, size_t ld, double *row) {
    const double *restrict r0 = r, *restrict r1 = r + ld, *restrict r2 = r + 2 * ld,
                           *restrict r3 = r + 3 * ld;
    double *restrict target = row;
    for (size_t j = 0; j < count; j++)
        target[j] = target[j] - f[0] * r0[j] - f[1] * r1[j] - f[2] * r2[j] - f[3] * r3[j];
}

/* Worked in the upper triangle, whose rows are contiguous, four rows at a time. */
int ousac_cholesky(size_t n, double *g) {
    for (size_t first = 0; first < n; first += 4) {
        const size_t last = first + 4 < n ? first + 4 : n;
        for (size_t k = first; k < last; k++) {
            double *row = g + k * n;
            if (!(row[k] > 0))
                return 0;
            const double root = sqrt(row[k]);
            for (size_t j = k; j < n; j++)
                row[j] /= root;
            for (size_t i = k + 1; i < last; i++)
                for (size_t j = i; j < n; j++)
                    g[i * n + j] -= row[i] * row[j];
        }
        for (size_t i = last; i < n; i++) { /* none behind fewer than four */
            const double *column = g + first * n + i;
            const double factors[4] = {column[0], column[n], column[2 * n], column[3 * n]};
            subtract_four(n - i, factors, column, n, g + i * n + i);
        }
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            g[i * n + j] = g[j * n + i];
    return 1;
}

/* Row by row from L^-1 L = 1. */
void ousac_invert_lower(size_t n, const double *l, double *inverse) {
    memset(inverse, 0, n * n * sizeof *inverse);
    for (size_t i = 0; i < n; i++) {
        double *row = inverse + i * n;
        size_t k = 0;
        for (; k + 4 <= i; k += 4)
            subtract_four(k + 4, l + i * n + k, inverse + k * n, n, row);
        for (; k < i; k++)
            for (size_t j = 0; j <= k; j++)
                row[j] -= l[i * n + k] * inverse[k * n + j];
        for (size_t j = 0; j < i; j++)
            row[j] /= l[i * n + i];
        row[i] = 1 / l[i * n + i];
    }
}
