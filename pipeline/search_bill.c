#include "pipeline/search_bill.h"

#include "calib/cost.h"
#include "pipeline/factors.h"
#include "pipeline/guide.h"
#include "pipeline/place.h"

#include <string.h>

typedef struct maker {
    ousac_search_bill *bill;
    const ousac_search_outline *outline;
    uint64_t branches, macs; /* of a step; of an evaluation in full */
} maker;

static void begin_charge(maker *m, const char *what) {
    m->bill->charge[m->bill->count++] = (ousac_search_charge){.what = what};
}

/* So many samples through so many steps in full. */
static void add_full(maker *m, uint64_t samples, uint64_t steps) {
    ousac_search_charge *c = &m->bill->charge[m->bill->count - 1];
    c->evaluations += samples * steps * m->branches;
    c->macs += samples * steps * m->branches * m->macs;
}

/* Through a cached trajectory. */
static void add_cached(maker *m, uint64_t samples, const ousac_search_cached *cached) {
    ousac_search_charge *c = &m->bill->charge[m->bill->count - 1];
    c->evaluations += samples * cached->steps * m->branches;
    c->macs += samples * cached->macs;
}

/* Trajectories of a stepwise fit: before it on the validation samples, along the fitted ones, and after it. */
static uint64_t fit_samples(const ousac_search_outline *o) {
    return o->fitting.count + 2 * o->validation.count;
}

/* Those of the last one: along twice as many. */
static uint64_t last_fit_samples(const ousac_search_outline *o) {
    return 2 * (o->fitting.count + o->validation.count);
}

/* The exact trajectory, every age within the horizon, and what follows a step that was moved. */
static void add_probe(maker *m, const ousac_search_cached *cached) {
    const ousac_search_outline *o = m->outline;
    ousac_search_charge *c = &m->bill->charge[m->bill->count - 1];
    uint64_t aged = 0;
    add_full(m, o->probe_samples, cached->steps);
    for (size_t j = 0; j < cached->steps; j++)
        aged += j < o->horizon - 1 ? j : o->horizon - 1;
    c->evaluations += o->probe_samples * aged * m->branches;
    c->macs += o->probe_samples * aged * m->branches *
               m->macs; /* the ranks may be those of long gaps: at most in full */
    for (size_t from = 0; from < cached->steps; from += o->stride)
        add_full(m, o->probe_samples, cached->steps - from - 1);
}

/* The trajectory that is guided everywhere, and what follows each of its steps. */
static void add_guide(maker *m, const ousac_search_sparse *sparse) {
    add_full(m, OUSAC_GUIDE_SAMPLES, sparse->steps);
    for (size_t j = 1; j < sparse->steps; j++)
        add_full(m, OUSAC_GUIDE_SAMPLES, sparse->steps - j - 1);
}

static void add_sparse(maker *m, uint64_t samples, const ousac_search_sparse *sparse) {
    ousac_search_charge *c = &m->bill->charge[m->bill->count - 1];
    c->evaluations += samples * (sparse->steps + sparse->guided);
    c->macs += samples * (sparse->steps + sparse->guided) * m->macs;
}

/* At most: of a branch that has one full evaluation, what follows is reused. */
static void add_extrapolated(maker *m, const ousac_arch *arch, uint64_t samples, uint64_t steps,
                             const ousac_search_pattern *pattern) {
    ousac_search_charge *c = &m->bill->charge[m->bill->count - 1];
    const uint64_t between = ousac_cost_reuse(arch) + ousac_cost_extrapolation(arch);
    const uint64_t full = pattern->full[0] + pattern->full[1];
    c->evaluations += samples * steps * m->branches;
    c->macs += samples * (full * m->macs + (steps * m->branches - full) * between);
}

static void add_placement(maker *m, const ousac_search_cached *cached) {
    const ousac_search_outline *o = m->outline;
    const uint64_t pilot =
        o->place_samples < OUSAC_PLACE_PILOT_SAMPLES ? o->place_samples : OUSAC_PLACE_PILOT_SAMPLES;
    const uint64_t forecast =
        o->place_samples < OUSAC_DEFAULT_FORECAST_SAMPLES ? o->place_samples : OUSAC_DEFAULT_FORECAST_SAMPLES;
    add_full(m, OUSAC_DEFAULT_SEARCH_SAMPLES, cached->steps);
    for (size_t i = 0; i < o->place_evaluations; i++) {
        add_full(m, pilot + o->place_samples + forecast, cached->steps);
        add_cached(m, OUSAC_DEFAULT_SEARCH_SAMPLES, cached);
    }
    add_probe(m, cached);
    add_probe(m, cached);
}

/* The candidates of most steps, as many as are measured, by falling number of steps. Returns how many. */
static size_t dearest(const ousac_search_outline *o,
                      const ousac_search_cached *found[OUSAC_SEARCH_CANDIDATES_MAX]) {
    size_t count = 0;
    for (size_t i = 0; i < o->cached_count; i++) {
        size_t k = count++;
        for (; k > 0 && found[k - 1]->steps < o->cached[i].steps; k--)
            found[k] = found[k - 1];
        found[k] = &o->cached[i];
    }
    return count < o->cached_most ? count : o->cached_most;
}

const ousac_search_cached *ousac_search_longest(const ousac_search_outline *outline) {
    const ousac_search_cached *found[OUSAC_SEARCH_CANDIDATES_MAX];
    return dearest(outline, found) ? found[0] : NULL;
}

/* Each of which may be near the best before it; and the reference, where one is. */
static void add_second_look(maker *m, const ousac_arch *arch, const ousac_schedule *reference,
                            const ousac_search_cached *const *cached, size_t count) {
    const ousac_search_outline *o = m->outline;
    begin_charge(m, "a second look");
    add_full(m, o->again.count, reference->step_count + o->fewer);
    if (o->sparse_count)
        add_sparse(m, o->again.count, &o->sparse[o->sparse_count - 1]);
    if (o->pattern_count)
        add_extrapolated(m, arch, o->again.count, reference->step_count, &o->pattern[0]);
    for (size_t i = 0; i < count; i++)
        add_cached(m, o->again.count, cached[i]);
    if (count && o->both)
        add_cached(m, o->again.count, cached[0]);
}

static void list_search(maker *m, const ousac_arch *arch, const ousac_schedule *reference) {
    const ousac_search_outline *o = m->outline;
    const ousac_search_cached *cached[OUSAC_SEARCH_CANDIDATES_MAX];
    const size_t count = dearest(o, cached);
    begin_charge(m, "the reference, fitted to");
    add_full(m, o->fitting.count + o->validation.count + o->deciding.count, reference->step_count);
    begin_charge(m, "fewer steps, plain and fitted");
    add_full(m, o->validation.count + o->ways * fit_samples(o) + 2 * o->deciding.count + last_fit_samples(o),
             o->fewer);
    begin_charge(m, "the same at other costs");
    for (size_t i = 0; i < o->curve_count; i++)
        add_full(m, o->validation.count + o->curve_ways * fit_samples(o), o->curve[i]);
    if (o->sparse_count)
        begin_charge(m, "guidance at some steps");
    for (size_t i = 0; i < o->sparse_count; i++) {
        add_guide(m, &o->sparse[i]);
        add_sparse(m, fit_samples(o), &o->sparse[i]);
    }
    if (o->sparse_count)
        add_sparse(m, o->deciding.count + last_fit_samples(o), &o->sparse[o->sparse_count - 1]);
    if (o->pattern_count)
        begin_charge(m, "extrapolated outputs");
    for (size_t i = 0; i < o->pattern_count; i++)
        add_extrapolated(m, arch, fit_samples(o) + (i == 0 ? o->deciding.count + last_fit_samples(o) : 0),
                         reference->step_count, &o->pattern[i]);
    begin_charge(m, "placing refreshes");
    for (size_t i = 0; i < count; i++)
        add_placement(m, cached[i]);
    if (count && o->both) {
        add_guide(m, &(ousac_search_sparse){.steps = cached[0]->steps});
        add_placement(m, cached[0]);
    }
    begin_charge(m, "fitting cached candidates");
    for (size_t i = 0; i < count; i++)
        add_cached(m, fit_samples(o) + o->deciding.count, cached[i]);
    if (count && o->both)
        add_cached(m, fit_samples(o) + o->deciding.count, cached[0]);
    if (o->sparse_count + o->pattern_count + count > 0)
        add_second_look(m, arch, reference, cached, count);
}

/* Under the candidate of most steps. */
static void list_rest(maker *m, const ousac_schedule *reference, const ousac_search_follows *f) {
    const ousac_search_outline *o = m->outline;
    const ousac_search_cached *longest = ousac_search_longest(o);
    if (longest) {
        begin_charge(m, "the profile");
        add_full(m, f->pilot + f->samples, longest->steps);
        begin_charge(m, "choosing ranks");
        add_full(m, f->validation + f->searched + f->forecasts * f->fitting, longest->steps);
        add_cached(m, f->candidates * f->validation + f->evaluations * f->searched, longest);
        begin_charge(m, "fitting what ships");
        add_cached(m, last_fit_samples(o), longest);
    }
    begin_charge(m, "the evaluation");
    add_full(m, f->test, reference->step_count + 2 * o->fewer + f->fine);
    if (longest) { /* exact, calibrated, and reuse, which is the cheaper one */
        add_full(m, f->test, longest->steps);
        add_cached(m, 2 * f->test, longest);
    }
}

void ousac_search_bill_make(const ousac_arch *arch, const ousac_schedule *reference,
                            const ousac_search_outline *outline, const ousac_search_follows *follows,
                            ousac_search_bill *bill) {
    maker m = {.bill = bill, .outline = outline, .macs = ousac_cost_full(arch)};
    memset(bill, 0, sizeof *bill);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        m.branches += ousac_mode_evaluates(reference->steps[0].mode, b) != 0;
    list_search(&m, arch, reference);
    bill->searching = bill->count;
    list_rest(&m, reference, follows);
    for (size_t i = 0; i < bill->count; i++) {
        bill->evaluations += bill->charge[i].evaluations;
        bill->macs += bill->charge[i].macs;
    }
}
