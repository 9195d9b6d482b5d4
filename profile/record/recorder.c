#include "profile/record/recorder.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"
#include "profile/record/magnitudes.h"
#include "profile/run/history.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Rows that a moment's product waits for: more make it no faster, and float32 sums over many lose digits. */
enum { WAITING_ROWS = 512 };

/* The rows of a stream that are seen. */
typedef struct seen_rows {
    size_t used;                              /* of each sample */
    uint32_t first;                           /* of its draws, in choices of a token */
    uint32_t *chosen[OUSAC_BRANCHES], *spare; /* host: the rows that the references stand for;
                                                                 room for the next choice */
    uint32_t *rows, *next_rows;               /* backend: the same of the evaluation under way */
    const uint32_t *index, *next; /* the rows that references stand for before it and after it; NULL: all */
    size_t count;
} seen_rows;

/* One thread's reference values and the sums of its present micro-batch. */
typedef struct witness {
    ousac_recorder *recorder;
    ousac_history
        history[OUSAC_BRANCHES]; /* of the schedule's cache; empty for a branch that it never evaluates */
    float **waiting;             /* per group: (capacity, dim), weighted deltas not yet in the moment */
    size_t *waiting_rows, *waiting_segment; /* per group */
    float *gram;                            /* (dim, dim), the largest */
    seen_rows seen[OUSAC_STREAMS_MAX];      /* per stream */
    uint32_t *order;                        /* host: room for a permutation of the longest stream */
    double *scalar[OUSAC_SCALAR_COUNT]; /* as in the profile; those of modules stand for all tokens already */
    double **moment;                    /* backend memory, as in the profile */
    const float **y;                    /* per group: where its output was in this evaluation, */
    size_t *ldy;                        /* and how it lay */
    /* per output, module * OUSAC_OUTPUTS_MAX + output: 1, it is what its last linear gave, measured as such;
     * else its sums */
    unsigned char *as_site;
    double *output2, *doutput2;
    ousac_magnitudes *magnitudes; /* NULL where the profile holds none */
    /* the evaluation under way: */
    size_t step;
    int branch;
    int gate; /* of the schedule, which an exact run does not follow */
} witness;

struct ousac_recorder {
    ousac_profile *profile;
    const ousac_backend *backend;
    size_t workers, batch;
    size_t last_slot; /* of the schedule's last evaluation */
    int spilled;      /* 1: the threads' moments are mapped from the profile's spill, which frees them */
    size_t *group_m;  /* per group: sum of m */
    witness *witness;
    double *host; /* staging for one moment */
    ousac_run_observers observers;
};

static size_t packed_size(size_t dim) {
    return dim * (dim + 1) / 2;
}

static size_t slot(size_t step, int branch) {
    return step * OUSAC_BRANCHES + (size_t)branch;
}

/* The entry of a scalar at the evaluation under way. */
static double *at(witness *w, ousac_scalar scalar, size_t index) {
    const ousac_profile *p = w->recorder->profile;
    return w->scalar[scalar] + slot(w->step, w->branch) * ousac_profile_scalar_width(&p->arch, scalar) +
           index;
}

static ousac_status not_finite(const witness *w, const char *name, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "%s, step %zu, branch %s: activations are not finite", name,
                      w->step, ousac_branch_name(w->branch));
}

/* --- what is seen --- */

static size_t used_of(const ousac_profile *p, size_t stream) {
    const size_t N = p->arch.stream[stream].tokens;
    return p->identity.tokens_used < N ? p->identity.tokens_used : N;
}

/* What the sums of a stream's tokens used are multiplied by to stand for all. */
static double share_of(const ousac_profile *p, size_t stream) {
    return (double)p->arch.stream[stream].tokens / (double)used_of(p, stream);
}

static seen_rows *seen_of_group(witness *w, size_t group) {
    return &w->seen[w->recorder->profile->arch.groups[group].stream];
}

/* The tokens of each sample that are seen from this evaluation on: the first K of a Fisher-Yates shuffle of
 * 0..N-1 under (seed, sample, stream, step), in rising order. */
static void choose_rows(witness *w, size_t stream, uint64_t first, size_t count) {
    const ousac_profile *p = w->recorder->profile;
    const seen_rows *seen = &w->seen[stream];
    const size_t N = p->arch.stream[stream].tokens, K = seen->used;
    uint32_t *order = w->order;
    for (size_t s = 0; s < count; s++) {
        uint32_t *chosen = seen->spare + s * K;
        for (size_t i = 0; i < N; i++)
            order[i] = (uint32_t)i;
        for (size_t i = 0; i < K; i++) {
            /* 64 draws are set apart for each choice, far more than rejection ever takes */
            uint32_t index = (uint32_t)((seen->first + w->step * N + i) * 64);
            size_t j = i + ousac_philox_below(p->identity.seed, OUSAC_STREAM_TOKENS, first + s, index,
                                              (uint32_t)(N - i));
            uint32_t swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        for (size_t i = 1; i < K; i++) /* insertion sort: K is small */
            for (size_t j = i; j > 0 && order[j - 1] > order[j]; j--) {
                uint32_t swap = order[j];
                order[j] = order[j - 1];
                order[j - 1] = swap;
            }
        for (size_t i = 0; i < K; i++)
            chosen[i] = (uint32_t)(s * N) + order[i];
    }
}

/* Which rows of a stream the evaluation is seen at: those that its branch's references stand for. A full one
 * chooses anew for the references that it leaves; where there are none yet, it is seen at these. */
static ousac_status place_rows(witness *w, size_t stream, uint64_t first, size_t count, ousac_error *error) {
    const ousac_profile *p = w->recorder->profile;
    const ousac_backend *be = w->recorder->backend;
    seen_rows *seen = &w->seen[stream];
    const size_t bytes = count * seen->used * sizeof *seen->rows;
    const int had = w->history[w->branch].filled > 0, full = w->gate == OUSAC_GATE_FULL;
    ousac_status status = OUSAC_STATUS_OK;
    seen->count = count * seen->used;
    seen->index = seen->next = NULL;
    if (seen->used == p->arch.stream[stream].tokens)
        return OUSAC_STATUS_OK;
    if (had)
        status = be->upload(be, seen->rows, seen->chosen[w->branch], bytes, error);
    if (full && !status) {
        choose_rows(w, stream, first, count);
        status = be->upload(be, seen->next_rows, seen->spare, bytes, error);
    }
    seen->next = seen->next_rows;
    seen->index = had ? seen->rows : seen->next_rows;
    return status;
}

static ousac_status begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first, size_t count,
                          ousac_error *error) {
    witness *w = self;
    const ousac_profile *p = w->recorder->profile;
    (void)gate;
    if (step >= p->schedule.step_count || p->gate[slot(step, branch)] < 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "step %zu, branch %s is evaluated, but not by the profile's schedule %s", step,
                          ousac_branch_name(branch), ousac_schedule_called(&p->schedule));
    if (count > w->recorder->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a recorder for %zu", count,
                          w->recorder->batch);
    w->step = step;
    w->branch = branch;
    w->gate = p->gate[slot(step, branch)];
    memset(w->y, 0, p->arch.group_count * sizeof *w->y);
    memset(w->output2, 0, p->arch.module_count * OUSAC_OUTPUTS_MAX * sizeof *w->output2);
    memset(w->doutput2, 0, p->arch.module_count * OUSAC_OUTPUTS_MAX * sizeof *w->doutput2);
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < p->arch.stream_count && !status; i++)
        status = place_rows(w, i, first, count, error);
    return status;
}

/* Takes a thread's moment out of memory until it is added to again. */
static void drop_moment(const witness *w, size_t index) {
    const ousac_arch *arch = &w->recorder->profile->arch;
    if (w->recorder->spilled)
        ousac_spill_drop(w->moment[index],
                         packed_size(arch->groups[index % arch->group_count].dim) * sizeof(double));
}

/* Adds the rows that wait to the moment of their segment. */
static ousac_status add_waiting(witness *w, size_t group, ousac_error *error) {
    const ousac_profile *p = w->recorder->profile;
    const ousac_backend *be = w->recorder->backend;
    const size_t dim = p->arch.groups[group].dim, rows = w->waiting_rows[group];
    const size_t index = w->waiting_segment[group] * p->arch.group_count + group;
    if (rows == 0)
        return OUSAC_STATUS_OK;
    w->waiting_rows[group] = 0;
    ousac_status status = be->gram(be, rows, dim, w->waiting[group], dim, w->gram, dim, error);
    if (!status)
        status = be->accumulate_packed(be, dim, 1, w->gram, dim, w->moment[index], error);
    drop_moment(w, index);
    return status;
}

static ousac_status add_all_waiting(witness *w, ousac_error *error) {
    const ousac_profile *p = w->recorder->profile;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t g = 0; p->moment && g < p->arch.group_count && !status; g++)
        status = add_waiting(w, g, error);
    return status;
}

/* The deltas of the chosen tokens join those that wait, times the root of their weight, so that one product
 * serves several evaluations. */
static ousac_status add_moment(witness *w, size_t group, const float *x, size_t ldx, const float *y,
                               size_t ldy, ousac_error *error) {
    const ousac_recorder *r = w->recorder;
    const ousac_profile *p = r->profile;
    const ousac_backend *be = r->backend;
    const ousac_group *g = &p->arch.groups[group];
    const ousac_history *history = &w->history[w->branch];
    const int input = g->side == OUSAC_SIDE_INPUT;
    const float *now = input ? x : y, *then = input ? history->x[0][group] : history->y[0][group];
    const size_t dim = g->dim, segment = ousac_profile_segment(p, w->step);
    /* sums stand for all tokens */
    const seen_rows *seen = seen_of_group(w, group);
    const double weight = p->weight[slot(w->step, w->branch) * p->arch.group_count + group] *
                          (double)p->arch.stream[g->stream].tokens / (double)seen->used;
    const double scale = sqrt(weight);
    ousac_status status = OUSAC_STATUS_OK;
    /* A root that float32 does not hold belongs to deltas whose squares vanish in it. */
    if (scale == 0 || scale > (double)FLT_MAX)
        return OUSAC_STATUS_OK;
    if (w->waiting_segment[group] != segment || w->waiting_rows[group] + seen->count > WAITING_ROWS)
        status = add_waiting(w, group, error);
    if (status)
        return status;
    w->waiting_segment[group] = segment;
    status = be->subtract_rows(be, seen->count, dim, seen->index, (float)scale, now, input ? ldx : ldy, then,
                               dim, w->waiting[group] + w->waiting_rows[group] * dim, dim, error);
    w->waiting_rows[group] += seen->count;
    return status;
}

/* One pass over the rows seen of a matrix and their reference: the scalars, and at a full gate the new
 * reference. What this costs is the traffic of memory. */
static ousac_status measure(witness *w, const seen_rows *seen, size_t cols, const float *x, size_t ldx,
                            float *past, size_t ld_past, double *square, double *change, ousac_error *error) {
    const ousac_backend *be = w->recorder->backend;
    return be->measure_change(be, seen->count, cols, seen->index, seen->next, x, ldx, past, ld_past,
                              w->history[w->branch].filled > 0, w->gate == OUSAC_GATE_FULL, square, change,
                              error);
}

static ousac_status linear(void *self, size_t group, size_t rows, const float *x, size_t ldx, const float *y,
                           size_t ldy, ousac_error *error) {
    witness *w = self;
    const ousac_recorder *r = w->recorder;
    const ousac_profile *p = r->profile;
    const ousac_group *g = &p->arch.groups[group];
    const size_t n = p->arch.sites[g->first_site].n, m = r->group_m[group];
    const ousac_history *history = &w->history[w->branch];
    size_t column = 0;
    const seen_rows *seen = seen_of_group(w, group);
    ousac_status status = measure(w, seen, n, x, ldx, history->x[0][group], n, at(w, OUSAC_SCALAR_X2, group),
                                  at(w, OUSAC_SCALAR_DX2, group), error);
    for (size_t s = g->first_site; s < g->first_site + g->site_count && !status; s++) {
        const ousac_site *site = &p->arch.sites[s];
        status = measure(w, seen, site->m, y + column, ldy, history->y[0][group] + column, m,
                         at(w, OUSAC_SCALAR_Y2, s), at(w, OUSAC_SCALAR_DY2, s), error);
        column += site->m;
    }
    if (!status && history->filled > 0 && p->moment && w->gate == OUSAC_GATE_CACHED)
        status = add_moment(w, group, x, ldx, y, ldy, error);
    if (!status && w->magnitudes)
        status = ousac_magnitudes_see(w->magnitudes, w->branch, group, rows, x, ldx, y, ldy, error);
    w->y[group] = y;
    w->ldy[group] = ldy;
    return status;
}

static ousac_status module(void *self, size_t index, const ousac_rows *out, ousac_error *error) {
    witness *w = self;
    const ousac_arch *arch = &w->recorder->profile->arch;
    const ousac_module *m = &arch->modules[index];
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t o = 0; o < m->output_count && !status; o++) {
        const size_t at = index * OUSAC_OUTPUTS_MAX + o, width = m->output[o].width;
        const size_t group = ousac_arch_output_group(arch, index, o);
        /* The output of a linear and nothing else has been measured already. */
        w->as_site[at] = group != SIZE_MAX && out[o].data == w->y[group] && out[o].ld == w->ldy[group] &&
                         arch->groups[group].site_count == 1 &&
                         arch->sites[arch->groups[group].first_site].m == width;
        if (!w->as_site[at])
            status =
                measure(w, &w->seen[m->output[o].stream], width, out[o].data, out[o].ld,
                        w->history[w->branch].room[0][at], width, &w->output2[at], &w->doutput2[at], error);
    }
    return status;
}

/* What only all sums of the forward tell: modules, whose outputs may have been measured as sites, and the
 * first site whose activations were not finite. */
static ousac_status look_at_sums(witness *w, ousac_error *error) {
    const ousac_profile *p = w->recorder->profile;
    const ousac_arch *arch = &p->arch;
    for (size_t s = 0; s < arch->site_count; s++)
        if (!isfinite(*at(w, OUSAC_SCALAR_Y2, s)) || !isfinite(*at(w, OUSAC_SCALAR_X2, arch->sites[s].group)))
            return not_finite(w, arch->sites[s].name, error);
    for (size_t m = 0; m < arch->module_count; m++) {
        double *square = at(w, OUSAC_SCALAR_MODULE2, m), *change = at(w, OUSAC_SCALAR_DMODULE2, m);
        for (size_t o = 0; o < arch->modules[m].output_count; o++) {
            const size_t i = m * OUSAC_OUTPUTS_MAX + o, group = ousac_arch_output_group(arch, m, o);
            const size_t site = w->as_site[i] ? arch->groups[group].first_site : 0;
            const double share = share_of(p, arch->modules[m].output[o].stream);
            *square += share * (w->as_site[i] ? *at(w, OUSAC_SCALAR_Y2, site) : w->output2[i]);
            *change += share * (w->as_site[i] ? *at(w, OUSAC_SCALAR_DY2, site) : w->doutput2[i]);
        }
        if (!isfinite(*square))
            return not_finite(w, arch->modules[m].name, error);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status end(void *self, ousac_error *error) {
    witness *w = self;
    const ousac_status status = look_at_sums(w, error);
    if (status)
        return status;
    if (w->magnitudes)
        ousac_magnitudes_end(w->magnitudes, w->branch);
    if (w->gate == OUSAC_GATE_FULL) {
        for (size_t i = 0; i < w->recorder->profile->arch.stream_count; i++) {
            seen_rows *seen = &w->seen[i];
            uint32_t *before = seen->chosen[w->branch];
            seen->chosen[w->branch] = seen->spare;
            seen->spare = before;
        }
        ousac_history_end(&w->history[w->branch]);
    }
    /* Here and not in `collect`, for which threads wait on one another. */
    return slot(w->step, w->branch) == w->recorder->last_slot ? add_all_waiting(w, error) : OUSAC_STATUS_OK;
}

/* --- handing over --- */

static size_t scalar_size(const ousac_profile *p, int scalar) {
    return p->schedule.step_count * OUSAC_BRANCHES *
           ousac_profile_scalar_width(&p->arch, (ousac_scalar)scalar);
}

/* sum += part; part = 0. */
static void move_sums(size_t count, double *restrict sum, double *restrict part) {
    for (size_t i = 0; i < count; i++) {
        sum[i] += part[i];
        part[i] = 0;
    }
}

/* What an entry of a scalar is multiplied by to stand for all tokens of its stream; modules do already. */
static double share_of_entry(const ousac_profile *p, int scalar, size_t index) {
    const ousac_arch *arch = &p->arch;
    switch ((ousac_scalar)scalar) {
    case OUSAC_SCALAR_X2:
    case OUSAC_SCALAR_DX2:
        return share_of(p, arch->groups[index].stream);
    case OUSAC_SCALAR_Y2:
    case OUSAC_SCALAR_DY2:
        return share_of(p, arch->groups[arch->sites[index].group].stream);
    case OUSAC_SCALAR_MODULE2:
    case OUSAC_SCALAR_DMODULE2:
    case OUSAC_SCALAR_COUNT:
        break;
    }
    return 1;
}

/* Adds a thread's sums of a scalar to the profile's and clears them. The tokens seen stand for all. */
static void collect_scalar(ousac_profile *p, int scalar, double *part) {
    const size_t width = ousac_profile_scalar_width(&p->arch, (ousac_scalar)scalar);
    for (size_t i = 0; i < scalar_size(p, scalar); i++) {
        p->scalar[scalar][i] += share_of_entry(p, scalar, i % width) * part[i];
        part[i] = 0;
    }
}

/* Adds a moment of the thread's to the profile's and clears it. */
static ousac_status collect_moment(const ousac_recorder *r, double *moment, double *part, size_t size,
                                   ousac_error *error) {
    const ousac_backend *be = r->backend;
    if (be->host) {
        move_sums(size, moment, part);
        return OUSAC_STATUS_OK;
    }
    const ousac_status status = be->download(be, r->host, part, size * sizeof(double), error);
    if (status)
        return status;
    move_sums(size, moment, r->host);
    return be->upload(be, part, r->host, size * sizeof(double), error);
}

/* Adds the micro-batch's sums to the profile and clears them; the next trajectory starts without references.
 */
static ousac_status collect(void *self, size_t worker, uint64_t first, size_t count, ousac_error *error) {
    ousac_recorder *r = self;
    ousac_profile *p = r->profile;
    witness *w = &r->witness[worker];
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        collect_scalar(p, s, w->scalar[s]);
    ousac_status status = add_all_waiting(w, error);
    for (size_t i = 0; p->moment && !status && i < p->identity.segments * p->arch.group_count; i++) {
        status = collect_moment(r, p->moment[i], w->moment[i],
                                packed_size(p->arch.groups[i % p->arch.group_count].dim), error);
        ousac_profile_drop_moment(p, i);
        drop_moment(w, i);
    }
    if (status)
        return status;
    if (w->magnitudes)
        ousac_magnitudes_collect(w->magnitudes, p);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_history_reset(&w->history[b]);
    return ousac_profile_add_range(p, first, count, error);
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    ousac_recorder *r = self;
    if (worker >= r->workers)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "worker %zu of a recorder for %zu", worker,
                          r->workers);
    *observer = (ousac_observer){.self = &r->witness[worker],
                                 .late = !r->witness[worker].magnitudes,
                                 .begin = begin,
                                 .linear = linear,
                                 .module = module,
                                 .end = end};
    return OUSAC_STATUS_OK;
}

/* --- life --- */

size_t ousac_recorder_waiting(const ousac_schedule *schedule, size_t batch, size_t tokens_used) {
    const size_t rows = batch * tokens_used;
    size_t evaluations = 0;
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            evaluations += ousac_mode_evaluates(schedule->steps[i].mode, b) != 0;
    if (rows >= WAITING_ROWS || evaluations == 0)
        return rows;
    return evaluations > WAITING_ROWS / rows ? WAITING_ROWS : evaluations * rows;
}

static void witness_free(witness *w, const ousac_recorder *r) {
    const ousac_profile *p = r->profile;
    const ousac_backend *be = r->backend;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_history_free(&w->history[b]);
    ousac_magnitudes_free(w->magnitudes);
    ousac_free(w->as_site);
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        ousac_free(w->scalar[s]);
    for (size_t i = 0; w->moment && !r->spilled && i < p->identity.segments * p->arch.group_count; i++)
        be->release(be, w->moment[i]);
    ousac_free(w->moment);
    for (size_t g = 0; w->waiting && g < p->arch.group_count; g++)
        be->release(be, w->waiting[g]);
    ousac_free(w->waiting);
    ousac_free(w->waiting_rows);
    ousac_free(w->waiting_segment);
    be->release(be, w->gram);
    for (size_t i = 0; i < p->arch.stream_count; i++) {
        be->release(be, w->seen[i].rows);
        be->release(be, w->seen[i].next_rows);
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            ousac_free(w->seen[i].chosen[b]);
        ousac_free(w->seen[i].spare);
    }
    ousac_free(w->order);
    ousac_free(w->y);
    ousac_free(w->ldy);
    ousac_free(w->output2);
    ousac_free(w->doutput2);
}

/* Choices of tokens, streams one behind another. */
static int create_rows(witness *w, const ousac_recorder *r) {
    const ousac_profile *p = r->profile;
    const ousac_backend *be = r->backend;
    size_t first = 0;
    for (size_t i = 0; i < p->arch.stream_count; i++) {
        seen_rows *seen = &w->seen[i];
        seen->used = used_of(p, i);
        seen->first = (uint32_t)first;
        first += p->schedule.step_count * p->arch.stream[i].tokens;
        const size_t rows = r->batch * seen->used;
        seen->rows = be->alloc(be, rows, sizeof *seen->rows);
        seen->next_rows = be->alloc(be, rows, sizeof *seen->next_rows);
        seen->spare = ousac_malloc(rows, sizeof *seen->spare);
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (!(seen->chosen[b] = ousac_malloc(rows, sizeof *seen->chosen[b])))
                return 0;
        if (!seen->rows || !seen->next_rows || !seen->spare)
            return 0;
    }
    w->order = ousac_malloc(ousac_arch_most_tokens(&p->arch), sizeof *w->order);
    return w->order != NULL;
}

static int witness_create(witness *w, ousac_recorder *r) {
    const ousac_profile *p = r->profile;
    const ousac_arch *arch = &p->arch;
    const ousac_backend *be = r->backend;
    size_t largest = 0;
    w->recorder = r;
    for (size_t g = 0; g < arch->group_count; g++)
        largest = arch->groups[g].dim > largest ? arch->groups[g].dim : largest;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        int used = 0; /* a branch that the schedule never evaluates needs no references */
        for (size_t i = 0; i < p->schedule.step_count; i++)
            used |= p->gate[i * OUSAC_BRANCHES + (size_t)b] >= 0;
        if (used &&
            ousac_history_create(&w->history[b], arch, be, r->batch, p->identity.tokens_used, 1, NULL, NULL))
            return 0;
    }
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        if (!(w->scalar[s] = ousac_calloc(scalar_size(p, s), sizeof(double))))
            return 0;
    if (p->identity.magnitudes && ousac_magnitudes_create(&w->magnitudes, p, be, r->batch, NULL))
        return 0;
    const size_t outputs = arch->module_count * OUSAC_OUTPUTS_MAX;
    w->as_site = ousac_calloc(outputs, 1);
    w->output2 = ousac_calloc(outputs, sizeof *w->output2);
    w->doutput2 = ousac_calloc(outputs, sizeof *w->doutput2);
    w->y = ousac_calloc(arch->group_count, sizeof *w->y);
    w->ldy = ousac_calloc(arch->group_count, sizeof *w->ldy);
    if (!create_rows(w, r) || !w->as_site || !w->output2 || !w->doutput2 || !w->y || !w->ldy)
        return 0;
    if (!p->moment)
        return 1;
    size_t moments = p->identity.segments * arch->group_count;
    if (!r->spilled)
        w->moment = ousac_calloc(moments, sizeof *w->moment);
    w->waiting = ousac_calloc(arch->group_count, sizeof *w->waiting);
    w->waiting_rows = ousac_calloc(arch->group_count, sizeof *w->waiting_rows);
    w->waiting_segment = ousac_calloc(arch->group_count, sizeof *w->waiting_segment);
    w->gram = be->alloc(be, largest * largest, sizeof(float));
    if (!w->moment || !w->waiting || !w->waiting_rows || !w->waiting_segment || !w->gram)
        return 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        const size_t rows =
            ousac_recorder_waiting(&p->schedule, r->batch, used_of(p, arch->groups[g].stream));
        if (!(w->waiting[g] = be->alloc(be, rows * arch->groups[g].dim, sizeof(float))))
            return 0;
    }
    memset(r->host, 0, packed_size(largest) * sizeof(double));
    for (size_t i = 0; i < moments && !r->spilled; i++) {
        size_t bytes = packed_size(arch->groups[i % arch->group_count].dim) * sizeof(double);
        if (!(w->moment[i] = be->alloc(be, bytes, 1)) || be->upload(be, w->moment[i], r->host, bytes, NULL))
            return 0;
    }
    return 1;
}

/* The threads' moments beside the profile's own, where those are not in memory either. */
static ousac_status map_moments(ousac_recorder *r, ousac_error *error) {
    const ousac_profile *p = r->profile;
    const size_t moments = p->identity.segments * p->arch.group_count;
    ousac_status status = OUSAC_STATUS_OK;
    r->spilled = p->spill && p->moment && r->backend->host;
    for (size_t i = 0; i < r->workers && r->spilled && !status; i++) {
        r->witness[i].moment = ousac_calloc(moments, sizeof *r->witness[i].moment);
        if (!r->witness[i].moment)
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to record %zu moments", moments);
        for (size_t k = 0; k < moments && !status; k++) {
            void *block = NULL;
            status = ousac_spill_map(
                p->spill, packed_size(p->arch.groups[k % p->arch.group_count].dim) * sizeof(double), &block,
                error);
            r->witness[i].moment[k] = block;
        }
    }
    return status;
}

void ousac_recorder_free(ousac_recorder *r) {
    if (!r)
        return;
    for (size_t i = 0; r->witness && i < r->workers; i++)
        witness_free(&r->witness[i], r);
    ousac_free(r->witness);
    ousac_free(r->group_m);
    ousac_free(r->host);
    ousac_free(r);
}

ousac_status ousac_recorder_create(ousac_recorder **recorder, ousac_profile *profile,
                                   const ousac_backend *backend, size_t workers, size_t batch,
                                   ousac_error *error) {
    const ousac_arch *arch = &profile->arch;
    size_t largest = 0;
    *recorder = NULL;
    ousac_recorder *r = ousac_calloc(1, sizeof *r);
    if (!r)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a recorder");
    r->profile = profile;
    r->backend = backend;
    r->workers = workers;
    r->batch = batch;
    for (size_t i = 0; i < profile->schedule.step_count; i++)
        for (int b = OUSAC_BRANCHES - 1; b >= 0; b--) /* the runner's order */
            if (profile->gate[slot(i, b)] >= 0)
                r->last_slot = slot(i, b);
    r->observers = (ousac_run_observers){r, attach, collect};
    for (size_t g = 0; g < arch->group_count; g++)
        largest = arch->groups[g].dim > largest ? arch->groups[g].dim : largest;
    r->host = ousac_calloc(packed_size(largest), sizeof *r->host);
    r->group_m = ousac_calloc(arch->group_count, sizeof *r->group_m);
    r->witness = ousac_calloc(workers, sizeof *r->witness);
    int ok = r->host && r->group_m && r->witness;
    for (size_t s = 0; ok && s < arch->site_count; s++)
        r->group_m[arch->sites[s].group] += arch->sites[s].m;
    if (ok) {
        const ousac_status status = map_moments(r, error);
        if (status) {
            ousac_recorder_free(r);
            return status;
        }
    }
    for (size_t i = 0; ok && i < workers; i++)
        ok = witness_create(&r->witness[i], r);
    if (!ok) {
        ousac_recorder_free(r);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory%s%s to record %zu samples on %zu threads",
                          backend->host ? "" : " on the device ", backend->host ? "" : backend->name, batch,
                          workers);
    }
    *recorder = r;
    return OUSAC_STATUS_OK;
}

const ousac_run_observers *ousac_recorder_observers(ousac_recorder *r) {
    return &r->observers;
}
