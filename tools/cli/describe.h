/* Short texts and counts that several commands show: sizes, ranges, what a schedule amounts to; and what kind
 * of file a path holds, told from its content.
 */
#ifndef OUSAC_DESCRIBE_H
#define OUSAC_DESCRIBE_H

#include "formats/json_build.h"
#include "formats/oca.h"
#include "formats/schedule.h"
#include "formats/status.h"
#include "profile/record/profile.h"

#include <stddef.h>
#include <stdint.h>

enum { DESCRIBE_BYTES = 64, DESCRIBE_LINE_BYTES = 256 };

/* "812 B", "3.1 MB", "1.2 GB": powers of 1000. */
void describe_bytes(char text[DESCRIBE_BYTES], uint64_t bytes);
/* "118.6 GMAC". */
void describe_macs(char text[DESCRIBE_BYTES], double macs);
/* "0:16,32:48", cut with "..." where it is too long. */
void describe_ranges(char text[DESCRIBE_LINE_BYTES], const ousac_sample_range *ranges, size_t count);
/* "(3, 384)". */
void describe_shape(char text[DESCRIBE_LINE_BYTES], const uint64_t *shape, size_t dims);

typedef struct schedule_counts {
    size_t guided; /* steps of mode cfg */
    double scale_low, scale_high;
    size_t told; /* steps that say what the model is told */
    double told_low, told_high;
    size_t refreshes; /* steps whose gate says full on a branch that the step evaluates */
    int undecided;    /* 1: some gate is auto; the three below are then 0 */
    size_t forwards_full, forwards_cached, forwards_reuse,
        forwards_extrapolate; /* branch evaluations of one sample, effective gates */
    char digest[OUSAC_DIGEST_CHARS];
} schedule_counts;

ousac_status describe_schedule(const ousac_schedule *schedule, schedule_counts *counts, ousac_error *error);
/* "50 steps, ddim, 9 guided (scale 5), 17 refreshes: 21 full and 38 cached forwards a sample". */
void describe_schedule_line(char text[DESCRIBE_LINE_BYTES], const ousac_schedule *schedule,
                            const schedule_counts *counts);
/* Name, digest and counts as members of `object`. */
void describe_schedule_json(ousac_json_doc *doc, cJSON *object, const ousac_schedule *schedule,
                            const schedule_counts *counts);

typedef enum file_kind {
    FILE_KIND_UNKNOWN = 0,
    FILE_KIND_PROFILE,
    FILE_KIND_PLAN,
    FILE_KIND_BUNDLE,
    FILE_KIND_ARCHIVE, /* any other .oca */
    FILE_KIND_SAFETENSORS,
    FILE_KIND_SCHEDULE,   /* also any other JSON text that is none of these: */
    FILE_KIND_EVALUATION, /* of ousac eval */
    FILE_KIND_COST,       /* of ousac calibrate */
    FILE_KIND_SEARCH,     /* of ousac calibrate: what a search compared */
    FILE_KIND_REFIT,      /* of ousac refit */
    FILE_KIND_TIME,       /* of ousac time */
    FILE_KIND_COMPARISON, /* cells of the comparison of methods */
    FILE_KIND_CONFIG      /* of a model */
} file_kind;
enum { FILE_JSON_BYTES_MAX = 64 << 20, FILE_JSON_VALUES_MAX = 4000000 };

const char *
file_kind_name(file_kind kind); /* "profile", ..., "archive", "safetensors", "schedule", "unknown" */

/* Errors: IO; FORMAT where the file begins like an archive and its header or index is damaged. `size` may be
 * NULL. */
ousac_status file_kind_detect(file_kind *kind, uint64_t *size, const char *path, ousac_error *error);
/* FORMAT for a file of none of these kinds, which says what it is where that is known (formats/foreign.h). */
ousac_status file_kind_refuse(const char *path, ousac_error *error);

#endif
