#include "profile/record/witness.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Rows that a moment's product waits for: more make it no faster, and float32 sums over many lose digits. */
enum { WAITING_ROWS = 512 };

/* The rows of a stream in one evaluation, and where they are kept. */
typedef struct seen_rows {
    ousac_seen seen;
    uint32_t first;             /* of each sample's draws, in choices of a token */
    uint32_t *chosen, *spare;   /* host: the rows that the references stand for; room for the next choice */
    uint32_t *rows, *next_rows; /* backend: the same */
    uint32_t *packed; /* host: room for take, packed_index and packed_next, of four times the rows in all */
} seen_rows;

/* A branch's evaluation under way, and the choice of rows that lasts beyond it. */
struct ousac_witness_evaluation {
    size_t step;
    int gate; /* of the schedule, which an exact run does not follow */
    seen_rows rows[OUSAC_STREAMS_MAX];
    /* per output, module * OUSAC_OUTPUTS_MAX + output: 1, it is what its last linear gave, measured as such;
     * else its sums */
    unsigned char *as_site;
    double *output2, *doutput2;
};

static size_t packed_size(size_t dim) {
    return dim * (dim + 1) / 2;
}

static size_t slot(size_t step, int branch) {
    return step * OUSAC_BRANCHES + (size_t)branch;
}

/* The entry of a scalar at a branch's evaluation under way. */
static double *at(const ousac_witness *w, int branch, ousac_scalar scalar, size_t index) {
    const ousac_profile *p = w->profile;
    return w->scalar[scalar] +
           slot(w->under_way[branch]->step, branch) * ousac_profile_scalar_width(&p->arch, scalar) + index;
}

static ousac_status not_finite(const ousac_witness *w, int branch, const char *name, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "%s, step %zu, branch %s: activations are not finite", name,
                      w->under_way[branch]->step, ousac_branch_name(branch));
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

/* The tokens of each sample that are seen from this evaluation on: the first K of a Fisher-Yates shuffle of
 * 0..N-1 under (seed, sample, stream, step), in rising order. */
static void choose_rows(const ousac_witness *w, const ousac_witness_evaluation *e, size_t stream,
                        uint64_t first, size_t count) {
    const ousac_profile *p = w->profile;
    const seen_rows *seen = &e->rows[stream];
    const size_t N = p->arch.stream[stream].tokens, K = seen->seen.used;
    uint32_t *order = w->order;
    for (size_t s = 0; s < count; s++) {
        uint32_t *chosen = seen->spare + s * K;
        for (size_t i = 0; i < N; i++)
            order[i] = (uint32_t)i;
        for (size_t i = 0; i < K; i++) {
            /* 64 draws are set apart for each choice, far more than rejection ever takes */
            uint32_t index = (uint32_t)((seen->first + e->step * N + i) * 64);
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
static ousac_status place_rows(const ousac_witness *w, int branch, size_t stream, uint64_t first,
                               size_t count, ousac_error *error) {
    const ousac_backend *be = w->backend;
    const ousac_witness_evaluation *e = w->under_way[branch];
    seen_rows *rows = &w->under_way[branch]->rows[stream];
    ousac_seen *seen = &rows->seen;
    const size_t bytes = count * seen->used * sizeof *rows->rows;
    const int had = w->history[branch].filled > 0, full = e->gate == OUSAC_GATE_FULL;
    ousac_status status = OUSAC_STATUS_OK;
    seen->count = count * seen->used;
    seen->index = seen->next = NULL;
    seen->take = seen->packed_index = seen->packed_next = NULL;
    seen->taken = seen->count;
    if (seen->used == w->profile->arch.stream[stream].tokens)
        return OUSAC_STATUS_OK;
    if (had)
        status = be->upload(be, rows->rows, rows->chosen, bytes, error);
    if (full && !status) {
        choose_rows(w, e, stream, first, count);
        status = be->upload(be, rows->next_rows, rows->spare, bytes, error);
    }
    seen->next = rows->next_rows;
    seen->index = had ? rows->rows : rows->next_rows;
    return status;
}

void ousac_witness_take(ousac_witness *w, int branch, size_t stream) {
    const ousac_witness_evaluation *e = w->under_way[branch];
    seen_rows *rows = &w->under_way[branch]->rows[stream];
    ousac_seen *seen = &rows->seen;
    uint32_t *take = rows->packed, *index = take + 2 * seen->count, *next = index + seen->count;
    const uint32_t *a = seen->index, *b = e->gate == OUSAC_GATE_FULL ? seen->next : seen->index;
    size_t i = 0, j = 0;
    seen->taken = seen->count;
    if (!a)
        return;
    /* both rise, also from sample to sample */
    for (seen->taken = 0; i < seen->count || j < seen->count; seen->taken++) {
        const uint32_t row = j == seen->count || (i < seen->count && a[i] < b[j]) ? a[i] : b[j];
        take[seen->taken] = row;
        if (i < seen->count && a[i] == row)
            index[i++] = (uint32_t)seen->taken;
        if (j < seen->count && b[j] == row)
            next[j++] = (uint32_t)seen->taken;
    }
    seen->take = take;
    seen->packed_index = index;
    seen->packed_next = next;
}

const ousac_seen *ousac_witness_seen(const ousac_witness *w, int branch, size_t stream) {
    return &w->under_way[branch]->rows[stream].seen;
}

static const ousac_seen *seen_of_group(const ousac_witness *w, int branch, size_t group) {
    return ousac_witness_seen(w, branch, w->profile->arch.groups[group].stream);
}

ousac_status ousac_witness_begin(ousac_witness *w, size_t step, int branch, uint64_t first, size_t count,
                                 ousac_error *error) {
    const ousac_profile *p = w->profile;
    const size_t outputs = p->arch.module_count * OUSAC_OUTPUTS_MAX;
    if (step >= p->schedule.step_count || p->gate[slot(step, branch)] < 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "step %zu, branch %s is evaluated, but not by the profile's schedule %s", step,
                          ousac_branch_name(branch), ousac_schedule_called(&p->schedule));
    if (count > w->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu samples in a recorder for %zu", count, w->batch);
    ousac_witness_evaluation *e = w->under_way[branch];
    e->step = step;
    e->gate = p->gate[slot(step, branch)];
    memset(e->as_site, 0, outputs);
    memset(e->output2, 0, outputs * sizeof *e->output2);
    memset(e->doutput2, 0, outputs * sizeof *e->doutput2);
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < p->arch.stream_count && !status; i++)
        status = place_rows(w, branch, i, first, count, error);
    return status;
}

/* --- moments --- */

/* Takes a thread's moment out of memory until it is added to again. */
static void drop_moment(const ousac_witness *w, size_t index) {
    const ousac_arch *arch = &w->profile->arch;
    if (w->spilled)
        ousac_spill_drop(w->moment[index],
                         packed_size(arch->groups[index % arch->group_count].dim) * sizeof(double));
}

/* Adds the rows that wait to the moment of their segment. */
static ousac_status add_waiting(ousac_witness *w, size_t group, ousac_error *error) {
    const ousac_profile *p = w->profile;
    const ousac_backend *be = w->backend;
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

/* Rows of deltas that still wait join their moments: before these are read. */
static ousac_status settle(ousac_witness *w, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t g = 0; w->moment && g < w->profile->arch.group_count && !status; g++)
        status = add_waiting(w, g, error);
    return status;
}

/* The deltas of the chosen tokens join those that wait, times the root of their weight, so that one product
 * serves several evaluations. `now`: of the side that the moment is of. */
static ousac_status add_moment(ousac_witness *w, int branch, size_t group, const ousac_piece *now,
                               ousac_error *error) {
    const ousac_profile *p = w->profile;
    const ousac_backend *be = w->backend;
    const ousac_group *g = &p->arch.groups[group];
    const ousac_history *history = &w->history[branch];
    const float *then = g->side == OUSAC_SIDE_INPUT ? history->x[0][group] : history->y[0][group];
    const size_t dim = g->dim, step = w->under_way[branch]->step, segment = ousac_profile_segment(p, step);
    /* sums stand for all tokens */
    const ousac_seen *seen = seen_of_group(w, branch, group);
    const double weight = p->weight[slot(step, branch) * p->arch.group_count + group] *
                          (double)p->arch.stream[g->stream].tokens / (double)seen->used;
    const double scale = sqrt(weight);
    ousac_status status = OUSAC_STATUS_OK;
    if (!w->moment || history->filled == 0 || w->under_way[branch]->gate != OUSAC_GATE_CACHED)
        return OUSAC_STATUS_OK;
    /* A root that float32 does not hold belongs to deltas whose squares vanish in it. */
    if (scale == 0 || scale > (double)FLT_MAX)
        return OUSAC_STATUS_OK;
    if (w->waiting_segment[group] != segment || w->waiting_rows[group] + seen->count > WAITING_ROWS)
        status = add_waiting(w, group, error);
    if (status)
        return status;
    w->waiting_segment[group] = segment;
    status = be->subtract_rows(be, seen->count, dim, now->packed ? seen->packed_index : seen->index,
                               (float)scale, now->data, now->ld, then, dim,
                               w->waiting[group] + w->waiting_rows[group] * dim, dim, error);
    w->waiting_rows[group] += seen->count;
    return status;
}

/* --- pieces --- */

/* One pass over the rows seen of a matrix and their reference: the scalars, and at a full gate the new
 * reference. What this costs is the traffic of memory. */
static ousac_status measure(const ousac_witness *w, int branch, const ousac_seen *seen, size_t cols,
                            const ousac_piece *x, float *past, size_t ld_past, double *square, double *change,
                            ousac_error *error) {
    const ousac_backend *be = w->backend;
    return be->measure_change(be, seen->count, cols, x->packed ? seen->packed_index : seen->index,
                              x->packed ? seen->packed_next : seen->next, x->data, x->ld, past, ld_past,
                              w->history[branch].filled > 0, w->under_way[branch]->gate == OUSAC_GATE_FULL,
                              square, change, error);
}

ousac_status ousac_witness_input(ousac_witness *w, int branch, size_t group, const ousac_piece *x,
                                 ousac_error *error) {
    const ousac_arch *arch = &w->profile->arch;
    const ousac_group *g = &arch->groups[group];
    const size_t n = arch->sites[g->first_site].n;
    const ousac_status status =
        measure(w, branch, seen_of_group(w, branch, group), n, x, w->history[branch].x[0][group], n,
                at(w, branch, OUSAC_SCALAR_X2, group), at(w, branch, OUSAC_SCALAR_DX2, group), error);
    return status || g->side != OUSAC_SIDE_INPUT ? status : add_moment(w, branch, group, x, error);
}

ousac_status ousac_witness_site(ousac_witness *w, int branch, size_t site, const ousac_piece *y,
                                ousac_error *error) {
    const ousac_arch *arch = &w->profile->arch;
    const size_t group = arch->sites[site].group;
    const ousac_status status =
        measure(w, branch, seen_of_group(w, branch, group), arch->sites[site].m, y,
                w->history[branch].y[0][group] + w->column[site], w->group_m[group],
                at(w, branch, OUSAC_SCALAR_Y2, site), at(w, branch, OUSAC_SCALAR_DY2, site), error);
    return status || arch->groups[group].side != OUSAC_SIDE_OUTPUT ? status
                                                                   : add_moment(w, branch, group, y, error);
}

size_t ousac_witness_output_site(const ousac_arch *arch, size_t module, size_t output) {
    const size_t group = ousac_arch_output_group(arch, module, output);
    if (group == SIZE_MAX || arch->groups[group].site_count != 1 ||
        arch->sites[arch->groups[group].first_site].m != arch->modules[module].output[output].width)
        return SIZE_MAX;
    return arch->groups[group].first_site;
}

void ousac_witness_as_site(ousac_witness *w, int branch, size_t module, size_t output) {
    w->under_way[branch]->as_site[module * OUSAC_OUTPUTS_MAX + output] = 1;
}

ousac_status ousac_witness_output(ousac_witness *w, int branch, size_t module, size_t output,
                                  const ousac_piece *out, ousac_error *error) {
    const ousac_output *o = &w->profile->arch.modules[module].output[output];
    ousac_witness_evaluation *e = w->under_way[branch];
    const size_t at = module * OUSAC_OUTPUTS_MAX + output;
    return measure(w, branch, &e->rows[o->stream].seen, o->width, out, w->history[branch].room[0][at],
                   o->width, &e->output2[at], &e->doutput2[at], error);
}

/* What only all sums of the forward tell: modules, whose outputs may have been measured as sites, and the
 * first site whose activations were not finite. */
static ousac_status look_at_sums(const ousac_witness *w, int branch, ousac_error *error) {
    const ousac_profile *p = w->profile;
    const ousac_arch *arch = &p->arch;
    const ousac_witness_evaluation *e = w->under_way[branch];
    for (size_t s = 0; s < arch->site_count; s++)
        if (!isfinite(*at(w, branch, OUSAC_SCALAR_Y2, s)) ||
            !isfinite(*at(w, branch, OUSAC_SCALAR_X2, arch->sites[s].group)))
            return not_finite(w, branch, arch->sites[s].name, error);
    for (size_t m = 0; m < arch->module_count; m++) {
        double *square = at(w, branch, OUSAC_SCALAR_MODULE2, m);
        double *change = at(w, branch, OUSAC_SCALAR_DMODULE2, m);
        for (size_t o = 0; o < arch->modules[m].output_count; o++) {
            const size_t i = m * OUSAC_OUTPUTS_MAX + o;
            const size_t site = e->as_site[i] ? ousac_witness_output_site(arch, m, o) : 0;
            const double share = share_of(p, arch->modules[m].output[o].stream);
            *square += share * (e->as_site[i] ? *at(w, branch, OUSAC_SCALAR_Y2, site) : e->output2[i]);
            *change += share * (e->as_site[i] ? *at(w, branch, OUSAC_SCALAR_DY2, site) : e->doutput2[i]);
        }
        if (!isfinite(*square))
            return not_finite(w, branch, arch->modules[m].name, error);
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_witness_end(ousac_witness *w, int branch, ousac_error *error) {
    ousac_witness_evaluation *e = w->under_way[branch];
    const ousac_status status = look_at_sums(w, branch, error);
    if (status)
        return status;
    if (w->magnitudes)
        ousac_magnitudes_end(w->magnitudes, branch);
    if (e->gate == OUSAC_GATE_FULL) {
        for (size_t i = 0; i < w->profile->arch.stream_count; i++) {
            seen_rows *rows = &e->rows[i];
            uint32_t *before = rows->chosen;
            rows->chosen = rows->spare;
            rows->spare = before;
        }
        ousac_history_end(&w->history[branch]);
    }
    /* Here and not in `collect`, for which threads wait on one another. */
    return slot(e->step, branch) == w->last_slot ? settle(w, error) : OUSAC_STATUS_OK;
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

/* A device's `part` becomes 0: a product over nothing. */
static ousac_status clear_part(const ousac_backend *be, const double *one, double *part, size_t size,
                               ousac_error *error) {
    return be->gemm64(be, 0, 0, 1, size, 0, 1, one, 1, part, size, 0, part, size, error);
}

/* Adds a moment of the thread's, `part`, to that of all and clears it: moment i. */
static ousac_status collect_moment(const ousac_backend *be, const ousac_witness_target *target, size_t i,
                                   double *moment, double *part, size_t size, ousac_error *error) {
    ousac_status status;
    if (be->host) {
        move_sums(size, moment, part);
        return OUSAC_STATUS_OK;
    }
    if (target->sum) { /* sum += 1 part, every sum rounded as on the host */
        status =
            be->gemm64(be, 0, 0, 1, size, 1, 1, target->one, 1, part, size, 1, target->sum[i], size, error);
    } else {
        status = be->download(be, target->host, part, size * sizeof(double), error);
        if (!status)
            move_sums(size, moment, target->host);
    }
    return status ? status : clear_part(be, target->one, part, size, error);
}

/* The next micro-batch is collected by another thread, whose work is not queued behind this one's. */
static ousac_status wait_for_sums(const ousac_backend *be, const ousac_witness_target *target,
                                  ousac_error *error) {
    double one;
    return target && target->sum ? be->download(be, &one, target->one, sizeof one, error) : OUSAC_STATUS_OK;
}

/* Forgets the references: the next trajectory starts without. */
static void reset(ousac_witness *w) {
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_history_reset(&w->history[b]);
}

ousac_status ousac_witness_collect(ousac_witness *w, ousac_profile *p, const ousac_witness_target *target,
                                   uint64_t first, size_t count, ousac_error *error) {
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        collect_scalar(p, s, w->scalar[s]);
    ousac_status status = settle(w, error);
    for (size_t i = 0; w->moment && !status && i < p->identity.segments * p->arch.group_count; i++) {
        status = collect_moment(w->backend, target, i, p->moment ? p->moment[i] : NULL, w->moment[i],
                                packed_size(p->arch.groups[i % p->arch.group_count].dim), error);
        if (p->moment)
            ousac_profile_drop_moment(p, i);
        drop_moment(w, i);
    }
    if (!status)
        status = wait_for_sums(w->backend, target, error);
    if (status)
        return status;
    if (w->magnitudes)
        ousac_magnitudes_collect(w->magnitudes, p);
    reset(w);
    return ousac_profile_add_range(p, first, count, error);
}

void ousac_witness_forget(ousac_witness *w) {
    const ousac_profile *p = w->profile;
    reset(w);
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        memset(w->scalar[s], 0, scalar_size(p, s) * sizeof(double));
    if (!w->moment)
        return;
    memset(w->waiting_rows, 0, p->arch.group_count * sizeof *w->waiting_rows);
    for (size_t i = 0; i < p->identity.segments * p->arch.group_count; i++)
        memset(w->moment[i], 0, packed_size(p->arch.groups[i % p->arch.group_count].dim) * sizeof(double));
}

/* --- life --- */

size_t ousac_witness_waiting(const ousac_schedule *schedule, size_t batch, size_t tokens_used) {
    const size_t rows = batch * tokens_used;
    size_t evaluations = 0;
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            evaluations += ousac_mode_evaluates(schedule->steps[i].mode, b) != 0;
    if (rows >= WAITING_ROWS || evaluations == 0)
        return rows;
    return evaluations > WAITING_ROWS / rows ? WAITING_ROWS : evaluations * rows;
}

static void evaluation_free(ousac_witness_evaluation *e, const ousac_witness *w) {
    if (!e)
        return;
    for (size_t i = 0; i < w->profile->arch.stream_count; i++) {
        w->backend->release(w->backend, e->rows[i].rows);
        w->backend->release(w->backend, e->rows[i].next_rows);
        ousac_free(e->rows[i].chosen);
        ousac_free(e->rows[i].spare);
        ousac_free(e->rows[i].packed);
    }
    ousac_free(e->as_site);
    ousac_free(e->output2);
    ousac_free(e->doutput2);
    ousac_free(e);
}

void ousac_witness_free(ousac_witness *w) {
    const ousac_profile *p = w->profile;
    const ousac_backend *be = w->backend;
    if (!p)
        return;
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        ousac_history_free(&w->history[b]);
        evaluation_free(w->under_way[b], w);
    }
    ousac_magnitudes_free(w->magnitudes);
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        ousac_free(w->scalar[s]);
    for (size_t i = 0; w->moment && !w->spilled && i < p->identity.segments * p->arch.group_count; i++)
        be->release(be, w->moment[i]);
    ousac_free(w->moment);
    for (size_t g = 0; w->waiting && g < p->arch.group_count; g++)
        be->release(be, w->waiting[g]);
    ousac_free(w->waiting);
    ousac_free(w->waiting_rows);
    ousac_free(w->waiting_segment);
    be->release(be, w->gram);
    ousac_free(w->group_m);
    ousac_free(w->column);
    ousac_free(w->order);
    *w = (ousac_witness){0};
}

/* Choices of tokens, streams one behind another. */
static int evaluation_create(ousac_witness_evaluation **made, const ousac_witness *w) {
    const ousac_profile *p = w->profile;
    const ousac_backend *be = w->backend;
    const size_t outputs = p->arch.module_count * OUSAC_OUTPUTS_MAX;
    size_t first = 0;
    ousac_witness_evaluation *e = *made = ousac_calloc(1, sizeof *e);
    if (!e)
        return 0;
    for (size_t i = 0; i < p->arch.stream_count; i++) {
        seen_rows *rows = &e->rows[i];
        rows->seen.used = used_of(p, i);
        rows->first = (uint32_t)first;
        first += p->schedule.step_count * p->arch.stream[i].tokens;
        const size_t count = w->batch * rows->seen.used;
        rows->rows = be->alloc(be, count, sizeof *rows->rows);
        rows->next_rows = be->alloc(be, count, sizeof *rows->next_rows);
        rows->chosen = ousac_malloc(count, sizeof *rows->chosen);
        rows->spare = ousac_malloc(count, sizeof *rows->spare);
        rows->packed = ousac_malloc(count, 4 * sizeof *rows->packed);
        if (!rows->rows || !rows->next_rows || !rows->chosen || !rows->spare || !rows->packed)
            return 0;
    }
    e->as_site = ousac_calloc(outputs, 1);
    e->output2 = ousac_calloc(outputs, sizeof *e->output2);
    e->doutput2 = ousac_calloc(outputs, sizeof *e->doutput2);
    return e->as_site && e->output2 && e->doutput2;
}

/* What waits for a moment, and moments that no spill has. */
static int create_moments(ousac_witness *w) {
    const ousac_profile *p = w->profile;
    const ousac_arch *arch = &p->arch;
    const ousac_backend *be = w->backend;
    const size_t moments = p->identity.segments * arch->group_count;
    size_t largest = 0;
    for (size_t g = 0; g < arch->group_count; g++)
        largest = arch->groups[g].dim > largest ? arch->groups[g].dim : largest;
    if (!w->spilled)
        w->moment = ousac_calloc(moments, sizeof *w->moment);
    w->waiting = ousac_calloc(arch->group_count, sizeof *w->waiting);
    w->waiting_rows = ousac_calloc(arch->group_count, sizeof *w->waiting_rows);
    w->waiting_segment = ousac_calloc(arch->group_count, sizeof *w->waiting_segment);
    w->gram = be->alloc(be, largest * largest, sizeof(float));
    double *zero = w->spilled || be->host ? NULL : ousac_calloc(packed_size(largest), sizeof *zero);
    int ok = w->moment && w->waiting && w->waiting_rows && w->waiting_segment && w->gram &&
             (zero || w->spilled || be->host);
    for (size_t g = 0; ok && g < arch->group_count; g++) {
        const size_t rows = ousac_witness_waiting(&p->schedule, w->batch, used_of(p, arch->groups[g].stream));
        ok = (w->waiting[g] = be->alloc(be, rows * arch->groups[g].dim, sizeof(float))) != NULL;
    }
    for (size_t i = 0; ok && i < moments && !w->spilled; i++) {
        const size_t bytes = packed_size(arch->groups[i % arch->group_count].dim) * sizeof(double);
        ok = (w->moment[i] = be->alloc(be, bytes, 1)) != NULL;
        if (ok && be->host)
            memset(w->moment[i], 0, bytes);
        else if (ok)
            ok = be->upload(be, w->moment[i], zero, bytes, NULL) == OUSAC_STATUS_OK;
    }
    ousac_free(zero);
    return ok;
}

static int create(ousac_witness *w) {
    const ousac_profile *p = w->profile;
    const ousac_arch *arch = &p->arch;
    w->group_m = ousac_calloc(arch->group_count, sizeof *w->group_m);
    w->column = ousac_calloc(arch->site_count, sizeof *w->column);
    w->order = ousac_malloc(ousac_arch_most_tokens(arch), sizeof *w->order);
    if (!w->group_m || !w->column || !w->order)
        return 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        w->column[s] = w->group_m[arch->sites[s].group];
        w->group_m[arch->sites[s].group] += arch->sites[s].m;
    }
    for (int b = OUSAC_BRANCHES - 1; b >= 0; b--) { /* the runner's order */
        int used = 0; /* a branch that the schedule never evaluates needs no references */
        for (size_t i = 0; i < p->schedule.step_count; i++)
            if (p->gate[slot(i, b)] >= 0) {
                used = 1;
                w->last_slot =
                    slot(i, b) / OUSAC_BRANCHES >= w->last_slot / OUSAC_BRANCHES ? slot(i, b) : w->last_slot;
            }
        if (used && ousac_history_create(&w->history[b], arch, w->backend, w->batch, p->identity.tokens_used,
                                         1, NULL, NULL))
            return 0;
        if (!evaluation_create(&w->under_way[b], w))
            return 0;
    }
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        if (!(w->scalar[s] = ousac_calloc(scalar_size(p, s), sizeof(double))))
            return 0;
    if (p->identity.magnitudes && ousac_magnitudes_create(&w->magnitudes, p, w->backend, w->batch, NULL))
        return 0;
    return !p->moment || create_moments(w);
}

ousac_status ousac_witness_create(ousac_witness *w, const ousac_profile *profile,
                                  const ousac_backend *backend, size_t batch, double **moment,
                                  ousac_error *error) {
    *w = (ousac_witness){
        .profile = profile, .backend = backend, .batch = batch, .spilled = moment != NULL, .moment = moment};
    return create(w) ? OUSAC_STATUS_OK
                     : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to record %zu samples", batch);
}
