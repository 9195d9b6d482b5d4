#include "profile/run/probe.h"

#include "formats/memory.h"
#include "profile/run/executor.h"
#include "profile/run/runner.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

/* What one micro-batch measured: sums over its samples. */
typedef struct measured {
    double *energy[OUSAC_BRANCHES], *unguided[OUSAC_BRANCHES]; /* as in the probe */
    double *moved, *disturbance; /* (step_count): relative squared error of the end; squared error put in */
} measured;

typedef struct shared {
    const ousac_probe_options *options;
    const ousac_probe *probe;
    ousac_solver_step *solver;
    unsigned char *probed; /* (step_count): 1 where the influence is measured */
    size_t size, batch_count;
    ousac_solver_layout layout;
    measured *batch; /* (batch_count) */
    pthread_mutex_t lock;
    /* under the lock: */
    size_t next, failed; /* batch to take; the first that failed, or batch_count */
    uint64_t done;
    ousac_status status;
    ousac_error error;
} shared;

typedef struct worker {
    shared *shared;
    ousac_executor **aged; /* (horizon): slot j % horizon holds evaluation j of each branch */
    ousac_executor *plain;
    void *workspace;
    float *x_device, *eps_device; /* (micro_batch, sample) */
    float *x;                     /* host: (step_count + 1, micro_batch, sample): the exact trajectory */
    ousac_solver_memory *memory;  /* (step_count + 1): before each step */
    float *offset; /* host: (step_count, micro_batch, sample): an error of the guided prediction, at probed
                      steps */
    float *eps[OUSAC_BRANCHES], *other, *state; /* host: (micro_batch, sample) */
    ousac_solver_memory state_memory;
    pthread_t thread;
    int started;
} worker;

/* 1 where some branch is evaluated at `step` and was before: only there can an evaluation be a cached one. */
static int can_be_cached(const ousac_probe *probe, size_t step) {
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        for (size_t j = 1; j < probe->evaluations[b]; j++)
            if (probe->step[b][j] == step)
                return 1;
    return 0;
}

/* Of every `stride` steps the middle one, or where that cannot be cached the first that can. */
static void choose_probed(const ousac_probe *probe, size_t stride, unsigned char *probed) {
    for (size_t from = 0; from < probe->step_count; from += stride) {
        const size_t end = stride < probe->step_count - from ? from + stride : probe->step_count;
        size_t step = from + stride / 2;
        if (step >= end || !can_be_cached(probe, step))
            for (step = from; step < end && !can_be_cached(probe, step);)
                step++;
        if (step < end)
            probed[step] = 1;
    }
}

/* Of a branch that the step evaluates, in the prediction that the solver sees; where it rescales rows, before it does. */
static double branch_weight(const ousac_step *step, int branch, int guided) {
    if (step->mode != OUSAC_MODE_CFG)
        return 1;
    if (!guided)
        return branch == OUSAC_BRANCH_COND;
    return branch == OUSAC_BRANCH_COND ? step->scale : 1 - step->scale;
}

static int is_guided(const shared *sh, size_t value) {
    return value % sh->layout.sample < sh->layout.guided;
}

static ousac_status predict(worker *w, ousac_executor *executor, size_t step, int branch, ousac_gate gate,
                            size_t count, const float *x, float *eps, ousac_error *error) {
    const ousac_probe_options *o = w->shared->options;
    const ousac_backend *be = o->model->backend;
    const size_t bytes = count * w->shared->size * sizeof(float);
    ousac_gate effective;
    ousac_status status = be->upload(be, w->x_device, x, bytes, error);
    if (!status)
        status = ousac_executor_begin(executor, step, branch, gate, count, NULL, &effective, error);
    if (status)
        return status;
    status = ousac_executor_forward(executor, w->workspace, w->x_device, &o->schedule->steps[step],
                                    w->eps_device, error);
    ousac_executor_end(executor);
    return status ? status : be->download(be, eps, w->eps_device, bytes, error);
}

static ousac_status advance(worker *w, size_t step, size_t count, float *x, ousac_solver_memory *memory,
                            ousac_error *error) {
    const ousac_schedule *schedule = w->shared->options->schedule;
    if (ousac_solver_advance(&w->shared->solver[step], &schedule->steps[step],
                             schedule->fitted ? &schedule->fitted[step] : NULL, &w->shared->layout,
                             count * w->shared->size, w->eps[OUSAC_BRANCH_COND], w->eps[OUSAC_BRANCH_UNCOND],
                             x, memory))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                          "schedule %s, step %zu: the model's output is not finite",
                          ousac_schedule_called(schedule), step);
    return OUSAC_STATUS_OK;
}

/* The squared error that the influence of a step is probed with. */
static double put_in(const worker *w, size_t step, size_t values) {
    const float *offset = w->offset + step * w->shared->options->micro_batch * w->shared->size;
    double sum = 0;
    for (size_t i = 0; i < values; i++)
        sum += (double)offset[i] * (double)offset[i];
    return sum;
}

/* One exact evaluation, kept in its slot, and the corrected ones from every older slot. */
static ousac_status measure_ages(worker *w, measured *m, size_t step, int branch, size_t j, size_t count,
                                 ousac_error *error) {
    const ousac_probe_options *o = w->shared->options;
    const size_t values = count * w->shared->size, at = o->micro_batch * w->shared->size;
    const float *x = w->x + step * at;
    /* A typical error, two evaluations old, is what the influence is probed with: the conditional branch's,
     * or where it has none the other's. */
    const int offers = w->shared->probed[step] && put_in(w, step, values) == 0;
    const float weight[2] = {(float)branch_weight(&o->schedule->steps[step], branch, 0),
                             (float)branch_weight(&o->schedule->steps[step], branch, 1)};
    ousac_status status =
        predict(w, w->aged[j % o->horizon], step, branch, OUSAC_GATE_FULL, count, x, w->eps[branch], error);
    for (size_t a = 1; a < o->horizon && a <= j && !status; a++) {
        status = predict(w, w->aged[(j - a) % o->horizon], step, branch, OUSAC_GATE_CACHED, count, x,
                         w->other, error);
        double sum[2] = {0, 0}; /* of unguided and of guided channels */
        for (size_t i = 0; i < values && !status; i++) {
            const double d = (double)w->other[i] - (double)w->eps[branch][i];
            sum[is_guided(w->shared, i)] += d * d;
        }
        m->energy[branch][j * o->horizon + a] += sum[1];
        m->unguided[branch][j * o->horizon + a] += sum[0];
        if (offers && a <= 2)
            for (size_t i = 0; i < values && !status; i++)
                w->offset[step * at + i] =
                    (w->other[i] - w->eps[branch][i]) * weight[is_guided(w->shared, i)];
    }
    return status;
}

static void tick(shared *sh, size_t count, uint64_t total) {
    const ousac_probe_options *o = sh->options;
    pthread_mutex_lock(&sh->lock);
    sh->done += count;
    const uint64_t done = sh->done;
    pthread_mutex_unlock(&sh->lock);
    if (o->progress)
        o->progress(o->progress_self, done, total);
}

static ousac_status check_stop(const ousac_probe_options *o, ousac_error *error) {
    return ousac_stop_asked(o->stop)
               ? OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted while probing")
               : OUSAC_STATUS_OK;
}

/* Runs on exactly from a prediction that was moved at `step`, and compares the ends. */
static ousac_status measure_influence(worker *w, measured *m, size_t step, size_t count, ousac_error *error) {
    const ousac_probe_options *o = w->shared->options;
    const ousac_schedule *schedule = o->schedule;
    const size_t size = w->shared->size, values = count * size, at = o->micro_batch * size;
    const float *offset = w->offset + step * at, *end = w->x + schedule->step_count * at;
    const double disturbance = put_in(w, step, values);
    if (disturbance == 0)
        return OUSAC_STATUS_OK; /* nothing to move it by: not measured */
    /* The solver's step is linear in the prediction, so moving the prediction moves the state and what is
     * remembered of the step. */
    const ousac_solver_step *solver = &w->shared->solver[step];
    const double *value = schedule->fitted ? schedule->fitted[step].value : NULL;
    const double by = value ? solver->eps * (1 + value[OUSAC_COEFFICIENT_GAIN]) +
                                  (step > 0 ? value[OUSAC_COEFFICIENT_CHANGE] : 0)
                            : solver->eps;
    ousac_solver_memory *memory = &w->state_memory;
    ousac_solver_memory_copy(memory, &w->memory[step + 1], values);
    for (size_t i = 0; i < values; i++) {
        w->state[i] = w->x[(step + 1) * at + i] + (float)(by * (double)offset[i]);
        if (memory->data)
            memory->data[i] += solver->data_eps * (double)offset[i];
        if (memory->before)
            memory->before[i] += (double)offset[i];
    }
    for (size_t k = step + 1; k < schedule->step_count; k++) {
        ousac_status status = check_stop(o, error);
        for (int b = 0; b < OUSAC_BRANCHES && !status; b++)
            if (ousac_mode_evaluates(schedule->steps[k].mode, b))
                status = predict(w, w->plain, k, b, OUSAC_GATE_FULL, count, w->state, w->eps[b], error);
        if (!status)
            status = advance(w, k, count, w->state, memory, error);
        if (status)
            return status;
    }
    for (size_t s = 0; s < count; s++) {
        double difference = 0, norm = 0;
        for (size_t i = s * size; i < (s + 1) * size; i++) {
            const double d = (double)w->state[i] - (double)end[i];
            difference += d * d;
            norm += (double)end[i] * (double)end[i];
        }
        m->moved[step] += norm > 0 ? difference / norm : 0;
    }
    m->disturbance[step] += disturbance;
    return OUSAC_STATUS_OK;
}

static ousac_status measure_batch(worker *w, size_t batch, ousac_error *error) {
    const ousac_probe_options *o = w->shared->options;
    const size_t at = o->micro_batch * w->shared->size, steps = o->schedule->step_count;
    const uint64_t first = o->first + (uint64_t)batch * o->micro_batch;
    const size_t left = o->count - batch * o->micro_batch,
                 count = left < o->micro_batch ? left : o->micro_batch;
    const uint64_t total = 2 * (uint64_t)o->count * steps;
    size_t evaluation[OUSAC_BRANCHES] = {0, 0};
    measured *m = &w->shared->batch[batch];
    ousac_status status = o->model->family->set_inputs(o->model, w->workspace, o->seed, first, count, error);
    ousac_model_draw_noise(o->model, o->seed, first, count, w->x);
    ousac_solver_memory_reset(&w->memory[0]);
    memset(w->offset, 0, steps * at * sizeof *w->offset);
    for (size_t h = 0; h < o->horizon; h++)
        ousac_executor_reset(w->aged[h]);
    for (size_t k = 0; k < steps && !status; k++) {
        status = check_stop(o, error);
        for (int b = 0; b < OUSAC_BRANCHES && !status; b++)
            if (ousac_mode_evaluates(o->schedule->steps[k].mode, b))
                status = measure_ages(w, m, k, b, evaluation[b]++, count, error);
        memcpy(w->x + (k + 1) * at, w->x + k * at, at * sizeof *w->x);
        ousac_solver_memory_copy(&w->memory[k + 1], &w->memory[k], at);
        if (!status)
            status = advance(w, k, count, w->x + (k + 1) * at, &w->memory[k + 1], error);
        tick(w->shared, count, total);
    }
    for (size_t k = 0; k < steps && !status; k++) {
        if (w->shared->probed[k])
            status = measure_influence(w, m, k, count, error);
        tick(w->shared, count, total);
    }
    return status;
}

static void *work(void *pointer) {
    worker *w = pointer;
    shared *sh = w->shared;
    ousac_error error = {0};
    for (;;) {
        pthread_mutex_lock(&sh->lock);
        const size_t batch = sh->failed < sh->batch_count ? sh->batch_count : sh->next++;
        pthread_mutex_unlock(&sh->lock);
        if (batch >= sh->batch_count)
            return NULL;
        const ousac_status status = measure_batch(w, batch, &error);
        pthread_mutex_lock(&sh->lock);
        if (status && batch < sh->failed) {
            sh->failed = batch;
            sh->status = status;
            sh->error = error;
        }
        pthread_mutex_unlock(&sh->lock);
    }
}

/* --- life --- */

static void worker_free(worker *w) {
    const ousac_probe_options *o = w->shared->options;
    const ousac_backend *be = o->model->backend;
    for (size_t h = 0; w->aged && h < o->horizon; h++)
        ousac_executor_free(w->aged[h]);
    ousac_free(w->aged);
    ousac_executor_free(w->plain);
    if (w->workspace)
        o->model->family->workspace_free(o->model, w->workspace);
    be->release(be, w->x_device);
    be->release(be, w->eps_device);
    ousac_free(w->x);
    for (size_t k = 0; w->memory && k <= o->schedule->step_count; k++)
        ousac_solver_memory_free(&w->memory[k]);
    ousac_free(w->memory);
    ousac_free(w->offset);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_free(w->eps[b]);
    ousac_free(w->other);
    ousac_free(w->state);
    ousac_solver_memory_free(&w->state_memory);
}

static ousac_status worker_create(worker *w, shared *sh, ousac_error *error) {
    const ousac_probe_options *o = sh->options;
    const ousac_backend *be = o->model->backend;
    const size_t values = o->micro_batch * sh->size, steps = o->schedule->step_count;
    const ousac_executor_options aged = {.calibration = o->calibration, .batch = o->micro_batch, .keep = 1};
    const ousac_executor_options plain = {.batch = o->micro_batch};
    w->shared = sh;
    w->aged = ousac_calloc(o->horizon, sizeof *w->aged);
    ousac_status status =
        w->aged ? OUSAC_STATUS_OK : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to probe");
    for (size_t h = 0; h < o->horizon && !status; h++)
        status = ousac_executor_create(&w->aged[h], o->model, &aged, error);
    if (!status)
        status = ousac_executor_create(&w->plain, o->model, &plain, error);
    if (!status)
        status = o->model->family->workspace_create(o->model, o->micro_batch, &w->workspace, error);
    if (status)
        return status;
    w->x_device = be->alloc(be, values, sizeof(float));
    w->eps_device = be->alloc(be, values, sizeof(float));
    w->x = ousac_calloc((steps + 1) * values, sizeof *w->x);
    w->memory = ousac_calloc(steps + 1, sizeof *w->memory);
    w->offset = ousac_calloc(steps * values, sizeof *w->offset);
    w->eps[0] = ousac_calloc(values, sizeof(float));
    w->eps[1] = ousac_calloc(values, sizeof(float));
    w->other = ousac_calloc(values, sizeof(float));
    w->state = ousac_calloc(values, sizeof(float));
    if (!w->x_device || !w->eps_device || !w->x || !w->memory || !w->offset || !w->eps[0] || !w->eps[1] ||
        !w->other || !w->state)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to probe %zu samples at once",
                          o->micro_batch);
    for (size_t k = 0; k <= steps && !status; k++)
        status = ousac_solver_memory_create(&w->memory[k], o->schedule, values, error);
    return status ? status : ousac_solver_memory_create(&w->state_memory, o->schedule, values, error);
}

static ousac_status measured_create(measured *m, const ousac_probe *probe, ousac_error *error) {
    int ok = 1;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        const size_t ages = probe->evaluations[b] * probe->horizon;
        ok &= (m->energy[b] = ousac_calloc(ages, sizeof(double))) != NULL;
        ok &= (m->unguided[b] = ousac_calloc(ages, sizeof(double))) != NULL;
    }
    ok &= (m->moved = ousac_calloc(probe->step_count, sizeof(double))) != NULL;
    ok &= (m->disturbance = ousac_calloc(probe->step_count, sizeof(double))) != NULL;
    return ok ? OUSAC_STATUS_OK : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to probe");
}

static void measured_free(measured *m) {
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        ousac_free(m->energy[b]);
        ousac_free(m->unguided[b]);
    }
    ousac_free(m->moved);
    ousac_free(m->disturbance);
}

void ousac_probe_free(ousac_probe *probe) {
    if (!probe)
        return;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        ousac_free(probe->step[b]);
        ousac_free(probe->energy[b]);
        ousac_free(probe->unguided[b]);
    }
    ousac_free(probe->influence);
    ousac_free(probe);
}

/* Sums the batches in order, and fills the steps between the probed ones. */
static ousac_status conclude(const shared *sh, ousac_probe *probe, ousac_error *error) {
    const size_t count = sh->options->count;
    measured sum = {.moved = NULL};
    ousac_status status = measured_create(&sum, probe, error);
    size_t last = SIZE_MAX;
    for (size_t i = 0; i < sh->batch_count && !status; i++) {
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            for (size_t j = 0; j < probe->evaluations[b] * probe->horizon; j++) {
                probe->energy[b][j] += sh->batch[i].energy[b][j] / (double)count;
                probe->unguided[b][j] += sh->batch[i].unguided[b][j] / (double)count;
            }
        for (size_t k = 0; k < probe->step_count; k++) {
            sum.moved[k] += sh->batch[i].moved[k];
            sum.disturbance[k] += sh->batch[i].disturbance[k];
        }
    }
    for (size_t k = 0; k < probe->step_count && !status; k++) {
        if (!(sum.disturbance[k] > 0 && sum.moved[k] > 0))
            continue;
        probe->influence[k] = sum.moved[k] / sum.disturbance[k];
        const size_t from = last == SIZE_MAX ? k : last;
        for (size_t i = last == SIZE_MAX ? 0 : last + 1; i < k; i++) {
            const double t = from == k ? 0 : (double)(i - from) / (double)(k - from);
            probe->influence[i] = exp((1 - t) * log(probe->influence[from]) + t * log(probe->influence[k]));
        }
        last = k;
    }
    for (size_t i = last + 1; last != SIZE_MAX && i < probe->step_count; i++)
        probe->influence[i] = probe->influence[last];
    measured_free(&sum);
    return status;
}

static ousac_status probe_allocate(ousac_probe **out, const ousac_probe_options *o, ousac_error *error) {
    ousac_probe *probe = ousac_calloc(1, sizeof *probe);
    int ok = probe != NULL;
    if (ok) {
        probe->step_count = o->schedule->step_count;
        probe->horizon = o->horizon;
        ok = (probe->influence = ousac_calloc(probe->step_count, sizeof *probe->influence)) != NULL;
    }
    for (int b = 0; b < OUSAC_BRANCHES && ok; b++) {
        ok = (probe->step[b] = ousac_calloc(probe->step_count, sizeof *probe->step[b])) != NULL;
        for (size_t k = 0; k < probe->step_count && ok; k++)
            if (ousac_mode_evaluates(o->schedule->steps[k].mode, b))
                probe->step[b][probe->evaluations[b]++] = k;
        ok = ok &&
             (probe->energy[b] = ousac_calloc(probe->evaluations[b] * o->horizon, sizeof(double))) != NULL &&
             (probe->unguided[b] = ousac_calloc(probe->evaluations[b] * o->horizon, sizeof(double))) != NULL;
    }
    *out = probe;
    return ok ? OUSAC_STATUS_OK : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to probe");
}

ousac_status ousac_probe_create(ousac_probe **out, const ousac_probe_options *o, ousac_error *error) {
    shared sh = {.options = o};
    worker *workers = NULL;
    ousac_probe *probe = NULL;
    size_t threads = 0, created = 0;
    *out = NULL;
    if (o->horizon < 2 || !o->stride || !o->count || !o->micro_batch || !o->threads ||
        o->first % o->micro_batch || (o->calibration && o->calibration->forecast))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "a probe needs samples from a multiple of the micro-batch, a horizon of at least 2, a stride, "
            "threads, and corrections without a forecast");
    ousac_status status = ousac_run_check_schedule(o->model, o->schedule, error);
    if (status)
        return status;
    (void)pthread_mutex_init(&sh.lock, NULL);
    if ((status = probe_allocate(&probe, o, error)) ||
        (status = ousac_run_solver_steps(o->model, o->schedule, &sh.solver, error)))
        goto done;
    sh.probe = probe;
    sh.size = ousac_model_sample_size(o->model);
    sh.layout = ousac_run_layout(o->model);
    sh.batch_count = (o->count - 1) / o->micro_batch + 1;
    sh.failed = sh.batch_count;
    threads = o->threads < sh.batch_count ? o->threads : sh.batch_count;
    sh.batch = ousac_calloc(sh.batch_count, sizeof *sh.batch);
    sh.probed = ousac_calloc(probe->step_count, sizeof *sh.probed);
    workers = ousac_calloc(threads, sizeof *workers);
    if (!sh.batch || !sh.probed || !workers) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to probe on %zu threads", threads);
        goto done;
    }
    choose_probed(probe, o->stride, sh.probed);
    for (size_t i = 0; i < sh.batch_count; i++)
        if ((status = measured_create(&sh.batch[i], probe, error)))
            goto done;
    while (created < threads) {
        status = worker_create(&workers[created++], &sh, error);
        if (status)
            goto done;
    }
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
    if ((status = conclude(&sh, probe, error)))
        goto done;
    *out = probe;
    probe = NULL;
done:
    for (size_t i = 0; i < created; i++)
        worker_free(&workers[i]);
    for (size_t i = 0; sh.batch && i < sh.batch_count; i++)
        measured_free(&sh.batch[i]);
    ousac_free(workers);
    ousac_free(sh.batch);
    ousac_free(sh.probed);
    ousac_free(sh.solver);
    ousac_probe_free(probe);
    (void)pthread_mutex_destroy(&sh.lock);
    return status;
}

void ousac_probe_amplitude(const ousac_probe *probe, const ousac_schedule *schedule, int branch,
                           double *amplitude) {
    for (size_t j = 0; j < probe->evaluations[branch]; j++) {
        const size_t step = probe->step[branch][j];
        const double weight = fabs(branch_weight(&schedule->steps[step], branch, 1));
        const double other = branch_weight(&schedule->steps[step], branch, 0);
        for (size_t a = 0; a < probe->horizon; a++) {
            const size_t at = j * probe->horizon + a;
            const double rest = other * other * probe->influence[step] * probe->unguided[branch][at];
            amplitude[at] =
                hypot(weight * sqrt(probe->influence[step] * probe->energy[branch][at]), sqrt(rest));
        }
    }
}
