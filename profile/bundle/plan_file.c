#include "profile/bundle/plan_file.h"

#include "formats/json.h"
#include "formats/memory.h"
#include "profile/files/text.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { SITES_MAX = 1 << 22 };

static void make_key(char key[OUSAC_KEY_BYTES], const char *prefix, const char *field) {
    (void)snprintf(key, OUSAC_KEY_BYTES, "%s%s", prefix, field);
}

/* The fields of an ousac_plan by kind, so that writing and reading cannot disagree. */
static const struct {
    const char *field;
    size_t at, size;
} text_fields[] = {
    {"method", offsetof(ousac_plan, method), OUSAC_NAME_BYTES},
    {"error_model", offsetof(ousac_plan, error_model), OUSAC_NAME_BYTES},
    {"note", offsetof(ousac_plan, note), OUSAC_ERROR_MESSAGE_BYTES},
};
static const struct {
    const char *field;
    size_t at;
} number_fields[] = {
    {"cached_step", offsetof(ousac_plan, cached_step)},
    {"budget", offsetof(ousac_plan, budget)},
    {"modelled_error", offsetof(ousac_plan, modelled_error)},
    {"bound", offsetof(ousac_plan, bound)},
    {"gap", offsetof(ousac_plan, gap)},
};

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static ousac_status put_fields(ousac_oca_writer *writer, const ousac_plan *plan, const char *prefix,
                               ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char key[OUSAC_KEY_BYTES];
    const ousac_identity model = ousac_plan_model(plan);
    if (*plan->profile_digest && !ousac_digest_is_valid(plan->profile_digest))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "plan %s: the profile_digest is \"%.64s\"; expected 64 hexadecimal digits, or nothing",
            plan->name, plan->profile_digest);
    make_key(key, prefix, "profile_digest");
    status = ousac_oca_writer_metadata(writer, key, plan->profile_digest, error);
    if (!status && (status = ousac_identity_put(writer, prefix, &model, error)))
        (void)ousac_error_prefix(error, "plan %s", plan->name);
    for (size_t i = 0; !status && i < COUNT_OF(text_fields); i++) {
        make_key(key, prefix, text_fields[i].field);
        status = ousac_oca_writer_metadata(writer, key, (const char *)plan + text_fields[i].at, error);
    }
    for (size_t i = 0; !status && i < COUNT_OF(number_fields); i++) {
        double value = 0;
        memcpy(&value, (const char *)plan + number_fields[i].at, sizeof value);
        make_key(key, prefix, number_fields[i].field);
        status = ousac_archive_put_f64(writer, key, value, error);
    }
    make_key(key, prefix, "exact");
    if (!status)
        status = ousac_archive_put_u64(writer, key, plan->exact != 0, error);
    if (plan->validation.count == 0)
        return status;
    make_key(key, prefix, "validation_first");
    if (!status)
        status = ousac_archive_put_u64(writer, key, plan->validation.first, error);
    make_key(key, prefix, "validation_count");
    if (!status)
        status = ousac_archive_put_u64(writer, key, plan->validation.count, error);
    return status;
}

static ousac_status take_fields(const ousac_archive *archive, ousac_plan *plan, const char *prefix,
                                ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char key[OUSAC_KEY_BYTES];
    uint64_t exact = 0;
    status = ousac_identity_take(archive, prefix, 1, plan->model_digest, plan->model_constants,
                                 plan->model_process, error);
    make_key(key, prefix, "profile_digest");
    if (!status)
        status = ousac_archive_digest(archive, key, 1, plan->profile_digest, error);
    for (size_t i = 0; !status && i < COUNT_OF(text_fields); i++) {
        make_key(key, prefix, text_fields[i].field);
        status = ousac_archive_copy_text(archive, key, (char *)plan + text_fields[i].at, text_fields[i].size,
                                         error);
    }
    for (size_t i = 0; !status && i < COUNT_OF(number_fields); i++) {
        double value = 0;
        make_key(key, prefix, number_fields[i].field);
        status = ousac_archive_f64(archive, key, &value, error);
        memcpy((char *)plan + number_fields[i].at, &value, sizeof value);
    }
    make_key(key, prefix, "exact");
    if (!status)
        status = ousac_archive_u64(archive, key, 0, 1, &exact, error);
    plan->exact = (int)exact;
    make_key(key, prefix, "validation_first");
    if (status || !oca_metadata(archive->file, key))
        return status; /* not validated */
    status = ousac_archive_u64(archive, key, 0, UINT64_MAX, &plan->validation.first, error);
    make_key(key, prefix, "validation_count");
    if (!status)
        status = ousac_archive_u64(archive, key, 1, UINT64_MAX - plan->validation.first,
                                   &plan->validation.count, error);
    return status;
}

/* (S, branches, groups), float32. */
static ousac_status put_forecast(ousac_oca_writer *writer, const ousac_forecast *forecast, const char *name,
                                 ousac_error *error) {
    const uint64_t shape[3] = {forecast->step_count, OUSAC_BRANCHES, forecast->group_count};
    for (size_t i = 0; i < forecast->step_count * OUSAC_BRANCHES * forecast->group_count; i++)
        if (!isfinite(forecast->coefficient[i]))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "tensor \"%s\": coefficient %zu is not finite",
                              name, i);
    return ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F32, 3, shape, OUSAC_OCA_CODEC_SHUFFLE_ZSTD,
                                   forecast->coefficient, error);
}

static ousac_status take_forecast(const ousac_archive *archive, const char *name, ousac_forecast **forecast,
                                  ousac_error *error) {
    oca_tensor found;
    if (oca_tensor_find(archive->file, name, &found) != OCA_OK)
        return OUSAC_STATUS_OK; /* a plan without one */
    if (found.dims != 3 || found.shape[1] != OUSAC_BRANCHES || found.shape[0] > OUSAC_SCHEDULE_STEPS_MAX ||
        found.shape[2] > SITES_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\"; expected shape (steps, %d, groups)",
                          archive->path, name, OUSAC_BRANCHES);
    ousac_status status =
        ousac_forecast_create(forecast, (size_t)found.shape[0], (size_t)found.shape[2], error);
    if (!status)
        status = ousac_archive_read(archive, name, OUSAC_DTYPE_F32, 3, found.shape, (*forecast)->coefficient,
                                    error);
    for (uint64_t i = 0; !status && i < found.shape[0] * found.shape[1] * found.shape[2]; i++)
        if (!isfinite((*forecast)->coefficient[i]))
            status =
                OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\": element %" PRIu64 " is not finite",
                           archive->path, name, i);
    return status;
}

ousac_status ousac_plan_put(ousac_oca_writer *writer, const ousac_plan *plan, const char *prefix,
                            const char *ranks, const char *forecast, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int32_t *stored = ousac_malloc(plan->site_count, sizeof *stored);
    if (!stored) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks of %zu sites",
                            plan->site_count);
        goto done;
    }
    for (size_t s = 0; s < plan->site_count; s++) {
        if (plan->rank[s] > INT32_MAX) {
            status =
                OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "plan %s: rank %zu of site %s; at most %ld expected",
                           plan->name, plan->rank[s], plan->site[s], (long)INT32_MAX);
            goto done;
        }
        stored[s] = (int32_t)plan->rank[s];
    }
    status = put_fields(writer, plan, prefix, error);
    const uint64_t shape = plan->site_count;
    if (!status)
        status = ousac_oca_writer_tensor_take(writer, ranks, OUSAC_DTYPE_I32, 1, &shape, OUSAC_OCA_CODEC_RAW,
                                              stored, error);
    if (!status)
        stored = NULL;
    if (!status && plan->forecast)
        status = put_forecast(writer, plan->forecast, forecast, error);
done:
    ousac_free(stored);
    return status;
}

ousac_status ousac_plan_take(const ousac_archive *archive, ousac_plan *plan, const char *prefix,
                             const char *ranks, const char *forecast, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const uint64_t shape = plan->site_count;
    int32_t *stored = ousac_malloc(plan->site_count, sizeof *stored);
    if (!stored) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for the ranks of %zu sites",
                            archive->path, plan->site_count);
        goto done;
    }
    status = take_fields(archive, plan, prefix, error);
    if (!status)
        status = ousac_archive_read(archive, ranks, OUSAC_DTYPE_I32, 1, &shape, stored, error);
    for (size_t s = 0; !status && s < plan->site_count; s++) {
        if (stored[s] < 0)
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\": rank %" PRId32 " of site %s",
                                archive->path, ranks, stored[s], plan->site[s]);
        plan->rank[s] = (size_t)stored[s];
    }
    if (!status)
        status = take_forecast(archive, forecast, &plan->forecast, error);
done:
    ousac_free(stored);
    return status;
}

/* ---- the plan file ---- */

ousac_status ousac_plan_save(const ousac_plan *plan, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_oca_writer *writer = NULL;
    ousac_text sites = {0};
    if (!ousac_plan_name_is_valid(plan->name)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: \"%s\" cannot name a plan", path, plan->name);
        goto done;
    }
    for (size_t s = 0; s < plan->site_count; s++) {
        ousac_text_add(&sites, s ? "," : "[");
        ousac_text_add_json(&sites, plan->site[s]);
    }
    ousac_text_add(&sites, "]");
    if (sites.failed) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for the names of %zu sites", path,
                            plan->site_count);
        goto done;
    }
    status = ousac_archive_begin(&writer, OUSAC_FORMAT_PLAN, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "name", plan->name, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "sites", sites.data, error);
    if (!status)
        status = ousac_plan_put(writer, plan, "", "rank", "forecast", error);
    if (!status)
        status = ousac_oca_writer_save(writer, path, error);
    else
        (void)ousac_error_prefix(error, "%s", path);
done:
    ousac_free(sites.data);
    ousac_oca_writer_free(writer);
    return status;
}

/* The names of metadata "sites", a JSON array of texts, into a new plan. */
static ousac_status take_sites(const ousac_archive *archive, ousac_plan **plan, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const char *text = NULL;
    char name[OUSAC_ERROR_MESSAGE_BYTES];
    cJSON *root = NULL;
    const cJSON *item = NULL;
    size_t count = 0;
    status = ousac_archive_text(archive, "sites", &text, error);
    if (status)
        goto done;
    (void)snprintf(name, sizeof name, "%.400s: metadata \"sites\"", archive->path);
    status = ousac_json_parse(&root, text, strlen(text), SITES_MAX, OUSAC_JSON_NUMBERS_ANY, name, error);
    if (status)
        goto done;
    cJSON_ArrayForEach(item, root) {
        if (!cJSON_IsString(item) || !*item->valuestring || strlen(item->valuestring) >= OUSAC_NAME_BYTES) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: name %zu is not a text of 1 to %d bytes",
                                name, count, OUSAC_NAME_BYTES - 1);
            goto done;
        }
        count++;
    }
    if (!cJSON_IsArray(root) || count == 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not an array of names", name);
        goto done;
    }
    status = ousac_plan_allocate(plan, count, error);
    if (status)
        goto done;
    count = 0;
    cJSON_ArrayForEach(item, root)
        memcpy((*plan)->site[count++], item->valuestring, strlen(item->valuestring) + 1);
done:
    cJSON_Delete(root);
    return status;
}

ousac_status ousac_plan_load(ousac_plan **plan, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_archive archive = {0};
    ousac_plan *made = NULL;
    *plan = NULL;
    status = ousac_archive_open(&archive, path, OUSAC_FORMAT_PLAN, error);
    if (!status)
        status = take_sites(&archive, &made, error);
    if (!status)
        status = ousac_archive_copy_text(&archive, "name", made->name, sizeof made->name, error);
    if (status)
        goto done;
    if (!ousac_plan_name_is_valid(made->name)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"name\" is \"%s\"; that cannot name a plan", path, made->name);
        goto done;
    }
    status = ousac_plan_take(&archive, made, "", "rank", "forecast", error);
    const size_t expected = made->forecast ? 2 : 1;
    if (!status && oca_tensor_count(archive.file) != expected)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %zu tensors; expected %zu", path,
                            oca_tensor_count(archive.file), expected);
    if (status)
        goto done;
    *plan = made;
    made = NULL;
done:
    ousac_plan_free(made);
    ousac_archive_close(&archive);
    return status;
}
