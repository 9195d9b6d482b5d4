/* What the recorder sums, against the same sums taken along the naive double-precision trajectory; shards,
 * threads, token sampling and refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "profile/model/dit.h"
#include "profile/record/recorder.h"
#include "tests/support/naive_trajectory.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

enum { SEED = 21, SAMPLES = 8, BLOCKS = 2, SITES = 6 * BLOCKS, MODULES = 2 * BLOCKS, TOKENS_MAX = 64 };

static scratch directory;
static ousac_model *model;
static naive_dit *net;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
static ousac_step steps[] = {
    {960, OUSAC_MODE_COND, 1, GATES(FULL, FULL)},     {800, OUSAC_MODE_CFG, 4, GATES(CACHED, CACHED)},
    {640, OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)}, {480, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED)},
    {320, OUSAC_MODE_UNCOND, 1, GATES(REUSE, REUSE)}, {160, OUSAC_MODE_CFG, 3, GATES(CACHED, FULL)},
    {20, OUSAC_MODE_CFG, 3, GATES(CACHED, CACHED)},
};
enum { STEPS = sizeof steps / sizeof *steps };
static ousac_schedule schedule = {.name = "mixed", .step_count = STEPS, .steps = steps};

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

static int set_up(void **state) {
    char file[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    options.depth = BLOCKS;
    scratch_create(&directory);
    if (random_dit_write(directory.path, &options, &error))
        return -1;
    scratch_join(file, directory.path, "model.safetensors");
    /* Copied: one test changes a weight, which a mapped file does not let it. */
    const ousac_model_options load = {.copy_weights = 1};
    return ousac_model_load(&model, file, &load, ousac_backend_cpu(), &error) ||
           naive_dit_load(&net, file, options.heads, &error);
}

static int tear_down(void **state) {
    (void)state;
    ousac_model_free(model);
    naive_dit_free(net);
    scratch_remove(&directory);
    return 0;
}

static int with_magnitudes; /* of the profiles made by new_profile */
static int spilled;         /* likewise: their moments are mapped from a file */

static ousac_profile *new_profile(size_t tokens_used, size_t segments, const double *weight) {
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    ousac_profile_identity identity = {.seed = SEED,
                                       .micro_batch = 2,
                                       .tokens_used = tokens_used,
                                       .segments = segments,
                                       .magnitudes = with_magnitudes};
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    must(ousac_profile_create_spilled(&profile, &model->arch, &schedule, &identity, weight, 1,
                                      spilled ? directory.path : NULL, &error),
         &error);
    return profile;
}

static ousac_status record_into(ousac_profile *profile, uint64_t first, uint64_t count, size_t threads,
                                ousac_error *error) {
    ousac_recorder *recorder = NULL;
    ousac_status status = ousac_recorder_create(&recorder, profile, model->backend, threads, 2, error);
    ousac_run run = {.model = model,
                     .schedule = &schedule,
                     .seed = SEED,
                     .first = first,
                     .count = count,
                     .micro_batch = 2,
                     .threads = threads,
                     .exact = 1,
                     .observers = recorder ? ousac_recorder_observers(recorder) : NULL};
    if (!status)
        status = ousac_run_samples(&run, error);
    ousac_recorder_free(recorder);
    return status;
}

static ousac_profile *record(size_t tokens_used, size_t segments, const double *weight, uint64_t first,
                             uint64_t count, size_t threads) {
    ousac_profile *profile = new_profile(tokens_used, segments, weight);
    ousac_error error = {0};
    must(record_into(profile, first, count, threads, &error), &error);
    return profile;
}

static void some_weights(double *weight) {
    for (size_t i = 0; i < STEPS * OUSAC_BRANCHES * model->arch.group_count; i++)
        weight[i] = i % 7 == 3 ? 0 : 0.25 + (double)(i % 5);
}

/* --- the same sums, naively --- */

typedef struct sums {
    const double *weight;
    size_t tokens_used;
    uint64_t sample;
    size_t step;
    int branch;
    int filled[2];
    int seen[2][TOKENS_MAX], next[TOKENS_MAX]; /* per token: 1, the branch's references hold it, or will */
    double *x[2][SITES], *y[2][SITES], *out[2][MODULES];
    double scalar[OUSAC_SCALAR_COUNT][STEPS][2][SITES];
    double *moment[2][4 * BLOCKS]; /* per segment of two and group: (dim, dim) */
} sums;

static double *keep(double *old, const double *values, size_t count) {
    double *copy = old ? old : malloc(count * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

static int effective(const sums *s) {
    return s->filled[s->branch] ? (int)steps[s->step].gate[s->branch] : OUSAC_GATE_FULL;
}

static void on_begin(void *self, size_t step, int branch) {
    sums *s = self;
    const size_t tokens = model->arch.stream[0].tokens;
    uint32_t deck[TOKENS_MAX];
    s->step = step;
    s->branch = branch;
    /* a site's reference is replaced while the evaluation runs, so `filled` is set by its last module */
    if (effective(s) != OUSAC_GATE_FULL)
        return;
    memset(s->next, 0, sizeof s->next);
    for (size_t i = 0; i < tokens; i++)
        deck[i] = (uint32_t)i;
    for (size_t i = 0; i < s->tokens_used; i++) {
        const size_t j = i + ousac_philox_below(SEED, OUSAC_STREAM_TOKENS, s->sample,
                                                (uint32_t)((step * tokens + i) * 64), (uint32_t)(tokens - i));
        const uint32_t taken = deck[j];
        deck[j] = deck[i];
        s->next[taken] = 1;
    }
    if (!s->filled[branch])
        memcpy(s->seen[branch], s->next, sizeof s->next);
}

/* Over the tokens seen, times the inverse of their share. */
static double energy(const sums *s, const double *a, const double *b, size_t rows, size_t columns) {
    double sum = 0;
    for (size_t i = 0; i < rows * columns; i++)
        if (s->seen[s->branch][i / columns])
            sum += (a[i] - (b ? b[i] : 0)) * (a[i] - (b ? b[i] : 0));
    return sum * (double)model->arch.stream[0].tokens / (double)s->tokens_used;
}

static void on_site(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x, double *y) {
    sums *s = self;
    const ousac_site *where = &model->arch.sites[site];
    const ousac_group *group = &model->arch.groups[where->group];
    int b = s->branch, first = site == group->first_site;
    if (first)
        s->scalar[OUSAC_SCALAR_X2][s->step][b][where->group] += energy(s, x, NULL, rows, n);
    s->scalar[OUSAC_SCALAR_Y2][s->step][b][site] += energy(s, y, NULL, rows, m);
    if (s->filled[b]) {
        if (first)
            s->scalar[OUSAC_SCALAR_DX2][s->step][b][where->group] += energy(s, x, s->x[b][site], rows, n);
        s->scalar[OUSAC_SCALAR_DY2][s->step][b][site] += energy(s, y, s->y[b][site], rows, m);
        if (first && effective(s) == OUSAC_GATE_CACHED) {
            int input = group->side == OUSAC_SIDE_INPUT;
            const double *now = input ? x : y, *then = input ? s->x[b][site] : s->y[b][site];
            double *moment = s->moment[s->step * 2 / STEPS][where->group];
            double w = s->weight[(s->step * 2 + (size_t)b) * model->arch.group_count + where->group] *
                       (double)model->arch.stream[0].tokens / (double)s->tokens_used;
            for (size_t row = 0; row < rows; row++)
                for (size_t i = 0; i < group->dim && s->seen[b][row]; i++)
                    for (size_t j = 0; j < group->dim; j++)
                        moment[i * group->dim + j] +=
                            w * (now[row * group->dim + i] - then[row * group->dim + i]) *
                            (now[row * group->dim + j] - then[row * group->dim + j]);
        }
    }
    if (effective(s) == OUSAC_GATE_FULL) {
        s->x[b][site] = keep(s->x[b][site], x, rows * n);
        s->y[b][site] = keep(s->y[b][site], y, rows * m);
    }
}

static void on_module(void *self, size_t module, size_t rows, size_t d, double *out) {
    sums *s = self;
    int b = s->branch;
    s->scalar[OUSAC_SCALAR_MODULE2][s->step][b][module] += energy(s, out, NULL, rows, d);
    if (s->filled[b])
        s->scalar[OUSAC_SCALAR_DMODULE2][s->step][b][module] += energy(s, out, s->out[b][module], rows, d);
    if (effective(s) == OUSAC_GATE_FULL)
        s->out[b][module] = keep(s->out[b][module], out, rows * d);
    if (module != MODULES - 1)
        return;
    if (effective(s) == OUSAC_GATE_FULL)
        memcpy(s->seen[b], s->next, sizeof s->next);
    s->filled[b] = 1;
}

static void sums_free(sums *s) {
    for (int b = 0; b < 2; b++) {
        for (size_t i = 0; i < SITES; i++)
            free(s->x[b][i]), free(s->y[b][i]);
        for (size_t i = 0; i < MODULES; i++)
            free(s->out[b][i]);
        for (size_t i = 0; i < 4 * BLOCKS; i++)
            free(s->moment[b][i]);
    }
    free(s);
}

static void sums_match_naive(size_t tokens_used) {
    double weight[STEPS * 2 * 4 * BLOCKS];
    float x[3 * 8 * 8];
    ousac_error error = {0};
    some_weights(weight);
    ousac_profile *profile = record(tokens_used, 2, weight, 0, 3, 2);
    sums *s = calloc(1, sizeof *s);
    assert_non_null(s);
    assert_true(model->arch.stream[0].tokens <= TOKENS_MAX);
    s->tokens_used = tokens_used;
    assert_int_equal(ousac_model_sample_size(model), sizeof x / sizeof *x);
    s->weight = weight;
    for (int g = 0; g < 2; g++)
        for (size_t i = 0; i < 4 * BLOCKS; i++) {
            size_t dim = model->arch.groups[i].dim;
            assert_non_null(s->moment[g][i] = calloc(dim * dim, sizeof(double)));
        }
    for (uint64_t sample = 0; sample < 3; sample++) {
        naive_hooks hooks = {.self = s, .begin = on_begin, .site = on_site, .module = on_module};
        s->filled[0] = s->filled[1] = 0;
        s->sample = sample;
        must(naive_trajectory(net, &schedule, SEED, sample, ((const ousac_dit *)model->state)->classes,
                              &hooks, x, &error),
             &error);
    }
    size_t nonzero = 0;
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
        size_t width = ousac_profile_scalar_width(&model->arch, (ousac_scalar)k);
        for (size_t i = 0; i < STEPS; i++)
            for (size_t b = 0; b < 2; b++)
                for (size_t j = 0; j < width; j++) {
                    double expected = s->scalar[k][i][b][j];
                    double got = profile->scalar[k][(i * 2 + b) * width + j];
                    assert_true(fabs(got - expected) <= 2e-5 * expected);
                    nonzero += expected > 0;
                }
    }
    assert_true(nonzero > 300);
    for (size_t segment = 0; segment < 2; segment++)
        for (size_t g = 0; g < model->arch.group_count; g++) {
            size_t dim = model->arch.groups[g].dim;
            const double *expected = s->moment[segment][g],
                         *got = profile->moment[segment * model->arch.group_count + g];
            double difference = 0, norm = 0;
            for (size_t i = 0; i < dim; i++)
                for (size_t j = 0; j <= i; j++) {
                    double d = got[i * (i + 1) / 2 + j] - expected[i * dim + j];
                    difference += d * d;
                    norm += expected[i * dim + j] * expected[i * dim + j];
                }
            assert_true(norm > 0);
            assert_true(sqrt(difference / norm) < 2e-5);
        }
    sums_free(s);
    ousac_profile_free(profile);
}

static void sums_match_naive_trajectory(void **state) {
    (void)state;
    sums_match_naive(model->arch.stream[0].tokens);
    sums_match_naive(5);
}

/* --- channel magnitudes, naively --- */

enum { EVALUATIONS = 6 + 5, PAIRS = 5 + 4 }; /* cond at steps 0 1 2 3 5 6, uncond at 1 3 4 5 6 */

typedef struct magnitudes {
    int branch, seen[2]; /* evaluations of the branch so far */
    double *x[2][SITES], *y[2][SITES];
    double *y_now[SITES], *dy_now[SITES];      /* of the group under way */
    double *sum[OUSAC_MAGNITUDE_COUNT][SITES]; /* x and adx at the group's first site */
} magnitudes;

static void begin_magnitudes(void *self, size_t step, int branch) {
    magnitudes *g = self;
    (void)step;
    g->branch = branch;
    g->seen[branch]++;
}

/* Mean over rows of |a - b|, b NULL for 0. */
static void column_means(double *mean, const double *a, const double *b, size_t rows, size_t columns) {
    for (size_t j = 0; j < columns; j++) {
        mean[j] = 0;
        for (size_t i = 0; i < rows; i++)
            mean[j] += fabs(a[i * columns + j] - (b ? b[i * columns + j] : 0)) / (double)rows;
    }
}

/* Adds the arrays min-max normalised together, over `parts` of them side by side. */
static void add_normalised(double **sum, double *const *mean, size_t parts, const size_t *columns,
                           double share) {
    double least = mean[0][0], most = mean[0][0];
    for (size_t p = 0; p < parts; p++)
        for (size_t j = 0; j < columns[p]; j++) {
            least = fmin(least, mean[p][j]);
            most = fmax(most, mean[p][j]);
        }
    for (size_t p = 0; p < parts; p++) {
        if (!sum[p])
            assert_non_null(sum[p] = calloc(columns[p], sizeof(double)));
        for (size_t j = 0; j < columns[p]; j++)
            sum[p][j] += (mean[p][j] - least + 1e-6) / (most - least + 1e-6) * share;
    }
}

static void site_magnitudes(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x,
                            double *y) {
    magnitudes *g = self;
    const ousac_group *group = &model->arch.groups[model->arch.sites[site].group];
    const int b = g->branch, again = g->seen[b] > 1;
    if (site == group->first_site) {
        double *mean = calloc(n, sizeof *mean);
        column_means(mean, x, NULL, rows, n);
        add_normalised(&g->sum[OUSAC_MAGNITUDE_X][site], &mean, 1, &n, 1.0 / EVALUATIONS);
        if (again) {
            column_means(mean, x, g->x[b][site], rows, n);
            add_normalised(&g->sum[OUSAC_MAGNITUDE_ADX][site], &mean, 1, &n, 1.0 / PAIRS);
        }
        free(mean);
    }
    if (!g->y_now[site])
        g->y_now[site] = calloc(m, sizeof(double)), g->dy_now[site] = calloc(m, sizeof(double));
    column_means(g->y_now[site], y, NULL, rows, m);
    if (again)
        column_means(g->dy_now[site], y, g->y[b][site], rows, m);
    if (site + 1 == group->first_site + group->site_count) {
        size_t columns[3], first = group->first_site;
        for (size_t i = 0; i < group->site_count; i++)
            columns[i] = model->arch.sites[first + i].m;
        add_normalised(&g->sum[OUSAC_MAGNITUDE_Y][first], g->y_now + first, group->site_count, columns,
                       1.0 / EVALUATIONS);
        if (again)
            add_normalised(&g->sum[OUSAC_MAGNITUDE_ADY][first], g->dy_now + first, group->site_count, columns,
                           1.0 / PAIRS);
    }
    g->x[b][site] = keep(g->x[b][site], x, rows * n);
    g->y[b][site] = keep(g->y[b][site], y, rows * m);
}

static void magnitudes_match_naive_trajectory(void **state) {
    (void)state;
    float x[3 * 8 * 8];
    ousac_error error = {0};
    with_magnitudes = 1;
    ousac_profile *profile = record(4, 1, NULL, 0, 3, 2); /* some tokens for the moments, all of them here */
    with_magnitudes = 0;
    magnitudes *g = calloc(1, sizeof *g);
    assert_non_null(g);
    for (uint64_t sample = 0; sample < 3; sample++) {
        naive_hooks hooks = {.self = g, .begin = begin_magnitudes, .site = site_magnitudes};
        g->seen[0] = g->seen[1] = 0;
        must(naive_trajectory(net, &schedule, SEED, sample, ((const ousac_dit *)model->state)->classes,
                              &hooks, x, &error),
             &error);
    }
    double worst = 0;
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++) {
        const double *got = profile->magnitude[k];
        const int of_groups = k == OUSAC_MAGNITUDE_X || k == OUSAC_MAGNITUDE_ADX;
        for (size_t s = 0; s < SITES; s++) {
            if (of_groups && s != model->arch.groups[model->arch.sites[s].group].first_site)
                continue;
            const size_t channels = of_groups ? model->arch.sites[s].n : model->arch.sites[s].m;
            double largest = 0;
            for (size_t j = 0; j < channels; j++) {
                worst = fmax(worst, fabs(got[j] - g->sum[k][s][j]));
                largest = fmax(largest, g->sum[k][s][j]);
            }
            assert_true(largest > 0.3 && largest < 3.0001); /* three samples, each at most 1 */
            got += channels;
        }
        assert_int_equal(got - profile->magnitude[k],
                         ousac_profile_magnitude_size(&model->arch, (ousac_magnitude)k));
    }
    print_message("magnitudes: %.2e\n", worst);
    assert_true(worst < 1e-4);
    for (size_t s = 0; s < SITES; s++) {
        for (int b = 0; b < 2; b++)
            free(g->x[b][s]), free(g->y[b][s]);
        for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++)
            free(g->sum[k][s]);
        free(g->y_now[s]), free(g->dy_now[s]);
    }
    free(g);
    ousac_profile_free(profile);
}

/* --- adding up --- */

static double worst_difference(const ousac_profile *a, const ousac_profile *b) {
    double worst = 0;
    for (size_t i = 0; i < a->identity.segments * a->arch.group_count; i++) {
        size_t dim = a->arch.groups[i % a->arch.group_count].dim;
        double scale = 0;
        for (size_t j = 0; j < dim; j++)
            scale = fmax(scale, fabs(a->moment[i][j * (j + 1) / 2 + j]));
        for (size_t j = 0; j < dim * (dim + 1) / 2; j++)
            worst = fmax(worst, fabs(a->moment[i][j] - b->moment[i][j]) / scale);
    }
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++)
        for (size_t j = 0; j < STEPS * 2 * ousac_profile_scalar_width(&a->arch, (ousac_scalar)k); j++)
            if (a->scalar[k][j] > 0)
                worst = fmax(worst, fabs(a->scalar[k][j] - b->scalar[k][j]) / a->scalar[k][j]);
    for (int k = 0; a->identity.magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++)
        for (size_t j = 0; j < ousac_profile_magnitude_size(&a->arch, (ousac_magnitude)k); j++)
            worst = fmax(worst, fabs(a->magnitude[k][j] - b->magnitude[k][j]));
    return worst;
}

static void four_shards_add_up_to_the_single_run(void **state) {
    (void)state;
    ousac_error error = {0};
    with_magnitudes = 1;
    ousac_profile *whole = record(model->arch.stream[0].tokens, 1, NULL, 0, SAMPLES, 1);
    ousac_profile *merged = new_profile(model->arch.stream[0].tokens, 1, NULL);
    for (int shard = 3; shard >= 0; shard--) { /* in any order */
        ousac_profile *part = record(model->arch.stream[0].tokens, 1, NULL, (uint64_t)shard * 2, 2, 1);
        must(ousac_profile_merge(merged, part, &error), &error);
        ousac_profile_free(part);
    }
    assert_int_equal(merged->range_count, 1);
    assert_int_equal(ousac_profile_samples(merged), SAMPLES);
    assert_true(worst_difference(whole, merged) <= 1e-10);
    assert_true(worst_difference(whole, whole) == 0);
    ousac_profile *part = record(model->arch.stream[0].tokens, 1, NULL, 2, 2, 1);
    assert_int_equal(ousac_profile_merge(merged, part, &error), OUSAC_STATUS_MISMATCH);
    with_magnitudes = 0;
    ousac_profile_free(part);
    ousac_profile_free(whole);
    ousac_profile_free(merged);
}

/* Deltas of several evaluations go through one product; with a segment for every step each has its own. Long
 * enough for some to be full before the trajectory ends. */
static void moments_do_not_depend_on_what_waits_together(void **state) {
    enum { LONG = 40 };
    ousac_step many[LONG];
    const ousac_schedule before = schedule;
    double *weight = malloc(sizeof *weight * LONG * OUSAC_BRANCHES * model->arch.group_count);
    (void)state;
    assert_non_null(weight);
    for (size_t i = 0; i < LONG; i++)
        many[i] = (ousac_step){(double)(980 - 24 * i), OUSAC_MODE_COND, 1, GATES(CACHED, CACHED)};
    many[0].gate[0] = many[17].gate[0] = OUSAC_GATE_FULL;
    for (size_t i = 0; i < LONG * OUSAC_BRANCHES * model->arch.group_count; i++)
        weight[i] = i % 11 == 5 ? 0 : pow(10, (double)(i % 7) - 3);
    schedule.steps = many;
    schedule.step_count = LONG;
    const size_t rows = 2 * model->arch.stream[0].tokens;
    assert_int_equal(ousac_recorder_waiting(&schedule, 2, model->arch.stream[0].tokens), 512);
    assert_true((LONG - 2) * rows > 512);
    ousac_profile *together = record(model->arch.stream[0].tokens, 1, weight, 0, 3, 1),
                  *apart = record(model->arch.stream[0].tokens, LONG, weight, 0, 3, 1);
    for (size_t g = 0; g < model->arch.group_count; g++) {
        const size_t size = ousac_profile_moment_size(&model->arch.groups[g]);
        double *sum = malloc(size * sizeof *sum), largest = 0, worst = 0;
        assert_int_equal(ousac_profile_sum_moments(apart, g, sum, NULL), OUSAC_STATUS_OK);
        for (size_t i = 0; i < size; i++) {
            largest = fmax(largest, fabs(sum[i]));
            worst = fmax(worst, fabs(sum[i] - together->moment[g][i]));
        }
        assert_true(largest > 0);
        assert_true(worst < 2e-6 * largest);
        free(sum);
    }
    ousac_profile_free(together);
    ousac_profile_free(apart);
    schedule = before;
    free(weight);
}

static void threads_do_not_change_a_bit(void **state) {
    (void)state;
    with_magnitudes = 1;
    ousac_profile *one = record(5, 1, NULL, 0, SAMPLES, 1), *four = record(5, 1, NULL, 0, SAMPLES, 4);
    with_magnitudes = 0;
    char digest[2][OUSAC_DIGEST_CHARS];
    ousac_profile_digest(one, digest[0]);
    ousac_profile_digest(four, digest[1]);
    assert_string_equal(digest[0], digest[1]);
    ousac_profile_free(one);
    ousac_profile_free(four);
}

/* Half the tokens, scaled by the inverse rate, estimate the whole: traces agree within sampling error. */
static void sampled_tokens_estimate_the_whole(void **state) {
    (void)state;
    ousac_profile *all = record(model->arch.stream[0].tokens, 1, NULL, 0, SAMPLES, 1);
    ousac_profile *half = record(model->arch.stream[0].tokens / 2, 1, NULL, 0, SAMPLES, 1);
    double ratio_sum = 0;
    for (size_t g = 0; g < model->arch.group_count; g++) {
        double trace[2] = {0, 0};
        for (size_t i = 0; i < model->arch.groups[g].dim; i++) {
            trace[0] += all->moment[g][i * (i + 1) / 2 + i];
            trace[1] += half->moment[g][i * (i + 1) / 2 + i];
        }
        assert_true(trace[1] != trace[0]);
        assert_true(fabs(trace[1] / trace[0] - 1) < 0.2);
        ratio_sum += trace[1] / trace[0];
    }
    assert_true(fabs(ratio_sum / (double)model->arch.group_count - 1) < 0.05);
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
        const size_t width = ousac_profile_scalar_width(&model->arch, (ousac_scalar)k);
        double whole = 0, estimate = 0;
        for (size_t i = 0; i < STEPS * OUSAC_BRANCHES * width; i++) {
            whole += all->scalar[k][i];
            estimate += half->scalar[k][i];
            assert_true((all->scalar[k][i] > 0) == (half->scalar[k][i] > 0));
        }
        assert_true(estimate != whole);
        assert_true(fabs(estimate / whole - 1) < 0.05);
    }
    ousac_profile_free(all);
    ousac_profile_free(half);
}

/* With weights of 1 the trace of a moment is the sum of the squared deltas of its side, of the same tokens.
 */
static void scalars_and_moments_see_the_same_tokens(void **state) {
    (void)state;
    ousac_profile *profile = record(5, 1, NULL, 0, 3, 2);
    for (size_t g = 0; g < model->arch.group_count; g++) {
        const ousac_group *group = &model->arch.groups[g];
        double trace = 0, sum = 0;
        for (size_t i = 0; i < group->dim; i++)
            trace += profile->moment[g][i * (i + 1) / 2 + i];
        for (size_t e = 0; e < STEPS * OUSAC_BRANCHES; e++)
            if (profile->gate[e] == OUSAC_GATE_CACHED)
                sum +=
                    group->side == OUSAC_SIDE_INPUT
                        ? profile->scalar[OUSAC_SCALAR_DX2][e * model->arch.group_count + g]
                        : profile->scalar[OUSAC_SCALAR_DY2][e * model->arch.site_count + group->first_site];
        assert_true(trace > 0);
        assert_true(fabs(sum / trace - 1) < 1e-5);
    }
    ousac_profile_free(profile);
}

static void non_finite_activations_name_site_step_and_branch(void **state) {
    (void)state;
    ousac_error error = {0};
    ousac_profile *profile = new_profile(model->arch.stream[0].tokens, 1, NULL);
    size_t site = ousac_arch_find_site(&model->arch, "blocks.1.mlp.fc1");
    float *w =
        ((ousac_dit *)model->state)->weights + (model->weight[site] - ((ousac_dit *)model->state)->weights);
    float before = *w;
    *w = INFINITY;
    assert_int_equal(record_into(profile, 0, 2, 1, &error), OUSAC_STATUS_NUMBER);
    *w = before;
    assert_non_null(strstr(error.message, "blocks.1.mlp.fc1"));
    assert_non_null(strstr(error.message, "step 0"));
    assert_non_null(strstr(error.message, "cond"));
    assert_int_equal(profile->range_count, 0);
    ousac_profile_free(profile);
}

static void moments_on_disk_are_those_in_memory(void **state) {
    (void)state;
    char path[SCRATCH_PATH_BYTES], digest[2][OUSAC_DIGEST_CHARS];
    ousac_error error = {0};
    for (size_t threads = 1; threads < 4; threads++) {
        ousac_profile *loaded = NULL;
        for (spilled = 0; spilled < 2; spilled++) {
            ousac_profile *profile = record(4, 2, NULL, 0, SAMPLES, threads);
            assert_int_equal(profile->spill != NULL, spilled);
            ousac_profile_digest(profile, digest[spilled]);
            must(ousac_profile_save(profile, scratch_path(&directory, "spilled.oca", path), NULL, &error),
                 &error);
            ousac_profile_free(profile);
        }
        spilled = 0;
        assert_string_equal(digest[0], digest[1]);
        must(ousac_profile_load(&loaded, path, &error), &error); /* which compares the digest */
        ousac_profile_free(loaded);
    }
}

static void allocation_failures_are_reported(void **state) {
    (void)state;
    ousac_error error = {0};
    with_magnitudes = 1;
    for (long n = 0;; n++) {
        ousac_profile *profile = new_profile(4, 1, NULL);
        (void)ousac_memory_fail_after(n);
        ousac_status status = record_into(profile, 0, 2, 2, &error);
        (void)ousac_memory_fail_after(-1);
        ousac_profile_free(profile);
        if (!status) {
            assert_true(n > 20);
            with_magnitudes = 0;
            return;
        }
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_match_naive_trajectory),
        cmocka_unit_test(magnitudes_match_naive_trajectory),
        cmocka_unit_test(four_shards_add_up_to_the_single_run),
        cmocka_unit_test(moments_do_not_depend_on_what_waits_together),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(sampled_tokens_estimate_the_whole),
        cmocka_unit_test(scalars_and_moments_see_the_same_tokens),
        cmocka_unit_test(non_finite_activations_name_site_step_and_branch),
        cmocka_unit_test(moments_on_disk_are_those_in_memory),
        cmocka_unit_test(allocation_failures_are_reported),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
