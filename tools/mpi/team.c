/* What rank 0 does with the others: announces a job, does its own part, gathers the answers by rank. */
#include "tools/mpi/team.h"

#include "formats/memory.h"
#include "pipeline/factors.h"
#include "pipeline/machine.h"
#include "pipeline/shard.h"
#include "tools/mpi/jobs.h"
#include "tools/mpi/link.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is done with a rank's answer, behind its status; NULL for nothing. */
typedef ousac_status (*answer_reader)(void *self, size_t rank, wire *answer, ousac_error *error);

/* Every rank's answer, whatever happened here or there. The error of this rank comes first, and that of a
 * rank which failed by itself before those of ranks that were told to stop. */
static ousac_status gather(ousac_status status, answer_reader read, void *self, ousac_error *error) {
    wire answer = {0};
    ousac_error theirs = {0};
    if (status)
        link_stop_others();
    for (size_t rank = 1; rank < link_ranks(); rank++) {
        link_receive(rank, &answer);
        ousac_status got = job_take_status(&answer, rank, &theirs);
        if (!got && !status && read)
            got = read(self, rank, &answer, &theirs);
        if (got && (!status || (status == OUSAC_STATUS_INTERRUPTED && got != OUSAC_STATUS_INTERRUPTED))) {
            status = got;
            *error = theirs;
        }
    }
    wire_free(&answer);
    return status;
}

static ousac_status load(const ousac_session_model *options, const ousac_model *model, ousac_error *error) {
    wire job = {0};
    if (model->backend != ousac_backend_cpu())
        return OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "--compute %s, --device %s: the ranks of an MPI job compute in f32 on the cpu alone",
            options->bf16 ? "bf16" : "f32", options->device ? options->device : "cpu");
    wire_put_u64(&job, JOB_LOAD);
    wire_put_text(&job, options->path);
    wire_put_text(&job, options->config);
    wire_put_text(&job, options->inputs);
    wire_put_u64(&job, options->heads);
    wire_put_text(&job, model->digest);
    wire_put_text(&job, model->process);
    link_announce(&job);
    wire_free(&job);
    return gather(OUSAC_STATUS_OK, NULL, NULL, error);
}

/* --- runs --- */

typedef struct run_parts {
    const ousac_session *session;
    const ousac_session_run *run;
} run_parts;

static float *samples_of(const run_parts *p, const ousac_sample_range *part) {
    return p->run->samples ? p->run->samples + (part->first - p->run->range.first) *
                                                   ousac_model_sample_size(p->session->model)
                           : NULL;
}

static ousac_status read_run(void *self, size_t rank, wire *answer, ousac_error *error) {
    const run_parts *p = self;
    const ousac_sample_range part =
        ousac_shard_of(&p->run->range, p->session->micro_batch, rank, link_ranks());
    ousac_counters counters;
    wire_take(answer, &counters, sizeof counters);
    if (p->run->counters)
        ousac_counters_add(p->run->counters, &counters);
    if (p->run->samples && part.count > 0)
        wire_take(answer, samples_of(p, &part),
                  (size_t)part.count * ousac_model_sample_size(p->session->model) * sizeof(float));
    return answer->failed ? OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "rank %zu sent too few samples", rank)
                          : OUSAC_STATUS_OK;
}

static ousac_status run(const ousac_session *session, const ousac_session_run *whole, ousac_error *error) {
    const double start = ousac_clock_s();
    run_parts parts = {session, whole};
    ousac_session_run own = *whole;
    wire job = {0};
    wire_put_u64(&job, JOB_RUN);
    job_put_runs(&job, session, whole->schedule);
    ousac_status status = job_put_calibration(&job, session->model, whole->calibration, error);
    if (status) {
        wire_free(&job);
        return status;
    }
    job_put_range(&job, &whole->range);
    wire_put_u64(&job, whole->exact != 0);
    wire_put_u64(&job, whole->samples != NULL);
    link_announce(&job);
    wire_free(&job);
    if (whole->counters)
        memset(whole->counters, 0, sizeof *whole->counters);
    own.range = ousac_shard_of(&whole->range, session->micro_batch, 0, link_ranks());
    own.samples = samples_of(&parts, &own.range);
    own.seconds = NULL;
    if (own.range.count > 0)
        status = ousac_session_run_here(session, &own, error);
    status = gather(status, read_run, &parts, error);
    if (whole->seconds)
        *whole->seconds = ousac_clock_s() - start;
    return status;
}

static ousac_status read_fit(void *self, size_t rank, wire *answer, ousac_error *error) {
    size_t count = 0;
    double *sums = ousac_forecast_fit_sums(self, &count);
    for (size_t i = 0; i < count; i++) {
        double more = 0;
        wire_take(answer, &more, sizeof more);
        sums[i] += more;
    }
    return answer->failed ? OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "rank %zu sent too few sums", rank)
                          : OUSAC_STATUS_OK;
}

static ousac_status fit(const ousac_session *session, const ousac_session_run *whole,
                        const ousac_calibration *calibration, ousac_forecast_fit *sums, ousac_error *error) {
    ousac_session_run own = *whole;
    wire job = {0};
    wire_put_u64(&job, JOB_FIT);
    job_put_runs(&job, session, whole->schedule);
    ousac_status status = job_put_calibration(&job, session->model, calibration, error);
    if (status) {
        wire_free(&job);
        return status;
    }
    job_put_range(&job, &whole->range);
    link_announce(&job);
    wire_free(&job);
    own.range = ousac_shard_of(&whole->range, session->micro_batch, 0, link_ranks());
    if (own.range.count > 0)
        status = ousac_session_run_here(session, &own, error);
    return gather(status, read_fit, sums, error);
}

/* --- recording --- */

/* NAME.K-of-N.part for another N than the ranks of this job: its samples would be done twice. With `restart`
 * they are removed, of whatever N. */
static ousac_status check_others(const ousac_partial *partial, ousac_error *error) {
    const char *slash = strrchr(partial->path, '/');
    const char *name = slash ? slash + 1 : partial->path;
    const size_t stem = strlen(name) - strlen(".part"), head = (size_t)(name - partial->path);
    ousac_status status = OUSAC_STATUS_OK;
    char *directory = ousac_strdup(head ? partial->path : "./"), *path = NULL;
    if (!directory)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a path");
    if (head)
        directory[head] = '\0';
    DIR *list = opendir(directory);
    for (struct dirent *entry; list && !status && (entry = readdir(list));) {
        unsigned long rank = 0, ranks = 0;
        char tail[8] = "";
        if (strncmp(entry->d_name, name, stem) != 0 ||
            sscanf(entry->d_name + stem, ".%lu-of-%lu.%7s", &rank, &ranks, tail) != 3 ||
            strcmp(tail, "part") != 0)
            continue;
        if (partial->restart) {
            path = ousac_malloc(head + strlen(entry->d_name) + 1, 1);
            if (path) {
                (void)sprintf(path, "%.*s%s", (int)head, partial->path, entry->d_name);
                (void)unlink(path);
            }
            ousac_free(path);
        } else if (ranks != link_ranks()) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                                "%s%s: left by a run of %lu ranks, not %zu: use as many, or --restart",
                                directory, entry->d_name, ranks, link_ranks());
        }
    }
    if (list)
        (void)closedir(list);
    ousac_free(directory);
    return status;
}

typedef struct recording {
    ousac_profile *profile;
    const ousac_sample_range *range;
    uint64_t forwards;
    int pilot;
} recording;

static ousac_status read_recording(void *self, size_t rank, wire *answer, ousac_error *error) {
    recording *r = self;
    const ousac_sample_range part =
        ousac_shard_of(r->range, r->profile->identity.micro_batch, rank, link_ranks());
    ousac_status status = ousac_profile_add_range(r->profile, part.first, part.count, error);
    r->forwards += wire_take_u64(answer);
    if (status || !r->pilot || part.count == 0)
        return status;
    const size_t batches = (size_t)((part.count - 1) / r->profile->identity.micro_batch + 1);
    const size_t size = (answer->size - answer->at) / batches;
    double *sums = ousac_malloc(size, 1);
    if (!sums)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the sums of rank %zu", rank);
    for (size_t i = 0; i < batches; i++) {
        wire_take(answer, sums, size);
        job_add_batch(r->profile, sums);
    }
    ousac_free(sums);
    return status;
}

/* This rank's part of a pilot: recorded apart, and added batch by batch. */
static ousac_status record_pilot(const ousac_session *session, const char *label,
                                 const ousac_sample_range *part, ousac_profile *profile, uint64_t *forwards,
                                 ousac_error *error) {
    ousac_profile *apart = NULL;
    job_harvest harvest = {0};
    ousac_status status = ousac_profile_create(&apart, &profile->arch, &profile->schedule, &profile->identity,
                                               profile->weight, 0, error);
    if (!status)
        status = job_record(session, label, part, NULL, apart, &harvest, forwards, error);
    for (size_t i = 0; !status && i < harvest.batches; i++)
        job_add_batch(profile, harvest.sums + i * harvest.batch_size);
    if (!status)
        status = ousac_profile_add_range(profile, part->first, part->count, error);
    ousac_free(harvest.sums);
    ousac_profile_free(apart);
    return status;
}

static ousac_status record(const ousac_session *session, const char *label, const ousac_sample_range *range,
                           const ousac_partial *partial, ousac_profile *profile, ousac_record_cost *cost,
                           ousac_error *error) {
    const double start = ousac_clock_s();
    const ousac_sample_range part = ousac_shard_of(range, session->micro_batch, 0, link_ranks());
    recording r = {profile, range, 0, !profile->moment};
    const int keeps = partial && !r.pilot;
    const ousac_partial_options options =
        keeps ? (ousac_partial_options){partial->every_s, partial->restart} : (ousac_partial_options){0};
    ousac_partial own = {0};
    char *output = NULL;
    wire job = {0};
    ousac_status status = keeps ? check_others(partial, error) : OUSAC_STATUS_OK;
    if (status)
        return status;
    wire_put_u64(&job, JOB_RECORD);
    job_put_runs(&job, session, &profile->schedule);
    job_put_subject(&job, profile);
    job_put_range(&job, range);
    wire_put_text(&job, keeps ? partial->path : NULL);
    wire_put_text(&job, keeps ? partial->weights : NULL);
    wire_put(&job, &options, sizeof options);
    link_announce(&job);
    wire_free(&job);

    if (keeps && part.count > 0 && !(output = job_part_path(partial->path, 0, link_ranks())))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a path");
    if (!status && output)
        status = ousac_partial_open(&own, output, &options, partial->weights, NULL, error);
    if (!status && r.pilot)
        status = record_pilot(session, label, &part, profile, &r.forwards, error);
    else if (!status)
        status = job_record(session, label, &part, output ? &own : NULL, profile, NULL, &r.forwards, error);
    status = gather(status, read_recording, &r, error);
    if (!status && !r.pilot) {
        wire_put_u64(&job, JOB_REDUCE);
        link_announce(&job);
        wire_free(&job);
        job_reduce(profile);
    }
    cost->forwards += r.forwards;
    cost->seconds += ousac_clock_s() - start;
    ousac_partial_free(&own);
    ousac_free(output);
    return status;
}

static void recorded(const ousac_partial *partial) {
    wire job = {0};
    char *output = job_part_path(partial->path, 0, link_ranks());
    char *part = output ? ousac_malloc(strlen(output) + sizeof ".part", 1) : NULL;
    if (part) {
        (void)sprintf(part, "%s.part", output);
        (void)unlink(part);
    }
    ousac_free(part);
    ousac_free(output);
    wire_put_u64(&job, JOB_RECORDED);
    wire_put_text(&job, partial->path);
    link_announce(&job);
    wire_free(&job);
}

/* --- factors --- */

typedef struct factor_parts {
    const ousac_arch *arch;
    ousac_factor_set *set;
    const size_t *owner;
} factor_parts;

static ousac_status read_factors(void *self, size_t rank, wire *answer, ousac_error *error) {
    const factor_parts *p = self;
    return job_take_factors(answer, p->arch, p->set, p->owner, rank, error);
}

static ousac_status factors(const ousac_session *session, const ousac_profile *profile, ousac_method method,
                            ousac_factor_set **set, ousac_error *error) {
    const ousac_arch *arch = &session->model->arch;
    const size_t sums = ousac_profile_sum_count(profile);
    factor_parts parts = {arch, NULL, NULL};
    size_t count = 0, group = 0;
    wire job = {0};
    size_t *owner = ousac_malloc(arch->group_count, sizeof *owner);
    unsigned char *mine = ousac_calloc(arch->group_count, 1);
    ousac_status status = owner && mine
                              ? ousac_factorise_share(arch, method, link_ranks(), owner, error)
                              : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to share out the factors");
    if (!status && profile->arch.group_count != arch->group_count)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "the profile does not fit the model");
    if (status)
        goto done;
    wire_put_u64(&job, JOB_FACTORS);
    job_put_runs(&job, session, &profile->schedule);
    job_put_subject(&job, profile);
    wire_put_u64(&job, method);
    wire_put_u64(&job, ousac_profile_samples(profile));
    for (size_t i = 0; i < sums; i++) {
        const double *sum = ousac_profile_sum(profile, i, &count);
        if (!job_sum_is_moment(profile, i, &group))
            wire_put(&job, sum, count * sizeof *sum);
    }
    link_announce(&job);
    for (size_t i = 0; i < sums; i++) {
        const double *sum = ousac_profile_sum(profile, i, &count);
        if (job_sum_is_moment(profile, i, &group) && owner[group] != 0)
            link_send_array(owner[group], sum, count);
    }
    for (size_t g = 0; g < arch->group_count; g++)
        mine[g] = owner[g] == 0;
    status = ousac_session_factors_here(session, profile, method, NULL, mine, set, error);
    parts.set = *set;
    parts.owner = owner;
    status = gather(status, read_factors, &parts, error);
    if (status) {
        ousac_factor_set_free(*set);
        *set = NULL;
    }
done:
    wire_free(&job);
    ousac_free(mine);
    ousac_free(owner);
    return status;
}

const ousac_workers *team_workers(void) {
    static const ousac_workers team = {load, run, record, recorded, factors, fit, link_poll};
    return link_rank() == 0 && link_ranks() > 1 ? &team : NULL;
}
