/* The stages of ousac and what they are measured against, one at a time, as tests/bench/bench_speed.py asks:
 *
 *     bench_speed MODEL CONFIG DIRECTORY BATCH [INPUTS STEPS]
 *
 * INPUTS are those of a model that is told something; then only the forwards are asked for, of runs of STEPS steps,
 * the first of them full (tests/bench/bench_families.py). A line on standard input is "STAGE THREADS"; the answer is one line of JSON on standard output: seconds,
 * multiply-accumulates (macs), bytes moved, and the peak of the resident memory while it ran. The driver
 * interleaves stages and takes medians. Baselines that need no other process are here: SGEMM, DGESDD, memcpy
 * and a plain write.
 *
 * Forwards are timed one by one by an observer inside ousac_run_samples, on as many threads as asked for, all
 * busy. Moments for the factorisation have the decay of real ones (profile/synth/synth_law.h).
 */
#include "calib/backend/backend.h"
#include "calib/backend/backend_bf16.h"
#include "calib/cost.h"
#include "calib/spectra/factors.h"
#include "calib/spectra/leading.h"
#include "calib/spectra/prescribed.h"
#include "calib/spectra/scaled_svd.h"
#include "calib/stats/philox.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/factorise.h"
#include "profile/record/recorder.h"
#include "profile/run/runner.h"
#include "profile/synth/synth_law.h"

#include <cblas.h>
#include <fcntl.h>
#include <lapacke.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS_MAX = 64,
    TIMES_MAX = 4096,
    PATH_BYTES = 1024,
    STEPS = 5,        /* of the runs, unless told otherwise: the first full, the others cached */
    RECORD_BATCH = 4, /* the program's default micro-batch */
    RECORDED =
        2 * RECORD_BATCH /* on each thread: the first micro-batch touches its memory for the first time */
};
/* Ranks of a cached forward and of the bundle, over the width. */
#define RANK_SHARE 0.125
/* The same of the factors that are made: 256 of 1152. */
#define FACTOR_SHARE (2.0 / 9)

typedef struct bench {
    const ousac_backend *be;
    const char *path, *directory;
    ousac_model_options from;
    ousac_model *model;
    size_t batch; /* samples of one forward */
    size_t steps;
    ousac_schedule schedule;
    size_t *rank;             /* (sites), of forwards and bundle */
    size_t *factor_rank;      /* (sites), of the factors that are made */
    ousac_profile *synthetic; /* of every group the moment of its kind; NULL until asked for */
    ousac_factor_set set;
    ousac_calibration *calibration;
    ousac_profile *profile; /* of the first recording */
    double *packed[OUSAC_SYNTH_GROUPS];
    ousac_root root[OUSAC_SYNTH_GROUPS];
    struct bench *rounded; /* the same on the bfloat16 backend; NULL until asked for */
    char bundle[PATH_BYTES];
} bench;

typedef struct result {
    double seconds, macs, bytes;
    double cpu; /* seconds of processor time, which other work on the machine hardly changes; 0: not taken */
    double left, least; /* of factors: error left, and what no rank-r matrix can undercut */
} result;

static void must(ousac_status status, const ousac_error *error) {
    if (status) {
        (void)fprintf(stderr, "bench_speed: %s\n", error->message);
        exit(1);
    }
}

static void check(int holds, const char *what) {
    if (!holds) {
        (void)fprintf(stderr, "bench_speed: %s\n", what);
        exit(1);
    }
}

static void *room(size_t count, size_t size) {
    void *block = ousac_malloc(count, size);
    check(block != NULL, "no memory");
    return block;
}

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu_of(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *times, size_t count) {
    check(count > 0, "nothing was timed");
    qsort(times, count, sizeof *times, compare_doubles);
    return count % 2 ? times[count / 2] : (times[count / 2 - 1] + times[count / 2]) / 2;
}

/* The system forgets the peak of the resident memory so far; where it cannot, peaks are of the whole run. */
static void reset_peak(void) {
    const int file = open("/proc/self/clear_refs", O_WRONLY);
    if (file >= 0) {
        const ssize_t written = write(file, "5", 1);
        (void)written;
        (void)close(file);
    }
}

static double peak_bytes(void) {
    char line[256];
    unsigned long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lu", &kib) == 1)
            break;
    if (file)
        (void)fclose(file);
    return 1024.0 * (double)kib;
}

static double file_bytes(const char *path) {
    struct stat info;
    check(stat(path, &info) == 0, "a file is not there");
    return (double)info.st_size;
}

/* ---- model load ---- */

static double parameters_bytes(const ousac_model *model) {
    double values = 0; /* the layers of the blocks with their modulation: nearly all */
    for (size_t s = 0; s < model->arch.site_count; s++)
        values += (double)model->arch.sites[s].m * (double)model->arch.sites[s].n;
    return 4 * (values + (double)model->arch.other_macs);
}

static void load(bench *b, result *r) {
    ousac_model *model = NULL;
    ousac_error error = {0};
    const double start = now();
    must(ousac_model_load(&model, b->path, &b->from, b->be, &error), &error);
    r->seconds = now() - start;
    r->bytes = parameters_bytes(model);
    ousac_model_free(model);
}

static void copy_bytes(double bytes, result *r) {
    const size_t size = (size_t)bytes;
    unsigned char *from = room(size, 1), *to = room(size, 1);
    memset(from, 1, size);
    memset(to, 2, size);
    const double start = now();
    memcpy(to, from, size);
    r->seconds = now() - start;
    check(to[size - 1] == 1 && to[size / 2] == 1, "memcpy");
    r->bytes = bytes;
    ousac_free(from);
    ousac_free(to);
}

/* ---- forwards ---- */

typedef struct watcher {
    double start, cpu_start;
    int gate;
    size_t count[3];
    double times[3][TIMES_MAX], cpu[3][TIMES_MAX];
} watcher;

static ousac_status watch_begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first,
                                size_t count, ousac_error *error) {
    watcher *w = self;
    (void)step, (void)branch, (void)first, (void)count, (void)error;
    w->gate = (int)gate;
    w->start = now();
    w->cpu_start = cpu_of(CLOCK_THREAD_CPUTIME_ID);
    return OUSAC_STATUS_OK;
}

static ousac_status watch_end(void *self, ousac_error *error) {
    watcher *w = self;
    (void)error;
    if (w->count[w->gate] < TIMES_MAX) {
        w->times[w->gate][w->count[w->gate]] = now() - w->start;
        w->cpu[w->gate][w->count[w->gate]++] = cpu_of(CLOCK_THREAD_CPUTIME_ID) - w->cpu_start;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status watch_attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    watcher *all = self;
    (void)error;
    *observer = (ousac_observer){.self = &all[worker], .begin = watch_begin, .end = watch_end};
    return OUSAC_STATUS_OK;
}

static uint64_t macs_of(const bench *b, int cached) {
    const ousac_ranks ranks = {.rank = b->rank, .dense_fallback = 1};
    return cached ? ousac_cost_cached(&b->model->arch, &ranks) : ousac_cost_full(&b->model->arch);
}

/* One forward on each of `threads` at once: the median of those of one run. */
static void forward(bench *b, size_t threads, int cached, result *r) {
    watcher *all = ousac_calloc(threads, sizeof *all);
    ousac_error error = {0};
    double times[TIMES_MAX], cpu[TIMES_MAX];
    size_t count = 0;
    check(all != NULL, "no memory");
    const ousac_run_observers observers = {.self = all, .attach = watch_attach};
    const ousac_run run = {.model = b->model,
                           .schedule = &b->schedule,
                           .count = b->batch * threads,
                           .micro_batch = b->batch,
                           .threads = threads,
                           .exact = !cached,
                           .calibration = cached ? b->calibration : NULL,
                           .observers = &observers};
    must(ousac_run_samples(&run, &error), &error);
    const int gate = cached ? OUSAC_GATE_CACHED : OUSAC_GATE_FULL;
    for (size_t t = 0; t < threads; t++)
        for (size_t i = 0; i < all[t].count[gate] && count < TIMES_MAX; i++) {
            times[count] = all[t].times[gate][i];
            cpu[count++] = all[t].cpu[gate][i];
        }
    r->seconds = median(times, count) / (double)(threads * b->batch); /* per sample */
    r->cpu = median(cpu, count) / (double)b->batch;
    r->macs = (double)macs_of(b, cached);
    ousac_free(all);
}

/* ---- the same in bfloat16 ---- */

/* The largest relative deviation of a sample of a whole run; both ways must differ, or one of them ran twice.
 */
#define ROUNDED_DEVIATION 0.05

static float *draw(const bench *b, const ousac_model *model, size_t count) {
    ousac_error error = {0};
    float *samples = room(count * ousac_model_sample_size(model), sizeof *samples);
    const ousac_run run = {.model = model,
                           .schedule = &b->schedule,
                           .count = count,
                           .micro_batch = b->batch,
                           .threads = 1,
                           .exact = 1,
                           .samples = samples};
    must(ousac_run_samples(&run, &error), &error);
    return samples;
}

static void check_rounded(const bench *b, const bench *rounded) {
    const size_t size = ousac_model_sample_size(b->model);
    float *plain = draw(b, b->model, b->batch), *other = draw(b, rounded->model, b->batch);
    for (size_t s = 0; s < b->batch; s++) {
        double square = 0, wrong = 0;
        for (size_t i = s * size; i < (s + 1) * size; i++) {
            square += (double)plain[i] * (double)plain[i];
            wrong += ((double)plain[i] - (double)other[i]) * ((double)plain[i] - (double)other[i]);
        }
        check(wrong > 0 && wrong <= ROUNDED_DEVIATION * ROUNDED_DEVIATION * square,
              "a sample in bfloat16 is not one in float32, rounded");
    }
    ousac_free(plain);
    ousac_free(other);
}

/* A full forward of the same model in bfloat16, checked when first asked for; no seconds where this machine
 * has no such products. */
static void rounded_forward(bench *b, size_t threads, result *r) {
    const ousac_backend *be = NULL;
    ousac_error error = {0};
    if (!b->rounded) {
        if (ousac_backend_bf16(&be, &error) == OUSAC_STATUS_UNSUPPORTED)
            return;
        check(be != NULL, error.message);
        bench *rounded = room(1, sizeof *rounded);
        *rounded = *b;
        rounded->be = be;
        must(ousac_model_load(&rounded->model, b->path, &b->from, be, &error), &error);
        check_rounded(b, rounded);
        b->rounded = rounded;
    }
    forward(b->rounded, threads, 0, r);
}

typedef struct gemm_worker {
    bench *b;
    int cached;
    double seconds, cpu;
} gemm_worker;

/* y (rows, m) = x (rows, n) w^T */
static void sgemm(size_t rows, size_t m, size_t n, const float *x, const float *w, float *y) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)m, (int)n, 1, x, (int)n, w, (int)n,
                0, y, (int)m);
}

/* The products of one forward and nothing else: whole, or both halves of each correction. */
static void *run_gemms(void *self) {
    gemm_worker *g = self;
    const ousac_arch *arch = &g->b->model->arch;
    size_t in = 0, most = 0; /* of a group: values read; values written, whole or by halves */
    for (size_t k = 0; k < arch->group_count; k++) {
        const ousac_group *group = &arch->groups[k];
        const size_t rows = g->b->batch * ousac_arch_group_tokens(arch, k),
                     n = arch->sites[group->first_site].n;
        size_t m = 0, ranks = 0;
        for (size_t s = group->first_site; s < group->first_site + group->site_count; s++)
            m += arch->sites[s].m, ranks += g->b->rank[s];
        in = rows * n > in ? rows * n : in;
        most = rows * (m + ranks) > most ? rows * (m + ranks) : most;
    }
    /* Results go nowhere: fed on, they would end as denormals, which take many times as long. */
    float *x = room(in, sizeof *x), *y = room(most, sizeof *y), *out = room(most, sizeof *out);
    for (size_t i = 0; i < in; i++)
        x[i] = (float)(i % 17) - 8;
    memset(y, 0, most * sizeof *y);
    memset(out, 0, most * sizeof *out);
    const double start = now(), cpu_start = cpu_of(CLOCK_THREAD_CPUTIME_ID);
    for (size_t k = 0; k < arch->group_count; k++) {
        const ousac_group *group = &arch->groups[k];
        const ousac_site *first = &arch->sites[group->first_site];
        const size_t rows = g->b->batch * ousac_arch_group_tokens(arch, k);
        size_t m = 0, ranks = 0;
        for (size_t s = group->first_site; s < group->first_site + group->site_count; s++)
            m += arch->sites[s].m, ranks += g->b->rank[s];
        if (!g->cached) {
            sgemm(rows, m, first->n, x, g->b->model->weight[group->first_site], y);
            continue;
        }
        sgemm(rows, ranks, first->n, x, g->b->model->weight[group->first_site], y);
        for (size_t s = group->first_site; s < group->first_site + group->site_count; s++)
            sgemm(rows, arch->sites[s].m, g->b->rank[s], y, g->b->model->weight[s], out);
    }
    g->seconds = now() - start;
    g->cpu = cpu_of(CLOCK_THREAD_CPUTIME_ID) - cpu_start;
    ousac_free(x);
    ousac_free(y);
    ousac_free(out);
    return NULL;
}

static void gemms(bench *b, size_t threads, int cached, result *r) {
    gemm_worker workers[THREADS_MAX];
    pthread_t handles[THREADS_MAX];
    double times[THREADS_MAX] = {0}, cpu[THREADS_MAX] = {0};
    const ousac_arch *arch = &b->model->arch;
    for (size_t t = 0; t < threads; t++) {
        workers[t] = (gemm_worker){b, cached, 0, 0};
        check(pthread_create(&handles[t], NULL, run_gemms, &workers[t]) == 0, "no thread");
    }
    for (size_t t = 0; t < threads; t++) {
        check(pthread_join(handles[t], NULL) == 0, "a thread is lost");
        times[t] = workers[t].seconds;
        cpu[t] = workers[t].cpu;
    }
    for (size_t s = 0; s < arch->site_count; s++) {
        const double m = (double)arch->sites[s].m, n = (double)arch->sites[s].n;
        r->macs += (double)ousac_arch_group_tokens(arch, arch->sites[s].group) *
                   (cached ? (double)b->rank[s] * (m + n) : m * n);
    }
    r->seconds = median(times, threads) / (double)(threads * b->batch);
    r->cpu = median(cpu, threads) / (double)b->batch;
}

/* ---- profiling ---- */

static ousac_profile *new_profile(const bench *b) {
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    ousac_profile_identity identity = {.micro_batch = RECORD_BATCH, .segments = 1};
    identity.tokens_used = b->model->arch.stream[0].tokens < 64 ? b->model->arch.stream[0].tokens
                                                                : 64; /* the program's default */
    memcpy(identity.model_digest, b->model->digest, sizeof identity.model_digest);
    must(ousac_profile_create(&profile, &b->model->arch, &b->schedule, &identity, NULL, 1, &error), &error);
    return profile;
}

/* An exact run of the schedule of `samples` on each thread, per sample, with or without recording. */
static void trajectory(bench *b, size_t threads, size_t samples, int recorded, result *r) {
    ousac_profile *profile = recorded ? new_profile(b) : NULL;
    ousac_recorder *recorder = NULL;
    ousac_error error = {0};
    if (recorded)
        must(ousac_recorder_create(&recorder, profile, b->be, threads, RECORD_BATCH, &error), &error);
    const ousac_run run = {.model = b->model,
                           .schedule = &b->schedule,
                           .count = samples * threads,
                           .micro_batch = RECORD_BATCH,
                           .threads = threads,
                           .exact = 1,
                           .observers = recorder ? ousac_recorder_observers(recorder) : NULL};
    const double start = now(), cpu_start = cpu_of(CLOCK_PROCESS_CPUTIME_ID);
    must(ousac_run_samples(&run, &error), &error);
    r->seconds = (now() - start) / (double)run.count;
    r->cpu = (cpu_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_start) / (double)run.count;
    r->macs = (double)macs_of(b, 0) * (double)b->steps;
    ousac_recorder_free(recorder);
    if (recorded) {
        ousac_profile_free(b->profile);
        b->profile = profile;
    }
}

/* ---- factors: of block 0's sites ---- */

static size_t group_of(const bench *b, size_t site) {
    return b->model->arch.sites[site].group;
}

/* G (m, k) with G G^T = W C W^T, row-major; for a site of the output side its moment's root. */
static double *energy_root(const bench *b, size_t site, size_t *k) {
    const ousac_site *s = &b->model->arch.sites[site];
    const ousac_root *root = &b->root[group_of(b, site)];
    double *g = room(s->m * root->k, sizeof *g), *w = NULL;
    ousac_error error = {0};
    *k = root->k;
    if (b->model->arch.groups[group_of(b, site)].side == OUSAC_SIDE_OUTPUT) {
        for (size_t i = 0; i < s->m; i++)
            for (size_t j = 0; j < root->k; j++)
                g[i * root->k + j] = root->f[j * s->m + i];
        return g;
    }
    w = room(s->m * s->n, sizeof *w);
    for (size_t i = 0; i < s->m * s->n; i++)
        w[i] = (double)b->model->weight[site][i];
    must(b->be->gemm64(b->be, 0, 1, s->m, root->k, s->n, 1, w, s->n, root->f, s->n, 0, g, root->k, &error),
         &error);
    ousac_free(w);
    return g;
}

/* || G - A A^T G ||^2 for the orthonormal columns of A, which is what the factors leave: A B = A A^T W. */
static double energy_left(const bench *b, const ousac_factors *factors, size_t rank, const double *g,
                          size_t k) {
    const size_t m = factors->m;
    double *a = room(rank * m, sizeof *a), *inner = room(rank * k, sizeof *inner),
           *rest = room(m * k, sizeof *rest), left = 0;
    ousac_error error = {0};
    for (size_t i = 0; i < rank * m; i++)
        a[i] = (double)factors->a[i];
    memcpy(rest, g, m * k * sizeof *rest);
    must(b->be->gemm64(b->be, 0, 0, rank, k, m, 1, a, m, g, k, 0, inner, k, &error), &error);
    must(b->be->gemm64(b->be, 1, 0, m, k, rank, -1, a, m, inner, k, 1, rest, k, &error), &error);
    for (size_t i = 0; i < m * k; i++)
        left += rest[i] * rest[i];
    ousac_free(a);
    ousac_free(inner);
    ousac_free(rest);
    return left;
}

static void make_moments(bench *b) {
    const ousac_arch *arch = &b->model->arch;
    ousac_error error = {0};
    for (size_t g = 0; g < OUSAC_SYNTH_GROUPS; g++) {
        const size_t n = arch->groups[g].dim;
        double *lambda = room(n, sizeof *lambda);
        b->packed[g] = room(n * (n + 1) / 2, sizeof(double));
        ousac_decay_fill(&ousac_synth_moment_laws[g], n, 1, lambda);
        must(ousac_prescribed_moment(n, lambda, 1, g, 2, b->packed[g], &error), &error);
        must(ousac_root_create(&b->root[g], b->be, n, b->packed[g], &error), &error);
        ousac_free(lambda);
    }
}

static void make_root(bench *b, size_t site, result *r) {
    const size_t g = group_of(b, site);
    ousac_root root;
    ousac_error error = {0};
    const double start = now();
    must(ousac_root_create(&root, b->be, b->model->arch.groups[g].dim, b->packed[g], &error), &error);
    r->seconds = now() - start;
    ousac_root_free(&root);
}

static void make_factors(bench *b, size_t site, int checked, result *r) {
    const ousac_site *s = &b->model->arch.sites[site];
    const size_t g = group_of(b, site), most = ousac_cost_dense_rank(s) - 1;
    ousac_factors factors;
    ousac_error error = {0};
    const double start = now();
    must(b->model->arch.groups[g].side == OUSAC_SIDE_OUTPUT
             ? ousac_factors_create_output(&factors, b->be, s->m, s->n, b->packed[g], b->model->weight[site],
                                           most, &error)
             : ousac_factors_create_input(&factors, b->be, &b->root[g], s->m, b->model->weight[site], most,
                                          &error),
         &error);
    r->seconds = now() - start;
    if (checked) {
        size_t k = 0;
        double *energy = energy_root(b, site, &k);
        r->left = energy_left(b, &factors, b->factor_rank[site], energy, k);
        ousac_free(energy);
    }
    ousac_factors_free(&factors);
}

/* What the truncated SVD of the weights leaves, which is what the published factors are made of. */
static void check_svd(bench *b, size_t site, result *r) {
    const ousac_site *s = &b->model->arch.sites[site];
    ousac_factors factors = {0};
    ousac_error error = {0};
    size_t k = 0;
    const double start = now();
    must(ousac_scaled_svd_create(&factors, b->be, s->m, s->n, b->model->weight[site], NULL, NULL,
                                 b->factor_rank[site], &error),
         &error);
    r->seconds = now() - start;
    double *energy = energy_root(b, site, &k);
    r->left = energy_left(b, &factors, b->factor_rank[site], energy, k);
    ousac_free(energy);
    ousac_factors_free(&factors);
}

static ousac_status see_factors(void *self, size_t site, ousac_factors *factors, ousac_error *error) {
    const bench *b = self;
    (void)error;
    check(factors->rank == b->factor_rank[site], "factors of another rank than asked for");
    return OUSAC_STATUS_OK;
}

/* The factors of every site as the program makes them. */
static void make_sites(bench *b, size_t threads, result *r) {
    const ousac_arch *arch = &b->model->arch;
    ousac_error error = {0};
    if (!b->synthetic) {
        b->synthetic = new_profile(b);
        for (size_t g = 0; g < arch->group_count; g++)
            memcpy(b->synthetic->moment[g], b->packed[g % OUSAC_SYNTH_GROUPS],
                   ousac_profile_moment_size(&arch->groups[g]) * sizeof(double));
    }
    const ousac_factorise_options options = {
        .method = OUSAC_METHOD_DELTA_COV, .rank_max = b->factor_rank, .threads = threads};
    const double start = now(), cpu_start = cpu_of(CLOCK_PROCESS_CPUTIME_ID);
    must(ousac_factorise_each(b->model, b->synthetic, &options, see_factors, b, &error), &error);
    r->seconds = now() - start;
    r->cpu = cpu_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
}

/* The leading directions alone, at the rank of the plan; no seconds where the full solver has to decide. */
static void make_leading(bench *b, size_t site, int checked, result *r) {
    const ousac_site *s = &b->model->arch.sites[site];
    const size_t g = group_of(b, site);
    ousac_factors factors = {0};
    ousac_error error = {0};
    int done = 0;
    const double start = now();
    must(ousac_leading_create(&factors, b->be, b->model->arch.groups[g].side, s->m, s->n, b->packed[g],
                              b->model->weight[site], b->factor_rank[site], &done, &error),
         &error);
    r->seconds = done ? now() - start : 0;
    if (checked && done) {
        size_t k = 0;
        double *energy = energy_root(b, site, &k);
        r->left = energy_left(b, &factors, b->factor_rank[site], energy, k);
        ousac_free(energy);
    }
    ousac_factors_free(&factors);
}

/* The full decomposition of G by LAPACK, from G. */
static void gesdd(bench *b, size_t site, int checked, result *r) {
    const size_t m = b->model->arch.sites[site].m;
    size_t k = 0;
    double *g = energy_root(b, site, &k);
    const size_t least = m < k ? m : k;
    double *s = room(least, sizeof *s), *u = room(m * least, sizeof *u), *v = room(least * k, sizeof *v);
    /* row-major G (m, k) is column-major G^T (k, m) */
    const double start = now();
    const int info =
        (int)LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', (int)k, (int)m, g, (int)k, s, v, (int)k, u, (int)least);
    r->seconds = now() - start;
    check(info == 0, "dgesdd did not converge");
    for (size_t i = least; checked && i > b->factor_rank[site]; i--)
        r->least += s[i - 1] * s[i - 1];
    ousac_free(v);
    ousac_free(u);
    ousac_free(s);
    ousac_free(g);
}

/* G in a file, for the driver's other contender. */
static void dump(bench *b, size_t site, result *r) {
    char path[PATH_BYTES];
    ousac_error error = {0};
    size_t k = 0;
    double *g = energy_root(b, site, &k);
    const size_t m = b->model->arch.sites[site].m;
    (void)snprintf(path, sizeof path, "%s/energy.f64", b->directory);
    must(ousac_file_replace(path, g, m * k * sizeof *g, &error), &error);
    r->bytes = (double)(m * k * sizeof *g);
    r->macs = (double)k;
    ousac_free(g);
}

/* ---- bundle ---- */

/* Factors of the sizes of a plan, of no meaning: directions of falling energy. */
static void make_set(bench *b) {
    const ousac_arch *arch = &b->model->arch;
    b->rank = room(arch->site_count, sizeof *b->rank);
    b->factor_rank = room(arch->site_count, sizeof *b->factor_rank);
    b->set = (ousac_factor_set){.method = OUSAC_METHOD_SVD, .site_count = arch->site_count};
    b->set.site = ousac_calloc(arch->site_count, sizeof *b->set.site);
    check(b->set.site != NULL, "no memory");
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t m = arch->sites[s].m, n = arch->sites[s].n, least = m < n ? m : n;
        const size_t rank = (size_t)(RANK_SHARE * (double)arch->width);
        ousac_factors *f = &b->set.site[s];
        b->rank[s] = rank;
        b->factor_rank[s] = (size_t)(FACTOR_SHARE * (double)arch->width);
        *f = (ousac_factors){.m = m, .n = n, .rank = rank, .directions = least, .lambda_count = least};
        f->lambda = room(least, sizeof(double));
        f->a = room(rank * m, sizeof(float));
        f->b = room(rank * n, sizeof(float));
        for (size_t i = 0; i < least; i++)
            f->lambda[i] = 1 / (1 + (double)i);
        ousac_philox_normals(1, OUSAC_STREAM_MATRIX, 2 * s, rank * m, f->a);
        ousac_philox_normals(1, OUSAC_STREAM_MATRIX, 2 * s + 1, rank * n, f->b);
        for (size_t i = 0; i < rank * m; i++)
            f->a[i] /= sqrtf((float)m);
        for (size_t i = 0; i < rank * n; i++)
            f->b[i] *= 0.1f / sqrtf((float)(n * (1 + i / n)));
    }
}

static double factor_bytes(const bench *b) {
    double values = 0;
    for (size_t s = 0; s < b->set.site_count; s++)
        values += (double)b->rank[s] * (double)(b->set.site[s].m + b->set.site[s].n);
    return 4 * values;
}

static void pack(bench *b, result *r) {
    const ousac_allocation allocation = {.rank = b->rank};
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_BF16, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD};
    ousac_plan *plan = NULL;
    ousac_error error = {0};
    must(ousac_plan_create(&plan, &b->model->arch, "default", "uniform", &allocation, &error), &error);
    memcpy(plan->model_digest, b->model->digest, sizeof plan->model_digest);
    ousac_profile_digest(b->profile, plan->profile_digest);
    const double start = now();
    must(ousac_bundle_save(b->bundle, b->model, b->profile, &b->set, (const ousac_plan *const[]){plan}, 1,
                           &options, &error),
         &error);
    r->seconds = now() - start;
    r->bytes = factor_bytes(b);
    ousac_plan_free(plan);
}

/* As many bytes as the bundle has, from memory to a synced file. */
static void plain_write(bench *b, result *r) {
    const size_t size = (size_t)file_bytes(b->bundle);
    char path[PATH_BYTES];
    unsigned char *bytes = room(size, 1);
    ousac_error error = {0};
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(i * 2654435761U >> 13);
    (void)snprintf(path, sizeof path, "%s/plain", b->directory);
    const double start = now();
    must(ousac_file_replace(path, bytes, size, &error), &error);
    r->seconds = now() - start;
    r->bytes = factor_bytes(b);
    ousac_free(bytes);
}

/* Ready to run: opened, truncated to the plan, verified, in float32. */
static void read_bundle(bench *b, result *r) {
    ousac_bundle *bundle = NULL;
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    const double start = now();
    must(ousac_bundle_open(&bundle, b->bundle, &error), &error);
    must(ousac_bundle_calibration(bundle, ousac_bundle_find_plan(bundle, NULL), &b->model->arch, b->be,
                                  &calibration, &error),
         &error);
    r->seconds = now() - start;
    r->bytes = factor_bytes(b);
    for (size_t s = 0; s < b->set.site_count; s++) /* bf16 keeps 8 bits */
        for (size_t i = 0; i < b->rank[s] * b->set.site[s].m; i++)
            check(fabsf(calibration->a[s][i] - b->set.site[s].a[i]) <= fabsf(b->set.site[s].a[i]) / 256,
                  "the bundle does not hold what was packed");
    ousac_calibration_free(calibration);
    ousac_bundle_close(bundle);
}

/* ---- the program ---- */

static void set_up(bench *b) {
    double scales[STEPS];
    ousac_gate gates[STEPS];
    ousac_error error = {0};
    result ignored = {0};
    must(ousac_model_load(&b->model, b->path, &b->from, b->be, &error), &error);
    for (size_t i = 0; i < b->steps; i++) {
        scales[i] = NAN;
        gates[i] = i == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    }
    const ousac_schedule_options options = {
        .steps = b->steps,
        .train_steps = b->model->noise.train_steps,
        .other_mode = OUSAC_MODE_COND,
        .scales = scales,
        .gates = gates,
        .solver = b->model->noise.kind == OUSAC_NOISE_FLOW ? OUSAC_SOLVER_FLOW_EULER : OUSAC_SOLVER_DDIM};
    must(ousac_schedule_build(&b->schedule, &options, &error), &error);
    make_set(b);
    const ousac_ranks ranks = {.rank = b->rank, .dense_fallback = 1};
    must(ousac_calibration_create(&b->calibration, b->be, &b->model->arch, &ranks, ousac_factor_set_source,
                                  &b->set, NULL, &error),
         &error);
    if (b->from.inputs_path)
        return;
    make_moments(b);
    (void)snprintf(b->bundle, sizeof b->bundle, "%s/bundle.oca", b->directory);
    trajectory(b, 1, 1, 1, &ignored); /* a profile for the bundle */
}

static void answer(bench *b, const char *stage, size_t threads) {
    static const char *const kinds[OUSAC_SYNTH_SITES] = {"q", "k", "v", "proj", "fc1", "fc2"};
    result r = {0};
    const char *kind = strchr(stage, ':');
    size_t site = 0;
    while (kind && site < OUSAC_SYNTH_SITES && strcmp(kinds[site], kind + 1) != 0)
        site++;
    check(site < OUSAC_SYNTH_SITES, "unknown site kind");
    reset_peak();
    if (strcmp(stage, "load") == 0)
        load(b, &r);
    else if (strcmp(stage, "copy-model") == 0)
        copy_bytes(parameters_bytes(b->model), &r);
    else if (strcmp(stage, "full") == 0 || strcmp(stage, "cached") == 0)
        forward(b, threads, *stage == 'c', &r);
    else if (strcmp(stage, "bf16") == 0)
        rounded_forward(b, threads, &r);
    else if (strcmp(stage, "sgemm-full") == 0 || strcmp(stage, "sgemm-cached") == 0)
        gemms(b, threads, stage[6] == 'c', &r);
    else if (strcmp(stage, "exact") == 0 || strcmp(stage, "record") == 0)
        trajectory(b, threads, RECORDED, *stage == 'r', &r);
    else if (strncmp(stage, "root:", 5) == 0)
        make_root(b, site, &r);
    else if (strncmp(stage, "factors:", 8) == 0)
        make_factors(b, site, 0, &r);
    else if (strncmp(stage, "checked-factors:", 16) == 0)
        make_factors(b, site, 1, &r);
    else if (strncmp(stage, "leading:", 8) == 0)
        make_leading(b, site, 0, &r);
    else if (strncmp(stage, "checked-leading:", 16) == 0)
        make_leading(b, site, 1, &r);
    else if (strncmp(stage, "gesdd:", 6) == 0)
        gesdd(b, site, 0, &r);
    else if (strncmp(stage, "checked-gesdd:", 14) == 0)
        gesdd(b, site, 1, &r);
    else if (strncmp(stage, "checked-svd:", 12) == 0)
        check_svd(b, site, &r);
    else if (strcmp(stage, "sites") == 0)
        make_sites(b, threads, &r);
    else if (strncmp(stage, "dump:", 5) == 0)
        dump(b, site, &r);
    else if (strcmp(stage, "pack") == 0)
        pack(b, &r);
    else if (strcmp(stage, "plain-write") == 0)
        plain_write(b, &r);
    else if (strcmp(stage, "read") == 0)
        read_bundle(b, &r);
    else if (strcmp(stage, "copy-factors") == 0)
        copy_bytes(factor_bytes(b), &r);
    else
        check(0, "unknown stage");
    printf("{\"seconds\": %.9g, \"macs\": %.17g, \"bytes\": %.17g, \"peak_bytes\": %.17g, \"left\": %.17g, "
           "\"least\": %.17g, \"cpu\": %.9g}\n",
           r.seconds, r.macs, r.bytes, peak_bytes(), r.left, r.least, r.cpu);
    (void)fflush(stdout);
}

int main(int argc, char **argv) {
    bench b = {.be = ousac_backend_cpu(), .steps = STEPS};
    char line[256], stage[64];
    if (argc != 5 && argc != 7) {
        (void)fprintf(stderr, "usage: bench_speed MODEL CONFIG DIRECTORY BATCH [INPUTS STEPS]\n");
        return 2;
    }
    b.path = argv[1];
    b.from.config_path = argv[2];
    b.directory = argv[3];
    b.batch = strtoul(argv[4], NULL, 10);
    check(b.batch > 0, "the batch is 1 or more");
    if (argc == 7) {
        b.from.inputs_path = argv[5];
        b.steps = strtoul(argv[6], NULL, 10);
        check(b.steps > 1 && b.steps <= STEPS, "the steps are 2 or a few more");
    }
    set_up(&b);
    printf("{\"backend\": \"%s\", \"tokens\": %zu, \"width\": %zu, \"blocks\": %zu, \"sites\": %zu}\n",
           b.be->detail, b.model->arch.stream[0].tokens, b.model->arch.width, b.model->arch.block_count,
           b.model->arch.site_count);
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        size_t threads = 0;
        check(sscanf(line, "%63s %zu", stage, &threads) == 2 && threads > 0 && threads <= THREADS_MAX,
              "expected STAGE THREADS");
        answer(&b, stage, threads);
    }
    return 0; /* what it holds goes with the process */
}
