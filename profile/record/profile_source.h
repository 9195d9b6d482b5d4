/* Sizes of a profile's arrays and where its moments are: internal to the files that make profiles.
 */
#ifndef OUSAC_PROFILE_SOURCE_H
#define OUSAC_PROFILE_SOURCE_H

#include "profile/files/archive.h"
#include "profile/record/profile.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ousac_profile_source {
    ousac_archive archive;
    char digest[OUSAC_DIGEST_CHARS]; /* of the profile, as computed when it was opened */
};

typedef enum ousac_moment_place {
    OUSAC_MOMENTS_NONE, /* a pilot */
    OUSAC_MOMENTS_MEMORY,
    OUSAC_MOMENTS_SPILL, /* mapped from a nameless file */
    OUSAC_MOMENTS_FILE   /* not yet read: the caller sets profile->file */
} ousac_moment_place;

/* ousac_profile_create for every place; `directory` is of the spill, else unused. */
ousac_status ousac_profile_create_in(ousac_profile **profile, const ousac_arch *arch,
                                     const ousac_schedule *schedule, const ousac_profile_identity *identity,
                                     const double *weight, ousac_moment_place place, const char *directory,
                                     ousac_error *error);

/* Elements of a (S, OUSAC_BRANCHES, width) array; moments of a profile that has them, and doubles of one. */
size_t ousac_profile_steps_size(const ousac_profile *profile, size_t width);
size_t ousac_profile_moment_count(const ousac_profile *profile);
size_t ousac_profile_size_of_moment(const ousac_profile *profile, size_t index);

/* The array of moments and what it points to, zeroed. What was made is released with the profile. */
ousac_status ousac_profile_place_moments(ousac_profile *profile, ousac_moment_place place,
                                         const char *directory, ousac_error *error);

/* "moment/GROUP/SEGMENT" */
void ousac_profile_name_moment(char name[OUSAC_TENSOR_NAME_BYTES], const ousac_arch *arch, size_t index);

/* ousac_profile_digest, computed anew wherever the moments are; each is checked to be finite where it is read
 * from the file. */
ousac_status ousac_profile_compute_digest(const ousac_profile *profile, char digest[OUSAC_DIGEST_CHARS],
                                          ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
