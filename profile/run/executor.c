#include "profile/run/executor.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/run/history.h"

#include <stdint.h>
#include <string.h>

struct ousac_executor {
    const ousac_model *model;
    const ousac_calibration *calibration;
    size_t batch;
    int keep, extrapolate;
    const ousac_gradient *gradient;
    double along[OUSAC_BRANCHES][2]; /* of GOC: w at the branch's last evaluation, and at the one before */
    float *before;                   /* of GOC: (rows, width) of the largest output */
    int evaluated[OUSAC_BRANCHES];   /* 1 once the branch has been evaluated in this trajectory */
    ousac_history cache[OUSAC_BRANCHES];
    size_t full_step[OUSAC_BRANCHES][2]; /* of the cache's last full evaluation, and of the one before */
    float *delta;                        /* (rows of the longest stream, largest n) */
    /* (rows of the longest stream, largest group rank): of even and of odd groups, so that what one group has projected may
     * be read while the next one's is written */
    float *z[2];
    size_t *group_m; /* per group: sum of m */
    ousac_counters counters;
    ousac_linears linears;
    /* the evaluation under way */
    ousac_history *current;
    size_t step;
    int branch;
    ousac_gate gate;
    size_t count;
    const ousac_observer *observer;
};

void ousac_counters_add(ousac_counters *total, const ousac_counters *more) {
    for (int g = 0; g < OUSAC_GATES_RUN; g++)
        total->forwards[g] += more->forwards[g];
    total->site_full += more->site_full;
    total->site_low_rank += more->site_low_rank;
    total->site_dense += more->site_dense;
    total->site_frozen += more->site_frozen;
    total->site_skipped += more->site_skipped;
    total->macs += more->macs;
}

/* --- the linears --- */

/* Of GOC, before a refresh: what the module gave at the evaluation before becomes the older end of the change. */
static ousac_status keep_before(ousac_executor *ex, size_t module, const ousac_rows *out,
                                ousac_error *error) {
    const ousac_module *m = &ex->model->arch.modules[module];
    const ousac_backend *be = ex->model->backend;
    const double w = ex->along[ex->branch][0];
    ousac_status status = OUSAC_STATUS_OK;
    if (ex->current->filled < 2 || w == 0)
        return OUSAC_STATUS_OK;
    for (size_t o = 0; o < m->output_count && !status; o++) {
        const size_t at = module * OUSAC_OUTPUTS_MAX + o, width = m->output[o].width, rows = out[o].rows;
        ex->counters.macs += (uint64_t)rows * width;
        status = be->extrapolate(be, rows, width, (float)w, ex->current->out[0][at], width,
                                 ex->current->out[1][at], width, ex->before, width, error);
        if (!status)
            status = be->copy(be, rows, width, ex->before, width, ex->current->out[0][at], width, error);
    }
    return status;
}

/* How far along its line a reused output goes on; 0: it is reused as it was. */
static float continuation(const ousac_executor *ex) {
    const size_t *full = ex->full_step[ex->branch];
    if (ex->current->filled < 2)
        return 0;
    if (ex->gradient)
        return (float)ex->along[ex->branch][0];
    return ex->gate == OUSAC_GATE_EXTRAPOLATE
               ? (float)((double)(ex->step - full[0]) / (double)(full[0] - full[1]))
               : 0;
}

static ousac_status module_begin(void *self, size_t module, const ousac_rows *out, int *live,
                                 ousac_error *error) {
    ousac_executor *ex = self;
    const ousac_module *m = &ex->model->arch.modules[module];
    const ousac_backend *be = ex->model->backend;
    ousac_status status = OUSAC_STATUS_OK;
    *live = ex->gate == OUSAC_GATE_FULL ||
            (ex->gate == OUSAC_GATE_CACHED && ex->calibration && ex->calibration->live[module]);
    if (*live) {
        ex->counters.macs += m->fixed_macs * ex->count;
        return ex->gradient && ex->keep ? keep_before(ex, module, out, error) : OUSAC_STATUS_OK;
    }
    ex->counters.site_skipped += m->site_count * ex->count;
    const float s = continuation(ex);
    for (size_t o = 0; o < m->output_count && !status; o++) {
        const size_t at = module * OUSAC_OUTPUTS_MAX + o, width = m->output[o].width, rows = out[o].rows;
        const float *last = ex->current->out[0][at];
        if (s != 0) {
            ex->counters.macs += (uint64_t)rows * width;
            status = be->extrapolate(be, rows, width, s, last, width, ex->current->out[1][at], width,
                                     out[o].data, out[o].ld, error);
        } else {
            status = be->copy(be, rows, width, last, width, out[o].data, out[o].ld, error);
        }
    }
    return status;
}

static float *place(void *self, size_t group, int output, float *own) {
    const ousac_executor *ex = self;
    float *lent =
        ex->gate == OUSAC_GATE_FULL && ex->keep ? ousac_history_place(ex->current, group, output) : NULL;
    return lent ? lent : own;
}

static ousac_status module_end(void *self, size_t module, const ousac_rows *out, ousac_error *error) {
    ousac_executor *ex = self;
    ousac_status status = OUSAC_STATUS_OK;
    if (ex->gate == OUSAC_GATE_FULL && ex->keep)
        status = ousac_history_keep_module(ex->current, module, out, error);
    if (!status && ex->observer && ex->observer->module)
        status = ex->observer->module(ex->observer->self, module, out, error);
    return status;
}

/* Whether W and bias of a site lie behind those of the site before. */
static int follows(const ousac_model *model, size_t site) {
    const ousac_site *before = &model->arch.sites[site - 1];
    const float *bias = model->bias[site - 1];
    return model->weight[site] == model->weight[site - 1] + before->m * before->n &&
           (bias ? model->bias[site] == bias + before->m : !model->bias[site]);
}

static ousac_status linear_full(ousac_executor *ex, size_t group, size_t rows, const float *x, size_t ldx,
                                float *y, size_t ldy, ousac_error *error) {
    const ousac_arch *arch = &ex->model->arch;
    const ousac_backend *be = ex->model->backend;
    const ousac_group *g = &arch->groups[group];
    size_t n = arch->sites[g->first_site].n, m = ex->group_m[group];
    ousac_status status = OUSAC_STATUS_OK;
    /* Where W and bias of sites lie one after another, one product does for them. */
    for (size_t s = g->first_site, end, column = 0; s < g->first_site + g->site_count && !status; s = end) {
        size_t width = arch->sites[s].m;
        for (end = s + 1; end < g->first_site + g->site_count && follows(ex->model, end); end++)
            width += arch->sites[end].m;
        status = be->linear(be, rows, width, n, x, ldx, ex->model->weight[s], n, ex->model->bias[s], 0,
                            y + column, ldy, error);
        column += width;
    }
    ex->counters.site_full += g->site_count * ex->count;
    ex->counters.macs += (uint64_t)rows * m * n;
    if (!status && ex->keep)
        status = ousac_history_keep_linear(ex->current, group, rows, x, ldx, y, ldy, error);
    return status;
}

/* Where the change of a group's input may be made: in its place where nobody reads it any more. */
static float *place_of_change(const ousac_executor *ex, size_t group, const float *x, size_t ldx) {
    const ousac_arch *arch = &ex->model->arch;
    const ousac_group *g = &arch->groups[group];
    int read = !g->consumed || ldx != arch->sites[g->first_site].n || (ex->observer && ex->observer->linear);
    for (size_t s = g->first_site; s < g->first_site + g->site_count; s++)
        read |= ex->calibration->path[s] == OUSAC_PATH_DENSE;
    return read ? ex->delta : (float *)(uintptr_t)x;
}

static ousac_status linear_cached(ousac_executor *ex, size_t group, size_t rows, const float *x, size_t ldx,
                                  float *y, size_t ldy, ousac_error *error) {
    const ousac_arch *arch = &ex->model->arch;
    const ousac_backend *be = ex->model->backend;
    const ousac_calibration *c = ex->calibration;
    const ousac_group *g = &arch->groups[group];
    size_t n = arch->sites[g->first_site].n, sum_m = ex->group_m[group], r = c->group_rank[group];
    size_t column = 0, z_column = 0;
    const ousac_history *h = ex->current;
    const float s_forecast =
        c->forecast && h->filled == 2 ? ousac_forecast_at(c->forecast, ex->step, ex->branch, group) : 0;
    ousac_status status = OUSAC_STATUS_OK;
    const float *x_before = s_forecast != 0 ? h->x[1][group] : NULL;
    float *z = ex->z[group % 2];
    if (r) /* z = (x - where it was expected) B^T for all sites of the group at once */
        status = be->project_change(be, rows, r, n, s_forecast, x, ldx, h->x[0][group], x_before, n,
                                    c->b[group], n, z, r, place_of_change(ex, group, x, ldx), error);
    for (size_t s = g->first_site; s < g->first_site + g->site_count && !status; s++) {
        const ousac_site *site = &arch->sites[s];
        const float *y_cached = h->y[0][group] ? h->y[0][group] + column : NULL;
        switch (c->path[s]) {
        case OUSAC_PATH_DENSE:
            status = be->linear(be, rows, site->m, n, x, ldx, ex->model->weight[s], n, ex->model->bias[s], 0,
                                y + column, ldy, error);
            ex->counters.site_dense += ex->count;
            ex->counters.macs += (uint64_t)rows * site->m * n;
            break;
        case OUSAC_PATH_LOW_RANK:
            status = be->expand_onto(be, rows, site->m, c->rank[s], z + z_column, r, c->a[s], site->m,
                                     s_forecast, y_cached, s_forecast != 0 ? h->y[1][group] + column : NULL,
                                     sum_m, y + column, ldy, error);
            z_column += c->rank[s];
            ex->counters.site_low_rank += ex->count;
            ex->counters.macs += (uint64_t)rows * (c->rank[s] + (c->forecast ? 1 : 0)) * (site->m + n);
            break;
        case OUSAC_PATH_FROZEN:
            status = be->copy(be, rows, site->m, y_cached, sum_m, y + column, ldy, error);
            ex->counters.site_frozen += ex->count;
            break;
        case OUSAC_PATH_SKIPPED:
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: computed, but its module is not live",
                                site->name);
            break;
        }
        column += site->m;
    }
    return status;
}

static ousac_status linear(void *self, size_t group, size_t rows, const float *x, size_t ldx, float *y,
                           size_t ldy, ousac_error *error) {
    ousac_executor *ex = self;
    ousac_status status = ex->gate == OUSAC_GATE_FULL ? linear_full(ex, group, rows, x, ldx, y, ldy, error)
                                                      : linear_cached(ex, group, rows, x, ldx, y, ldy, error);
    if (!status && ex->observer && ex->observer->linear)
        status = ex->observer->linear(ex->observer->self, group, rows, x, ldx, y, ldy, error);
    return status;
}

/* --- life --- */

void ousac_executor_free(ousac_executor *ex) {
    if (!ex)
        return;
    const ousac_backend *be = ex->model->backend;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_history_free(&ex->cache[b]);
    be->release(be, ex->delta);
    be->release(be, ex->z[0]);
    be->release(be, ex->z[1]);
    be->release(be, ex->before);
    ousac_free(ex->group_m);
    ousac_free(ex);
}

/* x is kept where a site of the group is corrected, y where one is corrected or frozen; a forecast looks two
 * back. */
static ousac_status create_caches(ousac_executor *ex, ousac_error *error) {
    const ousac_arch *arch = &ex->model->arch;
    const ousac_calibration *c = ex->calibration;
    ousac_status status = OUSAC_STATUS_OK;
    int *x = ousac_calloc(arch->group_count, sizeof *x), *y = ousac_calloc(arch->group_count, sizeof *y);
    if (!x || !y)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an executor");
    for (size_t s = 0; c && !status && s < arch->site_count; s++) {
        x[arch->sites[s].group] |= c->path[s] == OUSAC_PATH_LOW_RANK;
        y[arch->sites[s].group] |= c->path[s] == OUSAC_PATH_LOW_RANK || c->path[s] == OUSAC_PATH_FROZEN;
    }
    for (int b = 0; b < OUSAC_BRANCHES && !status; b++)
        if (b == OUSAC_BRANCH_COND || ex->model->has_uncond)
            status = ousac_history_create(&ex->cache[b], arch, ex->model->backend, ex->batch, SIZE_MAX,
                                          ex->extrapolate || ex->gradient || (c && c->forecast) ? 2 : 1,
                                          &(ousac_history_needs){x, y}, error);
    ousac_free(x);
    ousac_free(y);
    return status;
}

ousac_status ousac_executor_create(ousac_executor **executor, const ousac_model *model,
                                   const ousac_executor_options *options, ousac_error *error) {
    const ousac_calibration *calibration = options->calibration;
    const ousac_arch *arch = &model->arch;
    const ousac_backend *be = model->backend;
    size_t widest = 0;
    ousac_status status = OUSAC_STATUS_OK;
    *executor = NULL;
    if (model->use != OUSAC_MODEL_RUN)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s was loaded for its factors alone and cannot be run",
                          model->path);
    if (options->gradient && (calibration || options->extrapolate))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "a gradient of module outputs: expected no calibration and no extrapolation beside it");
    ousac_executor *ex = ousac_calloc(1, sizeof *ex);
    if (!ex)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an executor");
    ex->model = model;
    ex->calibration = calibration;
    ex->batch = options->batch;
    ex->keep = options->keep;
    ex->extrapolate = options->extrapolate;
    ex->gradient = options->gradient;
    ex->linears = (ousac_linears){ex, module_begin, linear, place, module_end};
    ex->group_m = ousac_calloc(arch->group_count, sizeof *ex->group_m);
    if (!ex->group_m) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an executor");
        goto done;
    }
    for (size_t g = 0; g < arch->group_count; g++) {
        size_t n = arch->sites[arch->groups[g].first_site].n;
        ex->group_m[g] = ousac_history_group_m(arch, g);
        widest = n > widest ? n : widest;
    }
    if (ex->keep && (status = create_caches(ex, error)))
        goto done;
    if (ex->keep && ex->gradient) {
        size_t most = 0;
        for (size_t m = 0; m < arch->module_count; m++)
            for (size_t o = 0; o < arch->modules[m].output_count; o++) {
                const size_t size = ousac_arch_output_tokens(arch, m, o) * arch->modules[m].output[o].width;
                most = size > most ? size : most;
            }
        ex->before = be->alloc(be, ex->batch * most, sizeof(float));
        if (!ex->before) {
            status =
                OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the outputs of %zu samples", ex->batch);
            goto done;
        }
    }
    if (ex->keep && calibration && calibration->rank_max) {
        const size_t rows = ex->batch * ousac_arch_most_tokens(arch);
        ex->delta = be->alloc(be, rows * widest, sizeof(float));
        for (size_t i = 0; i < 2; i++)
            ex->z[i] = be->alloc(be, rows * calibration->rank_max, sizeof(float));
        if (!ex->delta || !ex->z[0] || !ex->z[1]) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the corrections of %zu samples",
                                options->batch);
            goto done;
        }
    }
    *executor = ex;
    ex = NULL;
done:
    ousac_executor_free(ex);
    return status;
}

void ousac_executor_reset(ousac_executor *ex) {
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        ousac_history_reset(&ex->cache[b]);
        ex->evaluated[b] = 0;
    }
}

ousac_status ousac_executor_copy(ousac_executor *to, const ousac_executor *from, size_t count,
                                 ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    memcpy(to->full_step, from->full_step, sizeof to->full_step);
    memcpy(to->evaluated, from->evaluated, sizeof to->evaluated);
    memcpy(to->along, from->along, sizeof to->along);
    for (int b = 0; b < OUSAC_BRANCHES && from->keep && !status; b++)
        if (from->cache[b].arch)
            status = ousac_history_copy(&to->cache[b], &from->cache[b], count, error);
    return status;
}

ousac_status ousac_executor_begin(ousac_executor *ex, size_t step, int branch, ousac_gate gate, size_t count,
                                  const ousac_observer *observer, ousac_gate *effective, ousac_error *error) {
    if (gate == OUSAC_GATE_AUTO)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "gate auto: a plan must decide it before a run");
    if (count > ex->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in an executor of %zu", count,
                          ex->batch);
    if (ex->calibration && ex->calibration->forecast && step >= ex->calibration->forecast->step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "step %zu: the forecast was fitted for %zu steps",
                          step, ex->calibration->forecast->step_count);
    if (ex->gradient && step >= ex->gradient->step_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "step %zu: the gradient is of %zu steps", step,
                          ex->gradient->step_count);
    ex->current = &ex->cache[branch];
    ex->step = step;
    ex->branch = branch;
    ex->gate = ex->current->filled ? gate : OUSAC_GATE_FULL;
    if (!ex->keep && ex->gate != OUSAC_GATE_FULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "a cached evaluation without caches");
    if (ex->gate == OUSAC_GATE_EXTRAPOLATE && !ex->extrapolate)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "an extrapolated evaluation of one that is kept");
    if (ex->gate == OUSAC_GATE_EXTRAPOLATE && ex->current->filled < 2)
        ex->gate = OUSAC_GATE_REUSE;
    if (ex->gradient && ex->gate != OUSAC_GATE_FULL) {
        double *along = ex->along[branch];
        const int holds = ex->gradient->inflection && ex->gradient->inflection[step];
        const double next = holds ? along[0] : along[0] + ex->gradient->weight * (along[0] - along[1]);
        along[1] = along[0];
        along[0] = next;
    }
    ex->count = count;
    ex->observer = observer;
    ex->counters.forwards[ex->gate] += count;
    ex->counters.macs += ex->model->arch.other_macs * count;
    if (!ex->evaluated[branch]) /* the family computes constant groups then */
        ex->counters.macs += ousac_cost_constant(&ex->model->arch) * count;
    ex->evaluated[branch] = 1;
    *effective = ex->gate;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_executor_forward(ousac_executor *ex, void *workspace, const float *x,
                                    const ousac_step *step, float *out, ousac_error *error) {
    const ousac_model *model = ex->model;
    const ousac_backend *be = model->backend;
    const ousac_observer *o = ex->observer;
    const ousac_evaluation evaluation = {ex->branch, ex->count, step->timestep,
                                         step->tells ? step->guidance : step->scale, step->tells};
    const int sequence = be->sequence_begin && (!o || o->late || !(o->linear || o->module));
    ousac_status status = sequence ? be->sequence_begin(be, error) : OUSAC_STATUS_OK;
    if (status)
        return status;
    status = model->family->forward(model, workspace, &evaluation, x, &ex->linears, out, error);
    if (sequence) {
        const ousac_status ended = be->sequence_end(be, !status, status ? NULL : error);
        status = status ? status : ended;
    }
    return status;
}

void ousac_executor_end(ousac_executor *ex) {
    if (ex->gate == OUSAC_GATE_FULL && ex->keep) {
        ex->full_step[ex->branch][1] = ex->full_step[ex->branch][0];
        ex->full_step[ex->branch][0] = ex->step;
        ex->along[ex->branch][0] = 0; /* on the line, the refresh is at 0 and what was before it at -1 */
        ex->along[ex->branch][1] = -1;
        ousac_history_end(ex->current);
    }
    ex->current = NULL;
    ex->observer = NULL;
}

const ousac_counters *ousac_executor_counters(const ousac_executor *ex) {
    return &ex->counters;
}
