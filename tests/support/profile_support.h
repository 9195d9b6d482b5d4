/* Synthetic models, schedules and profiles of a few kilobytes, pure functions of their arguments; and
 * archives rewritten with something wrong in them. Every function fails the running cmocka test where
 * anything goes wrong.
 */
#ifndef OUSAC_TESTS_PROFILE_SUPPORT_H
#define OUSAC_TESTS_PROFILE_SUPPORT_H

#include "formats/dtype.h"
#include "profile/model/model.h"
#include "profile/record/profile.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SYNTHETIC_STEPS = 6,
    SYNTHETIC_BLOCKS = 2,
    SYNTHETIC_TOKENS = 4,
    SYNTHETIC_WIDTH = 8,
    SYNTHETIC_HIDDEN = 32
};

#define SYNTHETIC_CONSTANTS "synthetic heads=2"
#define SYNTHETIC_PROCESS "predicts epsilon, guidance on 3 of 3 channels, noise levels flow/10"

void must_succeed(ousac_status status, const ousac_error *error);
/* The status, and a message that holds `text`. */
void must_fail(ousac_status status, ousac_status expected, const ousac_error *error, const char *text);

/* Results of the same products over other numbers of rows, whose sums a library may round otherwise (OpenBLAS for Prescott, which
 * it takes processors for that are newer than it): a relative difference of at most 1e-5. */
void same_but_for_rounding(const float *value, const float *expected, size_t count);

/* 2 blocks, 4 tokens, width 8, hidden 32. */
void synthetic_arch(ousac_arch *arch);

/* Steps 0..5, modes cfg cfg cond cfg cond cfg, gates full cached cached full cached cached. */
void synthetic_schedule(ousac_schedule *schedule);

/* Digests of 64 times the same hexadecimal digit. */
void synthetic_digest(char digest[OUSAC_DIGEST_CHARS], char digit);

/* A model of the synthetic arch with normal weights, which cannot run; its digest is of digit 'a'. Free with
 * synthetic_model_free. */
void synthetic_model(ousac_model **model, uint64_t seed);
void synthetic_model_free(ousac_model *model);
/* W (m, n) of a site, to be written to. */
float *synthetic_weight(const ousac_model *model, size_t site);

/* A profile of the synthetic arch and schedule, `segments` segments, of model digest 'a', that recorded
 * samples [first, first + count): every sample adds the same numbers whatever the range that it is recorded
 * in. */
void synthetic_profile(ousac_profile **profile, uint64_t first, uint64_t count, size_t segments,
                       int with_moments);

/* The same of one segment, with moments and channel magnitudes. */
void synthetic_profile_with_magnitudes(ousac_profile **profile, uint64_t first, uint64_t count);

/* A copy of an archive with changes. */
typedef struct archive_edit {
    const char *drop;        /* a metadata key or a tensor's name to leave out; NULL: none */
    const char *key, *value; /* metadata to put in place of what is there; NULL: none */
    const char *tensor;      /* a tensor to put in place of what is there; NULL: none */
    ousac_dtype dtype;
    size_t dims;
    uint64_t shape[4];
    const void *data;
} archive_edit;
void rewrite_archive(const char *source, const char *target, const archive_edit *edit);

/* 1 where two files hold the same bytes. */
int files_are_equal(const char *a, const char *b);
int file_exists(const char *path);

#endif
