/* Recording until more samples would change little: rounds of micro-batches, each also added to the halves by
 * which calib/stats/convergence.h judges, into the very sums that one run of the same range makes.
 */
#include "pipeline/record_auto.h"

#include "calib/choose/allocate.h"
#include "calib/stats/convergence.h"
#include "formats/memory.h"
#include "pipeline/machine.h"
#include "profile/bundle/factorise.h"
#include "profile/record/recorder.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SPLITS = OUSAC_CONVERGENCE_SPLITS };

typedef struct auto_work {
    ousac_profile *profile;      /* all samples */
    ousac_profile *half[SPLITS]; /* the first half of each split */
    ousac_profile *piece;        /* one micro-batch, as the recorder hands it over */
    ousac_profile *rest;         /* the second half of the split under judgement */
    ousac_recorder *recorder;
    const ousac_run_observers *inner; /* the recorder's */
    ousac_run_observers observers;
    size_t micro_batch;
    double *e; /* (SPLITS, sites) */
} auto_work;

static void clear(ousac_profile *p) {
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++)
        memset(p->scalar[k], 0,
               p->schedule.step_count * OUSAC_BRANCHES *
                   ousac_profile_scalar_width(&p->arch, (ousac_scalar)k) * sizeof(double));
    for (size_t i = 0; i < p->identity.segments * p->arch.group_count; i++)
        memset(p->moment[i], 0,
               ousac_profile_moment_size(&p->arch.groups[i % p->arch.group_count]) * sizeof(double));
    for (int k = 0; p->identity.magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++)
        memset(p->magnitude[k], 0,
               ousac_profile_magnitude_size(&p->arch, (ousac_magnitude)k) * sizeof(double));
    p->range_count = 0;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    const auto_work *work = self;
    return work->inner->attach(work->inner->self, worker, observer, error);
}

/* 0 + w is w, so adding the piece is adding what the recorder would have added. */
static ousac_status collect(void *self, size_t worker, uint64_t first, size_t count, ousac_error *error) {
    auto_work *work = self;
    const size_t part = (size_t)(first / work->micro_batch % OUSAC_CONVERGENCE_PARTS);
    ousac_status status = work->inner->collect(work->inner->self, worker, first, count, error);
    if (!status)
        status = ousac_profile_merge(work->profile, work->piece, error);
    for (size_t split = 0; !status && split < SPLITS; split++)
        if (ousac_convergence_in_half(split, part))
            status = ousac_profile_merge(work->half[split], work->piece, error);
    clear(work->piece);
    return status;
}

/* All samples' profile and what the rounds need beside it, spilled alike. */
static ousac_status create(auto_work *work, const ousac_session *session, const ousac_schedule *schedule,
                           const ousac_record_options *options, ousac_error *error) {
    ousac_profile **const mine[] = {&work->profile, &work->half[0], &work->half[1],
                                    &work->half[2], &work->piece,   &work->rest};
    const ousac_profile_identity identity = ousac_record_identity(session, options);
    const ousac_arch *arch = &session->model->arch;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; !status && i < sizeof mine / sizeof *mine; i++)
        status = ousac_profile_create_spilled(mine[i], arch, schedule, &identity,
                                              options->weights ? options->weights->weight : NULL, 1,
                                              options->spill, error);
    if (!status)
        status = ousac_recorder_create(&work->recorder, work->piece, session->model->backend,
                                       ousac_session_threads(session), session->micro_batch, error);
    if (status)
        return status;
    work->inner = ousac_recorder_observers(work->recorder);
    work->observers = (ousac_run_observers){.self = work, .attach = attach, .collect = collect};
    work->micro_batch = session->micro_batch;
    work->e = ousac_malloc(arch->site_count, SPLITS * sizeof *work->e);
    return work->e
               ? OUSAC_STATUS_OK
               : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to judge %zu sites", arch->site_count);
}

static void destroy(auto_work *work) {
    ousac_recorder_free(work->recorder);
    for (size_t split = 0; split < SPLITS; split++)
        ousac_profile_free(work->half[split]);
    ousac_profile_free(work->profile);
    ousac_profile_free(work->piece);
    ousac_profile_free(work->rest);
    ousac_free(work->e);
}

/* --- judging --- */

/* e of every site where directions of `from` meet the moments of `on`, half of it added to e. */
static ousac_status add_excess(const ousac_stop *stop, const ousac_arch *arch, const size_t *rank,
                               const ousac_factor_set *from, const ousac_factor_set *spectra,
                               const ousac_profile *on, double *sum, double *e, ousac_error *error) {
    for (size_t g = 0; g < arch->group_count; g++) {
        const ousac_group *group = &arch->groups[g];
        const int input = group->side == OUSAC_SIDE_INPUT;
        const size_t size = ousac_profile_moment_size(group);
        memcpy(sum, on->moment[g], size * sizeof *sum);
        for (size_t segment = 1; segment < on->identity.segments; segment++)
            for (size_t i = 0; i < size; i++)
                sum[i] += on->moment[segment * arch->group_count + g][i];
        for (size_t s = group->first_site; s < group->first_site + group->site_count; s++) {
            const ousac_factors *f = &from->site[s], *own = &spectra->site[s];
            if (rank[s] == 0 || rank[s] > f->rank || rank[s] >= ousac_cost_dense_rank(&arch->sites[s])) {
                e[s] = NAN; /* nothing is truncated here, or there is nothing to truncate */
                continue;
            }
            const double captured = ousac_convergence_captured(input ? f->b : f->a, rank[s], group->dim, sum);
            e[s] += ousac_convergence_excess(own->lambda, own->lambda_count, rank[s], captured) / 2;
        }
    }
    return ousac_stop_asked(stop) ? OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted")
                                  : OUSAC_STATUS_OK;
}

static ousac_status judge_split(auto_work *work, const ousac_session *session, const size_t *rank,
                                double *sum, size_t split, ousac_error *error) {
    const ousac_profile *all = work->profile, *half = work->half[split];
    const ousac_arch *arch = &all->arch;
    /* All directions below the dense rank: their solver gives exact spectra (calib/spectra/leading.h does not). */
    const ousac_factorise_options options = {
        .method = OUSAC_METHOD_DELTA_COV, .threads = ousac_session_threads(session), .stop = session->stop};
    double *e = work->e + split * arch->site_count;
    ousac_factor_set *first = NULL, *second = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < all->identity.segments * arch->group_count; i++) {
        const size_t size = ousac_profile_moment_size(&arch->groups[i % arch->group_count]);
        for (size_t j = 0; j < size; j++)
            work->rest->moment[i][j] = all->moment[i][j] - half->moment[i][j];
    }
    memset(e, 0, arch->site_count * sizeof *e);
    status = ousac_factor_set_create(&first, session->model, half, &options, error);
    if (!status)
        status = ousac_factor_set_create(&second, session->model, work->rest, &options, error);
    if (!status)
        status = add_excess(session->stop, arch, rank, first, second, work->rest, sum, e, error);
    if (!status)
        status = add_excess(session->stop, arch, rank, second, first, half, sum, e, error);
    ousac_factor_set_free(first);
    ousac_factor_set_free(second);
    return status;
}

static ousac_status judge(auto_work *work, const ousac_session *session, const size_t *rank,
                          ousac_record_round *round, ousac_error *error) {
    const ousac_arch *arch = &work->profile->arch;
    ousac_convergence estimate;
    size_t largest = 0;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t g = 0; g < arch->group_count; g++) {
        const size_t size = ousac_profile_moment_size(&arch->groups[g]);
        largest = size > largest ? size : largest;
    }
    double *sum = ousac_malloc(largest, sizeof *sum);
    if (!sum)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for a moment of %zu values", largest);
    for (size_t split = 0; !status && split < SPLITS; split++)
        status = judge_split(work, session, rank, sum, split, error);
    ousac_free(sum);
    if (status)
        return status;
    ousac_convergence_estimate(work->e, arch->site_count, &estimate);
    if (estimate.sites == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`samples` auto: no layer is corrected at this schedule and budget, so nothing can "
                          "converge; expected a number of samples");
    round->samples = ousac_profile_samples(work->profile);
    round->excess = estimate.excess;
    round->upper = estimate.upper;
    round->worst = estimate.worst;
    (void)snprintf(round->worst_site, sizeof round->worst_site, "%s", arch->sites[estimate.worst_site].name);
    return OUSAC_STATUS_OK;
}

/* --- the rounds --- */

static ousac_status record(auto_work *work, const ousac_session *session, uint64_t first, uint64_t count,
                           ousac_record_cost *cost, ousac_error *error) {
    ousac_counters counters = {0};
    char label[64];
    (void)snprintf(label, sizeof label, "profile to %" PRIu64, first + count);
    const ousac_session_run run = {.label = label,
                                   .schedule = &work->profile->schedule,
                                   .range = {first, count},
                                   .exact = 1,
                                   .observers = &work->observers,
                                   .counters = &counters};
    const ousac_status status = ousac_session_run_samples(session, &run, error);
    for (int gate = 0; gate < OUSAC_GATES_RUN; gate++)
        cost->forwards += counters.forwards[gate];
    return status;
}

static ousac_status rounds(auto_work *work, const ousac_session *session,
                           const ousac_record_auto_options *options, const size_t *rank,
                           ousac_record_cost *cost, ousac_error *error) {
    ousac_record_convergence *found = &cost->convergence;
    const uint64_t unit = (uint64_t)session->micro_batch * OUSAC_CONVERGENCE_PARTS;
    const uint64_t most = options->most / unit * unit;
    uint64_t done = 0, next = OUSAC_DEFAULT_AUTO_FIRST;
    next = (next + unit - 1) / unit * unit;
    for (;;) {
        ousac_record_round *round = &found->round[found->rounds];
        next = next < most ? next : most;
        ousac_status status = record(work, session, done, next - done, cost, error);
        if (!status)
            status = judge(work, session, rank, round, error);
        if (status)
            return status;
        found->rounds++;
        done = next;
        ousac_session_note(session, "%" PRIu64 " samples: excess %.2f %%, at most %.2f %%", done,
                           100 * round->excess, 100 * round->upper);
        found->converged = round->upper <= options->tolerance;
        if (found->converged || done == most || found->rounds == OUSAC_RECORD_ROUNDS_MAX)
            return OUSAC_STATUS_OK;
        next = ousac_convergence_next((size_t)done, round->upper, options->tolerance, (size_t)unit);
    }
}

ousac_status ousac_record_auto_check(const ousac_record_auto_options *automatic, size_t micro_batch,
                                     ousac_error *error) {
    const uint64_t unit = (uint64_t)micro_batch * OUSAC_CONVERGENCE_PARTS;
    if (automatic->most < unit)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`samples_max` %zu: expected at least %d micro-batches, %" PRIu64 " samples",
                          automatic->most, OUSAC_CONVERGENCE_PARTS, unit);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_record_auto(const ousac_session *session, const ousac_schedule *schedule,
                               const ousac_record_options *options,
                               const ousac_record_auto_options *automatic, ousac_profile **profile,
                               ousac_record_cost *cost, ousac_error *error) {
    const ousac_arch *arch = &session->model->arch;
    const double start = ousac_clock_s();
    auto_work work = {0};
    ousac_allocation allocation = {0};
    uint64_t macs = 0;
    double step = 0;
    ousac_status status = OUSAC_STATUS_OK;

    *profile = NULL;
    status = ousac_budget_solve(arch, schedule, &automatic->budget, &macs, &step, error);
    if (!status)
        status = ousac_allocate_uniform(arch, NULL, macs, &allocation, error);
    if (!status)
        status = create(&work, session, schedule, options, error);
    if (status)
        goto done;
    if (session->workers)
        ousac_session_note(session,
                           "`samples` auto records in this process alone: the others wait meanwhile");
    cost->convergence = (ousac_record_convergence){.tolerance = automatic->tolerance, .budget_step = step};
    status = rounds(&work, session, automatic, allocation.rank, cost, error);
    cost->seconds += ousac_clock_s() - start;
    if (!status) {
        *profile = work.profile;
        work.profile = NULL;
    }
done:
    destroy(&work);
    ousac_allocation_free(&allocation);
    return status;
}
