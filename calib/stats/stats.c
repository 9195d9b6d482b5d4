#include "calib/stats/stats.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 2.5 % of the resamples lie strictly outside either end. */
enum { OUTSIDE = OUSAC_BOOTSTRAP_RESAMPLES / 40 };

/* A width relative to the values below which they are one value and its rounding. */
#define NO_WIDTH 1e-9

int ousac_interval_known(const ousac_interval *interval) {
    return isfinite(interval->low) && isfinite(interval->high);
}

const char *ousac_interval_text(const ousac_interval *interval, const char *format,
                                char text[OUSAC_INTERVAL_BYTES]) {
    char low[OUSAC_INTERVAL_BYTES / 2 - 2], high[OUSAC_INTERVAL_BYTES / 2 - 2];
    if (!ousac_interval_known(interval)) {
        (void)snprintf(text, OUSAC_INTERVAL_BYTES, "[no interval]");
        return text;
    }
    (void)snprintf(low, sizeof low, format, interval->low);
    (void)snprintf(high, sizeof high, format, interval->high);
    (void)snprintf(text, OUSAC_INTERVAL_BYTES, "[%s, %s]", low, high);
    return text;
}

void ousac_interval_set(ousac_interval *interval, double low, double high) {
    const int known = high - low > NO_WIDTH * fmax(fabs(low), fabs(high));
    interval->low = known ? low : NAN;
    interval->high = known ? high : NAN;
}

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
    ousac_interval_set(interval, means[OUTSIDE], means[OUSAC_BOOTSTRAP_RESAMPLES - 1 - OUTSIDE]);
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
