/* Calibration of the shipped model, measured: the spectra predict what truncation really loses, full-rank
 * corrections reproduce the exact step, and every site's factors matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "profile/bundle/factorise.h"
#include "profile/record/recorder.h"
#include "profile/run/executor.h"

enum { SEED = 4, SAMPLES = 4, BATCH = 2, STEPS = 10, SITES = 72, GROUPS = 48 };

static ousac_model *model;
static ousac_schedule schedule;
static ousac_profile *profile;
static ousac_factor_set *set; /* full rank */

static void must(ousac_status status, const ousac_error *error) {
    if (status)
        fail_msg("%s: %s", ousac_status_name(status), error->message);
}

static ousac_profile *record(const double *weight, int with_moments) {
    ousac_error error = {0};
    ousac_profile *p = NULL;
    ousac_recorder *recorder = NULL;
    ousac_profile_identity identity = {.seed = SEED, .micro_batch = BATCH, .tokens_used = 64, .segments = 1};
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    must(ousac_profile_create(&p, &model->arch, &schedule, &identity, weight, with_moments, &error), &error);
    must(ousac_recorder_create(&recorder, p, model->backend, 2, BATCH, &error), &error);
    ousac_run run = {.model = model,
                     .schedule = &schedule,
                     .seed = SEED,
                     .count = SAMPLES,
                     .micro_batch = BATCH,
                     .threads = 2,
                     .exact = 1,
                     .observers = ousac_recorder_observers(recorder)};
    must(ousac_run_samples(&run, &error), &error);
    ousac_recorder_free(recorder);
    return p;
}

/* Sparse guidance, a period of three: conditional and unconditional caches of different ages. */
static int set_up(void **state) {
    double scale[STEPS];
    ousac_gate gate[STEPS];
    ousac_error error = {0};
    (void)state;
    for (int i = 0; i < STEPS; i++) {
        scale[i] = i % 2 == 0 ? 4.0 - 0.2 * i : (double)NAN;
        gate[i] = i % 3 == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    }
    ousac_schedule_options options = {"sparse",        STEPS, 1000, OUSAC_SPACING_LINSPACE,
                                      OUSAC_MODE_COND, scale, gate, OUSAC_SOLVER_DDIM};
    if (ousac_model_load(&model, "data/shapes-dit/model.safetensors", NULL, ousac_backend_cpu(), &error) ||
        ousac_schedule_build(&schedule, &options, &error)) {
        print_error("%s\n", error.message);
        return -1;
    }
    if (model->arch.site_count != SITES || model->arch.group_count != GROUPS)
        return -1;
    double *weight = calloc(STEPS * OUSAC_BRANCHES * GROUPS, sizeof *weight);
    ousac_profile *pilot = record(NULL, 0);
    ousac_profile_step_weights(pilot, weight);
    profile = record(weight, 1);
    ousac_profile_free(pilot);
    free(weight);
    size_t full[SITES];
    for (size_t s = 0; s < SITES; s++)
        full[s] =
            model->arch.sites[s].m < model->arch.sites[s].n ? model->arch.sites[s].m : model->arch.sites[s].n;
    ousac_factorise_options factorise = {.rank_max = full, .threads = 2};
    return ousac_factor_set_create(&set, model, profile, &factorise, &error);
}

static int tear_down(void **state) {
    (void)state;
    ousac_factor_set_free(set);
    ousac_profile_free(profile);
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    return 0;
}

/* --- what truncation really loses: sum w ||(W - A B) (x - x_c)||^2 over the same deltas --- */

enum { RANKS = 4 };
static const size_t try_rank[RANKS] = {4, 16, 48, 96};

typedef struct loss {
    double *residual[SITES][RANKS]; /* (m, n): W - A B, double */
    double sum[SITES][RANKS];
    float *x[2][GROUPS]; /* (rows, n) */
    int filled[2], any;
    uint64_t first;
    size_t step;
    int branch;
    double *delta, *lost; /* scratch */
} loss;

static ousac_status on_begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first,
                             size_t count, ousac_error *error) {
    loss *l = self;
    (void)gate, (void)count, (void)error;
    if (first != l->first || !l->any) /* another micro-batch: caches start empty */
        l->filled[0] = l->filled[1] = 0;
    l->first = first;
    l->any = 1;
    l->step = step;
    l->branch = branch;
    return OUSAC_STATUS_OK;
}

static double lost_energy(loss *l, const double *map, size_t rows, size_t m, size_t n) {
    const ousac_backend *be = model->backend;
    double sum = 0;
    ousac_error error = {0};
    must(be->gemm64(be, 0, 1, rows, m, n, 1, l->delta, n, map, n, 0, l->lost, m, &error), &error);
    for (size_t i = 0; i < rows * m; i++)
        sum += l->lost[i] * l->lost[i];
    return sum;
}

static ousac_status on_linear(void *self, size_t group, size_t rows, const float *x, size_t ldx,
                              const float *y, size_t ldy, ousac_error *error) {
    loss *l = self;
    const ousac_group *g = &model->arch.groups[group];
    size_t n = model->arch.sites[g->first_site].n;
    float *old = l->x[l->branch][group];
    int gate = l->filled[l->branch] ? (int)schedule.steps[l->step].gate[l->branch] : OUSAC_GATE_FULL;
    (void)y, (void)ldy, (void)error;
    assert_int_equal(ldx, n);
    if (gate == OUSAC_GATE_FULL) {
        memcpy(old, x, rows * n * sizeof *x);
        return OUSAC_STATUS_OK;
    }
    for (size_t i = 0; i < rows * n; i++)
        l->delta[i] = (double)(x[i] - old[i]);
    double w = profile->weight[(l->step * 2 + (size_t)l->branch) * GROUPS + group];
    for (size_t s = g->first_site; s < g->first_site + g->site_count; s++)
        for (int r = 0; r < RANKS; r++)
            if (l->residual[s][r])
                l->sum[s][r] += w * lost_energy(l, l->residual[s][r], rows, model->arch.sites[s].m, n);
    return OUSAC_STATUS_OK;
}

static ousac_status on_end(void *self, ousac_error *error) {
    loss *l = self;
    (void)error;
    l->filled[l->branch] = 1; /* the first evaluation of a branch is a full one */
    return OUSAC_STATUS_OK;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    (void)worker, (void)error;
    *observer = (ousac_observer){.self = self, .begin = on_begin, .linear = on_linear, .end = on_end};
    return OUSAC_STATUS_OK;
}

static void spectra_predict_what_truncation_loses(void **state) {
    (void)state;
    ousac_error error = {0};
    loss *l = calloc(1, sizeof *l);
    size_t rows = BATCH * 64, compared = 0;
    double worst = 0;
    assert_non_null(l);
    l->delta = malloc(rows * 768 * sizeof(double));
    l->lost = malloc(rows * 768 * sizeof(double));
    for (int b = 0; b < 2; b++)
        for (size_t g = 0; g < GROUPS; g++)
            l->x[b][g] = malloc(rows * 768 * sizeof(float));
    for (size_t s = 0; s < SITES; s++) {
        const ousac_factors *f = &set->site[s];
        double total = ousac_spectrum_tail(f->lambda, f->lambda_count, 0);
        for (int r = 0; r < RANKS; r++) {
            if (try_rank[r] > f->rank ||
                ousac_spectrum_tail(f->lambda, f->lambda_count, try_rank[r]) < 1e-4 * total)
                continue;
            double *map = l->residual[s][r] = malloc(f->m * f->n * sizeof *map);
            for (size_t i = 0; i < f->m; i++)
                for (size_t j = 0; j < f->n; j++) {
                    double sum = (double)model->weight[s][i * f->n + j];
                    for (size_t k = 0; k < try_rank[r]; k++)
                        sum -= (double)f->a[k * f->m + i] * (double)f->b[k * f->n + j];
                    map[i * f->n + j] = sum;
                }
        }
    }
    ousac_run_observers observers = {.self = l, .attach = attach};
    ousac_run run = {.model = model,
                     .schedule = &schedule,
                     .seed = SEED,
                     .count = SAMPLES,
                     .micro_batch = BATCH,
                     .threads = 1,
                     .exact = 1,
                     .observers = &observers};
    must(ousac_run_samples(&run, &error), &error);
    for (size_t s = 0; s < SITES; s++)
        for (int r = 0; r < RANKS; r++)
            if (l->residual[s][r]) {
                double predicted =
                    ousac_spectrum_tail(set->site[s].lambda, set->site[s].lambda_count, try_rank[r]);
                double off = fabs(l->sum[s][r] / predicted - 1);
                if (off > 1e-3 && off > worst)
                    print_error("%s rank %zu: predicted %.6e, measured %.6e\n", model->arch.sites[s].name,
                                try_rank[r], predicted, l->sum[s][r]);
                worst = fmax(worst, off);
                compared++;
                free(l->residual[s][r]);
            }
    print_message("%zu (site, rank) pairs, worst deviation %.2e\n", compared, worst);
    assert_true(compared >= SITES);
    assert_true(worst <= 1e-3);
    for (int b = 0; b < 2; b++)
        for (size_t g = 0; g < GROUPS; g++)
            free(l->x[b][g]);
    free(l->delta), free(l->lost), free(l);
}

/* --- single steps on the exact trajectory's states --- */

static void evaluate(ousac_executor *executor, void *workspace, size_t step, const float *x, float *eps) {
    ousac_gate effective;
    ousac_error error = {0};
    must(ousac_executor_begin(executor, step, 0, schedule.steps[step].gate[0], 1, NULL, &effective, &error),
         &error);
    must(ousac_executor_forward(executor, workspace, x, &schedule.steps[step], eps, &error), &error);
    ousac_executor_end(executor);
}

static double relative(const float *a, const float *b, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / norm);
}

static ousac_calibration *full_rank(void) {
    size_t rank[SITES];
    ousac_calibration *calibration = NULL;
    ousac_error error = {0};
    for (size_t s = 0; s < SITES; s++)
        rank[s] = set->site[s].rank;
    ousac_ranks ranks = {.rank = rank, .dense_fallback = 0};
    must(ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks, ousac_factor_set_source,
                                  set, NULL, &error),
         &error);
    return calibration;
}

static void full_rank_reproduces_the_exact_step_and_every_site_matters(void **state) {
    (void)state;
    size_t size = ousac_model_sample_size(model);
    ousac_error error = {0};
    float *x = malloc(STEPS * size * sizeof *x), *exact = malloc(STEPS * size * sizeof *exact),
          *eps = malloc(size * sizeof *eps);
    ousac_executor *executor = NULL;
    void *workspace = NULL;
    ousac_gate effective;
    assert_true(x && exact && eps);
    must(model->family->workspace_create(model, 1, &workspace, &error), &error);
    must(model->family->set_inputs(model, workspace, SEED, 0, 1, &error), &error);

    /* exact states and outputs, one branch, DDIM */
    must(ousac_executor_create(&executor, model, &(ousac_executor_options){.batch = 1}, &error), &error);
    ousac_model_draw_noise(model, SEED, 0, 1, x);
    for (size_t i = 0; i < STEPS; i++) {
        must(ousac_executor_begin(executor, i, 0, OUSAC_GATE_FULL, 1, NULL, &effective, &error), &error);
        must(ousac_executor_forward(executor, workspace, x + i * size, &schedule.steps[i], exact + i * size,
                                    &error),
             &error);
        ousac_executor_end(executor);
        if (i + 1 < STEPS) {
            double a = model->noise.alpha_bar[(size_t)schedule.steps[i].timestep];
            double b = model->noise.alpha_bar[(size_t)schedule.steps[i + 1].timestep];
            for (size_t j = 0; j < size; j++) {
                double e = (double)exact[i * size + j],
                       clean = ((double)x[i * size + j] - sqrt(1 - a) * e) / sqrt(a);
                x[(i + 1) * size + j] = (float)(sqrt(b) * clean + sqrt(1 - b) * e);
            }
        }
    }
    ousac_executor_free(executor);

    ousac_calibration *calibration = full_rank();
    must(ousac_executor_create(&executor, model,
                               &(ousac_executor_options){.calibration = calibration, .batch = 1, .keep = 1},
                               &error),
         &error);
    double worst = 0;
    for (size_t i = 0; i < STEPS; i++) {
        evaluate(executor, workspace, i, x + i * size, eps);
        worst = fmax(worst, relative(eps, exact + i * size, size));
    }
    const ousac_counters *counters = ousac_executor_counters(executor);
    print_message("full rank: worst step %.2e, %llu corrections\n", worst,
                  (unsigned long long)counters->site_low_rank);
    assert_true(worst <= 1e-4);
    assert_int_equal(counters->site_low_rank, 6 * SITES); /* six cached steps, every site */
    assert_int_equal(counters->site_dense + counters->site_frozen + counters->site_skipped, 0);
    ousac_executor_free(executor);
    ousac_calibration_free(calibration);

    double weakest = INFINITY;
    for (size_t s = 0; s < SITES; s++) {
        double change = 0;
        calibration = full_rank();
        must(ousac_calibration_zero_site(calibration, &model->arch, s, &error), &error);
        must(ousac_executor_create(
                 &executor, model,
                 &(ousac_executor_options){.calibration = calibration, .batch = 1, .keep = 1}, &error),
             &error);
        for (size_t i = 0; i < STEPS; i++) {
            evaluate(executor, workspace, i, x + i * size, eps);
            change = fmax(change, relative(eps, exact + i * size, size));
        }
        if (change <= 1e-3)
            print_error("%s: zeroing its factors changes the output by %.2e only\n",
                        model->arch.sites[s].name, change);
        weakest = fmin(weakest, change);
        ousac_executor_free(executor);
        ousac_calibration_free(calibration);
    }
    print_message("weakest site: its factors are worth %.2e of the output\n", weakest);
    assert_true(weakest > 1e-3);
    model->family->workspace_free(model, workspace);
    free(x), free(exact), free(eps);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spectra_predict_what_truncation_loses),
        cmocka_unit_test(full_rank_reproduces_the_exact_step_and_every_site_matters),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
