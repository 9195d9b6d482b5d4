#include "profile/run/history.h"

#include "formats/memory.h"

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
        release_all(h->backend, h->room[k], h->arch->module_count);
        ousac_free(h->out[k]);
    }
    memset(h, 0, sizeof *h);
}

static int create_slot(ousac_history *h, size_t k, size_t rows, const ousac_history_needs *needs) {
    const ousac_arch *arch = h->arch;
    const ousac_backend *be = h->backend;
    h->x[k] = ousac_calloc(arch->group_count, sizeof *h->x[k]);
    h->y[k] = ousac_calloc(arch->group_count, sizeof *h->y[k]);
    h->out[k] = ousac_calloc(arch->module_count, sizeof *h->out[k]);
    h->room[k] = ousac_calloc(arch->module_count, sizeof *h->room[k]);
    if (!h->x[k] || !h->y[k] || !h->out[k] || !h->room[k])
        return 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        size_t n = arch->sites[arch->groups[g].first_site].n;
        if ((!needs || needs->x[g]) && !(h->x[k][g] = be->alloc(be, rows * n, sizeof(float))))
            return 0;
        if ((!needs || needs->y[g]) &&
            !(h->y[k][g] = be->alloc(be, rows * ousac_history_group_m(arch, g), sizeof(float))))
            return 0;
    }
    for (size_t m = 0; m < arch->module_count; m++)
        if (!(h->room[k][m] = be->alloc(be, rows * arch->modules[m].width, sizeof(float))))
            return 0;
    return 1;
}

ousac_status ousac_history_create(ousac_history *h, const ousac_arch *arch, const ousac_backend *backend,
                                  size_t rows, size_t depth, const ousac_history_needs *needs,
                                  ousac_error *error) {
    memset(h, 0, sizeof *h);
    h->arch = arch;
    h->backend = backend;
    h->depth = depth;
    for (size_t k = 0; k < depth; k++)
        if (!create_slot(h, k, rows, needs)) {
            ousac_history_free(h);
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the caches of %zu rows", rows);
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

ousac_status ousac_history_copy(ousac_history *to, const ousac_history *from, size_t rows,
                                ousac_error *error) {
    const ousac_arch *arch = from->arch;
    ousac_status status = OUSAC_STATUS_OK;
    to->filled = from->filled;
    for (size_t k = 0; k < from->filled; k++) {
        for (size_t g = 0; g < arch->group_count && !status; g++) {
            status = copy_matrix(to, to->x[k][g], from->x[k][g], rows,
                                 arch->sites[arch->groups[g].first_site].n, error);
            if (!status)
                status =
                    copy_matrix(to, to->y[k][g], from->y[k][g], rows, ousac_history_group_m(arch, g), error);
        }
        for (size_t m = 0; m < arch->module_count && !status; m++) {
            const ousac_module *module = &arch->modules[m];
            const size_t group = arch->sites[module->first_site + module->site_count - 1].group;
            if (from->out[k][m] == from->y[k][group]) {
                to->out[k][m] = to->y[k][group];
                continue;
            }
            to->out[k][m] = to->room[k][m];
            status = copy_matrix(to, to->out[k][m], from->out[k][m], rows, module->width, error);
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

ousac_status ousac_history_keep_module(ousac_history *h, size_t module, size_t rows, const float *out,
                                       size_t ld_out, ousac_error *error) {
    const ousac_module *m = &h->arch->modules[module];
    size_t group = h->arch->sites[m->first_site + m->site_count - 1].group;
    if (h->depth == 2) {
        h->out[1][module] = h->out[0][module];
        swap(&h->room[0][module], &h->room[1][module]);
    }
    if (out == h->y[0][group] && ld_out == m->width) {
        h->out[0][module] = h->y[0][group];
        return OUSAC_STATUS_OK;
    }
    h->out[0][module] = h->room[0][module];
    return h->backend->copy(h->backend, rows, m->width, out, ld_out, h->room[0][module], m->width, error);
}

void ousac_history_end(ousac_history *h) {
    if (h->filled < h->depth)
        h->filled++;
}
