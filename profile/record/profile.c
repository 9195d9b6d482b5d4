#include "profile/record/profile.h"

#include "formats/memory.h"
#include "profile/files/arch_text.h"
#include "profile/record/profile_source.h"

#include <math.h>
#include <string.h>

ousac_identity ousac_profile_model(const ousac_profile *profile) {
    const ousac_profile_identity *identity = &profile->identity;
    return (ousac_identity){identity->model_digest, identity->model_constants, identity->model_process};
}

size_t ousac_profile_segment(const ousac_profile *profile, size_t step) {
    return step * profile->identity.segments / profile->schedule.step_count;
}

uint64_t ousac_profile_samples(const ousac_profile *profile) {
    uint64_t samples = 0;
    for (size_t i = 0; i < profile->range_count; i++)
        samples += profile->ranges[i].count;
    return samples;
}

static ousac_status check_identity(const ousac_arch *arch, const ousac_schedule *schedule,
                                   const ousac_profile_identity *identity, ousac_error *error) {
    if (!ousac_digest_is_valid(identity->model_digest))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "the model digest of a profile is \"%.64s\"; expected 64 hexadecimal digits",
                          identity->model_digest);
    if (*identity->inputs_digest && !ousac_digest_is_valid(identity->inputs_digest))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "the inputs digest of a profile is \"%.64s\"; expected 64 hexadecimal digits, or none",
            identity->inputs_digest);
    if (identity->micro_batch == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a micro-batch of 0 samples; expected at least 1");
    const size_t tokens = ousac_arch_most_tokens(arch);
    if (identity->tokens_used == 0 || identity->tokens_used > tokens)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu tokens used; expected 1 to %zu",
                          identity->tokens_used, tokens);
    if (identity->segments == 0 || identity->segments > schedule->step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%zu segments; expected 1 to the %zu steps of the schedule", identity->segments,
                          schedule->step_count);
    if (identity->magnitudes != 0 && identity->magnitudes != 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "magnitudes %d; expected 0 or 1", identity->magnitudes);
    for (size_t g = 0; g < arch->group_count; g++)
        if (arch->groups[g].dim > INT32_MAX)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "group %s: a moment of dimension %zu is too large",
                              arch->groups[g].name, arch->groups[g].dim);
    return OUSAC_STATUS_OK;
}

static ousac_status allocate_arrays(ousac_profile *profile, ousac_error *error) {
    const size_t evaluations = profile->schedule.step_count * OUSAC_BRANCHES;
    const size_t groups = profile->arch.group_count;
    int complete = 1;
    profile->gate = ousac_calloc(evaluations, sizeof *profile->gate);
    profile->age = ousac_calloc(evaluations, sizeof *profile->age);
    profile->weight = ousac_calloc(evaluations, groups * sizeof *profile->weight);
    complete = profile->gate && profile->age && profile->weight;
    for (int k = 0; complete && k < OUSAC_SCALAR_COUNT; k++) {
        size_t width = ousac_profile_scalar_width(&profile->arch, (ousac_scalar)k);
        profile->scalar[k] = ousac_calloc(evaluations, width * sizeof(double));
        complete = profile->scalar[k] != NULL;
    }
    for (int k = 0; complete && profile->identity.magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++) {
        const size_t size = ousac_profile_magnitude_size(&profile->arch, (ousac_magnitude)k);
        profile->magnitude[k] = ousac_calloc(size, sizeof(double));
        complete = profile->magnitude[k] != NULL;
    }
    if (!complete)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY,
                          "out of memory for a profile of %zu steps and %zu sites",
                          profile->schedule.step_count, profile->arch.site_count);
    return OUSAC_STATUS_OK;
}

static void fill_ages(ousac_profile *profile) {
    for (int branch = 0; branch < OUSAC_BRANCHES; branch++) {
        int have = 0;
        size_t last = 0; /* the branch's last full evaluation, where `have` */
        for (size_t step = 0; step < profile->schedule.step_count; step++) {
            const size_t at = step * OUSAC_BRANCHES + (size_t)branch;
            if (profile->gate[at] >= 0 && have)
                profile->age[at] = (int)(step - last);
            if (profile->gate[at] == OUSAC_GATE_FULL) {
                have = 1;
                last = step;
            }
        }
    }
}

static ousac_status fill_weights(ousac_profile *profile, const double *weight, ousac_error *error) {
    const size_t count = ousac_profile_steps_size(profile, profile->arch.group_count);
    for (size_t i = 0; i < count; i++) {
        profile->weight[i] = weight ? weight[i] : 1;
        if (!isfinite(profile->weight[i]) || profile->weight[i] < 0) {
            const size_t groups = profile->arch.group_count;
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "the weight of group %s at step %zu, branch %s is %g; expected a finite number, 0 or more",
                profile->arch.groups[i % groups].name, i / groups / OUSAC_BRANCHES,
                ousac_branch_name((int)(i / groups % OUSAC_BRANCHES)), profile->weight[i]);
        }
    }
    ousac_profile_weights_digest(profile, profile->identity.weights_digest);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_profile_create(ousac_profile **profile, const ousac_arch *arch,
                                  const ousac_schedule *schedule, const ousac_profile_identity *identity,
                                  const double *weight, int with_moments, ousac_error *error) {
    return ousac_profile_create_in(profile, arch, schedule, identity, weight,
                                   with_moments ? OUSAC_MOMENTS_MEMORY : OUSAC_MOMENTS_NONE, NULL, error);
}

ousac_status ousac_profile_create_spilled(ousac_profile **profile, const ousac_arch *arch,
                                          const ousac_schedule *schedule,
                                          const ousac_profile_identity *identity, const double *weight,
                                          int with_moments, const char *directory, ousac_error *error) {
    const ousac_moment_place place = !with_moments ? OUSAC_MOMENTS_NONE
                                     : directory   ? OUSAC_MOMENTS_SPILL
                                                   : OUSAC_MOMENTS_MEMORY;
    return ousac_profile_create_in(profile, arch, schedule, identity, weight, place, directory, error);
}

ousac_status ousac_profile_create_in(ousac_profile **profile, const ousac_arch *arch,
                                     const ousac_schedule *schedule, const ousac_profile_identity *identity,
                                     const double *weight, ousac_moment_place place, const char *directory,
                                     ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_profile *made = NULL;
    *profile = NULL;
    status = ousac_arch_check(arch, error);
    if (!status)
        status = ousac_schedule_validate(schedule, ousac_schedule_called(schedule), error);
    if (!status)
        status = check_identity(arch, schedule, identity, error);
    if (status)
        goto done;
    made = ousac_calloc(1, sizeof *made);
    if (!made) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for a profile");
        goto done;
    }
    made->version = 2;
    made->identity = *identity;
    status = ousac_arch_copy(&made->arch, arch, error);
    if (!status)
        status = ousac_schedule_copy(&made->schedule, schedule, error);
    if (!status)
        status = allocate_arrays(made, error);
    if (!status)
        status = ousac_profile_place_moments(made, place, directory, error);
    if (!status)
        status = ousac_schedule_effective_gates(schedule, made->gate, error);
    if (!status)
        status = fill_weights(made, weight, error);
    if (status)
        goto done;
    fill_ages(made);
    *profile = made;
    made = NULL;
done:
    ousac_profile_free(made);
    return status;
}

void ousac_profile_free(ousac_profile *profile) {
    if (!profile)
        return;
    if (profile->moment && !profile->spill)
        for (size_t i = 0; i < profile->identity.segments * profile->arch.group_count; i++)
            ousac_free(profile->moment[i]);
    ousac_free(profile->moment);
    ousac_spill_free(profile->spill);
    if (profile->file)
        ousac_archive_close(&profile->file->archive);
    ousac_free(profile->file);
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++)
        ousac_free(profile->scalar[k]);
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++)
        ousac_free(profile->magnitude[k]);
    ousac_free(profile->weight);
    ousac_free(profile->age);
    ousac_free(profile->gate);
    ousac_free(profile->ranges);
    ousac_schedule_free(&profile->schedule);
    ousac_arch_free(&profile->arch);
    ousac_free(profile);
}

static size_t moment_count(const ousac_profile *profile) {
    return profile->moment ? profile->identity.segments * profile->arch.group_count : 0;
}

size_t ousac_profile_sum_count(const ousac_profile *profile) {
    return OUSAC_SCALAR_COUNT + moment_count(profile) +
           (profile->identity.magnitudes ? (size_t)OUSAC_MAGNITUDE_COUNT : 0);
}

double *ousac_profile_sum(const ousac_profile *profile, size_t index, size_t *count) {
    if (index < OUSAC_SCALAR_COUNT) {
        *count = ousac_profile_steps_size(profile,
                                          ousac_profile_scalar_width(&profile->arch, (ousac_scalar)index));
        return profile->scalar[index];
    }
    index -= OUSAC_SCALAR_COUNT;
    if (index < moment_count(profile)) {
        *count = ousac_profile_moment_size(&profile->arch.groups[index % profile->arch.group_count]);
        return profile->moment[index];
    }
    index -= moment_count(profile);
    *count = ousac_profile_magnitude_size(&profile->arch, (ousac_magnitude)index);
    return profile->magnitude[index];
}

void ousac_profile_step_weights(const ousac_profile *pilot, double *weight) {
    const size_t groups = pilot->arch.group_count, sites = pilot->arch.site_count;
    const double samples = (double)ousac_profile_samples(pilot);
    for (size_t at = 0; at < pilot->schedule.step_count * OUSAC_BRANCHES; at++)
        for (size_t g = 0; g < groups; g++) {
            const ousac_group *group = &pilot->arch.groups[g];
            /* the trace of a second moment is the energy of what it sums */
            const double trace = group->side == OUSAC_SIDE_INPUT
                                     ? pilot->scalar[OUSAC_SCALAR_DX2][at * groups + g]
                                     : pilot->scalar[OUSAC_SCALAR_DY2][at * sites + group->first_site];
            const double w = pilot->gate[at] == OUSAC_GATE_CACHED && trace > 0 ? samples / trace : 0;
            weight[at * groups + g] = isfinite(w) ? w : 0; /* a denormal trace is as good as none */
        }
}
