/* That a cached evaluation is right, before it is timed. */
#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/stopwatch_parts.h"

#include <math.h>
#include <string.h>

/* What rounding may leave, of the change since the last full evaluation and of the output. */
static const struct tolerance {
    double change, output;
} tolerances[2] = {{1e-3, 1e-5}, {3e-2, 3e-2}}; /* in float32, in bfloat16 */

/* --- factors --- */

/* Row i of B is row i of W, row i of A the i-th unit vector. */
static ousac_status rows_of_weights(void *self, size_t site, size_t rank, float *a, float *b,
                                    ousac_error *error) {
    const ousac_model *model = self;
    const size_t m = model->arch.sites[site].m;
    memset(a, 0, rank * m * sizeof *a);
    for (size_t i = 0; i < rank; i++)
        a[i * m + i] = 1;
    return ousac_model_site_rows(model, site, 0, rank, b, error);
}

ousac_status ousac_stopwatch_calibration(ousac_calibration **calibration, const ousac_model *model,
                                         size_t rank, size_t steps, ousac_error *error) {
    const ousac_arch *arch = &model->arch;
    ousac_forecast *forecast = NULL;
    size_t *ranks = ousac_malloc(arch->site_count, sizeof *ranks);
    *calibration = NULL;
    if (!ranks)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks");
    ousac_cost_uniform(arch, rank, ranks);
    ousac_status status = ousac_forecast_create(&forecast, steps, arch->group_count, error);
    if (!status) {
        for (size_t i = 0; i < steps * OUSAC_BRANCHES * arch->group_count; i++)
            forecast->coefficient[i] = OUSAC_STOPWATCH_FORECAST;
        const ousac_ranks with = {.rank = ranks, .dense_fallback = 1, .forecast = 1};
        status = ousac_calibration_create(calibration, model->backend, arch, &with, rows_of_weights,
                                          (void *)model, forecast, error);
    }
    ousac_forecast_free(forecast);
    ousac_free(ranks);
    return status;
}

/* --- the check --- */

typedef struct checker {
    const ousac_model *model;
    size_t rank;
    int branch; /* the one that is looked at */
    int looking;
    ousac_gate gate;
    size_t full;     /* full evaluations so far */
    float **kept[2]; /* (group_count) each: first row of y at the last full evaluation, at the one before */
    float *x, *y, *w, *bias;    /* one row; `rank` rows of W */
    double error2, change2, y2; /* squared, summed */
} checker;

static ousac_status check_begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first,
                                size_t count, ousac_error *error) {
    checker *c = self;
    (void)step, (void)first, (void)count, (void)error;
    c->looking = branch == c->branch;
    c->gate = gate;
    if (c->looking && gate == OUSAC_GATE_FULL)
        c->full++;
    return OUSAC_STATUS_OK;
}

/* The row y of a site at a cached evaluation, column `at` of its group's. */
static ousac_status check_site(checker *c, size_t site, size_t group, size_t at, ousac_error *error) {
    const ousac_backend *be = c->model->backend;
    const size_t m = c->model->arch.sites[site].m, n = c->model->arch.sites[site].n;
    const float *last = c->kept[0][group] + at, *before = c->kept[1][group] + at;
    ousac_status status = ousac_model_site_rows(c->model, site, 0, c->rank, c->w, error);
    memset(c->bias, 0, m * sizeof *c->bias);
    if (!status && c->model->bias[site])
        status = be->download(be, c->bias, c->model->bias[site], m * sizeof *c->bias, error);
    for (size_t i = 0; i < m && !status; i++) {
        double expected = last[i];
        if (i < c->rank) {
            expected = c->bias[i];
            for (size_t j = 0; j < n; j++)
                expected += (double)c->w[i * n + j] * (double)c->x[j];
        } else if (c->full >= 2) {
            expected += (double)OUSAC_STOPWATCH_FORECAST * ((double)last[i] - (double)before[i]);
        }
        const double wrong = (double)c->y[at + i] - expected, change = expected - (double)last[i];
        c->error2 += wrong * wrong;
        c->change2 += change * change;
        c->y2 += expected * expected;
    }
    return status;
}

static ousac_status check_linear(void *self, size_t group, size_t rows, const float *x, size_t ldx,
                                 const float *y, size_t ldy, ousac_error *error) {
    checker *c = self;
    const ousac_arch *arch = &c->model->arch;
    const ousac_group *g = &arch->groups[group];
    const ousac_backend *be = c->model->backend;
    size_t width = 0;
    (void)rows, (void)ldx, (void)ldy;
    if (!c->looking)
        return OUSAC_STATUS_OK;
    for (size_t s = g->first_site; s < g->first_site + g->site_count; s++)
        width += arch->sites[s].m;
    ousac_status status = be->download(be, c->x, x, arch->sites[g->first_site].n * sizeof *c->x, error);
    if (!status)
        status = be->download(be, c->y, y, width * sizeof *c->y, error);
    if (!status && c->gate == OUSAC_GATE_FULL) {
        memcpy(c->kept[1][group], c->kept[0][group], width * sizeof *c->y);
        memcpy(c->kept[0][group], c->y, width * sizeof *c->y);
        return OUSAC_STATUS_OK;
    }
    size_t at = 0;
    for (size_t s = g->first_site; s < g->first_site + g->site_count && !status; s++) {
        status = check_site(c, s, group, at, error);
        at += arch->sites[s].m;
    }
    return status;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    (void)worker, (void)error;
    *observer = (ousac_observer){.self = self, .begin = check_begin, .linear = check_linear};
    return OUSAC_STATUS_OK;
}

static void checker_free(checker *c) {
    for (int k = 0; k < 2; k++) {
        for (size_t g = 0; c->kept[k] && g < c->model->arch.group_count; g++)
            ousac_free(c->kept[k][g]);
        ousac_free(c->kept[k]);
    }
    ousac_free(c->x);
    ousac_free(c->y);
    ousac_free(c->w);
    ousac_free(c->bias);
}

static ousac_status checker_create(checker *c, ousac_error *error) {
    const ousac_arch *arch = &c->model->arch;
    size_t widest = 1, longest = 1;
    int short_of = 0;
    for (int k = 0; k < 2; k++)
        short_of |= !(c->kept[k] = ousac_calloc(arch->group_count, sizeof *c->kept[k]));
    for (size_t g = 0; g < arch->group_count; g++) {
        size_t width = 0;
        for (size_t s = arch->groups[g].first_site;
             s < arch->groups[g].first_site + arch->groups[g].site_count; s++) {
            width += arch->sites[s].m;
            longest = arch->sites[s].n > longest ? arch->sites[s].n : longest;
        }
        widest = width > widest ? width : widest;
        for (int k = 0; k < 2 && !short_of; k++)
            short_of |= !(c->kept[k][g] = ousac_calloc(width, sizeof(float)));
    }
    c->x = ousac_malloc(longest, sizeof *c->x);
    c->y = ousac_malloc(widest, sizeof *c->y);
    c->bias = ousac_malloc(widest, sizeof *c->bias);
    c->w = longest > SIZE_MAX / c->rank ? NULL : ousac_malloc(c->rank * longest, sizeof *c->w);
    if (short_of || !c->x || !c->y || !c->bias || !c->w)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to check cached evaluations");
    return OUSAC_STATUS_OK;
}

ousac_status ousac_stopwatch_check(const ousac_session *session, const ousac_schedule *schedule,
                                   const ousac_calibration *calibration, size_t rank, ousac_error *error) {
    const struct tolerance *allowed = &tolerances[session->model->backend->bf16];
    const int branch = ousac_mode_evaluates(schedule->steps[0].mode, OUSAC_BRANCH_COND) ? OUSAC_BRANCH_COND
                                                                                        : OUSAC_BRANCH_UNCOND;
    checker c = {.model = session->model, .rank = rank, .branch = branch};
    const ousac_run_observers observers = {.self = &c, .attach = attach};
    const ousac_session_run run = {.label = "check",
                                   .schedule = schedule,
                                   .range = {0, 1},
                                   .calibration = calibration,
                                   .observers = &observers};
    ousac_status status = checker_create(&c, error);
    if (!status)
        status = ousac_session_run_here(session, &run, error);
    const double most = allowed->change * sqrt(c.change2) + allowed->output * sqrt(c.y2);
    if (!status && !(sqrt(c.error2) <= most))
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                            "a cached evaluation at rank %zu is %.3g from what its factors give; expected at "
                            "most %.3g",
                            rank, sqrt(c.error2), most);
    checker_free(&c);
    return status;
}
