#include "pipeline/footprint.h"

#include "calib/cost.h"
#include "profile/record/profile.h"
#include "profile/record/recorder.h"
#include "profile/run/history.h"

#include <stdint.h>

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ---- profiles and running ---- */

uint64_t ousac_footprint_profile(const ousac_arch *arch, size_t steps, int magnitudes) {
    const uint64_t evaluations = (uint64_t)steps * OUSAC_BRANCHES;
    uint64_t bytes = evaluations * (2 * sizeof(int) + arch->group_count * sizeof(double));
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++)
        bytes += evaluations * ousac_profile_scalar_width(arch, (ousac_scalar)k) * sizeof(double);
    for (int k = 0; magnitudes && k < OUSAC_MAGNITUDE_COUNT; k++)
        bytes += (uint64_t)ousac_profile_magnitude_size(arch, (ousac_magnitude)k) * sizeof(double);
    return bytes + arch->site_count * sizeof(ousac_site) + arch->group_count * sizeof(ousac_group) +
           arch->module_count * sizeof(ousac_module) + arch->constant_count * sizeof(ousac_constant);
}

uint64_t ousac_footprint_moments(const ousac_arch *arch, size_t segments) {
    uint64_t bytes = 0;
    for (size_t g = 0; g < arch->group_count; g++)
        bytes += (uint64_t)ousac_profile_moment_size(&arch->groups[g]) * sizeof(double);
    return bytes * segments;
}

uint64_t ousac_footprint_largest_moment(const ousac_arch *arch) {
    uint64_t bytes = 0;
    for (size_t g = 0; g < arch->group_count; g++)
        bytes = most(bytes, (uint64_t)ousac_profile_moment_size(&arch->groups[g]) * sizeof(double));
    return bytes;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

uint64_t ousac_footprint_history(const ousac_arch *arch, size_t batch, size_t tokens, size_t depth) {
    uint64_t values = 0; /* of a sample */
    for (size_t g = 0; g < arch->group_count; g++)
        values += least(ousac_arch_group_tokens(arch, g), tokens) *
                  (arch->sites[arch->groups[g].first_site].n + ousac_history_group_m(arch, g));
    for (size_t m = 0; m < arch->module_count; m++)
        for (size_t o = 0; o < arch->modules[m].output_count; o++)
            values += least(ousac_arch_output_tokens(arch, m, o), tokens) * arch->modules[m].output[o].width;
    return values * batch * depth * sizeof(float);
}

size_t ousac_footprint_branches(const ousac_schedule *schedule) {
    int used[OUSAC_BRANCHES] = {0};
    size_t count = 0;
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            used[b] |= ousac_mode_evaluates(schedule->steps[i].mode, b);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        count += (size_t)used[b];
    return count;
}

uint64_t ousac_footprint_forward(const ousac_model *model, size_t batch) {
    /* x and eps of the backend, the state, the host's eps of both branches, what the solver looks back at */
    const uint64_t states = (uint64_t)batch * ousac_model_sample_size(model) *
                            ((3 + OUSAC_BRANCHES) * sizeof(float) + sizeof(double));
    return model->family->workspace_bytes(model, batch) + states;
}

uint64_t ousac_footprint_executor(const ousac_model *model, size_t batch, size_t depth, size_t rank) {
    const ousac_arch *arch = &model->arch;
    const uint64_t rows = (uint64_t)batch * ousac_arch_most_tokens(arch);
    uint64_t widest = 0, sites = 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        widest = most(widest, arch->sites[arch->groups[g].first_site].n);
        sites = most(sites, arch->groups[g].site_count);
    }
    return ousac_footprint_history(arch, batch, SIZE_MAX, depth) * (model->has_uncond ? OUSAC_BRANCHES : 1) +
           rows * 2 * (widest + sites * rank) * sizeof(float);
}

uint64_t ousac_footprint_walk(const ousac_model *model, uint64_t count, size_t micro_batch, size_t depth,
                              size_t rank) {
    const uint64_t sample = ousac_model_sample_size(model), batches = (count + micro_batch - 1) / micro_batch;
    /* x and eps of the backend; state, both predictions and what any coefficients remember */
    const uint64_t batch = model->family->workspace_bytes(model, micro_batch) +
                           2 * micro_batch * sample * sizeof(float) +
                           (depth ? ousac_footprint_executor(model, micro_batch, depth, rank) : 0);
    return batches * batch + count * sample * ((1 + OUSAC_BRANCHES) * sizeof(float) + 4 * sizeof(double));
}

uint64_t ousac_footprint_witness(const ousac_arch *arch, const ousac_schedule *schedule, size_t batch,
                                 size_t tokens, size_t segments, int magnitudes, int spilled) {
    const size_t branches = ousac_footprint_branches(schedule);
    uint64_t largest = 0, waiting = 0,
             bytes = ousac_footprint_history(arch, batch, tokens, 1) * branches +
                     ousac_footprint_profile(arch, schedule->step_count, magnitudes) +
                     ousac_arch_most_tokens(arch) * sizeof(uint32_t);
    for (size_t i = 0; i < arch->stream_count; i++) /* the tokens chosen */
        bytes += batch * least(arch->stream[i].tokens, tokens) * (2 + 1 + OUSAC_BRANCHES) * sizeof(uint32_t);
    for (size_t g = 0; g < arch->group_count; g++) {
        const size_t used = (size_t)least(ousac_arch_group_tokens(arch, g), tokens);
        largest = most(largest, arch->groups[g].dim);
        waiting += ousac_recorder_waiting(schedule, batch, used) * arch->groups[g].dim;
    }
    if (magnitudes)
        bytes += ousac_footprint_history(arch, batch, SIZE_MAX, 1) * branches;
    if (segments) /* the deltas that wait, a Gram matrix */
        bytes += waiting * sizeof(float) + largest * largest * sizeof(float) +
                 (spilled ? ousac_footprint_largest_moment(arch) : ousac_footprint_moments(arch, segments));
    return bytes;
}

/* ---- factors ---- */

static uint64_t rank_of(const ousac_arch *arch, size_t s, const size_t *rank_max) {
    const ousac_site *site = &arch->sites[s];
    const uint64_t limit = site->m < site->n ? site->m : site->n;
    const uint64_t rank = rank_max ? rank_max[s] : ousac_cost_dense_rank(site) - 1;
    return rank < limit ? rank : limit;
}

/* The factors of one site, `rank` directions. */
static uint64_t factors_of(const ousac_site *site, size_t rank) {
    return (uint64_t)rank * (site->m + site->n) * sizeof(float) +
           (site->m < site->n ? site->m : site->n) * sizeof(double);
}

uint64_t ousac_footprint_factor_set(const ousac_arch *arch, const size_t *rank_max) {
    uint64_t bytes = 0;
    for (size_t s = 0; s < arch->site_count; s++)
        bytes += factors_of(&arch->sites[s], (size_t)rank_of(arch, s, rank_max));
    return bytes;
}

/* Doubles that the factors of one site take beside the group's moment and root, with the weight (m, n) in
 * float32: calib/spectra/factors.c and calib/spectra/scaled_svd.c. dsyevd works on 2 o^2 beside its matrix. */
static uint64_t making(uint64_t m, uint64_t n, uint64_t r, int input, ousac_method method) {
    const uint64_t wider = most(m, n), order = m < n ? m : n;
    const uint64_t finish = r * (wider + n), placed = 2 * m * n, w = m * n / 2;
    if (method != OUSAC_METHOD_DELTA_COV) /* two weights in double, Gram matrix, u */
        return w + most(3 * m * n, 2 * m * n + order * order + most(2 * order * order, r * m + finish));
    if (!input) /* the moment unpacked and its vectors */
        return w + most(placed, m * n + most(4 * m * m, m * m + finish));
    /* one after another: weights, f (n, n) and G (m, n); G, its Gram matrix and dsyevd's work or u; u or the Gram
     * matrix and the weights again */
    return w + most(2 * m * n + n * n, most(m * n + order * order + most(2 * order * order, r * m),
                                            most(order * order, r * m) + most(placed, m * n + finish)));
}

/* Doubles of what rounding adds: profile/bundle/storage.c, with every form at once. */
static uint64_t measuring(uint64_t m, uint64_t n, uint64_t r, int input) {
    const uint64_t factors = r * (m + n), rounded = 2 * factors, back = r * most(m, n);
    if (!input)
        return m * (m + 1) / 2 + factors + rounded + back;
    return n * (n + 1) / 2 + factors + n * n + m * n + m * n / 2 + 2 * r * n + rounded + 4 * r * n + back +
           2 * r * m + 4 * r * n + 8 * r * r;
}

uint64_t ousac_footprint_factorise(const ousac_arch *arch, ousac_method method, const size_t *rank_max,
                                   int measures) {
    uint64_t bytes = 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        const ousac_group *group = &arch->groups[g];
        const int input = group->side == OUSAC_SIDE_INPUT, by_moment = method == OUSAC_METHOD_DELTA_COV;
        const uint64_t dim = group->dim, packed = by_moment ? dim * (dim + 1) / 2 : 0;
        const uint64_t root = by_moment && input ? dim * dim : 0;
        const ousac_site *first = &arch->sites[group->first_site];
        /* beside a weight, the moment unpacked, its vectors and dsyevd's work; then the root beside the
         * vectors */
        uint64_t doubles = root ? packed + 4 * dim * dim + (uint64_t)first->m * first->n / 2 : packed;
        for (size_t s = group->first_site; s < group->first_site + group->site_count; s++) {
            const ousac_site *site = &arch->sites[s];
            const uint64_t r = rank_of(arch, s, rank_max);
            const uint64_t held = factors_of(site, (size_t)r) / sizeof(double) + 1;
            const uint64_t made = making(site->m, site->n, r, input, method);
            const uint64_t measured = measures && by_moment ? measuring(site->m, site->n, r, input) : 0;
            doubles = most(doubles, packed + root + held + most(made, most(measured, held)));
        }
        bytes = most(bytes, doubles * sizeof(double));
    }
    return bytes;
}

uint64_t ousac_footprint_factorise_macs(const ousac_arch *arch, ousac_method method, const size_t *rank_max) {
    uint64_t macs = 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        const uint64_t m = site->m, n = site->n, r = rank_of(arch, s, rank_max), order = m < n ? m : n;
        const int input = arch->groups[site->group].side == OUSAC_SIDE_INPUT;
        if (method != OUSAC_METHOD_DELTA_COV)
            macs += order * m * n;
        else if (input)
            macs += m * n * n + order * order * most(m, n);
        macs += r * m * n + (input ? r * m * n : 0);
    }
    return macs;
}
