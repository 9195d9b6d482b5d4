#include "profile/run/history.h"

#include "formats/memory.h"

#include <stdint.h>
#include <string.h>

size_t ousac_history_group_m(const ousac_arch *arch, size_t group) {
    const ousac_group *g = &arch->groups[group];
    size_t m = 0;
    for (size_t s = g->first_site; s < g->first_site + g->site_count; s++)
        m += arch->sites[s].m;
    return m;
}

static void release_all(const ousac_backend *be, float **blocks, size_t count) {
    for (size_t i = 0; blocks && i < count; i++)
        be->release(be, blocks[i]);
    ousac_free(blocks);
}

void ousac_history_free(ousac_history *h) {
    for (size_t k = 0; h->arch && k < 2; k++) {
        release_all(h->backend, h->x[k], h->arch->group_count);
        release_all(h->backend, h->y[k], h->arch->group_count);
        release_all(h->backend, h->room[k], h->arch->module_count * OUSAC_OUTPUTS_MAX);
        ousac_free(h->out[k]);
    }
    memset(h, 0, sizeof *h);
}

static int create_slot(ousac_history *h, size_t k, size_t batch, size_t tokens,
                       const ousac_history_needs *needs) {
    const ousac_arch *arch = h->arch;
    const ousac_backend *be = h->backend;
    h->x[k] = ousac_calloc(arch->group_count, sizeof *h->x[k]);
    h->y[k] = ousac_calloc(arch->group_count, sizeof *h->y[k]);
    h->out[k] = ousac_calloc(arch->module_count, OUSAC_OUTPUTS_MAX * sizeof *h->out[k]);
    h->room[k] = ousac_calloc(arch->module_count, OUSAC_OUTPUTS_MAX * sizeof *h->room[k]);
    if (!h->x[k] || !h->y[k] || !h->out[k] || !h->room[k])
        return 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        const size_t n = arch->sites[arch->groups[g].first_site].n;
        const size_t of_stream = ousac_arch_group_tokens(arch, g);
        const size_t rows = batch * (of_stream < tokens ? of_stream : tokens);
        if ((!needs || needs->x[g]) && !(h->x[k][g] = be->alloc(be, rows * n, sizeof(float))))
            return 0;
        if ((!needs || needs->y[g]) &&
            !(h->y[k][g] = be->alloc(be, rows * ousac_history_group_m(arch, g), sizeof(float))))
            return 0;
    }
    for (size_t m = 0; m < arch->module_count; m++)
        for (size_t o = 0; o < arch->modules[m].output_count; o++) {
            const size_t of_stream = ousac_arch_output_tokens(arch, m, o);
            const size_t rows = batch * (of_stream < tokens ? of_stream : tokens);
            if (!(h->room[k][m * OUSAC_OUTPUTS_MAX + o] =
                      be->alloc(be, rows * arch->modules[m].output[o].width, sizeof(float))))
                return 0;
        }
    return 1;
}

ousac_status ousac_history_create(ousac_history *h, const ousac_arch *arch, const ousac_backend *backend,
                                  size_t batch, size_t tokens, size_t depth, const ousac_history_needs *needs,
                                  ousac_error *error) {
    memset(h, 0, sizeof *h);
    h->arch = arch;
    h->backend = backend;
    h->depth = depth;
    for (size_t k = 0; k < depth; k++)
        if (!create_slot(h, k, batch, tokens, needs)) {
            ousac_history_free(h);
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the caches of %zu samples", batch);
        }
    return OUSAC_STATUS_OK;
}

void ousac_history_reset(ousac_history *h) {
    h->filled = 0;
}

static ousac_status copy_matrix(const ousac_history *h, float *to, const float *from, size_t rows,
                                size_t columns, ousac_error *error) {
    return to && from ? h->backend->copy(h->backend, rows, columns, from, columns, to, columns, error)
                      : OUSAC_STATUS_OK;
}

ousac_status ousac_history_copy(ousac_history *to, const ousac_history *from, size_t count,
                                ousac_error *error) {
    const ousac_arch *arch = from->arch;
    ousac_status status = OUSAC_STATUS_OK;
    to->filled = from->filled;
    for (size_t k = 0; k < from->filled; k++) {
        for (size_t g = 0; g < arch->group_count && !status; g++) {
            const size_t rows = count * ousac_arch_group_tokens(arch, g);
            status = copy_matrix(to, to->x[k][g], from->x[k][g], rows,
                                 arch->sites[arch->groups[g].first_site].n, error);
            if (!status)
                status =
                    copy_matrix(to, to->y[k][g], from->y[k][g], rows, ousac_history_group_m(arch, g), error);
        }
        for (size_t m = 0; m < arch->module_count && !status; m++)
            for (size_t o = 0; o < arch->modules[m].output_count && !status; o++) {
                const size_t at = m * OUSAC_OUTPUTS_MAX + o, group = ousac_arch_output_group(arch, m, o);
                if (group != SIZE_MAX && from->out[k][at] == from->y[k][group]) {
                    to->out[k][at] = to->y[k][group];
                    continue;
                }
                to->out[k][at] = to->room[k][at];
                status = copy_matrix(to, to->out[k][at], from->out[k][at],
                                     count * ousac_arch_output_tokens(arch, m, o),
                                     arch->modules[m].output[o].width, error);
            }
    }
    return status;
}

float *ousac_history_place(const ousac_history *h, size_t group, int output) {
    return (output ? h->y : h->x)[h->depth - 1][group];
}

static void swap(float **a, float **b) {
    float *held = *a;
    *a = *b;
    *b = held;
}

static ousac_status keep(const ousac_history *h, float **last, float **before, size_t index, size_t rows,
                         size_t columns, const float *values, size_t ld, ousac_error *error) {
    if (!last[index])
        return OUSAC_STATUS_OK;
    if (h->depth == 2)
        swap(&last[index], &before[index]);
    if (last[index] == values)
        return OUSAC_STATUS_OK;
    return h->backend->copy(h->backend, rows, columns, values, ld, last[index], columns, error);
}

ousac_status ousac_history_keep_linear(ousac_history *h, size_t group, size_t rows, const float *x,
                                       size_t ldx, const float *y, size_t ldy, ousac_error *error) {
    size_t n = h->arch->sites[h->arch->groups[group].first_site].n;
    ousac_status status = keep(h, h->x[0], h->x[1], group, rows, n, x, ldx, error);
    if (!status)
        status = keep(h, h->y[0], h->y[1], group, rows, ousac_history_group_m(h->arch, group), y, ldy, error);
    return status;
}

ousac_status ousac_history_keep_module(ousac_history *h, size_t module, const ousac_rows *out,
                                       ousac_error *error) {
    const ousac_module *m = &h->arch->modules[module];
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t o = 0; o < m->output_count && !status; o++) {
        const size_t at = module * OUSAC_OUTPUTS_MAX + o, width = m->output[o].width;
        const size_t group = ousac_arch_output_group(h->arch, module, o);
        if (h->depth == 2) {
            h->out[1][at] = h->out[0][at];
            swap(&h->room[0][at], &h->room[1][at]);
        }
        if (group != SIZE_MAX && out[o].data == h->y[0][group] && out[o].ld == width) {
            h->out[0][at] = h->y[0][group];
            continue;
        }
        h->out[0][at] = h->room[0][at];
        status = h->backend->copy(h->backend, out[o].rows, width, out[o].data, out[o].ld, h->room[0][at],
                                  width, error);
    }
    return status;
}

void ousac_history_end(ousac_history *h) {
    if (h->filled < h->depth)
        h->filled++;
}
