/* A profile as an archive; the names, types and shapes are those of formats/PROFILE.md. */
#include "profile/record/profile.h"

#include "formats/memory.h"
#include "profile/files/archive.h"
#include "profile/files/text.h"
#include "profile/record/profile_source.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { STEP_DIMS = 3 };

static void name_scalar(char name[OUSAC_TENSOR_NAME_BYTES], ousac_scalar scalar) {
    (void)snprintf(name, OUSAC_TENSOR_NAME_BYTES, "step/%s", ousac_scalar_name(scalar));
}

/* "magnitude/blocks.3.attn.qkv/x": of a group, or of a site. */
static void name_magnitude(char name[OUSAC_TENSOR_NAME_BYTES], const ousac_arch *arch, ousac_magnitude kind,
                           size_t index) {
    const int of_group = kind == OUSAC_MAGNITUDE_X || kind == OUSAC_MAGNITUDE_ADX;
    (void)snprintf(name, OUSAC_TENSOR_NAME_BYTES, "magnitude/%s/%s",
                   of_group ? arch->groups[index].name : arch->sites[index].name, ousac_magnitude_name(kind));
}

/* ---- saving ---- */

static ousac_status put_ranges(ousac_oca_writer *writer, const ousac_profile *profile, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_text text = {0};
    for (size_t i = 0; i < profile->range_count; i++)
        ousac_text_add(&text, "%s%" PRIu64 "+%" PRIu64, i ? " " : "", profile->ranges[i].first,
                       profile->ranges[i].count);
    if (text.failed)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu sample ranges",
                            profile->range_count);
    else
        status = ousac_oca_writer_metadata(writer, "ranges", text.data ? text.data : "", error);
    ousac_free(text.data);
    return status;
}

static ousac_status put_metadata(ousac_oca_writer *writer, const ousac_profile *profile,
                                 ousac_oca_source source, void *self, const char *run_text,
                                 ousac_error *error) {
    const ousac_profile_identity *identity = &profile->identity;
    const ousac_identity model = ousac_profile_model(profile);
    ousac_status status = OUSAC_STATUS_OK;
    char digest[OUSAC_DIGEST_CHARS], weights_digest[OUSAC_DIGEST_CHARS];
    ousac_profile_weights_digest(profile, weights_digest);
    if (strcmp(weights_digest, identity->weights_digest) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                          "the step weights changed after their digest was taken");
    status = ousac_profile_digest_streamed(profile, source, self, digest, error);
    if (!status)
        status = ousac_archive_put_subject(writer, &profile->arch, &profile->schedule, error);
    if (!status)
        status = ousac_identity_put(writer, "", &model, error);
    const struct {
        const char *key, *value;
    } texts[] = {{"inputs_digest", identity->inputs_digest},
                 {"compute", ousac_compute_name(identity->compute)},
                 {"token_choice", identity->tokens_unknown ? "unknown" : "refresh"},
                 {"weights_digest", identity->weights_digest},
                 {"digest", digest},
                 {"run", run_text}};
    for (size_t i = 0; !status && i < sizeof texts / sizeof *texts; i++)
        if (texts[i].value)
            status = ousac_oca_writer_metadata(writer, texts[i].key, texts[i].value, error);
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {{"seed", identity->seed},
                   {"micro_batch", identity->micro_batch},
                   {"tokens_used", identity->tokens_used},
                   {"segments", identity->segments},
                   {"moments", source || profile->moment}};
    for (size_t i = 0; !status && i < sizeof numbers / sizeof *numbers; i++)
        status = ousac_archive_put_u64(writer, numbers[i].key, numbers[i].value, error);
    if (!status && identity->magnitudes)
        status = ousac_archive_put_u64(writer, "magnitudes", 1, error);
    if (!status)
        status = put_ranges(writer, profile, error);
    return status;
}

static ousac_status put_magnitudes(ousac_oca_writer *writer, const ousac_profile *profile,
                                   ousac_error *error) {
    const ousac_arch *arch = &profile->arch;
    ousac_status status = OUSAC_STATUS_OK;
    char name[OUSAC_TENSOR_NAME_BYTES];
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++) {
        const ousac_magnitude kind = (ousac_magnitude)k;
        const double *values = profile->magnitude[k];
        for (size_t i = 0; !status && i < ousac_profile_magnitude_parts(arch, kind); i++) {
            const uint64_t channels = ousac_profile_magnitude_channels(arch, kind, i);
            name_magnitude(name, arch, kind, i);
            status = ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F64, 1, &channels,
                                             OUSAC_OCA_CODEC_SHUFFLE_ZSTD, values, error);
            values += channels;
        }
    }
    return status;
}

/* The writer's spill goes where the file will be: what fits there, fits there twice. */
static ousac_status spill_beside(ousac_oca_writer *writer, const char *path, ousac_error *error) {
    char *directory = NULL;
    ousac_status status = ousac_archive_directory(path, &directory, error);
    if (!status)
        status = ousac_oca_writer_spill(writer, directory, error);
    ousac_free(directory);
    return status;
}

ousac_status ousac_profile_save(const ousac_profile *profile, const char *path, const char *run_text,
                                ousac_error *error) {
    return ousac_profile_save_streamed(profile, NULL, NULL, path, run_text, error);
}

ousac_status ousac_profile_save_streamed(const ousac_profile *profile, ousac_oca_source source, void *self,
                                         const char *path, const char *run_text, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_oca_writer *writer = NULL;
    char name[OUSAC_TENSOR_NAME_BYTES];
    const ousac_arch *arch = &profile->arch;
    uint64_t shape[STEP_DIMS] = {profile->schedule.step_count, OUSAC_BRANCHES, arch->group_count};
    if (profile->file)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: a profile that is saved must be loaded, not opened",
                          path);
    ousac_profile written = *profile; /* which has the digest of the version written */
    written.version = 2;
    status = ousac_archive_begin(&writer, OUSAC_FORMAT_PROFILE, error);
    if (!status && profile->spill)
        status = spill_beside(writer, path, error);
    if (!status)
        status = put_metadata(writer, &written, source, self, run_text, error);
    if (!status)
        status = ousac_oca_writer_tensor(writer, "step/gate", OUSAC_DTYPE_I32, 2, shape, OUSAC_OCA_CODEC_RAW,
                                         profile->gate, error);
    if (!status)
        status = ousac_oca_writer_tensor(writer, "step/age", OUSAC_DTYPE_I32, 2, shape, OUSAC_OCA_CODEC_RAW,
                                         profile->age, error);
    if (!status)
        status = ousac_oca_writer_tensor(writer, "step/weight", OUSAC_DTYPE_F64, STEP_DIMS, shape,
                                         OUSAC_OCA_CODEC_SHUFFLE_ZSTD, profile->weight, error);
    for (int k = 0; !status && k < OUSAC_SCALAR_COUNT; k++) {
        name_scalar(name, (ousac_scalar)k);
        shape[2] = ousac_profile_scalar_width(arch, (ousac_scalar)k);
        status = ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F64, STEP_DIMS, shape,
                                         OUSAC_OCA_CODEC_SHUFFLE_ZSTD, profile->scalar[k], error);
    }
    const size_t moments = source || profile->moment ? profile->identity.segments * arch->group_count : 0;
    for (size_t i = 0; !status && i < moments; i++) {
        const uint64_t size = ousac_profile_moment_size(&arch->groups[i % arch->group_count]);
        ousac_profile_name_moment(name, arch, i);
        if (source) {
            status = ousac_oca_writer_tensor_stream(writer, name, OUSAC_DTYPE_F64, 1, &size,
                                                    OUSAC_OCA_CODEC_SHUFFLE_ZSTD, source, self, i, error);
        } else if (profile->spill) { /* one at a time in memory */
            status = ousac_oca_writer_tensor_put(writer, name, OUSAC_DTYPE_F64, 1, &size,
                                                 OUSAC_OCA_CODEC_SHUFFLE_ZSTD, profile->moment[i], error);
            ousac_profile_drop_moment(profile, i);
        } else {
            status = ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F64, 1, &size,
                                             OUSAC_OCA_CODEC_SHUFFLE_ZSTD, profile->moment[i], error);
        }
    }
    if (!status && profile->identity.magnitudes)
        status = put_magnitudes(writer, profile, error);
    if (!status)
        status = ousac_oca_writer_save(writer, path, error);
    else
        (void)ousac_error_prefix(error, "%s", path);
    ousac_oca_writer_free(writer);
    return status;
}

/* ---- loading ---- */

/* A number at *text, which is moved behind it; 0, or -1 for none, a leading zero or more than 64 bits. */
static int take_number(const char **text, uint64_t *value) {
    const char *start = *text;
    uint64_t number = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++) {
        const unsigned digit = (unsigned)(**text - '0');
        if (number > (UINT64_MAX - digit) / 10)
            return -1;
        number = number * 10 + digit;
    }
    *value = number;
    return *text == start || (*start == '0' && *text - start > 1) ? -1 : 0;
}

/* "FIRST+COUNT FIRST+COUNT ...", rising, disjoint, not adjacent, not empty, each ending within 64 bits. */
static ousac_status take_ranges(const ousac_archive *archive, ousac_profile *profile, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const char *text = NULL;
    uint64_t end = 0; /* of the range before */
    size_t count = 0, room = 0;
    status = ousac_archive_text(archive, "ranges", &text, error);
    if (status)
        return status;
    for (const char *c = text; *c; c++)
        room += *c == '+';
    profile->ranges = ousac_calloc(room, sizeof *profile->ranges);
    if (!profile->ranges)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for %zu sample ranges",
                          archive->path, room);
    for (const char *c = text; *c;) {
        ousac_sample_range range = {0, 0};
        int valid = (count == 0 || *c++ == ' ') && take_number(&c, &range.first) == 0 && *c++ == '+' &&
                    take_number(&c, &range.count) == 0 && (*c == '\0' || *c == ' ');
        if (!valid || range.count == 0 || range.count > UINT64_MAX - range.first ||
            (count && range.first <= end))
            return OUSAC_FAIL(
                error, OUSAC_STATUS_FORMAT,
                "%s: metadata \"ranges\": range %zu is not FIRST+COUNT, behind and apart from the one "
                "before",
                archive->path, count);
        profile->ranges[count++] = range;
        end = range.first + range.count;
    }
    profile->range_count = count;
    return status;
}

/* In what numbers the model ran. A file of version 1 has the key for bfloat16 alone. */
static ousac_status take_compute(const ousac_archive *archive, ousac_profile_identity *identity,
                                 ousac_error *error) {
    const char *text = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    identity->compute = OUSAC_COMPUTE_F32;
    if (archive->version > 1 || oca_metadata(archive->file, "compute"))
        status = ousac_archive_text(archive, "compute", &text, error);
    if (status || !text)
        return status;
    if (archive->version == 1 && strcmp(text, "bf16") == 0) {
        identity->compute = OUSAC_COMPUTE_BF16_UNKNOWN;
        return OUSAC_STATUS_OK;
    }
    for (int i = 0; archive->version > 1 && i <= OUSAC_COMPUTE_F16_ATTENTION; i++)
        if (strcmp(text, ousac_compute_name((ousac_compute)i)) == 0) {
            identity->compute = (ousac_compute)i;
            return OUSAC_STATUS_OK;
        }
    return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                      "%s: compute \"%.40s\": expected f32, bf16, bf16+attention or f16+attention",
                      archive->path, text);
}

/* By which rule the tokens used were chosen, and of which inputs file the samples are. */
static ousac_status take_choices(const ousac_archive *archive, const ousac_arch *arch,
                                 ousac_profile_identity *identity, ousac_error *error) {
    const char *text = NULL;
    identity->inputs_digest[0] = '\0';
    identity->tokens_unknown = archive->version == 1 && identity->tokens_used < ousac_arch_most_tokens(arch);
    if (archive->version == 1)
        return OUSAC_STATUS_OK;
    ousac_status status = ousac_archive_text(archive, "token_choice", &text, error);
    if (!status && strcmp(text, "refresh") != 0 && strcmp(text, "unknown") != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"token_choice\" is \"%.40s\"; expected refresh or unknown",
                            archive->path, text);
    identity->tokens_unknown = !status && strcmp(text, "unknown") == 0;
    return status ? status
                  : ousac_archive_digest(archive, "inputs_digest", 1, identity->inputs_digest, error);
}

/* Everything that says what arrays to expect. The arch and the schedule are the caller's to free, also on
 * failure. */
static ousac_status take_head(const ousac_archive *archive, ousac_arch *arch, ousac_schedule *schedule,
                              ousac_profile_identity *identity, int *with_moments, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    uint64_t micro_batch = 0, tokens = 0, segments = 0, moments = 0, magnitudes = 0;
    status = ousac_archive_subject(archive, arch, schedule, error);
    if (status)
        return status;
    status = ousac_identity_take(archive, "", 0, identity->model_digest, identity->model_constants,
                                 identity->model_process, error);
    if (!status)
        status = ousac_archive_digest(archive, "weights_digest", 0, identity->weights_digest, error);
    if (!status)
        status = ousac_archive_u64(archive, "seed", 0, UINT64_MAX, &identity->seed, error);
    if (!status)
        status = ousac_archive_u64(archive, "micro_batch", 1, SIZE_MAX, &micro_batch, error);
    if (!status)
        status = ousac_archive_u64(archive, "tokens_used", 1, ousac_arch_most_tokens(arch), &tokens, error);
    if (!status)
        status = ousac_archive_u64(archive, "segments", 1, schedule->step_count, &segments, error);
    if (!status)
        status = ousac_archive_u64(archive, "moments", 0, 1, &moments, error);
    if (!status && oca_metadata(archive->file, "magnitudes"))
        status = ousac_archive_u64(archive, "magnitudes", 1, 1, &magnitudes, error);
    if (!status)
        status = take_compute(archive, identity, error);
    identity->magnitudes = (int)magnitudes;
    identity->micro_batch = (size_t)micro_batch;
    identity->tokens_used = (size_t)tokens;
    identity->segments = (size_t)segments;
    if (!status)
        status = take_choices(archive, arch, identity, error);
    *with_moments = (int)moments;
    return status;
}

/* That every tensor is there, of its type and shape, and no other, before anything of those sizes is
 * allocated. */
static ousac_status check_tensors(const ousac_archive *archive, const ousac_arch *arch,
                                  const ousac_schedule *schedule, const ousac_profile_identity *identity,
                                  int with_moments, ousac_error *error) {
    const size_t segments = identity->segments;
    ousac_status status = OUSAC_STATUS_OK;
    oca_tensor tensor;
    char name[OUSAC_TENSOR_NAME_BYTES];
    uint64_t shape[STEP_DIMS] = {schedule->step_count, OUSAC_BRANCHES, arch->group_count};
    size_t expected = 3 + OUSAC_SCALAR_COUNT;
    status = ousac_archive_find(archive, "step/gate", OUSAC_DTYPE_I32, 2, shape, &tensor, error);
    if (!status)
        status = ousac_archive_find(archive, "step/age", OUSAC_DTYPE_I32, 2, shape, &tensor, error);
    if (!status)
        status =
            ousac_archive_find(archive, "step/weight", OUSAC_DTYPE_F64, STEP_DIMS, shape, &tensor, error);
    for (int k = 0; !status && k < OUSAC_SCALAR_COUNT; k++) {
        name_scalar(name, (ousac_scalar)k);
        shape[2] = ousac_profile_scalar_width(arch, (ousac_scalar)k);
        status = ousac_archive_find(archive, name, OUSAC_DTYPE_F64, STEP_DIMS, shape, &tensor, error);
    }
    for (size_t i = 0; !status && with_moments && i < segments * arch->group_count; i++, expected++) {
        const uint64_t size = ousac_profile_moment_size(&arch->groups[i % arch->group_count]);
        ousac_profile_name_moment(name, arch, i);
        status = ousac_archive_find(archive, name, OUSAC_DTYPE_F64, 1, &size, &tensor, error);
    }
    for (int k = 0; !status && identity->magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++) {
        const ousac_magnitude kind = (ousac_magnitude)k;
        for (size_t i = 0; !status && i < ousac_profile_magnitude_parts(arch, kind); i++, expected++) {
            const uint64_t channels = ousac_profile_magnitude_channels(arch, kind, i);
            name_magnitude(name, arch, kind, i);
            status = ousac_archive_find(archive, name, OUSAC_DTYPE_F64, 1, &channels, &tensor, error);
        }
    }
    if (!status && oca_tensor_count(archive->file) != expected)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %zu tensors; expected %zu", archive->path,
                            oca_tensor_count(archive->file), expected);
    return status;
}

/* The gates and ages of the file against those that the schedule implies. */
static ousac_status check_implied(const ousac_archive *archive, const char *name, const int *implied,
                                  const ousac_schedule *schedule, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const size_t count = schedule->step_count * OUSAC_BRANCHES;
    const uint64_t shape[2] = {schedule->step_count, OUSAC_BRANCHES};
    int32_t *stored = ousac_malloc(count, sizeof *stored);
    if (!stored) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for tensor \"%s\"", archive->path,
                            name);
        goto done;
    }
    status = ousac_archive_read(archive, name, OUSAC_DTYPE_I32, 2, shape, stored, error);
    for (size_t i = 0; !status && i < count; i++)
        if (stored[i] != implied[i])
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                                "%s: tensor \"%s\" has %" PRId32
                                " at step %zu, branch %s; its schedule implies %d",
                                archive->path, name, stored[i], i / OUSAC_BRANCHES,
                                ousac_branch_name((int)(i % OUSAC_BRANCHES)), implied[i]);
done:
    ousac_free(stored);
    return status;
}

static ousac_status read_checked(const ousac_archive *archive, const char *name, size_t dims,
                                 const uint64_t *shape, double least, double *target, ousac_error *error) {
    size_t count = 1;
    ousac_status status = ousac_archive_read(archive, name, OUSAC_DTYPE_F64, dims, shape, target, error);
    if (status)
        return status;
    for (size_t i = 0; i < dims; i++)
        count *= (size_t)shape[i]; /* the arrays exist, so this cannot overflow */
    return ousac_archive_check_f64(archive, name, target, count, least, error);
}

static ousac_status take_arrays(const ousac_archive *archive, ousac_profile *profile, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const ousac_arch *arch = &profile->arch;
    char name[OUSAC_TENSOR_NAME_BYTES];
    uint64_t shape[STEP_DIMS] = {profile->schedule.step_count, OUSAC_BRANCHES, arch->group_count};
    status = check_implied(archive, "step/gate", profile->gate, &profile->schedule, error);
    if (!status)
        status = check_implied(archive, "step/age", profile->age, &profile->schedule, error);
    if (!status)
        status = read_checked(archive, "step/weight", STEP_DIMS, shape, 0, profile->weight, error);
    for (int k = 0; !status && k < OUSAC_SCALAR_COUNT; k++) {
        name_scalar(name, (ousac_scalar)k);
        shape[2] = ousac_profile_scalar_width(arch, (ousac_scalar)k);
        status = read_checked(archive, name, STEP_DIMS, shape, 0, profile->scalar[k], error);
    }
    for (size_t i = 0;
         !status && profile->moment && !profile->file && i < profile->identity.segments * arch->group_count;
         i++) {
        const uint64_t size = ousac_profile_moment_size(&arch->groups[i % arch->group_count]);
        ousac_profile_name_moment(name, arch, i);
        status = read_checked(archive, name, 1, &size, -HUGE_VAL, profile->moment[i], error);
    }
    for (int k = 0; !status && profile->identity.magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++) {
        const ousac_magnitude kind = (ousac_magnitude)k;
        double *target = profile->magnitude[k];
        for (size_t i = 0; !status && i < ousac_profile_magnitude_parts(arch, kind); i++) {
            const uint64_t channels = ousac_profile_magnitude_channels(arch, kind, i);
            name_magnitude(name, arch, kind, i);
            status = read_checked(archive, name, 1, &channels, 0, target, error);
            target += channels;
        }
    }
    return status;
}

static ousac_status check_digests(const ousac_archive *archive, ousac_profile *profile,
                                  const char *weights_recorded, ousac_error *error) {
    char recorded[OUSAC_DIGEST_CHARS];
    char computed[OUSAC_DIGEST_CHARS];
    ousac_profile_weights_digest(profile, profile->identity.weights_digest);
    if (strcmp(profile->identity.weights_digest, weights_recorded) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"weights_digest\" is %.12s; that of tensor \"step/weight\" is %.12s",
                          archive->path, weights_recorded, profile->identity.weights_digest);
    ousac_status status = ousac_archive_digest(archive, "digest", 0, recorded, error);
    if (status)
        return status;
    status = ousac_profile_compute_digest(profile, computed, error);
    if (status)
        return status;
    if (strcmp(recorded, computed) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"digest\" is %.12s; the profile's is %.12s", archive->path, recorded,
                          computed);
    if (profile->file)
        memcpy(profile->file->digest, computed, sizeof computed);
    return OUSAC_STATUS_OK;
}

/* With `lazy` 1 the archive stays open and the moments in it. */
static ousac_status take_profile(ousac_profile **profile, const char *path, int lazy, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_archive archive = {0};
    ousac_profile *made = NULL;
    ousac_arch arch = {0};
    ousac_schedule schedule = {0};
    ousac_profile_identity identity = {0};
    int with_moments = 0;
    *profile = NULL;
    status = ousac_archive_open(&archive, path, OUSAC_FORMAT_PROFILE, error);
    if (!status)
        status = take_head(&archive, &arch, &schedule, &identity, &with_moments, error);
    if (!status)
        status = check_tensors(&archive, &arch, &schedule, &identity, with_moments, error);
    if (status)
        goto done;
    status = ousac_profile_create_in(&made, &arch, &schedule, &identity, NULL,
                                     !with_moments ? OUSAC_MOMENTS_NONE
                                     : lazy        ? OUSAC_MOMENTS_FILE
                                                   : OUSAC_MOMENTS_MEMORY,
                                     NULL, error);
    if (status) {
        if (status == OUSAC_STATUS_USAGE) { /* gates left to a plan, for instance: the file's fault */
            status = OUSAC_STATUS_FORMAT;
            if (error)
                error->status = status;
        }
        (void)ousac_error_prefix(error, "%s", path);
        goto done;
    }
    made->version = archive.version;
    if (lazy && with_moments) {
        made->file = ousac_calloc(1, sizeof *made->file);
        if (!made->file) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
            goto done;
        }
        made->file->archive = archive;
    }
    status = take_ranges(&archive, made, error);
    if (!status)
        status = take_arrays(&archive, made, error);
    if (!status)
        status = check_digests(&archive, made, identity.weights_digest, error);
    if (made->file)
        archive = (ousac_archive){0}; /* the profile's to close */
    if (status)
        goto done;
    *profile = made;
    made = NULL;
done:
    ousac_profile_free(made);
    ousac_schedule_free(&schedule);
    ousac_arch_free(&arch);
    ousac_archive_close(&archive);
    return status;
}

ousac_status ousac_profile_load(ousac_profile **profile, const char *path, ousac_error *error) {
    return take_profile(profile, path, 0, error);
}

ousac_status ousac_profile_open(ousac_profile **profile, const char *path, ousac_error *error) {
    return take_profile(profile, path, 1, error);
}
