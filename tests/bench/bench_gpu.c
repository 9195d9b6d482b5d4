/* One device, stage by stage, as tests/bench/bench_gpu.py asks:
 *
 *     bench_gpu DEVICE f32|bf16 REPEATS INNER
 *
 * A line on standard input is a stage and its arguments, the answer one line of JSON on standard output.
 * Times are medians of REPEATS, each of INNER calls that are waited for together. Exit status 77: no such
 * device.
 */
#include "tests/bench/bench_gpu.h"

#include "calib/backend/backend_plugin.h"
#include "calib/stats/philox.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "profile/bundle/factorise.h"
#include "profile/model/dit.h"
#include "profile/record/recorder.h"
#include "profile/run/runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RANK = 64, WORDS_MAX = 8, LINE_BYTES = 4096, CHECK_STEPS = 4, PERIOD = 3 };
#define TOLERANCE 1e-5 /* of an operation against the CPU's */
#define TOLERANCE_RUN 1e-4
#define TOLERANCE_BF16 0.05 /* of a short trajectory in bfloat16 against the CPU's in float32 */

typedef struct bench {
    bench_device on;
    ousac_model *model;
    char path[1024], config[1024], inputs[1024]; /* inputs: empty for none */
    size_t batch;
    size_t *rank;
    ousac_factor_set set;
    ousac_calibration *calibration;
} bench;

/* --- helpers --- */

void bench_must(ousac_status status, const ousac_error *error) {
    if (status) {
        (void)fprintf(stderr, "bench_gpu: %s\n", error->message);
        exit(status == OUSAC_STATUS_UNSUPPORTED ? 77 : 1);
    }
}

void bench_check(int holds, const char *what) {
    if (!holds) {
        (void)fprintf(stderr, "bench_gpu: %s\n", what);
        exit(1);
    }
}

void *bench_room(size_t count, size_t size) {
    void *block = ousac_malloc(count, size);
    bench_check(block != NULL, "no memory");
    return block;
}

double bench_now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count) {
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

double bench_difference(size_t count, const float *a, const float *b) {
    double sum = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0 ? sqrt(sum / norm) : sqrt(sum);
}

void bench_fill(size_t count, float *x) {
    uint64_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        x[i] = (float)((double)(state >> 40) / 8388608.0 - 1.0);
    }
}

float *bench_place(const ousac_backend *k, const float *host, size_t count) {
    ousac_error error = {0};
    float *block = k->alloc(k, count, sizeof *block);
    bench_check(block != NULL, "no memory on the device");
    bench_must(k->upload(k, block, host, count * sizeof *block, &error), &error);
    return block;
}

void bench_drain(const ousac_backend *k, const float *block) {
    float value;
    ousac_error error = {0};
    bench_must(k->download(k, &value, block, sizeof value, &error), &error);
}

static void expect(const char *what, double error, double tolerance) {
    if (!(error <= tolerance)) {
        (void)fprintf(stderr, "bench_gpu: %s: relative difference %.3g from the CPU, at most %g expected\n",
                      what, error, tolerance);
        exit(1);
    }
}

/* --- operations --- */

/* One operation on x (rows, d), w (d, d) and y (rows, d) of the backend; `heavy` its W in bfloat16 where the
 * backend has that. */
typedef struct operation {
    const char *name;
    ousac_status (*run)(const ousac_backend *, size_t rows, size_t d, float *x, float *w, float *heavy,
                        float *y, ousac_error *error);
    double flops, bytes; /* over rows * d * d, over rows * d: what it takes at least */
    int rounded;         /* in bfloat16 where the device has it */
} operation;

#define OPERATION(name, call)                                                                                \
    static ousac_status name(const ousac_backend *k, size_t rows, size_t d, float *x, float *w,              \
                             float *heavy, float *y, ousac_error *error) {                                   \
        (void)w, (void)heavy;                                                                                \
        return call;                                                                                         \
    }
OPERATION(run_linear, k->linear(k, rows, d, d, x, d, heavy, d, NULL, 0, y, d, error))
OPERATION(run_linear_bias, k->linear(k, rows, d, d, x, d, heavy, d, w, 0, y, d, error))
OPERATION(run_copy, k->copy(k, rows, d, x, d, y, d, error))
OPERATION(run_gelu, k->gelu_tanh(k, rows *d, x, y, error))
OPERATION(run_norm, k->norm_modulate(k, rows, d, x, 1e-6F, w, w + d, rows, 2 * d, y, error))
OPERATION(run_correction,
          k->expand_onto(k, rows, d, d < RANK ? d : RANK, x, d, w, d, 0, x, NULL, d, y, d, error))

static const operation operations[] = {
    {"linear", run_linear, 2, 8, 1},      {"linear with bias", run_linear_bias, 2, 8, 1},
    {"copy", run_copy, 0, 8, 0},          {"gelu_tanh", run_gelu, 0, 8, 0},
    {"norm_modulate", run_norm, 0, 8, 0}, {"correction of rank 64", run_correction, 0, 8, 1},
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

/* W for linears: in bfloat16 where the backend has weights of its own form. */
static float *place_weights(const ousac_backend *k, const float *host, size_t count) {
    ousac_error error = {0};
    if (!k->alloc_weights) {
        float *prepared = bench_place(k, host, count);
        bench_must(k->prepare(k, count, prepared, &error), &error);
        return prepared;
    }
    float *block = k->alloc_weights(k, count);
    bench_check(block != NULL, "no memory on the device");
    bench_must(k->upload(k, block, host, count * sizeof *block, &error), &error);
    return block;
}

static void verify_operations(const bench_device *on, size_t d) {
    const size_t rows = 160;
    float *host = bench_room(rows * d + d * d + 2 * d, sizeof *host), *results[2];
    bench_fill(rows * d + d * d + 2 * d, host);
    for (int which = 0; which < 2; which++)
        results[which] = bench_room(rows * d, sizeof(float));
    for (size_t i = 0; i < OPERATIONS; i++) {
        for (int which = 0; which < 2; which++) {
            const ousac_backend *k = which ? on->device : on->cpu;
            ousac_error error = {0};
            float *x = bench_place(k, host, rows * d), *w = bench_place(k, host, d * d + 2 * d),
                  *heavy = place_weights(k, host, d * d), *y = bench_place(k, host, rows * d);
            bench_must(operations[i].run(k, rows, d, x, w, heavy, y, &error), &error);
            bench_must(k->download(k, results[which], y, rows * d * sizeof *host, &error), &error);
            k->release(k, x), k->release(k, w), k->release(k, heavy), k->release(k, y);
        }
        expect(operations[i].name, bench_difference(rows * d, results[1], results[0]),
               on->device->bf16 && operations[i].rounded ? TOLERANCE_BF16 : TOLERANCE);
    }
    ousac_free(host), ousac_free(results[0]), ousac_free(results[1]);
}

static void time_operations(const bench_device *on, size_t rows, size_t d) {
    const ousac_backend *k = on->device;
    const size_t most = (rows > d ? rows : d) * d + 2 * d;
    ousac_error error = {0};
    double *seconds = bench_room(on->repeats, sizeof *seconds);
    float *host = bench_room(most, sizeof *host);
    verify_operations(on, d);
    bench_fill(most, host);
    float *x = bench_place(k, host, rows * d), *w = bench_place(k, host, d * d + 2 * d),
          *heavy = place_weights(k, host, d * d), *y = bench_place(k, host, rows * d);
    printf("{\"operations\":[");
    for (size_t i = 0; i < OPERATIONS; i++) {
        const operation *op = &operations[i];
        bench_must(op->run(k, rows, d, x, w, heavy, y, &error), &error); /* warms up */
        for (size_t r = 0; r < on->repeats; r++) {
            bench_drain(k, y);
            const double start = bench_now();
            for (size_t again = 0; again < on->inner; again++)
                bench_must(op->run(k, rows, d, x, w, heavy, y, &error), &error);
            bench_drain(k, y);
            seconds[r] = (bench_now() - start) / (double)on->inner;
        }
        const double s = bench_median(seconds, on->repeats), size = (double)rows * (double)d;
        printf("%s{\"name\":\"%s\",\"seconds\":%.9g,\"flops\":%.9g,\"bytes\":%.9g}", i ? "," : "", op->name,
               s, op->flops * size * (double)d, op->bytes * size);
    }
    for (int up = 0; up < 2; up++) {
        for (size_t r = 0; r < on->repeats; r++) {
            const double start = bench_now();
            bench_must(up ? k->upload(k, x, host, rows * d * sizeof *host, &error)
                          : k->download(k, host, x, rows * d * sizeof *host, &error),
                       &error);
            seconds[r] = bench_now() - start;
        }
        printf(",{\"name\":\"%s\",\"seconds\":%.9g,\"flops\":0,\"bytes\":%.9g}", up ? "upload" : "download",
               bench_median(seconds, on->repeats), (double)(rows * d * sizeof *host));
    }
    printf("]}\n");
    k->release(k, x), k->release(k, w), k->release(k, heavy), k->release(k, y);
    ousac_free(host);
    ousac_free(seconds);
}

/* Seconds for each of `batch` eigenproblems, one after another as factors are made, on the device and on one
 * core of the processor. */
static void time_eigen(const bench_device *on, size_t order, size_t batch) {
    const size_t size = order * order;
    double *host = bench_room(size, sizeof *host), *seconds = bench_room(on->repeats, sizeof *seconds);
    double *found[2], times[2];
    float *noise = bench_room(size, sizeof *noise);
    ousac_error error = {0};
    bench_fill(size, noise);
    for (size_t i = 0; i < order; i++)
        for (size_t j = 0; j <= i; j++)
            host[i * order + j] = host[j * order + i] =
                (i == j ? 1.5 + 0.5 * (double)noise[i * order + j] : 0.5 * (double)noise[i * order + j]) /
                sqrt((double)((1 + i) * (1 + j)));
    for (int which = 0; which < 2; which++) {
        const ousac_backend *k = which ? on->device : on->cpu;
        double *a = k->alloc(k, size, sizeof *a), *values = k->alloc(k, order, sizeof *values);
        bench_check(a && values, "no memory on the device");
        found[which] = bench_room(order, sizeof(double));
        for (size_t r = 0; r <= on->repeats; r++) { /* the first of them warms up */
            double took = 0;
            for (size_t i = 0; i < batch; i++) {
                bench_must(k->upload(k, a, host, size * sizeof *a, &error), &error);
                const double start = bench_now();
                bench_must(k->eigen64(k, order, a, order, values, &error), &error);
                bench_must(k->download(k, found[which], values, order * sizeof *values, &error), &error);
                took += bench_now() - start;
            }
            if (r > 0)
                seconds[r - 1] = took / (double)batch;
        }
        times[which] = bench_median(seconds, on->repeats);
        k->release(k, a), k->release(k, values);
    }
    for (size_t i = 0; i < order; i++)
        bench_check(fabs(found[0][i] - found[1][i]) <= 1e-11 * fabs(found[0][0]),
                    "eigenvalues differ from the CPU's");
    printf("{\"processor\":%.9g,\"device\":%.9g}\n", times[0], times[1]);
    ousac_free(found[0]), ousac_free(found[1]);
    ousac_free(host), ousac_free(noise), ousac_free(seconds);
}

/* --- the engine --- */

static void make_schedule(const ousac_model *model, size_t steps, ousac_schedule *schedule) {
    double *scales = bench_room(steps, sizeof *scales);
    ousac_gate *gates = bench_room(steps, sizeof *gates);
    ousac_error error = {0};
    for (size_t i = 0; i < steps; i++) {
        scales[i] = NAN;
        gates[i] = i % PERIOD == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    }
    const ousac_schedule_options options = {.steps = steps,
                                            .train_steps = model->noise.train_steps,
                                            .other_mode = OUSAC_MODE_COND,
                                            .scales = scales,
                                            .gates = gates,
                                            .solver = model->noise.prediction == OUSAC_PREDICTION_FLOW
                                                          ? OUSAC_SOLVER_FLOW_EULER
                                                          : OUSAC_SOLVER_DDIM};
    bench_must(ousac_schedule_build(schedule, &options, &error), &error);
    ousac_free(scales);
    ousac_free(gates);
}

/* Factors of no meaning, of the sizes of a plan of rank 64: orthogonal enough, and small. */
static void make_factors(bench *b) {
    const ousac_arch *arch = &b->model->arch;
    b->rank = bench_room(arch->site_count, sizeof *b->rank);
    b->set = (ousac_factor_set){.method = OUSAC_METHOD_SVD, .site_count = arch->site_count};
    b->set.site = ousac_calloc(arch->site_count, sizeof *b->set.site);
    bench_check(b->set.site != NULL, "no memory");
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t m = arch->sites[s].m, n = arch->sites[s].n,
                     dense = ousac_cost_dense_rank(&arch->sites[s]);
        const size_t rank = RANK < dense ? RANK : dense - 1;
        ousac_factors *f = &b->set.site[s];
        b->rank[s] = rank;
        *f = (ousac_factors){.m = m, .n = n, .rank = rank, .directions = rank, .lambda_count = rank};
        f->lambda = ousac_calloc(rank, sizeof(double));
        f->a = bench_room(rank * m, sizeof(float));
        f->b = bench_room(rank * n, sizeof(float));
        bench_check(f->lambda != NULL, "no memory");
        ousac_philox_normals(1, OUSAC_STREAM_MATRIX, 2 * s, rank * m, f->a);
        ousac_philox_normals(1, OUSAC_STREAM_MATRIX, 2 * s + 1, rank * n, f->b);
        for (size_t i = 0; i < rank * m; i++)
            f->a[i] /= sqrtf((float)m);
        for (size_t i = 0; i < rank * n; i++)
            f->b[i] *= 0.1F / sqrtf((float)(n * (1 + i / n)));
    }
}

static ousac_calibration *calibration_on(const bench *b, const ousac_backend *k) {
    const ousac_ranks ranks = {.rank = b->rank, .dense_fallback = 1};
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    bench_must(ousac_calibration_create(&calibration, k, &b->model->arch, &ranks, ousac_factor_set_source,
                                        (void *)(uintptr_t)&b->set, NULL, &error),
               &error);
    return calibration;
}

static void unload(bench *b) {
    ousac_calibration_free(b->calibration);
    for (size_t s = 0; b->set.site && s < b->set.site_count; s++)
        ousac_factors_free(&b->set.site[s]);
    ousac_free(b->set.site);
    ousac_free(b->rank);
    ousac_model_free(b->model);
    b->calibration = NULL;
    b->set = (ousac_factor_set){0};
    b->rank = NULL;
    b->model = NULL;
}

/* Values and weights of all linears that are sites: what a forward reads and writes at least. */
static void count_values(const ousac_arch *arch, size_t *activations, size_t *weights) {
    *activations = *weights = 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        const ousac_group *group = &arch->groups[site->group];
        const size_t tokens = ousac_arch_site_tokens(arch, s);
        *activations += tokens * (site->m + (group->first_site == s ? site->n : 0));
        *weights += site->m * site->n;
    }
}

static void load(bench *b, const char *path, const char *config, size_t batch, const char *inputs) {
    ousac_error error = {0};
    unload(b);
    (void)snprintf(b->inputs, sizeof b->inputs, "%s", inputs ? inputs : "");
    (void)snprintf(b->path, sizeof b->path, "%s", path);
    (void)snprintf(b->config, sizeof b->config, "%s", config);
    b->batch = batch;
    const ousac_model_options options = {.config_path = b->config,
                                         .inputs_path = *b->inputs ? b->inputs : NULL};
    const double start = bench_now();
    bench_must(ousac_model_load(&b->model, b->path, &options, b->on.device, &error), &error);
    const double seconds = bench_now() - start;
    make_factors(b);
    b->calibration = calibration_on(b, b->on.device);
    const ousac_arch *arch = &b->model->arch;
    const ousac_ranks ranks = {.rank = b->rank, .dense_fallback = 1};
    size_t activations, weights, factors = 0;
    count_values(arch, &activations, &weights);
    for (size_t s = 0; s < arch->site_count; s++)
        factors += b->rank[s] * (arch->sites[s].m + arch->sites[s].n);
    printf("{\"seconds\":%.9g,\"tokens\":%zu,\"width\":%zu,\"blocks\":%zu,\"batch\":%zu,\"channels\":%zu,"
           "\"size\":%zu,\"macs\":%llu,\"macs_cached\":%llu,\"activations\":%zu,\"weights\":%zu,\"factors\":%"
           "zu}\n",
           seconds, arch->stream[0].tokens, arch->width, arch->block_count, batch, b->model->channels,
           b->model->height, (unsigned long long)ousac_cost_full(arch),
           (unsigned long long)ousac_cost_cached(arch, &ranks), activations, weights, factors);
}

static double run_once(const ousac_model *model, const ousac_schedule *schedule, size_t count, size_t batch,
                       int exact, const ousac_calibration *calibration, const ousac_run_observers *observers,
                       float *samples) {
    ousac_error error = {0};
    double seconds = 0;
    const ousac_run run = {.model = model,
                           .schedule = schedule,
                           .count = count,
                           .micro_batch = batch,
                           .threads = 1,
                           .exact = exact,
                           .calibration = calibration,
                           .observers = observers,
                           .samples = samples,
                           .seconds = &seconds};
    bench_must(ousac_run_samples(&run, &error), &error);
    return seconds;
}

/* A short trajectory, full and corrected, against the CPU's in float32. */
static void check_engine(bench *b) {
    const size_t size = ousac_model_sample_size(b->model);
    const ousac_model_options options = {.config_path = b->config,
                                         .inputs_path = *b->inputs ? b->inputs : NULL};
    ousac_model *plain = NULL;
    ousac_schedule schedule = {0};
    ousac_error error = {0};
    float *mine = bench_room(size, sizeof *mine), *theirs = bench_room(size, sizeof *theirs);
    bench_must(ousac_model_load(&plain, b->path, &options, b->on.cpu, &error), &error);
    make_schedule(b->model, CHECK_STEPS, &schedule);
    ousac_calibration *calibration = calibration_on(b, b->on.cpu);
    (void)run_once(b->model, &schedule, 1, 1, 0, b->calibration, NULL, mine);
    (void)run_once(plain, &schedule, 1, 1, 0, calibration, NULL, theirs);
    const double found = bench_difference(size, mine, theirs);
    expect("a sample", found, b->on.device->bf16 ? TOLERANCE_BF16 : TOLERANCE_RUN);
    printf("{\"error\":%.9g}\n", found);
    ousac_calibration_free(calibration);
    ousac_schedule_free(&schedule);
    ousac_model_free(plain);
    ousac_free(mine), ousac_free(theirs);
}

/* The parts of a forward. */
typedef struct engine {
    ousac_executor *executor;
    void *workspace;
    float *x, *eps;
} engine;

static engine engine_open(const bench *b, int keep) {
    const ousac_backend *k = b->on.device;
    const size_t values = b->batch * ousac_model_sample_size(b->model);
    const ousac_executor_options options = {
        .calibration = keep ? b->calibration : NULL, .batch = b->batch, .keep = keep};
    engine e = {0};
    ousac_error error = {0};
    float *host = bench_room(values, sizeof *host);
    ousac_model_draw_noise(b->model, 0, 0, b->batch, host);
    bench_must(ousac_executor_create(&e.executor, b->model, &options, &error), &error);
    bench_must(b->model->family->workspace_create(b->model, b->batch, &e.workspace, &error), &error);
    bench_must(b->model->family->set_inputs(b->model, e.workspace, 0, 0, b->batch, &error), &error);
    e.x = bench_place(k, host, values);
    e.eps = bench_place(k, host, values);
    ousac_free(host);
    return e;
}

static void engine_close(const bench *b, engine *e) {
    const ousac_backend *k = b->on.device;
    ousac_executor_free(e->executor);
    b->model->family->workspace_free(b->model, e->workspace);
    k->release(k, e->x);
    k->release(k, e->eps);
}

static void forward(const bench *b, engine *e, size_t step, ousac_gate gate, double timestep) {
    ousac_gate effective;
    ousac_error error = {0};
    bench_must(
        ousac_executor_begin(e->executor, step, OUSAC_BRANCH_COND, gate, b->batch, NULL, &effective, &error),
        &error);
    bench_check(effective == gate, "another gate than asked for");
    bench_must(ousac_executor_forward(e->executor, e->workspace, e->x,
                                      &(ousac_step){.timestep = timestep, .scale = 1}, e->eps, &error),
               &error);
    ousac_executor_end(e->executor);
}

/* A full evaluation and a corrected one behind it: (2, batch, sample). */
static void run_both(const bench *b, float *out) {
    const size_t values = b->batch * ousac_model_sample_size(b->model);
    engine e = engine_open(b, 1);
    ousac_error error = {0};
    for (size_t i = 0; i < 2; i++) {
        forward(b, &e, i, i ? OUSAC_GATE_CACHED : OUSAC_GATE_FULL, i ? 480 : 500);
        bench_must(
            b->on.device->download(b->on.device, out + i * values, e.eps, values * sizeof *out, &error),
            &error);
    }
    engine_close(b, &e);
}

/* Both against the CPU's in float32: a trajectory of a few blocks of a deep model would only show how they stray. */
static void check_forwards(const bench *b) {
    const size_t values = b->batch * ousac_model_sample_size(b->model);
    const ousac_model_options options = {.config_path = b->config,
                                         .inputs_path = *b->inputs ? b->inputs : NULL};
    bench plain = *b;
    ousac_error error = {0};
    float *mine = bench_room(2 * values, sizeof *mine), *theirs = bench_room(2 * values, sizeof *theirs);
    plain.on.device = b->on.cpu;
    bench_must(ousac_model_load(&plain.model, b->path, &options, b->on.cpu, &error), &error);
    plain.calibration = calibration_on(b, b->on.cpu);
    run_both(b, mine);
    run_both(&plain, theirs);
    const double full = bench_difference(values, mine, theirs),
                 cached = bench_difference(values, mine + values, theirs + values);
    const double tolerance = b->on.device->bf16 ? TOLERANCE_BF16 : TOLERANCE_RUN;
    expect("a full evaluation", full, tolerance);
    expect("a corrected evaluation", cached, tolerance);
    printf("{\"full\":%.9g,\"cached\":%.9g}\n", full, cached);
    ousac_calibration_free(plain.calibration);
    ousac_model_free(plain.model);
    ousac_free(mine), ousac_free(theirs);
}

static void time_forward(const bench *b, int cached) {
    engine e = engine_open(b, cached);
    double *seconds = bench_room(b->on.repeats, sizeof *seconds);
    const ousac_gate gate = cached ? OUSAC_GATE_CACHED : OUSAC_GATE_FULL;
    size_t step = 0;
    if (cached)
        forward(b, &e, step++, OUSAC_GATE_FULL, 500);
    for (int i = 0; i < 3; i++) /* warms up; the second one captures what runs from then on */
        forward(b, &e, step++, gate, 500);
    for (size_t r = 0; r < b->on.repeats; r++) {
        bench_drain(b->on.device, e.eps);
        const double start = bench_now();
        for (size_t i = 0; i < b->on.inner; i++)
            forward(b, &e, step++, gate, 500);
        bench_drain(b->on.device, e.eps);
        seconds[r] = (bench_now() - start) / (double)b->on.inner;
    }
    printf("{\"seconds\":%.9g}\n", bench_median(seconds, b->on.repeats));
    ousac_free(seconds);
    engine_close(b, &e);
}

/* One forward's inputs and output, raw, for another program: DIRECTORY/x.f32, labels.i32, eps.f32. */
static void write_forward(const bench *b, const char *directory) {
    const size_t values = b->batch * ousac_model_sample_size(b->model);
    float *host = bench_room(values, sizeof *host);
    int32_t *labels = bench_room(b->batch, sizeof *labels);
    char path[1200], text[256];
    ousac_error error = {0};
    engine e = engine_open(b, 0);
    forward(b, &e, 0, OUSAC_GATE_FULL, 500);
    ousac_model_draw_noise(b->model, 0, 0, b->batch, host);
    (void)snprintf(path, sizeof path, "%s/x.f32", directory);
    bench_must(ousac_file_replace(path, host, values * sizeof *host, &error), &error);
    for (size_t i = 0; i < b->batch; i++) {
        b->model->family->describe_input(b->model, 0, i, text, sizeof text);
        labels[i] = (int32_t)strtol(text + strlen("class "), NULL, 10);
    }
    (void)snprintf(path, sizeof path, "%s/labels.i32", directory);
    bench_must(ousac_file_replace(path, labels, b->batch * sizeof *labels, &error), &error);
    bench_must(b->on.device->download(b->on.device, host, e.eps, values * sizeof *host, &error), &error);
    (void)snprintf(path, sizeof path, "%s/eps.f32", directory);
    bench_must(ousac_file_replace(path, host, values * sizeof *host, &error), &error);
    printf("{\"timestep\":500}\n");
    engine_close(b, &e);
    ousac_free(host), ousac_free(labels);
}

/* An exact run of `steps` steps, plain or recorded with the program's defaults. */
static void time_run(const bench *b, size_t samples, size_t steps, int recorded) {
    ousac_profile *profile = NULL;
    ousac_recorder *recorder = NULL;
    ousac_schedule schedule = {0};
    ousac_error error = {0};
    ousac_profile_identity identity = {.micro_batch = b->batch, .segments = 1};
    identity.tokens_used = b->model->arch.stream[0].tokens < 64 ? b->model->arch.stream[0].tokens : 64;
    memcpy(identity.model_digest, b->model->digest, sizeof identity.model_digest);
    make_schedule(b->model, steps, &schedule);
    if (recorded) {
        bench_must(ousac_profile_create(&profile, &b->model->arch, &schedule, &identity, NULL, 1, &error),
                   &error);
        bench_must(ousac_recorder_create(&recorder, profile, b->on.device, 1, b->batch, &error), &error);
        ousac_recorder_sum_on_device(recorder);
    }
    const double seconds = run_once(b->model, &schedule, samples, b->batch, 1, NULL,
                                    recorder ? ousac_recorder_observers(recorder) : NULL, NULL);
    if (recorded)
        bench_check(ousac_profile_samples(profile) == samples, "samples are missing from the profile");
    printf("{\"seconds\":%.9g,\"samples\":%zu,\"steps\":%zu}\n", seconds, samples, steps);
    ousac_recorder_free(recorder);
    ousac_profile_free(profile);
    ousac_schedule_free(&schedule);
}

/* --- the program --- */

static size_t number(const char *text) {
    char *end;
    const unsigned long value = strtoul(text, &end, 10);
    bench_check(*text && *end == '\0' && value > 0 && value < 1U << 30, "expected a number above 0");
    return value;
}

static void answer(bench *b, char **word, size_t words) {
    const char *stage = word[0];
    if (strcmp(stage, "operations") == 0 && words == 3)
        time_operations(&b->on, number(word[1]), number(word[2]));
    else if (strcmp(stage, "attention") == 0 && words == 5)
        bench_attention(&b->on, number(word[1]), number(word[2]), number(word[3]), number(word[4]));
    else if (strcmp(stage, "eigen") == 0 && words == 3)
        time_eigen(&b->on, number(word[1]), number(word[2]));
    else if (strcmp(stage, "factors") == 0 && words == 5)
        bench_factors(&b->on, number(word[1]), number(word[2]), number(word[3]), number(word[4]));
    else if (strcmp(stage, "energy") == 0 && (words == 6 || words == 7))
        bench_energy(&b->on, number(word[1]), number(word[2]), number(word[3]), word[4], word[5], words == 7);
    else if (strcmp(stage, "load") == 0 && (words == 4 || words == 5))
        load(b, word[1], word[2], number(word[3]), words == 5 ? word[4] : NULL);
    else if (b->model && strcmp(stage, "check") == 0 && words == 1)
        check_engine(b);
    else if (b->model && strcmp(stage, "forwards") == 0 && words == 1)
        check_forwards(b);
    else if (b->model && strcmp(stage, "write") == 0 && words == 2)
        write_forward(b, word[1]);
    else if (b->model && strcmp(stage, "full") == 0 && words == 1)
        time_forward(b, 0);
    else if (b->model && strcmp(stage, "cached") == 0 && words == 1)
        time_forward(b, 1);
    else if (b->model && (strcmp(stage, "plain") == 0 || strcmp(stage, "recorded") == 0) && words == 3)
        time_run(b, number(word[1]), number(word[2]), *stage == 'r');
    else
        bench_check(0, "unknown stage, or no model loaded");
    (void)fflush(stdout);
}

int main(int argc, char **argv) {
    ousac_error error = {0};
    ousac_device *device = NULL;
    char line[LINE_BYTES];
    if (argc != 5) {
        (void)fprintf(stderr, "usage: bench_gpu DEVICE f32|bf16 REPEATS INNER\n");
        return 2;
    }
    bench_must(ousac_device_open(&device, argv[1], strcmp(argv[2], "bf16") == 0, &error), &error);
    bench b = {.on = {.device = ousac_device_backend(device),
                      .cpu = ousac_backend_cpu(),
                      .repeats = number(argv[3]),
                      .inner = number(argv[4])}};
    printf("{\"device\":\"%s\",\"detail\":\"%s\"}\n", b.on.device->name, b.on.device->detail);
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        char *word[WORDS_MAX], *rest = NULL;
        size_t words = 0;
        for (char *at = strtok_r(line, " \n", &rest); at && words < WORDS_MAX;
             at = strtok_r(NULL, " \n", &rest))
            word[words++] = at;
        if (words)
            answer(&b, word, words);
    }
    unload(&b);
    ousac_device_close(device);
    return 0;
}
