/* Bundles in use. A handle is immutable once open; factors are read from the file when they are asked for. */
#include "profile/bundle/bundle.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/bundle/plan_file.h"
#include "profile/files/arch_text.h"
#include "profile/files/archive.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where every weight of a site was rounded by at most 2^-8 of itself, as bf16 does, a projection with
 * independent signs moves by a sum whose standard deviation is at most 2^-8 of the weights' root mean square;
 * by Hoeffding's inequality it leaves six of those with a probability below 2 exp(-18). Other weights come
 * that near by chance in about one of a hundred projections, so four projections of every site tell them
 * apart. */
#define PROBE_TOLERANCE (6.0 / 256.0)

typedef struct stored_site {
    size_t rank; /* directions held; 0: no tensors */
    oca_tensor a, b;
} stored_site;

struct ousac_bundle {
    ousac_archive archive;
    ousac_arch arch;
    ousac_schedule schedule;
    char model_digest[OUSAC_DIGEST_CHARS], profile_digest[OUSAC_DIGEST_CHARS];
    char model_constants[OUSAC_CONSTANTS_BYTES], model_process[OUSAC_PROCESS_BYTES];
    stored_site *site;  /* (site_count) */
    double *probe;      /* (site_count, OUSAC_PROBE_COUNT) */
    ousac_plan **plans; /* by name */
    size_t plan_count;
};

/* ---- opening ---- */

/* A factor (rank, width) in one of the types that a bundle may hold, i8 with its scales. */
static ousac_status take_factor(const ousac_archive *archive, const char *name, uint64_t rank, uint64_t width,
                                oca_tensor *tensor, ousac_error *error) {
    char scale[OUSAC_TENSOR_NAME_BYTES + 8];
    oca_tensor found;
    ousac_dtype dtype = OUSAC_DTYPE_F32; /* of which a missing tensor is then said to be missing */
    if (oca_tensor_find(archive->file, name, &found) == OCA_OK)
        dtype = (ousac_dtype)(int)found.dtype;
    if (dtype != OUSAC_DTYPE_F32 && dtype != OUSAC_DTYPE_BF16 && dtype != OUSAC_DTYPE_F16 &&
        dtype != OUSAC_DTYPE_I8)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: tensor \"%s\" is %s; expected f32, bf16, f16 or i8", archive->path, name,
                          ousac_dtype_name(dtype));
    ousac_status status =
        ousac_archive_find(archive, name, dtype, 2, (const uint64_t[]){rank, width}, tensor, error);
    if (status || dtype != OUSAC_DTYPE_I8)
        return status;
    (void)snprintf(scale, sizeof scale, "%s.scale", name);
    return ousac_archive_find(archive, scale, OUSAC_DTYPE_F32, 1, &rank, &found, error);
}

static ousac_status take_site(ousac_bundle *bundle, size_t s, ousac_error *error) {
    const ousac_archive *archive = &bundle->archive;
    const ousac_site *site = &bundle->arch.sites[s];
    const uint64_t most = site->m < site->n ? site->m : site->n;
    stored_site *stored = &bundle->site[s];
    char a[OUSAC_TENSOR_NAME_BYTES], b[OUSAC_TENSOR_NAME_BYTES], curve[OUSAC_TENSOR_NAME_BYTES];
    oca_tensor found;
    (void)snprintf(a, sizeof a, "factor/%s/A", site->name);
    (void)snprintf(b, sizeof b, "factor/%s/B", site->name);
    (void)snprintf(curve, sizeof curve, "curve/%s", site->name);
    ousac_status status = ousac_archive_find(archive, curve, OUSAC_DTYPE_F64, 1, &most, &found, error);
    if (status)
        return status;
    const int has_a = oca_tensor_find(archive->file, a, &found) == OCA_OK;
    if (!has_a) {
        if (oca_tensor_find(archive->file, b, &found) == OCA_OK)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\" without \"%s\"", archive->path,
                              b, a);
        return OUSAC_STATUS_OK;
    }
    const uint64_t rank = found.shape[0];
    if (rank > most)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: tensor \"%s\" holds %llu directions of a weight (%zu, %zu)", archive->path, a,
                          (unsigned long long)rank, site->m, site->n);
    status = take_factor(archive, a, rank, site->m, &stored->a, error);
    if (!status)
        status = take_factor(archive, b, rank, site->n, &stored->b, error);
    stored->rank = (size_t)rank;
    return status;
}

/* The plan whose ranks are the tensor "plan/NAME/rank". */
static ousac_status take_plan(const ousac_bundle *bundle, const char *tensor, ousac_plan **plan,
                              ousac_error *error) {
    static const char start[] = "plan/", end[] = "/rank";
    const ousac_arch *arch = &bundle->arch;
    const char *path = bundle->archive.path;
    ousac_status status = OUSAC_STATUS_OK;
    ousac_plan *made = NULL;
    char prefix[OUSAC_KEY_BYTES], forecast[OUSAC_TENSOR_NAME_BYTES];
    const size_t length = strlen(tensor), around = sizeof start + sizeof end - 2;
    status = ousac_plan_allocate(&made, arch->site_count, error);
    if (status)
        goto done;
    if (length > around && length - around < sizeof made->name &&
        strcmp(tensor + length - strlen(end), end) == 0)
        memcpy(made->name, tensor + strlen(start), length - around);
    if (!ousac_plan_name_is_valid(made->name)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: tensor \"%.128s\"; expected \"plan/NAME/rank\" with the name of a plan",
                            path, tensor);
        goto done;
    }
    for (size_t s = 0; s < arch->site_count; s++)
        memcpy(made->site[s], arch->sites[s].name, sizeof made->site[s]);
    (void)snprintf(prefix, sizeof prefix, "plan.%s.", made->name);
    (void)snprintf(forecast, sizeof forecast, "forecast/%s", made->name);
    status = ousac_plan_take(&bundle->archive, made, prefix, tensor, forecast, error);
    if (status)
        goto done;
    if (made->forecast && (made->forecast->step_count != bundle->schedule.step_count ||
                           made->forecast->group_count != arch->group_count)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: tensor \"%s\": %zu steps and %zu groups; expected %zu, %zu", path, forecast,
                            made->forecast->step_count, made->forecast->group_count,
                            bundle->schedule.step_count, arch->group_count);
        goto done;
    }
    const ousac_ranks ranks = ousac_plan_ranks(made);
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        if (made->rank[s] > (site->m < site->n ? site->m : site->n) ||
            (made->rank[s] > bundle->site[s].rank &&
             ousac_cost_path(arch, s, &ranks) == OUSAC_PATH_LOW_RANK)) {
            status = OUSAC_FAIL(
                error, OUSAC_STATUS_FORMAT,
                "%s: plan %s: rank %zu for site %s, whose weight is (%zu, %zu) and of which %zu "
                "directions are held",
                path, made->name, made->rank[s], site->name, site->m, site->n, bundle->site[s].rank);
            goto done;
        }
    }
    *plan = made;
    made = NULL;
done:
    ousac_plan_free(made);
    return status;
}

static int compare_plans(const void *a, const void *b) {
    return strcmp((*(ousac_plan *const *)a)->name, (*(ousac_plan *const *)b)->name);
}

/* Adds the number of tensors that the plans take to *tensors. */
static ousac_status take_plans(ousac_bundle *bundle, size_t *tensors, ousac_error *error) {
    const oca_file *file = bundle->archive.file;
    ousac_status status = OUSAC_STATUS_OK;
    oca_tensor tensor;
    size_t count = 0;
    for (size_t i = 0; i < oca_tensor_count(file); i++)
        count += oca_tensor_at(file, i, &tensor) == OCA_OK && strncmp(tensor.name, "plan/", 5) == 0;
    bundle->plans = ousac_calloc(count, sizeof *bundle->plans);
    if (!bundle->plans)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu plans", bundle->archive.path,
                          count);
    for (size_t i = 0; !status && i < oca_tensor_count(file); i++)
        if (oca_tensor_at(file, i, &tensor) == OCA_OK && strncmp(tensor.name, "plan/", 5) == 0) {
            status = take_plan(bundle, tensor.name, &bundle->plans[bundle->plan_count], error);
            if (!status)
                *tensors += bundle->plans[bundle->plan_count++]->forecast ? 2 : 1;
        }
    /* tensors are sorted by their whole names, in which '/' stands above '-' and '.' */
    if (!status)
        qsort(bundle->plans, bundle->plan_count, sizeof *bundle->plans, compare_plans);
    return status;
}

static ousac_status take_all(ousac_bundle *bundle, const char *path, ousac_error *error) {
    ousac_status status = ousac_archive_open(&bundle->archive, path, OUSAC_FORMAT_BUNDLE, error);
    if (!status)
        status = ousac_archive_subject(&bundle->archive, &bundle->arch, &bundle->schedule, error);
    if (!status)
        status = ousac_identity_take(&bundle->archive, "", 0, bundle->model_digest, bundle->model_constants,
                                     bundle->model_process, error);
    if (!status)
        status = ousac_archive_digest(&bundle->archive, "profile_digest", 0, bundle->profile_digest, error);
    if (status)
        return status;
    const size_t sites = bundle->arch.site_count;
    const uint64_t shape[2] = {sites, OUSAC_PROBE_COUNT};
    bundle->site = ousac_calloc(sites, sizeof *bundle->site);
    bundle->probe = ousac_calloc(sites, OUSAC_PROBE_COUNT * sizeof *bundle->probe);
    if (!bundle->site || !bundle->probe)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu sites", path, sites);
    size_t expected = 1 + sites; /* probe, curves */
    for (size_t s = 0; !status && s < sites; s++) {
        status = take_site(bundle, s, error);
        if (bundle->site[s].rank)
            expected += 2u + (bundle->site[s].a.dtype == OCA_I8) + (bundle->site[s].b.dtype == OCA_I8);
    }
    if (!status)
        status =
            ousac_archive_read(&bundle->archive, "probe", OUSAC_DTYPE_F64, 2, shape, bundle->probe, error);
    if (!status)
        status = ousac_archive_check_f64(&bundle->archive, "probe", bundle->probe, sites * OUSAC_PROBE_COUNT,
                                         -HUGE_VAL, error);
    if (!status)
        status = take_plans(bundle, &expected, error);
    if (!status && oca_tensor_count(bundle->archive.file) != expected)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %zu tensors; expected %zu", path,
                            oca_tensor_count(bundle->archive.file), expected);
    return status;
}

ousac_status ousac_bundle_open(ousac_bundle **bundle, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_bundle *made = ousac_calloc(1, sizeof *made);
    *bundle = NULL;
    if (!made) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a bundle", path);
        goto done;
    }
    status = take_all(made, path, error);
    if (status)
        goto done;
    *bundle = made;
    made = NULL;
done:
    ousac_bundle_close(made);
    return status;
}

void ousac_bundle_close(ousac_bundle *bundle) {
    if (!bundle)
        return;
    for (size_t i = 0; i < bundle->plan_count; i++)
        ousac_plan_free(bundle->plans[i]);
    ousac_free(bundle->plans);
    ousac_free(bundle->probe);
    ousac_free(bundle->site);
    ousac_schedule_free(&bundle->schedule);
    ousac_arch_free(&bundle->arch);
    ousac_archive_close(&bundle->archive);
    ousac_free(bundle);
}

/* ---- what is in it ---- */

const ousac_schedule *ousac_bundle_schedule(const ousac_bundle *bundle) {
    return &bundle->schedule;
}

const char *ousac_bundle_model_digest(const ousac_bundle *bundle) {
    return bundle->model_digest;
}

const ousac_arch *ousac_bundle_arch(const ousac_bundle *bundle) {
    return &bundle->arch;
}

size_t ousac_bundle_plan_count(const ousac_bundle *bundle) {
    return bundle->plan_count;
}

const ousac_plan *ousac_bundle_plan(const ousac_bundle *bundle, size_t index) {
    return index < bundle->plan_count ? bundle->plans[index] : NULL;
}

const ousac_plan *ousac_bundle_find_plan(const ousac_bundle *bundle, const char *name) {
    for (size_t i = 0; i < bundle->plan_count; i++)
        if (strcmp(bundle->plans[i]->name, name ? name : "default") == 0)
            return bundle->plans[i];
    return !name && bundle->plan_count == 1 ? bundle->plans[0] : NULL;
}

/* ---- was it made for this? ---- */

/* Root mean square of a site's weights, read row by row. */
static ousac_status weight_rms(const ousac_model *model, size_t s, float *row, double *rms,
                               ousac_error *error) {
    const ousac_site *site = &model->arch.sites[s];
    double sum = 0;
    for (size_t i = 0; i < site->m; i++) {
        ousac_status status = ousac_model_site_rows(model, s, i, 1, row, error);
        if (status)
            return status;
        for (size_t j = 0; j < site->n; j++)
            sum += (double)row[j] * (double)row[j];
    }
    *rms = sqrt(sum / ((double)site->m * (double)site->n));
    return OUSAC_STATUS_OK;
}

/* Index of the first site with a projection out of tolerance; site_count where there is none. */
static ousac_status compare_probes(const ousac_bundle *bundle, const ousac_model *model, size_t *differs,
                                   ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const ousac_arch *arch = &model->arch;
    double *probe = ousac_calloc(arch->site_count, OUSAC_PROBE_COUNT * sizeof *probe);
    float *row = NULL;
    size_t widest = 0;
    for (size_t s = 0; s < arch->site_count; s++)
        widest = arch->sites[s].n > widest ? arch->sites[s].n : widest;
    row = ousac_malloc(widest, sizeof *row);
    if (!probe || !row) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the projections of %zu sites",
                            bundle->archive.path, arch->site_count);
        goto done;
    }
    status = ousac_model_probes(model, probe, error);
    *differs = arch->site_count;
    for (size_t s = 0; !status && s < arch->site_count && *differs == arch->site_count; s++) {
        double rms = 0;
        status = weight_rms(model, s, row, &rms, error);
        for (size_t p = 0; !status && p < OUSAC_PROBE_COUNT; p++) {
            const size_t at = s * OUSAC_PROBE_COUNT + p;
            if (!(fabs(probe[at] - bundle->probe[at]) <= PROBE_TOLERANCE * rms))
                *differs = s;
        }
    }
done:
    ousac_free(row);
    ousac_free(probe);
    return status;
}

static ousac_identity identity_of(const ousac_bundle *bundle) {
    return (ousac_identity){bundle->model_digest, bundle->model_constants, bundle->model_process};
}

ousac_status ousac_bundle_check_model(const ousac_bundle *bundle, const ousac_model *model,
                                      char note[OUSAC_ERROR_MESSAGE_BYTES], ousac_error *error) {
    char text[OUSAC_ARCH_DIFFERENCE_BYTES], other[OUSAC_IDENTITY_TEXT_BYTES];
    const char *path = bundle->archive.path;
    const ousac_identity of = identity_of(bundle), here = ousac_model_identity(model);
    size_t differs = 0;
    if (note)
        note[0] = '\0';
    if (ousac_arch_difference(&model->arch, &bundle->arch, text))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s was made for model %.12s, and this is model %.12s, in which %s", path,
                          bundle->model_digest, model->digest, text);
    if (ousac_identity_process_differs(&of, &here, other))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s was made for %s", path, other);
    if (strcmp(of.digest, here.digest) == 0) {
        if (note && !*of.process)
            (void)snprintf(note, OUSAC_ERROR_MESSAGE_BYTES,
                           "%.400s is of version 1, which does not say for which noise levels it was made",
                           path);
        return OUSAC_STATUS_OK;
    }
    ousac_status status = compare_probes(bundle, model, &differs, error);
    if (status)
        return status;
    if (differs < model->arch.site_count)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_MISMATCH,
            "%s was made for model %.12s, and this is model %.12s: the weights of site %s differ by more "
            "than rounding",
            path, bundle->model_digest, model->digest, model->arch.sites[differs].name);
    if (ousac_identity_constants_differ(&of, &here, other))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s was made for model %.12s, and this is model %.12s, whose sites have the same "
                          "weights; the constants of the forward are %s",
                          path, bundle->model_digest, model->digest, other);
    if (note)
        (void)snprintf(
            note, OUSAC_ERROR_MESSAGE_BYTES,
            "%.300s was made for model %.12s, and this is model %.12s, another file, matched by the "
            "projections of its sites' weights; what else is in it may differ",
            path, bundle->model_digest, model->digest);
    return OUSAC_STATUS_OK;
}

enum { STEP_TEXT_BYTES = 160 };

/* What a step of one schedule is and of the other should be; 0 where they are equal. */
static int step_difference(const ousac_step *is, const ousac_step *wanted, char text[STEP_TEXT_BYTES]) {
    if (is->timestep != wanted->timestep)
        (void)snprintf(text, STEP_TEXT_BYTES, "timestep %g, not %g", is->timestep, wanted->timestep);
    else if (is->mode != wanted->mode)
        (void)snprintf(text, STEP_TEXT_BYTES, "mode %s, not %s", ousac_mode_name(is->mode),
                       ousac_mode_name(wanted->mode));
    else if (is->mode == OUSAC_MODE_CFG && is->scale != wanted->scale)
        (void)snprintf(text, STEP_TEXT_BYTES, "scale %g, not %g", is->scale, wanted->scale);
    else if (is->tells != wanted->tells)
        (void)snprintf(text, STEP_TEXT_BYTES, "%s guidance, not %s", is->tells ? "some" : "no",
                       is->tells ? "none" : "one");
    else if (!ousac_step_tells_alike(is, wanted))
        (void)snprintf(text, STEP_TEXT_BYTES, "guidance %g, not %g", is->guidance, wanted->guidance);
    else {
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++)
            if (ousac_mode_evaluates(is->mode, branch) && is->gate[branch] != wanted->gate[branch]) {
                (void)snprintf(text, STEP_TEXT_BYTES, "gate %s of branch %s, not %s",
                               ousac_gate_name(is->gate[branch]), ousac_branch_name(branch),
                               ousac_gate_name(wanted->gate[branch]));
                return 1;
            }
        return 0;
    }
    return 1;
}

ousac_status ousac_bundle_check_schedule(const ousac_bundle *bundle, const ousac_schedule *schedule,
                                         ousac_error *error) {
    char own[OUSAC_DIGEST_CHARS], given[OUSAC_DIGEST_CHARS], text[STEP_TEXT_BYTES];
    const ousac_schedule *wanted = &bundle->schedule;
    const char *path = bundle->archive.path;
    ousac_schedule_digest(wanted, own);
    ousac_schedule_digest(schedule, given);
    if (strcmp(own, given) == 0)
        return OUSAC_STATUS_OK;
    for (size_t i = 0; i < wanted->step_count && i < schedule->step_count; i++)
        if (step_difference(&schedule->steps[i], &wanted->steps[i], text))
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                              "%s was made for schedule \"%.64s\", and this is \"%.64s\": step %zu has %s",
                              path, ousac_schedule_called(wanted), ousac_schedule_called(schedule), i, text);
    if (schedule->step_count != wanted->step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s was made for schedule \"%.64s\" of %zu steps, and this is \"%.64s\" of %zu",
                          path, ousac_schedule_called(wanted), wanted->step_count,
                          ousac_schedule_called(schedule), schedule->step_count);
    return OUSAC_FAIL(
        error, OUSAC_STATUS_MISMATCH,
        "%s was made for schedule \"%.64s\" with solver %s, and this is \"%.64s\" with solver %s", path,
        ousac_schedule_called(wanted), ousac_solver_name(wanted->solver), ousac_schedule_called(schedule),
        ousac_solver_name(schedule->solver));
}

/* ---- factors ---- */

static ousac_status read_rows(const ousac_bundle *bundle, const oca_tensor *tensor, size_t rows,
                              float *target, ousac_error *error) {
    const size_t count = rows * (size_t)tensor->shape[1];
    ousac_status status = ousac_archive_read_rows(&bundle->archive, tensor, rows, OUSAC_DTYPE_F32, target,
                                                  count * sizeof *target, error);
    for (size_t i = 0; !status && i < count; i++)
        if (!isfinite(target[i]))
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\": element %zu is not finite",
                                bundle->archive.path, tensor->name, i);
    return status;
}

/* An ousac_factor_source; `self` points to a pointer to the bundle, which stays const. */
static ousac_status fetch(void *self, size_t s, size_t rank, float *a, float *b, ousac_error *error) {
    const ousac_bundle *bundle = *(const ousac_bundle *const *)self;
    const stored_site *stored = &bundle->site[s];
    if (rank > stored->rank)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s: rank %zu for site %s, of which %zu directions are held", bundle->archive.path,
                          rank, bundle->arch.sites[s].name, stored->rank);
    if (rank == 0)
        return OUSAC_STATUS_OK;
    ousac_status status = read_rows(bundle, &stored->a, rank, a, error);
    return status ? status : read_rows(bundle, &stored->b, rank, b, error);
}

ousac_status ousac_bundle_calibration(const ousac_bundle *bundle, const ousac_plan *plan,
                                      const ousac_arch *arch, const ousac_backend *backend,
                                      ousac_calibration **calibration, ousac_error *error) {
    char text[OUSAC_ARCH_DIFFERENCE_BYTES];
    *calibration = NULL;
    if (ousac_arch_difference(arch, &bundle->arch, text))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s was made for another architecture: %s",
                          bundle->archive.path, text);
    ousac_status status = ousac_plan_check(plan, arch, plan->name, error);
    if (status)
        return status;
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    return ousac_calibration_create(calibration, backend, arch, &ranks, fetch, &bundle, plan->forecast,
                                    error);
}

/* ---- verifying ---- */

static ousac_status verify_site(const ousac_bundle *bundle, size_t s, ousac_error *error) {
    const ousac_site *site = &bundle->arch.sites[s];
    const stored_site *stored = &bundle->site[s];
    const uint64_t count = site->m < site->n ? site->m : site->n;
    ousac_status status = OUSAC_STATUS_OK;
    char name[OUSAC_TENSOR_NAME_BYTES];
    double *lambda = NULL;
    float *factor = NULL;
    (void)snprintf(name, sizeof name, "curve/%s", site->name);
    lambda = ousac_malloc((size_t)count, sizeof *lambda);
    factor = ousac_malloc(stored->rank, (site->m > site->n ? site->m : site->n) * sizeof *factor);
    if (!lambda || !factor) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory to verify site %s",
                            bundle->archive.path, site->name);
        goto done;
    }
    status = ousac_archive_read(&bundle->archive, name, OUSAC_DTYPE_F64, 1, &count, lambda, error);
    if (!status)
        status = ousac_archive_check_f64(&bundle->archive, name, lambda, (size_t)count, 0, error);
    for (size_t i = 1; !status && i < count; i++)
        if (lambda[i] > lambda[i - 1])
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: tensor \"%s\" rises at element %zu",
                                bundle->archive.path, name, i);
    if (!status && stored->rank)
        status = read_rows(bundle, &stored->a, stored->rank, factor, error);
    if (!status && stored->rank)
        status = read_rows(bundle, &stored->b, stored->rank, factor, error);
done:
    ousac_free(lambda);
    ousac_free(factor);
    return status;
}

/* Shapes, digests and ranks were checked when the bundle was opened. */
ousac_status ousac_bundle_verify(const ousac_bundle *bundle, ousac_error *error) {
    ousac_status status = ousac_archive_verify(&bundle->archive, error);
    for (size_t s = 0; !status && s < bundle->arch.site_count; s++)
        status = verify_site(bundle, s, error);
    return status;
}
