/* Measuring what evaluations take on this machine (pipeline/timing.h), and what a whole run takes beside another.
 *
 * Short trajectories are run with all threads busy, and every evaluation in them is timed by itself. What is compared is
 * measured in turn, so that whatever else the machine does meets all alike. The factors are rows of the weights: a layer
 * corrected by them must give its first `rank` outputs exactly and the others as they were cached, which is checked
 * before a rank is timed.
 */
#ifndef OUSAC_STOPWATCH_H
#define OUSAC_STOPWATCH_H

#include "pipeline/session.h"
#include "pipeline/timing.h"
#include "profile/run/calibration.h"

#include <stddef.h>

#define OUSAC_DEFAULT_REPEATS 5

typedef struct ousac_stopwatch_options {
    const ousac_schedule
        *like;          /* whose steps are run, one mode at all of them; NULL: steps made for the model, both
                                   branches where it has both */
    const size_t *rank; /* (rank_count), rising, at least 2 and at most ousac_timing_rank_most */
    size_t rank_count;  /* 0: ranks spread over those */
    size_t repeats;
} ousac_stopwatch_options;

/* USAGE for ranks or steps that are none of these; UNSUPPORTED where the model has not two ranks; INTERNAL where a cached
 * evaluation is not what it must be. */
ousac_status ousac_stopwatch_measure(ousac_timing *timing, const ousac_session *session,
                                     const ousac_stopwatch_options *options, ousac_error *error);

/* What a whole run takes over another, in turn: the median of the repeats' shares, of wall time and of the process's
 * processor time (NAN on another device than the CPU). */
typedef struct ousac_stopwatch_share {
    double wall, wall_least, wall_most, processor;
    size_t repeats;
} ousac_stopwatch_share;

/* `calibration` NULL: the schedule is run in full, like the reference. One micro-batch on every thread, `repeats` times. */
ousac_status ousac_stopwatch_compare(ousac_stopwatch_share *share, const ousac_session *session,
                                     const ousac_schedule *reference, const ousac_schedule *schedule,
                                     const ousac_calibration *calibration, size_t repeats,
                                     ousac_error *error);

#endif
