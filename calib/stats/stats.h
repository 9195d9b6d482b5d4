/* Means and bootstrap confidence intervals over samples.
 */
#ifndef OUSAC_STATS_H
#define OUSAC_STATS_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_interval {
    double mean;      /* the statistic on all samples */
    double low, high; /* percentile bootstrap interval */
} ousac_interval;

enum { OUSAC_BOOTSTRAP_RESAMPLES = 10000 };

/* The arithmetic mean of `count` values and its 95 % percentile bootstrap interval, resampled with Philox
 * under `seed` (OUSAC_STREAM_BOOTSTRAP): the same values and seed give the same interval. count >= 1; NUMBER
 * where a value is not finite. */
ousac_status ousac_stats_mean(const double *values, size_t count, uint64_t seed, ousac_interval *interval,
                              ousac_error *error);
/* The same of the root of the mean of `squares` (a relative error over samples is rms over samples). */
ousac_status ousac_stats_root_mean(const double *squares, size_t count, uint64_t seed,
                                   ousac_interval *interval, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
