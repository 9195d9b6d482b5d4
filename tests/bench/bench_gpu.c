/* One device from its operations to the pipeline: rates of copies and products, a forward of a random DiT,
 * what recording adds, a corrected forward, and the factors of its sites; all in one run, medians of several
 * repetitions.
 *
 *     bench_gpu DIRECTORY [DEVICE [WIDTH HEADS BLOCKS BATCH]]
 *
 * The default is DiT-XL/2's width at 256 tokens on "cuda", two blocks deep. Every operation and the engine
 * are compared with the CPU backend before anything is timed. Shares are of the rates measured in the same
 * run: a forward's multiply-accumulates against the device's own float32 product, its memory against its own
 * copy.
 */
#include "calib/backend_plugin.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "profile/factorise.h"
#include "profile/recorder.h"
#include "profile/runner.h"
#include "tests/support/random_dit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REPEATS = 7, STEPS = 8, PATH_BYTES = 1024, INPUT = 32, PATCH = 2, CHANNELS = 4, RANK = 64 };
#define TOLERANCE 1e-5 /* of an operation against the CPU's, ||difference|| / ||result|| */
#define TOLERANCE_RUN 1e-4

typedef struct bench {
    const ousac_backend *device, *cpu;
    size_t width, heads, blocks, batch, tokens;
    double gemm_flops; /* a second, as measured */
} bench;

static void stop_on(ousac_status status, const ousac_error *error) {
    if (status) {
        (void)fprintf(stderr, "bench_gpu: %s\n", error->message);
        exit(status == OUSAC_STATUS_UNSUPPORTED ? 77 : 1);
    }
}

static void *need(void *block) {
    if (!block) {
        (void)fprintf(stderr, "bench_gpu: no memory\n");
        exit(1);
    }
    return block;
}

static double now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values) {
    qsort(values, REPEATS, sizeof *values, by_value);
    return values[REPEATS / 2];
}

/* --- operations --- */

/* One operation and its arguments; x, w, y of the backend it runs on. */
typedef struct operation {
    const char *name;
    ousac_status (*run)(const ousac_backend *, size_t rows, size_t d, float *x, float *w, float *y,
                        ousac_error *error);
    double flops, bytes; /* over rows * d * d, over rows * d: what it takes at least */
} operation;

static ousac_status run_linear(const ousac_backend *k, size_t rows, size_t d, float *x, float *w, float *y,
                               ousac_error *error) {
    return k->linear(k, rows, d, d, x, d, w, d, NULL, 0, y, d, error);
}
static ousac_status run_linear_bias(const ousac_backend *k, size_t rows, size_t d, float *x, float *w,
                                    float *y, ousac_error *error) {
    return k->linear(k, rows, d, d, x, d, w, d, w, 0, y, d, error);
}
static ousac_status run_copy(const ousac_backend *k, size_t rows, size_t d, float *x, float *w, float *y,
                             ousac_error *error) {
    (void)w;
    return k->copy(k, rows, d, x, d, y, d, error);
}
static ousac_status run_gelu(const ousac_backend *k, size_t rows, size_t d, float *x, float *w, float *y,
                             ousac_error *error) {
    (void)w;
    return k->gelu_tanh(k, rows * d, x, y, error);
}
static ousac_status run_norm(const ousac_backend *k, size_t rows, size_t d, float *x, float *w, float *y,
                             ousac_error *error) {
    return k->norm_modulate(k, rows, d, x, 1e-6F, w, w + d, rows, 2 * d, y, error);
}
/* The second half of a cached linear, onto x. */
static ousac_status run_correction(const ousac_backend *k, size_t rows, size_t d, float *x, float *w,
                                   float *y, ousac_error *error) {
    return k->expand_onto(k, rows, d, d < RANK ? d : RANK, x, d, w, d, 0, x, NULL, d, y, d, error);
}

static const operation operations[] = {
    {"linear, float32", run_linear, 2, 8},
    {"linear with bias", run_linear_bias, 2, 8},
    {"copy", run_copy, 0, 8},
    {"gelu_tanh", run_gelu, 0, 8},
    {"norm_modulate", run_norm, 0, 8},
    {"correction of rank 64", run_correction, 0, 8},
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

static void fill(size_t count, float *x) {
    uint64_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        x[i] = (float)((double)(state >> 40) / 8388608.0 - 1.0);
    }
}

static float *place(const ousac_backend *k, const float *host, size_t count) {
    ousac_error error = {0};
    float *block = need(k->alloc(k, count, sizeof *block));
    stop_on(k->upload(k, block, host, count * sizeof *block, &error), &error);
    return block;
}

static double difference(size_t count, const float *a, const float *b) {
    double sum = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0 ? sqrt(sum / norm) : sqrt(sum);
}

static void expect_equal(const char *what, double error, double tolerance) {
    if (!(error <= tolerance)) {
        (void)fprintf(stderr, "bench_gpu: %s: relative difference %.3g from the CPU, at most %g expected\n",
                      what, error, tolerance);
        exit(1);
    }
}

/* Waits for what is queued: a download does. */
static void drain(const ousac_backend *k, const float *block) {
    float value;
    ousac_error error = {0};
    stop_on(k->download(k, &value, block, sizeof value, &error), &error);
}

static void verify_operations(const bench *b) {
    const size_t rows = 160, d = b->width, most = rows > d ? rows : d;
    float *host = need(ousac_malloc(most * d + 2 * d, sizeof *host));
    float *results[2] = {need(ousac_malloc(rows * d, sizeof(float))),
                         need(ousac_malloc(rows * d, sizeof(float)))};
    fill(most * d + 2 * d, host);
    for (size_t i = 0; i < OPERATIONS; i++) {
        for (int which = 0; which < 2; which++) {
            const ousac_backend *k = which ? b->device : b->cpu;
            ousac_error error = {0};
            float *x = place(k, host, rows * d), *w = place(k, host, most * d + 2 * d),
                  *y = place(k, host, rows * d);
            stop_on(operations[i].run(k, rows, d, x, w, y, &error), &error);
            stop_on(k->download(k, results[which], y, rows * d * sizeof *host, &error), &error);
            k->release(k, x), k->release(k, w), k->release(k, y);
        }
        expect_equal(operations[i].name, difference(rows * d, results[1], results[0]), TOLERANCE);
    }
    ousac_free(host), ousac_free(results[0]), ousac_free(results[1]);
}

static void time_operations(bench *b) {
    const size_t d = b->width, rows = b->batch * b->tokens, most = rows > d ? rows : d;
    const ousac_backend *k = b->device;
    ousac_error error = {0};
    float *host = need(ousac_malloc(most * d + 2 * d, sizeof *host));
    fill(most * d + 2 * d, host);
    float *x = place(k, host, rows * d), *w = place(k, host, most * d + 2 * d), *y = place(k, host, rows * d);
    printf("\n%zu rows of %zu              ms    GFLOP/s       GB/s\n", rows, d);
    for (size_t i = 0; i < OPERATIONS; i++) {
        const operation *op = &operations[i];
        double seconds[REPEATS];
        stop_on(op->run(k, rows, d, x, w, y, &error), &error); /* warms up */
        for (size_t r = 0; r < REPEATS; r++) {
            drain(k, y);
            const double start = now();
            for (int again = 0; again < 10; again++)
                stop_on(op->run(k, rows, d, x, w, y, &error), &error);
            drain(k, y);
            seconds[r] = (now() - start) / 10;
        }
        const double s = median(seconds), flops = op->flops * (double)rows * (double)d * (double)d / s;
        const double bytes = op->bytes * (double)rows * (double)d / s;
        printf("%-26s %8.3f %10.0f %10.1f\n", op->name, 1e3 * s, 1e-9 * flops, 1e-9 * bytes);
        if (i == 0)
            b->gemm_flops = flops;
    }
    double up[REPEATS], down[REPEATS];
    for (size_t r = 0; r < REPEATS; r++) {
        double start = now();
        stop_on(k->upload(k, x, host, rows * d * sizeof *host, &error), &error);
        up[r] = now() - start;
        start = now();
        stop_on(k->download(k, host, x, rows * d * sizeof *host, &error), &error);
        down[r] = now() - start;
    }
    const double bytes = (double)(rows * d * sizeof *host);
    printf("%-26s %8.3f %10s %10.1f\n", "upload", 1e3 * median(up), "", 1e-9 * bytes / median(up));
    printf("%-26s %8.3f %10s %10.1f\n", "download", 1e3 * median(down), "", 1e-9 * bytes / median(down));
    k->release(k, x), k->release(k, w), k->release(k, y);
    ousac_free(host);
}

/* --- the engine --- */

static void make_schedule(ousac_schedule *schedule) {
    *schedule = (ousac_schedule){.solver = OUSAC_SOLVER_DDIM, .step_count = STEPS};
    (void)snprintf(schedule->name, sizeof schedule->name, "bench");
    schedule->steps = need(ousac_calloc(STEPS, sizeof *schedule->steps));
    for (size_t i = 0; i < STEPS; i++) {
        ousac_step *step = &schedule->steps[i];
        step->timestep = (double)(STEPS - 1 - i) * 100;
        step->mode = OUSAC_MODE_COND;
        step->scale = 1;
        step->gate[0] = step->gate[1] = i == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    }
}

/* Wall time of one run of `count` samples on one thread, all in one micro-batch. */
static double run_once(const ousac_model *model, const ousac_schedule *schedule, size_t count, int exact,
                       const ousac_calibration *calibration, const ousac_run_observers *observers,
                       uint64_t first, float *samples, ousac_counters *counters) {
    ousac_error error = {0};
    double seconds = 0;
    const ousac_run run = {.model = model,
                           .schedule = schedule,
                           .first = first,
                           .count = count,
                           .micro_batch = count,
                           .threads = 1,
                           .exact = exact,
                           .calibration = calibration,
                           .observers = observers,
                           .samples = samples,
                           .counters = counters,
                           .seconds = &seconds};
    stop_on(ousac_run_samples(&run, &error), &error);
    return seconds;
}

static void verify_engine(const ousac_model *device, const ousac_model *cpu, const ousac_schedule *schedule) {
    const size_t size = ousac_model_sample_size(cpu);
    float *a = need(ousac_malloc(size, sizeof *a)), *b = need(ousac_malloc(size, sizeof *b));
    (void)run_once(cpu, schedule, 1, 1, NULL, NULL, 0, a, NULL);
    (void)run_once(device, schedule, 1, 1, NULL, NULL, 0, b, NULL);
    expect_equal("a sample", difference(size, b, a), TOLERANCE_RUN);
    ousac_free(a), ousac_free(b);
}

static void time_engine(const bench *b, const ousac_model *model, const ousac_schedule *schedule) {
    ousac_error error = {0};
    ousac_profile *profile = NULL;
    ousac_recorder *recorder = NULL;
    ousac_factor_set *set = NULL;
    ousac_calibration *calibration = NULL;
    ousac_counters counters;
    double plain[REPEATS], recorded[REPEATS], corrected[REPEATS], factors[REPEATS];
    const size_t site_count = model->arch.site_count;
    ousac_profile_identity identity = {
        .micro_batch = b->batch, .tokens_used = b->tokens < 64 ? b->tokens : 64, .segments = 1};
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    stop_on(ousac_profile_create(&profile, &model->arch, schedule, &identity, NULL, 1, &error), &error);
    stop_on(ousac_recorder_create(&recorder, profile, model->backend, 1, b->batch, &error), &error);
    (void)run_once(model, schedule, b->batch, 1, NULL, NULL, 0, NULL, &counters); /* warms up */
    for (size_t r = 0; r < REPEATS; r++) { /* every recorded range of its own: none may be recorded twice */
        plain[r] = run_once(model, schedule, b->batch, 1, NULL, NULL, 0, NULL, &counters);
        recorded[r] = run_once(model, schedule, b->batch, 1, NULL, ousac_recorder_observers(recorder),
                               r * b->batch, NULL, NULL);
    }
    size_t *rank = need(ousac_calloc(site_count, sizeof *rank));
    for (size_t s = 0; s < site_count; s++)
        rank[s] = RANK < ousac_cost_dense_rank(&model->arch.sites[s])
                      ? RANK
                      : ousac_cost_dense_rank(&model->arch.sites[s]) - 1;
    const ousac_factorise_options options = {.rank_max = rank, .threads = 1};
    for (size_t r = 0; r < REPEATS; r++) {
        const double start = now();
        ousac_factor_set_free(set);
        stop_on(ousac_factor_set_create(&set, model, profile, &options, &error), &error);
        factors[r] = now() - start;
    }
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    ousac_factor_set_clip(set, &model->arch, rank);
    stop_on(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                     ousac_factor_set_source, set, NULL, &error),
            &error);
    for (size_t r = 0; r < REPEATS; r++)
        corrected[r] = run_once(model, schedule, b->batch, 0, calibration, NULL, 0, NULL, NULL);

    const double full = median(plain) / STEPS;
    const double cached = (median(corrected) - full) / (STEPS - 1);
    const double flops = 2 * (double)counters.macs / STEPS / full;
    printf("\n%zu blocks, %zu samples at once      ms\n", b->blocks, b->batch);
    printf("%-32s %8.3f   %.1f %% of the product's rate (%.0f GFLOP/s)\n", "full forward", 1e3 * full,
           100 * flops / b->gemm_flops, 1e-9 * flops);
    printf("%-32s %8.3f   %.1f %% of a full one\n", "corrected forward, rank 64", 1e3 * cached,
           100 * cached / full);
    printf("%-32s %8.3f   recording adds %.1f %%\n", "recorded forward", 1e3 * median(recorded) / STEPS,
           100 * (median(recorded) / median(plain) - 1));
    printf("%-32s %8.1f   %zu sites on one thread\n", "factors", 1e3 * median(factors), site_count);
    ousac_calibration_free(calibration);
    ousac_factor_set_free(set);
    ousac_recorder_free(recorder);
    ousac_profile_free(profile);
    ousac_free(rank);
}

static void bench_engine(const bench *b, const char *directory) {
    char path[PATH_BYTES];
    ousac_error error = {0};
    ousac_model *device = NULL, *cpu = NULL;
    ousac_schedule schedule;
    random_dit_options options = random_dit_defaults();
    options.depth = b->blocks;
    options.width = b->width;
    options.heads = b->heads;
    options.hidden = 4 * b->width;
    options.patch = PATCH;
    options.channels = CHANNELS;
    options.input_size = INPUT;
    stop_on(random_dit_write(directory, &options, &error), &error);
    (void)snprintf(path, sizeof path, "%s/%s", directory, random_dit_file(RANDOM_DIT_PUBLIC));
    stop_on(ousac_model_load(&device, path, NULL, b->device, &error), &error);
    stop_on(ousac_model_load(&cpu, path, NULL, b->cpu, &error), &error);
    make_schedule(&schedule);
    verify_engine(device, cpu, &schedule);
    ousac_model_free(cpu);
    time_engine(b, device, &schedule);
    ousac_schedule_free(&schedule);
    ousac_model_free(device);
    (void)remove(path);
}

static size_t argument(int argc, char **argv, int index, size_t otherwise) {
    const unsigned long value = argc > index ? strtoul(argv[index], NULL, 10) : otherwise;
    if (value < 1 || value > 65536) {
        (void)fprintf(stderr, "bench_gpu: %s: expected a number from 1 to 65536\n", argv[index]);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    ousac_error error = {0};
    ousac_device *device = NULL;
    if (argc < 2 || argc > 7) {
        (void)fprintf(stderr, "usage: bench_gpu DIRECTORY [DEVICE [WIDTH HEADS BLOCKS BATCH]]\n");
        return 2;
    }
    stop_on(ousac_device_open(&device, argc > 2 ? argv[2] : "cuda", 0, &error), &error);
    bench b = {.device = ousac_device_backend(device),
               .cpu = ousac_backend_cpu(),
               .width = argument(argc, argv, 3, 1152),
               .heads = argument(argc, argv, 4, 16),
               .blocks = argument(argc, argv, 5, 2),
               .batch = argument(argc, argv, 6, 8),
               .tokens = (INPUT / PATCH) * (INPUT / PATCH)};
    printf("%s: %s\n", b.device->name, b.device->detail);
    verify_operations(&b);
    time_operations(&b);
    bench_engine(&b, argv[1]);
    ousac_device_close(device);
    return 0;
}
