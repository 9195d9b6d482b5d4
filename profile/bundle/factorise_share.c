#include "profile/bundle/factorise.h"

#include "formats/memory.h"

/* Multiplications of a dense symmetric eigenproblem and of the products around it, up to a common factor. */
static double work_of(const ousac_arch *arch, ousac_method method, size_t group) {
    const ousac_group *g = &arch->groups[group];
    const double dim = (double)g->dim;
    const int shares_root = method == OUSAC_METHOD_DELTA_COV && g->side == OUSAC_SIDE_INPUT;
    double work = shares_root ? dim * dim * dim : 0;
    for (size_t s = g->first_site; s < g->first_site + g->site_count; s++) {
        const double m = (double)arch->sites[s].m, n = (double)arch->sites[s].n, least = m < n ? m : n;
        work += least * least * least + m * n * least;
    }
    return work;
}

/* The largest first, each to the part that has least so far (Graham 1969: at most a third above the best). */
ousac_status ousac_factorise_share(const ousac_arch *arch, ousac_method method, size_t parts, size_t *owner,
                                   ousac_error *error) {
    const size_t groups = arch->group_count;
    ousac_status status = OUSAC_STATUS_OK;
    double *load = ousac_calloc(parts, sizeof *load), *work = ousac_calloc(groups, sizeof *work);
    if (!load || !work) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to share out %zu groups", groups);
        goto done;
    }
    for (size_t g = 0; g < groups; g++)
        work[g] = work_of(arch, method, g);
    for (size_t turn = 0; turn < groups; turn++) {
        size_t largest = 0, part = 0;
        for (size_t g = 1; g < groups; g++)
            if (work[g] > work[largest])
                largest = g;
        for (size_t p = 1; p < parts; p++)
            if (load[p] < load[part])
                part = p;
        owner[largest] = part;
        load[part] += work[largest];
        work[largest] = -1; /* taken */
    }
done:
    ousac_free(load);
    ousac_free(work);
    return status;
}
