#include "calib/stats/convergence.h"

#include "calib/spectra/factors.h"

#include <math.h>
#include <string.h>

/* Below this share of the total, a tail is rounding of the float32 directions. */
#define TAIL_LEAST 1e-6
/* Student's t, 95 %, one-sided, two degrees of freedom. */
#define STUDENT_T 2.919986

int ousac_convergence_in_half(size_t split, size_t part) {
    return part == 0 || part == split + 1;
}

double ousac_convergence_captured(const float *directions, size_t rank, size_t dim, const double *packed) {
    double captured = 0;
    for (size_t r = 0; r < rank; r++) {
        const float *d = directions + r * dim;
        const double *row = packed;
        for (size_t i = 0; i < dim; row += ++i) {
            double below = 0;
            for (size_t j = 0; j < i; j++)
                below += row[j] * (double)d[j];
            captured += (double)d[i] * (2 * below + row[i] * (double)d[i]);
        }
    }
    return captured;
}

double ousac_convergence_excess(const double *lambda, size_t count, size_t rank, double captured) {
    const double total = ousac_spectrum_tail(lambda, count, 0),
                 tail = ousac_spectrum_tail(lambda, count, rank);
    if (!(tail > TAIL_LEAST * total))
        return NAN;
    return fmax((total - captured) / tail - 1, 0);
}

void ousac_convergence_estimate(const double *e, size_t sites, ousac_convergence *estimate) {
    double of_split[OUSAC_CONVERGENCE_SPLITS] = {0}, spread = 0;
    memset(estimate, 0, sizeof *estimate);
    for (size_t s = 0; s < sites; s++) {
        double sum = 0;
        for (size_t k = 0; k < OUSAC_CONVERGENCE_SPLITS; k++)
            sum += e[k * sites + s] / 4;
        if (isnan(sum))
            continue;
        for (size_t k = 0; k < OUSAC_CONVERGENCE_SPLITS; k++)
            of_split[k] += e[k * sites + s] / 4;
        estimate->sites++;
        if (sum / OUSAC_CONVERGENCE_SPLITS > estimate->worst || estimate->sites == 1) {
            estimate->worst = sum / OUSAC_CONVERGENCE_SPLITS;
            estimate->worst_site = s;
        }
    }
    estimate->upper = INFINITY;
    if (estimate->sites == 0)
        return;
    for (size_t k = 0; k < OUSAC_CONVERGENCE_SPLITS; k++) {
        of_split[k] /= (double)estimate->sites;
        estimate->excess += of_split[k] / OUSAC_CONVERGENCE_SPLITS;
    }
    for (size_t k = 0; k < OUSAC_CONVERGENCE_SPLITS; k++)
        spread += (of_split[k] - estimate->excess) * (of_split[k] - estimate->excess);
    spread /= OUSAC_CONVERGENCE_SPLITS - 1;
    estimate->upper = estimate->excess + STUDENT_T * sqrt(spread / OUSAC_CONVERGENCE_SPLITS);
}

size_t ousac_convergence_next(size_t samples, double upper, double tolerance, size_t unit) {
    const double units = (double)samples / (double)unit, wanted = ceil(units * upper / tolerance);
    const double next = fmin(fmax(wanted, ceil(1.25 * units)), 2 * floor(units));
    return (size_t)next * unit;
}
