/* Two runs on the same samples: the ratio of their relative errors, its bootstrap interval, and what the
 * interval says about a threshold.
 *
 * Paired: a resample draws samples, and with each of them both of its errors, so what makes a sample hard for
 * both runs cancels.
 */
#ifndef OUSAC_PAIRED_H
#define OUSAC_PAIRED_H

#include "calib/stats/stats.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* sqrt(sum of over2 / sum of under2), the ratio of two root means, and its 95 % percentile bootstrap
 * interval; resamples are those of calib/stats/stats.h under the same seed and count. count >= 1; NUMBER where a
 * value is not finite, an over2 is negative or an under2 is not positive. */
ousac_status ousac_paired_ratio(const double *over2, const double *under2, size_t count, uint64_t seed,
                                ousac_interval *interval, ousac_error *error);

typedef enum ousac_paired_verdict {
    OUSAC_PAIRED_BELOW = -1,    /* the whole interval lies below the threshold */
    OUSAC_PAIRED_UNDECIDED = 0, /* it holds the threshold, or there is none */
    OUSAC_PAIRED_ABOVE = 1
} ousac_paired_verdict;
ousac_paired_verdict ousac_paired_decide(const ousac_interval *ratio, double threshold);

/* For an undecided ratio on `count` samples: how many more might decide, if the ratio stayed what it is and
 * its interval shrank, on a logarithmic scale, with the root of the number of samples. 0 where that would be
 * more than OUSAC_PAIRED_MOST times as many: the ratio is the threshold, for all that can be said; 0 too
 * where it is decided already or there is no interval. */
enum { OUSAC_PAIRED_MOST = 100 };
size_t ousac_paired_more(const ousac_interval *ratio, double threshold, size_t count);

#ifdef __cplusplus
}
#endif
#endif
