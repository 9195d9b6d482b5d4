/* What evaluations take on a machine: measured seconds (pipeline/stopwatch.h), reduced to a price of trajectories, and
 * their file.
 *
 * All seconds are of one micro-batch on one thread. A cached evaluation is a line over its uniform rank, fitted to the
 * medians at a few ranks. Medians, not minima: a trajectory meets the typical evaluation hundreds of times, not the
 * luckiest. On the CPU they are seconds of the thread's processor time, which other work on the machine hardly changes;
 * elsewhere of the clock on the wall.
 *
 * The file is JSON, written and read here alone (formats/TIME.md).
 */
#ifndef OUSAC_TIMING_H
#define OUSAC_TIMING_H

#include "calib/price.h"
#include "formats/json_build.h"
#include "formats/schedule.h"
#include "formats/sha256.h"
#include "formats/status.h"
#include "pipeline/session.h"

#include <stddef.h>

enum { OUSAC_TIMING_RANKS_MAX = 16, OUSAC_TIMING_TEXT_BYTES = 160 };

/* Of repeated measurements, in seconds. */
typedef struct ousac_timing_spread {
    double median, least, most;
    size_t count;
} ousac_timing_spread;

typedef enum ousac_timing_part {
    OUSAC_TIMING_FULL = 0,    /* an evaluation in full of a run that keeps no cache */
    OUSAC_TIMING_REFRESH = 1, /* in full, and kept */
    OUSAC_TIMING_REUSE = 2,
    OUSAC_TIMING_EXTRAPOLATE = 3,
    OUSAC_TIMING_ALONE = 4, /* as FULL, at steps that evaluate the conditional branch alone */
    OUSAC_TIMING_STEP = 5,  /* a step beside its evaluations: the solver, copies to and from the device */
    OUSAC_TIMING_PARTS = 6
} ousac_timing_part;
const char *ousac_timing_part_name(
    ousac_timing_part part); /* "full", "refresh", "reuse", "extrapolate", "alone", "step" */

/* Cached evaluations at a uniform rank, without and with a forecast. */
typedef struct ousac_timing_point {
    size_t rank;
    ousac_timing_spread cached[2];
} ousac_timing_point;

/* fixed + per_rank * rank, per_rank at least 0. */
typedef struct ousac_timing_line {
    double fixed, per_rank;
    double residual; /* the largest distance of a median from it, over it */
} ousac_timing_line;

typedef struct ousac_timing {
    char processor[OUSAC_TIMING_TEXT_BYTES], backend[OUSAC_TIMING_TEXT_BYTES]; /* names, for people */
    char device[OUSAC_TIMING_TEXT_BYTES], compute[OUSAC_TIMING_TEXT_BYTES];    /* "cpu", "f32" */
    size_t processors, threads, micro_batch;
    char model_digest[OUSAC_DIGEST_CHARS];
    ousac_mode mode;     /* of the steps */
    int processor_clock; /* 1: processor time, 0: wall */
    size_t repeats;
    ousac_timing_spread part[OUSAC_TIMING_PARTS];
    size_t point_count; /* at least 2, ranks rising */
    ousac_timing_point point[OUSAC_TIMING_RANKS_MAX];
    ousac_timing_line line[2]; /* without and with a forecast */
} ousac_timing;

/* Sorts the values, which are at least one. */
ousac_timing_spread ousac_timing_spread_of(double *seconds, size_t count);
/* Least squares; of ranks that are all the same, or medians that fall, the mean. */
void ousac_timing_reduce(ousac_timing *timing);

/* The largest uniform rank at which every layer is corrected; 0 where there is none. */
size_t ousac_timing_rank_most(const ousac_arch *arch);
/* As a price in picoseconds, for uniform ranks to that one or the largest measured. UNSUPPORTED where there is none. Free
 * with ousac_price_free. */
ousac_status ousac_timing_price(ousac_price *price, const ousac_timing *timing, const ousac_arch *arch,
                                ousac_error *error);
/* 1 where a cached evaluation takes less than one in full, at its least rank. */
int ousac_timing_cache_saves(const ousac_timing *timing);

/* Fills all that says what is measured where; the model is loaded. */
void ousac_timing_identify(ousac_timing *timing, const ousac_session *session, ousac_mode mode);
/* MISMATCH, naming the key, where a file is of another model, device, compute type, number of threads, micro-batch or
 * mode than `expected`. */
ousac_status ousac_timing_check(const ousac_timing *timing, const ousac_timing *expected, const char *name,
                                ousac_error *error);
/* "NAME, cpu, f32, 1 thread, micro-batches of 4". */
enum { OUSAC_TIMING_LINE_BYTES = 512 };
void ousac_timing_describe(const ousac_timing *timing, char text[OUSAC_TIMING_LINE_BYTES]);
/* Of everything that a search depends on: lines, medians, machine. */
void ousac_timing_digest(const ousac_timing *timing, char digest[OUSAC_DIGEST_CHARS]);

/* --- the file --- */

ousac_status ousac_timing_save(const ousac_timing *timing, const char *path, ousac_error *error);
void ousac_timing_put(ousac_json_doc *doc, cJSON *object, const ousac_timing *timing);
/* IO; FORMAT naming the key: not JSON, one that is missing, unknown, twice there or out of range, a line that is
 * further from its points than it says; UNSUPPORTED for another version. */
ousac_status ousac_timing_load(ousac_timing *timing, const char *path, ousac_error *error);
ousac_status ousac_timing_parse(ousac_timing *timing, const char *text, size_t size, const char *name,
                                ousac_error *error);

#endif
