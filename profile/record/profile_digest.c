/* The digest of a profile and that of its step weights (formats/PROFILE.md). */
#include "profile/record/profile.h"

#include "formats/memory.h"
#include "profile/files/arch_text.h"
#include "profile/record/profile_source.h"

#include <math.h>
#include <string.h>

void ousac_profile_weights_digest(const ousac_profile *profile, char digest[OUSAC_DIGEST_CHARS]) {
    ousac_sha256 state;
    ousac_sha256_begin(&state);
    ousac_sha256_add_text(&state, "ousac-weights-1");
    ousac_sha256_add_u64(&state, profile->schedule.step_count);
    ousac_sha256_add_u64(&state, OUSAC_BRANCHES);
    ousac_sha256_add_u64(&state, profile->arch.group_count);
    ousac_sha256_add(&state, profile->weight,
                     profile->schedule.step_count * OUSAC_BRANCHES * profile->arch.group_count *
                         sizeof(double));
    ousac_sha256_end(&state, digest);
}

/* From the file, one at a time. */
static ousac_status digest_file_moments(const ousac_profile *profile, ousac_sha256 *state,
                                        ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char name[OUSAC_TENSOR_NAME_BYTES];
    size_t largest = 0;
    for (size_t i = 0; i < profile->arch.group_count; i++)
        largest = ousac_profile_size_of_moment(profile, i) > largest
                      ? ousac_profile_size_of_moment(profile, i)
                      : largest;
    double *moment = ousac_malloc(largest, sizeof *moment);
    if (!moment)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a moment of %zu values", largest);
    for (size_t i = 0; !status && i < ousac_profile_moment_count(profile); i++) {
        ousac_profile_name_moment(name, &profile->arch, i);
        status = ousac_profile_read_moment(profile, i, moment, error);
        if (!status)
            status = ousac_archive_check_f64(&profile->file->archive, name, moment,
                                             ousac_profile_size_of_moment(profile, i), -HUGE_VAL, error);
        if (!status)
            ousac_sha256_add(state, moment, ousac_profile_size_of_moment(profile, i) * sizeof *moment);
    }
    ousac_free(moment);
    return status;
}

/* From whoever lends them. */
static ousac_status digest_lent_moments(const ousac_profile *profile, ousac_oca_source source, void *self,
                                        ousac_sha256 *state, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; !status && i < ousac_profile_moment_count(profile); i++) {
        const void *packed = NULL;
        status = source(self, i, &packed, error);
        if (!status)
            ousac_sha256_add(state, packed, ousac_profile_size_of_moment(profile, i) * sizeof(double));
    }
    return status;
}

ousac_status ousac_profile_compute_digest(const ousac_profile *profile, char digest[OUSAC_DIGEST_CHARS],
                                          ousac_error *error) {
    return ousac_profile_digest_streamed(profile, NULL, NULL, digest, error);
}

ousac_status ousac_profile_digest_streamed(const ousac_profile *profile, ousac_oca_source source, void *self,
                                           char digest[OUSAC_DIGEST_CHARS], ousac_error *error) {
    const ousac_profile_identity *identity = &profile->identity;
    const size_t evaluations = profile->schedule.step_count * OUSAC_BRANCHES;
    const size_t groups = profile->arch.group_count;
    ousac_status status = OUSAC_STATUS_OK;
    char schedule[OUSAC_DIGEST_CHARS];
    ousac_sha256 state;
    ousac_schedule_digest(&profile->schedule, schedule);
    ousac_sha256_begin(&state);
    ousac_sha256_add_text(&state, profile->version == 1 ? "ousac-profile-1" : "ousac-profile-2");
    ousac_sha256_add_text(&state, identity->model_digest);
    if (profile->version > 1) {
        ousac_sha256_add_text(&state, identity->model_constants);
        ousac_sha256_add_text(&state, identity->model_process);
        ousac_sha256_add_text(&state, identity->inputs_digest);
        ousac_sha256_add_text(&state, ousac_compute_name(identity->compute));
        ousac_sha256_add_u64(&state, identity->tokens_unknown != 0);
    }
    ousac_sha256_add_text(&state, schedule);
    ousac_sha256_add_text(&state, identity->weights_digest);
    ousac_sha256_add_u64(&state, identity->seed);
    ousac_sha256_add_u64(&state, identity->micro_batch);
    ousac_sha256_add_u64(&state, identity->tokens_used);
    ousac_sha256_add_u64(&state, identity->segments);
    ousac_arch_digest_add(&profile->arch, profile->version, &state);
    ousac_sha256_add_u64(&state, profile->range_count);
    for (size_t i = 0; i < profile->range_count; i++) {
        ousac_sha256_add_u64(&state, profile->ranges[i].first);
        ousac_sha256_add_u64(&state, profile->ranges[i].count);
    }
    ousac_sha256_add(&state, profile->gate, evaluations * sizeof *profile->gate);
    ousac_sha256_add(&state, profile->age, evaluations * sizeof *profile->age);
    ousac_sha256_add(&state, profile->weight, evaluations * groups * sizeof(double));
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++)
        ousac_sha256_add(&state, profile->scalar[k],
                         evaluations * ousac_profile_scalar_width(&profile->arch, (ousac_scalar)k) *
                             sizeof(double));
    ousac_sha256_add_u64(&state, source || profile->moment);
    if (source)
        status = digest_lent_moments(profile, source, self, &state, error);
    else if (profile->moment && profile->file)
        status = digest_file_moments(profile, &state, error);
    for (size_t i = 0;
         !source && profile->moment && !profile->file && i < ousac_profile_moment_count(profile); i++) {
        ousac_sha256_add(&state, profile->moment[i],
                         ousac_profile_size_of_moment(profile, i) * sizeof(double));
        ousac_profile_drop_moment(profile, i);
    }
    if (profile->version == 1 && identity->compute != OUSAC_COMPUTE_F32)
        ousac_sha256_add_text(&state, "bf16");
    if (identity->magnitudes) {
        ousac_sha256_add_u64(&state, 1);
        for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++)
            ousac_sha256_add(&state, profile->magnitude[k],
                             ousac_profile_magnitude_size(&profile->arch, (ousac_magnitude)k) *
                                 sizeof(double));
    }
    ousac_sha256_end(&state, digest);
    return status;
}

void ousac_profile_digest(const ousac_profile *profile, char digest[OUSAC_DIGEST_CHARS]) {
    if (profile->file) /* computed when it was opened; nothing of it has changed since */
        memcpy(digest, profile->file->digest, OUSAC_DIGEST_CHARS);
    else
        (void)ousac_profile_compute_digest(profile, digest, NULL); /* in memory: it does not fail */
}
