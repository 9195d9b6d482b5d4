/* What a search under a budget in time is measured by, and what became of it.
 */
#ifndef OUSAC_SEARCH_TIME_H
#define OUSAC_SEARCH_TIME_H

#include "pipeline/session.h"
#include "pipeline/stopwatch.h"
#include "pipeline/timing.h"

typedef struct ousac_search_time_options {
    const ousac_schedule *reference; /* one mode at all steps */
    const char *given;               /* a file of measurements; NULL: measured here */
    const char *measured;            /* then written here */
    int take_up; /* 1: what an interrupted search has measured there is used again, where it is of this very setting */
} ousac_search_time_options;

/* MISMATCH, naming the key, for a file that is of another model, device, compute type, number of threads, micro-batch or
 * mode; one of another processor is used, and a note says so. */
ousac_status ousac_search_time(const ousac_session *session, const ousac_search_time_options *options,
                               ousac_timing *timing, ousac_error *error);

/* "a budget of 0.35 of the reference's time on ...": for a plan's note and a bundle's provenance. */
enum { OUSAC_SEARCH_TIME_BYTES = OUSAC_TIMING_LINE_BYTES + 64 };
void ousac_search_time_text(const ousac_timing *timing, double budget, char text[OUSAC_SEARCH_TIME_BYTES]);

#endif
