#include "profile/record/capture.h"

#include "formats/memory.h"
#include "profile/record/witness.h"

#include <string.h>

/* A micro-batch under way: its references and sums. */
typedef struct batch {
    ousac_witness witness;       /* made when it is first needed */
    uint64_t first, count;       /* samples; count 0: none */
    size_t next[OUSAC_BRANCHES]; /* the first step of the schedule that has not begun */
    uint64_t under_way;          /* evaluations */
} batch;

/* A branch's. */
typedef struct evaluation {
    batch *of; /* NULL: none is open */
    size_t step;
    unsigned char *input, *output,
        *module; /* per group, site, and module * OUSAC_OUTPUTS_MAX + output: 1, it came */
} evaluation;

struct ousac_captured {
    ousac_profile *profile;
    const ousac_backend *backend;
    ousac_captured_options options;
    batch *batches; /* (options.at_once) */
    evaluation branch[OUSAC_BRANCHES];
    uint64_t forwards; /* evaluations of the samples in the profile */
    float *x, *y;      /* host: room for the rows taken of the widest input, and of the widest output */
};

static const ousac_arch *arch_of(const ousac_captured *c) {
    return &c->profile->arch;
}

/* The first step from `step` on that evaluates the branch; the number of steps where there is none. */
static size_t next_step(const ousac_captured *c, int branch, size_t step) {
    while (step < c->profile->schedule.step_count &&
           c->profile->gate[step * OUSAC_BRANCHES + (size_t)branch] < 0)
        step++;
    return step;
}

static ousac_witness *witness_of(ousac_captured *c, int branch) {
    return &c->branch[branch].of->witness;
}

static void clear(const ousac_captured *c, batch *m) {
    m->count = m->under_way = 0;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        m->next[b] = next_step(c, b, 0);
}

void ousac_captured_forget(ousac_captured *c) {
    for (size_t i = 0; i < c->options.at_once; i++) {
        if (c->batches[i].count)
            ousac_witness_forget(&c->batches[i].witness);
        clear(c, &c->batches[i]);
    }
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        c->branch[b].of = NULL;
}

/* What a failure leaves. */
static ousac_status failed(ousac_captured *c, ousac_status status) {
    if (status)
        ousac_captured_forget(c);
    return status;
}

/* USAGE about a part of an open evaluation: "duo: step 2, branch cond: WHAT NAME SAID". */
static ousac_status misused(ousac_captured *c, int branch, const char *what, const char *name,
                            const char *said, ousac_error *error) {
    return failed(c,
                  OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: step %zu, branch %s: %s %s %s", c->options.name,
                             c->branch[branch].step, ousac_branch_name(branch), what, name, said));
}

/* --- evaluations --- */

static ousac_status check_samples(const ousac_captured *c, uint64_t first, uint64_t count,
                                  ousac_error *error) {
    const ousac_sample_range *range = &c->options.range;
    const uint64_t end = range->first + range->count;
    if (first < range->first || first >= end || (first - range->first) % c->options.micro_batch != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: samples from %llu on; expected those of %llu:%llu in micro-batches of %zu",
                          c->options.name, (unsigned long long)first, (unsigned long long)range->first,
                          (unsigned long long)end, c->options.micro_batch);
    const uint64_t expected = end - first < c->options.micro_batch ? end - first : c->options.micro_batch;
    if (count != expected)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: %llu samples from %llu on; expected %llu",
                          c->options.name, (unsigned long long)count, (unsigned long long)first,
                          (unsigned long long)expected);
    for (size_t i = 0; i < c->profile->range_count; i++)
        if (first < c->profile->ranges[i].first + c->profile->ranges[i].count &&
            c->profile->ranges[i].first < first + count)
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: samples from %llu on are captured already",
                              c->options.name, (unsigned long long)first);
    return OUSAC_STATUS_OK;
}

/* The micro-batch of samples from `first` on: under way, or to begin in a place that is free. */
static ousac_status find_batch(ousac_captured *c, uint64_t first, batch **found, ousac_error *error) {
    batch *room = NULL;
    *found = NULL;
    for (size_t i = c->options.at_once; i-- > 0;) {
        batch *m = &c->batches[i];
        if (m->count && m->first == first) {
            *found = m;
            return OUSAC_STATUS_OK;
        }
        room = m->count ? room : m;
    }
    if (!room)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "%s: samples from %llu on come before the last step of those from %llu on; `at_once` is %zu",
            c->options.name, (unsigned long long)first, (unsigned long long)c->batches[0].first,
            c->options.at_once);
    if (!room->witness.profile) {
        const ousac_status status =
            ousac_witness_create(&room->witness, c->profile, c->backend, c->options.micro_batch, NULL, error);
        if (status) {
            ousac_witness_free(&room->witness);
            return status;
        }
    }
    *found = room;
    return OUSAC_STATUS_OK;
}

static ousac_status check_step(const ousac_captured *c, const batch *m, size_t step, int branch,
                               ousac_error *error) {
    const evaluation *e = &c->branch[branch];
    const char *name = ousac_branch_name(branch);
    const size_t steps = c->profile->schedule.step_count;
    if (e->of)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: step %zu, branch %s begins before step %zu ended",
                          c->options.name, step, name, e->step);
    if (step == m->next[branch] && step < steps)
        return OUSAC_STATUS_OK;
    if (step >= steps || c->profile->gate[step * OUSAC_BRANCHES + (size_t)branch] < 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: step %zu, branch %s is not evaluated by schedule %s", c->options.name, step,
                          name, ousac_schedule_called(&c->profile->schedule));
    if (m->next[branch] == steps)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: step %zu, branch %s comes again; its last step has been", c->options.name,
                          step, name);
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: step %zu, branch %s is out of order; expected step %zu",
                      c->options.name, step, name, m->next[branch]);
}

ousac_status ousac_captured_begin(ousac_captured *c, uint64_t first, uint64_t count, size_t step, int branch,
                                  ousac_error *error) {
    const ousac_arch *arch = arch_of(c);
    if (branch < 0 || branch >= OUSAC_BRANCHES)
        return failed(c, OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: branch %d; expected 0 or 1",
                                    c->options.name, branch));
    evaluation *e = &c->branch[branch];
    batch *m = NULL;
    ousac_status status = check_samples(c, first, count, error);
    if (!status)
        status = find_batch(c, first, &m, error);
    if (!status)
        status = check_step(c, m, step, branch, error);
    if (!status)
        status = ousac_witness_begin(&m->witness, step, branch, first, (size_t)count, error);
    if (status)
        return failed(c, status);
    for (size_t i = 0; i < arch->stream_count; i++)
        ousac_witness_take(&m->witness, branch, i);
    m->first = first;
    m->count = count;
    m->next[branch] = next_step(c, branch, step + 1);
    e->of = m;
    e->step = step;
    memset(e->input, 0, arch->group_count);
    memset(e->output, 0, arch->site_count);
    memset(e->module, 0, arch->module_count * OUSAC_OUTPUTS_MAX);
    return OUSAC_STATUS_OK;
}

static ousac_status check_open(ousac_captured *c, int branch, ousac_error *error) {
    if (branch >= 0 && branch < OUSAC_BRANCHES && c->branch[branch].of)
        return OUSAC_STATUS_OK;
    return failed(c, OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: branch %d has no evaluation under way",
                                c->options.name, branch));
}

ousac_status ousac_captured_rows(ousac_captured *c, int branch, size_t stream, const uint32_t **rows,
                                 size_t *count, ousac_error *error) {
    *rows = NULL;
    *count = 0;
    const ousac_status status = check_open(c, branch, error);
    if (status)
        return status;
    if (stream >= arch_of(c)->stream_count)
        return misused(c, branch, "a stream", "beyond", "the last", error);
    const ousac_seen *seen = ousac_witness_seen(witness_of(c, branch), branch, stream);
    *rows = seen->take;
    *count = seen->taken;
    return OUSAC_STATUS_OK;
}

/* --- pieces --- */

/* Checks a matrix of a stream, and makes of it what the witness reads: as it is where that is possible, or the rows
 * taken in `room`. `packed` 1: these in any case. */
static ousac_status take(ousac_captured *c, int branch, const char *name, size_t stream, size_t columns,
                         const ousac_captured_matrix *x, int packed, float *room, ousac_piece *piece,
                         ousac_error *error) {
    const ousac_seen *seen = ousac_witness_seen(witness_of(c, branch), branch, stream);
    const size_t rows =
        x->taken ? seen->taken : (size_t)c->branch[branch].of->count * arch_of(c)->stream[stream].tokens;
    const size_t bytes = ousac_dtype_bytes(x->dtype);
    if (x->dtype != OUSAC_DTYPE_F32 && x->dtype != OUSAC_DTYPE_F16 && x->dtype != OUSAC_DTYPE_BF16)
        return misused(c, branch, name, "is of another type;", "expected f32, f16 or bf16", error);
    if (!x->data || x->rows != rows || x->columns != columns)
        return failed(c, OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                    "%s: step %zu, branch %s: %s is (%zu, %zu)%s; expected (%zu, %zu)",
                                    c->options.name, c->branch[branch].step, ousac_branch_name(branch), name,
                                    x->rows, x->columns, x->data ? "" : " without data", rows, columns));
    if (x->dtype == OUSAC_DTYPE_F32 && (x->taken || !seen->take || !packed)) {
        *piece = (ousac_piece){.data = x->data, .ld = columns, .packed = x->taken};
        return OUSAC_STATUS_OK;
    }
    *piece = (ousac_piece){.data = room, .ld = columns, .packed = 1};
    if (x->taken || !seen->take) {
        (void)ousac_dtype_to_f32(x->dtype, x->data, rows * columns, room);
        return OUSAC_STATUS_OK;
    }
    for (size_t i = 0; i < seen->taken; i++)
        (void)ousac_dtype_to_f32(x->dtype, (const char *)x->data + seen->take[i] * columns * bytes, columns,
                                 room + i * columns);
    return OUSAC_STATUS_OK;
}

/* The outputs of a group from the rows taken of its input. */
static ousac_status compute_outputs(ousac_captured *c, int branch, size_t group, const ousac_piece *x,
                                    ousac_error *error) {
    const ousac_group *g = &arch_of(c)->groups[group];
    const ousac_backend *be = c->backend;
    const size_t rows = ousac_witness_seen(witness_of(c, branch), branch, g->stream)->taken;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t s = g->first_site; s < g->first_site + g->site_count && !status; s++) {
        const size_t m = arch_of(c)->sites[s].m, n = arch_of(c)->sites[s].n;
        const ousac_piece y = {.data = c->y, .ld = m, .packed = 1};
        status = be->linear(be, rows, m, n, x->data, x->ld, c->options.weight[s], n,
                            c->options.bias ? c->options.bias[s] : NULL, 0, c->y, m, error);
        if (!status)
            status = ousac_witness_site(witness_of(c, branch), branch, s, &y, error);
        c->branch[branch].output[s] = 1;
    }
    return status;
}

ousac_status ousac_captured_input(ousac_captured *c, int branch, size_t group, const ousac_captured_matrix *x,
                                  ousac_error *error) {
    const ousac_arch *arch = arch_of(c);
    ousac_piece piece;
    ousac_status status = check_open(c, branch, error);
    if (status)
        return status;
    if (group >= arch->group_count)
        return misused(c, branch, "a group", "beyond", "the last", error);
    const ousac_group *g = &arch->groups[group];
    if (c->branch[branch].input[group]++)
        return misused(c, branch, "group", g->name, "came twice", error);
    const int computed = c->options.weight != NULL;
    status =
        take(c, branch, g->name, g->stream, arch->sites[g->first_site].n, x, computed, c->x, &piece, error);
    if (status)
        return status;
    status = ousac_witness_input(witness_of(c, branch), branch, group, &piece, error);
    if (!status && computed)
        status = compute_outputs(c, branch, group, &piece, error);
    return failed(c, status);
}

ousac_status ousac_captured_output(ousac_captured *c, int branch, size_t site, const ousac_captured_matrix *y,
                                   ousac_error *error) {
    const ousac_arch *arch = arch_of(c);
    ousac_piece piece;
    ousac_status status = check_open(c, branch, error);
    if (status)
        return status;
    if (site >= arch->site_count)
        return misused(c, branch, "a site", "beyond", "the last", error);
    const char *name = arch->sites[site].name;
    if (c->options.weight)
        return misused(c, branch, "the output of", name, "came, but outputs are computed here", error);
    if (c->branch[branch].output[site]++)
        return misused(c, branch, "the output of", name, "came twice", error);
    status = take(c, branch, name, arch->groups[arch->sites[site].group].stream, arch->sites[site].m, y, 0,
                  c->y, &piece, error);
    return status ? status
                  : failed(c, ousac_witness_site(witness_of(c, branch), branch, site, &piece, error));
}

ousac_status ousac_captured_module(ousac_captured *c, int branch, size_t module, size_t output,
                                   const ousac_captured_matrix *out, ousac_error *error) {
    const ousac_arch *arch = arch_of(c);
    ousac_piece piece;
    ousac_status status = check_open(c, branch, error);
    if (status)
        return status;
    if (module >= arch->module_count || output >= arch->modules[module].output_count)
        return misused(c, branch, "an output of a module", "beyond", "the last", error);
    const ousac_module *m = &arch->modules[module];
    if (c->branch[branch].module[module * OUSAC_OUTPUTS_MAX + output]++)
        return misused(c, branch, "an output of module", m->name, "came twice", error);
    status = take(c, branch, m->name, m->output[output].stream, m->output[output].width, out, 0, c->y, &piece,
                  error);
    return status ? status
                  : failed(c, ousac_witness_output(witness_of(c, branch), branch, module, output, &piece,
                                                   error));
}

/* Every group, site and module came; modules that did not are what their last linears gave. */
static ousac_status check_whole(ousac_captured *c, int branch, ousac_error *error) {
    const ousac_arch *arch = arch_of(c);
    const evaluation *e = &c->branch[branch];
    for (size_t g = 0; g < arch->group_count; g++)
        if (!e->input[g])
            return misused(c, branch, "group", arch->groups[g].name, "did not come", error);
    for (size_t s = 0; s < arch->site_count; s++)
        if (!e->output[s])
            return misused(c, branch, "the output of", arch->sites[s].name, "did not come", error);
    for (size_t m = 0; m < arch->module_count; m++)
        for (size_t o = 0; o < arch->modules[m].output_count; o++) {
            if (e->module[m * OUSAC_OUTPUTS_MAX + o])
                continue;
            if (ousac_witness_output_site(arch, m, o) == SIZE_MAX)
                return misused(c, branch, "the output of module", arch->modules[m].name,
                               "did not come, and is no linear's", error);
            ousac_witness_as_site(witness_of(c, branch), branch, m, o);
        }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_captured_end(ousac_captured *c, int branch, ousac_error *error) {
    ousac_status status = check_open(c, branch, error);
    if (!status)
        status = check_whole(c, branch, error);
    if (status)
        return status;
    batch *m = c->branch[branch].of;
    status = ousac_witness_end(&m->witness, branch, error);
    if (status)
        return failed(c, status);
    c->branch[branch].of = NULL;
    m->under_way += m->count;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        if (c->branch[b].of == m || m->next[b] < c->profile->schedule.step_count)
            return OUSAC_STATUS_OK;
    status = ousac_witness_collect(&m->witness, c->profile, NULL, m->first, (size_t)m->count, error);
    if (!status)
        c->forwards += m->under_way;
    clear(c, m);
    return status;
}

uint64_t ousac_captured_forwards(const ousac_captured *c) {
    return c->forwards;
}

ousac_status ousac_captured_check_complete(const ousac_captured *c, ousac_error *error) {
    const uint64_t end = c->options.range.first + c->options.range.count;
    uint64_t next = c->options.range.first;
    for (size_t i = 0; i < c->profile->range_count; i++)
        if (c->profile->ranges[i].first == next)
            next += c->profile->ranges[i].count;
    if (next >= end)
        return OUSAC_STATUS_OK;
    for (size_t i = 0; i < c->options.at_once; i++)
        if (c->batches[i].count)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "%s: samples %llu:%llu: the last step of those from %llu on has not been",
                              c->options.name, (unsigned long long)c->options.range.first,
                              (unsigned long long)end, (unsigned long long)c->batches[i].first);
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: samples %llu:%llu: those from %llu on did not come",
                      c->options.name, (unsigned long long)c->options.range.first, (unsigned long long)end,
                      (unsigned long long)next);
}

/* --- life --- */

void ousac_captured_free(ousac_captured *c) {
    if (!c)
        return;
    for (size_t i = 0; c->batches && i < c->options.at_once; i++)
        ousac_witness_free(&c->batches[i].witness);
    ousac_free(c->batches);
    for (int b = 0; b < OUSAC_BRANCHES; b++) {
        ousac_free(c->branch[b].input);
        ousac_free(c->branch[b].output);
        ousac_free(c->branch[b].module);
    }
    ousac_free(c->x);
    ousac_free(c->y);
    ousac_free(c);
}

/* Rows taken of a stream, at most: those before and after a refresh. */
static size_t taken_most(const ousac_captured *c, size_t tokens) {
    const size_t used = c->profile->identity.tokens_used;
    return c->options.micro_batch * (used < tokens / 2 ? 2 * used : tokens);
}

/* Room for the rows taken of the widest matrices. */
static int create_room(ousac_captured *c) {
    const ousac_arch *arch = arch_of(c);
    size_t x = 0, y = 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        const size_t rows = taken_most(c, ousac_arch_group_tokens(arch, g));
        for (size_t s = arch->groups[g].first_site;
             s < arch->groups[g].first_site + arch->groups[g].site_count; s++) {
            x = rows * arch->sites[s].n > x ? rows * arch->sites[s].n : x;
            y = rows * arch->sites[s].m > y ? rows * arch->sites[s].m : y;
        }
    }
    for (size_t m = 0; m < arch->module_count; m++)
        for (size_t o = 0; o < arch->modules[m].output_count; o++) {
            const size_t size =
                taken_most(c, ousac_arch_output_tokens(arch, m, o)) * arch->modules[m].output[o].width;
            y = size > y ? size : y;
        }
    c->x = ousac_malloc(x, sizeof *c->x);
    c->y = ousac_malloc(y, sizeof *c->y);
    return c->x && c->y;
}

ousac_status ousac_captured_create(ousac_captured **captured, ousac_profile *profile,
                                   const ousac_captured_options *options, ousac_error *error) {
    const ousac_arch *arch = &profile->arch;
    ousac_captured *c = *captured = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    c = ousac_calloc(1, sizeof *c);
    if (!c)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a capture");
    c->profile = profile;
    c->backend = ousac_backend_cpu();
    c->options = *options;
    c->batches = ousac_calloc(options->at_once, sizeof *c->batches);
    if (c->batches)
        status = ousac_witness_create(&c->batches[0].witness, profile, c->backend, options->micro_batch, NULL,
                                      error);
    int ok = c->batches && !status;
    for (int b = 0; b < OUSAC_BRANCHES && ok; b++) {
        c->branch[b].input = ousac_calloc(arch->group_count, 1);
        c->branch[b].output = ousac_calloc(arch->site_count, 1);
        c->branch[b].module = ousac_calloc(arch->module_count * OUSAC_OUTPUTS_MAX, 1);
        ok = c->branch[b].input && c->branch[b].output && c->branch[b].module;
    }
    if (ok && !create_room(c))
        ok = 0;
    if (!ok) {
        ousac_captured_free(c);
        return status ? status : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a capture");
    }
    ousac_captured_forget(c);
    *captured = c;
    return OUSAC_STATUS_OK;
}
