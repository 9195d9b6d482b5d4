/* The moments of a profile, in memory, mapped from a spill, or still in the file. */
#include "profile/record/profile.h"

#include "formats/memory.h"
#include "profile/files/arch_text.h"
#include "profile/record/profile_source.h"

#include <stdio.h>
#include <string.h>

void ousac_profile_name_moment(char name[OUSAC_TENSOR_NAME_BYTES], const ousac_arch *arch, size_t index) {
    (void)snprintf(name, OUSAC_TENSOR_NAME_BYTES, "moment/%s/%zu",
                   arch->groups[index % arch->group_count].name, index / arch->group_count);
}

ousac_status ousac_profile_place_moments(ousac_profile *profile, ousac_moment_place place,
                                         const char *directory, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (place == OUSAC_MOMENTS_NONE)
        return status;
    profile->moment = ousac_calloc(ousac_profile_moment_count(profile), sizeof *profile->moment);
    int complete = profile->moment != NULL;
    if (complete && place == OUSAC_MOMENTS_SPILL)
        status = ousac_spill_create(&profile->spill, directory, error);
    for (size_t i = 0;
         complete && !status && place != OUSAC_MOMENTS_FILE && i < ousac_profile_moment_count(profile); i++) {
        void *block = NULL;
        if (place == OUSAC_MOMENTS_SPILL)
            status = ousac_spill_map(
                profile->spill, ousac_profile_size_of_moment(profile, i) * sizeof(double), &block, error);
        else
            complete =
                (block = ousac_calloc(ousac_profile_size_of_moment(profile, i), sizeof(double))) != NULL;
        profile->moment[i] = block;
    }
    if (!complete)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the moments of %zu groups",
                            ousac_profile_moment_count(profile));
    return status;
}

void ousac_profile_drop_moment(const ousac_profile *profile, size_t index) {
    if (profile->spill)
        ousac_spill_drop(profile->moment[index],
                         ousac_profile_size_of_moment(profile, index) * sizeof(double));
}

ousac_status ousac_profile_read_moment(const ousac_profile *profile, size_t index, double *target,
                                       ousac_error *error) {
    const uint64_t size = ousac_profile_size_of_moment(profile, index);
    char name[OUSAC_TENSOR_NAME_BYTES];
    if (!profile->file) {
        memcpy(target, profile->moment[index], (size_t)size * sizeof *target);
        ousac_profile_drop_moment(profile, index);
        return OUSAC_STATUS_OK;
    }
    ousac_profile_name_moment(name, &profile->arch, index);
    return ousac_archive_read(&profile->file->archive, name, OUSAC_DTYPE_F64, 1, &size, target, error);
}

ousac_status ousac_profile_sum_moments(const ousac_profile *profile, size_t group, double *target,
                                       ousac_error *error) {
    const size_t groups = profile->arch.group_count, size = ousac_profile_size_of_moment(profile, group);
    double *more = NULL;
    ousac_status status = ousac_profile_read_moment(profile, group, target, error);
    if (status || profile->identity.segments == 1)
        return status;
    more = ousac_malloc(size, sizeof *more);
    if (!more)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a moment of %zu values", size);
    for (size_t segment = 1; !status && segment < profile->identity.segments; segment++) {
        status = ousac_profile_read_moment(profile, segment * groups + group, more, error);
        for (size_t i = 0; !status && i < size; i++)
            target[i] += more[i];
    }
    ousac_free(more);
    return status;
}
