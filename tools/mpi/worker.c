#include "tools/mpi/worker.h"

#include "formats/memory.h"
#include "pipeline/factors.h"
#include "pipeline/shard.h"
#include "profile/record/forecast_fit.h"
#include "tools/mpi/jobs.h"
#include "tools/mpi/link.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct worker {
    ousac_model *model;
    ousac_profile *profile; /* recorded, until it has been added up */
} worker;

static ousac_status load(worker *k, wire *job, ousac_error *error) {
    const char *path = wire_take_text(job), *config = wire_take_text(job), *inputs = wire_take_text(job);
    const size_t heads = (size_t)wire_take_u64(job);
    const char *digest = wire_take_text(job), *process = wire_take_text(job);
    if (!path || !digest || !process)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "a job without a model");
    const ousac_session_model options = {.path = path, .config = config, .inputs = inputs, .heads = heads};
    ousac_model_free(k->model);
    k->model = NULL;
    const ousac_status status = ousac_session_load_model(&k->model, &options, NULL, error);
    if (!status && (strcmp(k->model->digest, digest) != 0 || strcmp(k->model->process, process) != 0))
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: model %.12s, but rank 0 has %.12s there", path,
                          k->model->digest, digest);
    return status;
}

/* What every job with samples begins with. */
typedef struct assignment {
    ousac_session session;
    ousac_schedule schedule;
} assignment;

static ousac_status take(worker *k, wire *job, assignment *a, ousac_error *error) {
    return job_take_runs(job, k->model, &a->session, &a->schedule, error);
}

static ousac_status run(worker *k, wire *job, wire *answer, ousac_error *error) {
    assignment a = {0};
    ousac_calibration *calibration = NULL;
    ousac_counters counters = {0};
    float *samples = NULL;
    size_t values = 0;
    ousac_status status = take(k, job, &a, error);
    if (!status)
        status = job_take_calibration(job, k->model, &calibration, error);
    if (status)
        goto done;
    const ousac_sample_range range = job_take_range(job);
    const ousac_sample_range part = ousac_shard_of(&range, a.session.micro_batch, link_rank(), link_ranks());
    ousac_session_run inner = {.label = "part",
                               .schedule = &a.schedule,
                               .range = part,
                               .exact = wire_take_u64(job) != 0,
                               .calibration = calibration,
                               .counters = &counters};
    const int wanted = wire_take_u64(job) != 0;
    values = (size_t)part.count * ousac_model_sample_size(k->model);
    if (wanted && !(samples = ousac_malloc(values, sizeof *samples))) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu values", values);
        goto done;
    }
    inner.samples = samples;
    if (part.count > 0)
        status = ousac_session_run_here(&a.session, &inner, error);
    if (status)
        goto done;
    wire_put(answer, &counters, sizeof counters);
    if (wanted)
        wire_put(answer, samples, values * sizeof *samples);
done:
    ousac_free(samples);
    ousac_calibration_free(calibration);
    ousac_schedule_free(&a.schedule);
    return status;
}

static ousac_status fit(worker *k, wire *job, wire *answer, ousac_error *error) {
    assignment a = {0};
    ousac_calibration *calibration = NULL;
    ousac_forecast_fit *sums = NULL;
    ousac_status status = take(k, job, &a, error);
    if (!status)
        status = job_take_calibration(job, k->model, &calibration, error);
    if (!status)
        status = ousac_forecast_fit_create(&sums, k->model, &a.schedule, calibration, a.session.threads,
                                           a.session.micro_batch, error);
    if (status)
        goto done;
    const ousac_sample_range range = job_take_range(job);
    const ousac_session_run inner = {
        .label = "part",
        .schedule = &a.schedule,
        .range = ousac_shard_of(&range, a.session.micro_batch, link_rank(), link_ranks()),
        .exact = 1,
        .observers = ousac_forecast_fit_observers(sums)};
    if (inner.range.count > 0)
        status = ousac_session_run_here(&a.session, &inner, error);
    if (status)
        goto done;
    size_t count = 0;
    const double *values = ousac_forecast_fit_sums(sums, &count);
    wire_put(answer, values, count * sizeof *values);
done:
    ousac_forecast_fit_free(sums);
    ousac_calibration_free(calibration);
    ousac_schedule_free(&a.schedule);
    return status;
}

/* A pilot's sums go into the answer; those of a profile stay until they are asked for. */
static ousac_status record(worker *k, wire *job, wire *answer, ousac_error *error) {
    assignment a = {0};
    ousac_partial partial = {0};
    job_harvest harvest = {0};
    uint64_t forwards = 0;
    char *output = NULL;
    ousac_profile_free(k->profile);
    k->profile = NULL;
    ousac_status status = take(k, job, &a, error);
    if (!status)
        status = job_take_subject(job, k->model, &a.schedule, &k->profile, error);
    if (status)
        goto done;
    const ousac_sample_range range = job_take_range(job);
    const ousac_sample_range part = ousac_shard_of(&range, a.session.micro_batch, link_rank(), link_ranks());
    const char *path = wire_take_text(job), *weights = wire_take_text(job);
    ousac_partial_options options = {0};
    wire_take(job, &options, sizeof options);
    const int pilot = !k->profile->moment, keeps = path && !pilot && part.count > 0;
    if (keeps && !(output = job_part_path(path, link_rank(), link_ranks())))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a path");
    if (!status && keeps)
        status = ousac_partial_open(&partial, output, &options, weights, NULL, error);
    if (!status)
        status = job_record(&a.session, "part", &part, keeps ? &partial : NULL, k->profile,
                            pilot ? &harvest : NULL, &forwards, error);
    if (status)
        goto done;
    wire_put_u64(answer, forwards);
    wire_put(answer, harvest.sums, harvest.batches * harvest.batch_size * sizeof *harvest.sums);
done:
    ousac_free(harvest.sums);
    ousac_free(output);
    ousac_partial_free(&partial);
    ousac_schedule_free(&a.schedule);
    return status;
}

static ousac_status factors(worker *k, wire *job, wire *answer, ousac_error *error) {
    assignment a = {0};
    ousac_profile *profile = NULL;
    ousac_factor_set *set = NULL;
    unsigned char *mine = NULL;
    size_t *owner = NULL;
    ousac_status status = take(k, job, &a, error);
    if (!status)
        status = job_take_subject(job, k->model, &a.schedule, &profile, error);
    if (status) /* the sums of this rank's groups are on their way */
        link_abort(error->message);
    const ousac_method method = (ousac_method)wire_take_u64(job);
    const uint64_t samples = wire_take_u64(job);
    const ousac_arch *arch = &k->model->arch;
    owner = ousac_malloc(arch->group_count, sizeof *owner);
    mine = ousac_calloc(arch->group_count, 1);
    if (!owner || !mine || ousac_factorise_share(arch, method, link_ranks(), owner, error))
        link_abort("no memory to share out the factors");
    for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
        size_t count = 0, group = 0;
        double *sum = ousac_profile_sum(profile, i, &count);
        if (job_sum_is_moment(profile, i, &group) && owner[group] == link_rank())
            link_receive_array(0, sum, count);
        else if (!job_sum_is_moment(profile, i, &group))
            wire_take(job, sum, count * sizeof *sum);
    }
    for (size_t g = 0; g < arch->group_count; g++)
        mine[g] = owner[g] == link_rank();
    status = ousac_profile_add_range(profile, 0, samples, error);
    if (!status)
        status = ousac_session_factors_here(&a.session, profile, method, NULL, mine, &set, error);
    if (!status)
        job_put_factors(answer, arch, set, owner, link_rank());
    ousac_factor_set_free(set);
    ousac_free(owner);
    ousac_free(mine);
    ousac_profile_free(profile);
    ousac_schedule_free(&a.schedule);
    return status;
}

static void forget(wire *job) {
    const char *path = wire_take_text(job);
    char *output = path ? job_part_path(path, link_rank(), link_ranks()) : NULL;
    char *part = output ? ousac_malloc(strlen(output) + sizeof ".part", 1) : NULL;
    if (part) {
        (void)sprintf(part, "%s.part", output);
        (void)unlink(part);
    }
    ousac_free(part);
    ousac_free(output);
}

int worker_serve(void) {
    worker k = {0};
    wire job = {0}, answer = {0}, message = {0};
    ousac_error error = {0};
    for (;;) {
        ousac_status status = OUSAC_STATUS_OK;
        link_next_job(&job);
        const uint64_t kind = wire_take_u64(&job);
        if (kind == JOB_END)
            break;
        answer.size = 0;
        if (kind == JOB_REDUCE) { /* answered by the sums themselves */
            job_reduce(k.profile);
            ousac_profile_free(k.profile);
            k.profile = NULL;
            continue;
        }
        if (kind == JOB_RECORDED) {
            forget(&job);
            continue;
        }
        status = kind == JOB_LOAD      ? load(&k, &job, &error)
                 : kind == JOB_RUN     ? run(&k, &job, &answer, &error)
                 : kind == JOB_RECORD  ? record(&k, &job, &answer, &error)
                 : kind == JOB_FACTORS ? factors(&k, &job, &answer, &error)
                 : kind == JOB_FIT     ? fit(&k, &job, &answer, &error)
                                       : OUSAC_FAIL(&error, OUSAC_STATUS_INTERNAL, "a job of no known kind");
        if (!status && answer.failed)
            status = OUSAC_FAIL(&error, OUSAC_STATUS_MEMORY, "no memory for an answer");
        if (status)
            link_stop_others();
        message.size = 0;
        message.failed = 0;
        job_put_status(&message, status, &error);
        if (!status)
            wire_put(&message, answer.data, answer.size);
        link_send(0, &message);
        answer.failed = 0;
    }
    ousac_profile_free(k.profile);
    ousac_model_free(k.model);
    wire_free(&message);
    wire_free(&answer);
    wire_free(&job);
    return 0;
}
