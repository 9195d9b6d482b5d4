#include "profile/bundle/factorise.h"

#include "calib/cost.h"
#include "calib/spectra/leading.h"
#include "calib/spectra/scaled_svd.h"
#include "formats/memory.h"
#include "profile/files/arch_text.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { THREADS_MAX = 1024 };

typedef struct factor_job {
    const ousac_model *model;
    const ousac_profile *profile;
    const ousac_factorise_options *options;
    ousac_factor_sink sink;
    void *sink_self;
    atomic_size_t next;  /* group to take */
    atomic_size_t limit; /* groups at or above it are no longer taken: the first failed one, or group_count */
    pthread_mutex_t mutex; /* over what follows */
    size_t done;
    size_t failed_group;
    ousac_status status;
    ousac_error error;
} factor_job;

static const char *const method_names[OUSAC_METHOD_COUNT] = {"delta-cov", "svd", "ca-svd", "cd-svd"};

const char *ousac_method_name(ousac_method method) {
    return (int)method >= 0 && method < OUSAC_METHOD_COUNT ? method_names[method] : "?";
}

int ousac_method_parse(ousac_method *method, const char *name) {
    for (int i = 0; i < OUSAC_METHOD_COUNT; i++)
        if (strcmp(name, method_names[i]) == 0) {
            *method = (ousac_method)i;
            return 0;
        }
    return -1;
}

/* ---- one group ---- */

static ousac_status sum_segments(const ousac_profile *profile, size_t group, double **sum,
                                 ousac_error *error) {
    const size_t size = ousac_profile_moment_size(&profile->arch.groups[group]);
    *sum = ousac_malloc(size, sizeof **sum);
    if (!*sum)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a moment of %zu values", size);
    return ousac_profile_sum_moments(profile, group, *sum, error);
}

static size_t rank_wanted(const factor_job *job, size_t site) {
    return job->options->rank_max ? job->options->rank_max[site]
                                  : ousac_cost_dense_rank(&job->model->arch.sites[site]) - 1;
}

/* The scales of a site's channels from what the profile recorded of a group or site. */
static ousac_status channel_scales(const ousac_profile *profile, ousac_magnitude kind, size_t index,
                                   double **scale, ousac_error *error) {
    const size_t count = ousac_profile_magnitude_channels(&profile->arch, kind, index);
    const double *sum =
        profile->magnitude[kind] + ousac_profile_magnitude_offset(&profile->arch, kind, index);
    const uint64_t samples = ousac_profile_samples(profile);
    *scale = ousac_malloc(count, sizeof **scale);
    if (!*scale)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the scales of %zu channels", count);
    for (size_t i = 0; i < count; i++)
        (*scale)[i] = sum[i] / (double)(samples ? samples : 1);
    return ousac_scaled_svd_weights(count, *scale, *scale, error);
}

static ousac_status factorise_scaled(const factor_job *job, size_t s, const float *w, ousac_factors *factors,
                                     ousac_error *error) {
    const ousac_site *site = &job->model->arch.sites[s];
    const ousac_method method = job->options->method;
    const int adjacent = method == OUSAC_METHOD_CD_SVD;
    double *left = NULL, *right = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (method != OUSAC_METHOD_SVD) {
        status =
            channel_scales(job->profile, adjacent ? OUSAC_MAGNITUDE_ADY : OUSAC_MAGNITUDE_Y, s, &left, error);
        if (!status)
            status = channel_scales(job->profile, adjacent ? OUSAC_MAGNITUDE_ADX : OUSAC_MAGNITUDE_X,
                                    site->group, &right, error);
    }
    if (!status)
        status = ousac_scaled_svd_create(factors, job->model->backend, site->m, site->n, w, left, right,
                                         rank_wanted(job, s), error);
    ousac_free(left);
    ousac_free(right);
    return status;
}

/* By the group's moment: the leading directions where few are wanted and that works out, else all. `root` is
 * made when the first site needs it. */
static ousac_status factorise_delta(const factor_job *job, size_t s, ousac_root *root, const double *moment,
                                    const float *w, ousac_factors *factors, ousac_error *error) {
    const ousac_backend *backend = job->model->backend;
    const ousac_site *site = &job->model->arch.sites[s];
    const ousac_group *group = &job->model->arch.groups[site->group];
    int done = 0;
    ousac_status status = OUSAC_STATUS_OK;
    if (!job->options->whole_spectra)
        status = ousac_leading_create(factors, backend, group->side, site->m, site->n, moment, w,
                                      rank_wanted(job, s), &done, error);
    if (status || done)
        return status;
    if (group->side == OUSAC_SIDE_OUTPUT)
        return ousac_factors_create_output(factors, backend, site->m, site->n, moment, w, rank_wanted(job, s),
                                           error);
    if (root->n == 0)
        status = ousac_root_create(root, backend, group->dim, moment, error);
    return status
               ? status
               : ousac_factors_create_input(factors, backend, root, site->m, w, rank_wanted(job, s), error);
}

/* `moment` of the site's group; NULL where the method needs none. */
static ousac_status factorise_site(const factor_job *job, size_t s, ousac_root *root, const double *moment,
                                   ousac_error *error) {
    const ousac_site *site = &job->model->arch.sites[s];
    ousac_status status = OUSAC_STATUS_OK;
    ousac_factors made = {0};
    float *w = ousac_malloc(site->m, site->n * sizeof *w);
    if (!w) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a weight (%zu, %zu)", site->m, site->n);
        goto done;
    }
    status = ousac_model_site_weight(job->model, s, w, error);
    if (status)
        goto done;
    status = moment ? factorise_delta(job, s, root, moment, w, &made, error)
                    : factorise_scaled(job, s, w, &made, error);
done:
    ousac_free(w);
    if (status)
        (void)ousac_error_prefix(error, "site %s", site->name);
    else
        status = job->sink(job->sink_self, s, &made, error);
    ousac_factors_free(&made);
    return status;
}

static ousac_status factorise_group(const factor_job *job, size_t g, ousac_error *error) {
    const ousac_group *group = &job->model->arch.groups[g];
    ousac_status status = OUSAC_STATUS_OK;
    ousac_root root = {0};
    double *moment = NULL;
    if (job->options->method == OUSAC_METHOD_DELTA_COV)
        status = sum_segments(job->profile, g, &moment, error);
    if (status) {
        (void)ousac_error_prefix(error, "group %s", group->name);
        goto done;
    }
    for (size_t s = group->first_site; !status && s < group->first_site + group->site_count; s++)
        status = factorise_site(job, s, &root, moment, error);
done:
    ousac_root_free(&root);
    ousac_free(moment);
    return status;
}

/* ---- threads ---- */

/* Groups are taken in order, so every group before a failed one was taken too and reports for itself: which
 * error wins does not depend on the number of threads. */
static void *work(void *self) {
    factor_job *job = self;
    const size_t total = job->model->arch.group_count;
    ousac_error error = {0};
    for (;;) {
        const size_t g = atomic_fetch_add(&job->next, 1);
        if (g >= atomic_load(&job->limit) || ousac_stop_asked(job->options->stop))
            return NULL;
        const int wanted = !job->options->groups || job->options->groups[g];
        const ousac_status status = wanted ? factorise_group(job, g, &error) : OUSAC_STATUS_OK;
        (void)pthread_mutex_lock(&job->mutex);
        if (!status) {
            job->done++;
            if (job->options->progress)
                job->options->progress(job->options->progress_self, job->done, total);
        } else if (g < job->failed_group) {
            job->failed_group = g;
            job->status = status;
            job->error = error;
            atomic_store(&job->limit, g);
        }
        (void)pthread_mutex_unlock(&job->mutex);
    }
}

/* The calling thread works too; where the system has no more threads, those there are do everything. */
static ousac_status run_job(factor_job *job, ousac_error *error) {
    const size_t groups = job->model->arch.group_count;
    size_t helpers = job->options->threads > 1 ? job->options->threads - 1 : 0;
    size_t started = 0;
    pthread_t *threads = NULL;
    if (helpers >= groups)
        helpers = groups - 1;
    if (helpers > THREADS_MAX)
        helpers = THREADS_MAX;
    threads = ousac_calloc(helpers, sizeof *threads);
    if (!threads)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu threads", helpers);
    if (pthread_mutex_init(&job->mutex, NULL)) {
        ousac_free(threads);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "the system gives no mutex");
    }
    atomic_init(&job->next, 0);
    atomic_init(&job->limit, groups);
    job->failed_group = groups;
    while (started < helpers && pthread_create(&threads[started], NULL, work, job) == 0)
        started++;
    (void)work(job);
    for (size_t i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL);
    (void)pthread_mutex_destroy(&job->mutex);
    ousac_free(threads);
    if (job->status) {
        if (error)
            *error = job->error;
        return job->status;
    }
    if (job->done < groups)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "stopped after %zu of %zu groups", job->done,
                          groups);
    return OUSAC_STATUS_OK;
}

/* ---- the set ---- */

static ousac_status check_profile(const ousac_model *model, const ousac_profile *profile, ousac_method method,
                                  int force, ousac_error *error) {
    char text[OUSAC_ARCH_DIFFERENCE_BYTES], differs[OUSAC_IDENTITY_TEXT_BYTES];
    const ousac_identity of = ousac_profile_model(profile), here = ousac_model_identity(model);
    if (!force && ousac_identity_differs(&of, &here, differs))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profile is of %s", differs);
    if (ousac_arch_difference(&profile->arch, &model->arch, text))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profile does not fit the model: %s", text);
    if ((int)method < 0 || method >= OUSAC_METHOD_COUNT)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "factors by method %d, which is none", (int)method);
    if ((method == OUSAC_METHOD_CA_SVD || method == OUSAC_METHOD_CD_SVD) && !profile->identity.magnitudes)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profile holds no channel magnitudes; %s factors need one recorded with them",
                          ousac_method_name(method));
    if (method == OUSAC_METHOD_DELTA_COV && !profile->moment)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "the profile is a pilot: it holds no moments to make factors of");
    return OUSAC_STATUS_OK;
}

ousac_status ousac_factorise_each(const ousac_model *model, const ousac_profile *profile,
                                  const ousac_factorise_options *options, ousac_factor_sink sink, void *self,
                                  ousac_error *error) {
    ousac_status status = check_profile(model, profile, options->method, options->force, error);
    if (status)
        return status;
    factor_job *job = ousac_calloc(1, sizeof *job);
    if (!job)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the factors of %zu sites",
                          model->arch.site_count);
    job->model = model;
    job->profile = profile;
    job->options = options;
    job->sink = sink;
    job->sink_self = self;
    status = run_job(job, error);
    ousac_free(job);
    return status;
}

/* An ousac_factor_sink that keeps them. */
static ousac_status keep(void *self, size_t site, ousac_factors *factors, ousac_error *error) {
    ousac_factor_set *set = self;
    (void)error;
    set->site[site] = *factors;
    memset(factors, 0, sizeof *factors);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_factor_set_create(ousac_factor_set **set, const ousac_model *model,
                                     const ousac_profile *profile, const ousac_factorise_options *options,
                                     ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_factor_set *made = ousac_calloc(1, sizeof *made);
    *set = NULL;
    if (made)
        made->site = ousac_calloc(model->arch.site_count, sizeof *made->site);
    if (!made || !made->site) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the factors of %zu sites",
                            model->arch.site_count);
        goto done;
    }
    made->method = options->method;
    made->site_count = model->arch.site_count;
    status = ousac_factorise_each(model, profile, options, keep, made, error);
    if (status)
        goto done;
    *set = made;
    made = NULL;
done:
    ousac_factor_set_free(made);
    return status;
}

void ousac_factor_set_free(ousac_factor_set *set) {
    if (!set)
        return;
    for (size_t s = 0; s < set->site_count; s++)
        ousac_factors_free(&set->site[s]);
    ousac_free(set->site);
    ousac_free(set);
}

ousac_status ousac_factor_set_source(void *self, size_t site, size_t rank, float *a, float *b,
                                     ousac_error *error) {
    const ousac_factor_set *set = self;
    if (site >= set->site_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "site %zu of factors for %zu sites", site,
                          set->site_count);
    const ousac_factors *factors = &set->site[site];
    if (rank > factors->rank)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "rank %zu of site %zu, whose factors hold %zu directions", rank, site,
                          factors->rank);
    memcpy(a, factors->a, rank * factors->m * sizeof *a);
    memcpy(b, factors->b, rank * factors->n * sizeof *b);
    return OUSAC_STATUS_OK;
}

void ousac_factor_set_clip(const ousac_factor_set *set, const ousac_arch *arch, size_t *rank) {
    for (size_t s = 0; s < set->site_count; s++)
        if (rank[s] > set->site[s].directions && rank[s] < ousac_cost_dense_rank(&arch->sites[s]))
            rank[s] = set->site[s].directions;
}
