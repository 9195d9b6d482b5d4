#include "tests/support/family_oracle.h"

#include "calib/stats/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *make(size_t count, size_t size) {
    void *block = calloc(count ? count : 1, size);
    if (!block)
        abort();
    return block;
}

/* --- trajectories --- */

static double alpha_bar(double t) {
    double bar = 1;
    for (int i = 0; i <= (int)t; i++)
        bar *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999);
    return bar;
}

void family_trajectory(const family_forward *forward, size_t size, const ousac_schedule *schedule,
                       uint64_t seed, uint64_t sample, const family_hooks *hooks, float *x) {
    double *state = make(size, sizeof *state),
           *noise[2] = {make(size, sizeof(double)), make(size, sizeof(double))};
    ousac_philox_normals(seed, OUSAC_STREAM_NOISE, sample, size, x);
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *s = &schedule->steps[i];
        const double bar = alpha_bar(s->timestep),
                     next = i + 1 < schedule->step_count ? alpha_bar(s[1].timestep) : 1;
        for (size_t j = 0; j < size; j++)
            state[j] = (double)x[j];
        for (int b = 0; b < 2; b++)
            if (ousac_mode_evaluates(s->mode, b)) {
                if (hooks && hooks->begin)
                    hooks->begin(hooks->self, i, b);
                forward->run(forward->self, sample, b, s->timestep, state, hooks, noise[b]);
            }
        for (size_t j = 0; j < size; j++) {
            double e = noise[s->mode == OUSAC_MODE_UNCOND][j];
            if (s->mode == OUSAC_MODE_CFG)
                e = noise[1][j] + s->scale * (noise[0][j] - noise[1][j]);
            x[j] = (float)(sqrt(next) * (state[j] - sqrt(1 - bar) * e) / sqrt(bar) + sqrt(1 - next) * e);
        }
    }
    free(state), free(noise[0]), free(noise[1]);
}

/* --- caches --- */

/* Of one branch, each two deep. */
typedef struct kept {
    int filled; /* full evaluations, at most 2 */
    size_t full_step[2];
    double **x[2], **y[2]; /* per site */
    double **out[2];       /* per module and output */
} kept;

struct family_cache {
    family_caching o;
    kept branch[2], *now;
    size_t step;
    int at_branch, gate;
};

family_cache *family_cache_create(const family_caching *options) {
    family_cache *c = make(1, sizeof *c);
    const ousac_arch *arch = options->arch;
    c->o = *options;
    for (size_t b = 0; b < 2; b++)
        for (size_t deep = 0; deep < 2; deep++) {
            kept *k = &c->branch[b];
            k->x[deep] = make(arch->site_count, sizeof(double *));
            k->y[deep] = make(arch->site_count, sizeof(double *));
            k->out[deep] = make(arch->module_count * OUSAC_OUTPUTS_MAX, sizeof(double *));
            for (size_t s = 0; s < arch->site_count; s++) {
                const size_t rows = ousac_arch_site_tokens(arch, s);
                k->x[deep][s] = make(rows * arch->sites[s].n, sizeof(double));
                k->y[deep][s] = make(rows * arch->sites[s].m, sizeof(double));
            }
            for (size_t m = 0; m < arch->module_count; m++)
                for (size_t o = 0; o < arch->modules[m].output_count; o++)
                    k->out[deep][m * OUSAC_OUTPUTS_MAX + o] =
                        make(ousac_arch_output_tokens(arch, m, o) * arch->modules[m].output[o].width,
                             sizeof(double));
        }
    return c;
}

void family_cache_free(family_cache *c) {
    if (!c)
        return;
    for (size_t b = 0; b < 2; b++)
        for (size_t deep = 0; deep < 2; deep++) {
            kept *k = &c->branch[b];
            for (size_t s = 0; s < c->o.arch->site_count; s++)
                free(k->x[deep][s]), free(k->y[deep][s]);
            for (size_t m = 0; m < c->o.arch->module_count * OUSAC_OUTPUTS_MAX; m++)
                free(k->out[deep][m]);
            free(k->x[deep]), free(k->y[deep]), free(k->out[deep]);
        }
    free(c);
}

float family_coefficient(size_t step, int branch, size_t group) {
    return 0.3f + 0.1f * (float)((step + (size_t)branch + group) % 5);
}

ousac_status family_factors(void *self, size_t site, size_t rank, float *a, float *b, ousac_error *error) {
    const ousac_site *s = &((const ousac_arch *)self)->sites[site];
    (void)error;
    ousac_philox_normals(site, 4000, 0, rank * s->m, a);
    ousac_philox_normals(site, 4001, 0, rank * s->n, b);
    for (size_t i = 0; i < rank * s->m; i++)
        a[i] *= 0.1f;
    return OUSAC_STATUS_OK;
}

static void cache_begin(void *self, size_t step, int branch) {
    family_cache *c = self;
    c->now = &c->branch[branch];
    c->step = step;
    c->at_branch = branch;
    c->gate = c->now->filled ? (int)c->o.schedule->steps[step].gate[branch] : OUSAC_GATE_FULL;
    if (c->gate == OUSAC_GATE_FULL) {
        c->now->filled += c->now->filled < 2;
        c->now->full_step[1] = c->now->full_step[0];
        c->now->full_step[0] = step;
    }
}

static int cache_skip(void *self, size_t module) {
    const family_cache *c = self;
    return c->gate != OUSAC_GATE_FULL && !(c->gate == OUSAC_GATE_CACHED && c->o.ranks &&
                                           ousac_cost_module_live(c->o.arch, module, c->o.ranks));
}

static void keep(double *last, double *before, const double *values, size_t count) {
    memcpy(before, last, count * sizeof *last);
    memcpy(last, values, count * sizeof *last);
}

static void cache_site(void *self, size_t s, size_t rows, size_t m, size_t n, const double *x, double *y) {
    family_cache *c = self;
    double *x0 = c->now->x[0][s], *x1 = c->now->x[1][s], *y0 = c->now->y[0][s], *y1 = c->now->y[1][s];
    if (c->gate == OUSAC_GATE_FULL) {
        keep(x0, x1, x, rows * n);
        keep(y0, y1, y, rows * m);
        return;
    }
    const ousac_path path = ousac_cost_path(c->o.arch, s, c->o.ranks);
    if (path == OUSAC_PATH_DENSE)
        return;
    if (path == OUSAC_PATH_FROZEN) {
        memcpy(y, y0, rows * m * sizeof *y);
        return;
    }
    const size_t rank = c->o.ranks->rank[s];
    const double f = c->o.ranks->forecast && c->now->filled == 2
                         ? (double)family_coefficient(c->step, c->at_branch, c->o.arch->sites[s].group)
                         : 0;
    float *a = make(rank * m, sizeof *a), *b = make(rank * n, sizeof *b);
    (void)family_factors((void *)(uintptr_t)c->o.arch, s, rank, a, b, NULL);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < m; j++)
            y[i * m + j] = y0[i * m + j] + f * (y0[i * m + j] - y1[i * m + j]);
        for (size_t r = 0; r < rank; r++) {
            double z = 0;
            for (size_t k = 0; k < n; k++)
                z += (double)b[r * n + k] *
                     (x[i * n + k] - x0[i * n + k] - f * (x0[i * n + k] - x1[i * n + k]));
            for (size_t j = 0; j < m; j++)
                y[i * m + j] += z * (double)a[r * m + j];
        }
    }
    free(a), free(b);
}

static void cache_output(void *self, size_t module, size_t o, size_t rows, size_t width, double *out) {
    family_cache *c = self;
    const size_t at = module * OUSAC_OUTPUTS_MAX + o;
    double *last = c->now->out[0][at], *before = c->now->out[1][at];
    if (c->gate == OUSAC_GATE_FULL) {
        keep(last, before, out, rows * width);
    } else if (cache_skip(c, module)) {
        const size_t *full = c->now->full_step;
        const double s = c->gate == OUSAC_GATE_EXTRAPOLATE && c->now->filled == 2
                             ? (double)(c->step - full[0]) / (double)(full[0] - full[1])
                             : 0;
        for (size_t i = 0; i < rows * width; i++)
            out[i] = last[i] + s * (last[i] - before[i]);
    }
}

family_hooks family_cache_hooks(family_cache *cache) {
    return (family_hooks){cache, cache_begin, cache_skip, cache_site, cache_output};
}

ousac_schedule family_gated(const ousac_schedule *schedule, const ousac_ranks *ranks, int extrapolate) {
    ousac_schedule gated;
    if (ousac_schedule_copy(&gated, schedule, NULL))
        abort();
    if (extrapolate)
        ousac_schedule_replace_gate(&gated, OUSAC_GATE_REUSE, OUSAC_GATE_EXTRAPOLATE);
    if (extrapolate && !ranks)
        ousac_schedule_replace_gate(&gated, OUSAC_GATE_CACHED, OUSAC_GATE_EXTRAPOLATE);
    return gated;
}

/* --- recording --- */

family_watch *family_watch_create(const ousac_arch *arch, const ousac_schedule *schedule) {
    family_watch *w = make(1, sizeof *w);
    const size_t cells = schedule->step_count * 2;
    w->arch = arch;
    w->schedule = schedule;
    w->x2 = make(cells * arch->group_count, sizeof(double));
    w->dx2 = make(cells * arch->group_count, sizeof(double));
    w->y2 = make(cells * arch->site_count, sizeof(double));
    w->dy2 = make(cells * arch->site_count, sizeof(double));
    w->module2 = make(cells * arch->module_count, sizeof(double));
    w->dmodule2 = make(cells * arch->module_count, sizeof(double));
    w->moment = make(arch->group_count, sizeof *w->moment);
    for (size_t g = 0; g < arch->group_count; g++)
        w->moment[g] = make(arch->groups[g].dim * (arch->groups[g].dim + 1) / 2, sizeof(double));
    return w;
}

void family_watch_free(family_watch *w) {
    if (!w)
        return;
    family_cache_free(w->kept);
    for (size_t g = 0; g < w->arch->group_count; g++)
        free(w->moment[g]);
    free(w->x2), free(w->dx2), free(w->y2), free(w->dy2), free(w->module2), free(w->dmodule2),
        free(w->moment);
    free(w);
}

void family_watch_sample(family_watch *w) {
    family_cache_free(w->kept);
    w->kept = family_cache_create(&(family_caching){.arch = w->arch, .schedule = w->schedule});
}

static void watch_begin(void *self, size_t step, int branch) {
    family_watch *w = self;
    w->step = step;
    w->branch = branch;
    w->seen = w->kept->branch[branch].filled > 0;
    cache_begin(w->kept, step, branch);
    w->gate = w->kept->gate;
}

static void sum(const family_watch *w, size_t count, size_t width, size_t index, const double *now,
                const double *then, double *square, double *change) {
    const size_t at = (w->step * 2 + (size_t)w->branch) * width + index;
    for (size_t i = 0; i < count; i++) {
        square[at] += now[i] * now[i];
        if (w->seen)
            change[at] += (now[i] - then[i]) * (now[i] - then[i]);
    }
}

static void watch_site(void *self, size_t s, size_t rows, size_t m, size_t n, const double *x, double *y) {
    family_watch *w = self;
    const ousac_arch *arch = w->arch;
    const size_t g = arch->sites[s].group;
    const ousac_group *group = &arch->groups[g];
    const double *then_x = w->kept->now->x[0][s], *then_y = w->kept->now->y[0][s];
    if (group->first_site == s)
        sum(w, rows * n, arch->group_count, g, x, then_x, w->x2, w->dx2);
    sum(w, rows * m, arch->site_count, s, y, then_y, w->y2, w->dy2);
    if (w->gate == OUSAC_GATE_CACHED && group->first_site == s) {
        const double *now = group->side == OUSAC_SIDE_INPUT ? x : y,
                     *then = group->side == OUSAC_SIDE_INPUT ? then_x : then_y;
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < group->dim; i++)
                for (size_t j = 0; j <= i; j++)
                    w->moment[g][i * (i + 1) / 2 + j] +=
                        (now[r * group->dim + i] - then[r * group->dim + i]) *
                        (now[r * group->dim + j] - then[r * group->dim + j]);
    }
    if (w->gate == OUSAC_GATE_FULL)
        cache_site(w->kept, s, rows, m, n, x, y);
}

static void watch_output(void *self, size_t module, size_t o, size_t rows, size_t width, double *out) {
    family_watch *w = self;
    sum(w, rows * width, w->arch->module_count, module, out,
        w->kept->now->out[0][module * OUSAC_OUTPUTS_MAX + o], w->module2, w->dmodule2);
    if (w->gate == OUSAC_GATE_FULL)
        cache_output(w->kept, module, o, rows, width, out);
}

family_hooks family_watch_hooks(family_watch *watch) {
    return (family_hooks){watch, watch_begin, NULL, watch_site, watch_output};
}
