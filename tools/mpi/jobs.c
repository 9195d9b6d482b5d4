#include "tools/mpi/jobs.h"

#include "calib/backend/reserve.h"
#include "formats/memory.h"
#include "profile/record/recorder.h"
#include "profile/record/run_text.h"
#include "tools/cli/cli.h"
#include "tools/mpi/link.h"

#include <stdio.h>
#include <string.h>

static ousac_status no_memory(const char *what, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %s", what);
}

/* A message that its reader cannot understand. */
static ousac_status cut_short(const char *what, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "a job for this rank does not hold its %s", what);
}

/* --- runs --- */

void job_put_runs(wire *w, const ousac_session *session, const ousac_schedule *schedule) {
    char *text = NULL;
    wire_put_u64(w, session->seed);
    wire_put_u64(w, session->micro_batch);
    wire_put_u64(w, session->threads);
    if (ousac_schedule_print(schedule, &text, NULL))
        w->failed = 1;
    wire_put_text(w, text);
    ousac_free(text);
}

/* Any piece of work of this rank: to be told of nothing, but to look for stops. */
static void *start(void *self, const char *label) {
    (void)label;
    return self;
}

static void update(void *handle, uint64_t done, uint64_t total) {
    (void)handle;
    (void)done;
    (void)total;
    link_poll();
}

ousac_status job_take_runs(wire *w, const ousac_model *model, ousac_session *session,
                           ousac_schedule *schedule, ousac_error *error) {
    static int here;
    static const ousac_session_hooks silent = {.self = &here, .start = start, .update = update};
    *session = (ousac_session){.model = model, .stop = &cli_stop, .hooks = &silent};
    session->seed = wire_take_u64(w);
    session->micro_batch = (size_t)wire_take_u64(w);
    session->threads = (size_t)wire_take_u64(w);
    const char *text = wire_take_text(w);
    if (!text || !model)
        return cut_short(model ? "schedule" : "model", error);
    const ousac_status status = ousac_blas_reserve(session->threads, error);
    return status ? status
                  : ousac_schedule_parse(schedule, text, strlen(text), "the schedule of a job", error);
}

void job_put_range(wire *w, const ousac_sample_range *range) {
    wire_put_u64(w, range->first);
    wire_put_u64(w, range->count);
}

ousac_sample_range job_take_range(wire *w) {
    const uint64_t first = wire_take_u64(w), count = wire_take_u64(w);
    return (ousac_sample_range){first, count};
}

/* --- calibrations --- */

static ousac_status put_matrix(wire *w, const ousac_backend *be, const float *values, size_t count,
                               float *scratch, ousac_error *error) {
    const ousac_status status = be->download(be, scratch, values, count * sizeof *scratch, error);
    if (!status)
        wire_put(w, scratch, count * sizeof *scratch);
    return status;
}

ousac_status job_put_calibration(wire *w, const ousac_model *model, const ousac_calibration *c,
                                 ousac_error *error) {
    const ousac_arch *arch = &model->arch;
    ousac_status status = OUSAC_STATUS_OK;
    size_t largest = 1;
    wire_put_u64(w, c != NULL);
    if (!c)
        return status;
    wire_put_u64(w, (uint64_t)c->dense_fallback);
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t wide = arch->sites[s].m > arch->sites[s].n ? arch->sites[s].m : arch->sites[s].n;
        wire_put_u64(w, c->rank[s]);
        if (c->path[s] == OUSAC_PATH_LOW_RANK && c->rank[s] * wide > largest)
            largest = c->rank[s] * wide;
    }
    wire_put_u64(w, c->forecast ? c->forecast->step_count : 0);
    if (c->forecast)
        wire_put(w, c->forecast->coefficient,
                 c->forecast->step_count * OUSAC_BRANCHES * arch->group_count *
                     sizeof *c->forecast->coefficient);
    float *scratch = ousac_malloc(largest, sizeof *scratch);
    if (!scratch)
        return no_memory("a calibration to be sent", error);
    for (size_t g = 0; g < arch->group_count && !status; g++) {
        const ousac_group *group = &arch->groups[g];
        const size_t n = arch->sites[group->first_site].n;
        const float *b = c->b[g];
        for (size_t s = group->first_site; s < group->first_site + group->site_count && !status; s++) {
            if (c->path[s] != OUSAC_PATH_LOW_RANK)
                continue;
            status = put_matrix(w, model->backend, c->a[s], c->rank[s] * arch->sites[s].m, scratch, error);
            if (!status)
                status = put_matrix(w, model->backend, b, c->rank[s] * n, scratch, error);
            b += c->rank[s] * n;
        }
    }
    ousac_free(scratch);
    return status;
}

typedef struct taken_factors {
    wire *w;
    const ousac_arch *arch;
} taken_factors;

/* An ousac_factor_source: sites are asked for in the order of the groups, as they were put. */
static ousac_status take_matrices(void *self, size_t site, size_t rank, float *a, float *b,
                                  ousac_error *error) {
    const taken_factors *taken = self;
    wire_take(taken->w, a, rank * taken->arch->sites[site].m * sizeof *a);
    wire_take(taken->w, b, rank * taken->arch->sites[site].n * sizeof *b);
    return taken->w->failed ? cut_short("factors", error) : OUSAC_STATUS_OK;
}

ousac_status job_take_calibration(wire *w, const ousac_model *model, ousac_calibration **calibration,
                                  ousac_error *error) {
    const ousac_arch *arch = &model->arch;
    ousac_status status = OUSAC_STATUS_OK;
    ousac_forecast *forecast = NULL;
    taken_factors source = {w, arch};
    *calibration = NULL;
    if (!wire_take_u64(w))
        return w->failed ? cut_short("calibration", error) : status;
    size_t *rank = ousac_calloc(arch->site_count, sizeof *rank);
    if (!rank)
        return no_memory("the ranks of a job", error);
    ousac_ranks ranks = {.rank = rank, .dense_fallback = wire_take_u64(w) != 0};
    for (size_t s = 0; s < arch->site_count; s++)
        rank[s] = (size_t)wire_take_u64(w);
    const size_t steps = (size_t)wire_take_u64(w);
    ranks.forecast = steps > 0;
    if (w->failed)
        status = cut_short("ranks", error);
    else if (steps)
        status = ousac_forecast_create(&forecast, steps, arch->group_count, error);
    if (!status && forecast)
        wire_take(w, forecast->coefficient,
                  steps * OUSAC_BRANCHES * arch->group_count * sizeof *forecast->coefficient);
    if (!status)
        status = ousac_calibration_create(calibration, model->backend, arch, &ranks, take_matrices, &source,
                                          forecast, error);
    ousac_forecast_free(forecast);
    ousac_free(rank);
    return status;
}

/* --- profiles --- */

static size_t weight_count(const ousac_profile *profile) {
    return profile->schedule.step_count * OUSAC_BRANCHES * profile->arch.group_count;
}

void job_put_subject(wire *w, const ousac_profile *profile) {
    wire_put(w, &profile->identity, sizeof profile->identity);
    wire_put_u64(w, profile->moment != NULL);
    wire_put(w, profile->weight, weight_count(profile) * sizeof *profile->weight);
}

ousac_status job_take_subject(wire *w, const ousac_model *model, const ousac_schedule *schedule,
                              ousac_profile **profile, ousac_error *error) {
    ousac_profile_identity identity;
    const size_t count = schedule->step_count * OUSAC_BRANCHES * model->arch.group_count;
    double *weight = ousac_malloc(count, sizeof *weight);
    if (!weight)
        return no_memory("step weights", error);
    wire_take(w, &identity, sizeof identity);
    const int moments = wire_take_u64(w) != 0;
    wire_take(w, weight, count * sizeof *weight);
    const ousac_status status =
        w->failed ? cut_short("profile", error)
                  : ousac_profile_create(profile, &model->arch, schedule, &identity, weight, moments, error);
    ousac_free(weight);
    return status;
}

char *job_part_path(const char *partial_path, size_t rank, size_t ranks) {
    const size_t stem = strlen(partial_path) - strlen(".part"), size = stem + 64;
    char *path = ousac_malloc(size, 1);
    if (path)
        (void)snprintf(path, size, "%.*s.%zu-of-%zu", (int)stem, partial_path, rank + 1, ranks);
    return path;
}

/* --- recording --- */

/* Observers that move the sums of each micro-batch out of the profile. */
typedef struct harvester {
    const ousac_run_observers *inner;
    ousac_profile *profile;
    job_harvest *harvest;
    size_t next;
} harvester;

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    const harvester *h = self;
    return h->inner->attach(h->inner->self, worker, observer, error);
}

static ousac_status collect(void *self, size_t worker, uint64_t first, size_t count, ousac_error *error) {
    harvester *h = self;
    const ousac_status status = h->inner->collect(h->inner->self, worker, first, count, error);
    if (status)
        return status;
    double *at = h->harvest->sums + h->next++ * h->harvest->batch_size;
    for (size_t i = 0; i < ousac_profile_sum_count(h->profile); i++) {
        size_t size = 0;
        double *sum = ousac_profile_sum(h->profile, i, &size);
        memcpy(at, sum, size * sizeof *sum);
        memset(sum, 0, size * sizeof *sum);
        at += size;
    }
    return status;
}

void job_add_batch(ousac_profile *profile, const double *sums) {
    for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
        size_t size = 0;
        double *sum = ousac_profile_sum(profile, i, &size);
        for (size_t j = 0; j < size; j++)
            sum[j] += sums[j];
        sums += size;
    }
}

static ousac_status make_harvest(job_harvest *harvest, const ousac_profile *profile, uint64_t samples,
                                 ousac_error *error) {
    harvest->batch_size = 0;
    harvest->batches = samples ? (size_t)((samples - 1) / profile->identity.micro_batch + 1) : 0;
    for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
        size_t size = 0;
        (void)ousac_profile_sum(profile, i, &size);
        harvest->batch_size += size;
    }
    harvest->sums = ousac_calloc(harvest->batches, harvest->batch_size * sizeof *harvest->sums);
    return harvest->sums ? OUSAC_STATUS_OK : no_memory("the sums of a pilot", error);
}

ousac_status job_record(const ousac_session *session, const char *label, const ousac_sample_range *part,
                        ousac_partial *partial, ousac_profile *profile, job_harvest *harvest,
                        uint64_t *forwards, ousac_error *error) {
    ousac_recorder *recorder = NULL;
    ousac_counters counters = {0};
    ousac_record_cost cost = {0};
    ousac_sample_range left = *part;
    harvester reaper = {NULL, profile, harvest, 0};
    const ousac_run_observers reaping = {.self = &reaper, .attach = attach, .collect = collect};
    ousac_status status = OUSAC_STATUS_OK;
    *forwards = 0;
    if (harvest)
        status = make_harvest(harvest, profile, part->count, error);
    if (!status && partial && part->count > 0)
        status = ousac_partial_resume(partial, profile, &left, &cost, error);
    if (status || left.count == 0)
        goto done;
    status = ousac_recorder_create(&recorder, profile, session->model->backend, session->threads,
                                   session->micro_batch, error);
    if (status)
        goto done;
    const ousac_run_observers *observers = reaper.inner = ousac_recorder_observers(recorder);
    if (!harvest)
        ousac_recorder_sum_on_device(recorder);
    if (harvest)
        observers = &reaping;
    else if (partial)
        observers = ousac_partial_begin(partial, session, part, profile, &cost, observers);
    const ousac_session_run run = {.label = label,
                                   .schedule = &profile->schedule,
                                   .range = left,
                                   .exact = 1,
                                   .observers = observers,
                                   .counters = &counters};
    status = ousac_session_run_here(session, &run, error);
    if (partial && !harvest)
        status = ousac_partial_end(partial, status, error);
    for (int gate = 0; gate < OUSAC_GATES_RUN; gate++)
        *forwards += counters.forwards[gate];
done:
    *forwards += cost.forwards;
    ousac_recorder_free(recorder);
    return status;
}

int job_sum_is_moment(const ousac_profile *profile, size_t index, size_t *group) {
    const size_t moments = profile->moment ? profile->identity.segments * profile->arch.group_count : 0;
    if (index < OUSAC_SCALAR_COUNT || index - OUSAC_SCALAR_COUNT >= moments)
        return 0;
    *group = (index - OUSAC_SCALAR_COUNT) % profile->arch.group_count;
    return 1;
}

void job_reduce(ousac_profile *profile) {
    const size_t rank = link_rank(), ranks = link_ranks();
    double *more = NULL;
    size_t largest = 0;
    for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
        size_t size = 0;
        (void)ousac_profile_sum(profile, i, &size);
        largest = size > largest ? size : largest;
    }
    more = ousac_malloc(largest, sizeof *more);
    if (!more) /* the other ranks wait for this one */
        link_abort("no memory for the sums of another rank");
    for (size_t distance = 1; distance < ranks && rank % distance == 0; distance *= 2) {
        const int sends = rank % (2 * distance) != 0;
        for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
            size_t size = 0;
            double *sum = ousac_profile_sum(profile, i, &size);
            if (sends) {
                link_send_array(rank - distance, sum, size);
            } else if (rank + distance < ranks) {
                link_receive_array(rank + distance, more, size);
                for (size_t j = 0; j < size; j++)
                    sum[j] += more[j];
            }
        }
        if (sends)
            break;
    }
    ousac_free(more);
}

/* --- factors --- */

void job_put_factors(wire *w, const ousac_arch *arch, const ousac_factor_set *set, const size_t *owner,
                     size_t rank) {
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_factors *f = &set->site[s];
        if (owner[arch->sites[s].group] != rank)
            continue;
        wire_put_u64(w, f->rank);
        wire_put_u64(w, f->directions);
        wire_put_u64(w, f->lambda_count);
        wire_put(w, f->lambda, f->lambda_count * sizeof *f->lambda);
        wire_put(w, f->a, f->rank * f->m * sizeof *f->a);
        wire_put(w, f->b, f->rank * f->n * sizeof *f->b);
    }
}

ousac_status job_take_factors(wire *w, const ousac_arch *arch, ousac_factor_set *set, const size_t *owner,
                              size_t rank, ousac_error *error) {
    for (size_t s = 0; s < arch->site_count; s++) {
        ousac_factors *f = &set->site[s];
        const size_t m = arch->sites[s].m, n = arch->sites[s].n, least = m < n ? m : n;
        if (owner[arch->sites[s].group] != rank)
            continue;
        f->m = m;
        f->n = n;
        f->rank = (size_t)wire_take_u64(w);
        f->directions = (size_t)wire_take_u64(w);
        f->lambda_count = (size_t)wire_take_u64(w);
        if (w->failed || f->rank > least || f->lambda_count > least)
            return cut_short("factors", error);
        f->lambda = ousac_malloc(f->lambda_count, sizeof *f->lambda);
        f->a = ousac_malloc(f->rank * m, sizeof *f->a);
        f->b = ousac_malloc(f->rank * n, sizeof *f->b);
        if (!f->lambda || !f->a || !f->b)
            return no_memory("the factors of another rank", error);
        wire_take(w, f->lambda, f->lambda_count * sizeof *f->lambda);
        wire_take(w, f->a, f->rank * m * sizeof *f->a);
        wire_take(w, f->b, f->rank * n * sizeof *f->b);
    }
    return w->failed ? cut_short("factors", error) : OUSAC_STATUS_OK;
}

/* --- answers --- */

void job_put_status(wire *w, ousac_status status, const ousac_error *error) {
    const int64_t code = status;
    wire_put(w, &code, sizeof code);
    wire_put_text(w, status ? error->message : NULL);
}

ousac_status job_take_status(wire *w, size_t rank, ousac_error *error) {
    int64_t code = 0;
    wire_take(w, &code, sizeof code);
    const char *message = wire_take_text(w);
    if (w->failed)
        return cut_short("answer", error);
    return code ? OUSAC_FAIL(error, (ousac_status)code, "rank %zu: %.*s", rank,
                             OUSAC_ERROR_MESSAGE_BYTES - 32, message ? message : "failed")
                : OUSAC_STATUS_OK;
}
