/* Profiles of disjoint sample ranges add up. */
#include "profile/record/profile.h"

#include "formats/memory.h"
#include "profile/files/arch_text.h"
#include "profile/record/profile_source.h"

#include <inttypes.h>
#include <string.h>

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
        add_all(
            profile->scalar[k], more->scalar[k],
            ousac_profile_steps_size(profile, ousac_profile_scalar_width(&profile->arch, (ousac_scalar)k)));
    for (int k = 0; profile->identity.magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++)
        add_all(profile->magnitude[k], more->magnitude[k],
                ousac_profile_magnitude_size(&profile->arch, (ousac_magnitude)k));
    return OUSAC_STATUS_OK;
}
