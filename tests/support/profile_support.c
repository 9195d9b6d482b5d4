#include "tests/support/profile_support.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "calib/stats/philox.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "formats/oca.h"
#include "formats/oca_write.h"

enum { STREAM = 2000 }; /* apart from the product's own streams */

void must_succeed(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

void must_fail(ousac_status status, ousac_status expected, const ousac_error *error, const char *text) {
    if (status != expected)
        fail_msg("%s instead of %s: %s", ousac_status_name(status), ousac_status_name(expected),
                 status ? error->message : "");
    assert_int_equal(error->status, expected);
    if (!strstr(error->message, text))
        fail_msg("no \"%s\" in \"%s\"", text, error->message);
}

void same_but_for_rounding(const float *value, const float *expected, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = (double)value[i] - (double)expected[i];
        difference += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    if (!(difference <= 1e-10 * size))
        fail_msg("a relative difference of %.3g: expected one of rounding", sqrt(difference / size));
}

void synthetic_arch(ousac_arch *arch) {
    ousac_error error = {0};
    must_succeed(ousac_arch_create_dit(arch, SYNTHETIC_BLOCKS, SYNTHETIC_TOKENS, SYNTHETIC_WIDTH,
                                       SYNTHETIC_HIDDEN, &error),
                 &error);
}

void synthetic_schedule(ousac_schedule *schedule) {
    const ousac_mode modes[SYNTHETIC_STEPS] = {OUSAC_MODE_CFG, OUSAC_MODE_CFG,  OUSAC_MODE_COND,
                                               OUSAC_MODE_CFG, OUSAC_MODE_COND, OUSAC_MODE_CFG};
    const ousac_gate gates[SYNTHETIC_STEPS] = {OUSAC_GATE_FULL, OUSAC_GATE_CACHED, OUSAC_GATE_CACHED,
                                               OUSAC_GATE_FULL, OUSAC_GATE_CACHED, OUSAC_GATE_CACHED};
    ousac_error error = {0};
    memset(schedule, 0, sizeof *schedule);
    (void)snprintf(schedule->name, sizeof schedule->name, "synthetic");
    schedule->step_count = SYNTHETIC_STEPS;
    schedule->steps = ousac_calloc(SYNTHETIC_STEPS, sizeof *schedule->steps);
    assert_non_null(schedule->steps);
    for (size_t i = 0; i < SYNTHETIC_STEPS; i++) {
        ousac_step *step = &schedule->steps[i];
        step->timestep = 999.0 - 150.5 * (double)i;
        step->mode = modes[i];
        step->scale = modes[i] == OUSAC_MODE_CFG ? 1.5 + (double)i : 1;
        step->gate[OUSAC_BRANCH_COND] = step->gate[OUSAC_BRANCH_UNCOND] = gates[i];
    }
    must_succeed(ousac_schedule_validate(schedule, "synthetic", &error), &error);
}

void synthetic_digest(char digest[OUSAC_DIGEST_CHARS], char digit) {
    memset(digest, digit, OUSAC_DIGEST_CHARS - 1);
    digest[OUSAC_DIGEST_CHARS - 1] = '\0';
}

void synthetic_model(ousac_model **model, uint64_t seed) {
    ousac_model *made = ousac_calloc(1, sizeof *made);
    assert_non_null(made);
    synthetic_arch(&made->arch);
    made->backend = ousac_backend_cpu();
    made->path = ousac_strdup("synthetic");
    synthetic_digest(made->digest, 'a');
    (void)snprintf(made->constants, sizeof made->constants, "%s", SYNTHETIC_CONSTANTS);
    (void)snprintf(made->process, sizeof made->process, "%s", SYNTHETIC_PROCESS);
    size_t floats = 0;
    for (size_t s = 0; s < made->arch.site_count; s++)
        floats += made->arch.sites[s].m * made->arch.sites[s].n;
    float *values = ousac_malloc(floats, sizeof *values);
    made->weight = ousac_calloc(made->arch.site_count, sizeof *made->weight);
    assert_true(values && made->weight && made->path);
    ousac_philox_normals(seed, STREAM, 0, floats, values);
    made->state = values;
    for (size_t s = 0; s < made->arch.site_count; s++) {
        made->weight[s] = values;
        values += made->arch.sites[s].m * made->arch.sites[s].n;
    }
    *model = made;
}

void synthetic_model_free(ousac_model *model) {
    ousac_free(model->state);
    ousac_free(model->weight);
    ousac_free(model->path);
    ousac_arch_free(&model->arch);
    ousac_free(model);
}

float *synthetic_weight(const ousac_model *model, size_t site) {
    return (float *)model->state + (model->weight[site] - model->weight[0]);
}

/* Adds the outer product of the sample's vector, whose channels differ in size, to a packed moment. */
static void add_outer(double *packed, size_t dim, uint64_t stream_seed, uint64_t sample) {
    float *v = malloc(dim * sizeof *v);
    assert_non_null(v);
    ousac_philox_normals(stream_seed, STREAM + 1, sample, dim, v);
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++)
            packed[i * (i + 1) / 2 + j] += (double)v[i] * (double)v[j] * (double)((1 + i) * (1 + j));
    free(v);
}

static void add_sample(ousac_profile *profile, uint64_t sample) {
    const size_t groups = profile->arch.group_count;
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
        const size_t width = ousac_profile_scalar_width(&profile->arch, (ousac_scalar)k);
        const size_t count = profile->schedule.step_count * OUSAC_BRANCHES * width;
        float *v = malloc(count * sizeof *v);
        assert_non_null(v);
        ousac_philox_normals((uint64_t)k, STREAM + 2, sample, count, v);
        for (size_t i = 0; i < count; i++)
            if (profile->gate[i / width] >= 0)
                profile->scalar[k][i] += (double)v[i] * (double)v[i];
        free(v);
    }
    for (size_t i = 0; profile->moment && i < profile->identity.segments * groups; i++)
        add_outer(profile->moment[i], profile->arch.groups[i % groups].dim, i, sample);
    for (int k = 0; profile->identity.magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++)
        for (size_t i = 0; i < ousac_profile_magnitude_size(&profile->arch, (ousac_magnitude)k); i++) {
            uint32_t words[4];
            ousac_philox_draw((uint64_t)k, STREAM + 3, sample, (uint32_t)i, words);
            profile->magnitude[k][i] += (double)words[0] / 4294967296.0 / (double)(1 + i % 5);
        }
}

static void make_profile(ousac_profile **profile, uint64_t first, uint64_t count, size_t segments,
                         int with_moments, int magnitudes) {
    ousac_error error = {0};
    ousac_arch arch;
    ousac_schedule schedule;
    ousac_profile_identity identity = {
        .seed = UINT64_MAX - 1, .micro_batch = 4, .tokens_used = SYNTHETIC_TOKENS};
    identity.segments = segments;
    identity.magnitudes = magnitudes;
    synthetic_digest(identity.model_digest, 'a');
    (void)snprintf(identity.model_constants, sizeof identity.model_constants, "%s", SYNTHETIC_CONSTANTS);
    (void)snprintf(identity.model_process, sizeof identity.model_process, "%s", SYNTHETIC_PROCESS);
    synthetic_arch(&arch);
    synthetic_schedule(&schedule);
    must_succeed(ousac_profile_create(profile, &arch, &schedule, &identity, NULL, with_moments, &error),
                 &error);
    must_succeed(ousac_profile_add_range(*profile, first, count, &error), &error);
    for (uint64_t j = first; j < first + count; j++)
        add_sample(*profile, j);
    ousac_schedule_free(&schedule);
    ousac_arch_free(&arch);
}

void synthetic_profile(ousac_profile **profile, uint64_t first, uint64_t count, size_t segments,
                       int with_moments) {
    make_profile(profile, first, count, segments, with_moments, 0);
}

void synthetic_profile_with_magnitudes(ousac_profile **profile, uint64_t first, uint64_t count) {
    make_profile(profile, first, count, 1, 1, 1);
}

void rewrite_archive(const char *source, const char *target, const archive_edit *edit) {
    oca_file *file = NULL;
    ousac_oca_writer *writer = NULL;
    ousac_error error = {0};
    assert_int_equal(oca_open_path(&file, source, NULL), OCA_OK);
    must_succeed(ousac_oca_writer_create(&writer, &error), &error);
    for (size_t i = 0; i < oca_metadata_count(file); i++) {
        const char *key = NULL, *value = NULL;
        assert_int_equal(oca_metadata_at(file, i, &key, &value), OCA_OK);
        if (!(edit->drop && strcmp(edit->drop, key) == 0) && !(edit->key && strcmp(edit->key, key) == 0))
            must_succeed(ousac_oca_writer_metadata(writer, key, value, &error), &error);
    }
    if (edit->key)
        must_succeed(ousac_oca_writer_metadata(writer, edit->key, edit->value, &error), &error);
    for (size_t i = 0; i < oca_tensor_count(file); i++) {
        oca_tensor t;
        assert_int_equal(oca_tensor_at(file, i, &t), OCA_OK);
        if ((edit->drop && strcmp(edit->drop, t.name) == 0) ||
            (edit->tensor && strcmp(edit->tensor, t.name) == 0))
            continue;
        void *data = ousac_malloc((size_t)t.bytes, 1);
        assert_non_null(data);
        assert_int_equal(oca_read(file, i, 0, t.shape[0], t.dtype, data, (size_t)t.bytes), OCA_OK);
        must_succeed(ousac_oca_writer_tensor_take(writer, t.name, (ousac_dtype)(int)t.dtype, t.dims, t.shape,
                                                  (ousac_oca_codec)(int)t.codec, data, &error),
                     &error);
    }
    if (edit->tensor)
        must_succeed(ousac_oca_writer_tensor(writer, edit->tensor, edit->dtype, edit->dims, edit->shape,
                                             OUSAC_OCA_CODEC_RAW, edit->data, &error),
                     &error);
    must_succeed(ousac_oca_writer_save(writer, target, &error), &error);
    ousac_oca_writer_free(writer);
    oca_close(file);
}

int files_are_equal(const char *a, const char *b) {
    ousac_file_view x = {0}, y = {0};
    ousac_error error = {0};
    must_succeed(ousac_file_map(&x, a, &error), &error);
    must_succeed(ousac_file_map(&y, b, &error), &error);
    const int equal = x.size == y.size && x.size > 0 && memcmp(x.data, y.data, x.size) == 0;
    ousac_file_unmap(&x);
    ousac_file_unmap(&y);
    return equal;
}

int file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}
