#include "tests/bench/bench_gpu.h"

#include "calib/arch.h"
#include "calib/spectra/factors.h"
#include "calib/spectra/leading.h"
#include "calib/spectra/prescribed.h"
#include "calib/spectra/triangular.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "pipeline/session.h"
#include "profile/synth/synth_law.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { SITES = OUSAC_SYNTH_SITES, GROUPS = OUSAC_SYNTH_GROUPS, HOST_THREADS = 8 };
static const char *const KINDS[SITES] = {"q", "k", "v", "proj", "fc1", "fc2"};
static const size_t GROUP_OF[SITES] = {0, 0, 0, 1, 2, 3};

/* One block's sites: every block has these. */
typedef struct block {
    size_t m[SITES], n[SITES];
    float *w[SITES];
    double *moment[GROUPS]; /* packed, order width */
    size_t width;
} block;

static ousac_side side_of(size_t site) {
    return site == 5 ? OUSAC_SIDE_OUTPUT : OUSAC_SIDE_INPUT;
}

static void make_site(block *b, size_t site) {
    const size_t m = b->m[site], n = b->n[site], least = m < n ? m : n;
    const ousac_synth_weight_law *law = &ousac_synth_weight_laws[site];
    double *sigma = bench_room(least, sizeof *sigma), square = 0;
    ousac_error error = {0};
    ousac_decay_fill(&law->decay, least, 2, sigma);
    for (size_t i = 0; i < least; i++)
        square += sigma[i] * sigma[i];
    for (size_t i = 0; i < least; i++) /* ||W||_F = gain sqrt(m) */
        sigma[i] *= law->gain * sqrt((double)m / square);
    b->w[site] = bench_room(m * n, sizeof(float));
    bench_must(ousac_prescribed_weight(m, n, sigma, 1, 2 * site, HOST_THREADS, b->w[site], &error), &error);
    ousac_free(sigma);
}

static void make_moment(block *b, size_t group) {
    const size_t n = b->width;
    double *lambda = bench_room(n, sizeof *lambda);
    ousac_error error = {0};
    if (b->moment[group])
        goto done;
    ousac_decay_fill(&ousac_synth_moment_laws[group], n, 1, lambda);
    b->moment[group] = bench_room(n * (n + 1) / 2, sizeof(double));
    bench_must(ousac_prescribed_moment(n, lambda, 1, 100 + group, HOST_THREADS, b->moment[group], &error),
               &error);
done:
    ousac_free(lambda);
}

/* `kind` SITES: all of them. */
static void block_make(block *b, size_t width, size_t hidden, size_t kind) {
    memset(b, 0, sizeof *b);
    b->width = width;
    for (size_t s = 0; s < SITES; s++) {
        b->m[s] = s == 4 ? hidden : width;
        b->n[s] = s == 5 ? hidden : width;
        if (kind == SITES || kind == s) {
            make_site(b, s);
            make_moment(b, GROUP_OF[s]);
        }
    }
}

static void block_free(block *b) {
    for (size_t s = 0; s < SITES; s++)
        ousac_free(b->w[s]);
    for (size_t g = 0; g < GROUPS; g++)
        ousac_free(b->moment[g]);
}

/* As profile/bundle/factorise.c has it; *whole 1 where the full solver had to decide. */
static void factorise(const ousac_backend *k, const block *b, size_t s, size_t rank, ousac_root *root,
                      int leading_first, ousac_factors *factors, int *whole) {
    const double *moment = b->moment[GROUP_OF[s]];
    ousac_error error = {0};
    int done = 0;
    if (leading_first)
        bench_must(ousac_leading_create(factors, k, side_of(s), b->m[s], b->n[s], moment, b->w[s], rank,
                                        &done, &error),
                   &error);
    *whole = !done;
    if (done)
        return;
    if (side_of(s) == OUSAC_SIDE_OUTPUT) {
        bench_must(ousac_factors_create_output(factors, k, b->m[s], b->n[s], moment, b->w[s], rank, &error),
                   &error);
        return;
    }
    if (root->n == 0)
        bench_must(ousac_root_create(root, k, b->width, moment, &error), &error);
    bench_must(ousac_factors_create_input(factors, k, root, b->m[s], b->w[s], rank, &error), &error);
}

/* What the threads of one run share: groups are taken in order, as profile/bundle/factorise.c does. */
typedef struct factor_run {
    const ousac_backend *backend;
    const block *b;
    size_t groups, rank;
    pthread_barrier_t warm; /* the threads and who times them */
    atomic_size_t next;
    pthread_mutex_t mutex; /* over what follows */
    double seconds[SITES]; /* summed over threads */
    size_t whole_sites;
} factor_run;

/* The sites of one group; `counted` 0 to warm up. */
static void factorise_group(factor_run *run, size_t group, int counted) {
    ousac_root root = {0};
    for (size_t s = 0; s < SITES; s++) {
        ousac_factors factors = {0};
        int whole = 0;
        if (GROUP_OF[s] != group)
            continue;
        const double start = bench_now();
        factorise(run->backend, run->b, s, run->rank, &root, 1, &factors, &whole);
        const double took = bench_now() - start;
        ousac_factors_free(&factors);
        (void)pthread_mutex_lock(&run->mutex);
        run->seconds[s] += counted ? took : 0;
        run->whole_sites += (size_t)(counted && whole);
        (void)pthread_mutex_unlock(&run->mutex);
    }
    ousac_root_free(&root);
}

static void *factorise_groups(void *self) {
    factor_run *run = self;
    for (size_t g = 0; g < GROUPS; g++) /* each thread has a context of its own on a device */
        factorise_group(run, g, 0);
    (void)pthread_barrier_wait(&run->warm);
    for (size_t g; (g = atomic_fetch_add(&run->next, 1)) < run->groups;)
        factorise_group(run, g % GROUPS, 1);
    return NULL;
}

void bench_factors(const bench_device *bench, size_t width, size_t hidden, size_t blocks, size_t rank) {
    enum { THREADS = OUSAC_SESSION_DEVICE_THREADS };
    block b;
    factor_run run = {.backend = bench->device, .b = &b, .groups = blocks * GROUPS, .rank = rank};
    pthread_t threads[THREADS];
    block_make(&b, width, hidden, SITES);
    bench_check(pthread_mutex_init(&run.mutex, NULL) == 0 &&
                    pthread_barrier_init(&run.warm, NULL, THREADS + 1) == 0,
                "no threads");
    for (size_t i = 0; i < THREADS; i++)
        bench_check(pthread_create(&threads[i], NULL, factorise_groups, &run) == 0, "no thread");
    (void)pthread_barrier_wait(&run.warm);
    const double start = bench_now();
    for (size_t i = 0; i < THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    const double total = bench_now() - start;
    (void)pthread_barrier_destroy(&run.warm);
    (void)pthread_mutex_destroy(&run.mutex);
    printf("{\"seconds\":%.9g,\"threads\":%d,\"sites\":%zu,\"full_solver\":%zu,\"kinds\":{", total,
           (int)THREADS, blocks * SITES, run.whole_sites);
    for (size_t s = 0; s < SITES; s++)
        printf("%s\"%s\":%.9g", s ? "," : "", KINDS[s], run.seconds[s]);
    printf("}}\n");
    block_free(&b);
}

/* Of a site's energy: G (m, k) on the host; for the output side its moment's root. */
static double *energy_root(const bench_device *bench, const block *b, size_t s, const ousac_root *root) {
    const ousac_backend *cpu = bench->cpu;
    const size_t m = b->m[s], n = b->n[s], k = root->k;
    double *g = bench_room(m * k, sizeof *g);
    ousac_error error = {0};
    if (side_of(s) == OUSAC_SIDE_OUTPUT) {
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < k; j++)
                g[i * k + j] = root->f[j * m + i];
        return g;
    }
    double *w = bench_room(m * n, sizeof *w);
    for (size_t i = 0; i < m * n; i++)
        w[i] = (double)b->w[s][i];
    bench_must(cpu->gemm64(cpu, 0, 1, m, k, n, 1, w, n, root->f, n, 0, g, k, &error), &error);
    ousac_free(w);
    return g;
}

/* ||G - A A^T G||^2 by the CPU, for the orthonormal columns of A. */
static double energy_left(const bench_device *bench, const ousac_factors *factors, size_t rank,
                          const double *g, size_t k) {
    const ousac_backend *cpu = bench->cpu;
    const size_t m = factors->m;
    double *a = bench_room(rank * m, sizeof *a), *inner = bench_room(rank * k, sizeof *inner);
    double *rest = bench_room(m * k, sizeof *rest), left = 0;
    ousac_error error = {0};
    for (size_t i = 0; i < rank * m; i++)
        a[i] = (double)factors->a[i];
    memcpy(rest, g, m * k * sizeof *rest);
    bench_must(cpu->gemm64(cpu, 0, 0, rank, k, m, 1, a, m, g, k, 0, inner, k, &error), &error);
    bench_must(cpu->gemm64(cpu, 1, 0, m, k, rank, -1, a, m, inner, k, 1, rest, k, &error), &error);
    for (size_t i = 0; i < m * k; i++)
        left += rest[i] * rest[i];
    ousac_free(a);
    ousac_free(inner);
    ousac_free(rest);
    return left;
}

/* F with F F^T = C of order n by Cholesky, F lower: seconds where eigenpairs take a minute. 0 where rounding is
 * in its way. */
static int cholesky_root(ousac_root *root, size_t n, const double *packed) {
    *root = (ousac_root){.n = n, .k = n, .f = bench_room(n * n, sizeof(double))};
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            root->f[j * n + i] = packed[i * (i + 1) / 2 + j];
    if (!ousac_cholesky(n, root->f)) {
        ousac_root_free(root);
        return 0;
    }
    /* both triangles are filled: the rows of the root are those of L^T */
    for (size_t i = 0; i < n; i++)
        memset(root->f + i * n, 0, i * sizeof *root->f);
    return 1;
}

void bench_energy(const bench_device *bench, size_t width, size_t hidden, size_t rank, const char *kind,
                  const char *path, int brief) {
    block b;
    ousac_root root = {0}, device_root = {0};
    ousac_error error = {0};
    double left[2], seconds[2], square = 0;
    int whole[2] = {0};
    size_t s = 0;
    while (s < SITES && strcmp(kind, KINDS[s]) != 0)
        s++;
    bench_check(s < SITES, "unknown kind of site");
    block_make(&b, width, hidden, s);
    /* by the CPU, so that it does not depend on what it judges */
    if (!brief || !cholesky_root(&root, width, b.moment[GROUP_OF[s]]))
        bench_must(ousac_root_create(&root, bench->cpu, width, b.moment[GROUP_OF[s]], &error), &error);
    double *g = energy_root(bench, &b, s, &root);
    for (size_t i = 0; i < b.m[s] * root.k; i++)
        square += g[i] * g[i];
    for (int leading = brief != 0; leading < 2; leading++) {
        ousac_factors factors = {0};
        const double start = bench_now();
        factorise(bench->device, &b, s, rank, &device_root, leading, &factors, &whole[leading]);
        seconds[leading] = bench_now() - start;
        bench_check(factors.rank == rank, "fewer directions than asked for");
        left[leading] = energy_left(bench, &factors, rank, g, root.k);
        ousac_factors_free(&factors);
    }
    bench_must(ousac_file_replace(path, g, b.m[s] * root.k * sizeof *g, &error), &error);
    printf("{\"m\":%zu,\"k\":%zu,\"energy\":%.17g", b.m[s], root.k, square);
    if (!brief)
        printf(",\"left\":%.17g,\"seconds\":%.9g", left[0], seconds[0]);
    if (brief || !whole[1])
        printf(",\"left_leading\":%.17g,\"seconds_leading\":%.9g", left[1], seconds[1]);
    printf("}\n");
    ousac_free(g);
    ousac_root_free(&root);
    ousac_root_free(&device_root);
    block_free(&b);
}
