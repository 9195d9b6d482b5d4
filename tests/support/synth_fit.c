#include "tests/support/synth_fit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/backend/backend.h"
#include "profile/model/dit.h"
#include "profile/record/recorder.h"
#include "profile/run/runner.h"
#include "tests/support/profile_support.h"

enum { UNKNOWNS = 4, SAMPLES = 16, PILOT = 8, BATCH = 4, WORKERS = 2, LABELS_MAX = 16 };

/* --- spectra --- */

void synth_eigenvalues(size_t n, const double *packed, double *values) {
    const ousac_backend *be = ousac_backend_cpu();
    ousac_error error = {0};
    double *a = calloc(n * n, sizeof *a);
    assert_non_null(a);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            a[i * n + j] = a[j * n + i] = packed[i * (i + 1) / 2 + j];
    must_succeed(be->eigen64(be, n, a, n, values, &error), &error);
    free(a);
}

void synth_singular_values(size_t m, size_t n, const float *w, double *values) {
    const ousac_backend *be = ousac_backend_cpu();
    const size_t order = m < n ? m : n;
    ousac_error error = {0};
    double *wide = calloc(m * n, sizeof *wide), *gram = calloc(order * order, sizeof *gram);
    assert_non_null(wide);
    assert_non_null(gram);
    for (size_t i = 0; i < m * n; i++)
        wide[i] = (double)w[i];
    must_succeed(m < n ? be->gemm64(be, 0, 1, m, m, n, 1, wide, n, wide, n, 0, gram, m, &error)
                       : be->gemm64(be, 1, 0, n, n, m, 1, wide, n, wide, n, 0, gram, n, &error),
                 &error);
    must_succeed(be->eigen64(be, order, gram, order, values, &error), &error);
    for (size_t i = 0; i < order; i++)
        values[i] = sqrt(fmax(values[i], 0));
    free(gram);
    free(wide);
}

/* --- the fit --- */

/* Gaussian elimination with pivoting of a (UNKNOWNS, UNKNOWNS + 1). */
static void solve(double a[UNKNOWNS][UNKNOWNS + 1], double x[UNKNOWNS]) {
    for (size_t k = 0; k < UNKNOWNS; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < UNKNOWNS; i++)
            pivot = fabs(a[i][k]) > fabs(a[pivot][k]) ? i : pivot;
        for (size_t j = 0; j <= UNKNOWNS; j++) {
            const double kept = a[k][j];
            a[k][j] = a[pivot][j];
            a[pivot][j] = kept;
        }
        for (size_t i = 0; i < UNKNOWNS; i++)
            for (size_t j = UNKNOWNS + 1; i != k && j-- > k;)
                a[i][j] -= a[i][k] / a[k][k] * a[k][j];
    }
    for (size_t k = 0; k < UNKNOWNS; k++)
        x[k] = a[k][UNKNOWNS] / a[k][k];
}

static void basis(size_t i, size_t n, double row[UNKNOWNS]) {
    const double t = ((double)i + 0.5) / (double)n;
    row[0] = 1;
    row[1] = -log(t);
    row[2] = log(1 - t);
    row[3] = -t;
}

void synth_fit_decay(size_t n, size_t used, const double *logarithms, ousac_decay *decay, double *worst) {
    double normal[UNKNOWNS][UNKNOWNS + 1] = {{0}}, x[UNKNOWNS], row[UNKNOWNS];
    for (size_t i = 0; i < used; i++) {
        const double weight = 1 / sqrt((double)i + 0.5);
        basis(i, n, row);
        for (size_t k = 0; k < UNKNOWNS; k++) {
            for (size_t l = 0; l < UNKNOWNS; l++)
                normal[k][l] += weight * row[k] * row[l];
            normal[k][UNKNOWNS] += weight * row[k] * logarithms[i];
        }
    }
    solve(normal, x);
    *decay = (ousac_decay){x[1], x[2], x[3]};
    *worst = 0;
    for (size_t i = 0; i < used; i++) {
        basis(i, n, row);
        double fitted = 0;
        for (size_t k = 0; k < UNKNOWNS; k++)
            fitted += x[k] * row[k];
        *worst = fmax(*worst, fabs(fitted - logarithms[i]));
    }
}

/* Adds the logarithms of the values, scaled to a mean `moment`-th power of 1, to sums. */
static void add_logarithms(size_t n, const double *values, int moment, double *sums) {
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += pow(values[i], moment) / (double)n;
    for (size_t i = 0; i < n; i++)
        sums[i] += log(fmax(values[i], 1e-300)) - log(mean) / moment;
}

/* --- weights --- */

static void add_weight(size_t m, size_t n, const float *w, double *sums, double *gain) {
    const size_t order = m < n ? m : n;
    double *values = calloc(order, sizeof *values), squares = 0;
    assert_non_null(values);
    for (size_t i = 0; i < m * n; i++)
        squares += (double)w[i] * (double)w[i];
    *gain += log(sqrt(squares / (double)m));
    synth_singular_values(m, n, w, values);
    add_logarithms(order, values, 2, sums);
    free(values);
}

void synth_fit_weights(const ousac_model *model, ousac_synth_weight_law laws[OUSAC_SYNTH_KIND_COUNT],
                       double worst[OUSAC_SYNTH_KIND_COUNT]) {
    const ousac_dit *dit = model->state;
    const size_t d = dit->d, used = d - d / 50;
    double *sums = calloc(d, sizeof *sums);
    assert_non_null(sums);
    for (size_t kind = 0; kind < OUSAC_SYNTH_KIND_COUNT; kind++) {
        double gain = 0, count = 0;
        memset(sums, 0, d * sizeof *sums);
        for (size_t b = 0; b < dit->L; b++) {
            const size_t parts = kind == OUSAC_SYNTH_MODULATION ? 6 : 1, s = b * OUSAC_SYNTH_SITES + kind;
            for (size_t p = 0; p < parts; p++, count++) {
                if (kind == OUSAC_SYNTH_MODULATION)
                    add_weight(d, d, dit->block[b].modulation + p * d * d, sums, &gain);
                else
                    add_weight(model->arch.sites[s].m, model->arch.sites[s].n, model->weight[s], sums, &gain);
            }
        }
        for (size_t i = 0; i < d; i++)
            sums[i] /= count;
        synth_fit_decay(d, used, sums, &laws[kind].decay, &worst[kind]);
        laws[kind].gain = exp(gain / count);
    }
    free(sums);
}

/* --- modulation --- */

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* silu(timestep embedding + label embedding), as arXiv 2212.09748 has it. */
static void condition(const ousac_dit *dit, double timestep, size_t label, double *c) {
    const size_t d = dit->d, half = dit->frequencies / 2;
    double *hidden = calloc(d, sizeof *hidden);
    assert_non_null(hidden);
    for (size_t i = 0; i < d; i++) {
        hidden[i] = (double)dit->embedder->t_bias0[i];
        for (size_t k = 0; k < half; k++) {
            const double phase = timestep * exp(-log(10000) * (double)k / dit->frequency_denominator);
            hidden[i] += cos(phase) * (double)dit->embedder->t_w0[i * dit->frequencies + k] +
                         sin(phase) * (double)dit->embedder->t_w0[i * dit->frequencies + half + k];
        }
        hidden[i] = silu(hidden[i]);
    }
    for (size_t i = 0; i < d; i++) {
        c[i] = (double)dit->embedder->t_bias2[i] + (double)dit->embedder->table[label * d + i];
        for (size_t k = 0; k < d; k++)
            c[i] += (double)dit->embedder->t_w2[i * d + k] * hidden[k];
        c[i] = silu(c[i]);
    }
    free(hidden);
}

/* Adds the squares of part `part` of a modulation at condition c. */
static void add_squares(const float *w, const float *bias, size_t d, size_t part, const double *c,
                        double *sum) {
    for (size_t i = part * d; i < (part + 1) * d; i++) {
        double value = (double)bias[i];
        for (size_t k = 0; k < d; k++)
            value += (double)w[i * d + k] * c[k];
        *sum += value * value / (double)d;
    }
}

void synth_fit_modulation(const ousac_model *model, double rms[OUSAC_SYNTH_MODULATIONS]) {
    static const double timesteps[] = {999, 800, 600, 400, 200, 100, 20, 0};
    const size_t steps = sizeof timesteps / sizeof *timesteps;
    const ousac_dit *dit = model->state;
    const size_t rows = dit->table_rows < LABELS_MAX ? dit->table_rows : LABELS_MAX,
                 conditions = steps * rows;
    double *squares = calloc((dit->L + 1) * 6, sizeof *squares), *c = calloc(dit->d, sizeof *c);
    assert_non_null(squares);
    assert_non_null(c);
    for (size_t at = 0; at < conditions; at++) {
        condition(dit, timesteps[at / rows], at % rows, c);
        for (size_t b = 0; b <= dit->L; b++)
            for (size_t part = 0; part < (b < dit->L ? 6 : 2); part++)
                add_squares(b < dit->L ? dit->block[b].modulation : dit->final_modulation,
                            b < dit->L ? dit->block[b].modulation_bias : dit->final_modulation_bias, dit->d,
                            part, c, &squares[b * 6 + part]);
    }
    for (size_t part = 0; part < OUSAC_SYNTH_MODULATIONS; part++) {
        const size_t first = part < 6 ? 0 : dit->L, end = part < 6 ? dit->L : dit->L + 1;
        double logarithms = 0;
        for (size_t b = first; b < end; b++)
            logarithms += log(squares[b * 6 + part % 6] / (double)conditions) / 2;
        rms[part] = exp(logarithms / (double)(end - first));
    }
    free(c);
    free(squares);
}

/* --- moments and levels --- */

static ousac_profile *record(const ousac_model *model, const ousac_schedule *schedule, const double *weight,
                             uint64_t count, int with_moments) {
    ousac_profile *profile = NULL;
    ousac_recorder *recorder = NULL;
    ousac_error error = {0};
    ousac_profile_identity identity = {
        .micro_batch = BATCH, .tokens_used = model->arch.stream[0].tokens, .segments = 1};
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    must_succeed(
        ousac_profile_create(&profile, &model->arch, schedule, &identity, weight, with_moments, &error),
        &error);
    must_succeed(ousac_recorder_create(&recorder, profile, model->backend, WORKERS, BATCH, &error), &error);
    const ousac_run run = {.model = model,
                           .schedule = schedule,
                           .count = count,
                           .micro_batch = BATCH,
                           .threads = WORKERS,
                           .exact = 1,
                           .observers = ousac_recorder_observers(recorder)};
    must_succeed(ousac_run_samples(&run, &error), &error);
    ousac_recorder_free(recorder);
    return profile;
}

ousac_profile *synth_record(const ousac_model *model, const ousac_schedule *schedule) {
    double *weight = calloc(schedule->step_count * OUSAC_BRANCHES * model->arch.group_count, sizeof *weight);
    assert_non_null(weight);
    ousac_profile *pilot = record(model, schedule, NULL, PILOT, 0);
    ousac_profile_step_weights(pilot, weight);
    ousac_profile *profile = record(model, schedule, weight, SAMPLES, 1);
    ousac_profile_free(pilot);
    free(weight);
    return profile;
}

void synth_fit_moments(const ousac_profile *profile, ousac_decay laws[OUSAC_SYNTH_GROUPS],
                       double worst[OUSAC_SYNTH_GROUPS]) {
    const ousac_arch *arch = &profile->arch;
    const size_t d = arch->width;
    double *sums = calloc(d, sizeof *sums), *values = calloc(d, sizeof *values);
    assert_non_null(sums);
    assert_non_null(values);
    for (size_t g = 0; g < OUSAC_SYNTH_GROUPS; g++) {
        memset(sums, 0, d * sizeof *sums);
        for (size_t b = 0; b < arch->block_count; b++) {
            assert_int_equal(arch->groups[b * OUSAC_SYNTH_GROUPS + g].dim, d);
            synth_eigenvalues(d, profile->moment[b * OUSAC_SYNTH_GROUPS + g], values);
            add_logarithms(d, values, 1, sums);
        }
        for (size_t i = 0; i < d; i++)
            sums[i] /= (double)arch->block_count;
        synth_fit_decay(d, d, sums, &laws[g], &worst[g]);
    }
    free(values);
    free(sums);
}

/* Of items index, index + stride, ... of a scalar of `width` items; `channels` values a token. */
static void fit_level(const ousac_profile *profile, ousac_scalar value, ousac_scalar delta, size_t index,
                      size_t stride, size_t channels, ousac_synth_level *level) {
    const size_t width = ousac_profile_scalar_width(&profile->arch, value),
                 evaluations = profile->schedule.step_count * OUSAC_BRANCHES;
    double energy = 0, values = 0, n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (size_t at = 0; at < evaluations; at++) {
        double all = 0, moved = 0;
        for (size_t i = index; i < width; i += stride) {
            all += profile->scalar[value][at * width + i];
            moved += profile->scalar[delta][at * width + i];
        }
        if (profile->gate[at] < 0)
            continue;
        energy += all;
        values += (double)(ousac_profile_samples(profile) * profile->arch.stream[0].tokens * channels) *
                  (double)(width / stride);
        if (profile->age[at] < 1)
            continue;
        const double x = log((double)profile->age[at]), y = log(moved / all);
        n++, sx += x, sy += y, sxx += x * x, sxy += x * y;
    }
    level->rms = sqrt(energy / values);
    level->growth = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    level->share = exp((sy - level->growth * sx) / n);
}

void synth_fit_levels(const ousac_profile *profile, ousac_synth_level levels[OUSAC_SYNTH_LEVELS]) {
    const ousac_arch *arch = &profile->arch;
    for (size_t g = 0; g < OUSAC_SYNTH_GROUPS; g++)
        fit_level(profile, OUSAC_SCALAR_X2, OUSAC_SCALAR_DX2, g, OUSAC_SYNTH_GROUPS,
                  arch->sites[arch->groups[g].first_site].n, &levels[g]);
    for (size_t s = 0; s < OUSAC_SYNTH_SITES; s++)
        fit_level(profile, OUSAC_SCALAR_Y2, OUSAC_SCALAR_DY2, s, OUSAC_SYNTH_SITES, arch->sites[s].m,
                  &levels[OUSAC_SYNTH_GROUPS + s]);
    for (size_t i = 0; i < OUSAC_SYNTH_MODULES; i++)
        fit_level(profile, OUSAC_SCALAR_MODULE2, OUSAC_SCALAR_DMODULE2, i, OUSAC_SYNTH_MODULES, arch->width,
                  &levels[OUSAC_SYNTH_GROUPS + OUSAC_SYNTH_SITES + i]);
}
