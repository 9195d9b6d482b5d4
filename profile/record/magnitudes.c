#include "profile/record/magnitudes.h"

#include "formats/memory.h"
#include "profile/run/history.h"

#include <stdint.h>
#include <string.h>

#define MIN_MAX_ADDED 1e-6

struct ousac_magnitudes {
    const ousac_profile *profile;
    const ousac_backend *backend;
    ousac_history before[OUSAC_BRANCHES]; /* of the branch's last evaluation; empty where it has none */
    double share[OUSAC_MAGNITUDE_COUNT];  /* of one evaluation in a sample's average */
    double *sum[OUSAC_MAGNITUDE_COUNT];   /* as in the profile */
    double *channel;                      /* (samples, widest): of one evaluation of one group */
};

/* What each kind averages over in a sample: its evaluations, or those that have one before them. */
static void set_shares(ousac_magnitudes *m) {
    const ousac_profile *p = m->profile;
    size_t evaluations = 0, pairs = 0;
    for (size_t b = 0; b < OUSAC_BRANCHES; b++) {
        size_t of_branch = 0;
        for (size_t i = 0; i < p->schedule.step_count; i++)
            of_branch += p->gate[i * OUSAC_BRANCHES + b] >= 0;
        evaluations += of_branch;
        pairs += of_branch > 1 ? of_branch - 1 : 0;
    }
    m->share[OUSAC_MAGNITUDE_X] = m->share[OUSAC_MAGNITUDE_Y] = evaluations ? 1 / (double)evaluations : 0;
    m->share[OUSAC_MAGNITUDE_ADX] = m->share[OUSAC_MAGNITUDE_ADY] = pairs ? 1 / (double)pairs : 0;
}

static int evaluates(const ousac_profile *p, size_t branch) {
    for (size_t i = 0; i < p->schedule.step_count; i++)
        if (p->gate[i * OUSAC_BRANCHES + branch] >= 0)
            return 1;
    return 0;
}

ousac_status ousac_magnitudes_create(ousac_magnitudes **magnitudes, const ousac_profile *profile,
                                     const ousac_backend *backend, size_t batch, ousac_error *error) {
    const ousac_arch *arch = &profile->arch;
    ousac_status status = OUSAC_STATUS_OK;
    size_t widest = 0;
    int complete = 1;
    *magnitudes = NULL;
    ousac_magnitudes *made = ousac_calloc(1, sizeof *made);
    if (!made)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for channel magnitudes");
    made->profile = profile;
    made->backend = backend;
    set_shares(made);
    for (size_t g = 0; g < arch->group_count; g++) {
        const size_t n = arch->sites[arch->groups[g].first_site].n, m = ousac_history_group_m(arch, g);
        widest = n > widest ? n : widest;
        widest = m > widest ? m : widest;
    }
    made->channel = ousac_malloc(batch, widest * sizeof *made->channel);
    complete = made->channel != NULL;
    for (int k = 0; complete && k < OUSAC_MAGNITUDE_COUNT; k++) {
        const size_t size = ousac_profile_magnitude_size(arch, (ousac_magnitude)k);
        made->sum[k] = ousac_calloc(size, sizeof **made->sum);
        complete = made->sum[k] != NULL;
    }
    if (!complete)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for channel magnitudes");
    for (size_t b = 0; !status && b < OUSAC_BRANCHES; b++)
        if (evaluates(profile, b))
            status = ousac_history_create(&made->before[b], arch, backend, batch, SIZE_MAX, 1, NULL, error);
    if (status)
        goto done;
    *magnitudes = made;
    made = NULL;
done:
    ousac_magnitudes_free(made);
    return status;
}

void ousac_magnitudes_free(ousac_magnitudes *m) {
    if (!m)
        return;
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_history_free(&m->before[b]);
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++)
        ousac_free(m->sum[k]);
    ousac_free(m->channel);
    ousac_free(m);
}

/* Adds the evaluation's magnitudes, each sample normalised: of v, or of v - then where `then` (contiguous) is
 * not NULL. */
static ousac_status add(ousac_magnitudes *m, ousac_magnitude kind, double *sum, size_t rows, size_t tokens,
                        size_t channels, const float *v, size_t ld, const float *then, ousac_error *error) {
    const ousac_backend *be = m->backend;
    const size_t samples = rows / tokens;
    ousac_status status = OUSAC_STATUS_OK;
    memset(m->channel, 0, samples * channels * sizeof *m->channel);
    status =
        then ? be->sum_abs_columns_diff(be, rows, channels, v, ld, then, channels, tokens, m->channel, error)
             : be->sum_abs_columns(be, rows, channels, v, ld, tokens, m->channel, error);
    for (size_t s = 0; !status && s < samples; s++) {
        const double *magnitude = m->channel + s * channels;
        double least = magnitude[0], most = magnitude[0];
        for (size_t j = 1; j < channels; j++) {
            least = magnitude[j] < least ? magnitude[j] : least;
            most = magnitude[j] > most ? magnitude[j] : most;
        }
        const double range = (most - least) / (double)tokens + MIN_MAX_ADDED;
        for (size_t j = 0; j < channels; j++)
            sum[j] += m->share[kind] * (((magnitude[j] - least) / (double)tokens + MIN_MAX_ADDED) / range);
    }
    return status;
}

/* The sums of a group's y begin at those of its first site. */
static double *sums_of(ousac_magnitudes *m, ousac_magnitude kind, size_t group) {
    const ousac_arch *arch = &m->profile->arch;
    const int of_site = kind == OUSAC_MAGNITUDE_Y || kind == OUSAC_MAGNITUDE_ADY;
    return m->sum[kind] +
           ousac_profile_magnitude_offset(arch, kind, of_site ? arch->groups[group].first_site : group);
}

ousac_status ousac_magnitudes_see(ousac_magnitudes *m, int branch, size_t group, size_t rows, const float *x,
                                  size_t ldx, const float *y, size_t ldy, ousac_error *error) {
    const ousac_arch *arch = &m->profile->arch;
    const size_t n = arch->sites[arch->groups[group].first_site].n,
                 sum_m = ousac_history_group_m(arch, group);
    const size_t tokens = ousac_arch_group_tokens(arch, group);
    ousac_history *before = &m->before[branch];
    const struct {
        ousac_magnitude kind;
        size_t channels, ld;
        const float *v, *then;
    } seen[OUSAC_MAGNITUDE_COUNT] = {{OUSAC_MAGNITUDE_X, n, ldx, x, NULL},
                                     {OUSAC_MAGNITUDE_Y, sum_m, ldy, y, NULL},
                                     {OUSAC_MAGNITUDE_ADX, n, ldx, x, before->x[0][group]},
                                     {OUSAC_MAGNITUDE_ADY, sum_m, ldy, y, before->y[0][group]}};
    const int kinds = before->filled ? OUSAC_MAGNITUDE_COUNT : OUSAC_MAGNITUDE_ADX;
    ousac_status status = OUSAC_STATUS_OK;
    for (int k = 0; !status && k < kinds; k++)
        status = add(m, seen[k].kind, sums_of(m, seen[k].kind, group), rows, tokens, seen[k].channels,
                     seen[k].v, seen[k].ld, seen[k].then, error);
    if (!status)
        status = ousac_history_keep_linear(before, group, rows, x, ldx, y, ldy, error);
    return status;
}

void ousac_magnitudes_end(ousac_magnitudes *m, int branch) {
    ousac_history_end(&m->before[branch]);
}

void ousac_magnitudes_collect(ousac_magnitudes *m, ousac_profile *profile) {
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++) {
        const size_t size = ousac_profile_magnitude_size(&profile->arch, (ousac_magnitude)k);
        for (size_t i = 0; i < size; i++)
            profile->magnitude[k][i] += m->sum[k][i];
        memset(m->sum[k], 0, size * sizeof **m->sum);
    }
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        ousac_history_reset(&m->before[b]);
}
