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
    double low, high; /* percentile bootstrap interval; both NAN where there is none: of one sample, or of
                         values that are all the same, resamples say nothing */
} ousac_interval;

enum { OUSAC_BOOTSTRAP_RESAMPLES = 10000, OUSAC_INTERVAL_BYTES = 64 };

/* 1 where there is an interval. */
int ousac_interval_known(const ousac_interval *interval);
/* "[0.0039, 0.0091]", or "[no interval]"; `format` is printf's of one double. Returns `text`. */
const char *ousac_interval_text(const ousac_interval *interval, const char *format,
                                char text[OUSAC_INTERVAL_BYTES]);
/* Sets low and high from the ends of the sorted resamples, or to NAN where these are one value but for rounding. */
void ousac_interval_set(ousac_interval *interval, double low, double high);

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
