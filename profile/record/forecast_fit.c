#include "profile/record/forecast_fit.h"

#include "formats/memory.h"
#include "formats/schedule.h"
#include "profile/run/history.h"

#include <string.h>

/* The three sums of a least squares with one unknown, per (step, branch, group). */
typedef struct normal_sums {
    double uu, uv, vv; /* u = P dy, v = P dy_c */
} normal_sums;

typedef struct fit_worker {
    ousac_forecast_fit *fit;
    ousac_history history[OUSAC_BRANCHES];
    float *dx;         /* (rows of the longest stream, largest n) */
    float *z;          /* (rows, largest group rank) */
    float *u, *v;      /* (rows, largest sum of m) */
    normal_sums *sums; /* of the present micro-batch */
    size_t step;
    int branch, gate;
} fit_worker;

struct ousac_forecast_fit {
    const ousac_model *model;
    const ousac_schedule *schedule;
    const ousac_calibration *calibration;
    size_t workers, batch;
    int *gate; /* (S, OUSAC_BRANCHES): effective */
    fit_worker *worker;
    normal_sums *sums; /* (S, OUSAC_BRANCHES, group_count) */
    ousac_run_observers observers;
};

static size_t entry(const ousac_forecast_fit *fit, size_t step, int branch, size_t group) {
    return (step * OUSAC_BRANCHES + (size_t)branch) * fit->model->arch.group_count + group;
}

static ousac_status begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first, size_t count,
                          ousac_error *error) {
    fit_worker *w = self;
    (void)gate, (void)first;
    if (step >= w->fit->schedule->step_count || count > w->fit->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                          "step %zu, %zu samples: beyond what the fit was made for", step, count);
    w->step = step;
    w->branch = branch;
    w->gate = w->fit->gate[step * OUSAC_BRANCHES + (size_t)branch];
    return OUSAC_STATUS_OK;
}

/* out = (y - base) - A B (x - x_base): what the factors leave of a change, up to its sign. */
static ousac_status residual(fit_worker *w, size_t group, size_t rows, const float *x, size_t ldx,
                             const float *x_base, const float *y, size_t ldy, const float *y_base, float *out,
                             ousac_error *error) {
    const ousac_arch *arch = &w->fit->model->arch;
    const ousac_backend *be = w->fit->model->backend;
    const ousac_calibration *c = w->fit->calibration;
    const ousac_group *g = &arch->groups[group];
    size_t n = arch->sites[g->first_site].n, m = ousac_history_group_m(arch, group), column = 0, z_column = 0;
    size_t r = c ? c->group_rank[group] : 0;
    ousac_status status = be->subtract(be, rows, m, y, ldy, y_base, m, out, m, error);
    if (status || !r)
        return status;
    if ((status = be->subtract(be, rows, n, x, ldx, x_base, n, w->dx, n, error)) ||
        (status = be->linear(be, rows, r, n, w->dx, n, c->b[group], n, NULL, 0, w->z, r, error)))
        return status;
    for (size_t s = g->first_site; s < g->first_site + g->site_count && !status; s++) {
        if (c->path[s] == OUSAC_PATH_LOW_RANK) {
            status = be->expand(be, rows, arch->sites[s].m, c->rank[s], w->z + z_column, r, c->a[s],
                                arch->sites[s].m, -1, out + column, m, error);
            z_column += c->rank[s];
        }
        column += arch->sites[s].m;
    }
    return status;
}

static ousac_status linear(void *self, size_t group, size_t rows, const float *x, size_t ldx, const float *y,
                           size_t ldy, ousac_error *error) {
    fit_worker *w = self;
    const ousac_arch *arch = &w->fit->model->arch;
    const ousac_backend *be = w->fit->model->backend;
    ousac_history *h = &w->history[w->branch];
    size_t n = arch->sites[arch->groups[group].first_site].n, m = ousac_history_group_m(arch, group);
    ousac_status status = OUSAC_STATUS_OK;
    if (w->gate == OUSAC_GATE_CACHED && h->filled == 2) {
        double uu = 0, vv = 0, difference = 0;
        normal_sums *sums = &w->sums[entry(w->fit, w->step, w->branch, group)];
        if ((status =
                 residual(w, group, rows, x, ldx, h->x[0][group], y, ldy, h->y[0][group], w->u, error)) ||
            (status = residual(w, group, rows, h->x[0][group], n, h->x[1][group], h->y[0][group], m,
                               h->y[1][group], w->v, error)) ||
            (status = be->sum_squares(be, rows, m, w->u, m, rows, &uu, error)) ||
            (status = be->sum_squares(be, rows, m, w->v, m, rows, &vv, error)) ||
            (status = be->sum_squares_diff(be, rows, m, w->u, m, w->v, m, rows, &difference, error)))
            return status;
        sums->uu += uu;
        sums->vv += vv;
        sums->uv += (uu + vv - difference) / 2;
    }
    if (w->gate == OUSAC_GATE_FULL)
        status = ousac_history_keep_linear(h, group, rows, x, ldx, y, ldy, error);
    return status;
}

static ousac_status end(void *self, ousac_error *error) {
    fit_worker *w = self;
    (void)error;
    if (w->gate == OUSAC_GATE_FULL)
        ousac_history_end(&w->history[w->branch]);
    return OUSAC_STATUS_OK;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    ousac_forecast_fit *fit = self;
    if (worker >= fit->workers)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "worker %zu of a fit for %zu", worker, fit->workers);
    *observer = (ousac_observer){.self = &fit->worker[worker], .begin = begin, .linear = linear, .end = end};
    return OUSAC_STATUS_OK;
}

static ousac_status collect(void *self, size_t worker, uint64_t first, size_t count, ousac_error *error) {
    ousac_forecast_fit *fit = self;
    fit_worker *w = &fit->worker[worker];
    (void)first, (void)count, (void)error;
    for (size_t i = 0; i < entry(fit, fit->schedule->step_count, 0, 0); i++) {
        fit->sums[i].uu += w->sums[i].uu;
        fit->sums[i].uv += w->sums[i].uv;
        fit->sums[i].vv += w->sums[i].vv;
    }
    memset(w->sums, 0, entry(fit, fit->schedule->step_count, 0, 0) * sizeof *w->sums);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_history_reset(&w->history[b]);
    return OUSAC_STATUS_OK;
}

static ousac_status worker_create(fit_worker *w, ousac_forecast_fit *fit, ousac_error *error) {
    const ousac_arch *arch = &fit->model->arch;
    const ousac_backend *be = fit->model->backend;
    size_t widest_n = 0, widest_m = 0, entries = entry(fit, fit->schedule->step_count, 0, 0);
    ousac_status status = OUSAC_STATUS_OK;
    w->fit = fit;
    for (size_t g = 0; g < arch->group_count; g++) {
        size_t n = arch->sites[arch->groups[g].first_site].n, m = ousac_history_group_m(arch, g);
        widest_n = n > widest_n ? n : widest_n;
        widest_m = m > widest_m ? m : widest_m;
    }
    for (int b = 0; b < OUSAC_BRANCHES && !status; b++)
        if (b == OUSAC_BRANCH_COND || fit->model->has_uncond)
            status = ousac_history_create(&w->history[b], arch, be, fit->batch, SIZE_MAX, 2, NULL, error);
    if (status)
        return status;
    size_t rank = fit->calibration && fit->calibration->rank_max ? fit->calibration->rank_max : 1;
    const size_t rows = fit->batch * ousac_arch_most_tokens(arch);
    w->dx = be->alloc(be, rows * widest_n, sizeof(float));
    w->z = be->alloc(be, rows * rank, sizeof(float));
    w->u = be->alloc(be, rows * widest_m, sizeof(float));
    w->v = be->alloc(be, rows * widest_m, sizeof(float));
    w->sums = ousac_calloc(entries, sizeof *w->sums);
    if (!w->dx || !w->z || !w->u || !w->v || !w->sums)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to fit forecasts");
    return OUSAC_STATUS_OK;
}

void ousac_forecast_fit_free(ousac_forecast_fit *fit) {
    if (!fit)
        return;
    const ousac_backend *be = fit->model->backend;
    for (size_t i = 0; fit->worker && i < fit->workers; i++) {
        fit_worker *w = &fit->worker[i];
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            ousac_history_free(&w->history[b]);
        be->release(be, w->dx);
        be->release(be, w->z);
        be->release(be, w->u);
        be->release(be, w->v);
        ousac_free(w->sums);
    }
    ousac_free(fit->worker);
    ousac_free(fit->sums);
    ousac_free(fit->gate);
    ousac_free(fit);
}

ousac_status ousac_forecast_fit_create(ousac_forecast_fit **out, const ousac_model *model,
                                       const ousac_schedule *schedule, const ousac_calibration *calibration,
                                       size_t workers, size_t batch, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    *out = NULL;
    ousac_forecast_fit *fit = ousac_calloc(1, sizeof *fit);
    if (!fit)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to fit forecasts");
    fit->model = model;
    fit->schedule = schedule;
    fit->calibration = calibration;
    fit->workers = workers;
    fit->batch = batch;
    fit->observers = (ousac_run_observers){.self = fit, .attach = attach, .collect = collect};
    fit->gate = ousac_calloc(schedule->step_count * OUSAC_BRANCHES, sizeof *fit->gate);
    fit->sums = ousac_calloc(entry(fit, schedule->step_count, 0, 0), sizeof *fit->sums);
    fit->worker = ousac_calloc(workers, sizeof *fit->worker);
    if (!fit->gate || !fit->sums || !fit->worker) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to fit forecasts");
        goto done;
    }
    if ((status = ousac_schedule_effective_gates(schedule, fit->gate, error)))
        goto done;
    for (size_t i = 0; i < workers; i++)
        if ((status = worker_create(&fit->worker[i], fit, error)))
            goto done;
    *out = fit;
    fit = NULL;
done:
    ousac_forecast_fit_free(fit);
    return status;
}

const ousac_run_observers *ousac_forecast_fit_observers(ousac_forecast_fit *fit) {
    return &fit->observers;
}

double *ousac_forecast_fit_sums(ousac_forecast_fit *fit, size_t *count) {
    *count = entry(fit, fit->schedule->step_count, 0, 0) * (sizeof(normal_sums) / sizeof(double));
    return &fit->sums->uu;
}

ousac_status ousac_forecast_fit_solve(const ousac_forecast_fit *fit, double least_gain,
                                      ousac_forecast **forecast, ousac_error *error) {
    ousac_status status =
        ousac_forecast_create(forecast, fit->schedule->step_count, fit->model->arch.group_count, error);
    for (size_t i = 0; !status && i < entry(fit, fit->schedule->step_count, 0, 0); i++) {
        const normal_sums *s = &fit->sums[i];
        if (s->vv > 0 && s->uv * s->uv > least_gain * s->uu * s->vv)
            (*forecast)->coefficient[i] = (float)(s->uv / s->vv);
    }
    return status;
}
