/* Writing bundles; the names, types and shapes are those of formats/BUNDLE.md. */
#include "profile/bundle/bundle.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/bundle/plan_file.h"
#include "profile/bundle/storage.h"
#include "profile/files/arch_text.h"
#include "profile/files/archive.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ---- what is written fits together ---- */

static ousac_status check_subject(const ousac_model *model, const ousac_profile *profile,
                                  const ousac_bundle_options *options, ousac_error *error) {
    char text[OUSAC_ARCH_DIFFERENCE_BYTES], differs[OUSAC_IDENTITY_TEXT_BYTES];
    const ousac_identity of = ousac_profile_model(profile), here = ousac_model_identity(model);
    if (!options->choose && options->dtype != OUSAC_DTYPE_F32 && options->dtype != OUSAC_DTYPE_BF16 &&
        options->dtype != OUSAC_DTYPE_F16 && options->dtype != OUSAC_DTYPE_I8)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "factors cannot be stored as %s; expected f32, bf16, f16 or i8",
                          ousac_dtype_name(options->dtype));
    if (!options->force && ousac_identity_differs(&of, &here, differs))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profile is of %s", differs);
    if (ousac_arch_difference(&profile->arch, &model->arch, text))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profile does not fit the model: %s", text);
    return OUSAC_STATUS_OK;
}

static ousac_status check_set(const ousac_model *model, const ousac_factor_set *set, ousac_error *error) {
    if (set->site_count != model->arch.site_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "factors of %zu sites for a model of %zu",
                          set->site_count, model->arch.site_count);
    for (size_t s = 0; s < set->site_count; s++) {
        const ousac_site *site = &model->arch.sites[s];
        const ousac_factors *factors = &set->site[s];
        const size_t most = site->m < site->n ? site->m : site->n;
        if (factors->m != site->m || factors->n != site->n || factors->rank > most ||
            factors->lambda_count != most)
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                              "site %s: factors of a weight (%zu, %zu), rank %zu, for a weight (%zu, %zu)",
                              site->name, factors->m, factors->n, factors->rank, site->m, site->n);
    }
    return OUSAC_STATUS_OK;
}

/* MISMATCH where a plan takes more directions of a site than its factors hold. */
static ousac_status check_held(const ousac_plan *plan, const ousac_arch *arch, size_t s, size_t held,
                               ousac_error *error) {
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    if (ousac_cost_path(arch, s, &ranks) != OUSAC_PATH_LOW_RANK || plan->rank[s] <= held)
        return OUSAC_STATUS_OK;
    return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "plan %s: rank %zu for site %s, whose factors hold %zu",
                      plan->name, plan->rank[s], plan->site[s], held);
}

/* Checks one plan and raises needed[site] to the ranks that it takes factors for. */
static ousac_status check_plan(const ousac_plan *plan, const ousac_model *model, const ousac_profile *profile,
                               int force, size_t *needed, ousac_error *error) {
    char name[OUSAC_NAME_BYTES + 8], differs[OUSAC_IDENTITY_TEXT_BYTES];
    const ousac_identity of = ousac_plan_model(plan), here = ousac_model_identity(model);
    if (!ousac_plan_name_is_valid(plan->name))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "\"%s\" cannot name a plan", plan->name);
    (void)snprintf(name, sizeof name, "plan %s", plan->name);
    ousac_status status = ousac_plan_check(plan, &model->arch, name, error);
    if (status)
        return status;
    if (plan->forecast && plan->forecast->step_count != profile->schedule.step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: a forecast of %zu steps for a schedule of %zu",
                          name, plan->forecast->step_count, profile->schedule.step_count);
    if (!force && *plan->model_digest && ousac_identity_differs(&of, &here, differs))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s is of %s", name, differs);
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    for (size_t s = 0; s < plan->site_count; s++) {
        if (ousac_cost_path(&model->arch, s, &ranks) == OUSAC_PATH_LOW_RANK && plan->rank[s] > needed[s])
            needed[s] = plan->rank[s];
    }
    return OUSAC_STATUS_OK;
}

static ousac_status check_plans(const ousac_plan *const *plans, size_t count, const ousac_model *model,
                                const ousac_profile *profile, const ousac_bundle_options *options,
                                size_t *needed, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (count == 0 && !options->keep_all)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a bundle without a plan would hold no factors");
    for (size_t i = 0; !status && i < count; i++) {
        for (size_t j = 0; j < i; j++)
            if (strcmp(plans[i]->name, plans[j]->name) == 0)
                return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "two plans are named \"%s\"", plans[i]->name);
        status = check_plan(plans[i], model, profile, options->force, needed, error);
    }
    return status;
}

/* ---- the sites ---- */

/* Where the factors of a site go, from one thread or from several. */
typedef struct site_target {
    ousac_oca_writer *writer;
    const ousac_model *model;
    const ousac_profile *profile;
    const ousac_bundle_options *options;
    int by_moment;        /* the factors are those of the profile's moments */
    const size_t *stored; /* per site: directions to store */
    /* of a stream: */
    int streams;
    pthread_mutex_t mutex; /* over the writer */
    const ousac_plan *const *plans;
    size_t plan_count;
} site_target;

/* Adds a tensor; `*data`, a block of ousac_malloc, is the writer's afterwards, or still the caller's. */
static ousac_status put_tensor(site_target *target, const char *name, ousac_dtype dtype, size_t dims,
                               const uint64_t *shape, ousac_oca_codec codec, void **data,
                               ousac_error *error) {
    ousac_status status;
    if (target->streams) {
        (void)pthread_mutex_lock(&target->mutex);
        status = ousac_oca_writer_tensor_put(target->writer, name, dtype, dims, shape, codec, *data, error);
        (void)pthread_mutex_unlock(&target->mutex);
        return status;
    }
    status = ousac_oca_writer_tensor_take(target->writer, name, dtype, dims, shape, codec, *data, error);
    if (!status)
        *data = NULL;
    return status;
}

/* `rows` rows of a factor in the type chosen, and the scales of i8. */
static ousac_status put_factor(site_target *target, const char *site, const char *which, const float *values,
                               size_t rows, size_t cols, ousac_dtype dtype, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char name[OUSAC_TENSOR_NAME_BYTES], scale_name[OUSAC_TENSOR_NAME_BYTES + 8];
    const uint64_t shape[2] = {rows, cols};
    const size_t count = rows * cols;
    const ousac_oca_codec codec = target->options->codec;
    void *stored = ousac_malloc(count, ousac_dtype_bytes(dtype));
    void *scale = ousac_malloc(rows, sizeof(float));
    (void)snprintf(name, sizeof name, "factor/%s/%s", site, which);
    (void)snprintf(scale_name, sizeof scale_name, "%s.scale", name);
    if (!stored || !scale)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "tensor \"%s\": no memory for %zu values", name, count);
    else if (ousac_storage_round(dtype, values, rows, cols, stored, scale, NULL))
        status = ousac_storage_refuse(dtype, values, count, site, which, error);
    if (!status)
        status = put_tensor(target, name, dtype, 2, shape, codec, &stored, error);
    if (!status && dtype == OUSAC_DTYPE_I8)
        status = put_tensor(target, scale_name, OUSAC_DTYPE_F32, 1, shape, codec, &scale, error);
    ousac_free(scale);
    ousac_free(stored);
    return status;
}

/* Metadata "added.SITE", "added.SITE.A" and "added.SITE.B": what rounding adds to the site's error. */
static ousac_status put_added(site_target *target, const char *site, const ousac_storage *storage,
                              ousac_error *error) {
    const struct {
        const char *suffix;
        double value;
    } parts[] = {{"", storage->added}, {".A", storage->added_a}, {".B", storage->added_b}};
    char key[OUSAC_KEY_BYTES], text[32];
    ousac_status status = OUSAC_STATUS_OK;
    if (target->streams)
        (void)pthread_mutex_lock(&target->mutex);
    for (size_t i = 0; storage->measured && !status && i < sizeof parts / sizeof *parts; i++) {
        (void)snprintf(key, sizeof key, "added.%s%s", site, parts[i].suffix);
        (void)snprintf(text, sizeof text, "%.4g", parts[i].value);
        status = ousac_oca_writer_metadata(target->writer, key, text, error);
    }
    if (target->streams)
        (void)pthread_mutex_unlock(&target->mutex);
    return status;
}

static ousac_status put_factors(site_target *target, size_t s, const ousac_factors *factors, size_t rank,
                                ousac_error *error) {
    const ousac_bundle_options *options = target->options;
    const char *site = target->model->arch.sites[s].name;
    ousac_storage storage;
    ousac_status status = options->choose ? ousac_storage_choose(target->model, target->profile, factors, s,
                                                                 rank, target->by_moment, &storage, error)
                                          : ousac_storage_measure(target->model, target->profile, factors, s,
                                                                  rank, target->by_moment, options->dtype,
                                                                  options->dtype, &storage, error);
    if (!status)
        status = put_factor(target, site, "A", factors->a, rank, factors->m, storage.a, error);
    if (!status)
        status = put_factor(target, site, "B", factors->b, rank, factors->n, storage.b, error);
    if (!status)
        status = put_added(target, site, &storage, error);
    return status;
}

/* The spectrum of a site, and its first `rank` directions. */
static ousac_status put_site(site_target *target, size_t s, const ousac_factors *factors, size_t rank,
                             ousac_error *error) {
    const uint64_t count = factors->lambda_count;
    char name[OUSAC_TENSOR_NAME_BYTES];
    (void)snprintf(name, sizeof name, "curve/%s", target->model->arch.sites[s].name);
    void *lambda = ousac_malloc(count, sizeof(double));
    if (!lambda)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "tensor \"%s\": no memory for %zu values", name,
                          factors->lambda_count);
    memcpy(lambda, factors->lambda, count * sizeof(double));
    ousac_status status =
        put_tensor(target, name, OUSAC_DTYPE_F64, 1, &count, OUSAC_OCA_CODEC_SHUFFLE_ZSTD, &lambda, error);
    ousac_free(lambda);
    if (!status && rank > 0)
        status = put_factors(target, s, factors, rank, error);
    return status;
}

/* An ousac_factor_sink; self is a site_target that streams. */
static ousac_status stream_site(void *self, size_t s, ousac_factors *factors, ousac_error *error) {
    site_target *target = self;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < target->plan_count && !status; i++)
        status = check_held(target->plans[i], &target->model->arch, s, factors->rank, error);
    if (status)
        return status;
    return put_site(target, s, factors, target->options->keep_all ? factors->rank : target->stored[s], error);
}

/* ---- the rest ---- */

static ousac_status put_probes(ousac_oca_writer *writer, const ousac_model *model, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const uint64_t shape[2] = {model->arch.site_count, OUSAC_PROBE_COUNT};
    double *probes = ousac_calloc(model->arch.site_count, OUSAC_PROBE_COUNT * sizeof *probes);
    if (!probes) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the projections of %zu sites",
                            model->arch.site_count);
        goto done;
    }
    status = ousac_model_probes(model, probes, error);
    if (!status)
        status = ousac_oca_writer_tensor_take(writer, "probe", OUSAC_DTYPE_F64, 2, shape, OUSAC_OCA_CODEC_RAW,
                                              probes, error);
    if (!status)
        probes = NULL;
done:
    ousac_free(probes);
    return status;
}

static ousac_status put_plans(ousac_oca_writer *writer, const ousac_plan *const *plans, size_t count,
                              ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char prefix[OUSAC_KEY_BYTES], ranks[OUSAC_TENSOR_NAME_BYTES], forecast[OUSAC_TENSOR_NAME_BYTES];
    for (size_t i = 0; !status && i < count; i++) {
        (void)snprintf(prefix, sizeof prefix, "plan.%s.", plans[i]->name);
        (void)snprintf(ranks, sizeof ranks, "plan/%s/rank", plans[i]->name);
        (void)snprintf(forecast, sizeof forecast, "forecast/%s", plans[i]->name);
        status = ousac_plan_put(writer, plans[i], prefix, ranks, forecast, error);
    }
    return status;
}

static ousac_status put_provenance(ousac_oca_writer *writer, const ousac_model *model,
                                   const ousac_profile *profile, const ousac_bundle_options *options,
                                   ousac_error *error) {
    char digest[OUSAC_DIGEST_CHARS];
    ousac_status status = ousac_archive_put_subject(writer, &profile->arch, &profile->schedule, error);
    const ousac_identity here = ousac_model_identity(model);
    ousac_profile_digest(profile, digest);
    if (!status)
        status = ousac_identity_put(writer, "", &here, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "profile_digest", digest, error);
    if (!status && options->provenance)
        status = ousac_oca_writer_metadata(writer, "provenance", options->provenance, error);
    return status;
}

/* Everything but the sites, and the file. */
static ousac_status finish(site_target *target, const char *path, const ousac_plan *const *plans,
                           size_t plan_count, int *saving, ousac_error *error) {
    const ousac_bundle_options *options = target->options;
    ousac_status status = put_plans(target->writer, plans, plan_count, error);
    if (!status)
        status = put_probes(target->writer, target->model, error);
    if (status)
        return status;
    *saving = 1; /* from here on messages name the path by themselves */
    return ousac_oca_writer_save_checked(target->writer, path, options->check, options->check_self, error);
}

/* Ranks that the plans need, checked; a writer that knows what the bundle is about. */
static ousac_status begin(ousac_oca_writer **writer, size_t **stored, const ousac_model *model,
                          const ousac_profile *profile, const ousac_plan *const *plans, size_t plan_count,
                          const ousac_bundle_options *options, ousac_error *error) {
    *stored = ousac_calloc(model->arch.site_count, sizeof **stored);
    if (!*stored)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the ranks of %zu sites",
                          model->arch.site_count);
    ousac_status status = check_plans(plans, plan_count, model, profile, options, *stored, error);
    if (!status)
        status = ousac_archive_begin(writer, OUSAC_FORMAT_BUNDLE, error);
    if (!status)
        status = put_provenance(*writer, model, profile, options, error);
    return status;
}

ousac_status ousac_bundle_save(const char *path, const ousac_model *model, const ousac_profile *profile,
                               const ousac_factor_set *set, const ousac_plan *const *plans, size_t plan_count,
                               const ousac_bundle_options *options, ousac_error *error) {
    ousac_oca_writer *writer = NULL;
    size_t *stored = NULL;
    int saving = 0;
    ousac_status status = check_subject(model, profile, options, error);
    if (!status)
        status = check_set(model, set, error);
    if (!status)
        status = begin(&writer, &stored, model, profile, plans, plan_count, options, error);
    site_target target = {.writer = writer,
                          .model = model,
                          .profile = profile,
                          .options = options,
                          .by_moment = set->method == OUSAC_METHOD_DELTA_COV,
                          .stored = stored};
    for (size_t s = 0; !status && s < set->site_count; s++)
        for (size_t i = 0; !status && i < plan_count; i++)
            status = check_held(plans[i], &model->arch, s, set->site[s].rank, error);
    for (size_t s = 0; !status && s < set->site_count; s++)
        status =
            put_site(&target, s, &set->site[s], options->keep_all ? set->site[s].rank : stored[s], error);
    if (!status)
        status = finish(&target, path, plans, plan_count, &saving, error);
    if (status && !saving)
        (void)ousac_error_prefix(error, "%s", path);
    ousac_oca_writer_free(writer);
    ousac_free(stored);
    return status;
}

ousac_status ousac_bundle_stream(const char *path, const ousac_model *model, const ousac_profile *profile,
                                 const ousac_factorise_options *factors, const ousac_plan *const *plans,
                                 size_t plan_count, const ousac_bundle_options *options, ousac_error *error) {
    site_target target = {.model = model,
                          .profile = profile,
                          .options = options,
                          .by_moment = factors->method == OUSAC_METHOD_DELTA_COV,
                          .streams = 1,
                          .plans = plans,
                          .plan_count = plan_count};
    ousac_factorise_options making = *factors;
    size_t *stored = NULL;
    char *directory = NULL;
    int saving = 0, locked = 0;
    ousac_status status = check_subject(model, profile, options, error);
    if (!status)
        status = begin(&target.writer, &stored, model, profile, plans, plan_count, options, error);
    if (!status)
        status = ousac_archive_directory(path, &directory, error);
    if (!status)
        status = ousac_oca_writer_spill(target.writer, directory, error);
    if (!status && pthread_mutex_init(&target.mutex, NULL))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "the system gives no mutex");
    if (status)
        goto done;
    locked = 1;
    target.stored = stored;
    making.rank_max = options->keep_all ? NULL : stored;
    making.force = options->force;
    making.whole_spectra =
        options->keep_all; /* else beyond the ranks held only the sum of a curve is exact */
    status = ousac_factorise_each(model, profile, &making, stream_site, &target, error);
    if (!status)
        status = finish(&target, path, plans, plan_count, &saving, error);
done:
    if (status && !saving)
        (void)ousac_error_prefix(error, "%s", path);
    if (locked)
        (void)pthread_mutex_destroy(&target.mutex);
    ousac_oca_writer_free(target.writer);
    ousac_free(directory);
    ousac_free(stored);
    return status;
}
