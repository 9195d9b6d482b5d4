/* Writing bundles; the names, types and shapes are those of formats/BUNDLE.md. */
#include "profile/bundle.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/arch_text.h"
#include "profile/archive.h"
#include "profile/plan_file.h"
#include "profile/storage.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what is written fits together ---- */

static ousac_status check_parts(const ousac_model *model, const ousac_profile *profile,
                                const ousac_factor_set *set, const ousac_bundle_options *options,
                                ousac_error *error) {
    char text[OUSAC_ARCH_DIFFERENCE_BYTES];
    if (!options->choose && options->dtype != OUSAC_DTYPE_F32 && options->dtype != OUSAC_DTYPE_BF16 &&
        options->dtype != OUSAC_DTYPE_F16 && options->dtype != OUSAC_DTYPE_I8)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "factors cannot be stored as %s; expected f32, bf16, f16 or i8",
                          ousac_dtype_name(options->dtype));
    if (!options->force && strcmp(profile->identity.model_digest, model->digest) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profile is of model %.12s, and this is model %.12s",
                          profile->identity.model_digest, model->digest);
    if (ousac_arch_difference(&profile->arch, &model->arch, text))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profile does not fit the model: %s", text);
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

/* Checks one plan and raises needed[site] to the ranks that it takes factors for. */
static ousac_status check_plan(const ousac_plan *plan, const ousac_model *model, const ousac_profile *profile,
                               const ousac_factor_set *set, int force, size_t *needed, ousac_error *error) {
    char name[OUSAC_NAME_BYTES + 8];
    if (!ousac_plan_name_is_valid(plan->name))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "\"%s\" cannot name a plan", plan->name);
    (void)snprintf(name, sizeof name, "plan %s", plan->name);
    ousac_status status = ousac_plan_check(plan, &model->arch, name, error);
    if (status)
        return status;
    if (plan->forecast && plan->forecast->step_count != profile->schedule.step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: a forecast of %zu steps for a schedule of %zu",
                          name, plan->forecast->step_count, profile->schedule.step_count);
    if (!force && *plan->model_digest && strcmp(plan->model_digest, model->digest) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s was made for model %.12s, and this is model %.12s", name, plan->model_digest,
                          model->digest);
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    for (size_t s = 0; s < plan->site_count; s++) {
        if (ousac_cost_path(&model->arch, s, &ranks) != OUSAC_PATH_LOW_RANK)
            continue;
        if (plan->rank[s] > set->site[s].rank)
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                              "%s: rank %zu for site %s, whose factors hold %zu", name, plan->rank[s],
                              plan->site[s], set->site[s].rank);
        if (plan->rank[s] > needed[s])
            needed[s] = plan->rank[s];
    }
    return OUSAC_STATUS_OK;
}

static ousac_status check_plans(const ousac_plan *const *plans, size_t count, const ousac_model *model,
                                const ousac_profile *profile, const ousac_factor_set *set,
                                const ousac_bundle_options *options, size_t *needed, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    if (count == 0 && !options->keep_all)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a bundle without a plan would hold no factors");
    for (size_t i = 0; !status && i < count; i++) {
        for (size_t j = 0; j < i; j++)
            if (strcmp(plans[i]->name, plans[j]->name) == 0)
                return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "two plans are named \"%s\"", plans[i]->name);
        status = check_plan(plans[i], model, profile, set, options->force, needed, error);
    }
    return status;
}

/* ---- tensors ---- */

/* `rows` rows of a factor in the type chosen, and the scales of i8. */
static ousac_status put_factor(ousac_oca_writer *writer, const char *site, const char *which,
                               const float *values, size_t rows, size_t cols, ousac_dtype dtype,
                               ousac_oca_codec codec, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char name[OUSAC_TENSOR_NAME_BYTES], scale_name[OUSAC_TENSOR_NAME_BYTES + 8];
    const uint64_t shape[2] = {rows, cols};
    const size_t count = rows * cols;
    unsigned char *stored = ousac_malloc(count, ousac_dtype_bytes(dtype));
    float *scale = ousac_malloc(rows, sizeof *scale);
    (void)snprintf(name, sizeof name, "factor/%s/%s", site, which);
    (void)snprintf(scale_name, sizeof scale_name, "%s.scale", name);
    if (!stored || !scale) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "tensor \"%s\": no memory for %zu values", name, count);
        goto done;
    }
    if (ousac_storage_round(dtype, values, rows, cols, stored, scale, NULL)) {
        status = ousac_storage_refuse(dtype, values, count, site, which, error);
        goto done;
    }
    status = ousac_oca_writer_tensor_take(writer, name, dtype, 2, shape, codec, stored, error);
    if (status)
        goto done;
    stored = NULL;
    if (dtype != OUSAC_DTYPE_I8)
        goto done;
    status = ousac_oca_writer_tensor_take(writer, scale_name, OUSAC_DTYPE_F32, 1, shape, codec, scale, error);
    if (!status)
        scale = NULL;
done:
    ousac_free(scale);
    ousac_free(stored);
    return status;
}

/* Metadata "added.SITE", "added.SITE.A" and "added.SITE.B": what rounding adds to the site's error. */
static ousac_status put_added(ousac_oca_writer *writer, const char *site, const ousac_storage *storage,
                              ousac_error *error) {
    const struct {
        const char *suffix;
        double value;
    } parts[] = {{"", storage->added}, {".A", storage->added_a}, {".B", storage->added_b}};
    char key[OUSAC_KEY_BYTES], text[32];
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; storage->measured && !status && i < sizeof parts / sizeof *parts; i++) {
        (void)snprintf(key, sizeof key, "added.%s%s", site, parts[i].suffix);
        (void)snprintf(text, sizeof text, "%.4g", parts[i].value);
        status = ousac_oca_writer_metadata(writer, key, text, error);
    }
    return status;
}

static ousac_status put_site(ousac_oca_writer *writer, const ousac_model *model, const ousac_profile *profile,
                             const ousac_factor_set *set, size_t s, size_t rank,
                             const ousac_bundle_options *options, ousac_error *error) {
    const ousac_factors *factors = &set->site[s];
    const char *site = model->arch.sites[s].name;
    const int by_moment = set->method == OUSAC_METHOD_DELTA_COV;
    ousac_storage storage;
    ousac_status status =
        options->choose ? ousac_storage_choose(model, profile, factors, s, rank, by_moment, &storage, error)
                        : ousac_storage_measure(model, profile, factors, s, rank, by_moment, options->dtype,
                                                options->dtype, &storage, error);
    if (!status)
        status =
            put_factor(writer, site, "A", factors->a, rank, factors->m, storage.a, options->codec, error);
    if (!status)
        status =
            put_factor(writer, site, "B", factors->b, rank, factors->n, storage.b, options->codec, error);
    if (!status)
        status = put_added(writer, site, &storage, error);
    return status;
}

static ousac_status put_sites(ousac_oca_writer *writer, const ousac_model *model,
                              const ousac_profile *profile, const ousac_factor_set *set, const size_t *stored,
                              const ousac_bundle_options *options, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char name[OUSAC_TENSOR_NAME_BYTES];
    for (size_t s = 0; !status && s < model->arch.site_count; s++) {
        const uint64_t count = set->site[s].lambda_count;
        (void)snprintf(name, sizeof name, "curve/%s", model->arch.sites[s].name);
        status = ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F64, 1, &count,
                                         OUSAC_OCA_CODEC_SHUFFLE_ZSTD, set->site[s].lambda, error);
        if (!status && stored[s] > 0)
            status = put_site(writer, model, profile, set, s, stored[s], options, error);
    }
    return status;
}

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
    ousac_profile_digest(profile, digest);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "model_digest", model->digest, error);
    if (!status)
        status = ousac_oca_writer_metadata(writer, "profile_digest", digest, error);
    if (!status && options->provenance)
        status = ousac_oca_writer_metadata(writer, "provenance", options->provenance, error);
    return status;
}

ousac_status ousac_bundle_save(const char *path, const ousac_model *model, const ousac_profile *profile,
                               const ousac_factor_set *set, const ousac_plan *const *plans, size_t plan_count,
                               const ousac_bundle_options *options, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_oca_writer *writer = NULL;
    size_t *stored = NULL;
    int saving = 0; /* from here on messages name the path by themselves */
    status = check_parts(model, profile, set, options, error);
    if (status)
        goto done;
    stored = ousac_calloc(set->site_count, sizeof *stored);
    if (!stored) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the ranks of %zu sites", set->site_count);
        goto done;
    }
    status = check_plans(plans, plan_count, model, profile, set, options, stored, error);
    for (size_t s = 0; options->keep_all && s < set->site_count; s++)
        stored[s] = set->site[s].rank;
    if (!status)
        status = ousac_archive_begin(&writer, OUSAC_FORMAT_BUNDLE, error);
    if (!status)
        status = put_provenance(writer, model, profile, options, error);
    if (!status)
        status = put_sites(writer, model, profile, set, stored, options, error);
    if (!status)
        status = put_plans(writer, plans, plan_count, error);
    if (!status)
        status = put_probes(writer, model, error);
    if (status)
        goto done;
    saving = 1;
    status = ousac_oca_writer_save_checked(writer, path, options->check, options->check_self, error);
done:
    if (status && !saving)
        (void)ousac_error_prefix(error, "%s", path);
    ousac_oca_writer_free(writer);
    ousac_free(stored);
    return status;
}
