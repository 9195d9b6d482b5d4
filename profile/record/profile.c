#include "profile/record/profile.h"

#include "formats/memory.h"
#include "profile/files/arch_text.h"
#include "profile/files/archive.h"
#include "profile/record/profile_source.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

size_t ousac_profile_scalar_width(const ousac_arch *arch, ousac_scalar scalar) {
    switch (scalar) {
    case OUSAC_SCALAR_X2:
    case OUSAC_SCALAR_DX2:
        return arch->group_count;
    case OUSAC_SCALAR_Y2:
    case OUSAC_SCALAR_DY2:
        return arch->site_count;
    case OUSAC_SCALAR_MODULE2:
    case OUSAC_SCALAR_DMODULE2:
        return arch->module_count;
    case OUSAC_SCALAR_COUNT:
        break;
    }
    return 0;
}

const char *ousac_scalar_name(ousac_scalar scalar) {
    switch (scalar) {
    case OUSAC_SCALAR_X2:
        return "x2";
    case OUSAC_SCALAR_DX2:
        return "dx2";
    case OUSAC_SCALAR_Y2:
        return "y2";
    case OUSAC_SCALAR_DY2:
        return "dy2";
    case OUSAC_SCALAR_MODULE2:
        return "module2";
    case OUSAC_SCALAR_DMODULE2:
        return "dmodule2";
    case OUSAC_SCALAR_COUNT:
        break;
    }
    return "?";
}

/* --- magnitudes --- */

static int is_of_groups(ousac_magnitude magnitude) {
    return magnitude == OUSAC_MAGNITUDE_X || magnitude == OUSAC_MAGNITUDE_ADX;
}

const char *ousac_compute_name(ousac_compute compute) {
    static const char *const names[] = {"f32", "bf16", "bf16+attention", "bf16+unknown"};
    return (unsigned)compute < sizeof names / sizeof *names ? names[compute] : "?";
}

const char *ousac_magnitude_name(ousac_magnitude magnitude) {
    static const char *const names[OUSAC_MAGNITUDE_COUNT] = {"x", "y", "adx", "ady"};
    return (int)magnitude >= 0 && magnitude < OUSAC_MAGNITUDE_COUNT ? names[magnitude] : "?";
}

size_t ousac_profile_magnitude_parts(const ousac_arch *arch, ousac_magnitude magnitude) {
    return is_of_groups(magnitude) ? arch->group_count : arch->site_count;
}

size_t ousac_profile_magnitude_channels(const ousac_arch *arch, ousac_magnitude magnitude, size_t index) {
    return is_of_groups(magnitude) ? arch->sites[arch->groups[index].first_site].n : arch->sites[index].m;
}

size_t ousac_profile_magnitude_offset(const ousac_arch *arch, ousac_magnitude magnitude, size_t index) {
    size_t offset = 0;
    for (size_t i = 0; i < index; i++)
        offset += ousac_profile_magnitude_channels(arch, magnitude, i);
    return offset;
}

size_t ousac_profile_magnitude_size(const ousac_arch *arch, ousac_magnitude magnitude) {
    return ousac_profile_magnitude_offset(arch, magnitude, ousac_profile_magnitude_parts(arch, magnitude));
}

ousac_identity ousac_profile_model(const ousac_profile *profile) {
    const ousac_profile_identity *identity = &profile->identity;
    return (ousac_identity){identity->model_digest, identity->model_constants, identity->model_process};
}

size_t ousac_profile_moment_size(const ousac_group *group) {
    return group->dim % 2 ? (group->dim + 1) / 2 * group->dim : group->dim / 2 * (group->dim + 1);
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

/* Elements of a (S, OUSAC_BRANCHES, width) array. */
static size_t steps_size(const ousac_profile *profile, size_t width) {
    return profile->schedule.step_count * OUSAC_BRANCHES * width;
}

/* ---- creating ---- */

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
    const size_t count = steps_size(profile, profile->arch.group_count);
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

/* ---- merging ---- */

/* The union of two lists of ranges, each rising, disjoint and not adjacent, is the same again. Ends cannot
 * overflow: every range that gets here was checked to end within 64 bits. */
static ousac_status join_ranges(const ousac_sample_range *a, size_t a_count, const ousac_sample_range *b,
                                size_t b_count, ousac_sample_range **joined, size_t *joined_count,
                                ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_sample_range *out = ousac_calloc(a_count + b_count, sizeof *out);
    const ousac_sample_range *last = NULL; /* as it was, before it was coalesced */
    size_t count = 0, i = 0, j = 0;
    if (!out) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu sample ranges", a_count + b_count);
        goto done;
    }
    while (i < a_count || j < b_count) {
        const ousac_sample_range *next =
            j == b_count || (i < a_count && a[i].first <= b[j].first) ? &a[i++] : &b[j++];
        if (last && next->first - last->first < last->count) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                                "sample ranges overlap: %" PRIu64 "..%" PRIu64 " and %" PRIu64 "..%" PRIu64,
                                last->first, last->first + (last->count - 1), next->first,
                                next->first + (next->count - 1));
            goto done;
        }
        if (count && out[count - 1].first + out[count - 1].count == next->first)
            out[count - 1].count += next->count;
        else
            out[count++] = *next;
        last = next;
    }
    *joined = out;
    *joined_count = count;
    out = NULL;
done:
    ousac_free(out);
    return status;
}

ousac_status ousac_profile_add_range(ousac_profile *profile, uint64_t first, uint64_t count,
                                     ousac_error *error) {
    const ousac_sample_range range = {first, count};
    ousac_sample_range *joined = NULL;
    size_t joined_count = 0;
    if (count == 0)
        return OUSAC_STATUS_OK;
    if (count > UINT64_MAX - first)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%" PRIu64 " samples from %" PRIu64 " exceed 64 bits",
                          count, first);
    ousac_status status =
        join_ranges(profile->ranges, profile->range_count, &range, 1, &joined, &joined_count, error);
    if (status)
        return status;
    ousac_free(profile->ranges);
    profile->ranges = joined;
    profile->range_count = joined_count;
    return OUSAC_STATUS_OK;
}

#define DIGEST_SHOWN "%.12s"

static ousac_status check_mergeable(const ousac_profile *profile, const ousac_profile *more,
                                    ousac_error *error) {
    const ousac_profile_identity *a = &profile->identity, *b = &more->identity;
    const ousac_identity model_a = ousac_profile_model(profile), model_b = ousac_profile_model(more);
    char schedule_a[OUSAC_DIGEST_CHARS], schedule_b[OUSAC_DIGEST_CHARS], text[OUSAC_ARCH_DIFFERENCE_BYTES];
    char differs[OUSAC_IDENTITY_TEXT_BYTES];
    if (ousac_identity_differs(&model_b, &model_a, differs))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profiles are of different models: %s", differs);
    if (ousac_arch_difference(&more->arch, &profile->arch, text))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profiles are of different architectures: %s",
                          text);
    ousac_schedule_digest(&profile->schedule, schedule_a);
    ousac_schedule_digest(&more->schedule, schedule_b);
    if (strcmp(schedule_a, schedule_b) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profiles are of different schedules: %s (" DIGEST_SHOWN
                          ") and %s (" DIGEST_SHOWN ")",
                          ousac_schedule_called(&profile->schedule), schedule_a,
                          ousac_schedule_called(&more->schedule), schedule_b);
    if (strcmp(a->inputs_digest, b->inputs_digest) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profiles are of different inputs: " DIGEST_SHOWN " and " DIGEST_SHOWN,
                          *a->inputs_digest ? a->inputs_digest : "drawn",
                          *b->inputs_digest ? b->inputs_digest : "drawn");
    if (a->seed != b->seed)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profiles are of different seeds: %" PRIu64 " and %" PRIu64, a->seed, b->seed);
    if (a->micro_batch != b->micro_batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profiles have different micro-batches: %zu and %zu", a->micro_batch,
                          b->micro_batch);
    if (a->tokens_used != b->tokens_used)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profiles used different numbers of tokens: %zu and %zu", a->tokens_used,
                          b->tokens_used);
    if (a->segments != b->segments)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profiles have different segments: %zu and %zu",
                          a->segments, b->segments);
    if (strcmp(a->weights_digest, b->weights_digest) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profiles have different step weights: " DIGEST_SHOWN " and " DIGEST_SHOWN,
                          a->weights_digest, b->weights_digest);
    if (!profile->moment != !more->moment)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "one profile holds moments and the other, a pilot, does not");
    if (a->compute != b->compute || a->compute == OUSAC_COMPUTE_BF16_UNKNOWN)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "one profile was computed in %s and the other in %s%s",
                          ousac_compute_name(a->compute), ousac_compute_name(b->compute),
                          a->compute == b->compute ? ", which need not be the same" : "");
    if (a->tokens_unknown || b->tokens_unknown)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "a profile of version 1 does not say by which rule its %zu tokens a sample were "
                          "chosen, so that it adds up with no other",
                          a->tokens_unknown ? a->tokens_used : b->tokens_used);
    if (a->magnitudes != b->magnitudes)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "one profile holds channel magnitudes and the other does not");
    return OUSAC_STATUS_OK;
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
        *count = steps_size(profile, ousac_profile_scalar_width(&profile->arch, (ousac_scalar)index));
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

static void add_all(double *sum, const double *more, size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] += more[i];
}

/* One at a time; only the reading of a file can fail. */
static ousac_status add_moments(ousac_profile *profile, const ousac_profile *more, ousac_error *error) {
    const size_t groups = profile->arch.group_count;
    ousac_status status = OUSAC_STATUS_OK;
    size_t largest = 0;
    double *read = NULL;
    for (size_t g = 0; more->file && g < groups; g++) {
        const size_t size = ousac_profile_moment_size(&profile->arch.groups[g]);
        largest = size > largest ? size : largest;
    }
    if (more->file && !(read = ousac_malloc(largest, sizeof *read)))
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a moment of %zu values", largest);
    for (size_t i = 0; !status && i < profile->identity.segments * groups; i++) {
        if (more->file)
            status = ousac_profile_read_moment(more, i, read, error);
        if (!status)
            add_all(profile->moment[i], more->file ? read : more->moment[i],
                    ousac_profile_moment_size(&profile->arch.groups[i % groups]));
        ousac_profile_drop_moment(profile, i);
    }
    ousac_free(read);
    return status;
}

ousac_status ousac_profile_merge(ousac_profile *profile, const ousac_profile *more, ousac_error *error) {
    ousac_sample_range *joined = NULL;
    size_t joined_count = 0;
    ousac_status status = profile->file ? OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                                     "a profile that is added to must be loaded, not opened")
                                        : check_mergeable(profile, more, error);
    if (!status)
        status = join_ranges(profile->ranges, profile->range_count, more->ranges, more->range_count, &joined,
                             &joined_count, error);
    if (!status && profile->moment)
        status = add_moments(profile, more, error);
    if (status) {
        ousac_free(joined);
        return status;
    }
    /* nothing below can fail */
    profile->version = 2;
    ousac_free(profile->ranges);
    profile->ranges = joined;
    profile->range_count = joined_count;
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++)
        add_all(profile->scalar[k], more->scalar[k],
                steps_size(profile, ousac_profile_scalar_width(&profile->arch, (ousac_scalar)k)));
    for (int k = 0; profile->identity.magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++)
        add_all(profile->magnitude[k], more->magnitude[k],
                ousac_profile_magnitude_size(&profile->arch, (ousac_magnitude)k));
    return OUSAC_STATUS_OK;
}

/* ---- weights and digests ---- */

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

void ousac_profile_weights_digest(const ousac_profile *profile, char digest[OUSAC_DIGEST_CHARS]) {
    ousac_sha256 state;
    ousac_sha256_begin(&state);
    ousac_sha256_add_text(&state, "ousac-weights-1");
    ousac_sha256_add_u64(&state, profile->schedule.step_count);
    ousac_sha256_add_u64(&state, OUSAC_BRANCHES);
    ousac_sha256_add_u64(&state, profile->arch.group_count);
    ousac_sha256_add(&state, profile->weight,
                     steps_size(profile, profile->arch.group_count) * sizeof(double));
    ousac_sha256_end(&state, digest);
}
