/* A profile: what was seen of the deltas that a schedule makes, its identity, and its file form.
 *
 * Sums over samples, so profiles of disjoint sample ranges add up (ousac_profile_merge). Written and read as
 * an .oca archive; the names of the tensors are listed in formats/PROFILE.md.
 */
#ifndef OUSAC_PROFILE_H
#define OUSAC_PROFILE_H

#include "calib/arch.h"
#include "formats/oca_write.h"
#include "formats/schedule.h"
#include "formats/sha256.h"
#include "formats/spill.h"
#include "formats/status.h"
#include "profile/files/identity.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Scalars recorded for every step and branch; sums of squares over the samples recorded and over all tokens,
 * for which the tokens used stand. The delta of an evaluation is against the branch's last full evaluation
 * before it, also where it is full itself (the error that a refresh removes); 0 where there is none. */
typedef enum ousac_scalar {
    OUSAC_SCALAR_X2 = 0,       /* per group: ||x||^2 */
    OUSAC_SCALAR_DX2 = 1,      /* per group: ||x - x_c||^2 */
    OUSAC_SCALAR_Y2 = 2,       /* per site: ||y||^2 */
    OUSAC_SCALAR_DY2 = 3,      /* per site: ||y - y_c||^2 */
    OUSAC_SCALAR_MODULE2 = 4,  /* per module: ||out||^2 */
    OUSAC_SCALAR_DMODULE2 = 5, /* per module: ||out - out_c||^2 */
    OUSAC_SCALAR_COUNT = 6
} ousac_scalar;

/* Channel magnitudes, optional: what the published channel-aware factors are scaled by. Every sample adds a
 * number from 0 to 1 per channel, the average over its evaluations of the mean over tokens of the absolute
 * value, min-max normalised over the channels of the layer (formats/PROFILE.md). */
typedef enum ousac_magnitude {
    OUSAC_MAGNITUDE_X = 0,   /* per group, n channels: |x| */
    OUSAC_MAGNITUDE_Y = 1,   /* per site, m channels: |y| */
    OUSAC_MAGNITUDE_ADX = 2, /* per group: |x - x'|, x' of the branch's ousac_eval before, full or not */
    OUSAC_MAGNITUDE_ADY = 3, /* per site: |y - y'| */
    OUSAC_MAGNITUDE_COUNT = 4
} ousac_magnitude;

typedef struct ousac_sample_range {
    uint64_t first, count;
} ousac_sample_range;

/* In what numbers the model's linears ran, and its attention; the rest is float32. */
typedef enum ousac_compute {
    OUSAC_COMPUTE_F32 = 0,
    OUSAC_COMPUTE_BF16 = 1,           /* linears in bfloat16, as on a CPU */
    OUSAC_COMPUTE_BF16_ATTENTION = 2, /* attention too, as on a GPU */
    OUSAC_COMPUTE_BF16_UNKNOWN = 3,   /* one of the two: a file of version 1 does not say */
    OUSAC_COMPUTE_F16_ATTENTION = 4   /* both in half precision: captured of somebody else's run */
} ousac_compute;

typedef struct ousac_profile_identity {
    char model_digest[OUSAC_DIGEST_CHARS];
    char model_constants[OUSAC_CONSTANTS_BYTES], model_process[OUSAC_PROCESS_BYTES];
    char inputs_digest[OUSAC_DIGEST_CHARS];  /* of the inputs file; "" where inputs are drawn by the seed */
    char weights_digest[OUSAC_DIGEST_CHARS]; /* of the step weights */
    uint64_t seed;
    size_t micro_batch;
    size_t tokens_used; /* per sample and step, 1..N of the longest stream: how many tokens of each stream are
                           seen, all of a shorter one */
    size_t segments;    /* of the step range, each with its own moments; at least 1 */
    int magnitudes;     /* 1: channel magnitudes are recorded */
    ousac_compute compute;
    int tokens_unknown; /* 1: the tokens used were chosen by a rule that a file of version 1 does not state */
} ousac_profile_identity;

/* The file that a profile's moments are still in. */
typedef struct ousac_profile_source ousac_profile_source;

typedef struct ousac_profile {
    int version; /* of the format whose digest it has: 1 of what was read from such a file, else 2 */
    ousac_profile_identity identity;
    ousac_arch arch;
    ousac_schedule schedule;
    ousac_sample_range *ranges; /* range_count, rising, disjoint, not adjacent */
    size_t range_count;
    int *gate; /* (S, OUSAC_BRANCHES): effective gate, -1 where the branch is not evaluated */
    int *age;  /* (S, OUSAC_BRANCHES): steps since the branch's last full ousac_eval before; 0 for none, and
                  where  the branch is not evaluated */
    double *weight;                     /* (S, OUSAC_BRANCHES, group_count): step weights */
    double *scalar[OUSAC_SCALAR_COUNT]; /* (S, OUSAC_BRANCHES, sites, groups or modules) */
    /* [segment * group_count + group]: packed lower triangle of dim; NULL in a pilot profile. Each is in
     * memory, or mapped from `spill`, or NULL where it is still in `file`. */
    double **moment;
    double *magnitude[OUSAC_MAGNITUDE_COUNT]; /* channels of group or site after one another; NULL without */
    ousac_spill *spill;                       /* NULL for none */
    ousac_profile_source *file;               /* of a profile that was opened, not loaded; else NULL */
} ousac_profile;

/* Borrows the profile's texts of its model. */
ousac_identity ousac_profile_model(const ousac_profile *profile);

/* Entries of a scalar for one step and branch: group_count, site_count or module_count. */
size_t ousac_profile_scalar_width(const ousac_arch *arch, ousac_scalar scalar);
const char *ousac_scalar_name(ousac_scalar scalar);          /* "x2", "dx2", ... */
const char *ousac_magnitude_name(ousac_magnitude magnitude); /* "x", "y", "adx", "ady" */
const char *ousac_compute_name(
    ousac_compute compute); /* "f32", "bf16", "bf16+attention", "bf16+unknown", "f16+attention" */
/* How many groups or sites the kind is recorded for, and the channels of one: n or m. */
size_t ousac_profile_magnitude_parts(const ousac_arch *arch, ousac_magnitude magnitude);
size_t ousac_profile_magnitude_channels(const ousac_arch *arch, ousac_magnitude magnitude, size_t index);
/* Where the channels of a group or site begin in the array of the kind, and its length. */
size_t ousac_profile_magnitude_offset(const ousac_arch *arch, ousac_magnitude magnitude, size_t index);
size_t ousac_profile_magnitude_size(const ousac_arch *arch, ousac_magnitude magnitude);
/* Doubles of a group's packed moment: dim (dim + 1) / 2. */
size_t ousac_profile_moment_size(const ousac_group *group);
/* Segment of a step: floor(step * segments / S). */
size_t ousac_profile_segment(const ousac_profile *profile, size_t step);
/* Samples recorded. */
uint64_t ousac_profile_samples(const ousac_profile *profile);

/* An empty profile: copies of arch and schedule, gates and ages from the schedule, zero sums, weights all 1
 * where `weight` is NULL. with_moments 0 makes a pilot profile. The weights' digest is computed, not taken
 * from `identity`. USAGE for an identity out of range, a weight that is negative or not finite, or a schedule
 * that leaves gates to a plan. */
ousac_status ousac_profile_create(ousac_profile **profile, const ousac_arch *arch,
                                  const ousac_schedule *schedule, const ousac_profile_identity *identity,
                                  const double *weight, int with_moments, ousac_error *error);
/* The same with the moments mapped from a nameless file in `directory`: for those that exceed memory. NULL
 * for in memory. */
ousac_status ousac_profile_create_spilled(ousac_profile **profile, const ousac_arch *arch,
                                          const ousac_schedule *schedule,
                                          const ousac_profile_identity *identity, const double *weight,
                                          int with_moments, const char *directory, ousac_error *error);
void ousac_profile_free(ousac_profile *profile);

/* Copies moment `index` of a profile with moments into `target`, ousac_profile_moment_size doubles, from
 * wherever it is. Errors: those of reading the file. Thread-safe. */
ousac_status ousac_profile_read_moment(const ousac_profile *profile, size_t index, double *target,
                                       ousac_error *error);
/* The sum of a group's moments over the segments, likewise. */
ousac_status ousac_profile_sum_moments(const ousac_profile *profile, size_t group, double *target,
                                       ousac_error *error);
/* Takes a moment that is mapped from a spill out of memory until it is touched again; else nothing. */
void ousac_profile_drop_moment(const ousac_profile *profile, size_t index);

/* Records that samples [first, first + count) are in the sums. MISMATCH, naming both ranges, where some
 * already are. */
ousac_status ousac_profile_add_range(ousac_profile *profile, uint64_t first, uint64_t count,
                                     ousac_error *error);

/* Adds the sums and the range of `more`. MISMATCH naming what differs: model, schedule, seed, micro-batch,
 * tokens, segments, weights, or overlapping sample ranges, or where a profile of version 1 does not say what
 * must agree; the profile is then unchanged. `more` may have
 * been opened instead of loaded; where its file then cannot be read, the profile is fit to be freed only. */
ousac_status ousac_profile_merge(ousac_profile *profile, const ousac_profile *more, ousac_error *error);

/* The arrays that merging adds up (scalars, moments, magnitudes), in a fixed order: how many there are, and
 * each, of *count values. For sums made elsewhere, such as over processes. */
size_t ousac_profile_sum_count(const ousac_profile *profile);
double *ousac_profile_sum(const ousac_profile *profile, size_t index, size_t *count);

/* Step weights from the delta energies of a pilot: w = samples / trace of the site group's delta moment at
 * that step and branch (0 where the trace is 0 or the step is not cached). weight (S, OUSAC_BRANCHES,
 * group_count). */
void ousac_profile_step_weights(const ousac_profile *pilot, double *weight);
void ousac_profile_weights_digest(const ousac_profile *profile, char digest[OUSAC_DIGEST_CHARS]);

/* `run_text`: JSON of what the run cost, kept as metadata under "run" and outside every digest; may be NULL.
 */
ousac_status ousac_profile_save(const ousac_profile *profile, const char *path, const char *run_text,
                                ousac_error *error);
/* The same of a profile without moments of its own (with_moments 0), whose moments `source` lends: moment
 * [segment * group_count + group] packed, each twice, so that no two need be in memory at once. What the
 * source fails with is passed on. */
ousac_status ousac_profile_save_streamed(const ousac_profile *profile, ousac_oca_source source, void *self,
                                         const char *path, const char *run_text, ousac_error *error);
ousac_status ousac_profile_load(ousac_profile **profile, const char *path, ousac_error *error);

/* The same, but the moments stay in the file: each is read once, for the digest, and again by
 * ousac_profile_read_moment. Such a profile is for reading: it may not be added to, saved or recorded into.
 */
ousac_status ousac_profile_open(ousac_profile **profile, const char *path, ousac_error *error);

/* SHA-256 of everything but what the run cost. */
void ousac_profile_digest(const ousac_profile *profile, char digest[OUSAC_DIGEST_CHARS]);
/* The same with moments that `source` lends, one after another; NULL for those of the profile. */
ousac_status ousac_profile_digest_streamed(const ousac_profile *profile, ousac_oca_source source, void *self,
                                           char digest[OUSAC_DIGEST_CHARS], ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
