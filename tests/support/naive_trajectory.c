#include "tests/support/naive_trajectory.h"

#include "calib/stats/philox.h"

#include <math.h>
#include <stdlib.h>

typedef struct counting {
    const naive_hooks *hooks;
    size_t next_site, next_module;
} counting;

static void on_site(void *self, const char *name, size_t rows, size_t m, size_t n, const double *x,
                    double *y) {
    counting *c = self;
    (void)name;
    if (c->hooks->site)
        c->hooks->site(c->hooks->self, c->next_site, rows, m, n, x, y);
    c->next_site++;
}

static void on_module(void *self, const char *name, size_t rows, size_t d, double *out) {
    counting *c = self;
    (void)name;
    if (c->hooks->module)
        c->hooks->module(c->hooks->self, c->next_module, rows, d, out);
    c->next_module++;
}

/* The product of 1 - beta up to and including timestep t, of which a fraction counts as a power. */
static double alpha_bar(double t) {
    double bar = 1;
    for (int i = 0; i <= ceil(t); i++)
        bar *= pow(1 - (1e-4 + (0.02 - 1e-4) * i / 999), i > t ? t - floor(t) : 1);
    return bar;
}

/* The data of a state, from what is predicted of it. */
static double data_of(ousac_prediction prediction, double x, double p, double bar) {
    switch (prediction) {
    case OUSAC_PREDICTION_EPSILON:
        return (x - sqrt(1 - bar) * p) / sqrt(bar);
    case OUSAC_PREDICTION_V:
        return sqrt(bar) * x - sqrt(1 - bar) * p;
    case OUSAC_PREDICTION_FLOW: /* x = alpha D + sigma (D + p) */
        return (x - sqrt(1 - bar) * p) / (sqrt(bar) + sqrt(1 - bar));
    case OUSAC_PREDICTION_SAMPLE:
        break;
    }
    return p;
}

/* One step of DPM-Solver++ 2M for one value, as in algorithm 2 of arXiv 2211.01095: in lambda = log(alpha /
 * sigma), from s to t with q the step before; the first step, and the one to lambda = infinity, of first
 * order. */
static double dpmpp_2m(double x, double data, double data_before, int first, double bar_before, double bar,
                       double next) {
    double lambda_q = log(sqrt(bar_before) / sqrt(1 - bar_before)), lambda_s = log(sqrt(bar) / sqrt(1 - bar));
    if (next == 1)
        return data;
    double lambda_t = log(sqrt(next) / sqrt(1 - next)), h = lambda_t - lambda_s,
           r = (lambda_s - lambda_q) / h;
    double d = first ? data : (1 + 1 / (2 * r)) * data - 1 / (2 * r) * data_before;
    return sqrt(1 - next) / sqrt(1 - bar) * x - sqrt(next) * expm1(-h) * d;
}

/* All that a textbook's step of one value depends on but the state and the prediction. */
typedef struct textbook {
    ousac_prediction prediction;
    ousac_solver solver;
    int first;
    double bar_before, bar, next, data_before;
} textbook;

static double textbook_step(const textbook *t, double x, double p) {
    double clean = data_of(t->prediction, x, p, t->bar);
    double e = (x - sqrt(t->bar) * clean) / sqrt(1 - t->bar);
    if (t->solver == OUSAC_SOLVER_DPMPP_2M)
        return dpmpp_2m(x, clean, t->data_before, t->first, t->bar_before, t->bar, t->next);
    return sqrt(t->next) * clean + sqrt(1 - t->next) * e;
}

ousac_status naive_trajectory(const naive_dit *net, const ousac_schedule *schedule, uint64_t seed,
                              uint64_t sample, size_t classes, const naive_hooks *hooks, float *x,
                              ousac_error *error) {
    size_t edge = net->side * net->patch, size = net->channels * edge * edge,
           all = net->out_channels * edge * edge;
    size_t label = ousac_philox_below(seed, OUSAC_STREAM_LABEL, sample, 0, (uint32_t)classes);
    double *eps[2] = {calloc(all, sizeof(double)), calloc(all, sizeof(double))};
    double *data = calloc(size, sizeof *data); /* of the step before */
    double *p_before = calloc(2 * size, sizeof *p_before), *held = calloc(size, sizeof *held);
    double before = 0.5;
    ousac_status status = eps[0] && eps[1] && data && p_before && held
                              ? OUSAC_STATUS_OK
                              : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory");
    ousac_philox_normals(seed, OUSAC_STREAM_NOISE, sample, size, x);
    for (size_t i = 0; i < schedule->step_count && !status; i++) {
        const ousac_step *s = &schedule->steps[i];
        for (int b = 0; b < 2 && !status; b++) {
            if ((b == 0 && s->mode == OUSAC_MODE_UNCOND) || (b == 1 && s->mode == OUSAC_MODE_COND))
                continue;
            counting count = {.hooks = hooks};
            naive_observer observer = {&count, on_site, on_module};
            if (hooks->begin)
                hooks->begin(hooks->self, i, b);
            status = naive_dit_forward_observed(net, x, s->timestep, b ? classes : label, eps[b], &observer,
                                                error);
        }
        double bar = alpha_bar(s->timestep);
        double next = i + 1 < schedule->step_count ? alpha_bar(schedule->steps[i + 1].timestep) : 1;
        for (size_t j = 0; j < size && !status; j++) {
            const int guided = !hooks->guided || j < hooks->guided * edge * edge;
            double p = s->mode == OUSAC_MODE_CFG && guided ? (1 - s->scale) * eps[1][j] + s->scale * eps[0][j]
                                                           : eps[s->mode == OUSAC_MODE_UNCOND][j];
            if (schedule->fitted && s->mode != OUSAC_MODE_CFG)
                p += schedule->fitted[i].value[OUSAC_COEFFICIENT_HOLD] * held[j];
            if (s->mode == OUSAC_MODE_CFG)
                held[j] = guided ? eps[0][j] - eps[1][j] : 0;
            const textbook now = {hooks->prediction, schedule->solver, i == 0, before, bar, next, data[j]};
            double to = textbook_step(&now, (double)x[j], p);
            if (schedule->fitted) {
                /* what the step multiplies x and p with, by moving each alone: the step is linear in both */
                const double *f = schedule->fitted[i].value;
                double per_x = textbook_step(&now, (double)x[j] + 1, p) - to;
                double per_p = textbook_step(&now, (double)x[j], p + 1) - to;
                to +=
                    f[OUSAC_COEFFICIENT_STATE] * per_x * (double)x[j] + f[OUSAC_COEFFICIENT_GAIN] * per_p * p;
                if (i > 0)
                    to += f[OUSAC_COEFFICIENT_CHANGE] * (p - p_before[2 * j]);
                if (i > 1)
                    to += f[OUSAC_COEFFICIENT_EARLIER] * (p_before[2 * j] - p_before[2 * j + 1]);
            }
            data[j] = data_of(hooks->prediction, (double)x[j], p, bar);
            x[j] = (float)to;
            p_before[2 * j + 1] = p_before[2 * j];
            p_before[2 * j] = p;
        }
        before = bar;
    }
    free(eps[0]);
    free(eps[1]);
    free(data);
    free(p_before);
    free(held);
    return status;
}

double naive_relative_error(const float *a, const float *b, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / norm);
}
