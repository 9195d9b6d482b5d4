#include "calib/cost.h"

#include "formats/memory.h"

#include <string.h>

/* Saturating: a result of UINT64_MAX means "does not fit", which the trajectory reports. */
static uint64_t multiply(uint64_t a, uint64_t b) {
    return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static uint64_t add(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

size_t ousac_cost_dense_rank(const ousac_site *site) {
    const uint64_t full = multiply(site->m, site->n), per_rank = add(site->m, site->n);
    return (size_t)(full / per_rank + (full % per_rank != 0));
}

size_t ousac_cost_largest_rank(const ousac_arch *arch) {
    size_t largest = 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&arch->sites[s]);
        largest = dense > largest ? dense : largest;
    }
    return largest;
}

size_t ousac_cost_smallest_rank(const ousac_arch *arch) {
    size_t smallest = SIZE_MAX;
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&arch->sites[s]);
        smallest = dense < smallest ? dense : smallest;
    }
    return smallest;
}

void ousac_cost_uniform(const ousac_arch *arch, size_t uniform, size_t *rank) {
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&arch->sites[s]);
        rank[s] = uniform < dense ? uniform : dense;
    }
}

int ousac_cost_module_live(const ousac_arch *arch, size_t module, const ousac_ranks *ranks) {
    const ousac_module *part = &arch->modules[module];
    size_t live_stages = 0;
    if (ranks->rank == NULL)
        return 0;
    /* Sites stand in order of their stages, so a stage is counted at its first site of rank > 0. */
    for (size_t s = part->first_site; s < part->first_site + part->site_count; s++)
        if (ranks->rank[s] > 0 && arch->sites[s].stage >= live_stages) {
            if (arch->sites[s].stage > live_stages)
                return 0;
            live_stages++;
        }
    return live_stages == part->stage_count;
}

/* The path of a site of a live module. */
static ousac_path live_path(const ousac_arch *arch, size_t site, const ousac_ranks *ranks) {
    if (ranks->rank[site] == 0)
        return OUSAC_PATH_FROZEN;
    if (ranks->dense_fallback && ranks->rank[site] >= ousac_cost_dense_rank(&arch->sites[site]))
        return OUSAC_PATH_DENSE;
    return OUSAC_PATH_LOW_RANK;
}

ousac_path ousac_cost_path(const ousac_arch *arch, size_t site, const ousac_ranks *ranks) {
    return ousac_cost_module_live(arch, arch->sites[site].module, ranks) ? live_path(arch, site, ranks)
                                                                         : OUSAC_PATH_SKIPPED;
}

uint64_t ousac_cost_site_full(const ousac_arch *arch, size_t site) {
    return multiply(ousac_arch_site_tokens(arch, site), multiply(arch->sites[site].m, arch->sites[site].n));
}

static uint64_t path_cost(const ousac_arch *arch, size_t site, const ousac_ranks *ranks, ousac_path path) {
    if (path == OUSAC_PATH_DENSE)
        return ousac_cost_site_full(arch, site);
    if (path == OUSAC_PATH_LOW_RANK)
        return multiply(ousac_arch_site_tokens(arch, site),
                        multiply(ranks->rank[site] + (ranks->forecast ? 1 : 0),
                                 add(arch->sites[site].m, arch->sites[site].n)));
    return 0;
}

uint64_t ousac_cost_site_cached(const ousac_arch *arch, size_t site, const ousac_ranks *ranks) {
    return path_cost(arch, site, ranks, ousac_cost_path(arch, site, ranks));
}

uint64_t ousac_cost_module_cached(const ousac_arch *arch, size_t module, const ousac_ranks *ranks) {
    const ousac_module *part = &arch->modules[module];
    if (!ousac_cost_module_live(arch, module, ranks))
        return 0;
    uint64_t macs = part->fixed_macs;
    for (size_t s = part->first_site; s < part->first_site + part->site_count; s++)
        macs = add(macs, path_cost(arch, s, ranks, live_path(arch, s, ranks)));
    return macs;
}

uint64_t ousac_cost_full(const ousac_arch *arch) {
    uint64_t macs = arch->other_macs;
    for (size_t s = 0; s < arch->site_count; s++)
        macs = add(macs, ousac_cost_site_full(arch, s));
    for (size_t i = 0; i < arch->module_count; i++)
        macs = add(macs, arch->modules[i].fixed_macs);
    return macs;
}

uint64_t ousac_cost_cached(const ousac_arch *arch, const ousac_ranks *ranks) {
    uint64_t macs = arch->other_macs;
    for (size_t i = 0; i < arch->module_count; i++)
        macs = add(macs, ousac_cost_module_cached(arch, i, ranks));
    return macs;
}

uint64_t ousac_cost_reuse(const ousac_arch *arch) {
    return arch->other_macs;
}

uint64_t ousac_cost_extrapolation(const ousac_arch *arch) {
    uint64_t macs = 0;
    for (size_t i = 0; i < arch->module_count; i++)
        for (size_t o = 0; o < arch->modules[i].output_count; o++)
            macs =
                add(macs, multiply(ousac_arch_output_tokens(arch, i, o), arch->modules[i].output[o].width));
    return macs;
}

uint64_t ousac_cost_constant(const ousac_arch *arch) {
    uint64_t macs = 0;
    for (size_t i = 0; i < arch->constant_count; i++)
        macs = add(macs, multiply(arch->stream[arch->constants[i].stream].tokens,
                                  multiply(arch->constants[i].m, arch->constants[i].n)));
    return macs;
}

ousac_status ousac_cost_trajectory(const ousac_arch *arch, const ousac_schedule *schedule,
                                   const ousac_ranks *ranks, ousac_cost_total *total, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int *effective = NULL;
    uint64_t forwards = 0, reference = 1, branches = 0;
    const uint64_t full = ousac_cost_full(arch), reuse = ousac_cost_reuse(arch);
    const uint64_t cached = ranks == NULL ? reuse : ousac_cost_cached(arch, ranks);
    memset(total, 0, sizeof *total);
    if (full == 0 || full == UINT64_MAX || cached == UINT64_MAX) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "cost of one forward of %zu tokens: expected 1 to 2^64 - 2 MACs",
                            ousac_arch_most_tokens(arch));
        goto done;
    }
    if (schedule->step_count > SIZE_MAX / OUSAC_BRANCHES / sizeof *effective ||
        (effective = ousac_malloc(schedule->step_count * OUSAC_BRANCHES, sizeof *effective)) == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the gates of %zu steps",
                            schedule->step_count);
        goto done;
    }
    status = ousac_schedule_effective_gates(schedule, effective, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t i = 0; i < schedule->step_count * OUSAC_BRANCHES; i++) {
        forwards += effective[i] >= 0;
        total->forwards_full += effective[i] == OUSAC_GATE_FULL;
        total->forwards_cached += effective[i] == OUSAC_GATE_CACHED;
        total->forwards_reuse += effective[i] == OUSAC_GATE_REUSE;
        total->forwards_extrapolate += effective[i] == OUSAC_GATE_EXTRAPOLATE;
    }
    for (size_t i = 0; i < schedule->step_count; i++)
        if (schedule->steps[i].mode == OUSAC_MODE_CFG)
            reference = OUSAC_BRANCHES;
    for (size_t b = 0; b < OUSAC_BRANCHES; b++) {
        int evaluated = 0;
        for (size_t i = 0; i < schedule->step_count; i++)
            evaluated |= effective[i * OUSAC_BRANCHES + b] >= 0;
        branches += evaluated != 0;
    }
    const uint64_t constant = ousac_cost_constant(arch), once = multiply(branches, constant);
    total->constant_groups = once;
    total->constant_guidance =
        add(multiply(reference, constant), multiply(multiply(reference, schedule->step_count), full));
    total->schedule_full = add(once, multiply(forwards, full));
    const uint64_t exact = add(once, multiply(total->forwards_full, full));
    const uint64_t reused =
        add(add(exact, multiply(total->forwards_reuse, reuse)),
            multiply(total->forwards_extrapolate, add(reuse, ousac_cost_extrapolation(arch))));
    total->schedule_reuse = add(reused, multiply(total->forwards_cached, reuse));
    total->schedule_cached = add(reused, multiply(total->forwards_cached, cached));
    if (total->constant_guidance == UINT64_MAX || total->schedule_full == UINT64_MAX ||
        total->schedule_reuse == UINT64_MAX || total->schedule_cached == UINT64_MAX) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "cost of %zu steps of %llu MACs: the sum exceeds 64 bits",
                       schedule->step_count, (unsigned long long)full);
        goto done;
    }
    total->cached_step = (double)cached / (double)full;
    total->total = total->constant_guidance == 0
                       ? 0.0
                       : (double)total->schedule_cached / (double)total->constant_guidance;
done:
    if (status != OUSAC_STATUS_OK)
        memset(total, 0, sizeof *total);
    ousac_free(effective);
    return status;
}
