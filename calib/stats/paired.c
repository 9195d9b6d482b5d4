#include "calib/stats/paired.h"

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

/* The same draws as those of calib/stats/stats.c, so that intervals printed side by side are of the same
 * resamples. */
static double resample_ratio(const double *over2, const double *under2, size_t count, uint64_t seed,
                             uint64_t resample) {
    double over = 0, under = 0;
    for (size_t i = 0; i < count; i += 4) {
        uint32_t words[4];
        ousac_philox_draw(seed, OUSAC_STREAM_BOOTSTRAP, resample, (uint32_t)(i / 4), words);
        for (size_t l = 0; l < 4 && i + l < count; l++) {
            const size_t j = (size_t)(((uint64_t)words[l] * (uint64_t)count) >> 32);
            over += over2[j];
            under += under2[j];
        }
    }
    return over / under;
}

ousac_status ousac_paired_ratio(const double *over2, const double *under2, size_t count, uint64_t seed,
                                ousac_interval *interval, ousac_error *error) {
    double *ratios = NULL;
    double over = 0, under = 0;
    memset(interval, 0, sizeof *interval);
    if (count == 0 || count > UINT32_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a ratio over %zu pairs: expected 1 to 2^32 - 1", count);
    for (size_t i = 0; i < count; i++) {
        /* so that neither a sum of `count` of them nor the quotient leaves the range of a double */
        if (!(over2[i] >= 0) || !(under2[i] > 0) || over2[i] > 1e100 || under2[i] > 1e100 ||
            under2[i] < 1e-100)
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                              "pair %zu of %zu is %g over %g: expected finite squares, the second positive",
                              i, count, over2[i], under2[i]);
        over += over2[i];
        under += under2[i];
    }
    ratios = ousac_malloc(OUSAC_BOOTSTRAP_RESAMPLES, sizeof *ratios);
    if (!ratios)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %d resamples",
                          OUSAC_BOOTSTRAP_RESAMPLES);
    for (size_t r = 0; r < OUSAC_BOOTSTRAP_RESAMPLES; r++)
        ratios[r] = resample_ratio(over2, under2, count, seed, r);
    qsort(ratios, OUSAC_BOOTSTRAP_RESAMPLES, sizeof *ratios, compare_doubles);
    /* The root is monotone, so percentiles carry over. */
    interval->mean = sqrt(over / under);
    ousac_interval_set(interval, sqrt(ratios[OUTSIDE]),
                       sqrt(ratios[OUSAC_BOOTSTRAP_RESAMPLES - 1 - OUTSIDE]));
    ousac_free(ratios);
    return OUSAC_STATUS_OK;
}

ousac_paired_verdict ousac_paired_decide(const ousac_interval *ratio, double threshold) {
    /* Without an interval both comparisons are false. */
    return ratio->low > threshold    ? OUSAC_PAIRED_ABOVE
           : ratio->high < threshold ? OUSAC_PAIRED_BELOW
                                     : OUSAC_PAIRED_UNDECIDED;
}

size_t ousac_paired_more(const ousac_interval *ratio, double threshold, size_t count) {
    if (!ousac_interval_known(ratio) || ousac_paired_decide(ratio, threshold) != OUSAC_PAIRED_UNDECIDED)
        return 0;
    /* Undecided, so the end that lies beyond the threshold is at least as far from the mean as it is. */
    const double end = ratio->mean > threshold ? ratio->low : ratio->high;
    const double reach = fabs(log(ratio->mean / end)), distance = fabs(log(ratio->mean / threshold));
    const double times = reach / distance;
    if (!(times * times <= OUSAC_PAIRED_MOST))
        return 0;
    const size_t needed = (size_t)ceil(times * times * (double)count);
    return needed > count ? needed - count : 1;
}
