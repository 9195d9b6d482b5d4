#include "profile/run/walk.h"

#include "formats/memory.h"

#include <pthread.h>
#include <string.h>

/* A micro-batch, always the same samples. */
typedef struct batch {
    ousac_executor *executor;
    void *workspace; /* a fork's is its walk's */
    float *x, *eps;  /* backend: (count, sample) */
    size_t first, count;
} batch;

struct ousac_walk {
    ousac_walk_options options;
    const ousac_walk *parent; /* of a fork */
    size_t size, batch_count, step;
    batch *batch;
    ousac_solver_step *solver;
    ousac_solver_memory memory;
    float *state, *predicted[OUSAC_BRANCHES]; /* (count, sample) */
    uint64_t evaluations;
    pthread_mutex_t lock;
    /* under the lock, of the evaluation under way: */
    size_t next;
    ousac_status status;
    ousac_error error;
};

/* --- life --- */

static void batch_free(const ousac_walk *walk, batch *b) {
    const ousac_model *model = walk->options.model;
    ousac_executor_free(b->executor);
    if (b->workspace && !walk->parent)
        model->family->workspace_free(model, b->workspace);
    model->backend->release(model->backend, b->x);
    model->backend->release(model->backend, b->eps);
}

void ousac_walk_free(ousac_walk *walk) {
    if (!walk)
        return;
    for (size_t i = 0; walk->batch && i < walk->batch_count; i++)
        batch_free(walk, &walk->batch[i]);
    ousac_free(walk->batch);
    ousac_free(walk->solver);
    ousac_solver_memory_free(&walk->memory);
    ousac_free(walk->state);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_free(walk->predicted[b]);
    (void)pthread_mutex_destroy(&walk->lock);
    ousac_free(walk);
}

static int keeps_caches(const ousac_walk_options *o) {
    for (size_t i = 0; i < o->schedule->step_count && !o->exact; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (o->schedule->steps[i].gate[b] != OUSAC_GATE_FULL)
                return 1;
    return 0;
}

static ousac_status batch_create(const ousac_walk *walk, size_t index, ousac_error *error) {
    const ousac_walk_options *o = &walk->options;
    const ousac_backend *be = o->model->backend;
    const ousac_executor_options options = {.calibration = o->calibration,
                                            .batch = o->micro_batch,
                                            .keep = keeps_caches(o),
                                            .extrapolate =
                                                ousac_schedule_has_gate(o->schedule, OUSAC_GATE_EXTRAPOLATE)};
    batch *b = &walk->batch[index];
    b->first = index * o->micro_batch;
    b->count = o->count - b->first < o->micro_batch ? (size_t)o->count - b->first : o->micro_batch;
    ousac_status status = ousac_executor_create(&b->executor, o->model, &options, error);
    if (!status && walk->parent)
        b->workspace = walk->parent->batch[index].workspace;
    else if (!status)
        status = o->model->family->workspace_create(o->model, o->micro_batch, &b->workspace, error);
    if (!status && !walk->parent)
        status = o->model->family->set_inputs(o->model, b->workspace, o->seed, o->first + b->first, b->count,
                                              error);
    if (status)
        return status;
    b->x = be->alloc(be, b->count * walk->size, sizeof(float));
    b->eps = be->alloc(be, b->count * walk->size, sizeof(float));
    return b->x && b->eps
               ? OUSAC_STATUS_OK
               : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a batch of %zu samples", b->count);
}

/* Room for all that any coefficients would remember: those to come are not known. */
static ousac_status create_memory(ousac_walk *walk, size_t values, ousac_error *error) {
    ousac_fitted all;
    for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
        all.value[k] = 1;
    const ousac_schedule any = {.solver = walk->options.schedule->solver, .step_count = 1, .fitted = &all};
    return ousac_solver_memory_create(&walk->memory, &any, values, error);
}

static ousac_status create(ousac_walk **out, const ousac_walk_options *options, const ousac_walk *parent,
                           ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_walk *walk = ousac_calloc(1, sizeof *walk);
    *out = NULL;
    if (!walk)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a walk");
    walk->options = *options;
    walk->parent = parent;
    walk->size = ousac_model_sample_size(options->model);
    walk->batch_count = (size_t)((options->count - 1) / options->micro_batch + 1);
    (void)pthread_mutex_init(&walk->lock, NULL);
    const size_t values = (size_t)options->count * walk->size;
    walk->batch = ousac_calloc(walk->batch_count, sizeof *walk->batch);
    walk->state = ousac_malloc(values, sizeof *walk->state);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        walk->predicted[b] = ousac_calloc(values, sizeof *walk->predicted[b]);
    if (!walk->batch || !walk->state || !walk->predicted[0] || !walk->predicted[1]) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a walk of %zu values", values);
        goto done;
    }
    status = ousac_run_solver_steps(options->model, options->schedule, &walk->solver, error);
    if (!status)
        status = create_memory(walk, values, error);
    for (size_t i = 0; i < walk->batch_count && !status; i++)
        status = batch_create(walk, i, error);
    if (status)
        goto done;
    ousac_walk_reset(walk);
    *out = walk;
    walk = NULL;
done:
    ousac_walk_free(walk);
    return status;
}

ousac_status ousac_walk_create(ousac_walk **walk, const ousac_walk_options *options, ousac_error *error) {
    *walk = NULL;
    if (!options->micro_batch || !options->threads || !options->count ||
        options->first % options->micro_batch || options->count > SIZE_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "a walk needs samples from a multiple of the micro-batch, and threads");
    const ousac_status status = ousac_run_check_schedule(options->model, options->schedule, error);
    return status ? status : create(walk, options, NULL, error);
}

ousac_status ousac_walk_fork(ousac_walk **fork, ousac_walk *walk, ousac_error *error) {
    return create(fork, &walk->options, walk, error);
}

/* --- where it stands --- */

void ousac_walk_reset(ousac_walk *walk) {
    const ousac_walk_options *o = &walk->options;
    walk->step = 0;
    ousac_model_draw_noise(o->model, o->seed, o->first, (size_t)o->count, walk->state);
    ousac_solver_memory_reset(&walk->memory);
    for (size_t i = 0; i < walk->batch_count; i++)
        ousac_executor_reset(walk->batch[i].executor);
}

ousac_status ousac_walk_copy(ousac_walk *fork, const ousac_walk *walk, ousac_error *error) {
    const size_t values = (size_t)walk->options.count * walk->size;
    ousac_status status = OUSAC_STATUS_OK;
    fork->step = walk->step;
    memcpy(fork->state, walk->state, values * sizeof *walk->state);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        memcpy(fork->predicted[b], walk->predicted[b], values * sizeof *walk->predicted[b]);
    ousac_solver_memory_copy(&fork->memory, &walk->memory, values);
    /* Past the last evaluation no cache is read any more. */
    for (size_t i = 0;
         i < walk->batch_count && walk->step + 1 < walk->options.schedule->step_count && !status; i++)
        status = ousac_executor_copy(fork->batch[i].executor, walk->batch[i].executor, walk->batch[i].count,
                                     error);
    return status;
}

/* --- steps --- */

static ousac_status evaluate_batch(ousac_walk *walk, const batch *b, ousac_error *error) {
    const ousac_walk_options *o = &walk->options;
    const ousac_backend *be = o->model->backend;
    const ousac_step *step = &o->schedule->steps[walk->step];
    const size_t bytes = b->count * walk->size * sizeof(float);
    ousac_status status = be->upload(be, b->x, walk->state + b->first * walk->size, bytes, error);
    for (int branch = OUSAC_BRANCHES - 1; branch >= 0 && !status; branch--) {
        ousac_gate effective;
        if (!ousac_mode_evaluates(step->mode, branch))
            continue;
        status = ousac_executor_begin(b->executor, walk->step, branch,
                                      o->exact ? OUSAC_GATE_FULL : step->gate[branch], b->count, NULL,
                                      &effective, error);
        if (status)
            return status;
        status = ousac_executor_forward(b->executor, b->workspace, b->x, step, b->eps, error);
        ousac_executor_end(b->executor);
        if (!status)
            status = be->download(be, walk->predicted[branch] + b->first * walk->size, b->eps, bytes, error);
    }
    return status;
}

static void *work(void *pointer) {
    ousac_walk *walk = pointer;
    for (;;) {
        ousac_error error = {0};
        pthread_mutex_lock(&walk->lock);
        const size_t index = walk->status ? walk->batch_count : walk->next;
        walk->next += index < walk->batch_count;
        pthread_mutex_unlock(&walk->lock);
        if (index >= walk->batch_count)
            return NULL;
        const ousac_status status = evaluate_batch(walk, &walk->batch[index], &error);
        if (!status)
            continue;
        pthread_mutex_lock(&walk->lock);
        walk->status = status;
        walk->error = error;
        pthread_mutex_unlock(&walk->lock);
    }
}

ousac_status ousac_walk_evaluate(ousac_walk *walk, ousac_error *error) {
    enum { HELPERS_MAX = 255 };
    const ousac_walk_options *o = &walk->options;
    const ousac_step *step = &o->schedule->steps[walk->step];
    pthread_t helper[HELPERS_MAX];
    size_t wanted = o->threads < walk->batch_count ? o->threads : walk->batch_count, started = 0;
    if (ousac_stop_asked(o->stop))
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted at step %zu", walk->step);
    walk->next = 0;
    walk->status = OUSAC_STATUS_OK;
    while (started + 1 < wanted && started < HELPERS_MAX &&
           pthread_create(&helper[started], NULL, work, walk) == 0)
        started++;
    (void)work(walk);
    for (size_t i = 0; i < started; i++)
        (void)pthread_join(helper[i], NULL);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        walk->evaluations += ousac_mode_evaluates(step->mode, b) ? o->count : 0;
    if (walk->status && error)
        *error = walk->error;
    return walk->status;
}

ousac_status ousac_walk_advance(ousac_walk *walk, const ousac_step *step, const ousac_fitted *fitted,
                                ousac_error *error) {
    const ousac_solver_layout layout = ousac_run_layout(walk->options.model);
    if (ousac_solver_advance(&walk->solver[walk->step], step, fitted, &layout,
                             (size_t)walk->options.count * walk->size, walk->predicted[OUSAC_BRANCH_COND],
                             walk->predicted[OUSAC_BRANCH_UNCOND], walk->state, &walk->memory))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "schedule %s, step %zu: the state is not finite",
                          walk->options.schedule->name, walk->step);
    walk->step++;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_walk_finish(ousac_walk *walk, const ousac_schedule *schedule, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    while (walk->step < walk->options.schedule->step_count && !status) {
        const size_t i = walk->step;
        status = ousac_walk_evaluate(walk, error);
        if (!status)
            status = ousac_walk_advance(walk, &schedule->steps[i],
                                        schedule->fitted ? &schedule->fitted[i] : NULL, error);
    }
    return status;
}

/* --- looking on --- */

size_t ousac_walk_step(const ousac_walk *walk) {
    return walk->step;
}

const float *ousac_walk_state(const ousac_walk *walk) {
    return walk->state;
}

const float *ousac_walk_predicted(const ousac_walk *walk, int branch) {
    return walk->predicted[branch];
}

const ousac_solver_memory *ousac_walk_memory(const ousac_walk *walk) {
    return &walk->memory;
}

const ousac_solver_step *ousac_walk_solver(const ousac_walk *walk) {
    return walk->solver;
}

uint64_t ousac_walk_evaluations(const ousac_walk *walk) {
    return walk->evaluations;
}
