#include "calib/stats/stats.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* 2.5 % of the resamples lie strictly outside either end. */
enum { OUTSIDE = OUSAC_BOOTSTRAP_RESAMPLES / 40 };

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Mean of one resample. An index is (word * count) >> 32: its bias is below count / 2^32, far under the
 * resampling noise, and every resample reads its stream in order. */
static double resample_mean(const double *values, size_t count, uint64_t seed, uint64_t resample) {
    double sum = 0;
    for (size_t i = 0; i < count; i += 4) {
        uint32_t words[4];
        ousac_philox_draw(seed, OUSAC_STREAM_BOOTSTRAP, resample, (uint32_t)(i / 4), words);
        for (size_t l = 0; l < 4 && i + l < count; l++)
            sum += values[((uint64_t)words[l] * (uint64_t)count) >> 32];
    }
    return sum / (double)count;
}

ousac_status ousac_stats_mean(const double *values, size_t count, uint64_t seed, ousac_interval *interval,
                              ousac_error *error) {
    double *means = NULL;
    double sum = 0, magnitude = 0;
    memset(interval, 0, sizeof *interval);
    if (count == 0 || count > UINT32_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "statistics of %zu values: expected 1 to 2^32 - 1",
                          count);
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
        magnitude = fmax(magnitude, fabs(values[i]));
        if (!isfinite(values[i]))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "value %zu of %zu is not finite", i, count);
    }
    /* Bounds the sum of every resample. */
    if (!isfinite(magnitude * (double)count))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "values up to %g: the sum of %zu is not finite",
                          magnitude, count);
    means = ousac_malloc(OUSAC_BOOTSTRAP_RESAMPLES, sizeof *means);
    if (means == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %d resamples",
                          OUSAC_BOOTSTRAP_RESAMPLES);
    for (size_t r = 0; r < OUSAC_BOOTSTRAP_RESAMPLES; r++)
        means[r] = resample_mean(values, count, seed, r);
    qsort(means, OUSAC_BOOTSTRAP_RESAMPLES, sizeof *means, compare_doubles);
    interval->mean = sum / (double)count;
    interval->low = means[OUTSIDE];
    interval->high = means[OUSAC_BOOTSTRAP_RESAMPLES - 1 - OUTSIDE];
    ousac_free(means);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_stats_root_mean(const double *squares, size_t count, uint64_t seed,
                                   ousac_interval *interval, ousac_error *error) {
    for (size_t i = 0; i < count; i++)
        if (squares[i] < 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "square %zu of %zu is %g: expected at least 0", i,
                              count, squares[i]);
    const ousac_status status = ousac_stats_mean(squares, count, seed, interval, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    /* The root is monotone, so percentiles carry over. */
    interval->mean = sqrt(interval->mean);
    interval->low = sqrt(interval->low);
    interval->high = sqrt(interval->high);
    return OUSAC_STATUS_OK;
}
