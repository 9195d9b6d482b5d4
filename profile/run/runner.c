#include "profile/run/runner.h"

#include "formats/memory.h"
#include "profile/run/solver.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct shared shared;

typedef struct worker {
    shared *shared;
    size_t index;
    ousac_executor *executor;
    void *workspace;
    ousac_observer observer;
    float *x, *eps;             /* backend: (batch, sample), (batch, sample) */
    float *state;               /* host: (batch, sample) */
    ousac_solver_memory memory; /* (batch, sample) */
    float *eps_host[OUSAC_BRANCHES];
    pthread_t thread;
    int started;
    ousac_error error;
} worker;

struct shared {
    const ousac_run *run;
    size_t sample; /* values of one sample */
    size_t batch_count;
    ousac_solver_step *steps; /* per step */
    pthread_mutex_t lock;
    pthread_cond_t turn;
    /* under the lock: */
    size_t next_batch;   /* to be computed */
    size_t next_collect; /* to be handed over */
    uint64_t done;       /* sample steps */
    size_t failed_batch; /* smallest one that failed; batch_count for none */
    ousac_status status;
    ousac_error error;
};

/* --- checks and coefficients --- */

ousac_status ousac_run_check_schedule(const ousac_model *model, const ousac_schedule *schedule,
                                      ousac_error *error) {
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *step = &schedule->steps[i];
        ousac_noise_level level;
        if (ousac_noise_at(&model->noise, step->timestep, &level))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "schedule %s, step %zu: timestep %g, but the model has timesteps 0 to %g",
                              ousac_schedule_called(schedule), i, step->timestep,
                              ousac_noise_last(&model->noise));
        if (ousac_mode_evaluates(step->mode, OUSAC_BRANCH_UNCOND) && !model->has_uncond &&
            model->family->uncond_from_inputs)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "schedule %s, step %zu: mode %s, but the inputs file for %s has no "
                              "negative_prompt_embeds",
                              ousac_schedule_called(schedule), i, ousac_mode_name(step->mode), model->path);
        if (step->tells && !model->takes_guidance)
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "schedule %s, step %zu: guidance %g, but %s has no guidance embedder to be told it",
                ousac_schedule_called(schedule), i, step->guidance, model->path);
        if (ousac_mode_evaluates(step->mode, OUSAC_BRANCH_UNCOND) && !model->has_uncond)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "schedule %s, step %zu: mode %s, but %s has no unconditional label",
                              ousac_schedule_called(schedule), i, ousac_mode_name(step->mode), model->path);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status check(const ousac_run *run, ousac_error *error) {
    if (!run->micro_batch || !run->threads || !run->count)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "a run needs samples, a micro-batch and threads of at least 1");
    if (run->first % run->micro_batch)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "samples from %llu: expected a multiple of the micro-batch %zu, to which batches align",
            (unsigned long long)run->first, run->micro_batch);
    if (run->count > UINT64_MAX - run->first)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "sample range beyond 2^64");
    return ousac_run_check_schedule(run->model, run->schedule, error);
}

ousac_solver_layout ousac_run_layout(const ousac_model *model) {
    return (ousac_solver_layout){ousac_model_sample_size(model),
                                 model->guided_channels * model->height * model->width,
                                 model->rescaled ? model->width : 0};
}

ousac_status ousac_run_solver_steps(const ousac_model *model, const ousac_schedule *schedule,
                                    ousac_solver_step **steps, ousac_error *error) {
    const size_t count = schedule->step_count;
    ousac_status status = OUSAC_STATUS_OK;
    ousac_noise_level *level = ousac_malloc(count + 1, sizeof *level);
    *steps = ousac_calloc(count, sizeof **steps);
    if (!level || !*steps) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu steps", count);
    } else {
        for (size_t i = 0; i < count; i++)
            (void)ousac_noise_at(&model->noise, schedule->steps[i].timestep, &level[i]);
        level[count] = OUSAC_NOISE_NONE; /* after the last step */
        status = ousac_solver_steps(schedule->solver, model->noise.prediction, level, count, *steps, error);
        if (status)
            (void)ousac_error_prefix(error, "schedule %s", ousac_schedule_called(schedule));
    }
    ousac_free(level);
    if (status) {
        ousac_free(*steps);
        *steps = NULL;
    }
    return status;
}

/* --- one micro-batch --- */

static ousac_status evaluate(worker *w, size_t step, int branch, uint64_t first, size_t count,
                             ousac_error *error) {
    const ousac_run *run = w->shared->run;
    const ousac_model *model = run->model;
    const ousac_step *s = &run->schedule->steps[step];
    const ousac_observer *observer = &w->observer;
    ousac_gate effective, gate = run->exact ? OUSAC_GATE_FULL : s->gate[branch];
    ousac_status status =
        ousac_executor_begin(w->executor, step, branch, gate, count, observer, &effective, error);
    if (status)
        return status;
    if (observer->begin)
        status = observer->begin(observer->self, step, branch, effective, first, count, error);
    if (!status)
        status = ousac_executor_forward(w->executor, w->workspace, w->x, s, w->eps, error);
    if (!status && observer->end)
        status = observer->end(observer->self, error);
    if (!status)
        status = model->backend->download(model->backend, w->eps_host[branch], w->eps,
                                          count * w->shared->sample * sizeof(float), error);
    ousac_executor_end(w->executor);
    return status;
}

static ousac_status advance(worker *w, size_t step, size_t count, ousac_error *error) {
    const ousac_schedule *schedule = w->shared->run->schedule;
    const ousac_solver_layout layout = ousac_run_layout(w->shared->run->model);
    if (ousac_solver_advance(&w->shared->steps[step], &schedule->steps[step],
                             schedule->fitted ? &schedule->fitted[step] : NULL, &layout,
                             count * w->shared->sample, w->eps_host[OUSAC_BRANCH_COND],
                             w->eps_host[OUSAC_BRANCH_UNCOND], w->state, &w->memory))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                          "schedule %s, step %zu, %s: the model's output is not finite",
                          ousac_schedule_called(schedule), step, ousac_mode_name(schedule->steps[step].mode));
    return OUSAC_STATUS_OK;
}

static void report_progress(shared *sh, size_t count) {
    const ousac_run *run = sh->run;
    pthread_mutex_lock(&sh->lock);
    sh->done += count;
    uint64_t done = sh->done;
    pthread_mutex_unlock(&sh->lock);
    if (run->progress)
        run->progress(run->progress_self, done, run->count * run->schedule->step_count);
}

static int failed_before(shared *sh, size_t batch) {
    pthread_mutex_lock(&sh->lock);
    int failed = sh->failed_batch < batch;
    pthread_mutex_unlock(&sh->lock);
    return failed;
}

static ousac_status run_batch(worker *w, size_t batch, uint64_t first, size_t count, ousac_error *error) {
    shared *sh = w->shared;
    const ousac_run *run = sh->run;
    const ousac_model *model = run->model;
    ousac_model_draw_noise(model, run->seed, first, count, w->state);
    ousac_executor_reset(w->executor);
    ousac_solver_memory_reset(&w->memory);
    ousac_status status = model->family->set_inputs(model, w->workspace, run->seed, first, count, error);
    for (size_t step = 0; step < run->schedule->step_count && !status; step++) {
        if (ousac_stop_asked(run->stop))
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted at sample %llu, step %zu",
                              (unsigned long long)first, step);
        if (failed_before(sh, batch))
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "an earlier batch failed");
        status =
            model->backend->upload(model->backend, w->x, w->state, count * sh->sample * sizeof(float), error);
        /* The unconditional branch first, as the public pipelines' batches would have it; order has no
         * effect. */
        for (int branch = OUSAC_BRANCHES - 1; branch >= 0 && !status; branch--)
            if (ousac_mode_evaluates(run->schedule->steps[step].mode, branch))
                status = evaluate(w, step, branch, first, count, error);
        if (!status)
            status = advance(w, step, count, error);
        if (!status)
            report_progress(sh, count);
    }
    return status;
}

/* Hands a finished batch over when its turn has come. */
static ousac_status collect(worker *w, size_t batch, uint64_t first, size_t count, ousac_error *error) {
    shared *sh = w->shared;
    const ousac_run *run = sh->run;
    ousac_status status = OUSAC_STATUS_OK;
    pthread_mutex_lock(&sh->lock);
    while (sh->next_collect != batch && sh->failed_batch >= batch)
        pthread_cond_wait(&sh->turn, &sh->lock);
    if (sh->failed_batch < batch)
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "an earlier batch failed");
    pthread_mutex_unlock(&sh->lock);
    if (!status && run->samples)
        memcpy(run->samples + (first - run->first) * sh->sample, w->state,
               count * sh->sample * sizeof(float));
    if (!status && run->observers && run->observers->collect)
        status = run->observers->collect(run->observers->self, w->index, first, count, error);
    return status;
}

static void *work(void *pointer) {
    worker *w = pointer;
    shared *sh = w->shared;
    const ousac_run *run = sh->run;
    for (;;) {
        pthread_mutex_lock(&sh->lock);
        size_t batch = sh->failed_batch < sh->batch_count ? sh->batch_count : sh->next_batch;
        if (batch < sh->batch_count)
            sh->next_batch++;
        pthread_mutex_unlock(&sh->lock);
        if (batch >= sh->batch_count)
            return NULL;
        uint64_t first = run->first + (uint64_t)batch * run->micro_batch, end = run->first + run->count;
        size_t count = end - first < run->micro_batch ? (size_t)(end - first) : run->micro_batch;
        ousac_status status = run_batch(w, batch, first, count, &w->error);
        if (!status)
            status = collect(w, batch, first, count, &w->error);
        pthread_mutex_lock(&sh->lock);
        if (status && batch < sh->failed_batch) {
            sh->failed_batch = batch;
            sh->status = status;
            sh->error = w->error;
        }
        if (!status)
            sh->next_collect = batch + 1;
        pthread_cond_broadcast(&sh->turn);
        pthread_mutex_unlock(&sh->lock);
    }
}

/* --- life --- */

static void worker_free(worker *w, const ousac_model *model) {
    const ousac_backend *be = model->backend;
    ousac_executor_free(w->executor);
    if (w->workspace)
        model->family->workspace_free(model, w->workspace);
    be->release(be, w->x);
    be->release(be, w->eps);
    ousac_free(w->state);
    ousac_solver_memory_free(&w->memory);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_free(w->eps_host[b]);
}

static int needs_caches(const ousac_run *run) {
    if (run->exact)
        return 0;
    for (size_t i = 0; i < run->schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (run->schedule->steps[i].gate[b] != OUSAC_GATE_FULL)
                return 1;
    return 0;
}

static ousac_status worker_create(worker *w, shared *sh, size_t index, ousac_error *error) {
    const ousac_run *run = sh->run;
    const ousac_model *model = run->model;
    const ousac_backend *be = model->backend;
    size_t values = run->micro_batch * sh->sample;
    w->shared = sh;
    w->index = index;
    const ousac_executor_options options = {
        .calibration = run->calibration,
        .batch = run->micro_batch,
        .keep = needs_caches(run),
        .extrapolate = ousac_schedule_has_gate(run->schedule, OUSAC_GATE_EXTRAPOLATE),
        .gradient = run->gradient};
    ousac_status status = ousac_executor_create(&w->executor, model, &options, error);
    if (!status)
        status = model->family->workspace_create(model, run->micro_batch, &w->workspace, error);
    if (status)
        return status;
    w->x = be->alloc(be, values, sizeof(float));
    w->eps = be->alloc(be, values, sizeof(float));
    w->state = ousac_malloc(values, sizeof(float));
    w->eps_host[0] = ousac_calloc(values, sizeof(float));
    w->eps_host[1] = ousac_calloc(values, sizeof(float));
    status = ousac_solver_memory_create(&w->memory, run->schedule, values, error);
    if (status)
        return status;
    if (!w->x || !w->eps || !w->state || !w->eps_host[0] || !w->eps_host[1])
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a batch of %zu samples",
                          run->micro_batch);
    if (run->observers && run->observers->attach)
        status = run->observers->attach(run->observers->self, index, &w->observer, error);
    return status;
}

ousac_status ousac_run_samples(const ousac_run *run, ousac_error *error) {
    shared sh = {.run = run};
    worker *workers = NULL;
    struct timespec begin, end;
    int whole;
    ousac_status status = check(run, error);
    if (status)
        return status;
    (void)clock_gettime(CLOCK_MONOTONIC, &begin);
    sh.sample = ousac_model_sample_size(run->model);
    sh.batch_count = (size_t)((run->count - 1) / run->micro_batch + 1);
    sh.failed_batch = sh.batch_count;
    size_t threads = run->threads < sh.batch_count ? run->threads : sh.batch_count, created = 0;
    (void)pthread_mutex_init(&sh.lock, NULL);
    (void)pthread_cond_init(&sh.turn, NULL);
    workers = ousac_calloc(threads, sizeof *workers);
    if (!workers) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu threads", threads);
        goto done;
    }
    if ((status = ousac_run_solver_steps(run->model, run->schedule, &sh.steps, error)))
        goto done;
    for (; created < threads; created++)
        if ((status = worker_create(&workers[created], &sh, created, error))) {
            const ousac_backend *be = run->model->backend;
            if (status == OUSAC_STATUS_MEMORY && !be->host)
                (void)ousac_error_prefix(error, "device %s, thread %zu of %zu, micro-batch %zu", be->name,
                                         created + 1, threads, run->micro_batch);
            created++;
            goto done;
        }
    /* The calling thread is worker 0; where a thread cannot be had, fewer do the work. */
    for (size_t i = 1; i < threads; i++)
        workers[i].started = pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0;
    (void)work(&workers[0]);
    for (size_t i = 1; i < threads; i++)
        if (workers[i].started)
            (void)pthread_join(workers[i].thread, NULL);
    if ((status = sh.status)) {
        if (error)
            *error = sh.error;
        goto done;
    }
    if (run->observers && run->observers->settle &&
        (status = run->observers->settle(run->observers->self, &whole, error)))
        goto done;
    if (run->counters) {
        memset(run->counters, 0, sizeof *run->counters);
        for (size_t i = 0; i < threads; i++)
            ousac_counters_add(run->counters, ousac_executor_counters(workers[i].executor));
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    if (run->seconds)
        *run->seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
done:
    for (size_t i = 0; i < created; i++)
        worker_free(&workers[i], run->model);
    ousac_free(workers);
    ousac_free(sh.steps);
    (void)pthread_cond_destroy(&sh.turn);
    (void)pthread_mutex_destroy(&sh.lock);
    return status;
}
