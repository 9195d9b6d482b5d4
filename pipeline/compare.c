#include "pipeline/compare.h"

#include "formats/memory.h"
#include "pipeline/allocate.h"
#include "pipeline/factors.h"
#include "pipeline/gauge.h"
#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "pipeline/record.h"
#include "pipeline/shard.h"
#include "profile/record/run_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHOICES = 6 };
/* How the evaluations are split between the placement and the ranks; a descent takes one round of probes and
 * a few proposals, or is left out. */
#define PLACE_PART 0.45
enum { DESCENT_LEAST = 24 };

/* What a schedule was calibrated with. */
typedef struct calibrated {
    ousac_schedule schedule;
    ousac_profile *pilot, *profile;
    ousac_factor_set *set[OUSAC_METHOD_COUNT];
    double seconds; /* of the profile */
} calibrated;

typedef struct comparison {
    const ousac_session *session;
    const ousac_compare_options *options;
    ousac_compare_cell *cell;
    uint64_t macs;
    calibrated even, placed;
    ousac_choice choice[CHOICES];
    size_t choice_count;
    ousac_gauge test;
} comparison;

/* Of few calibration samples the searches take what there is: half for the factors of a placement, a whole micro-batch
 * at least, and what is behind them to measure on. */
static size_t place_samples(const comparison *c) {
    const size_t half = (size_t)(c->options->calibration / 2);
    return half < OUSAC_PLACE_SAMPLES ? half : OUSAC_PLACE_SAMPLES;
}

static size_t search_samples(const comparison *c) {
    const size_t batch = c->session->micro_batch;
    const uint64_t behind = (place_samples(c) + batch - 1) / batch * batch;
    const uint64_t left = c->options->calibration - behind;
    return left < OUSAC_DEFAULT_SEARCH_SAMPLES ? (size_t)left : OUSAC_DEFAULT_SEARCH_SAMPLES;
}

static void calibrated_free(calibrated *c) {
    for (int m = 0; m < OUSAC_METHOD_COUNT; m++)
        ousac_factor_set_free(c->set[m]);
    ousac_profile_free(c->profile);
    ousac_profile_free(c->pilot);
    ousac_schedule_free(&c->schedule);
}

void ousac_compare_free(ousac_compare_cell *cell) {
    ousac_schedule_free(&cell->placed);
    memset(cell, 0, sizeof *cell);
}

/* Profile and the factors asked for (bits, 1 << ousac_method). */
static ousac_status calibrate(comparison *c, calibrated *on, unsigned methods, ousac_error *error) {
    const double since = ousac_clock_s();
    const uint64_t pilot = c->options->calibration < OUSAC_DEFAULT_PILOT_SAMPLES
                               ? c->options->calibration
                               : OUSAC_DEFAULT_PILOT_SAMPLES;
    ousac_record_cost cost = {0};
    ousac_status status =
        ousac_record_pilot(c->session, &on->schedule, pilot, NULL, &on->pilot, &cost, error);
    const ousac_record_options options = {
        .range = c->cell->calibration, .magnitudes = 1, .segments = 1, .weights = on->pilot};
    if (!status)
        status = ousac_record_profile(c->session, &on->schedule, &options, &on->profile, &cost, error);
    for (int m = 0; m < OUSAC_METHOD_COUNT && !status; m++)
        if (methods & 1U << m)
            status = ousac_session_factors(c->session, on->profile, (ousac_method)m, &on->set[m], error);
    on->seconds = ousac_clock_s() - since;
    return status;
}

static ousac_compare_row *add_row(comparison *c, const char *method, const char *allocator, int ours,
                                  int placed) {
    ousac_compare_row *row = &c->cell->row[c->cell->row_count++];
    *row = (ousac_compare_row){.method = method,
                               .allocator = allocator,
                               .asked = allocator,
                               .ours = ours,
                               .placed = placed,
                               .validation = NAN};
    return row;
}

static ousac_status fill_interval(comparison *c, ousac_compare_row *row, ousac_error *error) {
    const ousac_status status = ousac_stats_root_mean(c->test.squares, (size_t)c->test.range.count,
                                                      c->session->seed, &row->error, error);
    row->measured = !status;
    return status;
}

/* Zero-cost rows: reuse and extrapolation under a schedule. */
static ousac_status measure_reuse(comparison *c, const calibrated *on, int extrapolate, int placed,
                                  ousac_error *error) {
    ousac_schedule schedule = {0};
    const ousac_gauge_arm arm = {.label = extrapolate ? "extrapolation" : "reuse", .schedule = &schedule};
    ousac_cost_total cost;
    double relative_error = 0;
    ousac_compare_row *row = add_row(c, arm.label, "", 0, placed);
    ousac_status status = ousac_schedule_copy(&schedule, &on->schedule, error);
    for (int gate = OUSAC_GATE_CACHED; extrapolate && gate <= OUSAC_GATE_REUSE; gate++)
        ousac_schedule_replace_gate(&schedule, (ousac_gate)gate, OUSAC_GATE_EXTRAPOLATE);
    if (!status)
        status = ousac_gauge_measure(&c->test, &arm, NULL, &relative_error, error);
    if (!status)
        status = ousac_cost_trajectory(&c->session->model->arch, &schedule, NULL, &cost, error);
    if (!status) {
        row->macs_total = cost.total;
        status = fill_interval(c, row, error);
    }
    ousac_schedule_free(&schedule);
    return status;
}

/* A candidate on the test samples; it may not cost more than the cell. */
static ousac_status measure_candidate(comparison *c, const calibrated *on, ousac_method method,
                                      const ousac_candidate *candidate, ousac_compare_row *row,
                                      ousac_error *error) {
    const ousac_ranks ranks = {
        .rank = candidate->allocation.rank, .dense_fallback = 1, .forecast = candidate->forecast != NULL};
    ousac_cost_total cost;
    double relative_error = 0;
    ousac_status status =
        ousac_cost_trajectory(&c->session->model->arch, &on->schedule, &ranks, &cost, error);
    if (!status && cost.schedule_cached > c->macs)
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                            "%s %s costs %" PRIu64 " MACs a sample, more than the cell's %" PRIu64,
                            row->method, row->allocator, cost.schedule_cached, c->macs);
    if (!status)
        status = ousac_gauge_measure_ranks(&c->test, row->method, &on->schedule, on->set[method],
                                           candidate->allocation.rank, candidate->forecast, &relative_error,
                                           error);
    if (status)
        return status;
    row->macs_total = cost.total;
    row->validation = candidate->measured;
    return fill_interval(c, row, error);
}

/* Plans under the cell's budget. */
static ousac_status allocate(comparison *c, const calibrated *on, ousac_method method, unsigned allocators,
                             ousac_forecast_use forecast, size_t evaluations, ousac_choice **choice,
                             ousac_error *error) {
    ousac_cost_total cost;
    ousac_status status = ousac_cost_trajectory(&c->session->model->arch, &on->schedule, NULL, &cost, error);
    if (status)
        return status;
    const ousac_choice_options options = {
        .name = "default",
        .methods = allocators,
        .forecast = forecast,
        /* half a MAC more, so that rounding does not lose a rank; the cost is checked */
        .budget = {NAN, ((double)c->macs + 0.5) / (double)cost.constant_guidance},
        .granularity = OUSAC_DEFAULT_GRANULARITY,
        .rank_min = OUSAC_DEFAULT_RANK_MIN,
        .evaluations = evaluations,
        .search_samples = search_samples(c),
        .validation = c->cell->validation};
    *choice = &c->choice[c->choice_count++];
    return ousac_choice_create(c->session, on->profile, on->set[method], &options, *choice, error);
}

/* --- the rows --- */

static ousac_status published(comparison *c, ousac_error *error) {
    static const ousac_method methods[] = {OUSAC_METHOD_SVD, OUSAC_METHOD_CA_SVD, OUSAC_METHOD_CD_SVD};
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < sizeof methods / sizeof *methods && !status; i++) {
        const int searched = methods[i] == OUSAC_METHOD_CA_SVD;
        ousac_choice *choice = NULL;
        status = allocate(c, &c->even, methods[i],
                          1U << OUSAC_ALLOCATOR_UNIFORM | (searched ? 1U << OUSAC_ALLOCATOR_REGIONS : 0),
                          OUSAC_FORECAST_OFF, c->options->evaluations, &choice, error);
        if (status)
            return status;
        const ousac_candidate *uniform = &choice->candidate[OUSAC_ALLOCATOR_UNIFORM];
        ousac_compare_row *row = add_row(c, ousac_method_name(methods[i]), "uniform", 0, 0);
        row->seconds = c->even.seconds;
        status = measure_candidate(c, &c->even, methods[i], uniform, row, error);
        if (!searched || status)
            continue;
        row = add_row(c, ousac_method_name(methods[i]), ousac_candidate_name(choice->chosen), 0, 0);
        row->asked = "regions";
        row->evaluations = choice->candidate[OUSAC_ALLOCATOR_REGIONS].evaluations;
        row->seconds = c->even.seconds + choice->candidate[OUSAC_ALLOCATOR_REGIONS].seconds;
        status = measure_candidate(c, &c->even, methods[i], &choice->candidate[choice->chosen], row, error);
    }
    return status;
}

/* Ours without a placement: what each part is worth. */
static ousac_status ours_even(comparison *c, ousac_error *error) {
    ousac_choice *choice = NULL;
    ousac_status status = allocate(c, &c->even, OUSAC_METHOD_DELTA_COV, 1U << OUSAC_ALLOCATOR_UNIFORM,
                                   OUSAC_FORECAST_AUTO, 0, &choice, error);
    for (int i = 0; i < OUSAC_CANDIDATES && !status; i += OUSAC_ALLOCATORS)
        if (choice->candidate[i].present) {
            ousac_compare_row *row = add_row(c, "delta-cov", ousac_candidate_name(i), 1, 0);
            row->seconds = c->even.seconds + choice->candidate[i].seconds;
            status =
                measure_candidate(c, &c->even, OUSAC_METHOD_DELTA_COV, &choice->candidate[i], row, error);
        }
    return status;
}

/* 1 where a search ended at the uniform ranks that it began from. */
static int same_ranks(const comparison *c, const ousac_choice *choice, int index) {
    const ousac_candidate *uniform = &choice->candidate[index - index % OUSAC_ALLOCATORS];
    const size_t sites = c->session->model->arch.site_count;
    return memcmp(uniform->allocation.rank, choice->candidate[index].allocation.rank,
                  sites * sizeof *uniform->allocation.rank) == 0;
}

/* Of ours, what validation prefers. */
static void mark_shipped(ousac_compare_cell *cell) {
    ousac_compare_row *best = NULL;
    for (size_t i = 0; i < cell->row_count; i++)
        if (cell->row[i].ours && (!best || cell->row[i].validation < best->validation))
            best = &cell->row[i];
    if (best)
        best->shipped = 1;
}

/* The whole pipeline: placement, then ranks. */
static ousac_status ours_placed(comparison *c, ousac_error *error) {
    const size_t place_most = (size_t)(PLACE_PART * (double)c->options->evaluations);
    const ousac_place_options options = {.even = &c->even.schedule,
                                         .budget = c->macs,
                                         .samples = place_samples(c),
                                         .search_samples = search_samples(c),
                                         .probe_samples = place_samples(c),
                                         .horizon = OUSAC_PLACE_HORIZON,
                                         .stride = OUSAC_PLACE_STRIDE,
                                         .evaluations = place_most > 2 ? place_most : 2};
    ousac_place_result found = {0};
    ousac_choice *choice = NULL;
    ousac_status status = ousac_place_search(c->session, &options, &found, error);
    if (!status)
        status = ousac_schedule_copy(&c->cell->placed, &found.schedule, error);
    if (!status)
        status = ousac_schedule_copy(&c->placed.schedule, &found.schedule, error);
    if (!status)
        status = calibrate(c, &c->placed, 1U << OUSAC_METHOD_DELTA_COV | 1U << OUSAC_METHOD_CA_SVD, error);
    const size_t left = c->options->evaluations - found.step_count;
    if (!status)
        status = allocate(c, &c->placed, OUSAC_METHOD_DELTA_COV,
                          1U << OUSAC_ALLOCATOR_UNIFORM |
                              (left >= DESCENT_LEAST ? 1U << OUSAC_ALLOCATOR_DESCENT : 0),
                          found.forecast ? OUSAC_FORECAST_ON : OUSAC_FORECAST_OFF, left, &choice, error);
    for (int i = 0; i < OUSAC_CANDIDATES && !status; i++) {
        const ousac_candidate *candidate = &choice->candidate[i];
        if (!candidate->present || (i % OUSAC_ALLOCATORS && same_ranks(c, choice, i)))
            continue;
        ousac_compare_row *row = add_row(c, "delta-cov", ousac_candidate_name(i), 1, found.placed);
        row->evaluations = found.step_count + candidate->evaluations;
        row->seconds = found.seconds + c->placed.seconds + candidate->seconds;
        status = measure_candidate(c, &c->placed, OUSAC_METHOD_DELTA_COV, candidate, row, error);
    }
    ousac_place_result_free(&found);
    return status;
}

/* The published methods at our placement, for what the placement alone is worth to them. */
static ousac_status published_placed(comparison *c, ousac_error *error) {
    ousac_choice *choice = NULL;
    ousac_status status = measure_reuse(c, &c->placed, 1, 1, error);
    if (!status)
        status = allocate(c, &c->placed, OUSAC_METHOD_CA_SVD, 1U << OUSAC_ALLOCATOR_UNIFORM,
                          OUSAC_FORECAST_OFF, 0, &choice, error);
    if (status)
        return status;
    ousac_compare_row *row = add_row(c, "ca-svd", "uniform", 0, 1);
    return measure_candidate(c, &c->placed, OUSAC_METHOD_CA_SVD, &choice->candidate[OUSAC_ALLOCATOR_UNIFORM],
                             row, error);
}

static ousac_status prepare(comparison *c, ousac_error *error) {
    const ousac_compare_options *o = c->options;
    const ousac_arch *arch = &c->session->model->arch;
    const size_t batch = c->session->micro_batch;
    const ousac_budget budget = {o->budget_step, NAN};
    ousac_compare_cell *cell = c->cell;
    uint64_t step_macs = 0;
    ousac_cost_total cost;
    ousac_status status = ousac_schedule_copy(&c->even.schedule, o->schedule, error);
    if (status)
        return status;
    ousac_place_evenly(&c->even.schedule, o->period);
    (void)snprintf(cell->schedule_name, sizeof cell->schedule_name, "%s", ousac_schedule_called(o->schedule));
    (void)snprintf(cell->solver, sizeof cell->solver, "%s", ousac_solver_name(o->schedule->solver));
    cell->period = o->period;
    cell->calibration = (ousac_sample_range){0, o->calibration};
    cell->validation = (ousac_sample_range){(o->calibration + batch - 1) / batch * batch, o->validation};
    cell->test = o->test;
    if (o->calibration < 2 * batch)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "`calibration` %" PRIu64
            ": expected at least %zu samples, a micro-batch to calibrate on and one to search on",
            o->calibration, 2 * batch);
    if (ousac_range_overlaps(&o->test, 0, cell->validation.first + cell->validation.count))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`samples` %" PRIu64 ":%" PRIu64 ": expected test samples from %" PRIu64
                          " on, behind those of calibration and validation",
                          o->test.first, o->test.first + o->test.count,
                          cell->validation.first + cell->validation.count);
    if ((status =
             ousac_budget_solve(arch, &c->even.schedule, &budget, &step_macs, &cell->budget_step, error)) ||
        (status = ousac_place_budget(arch, &c->even.schedule, step_macs, &c->macs, &cell->rank, error)) ||
        (status = ousac_cost_trajectory(arch, &c->even.schedule, NULL, &cost, error)))
        return status;
    if (cell->rank == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`budget_step` %g: holds no rank", o->budget_step);
    cell->budget_total = (double)c->macs / (double)cost.constant_guidance;
    status = ousac_gauge_create(&c->test, c->session, &c->even.schedule, &cell->test, error);
    if (!status) {
        ousac_compare_row *exact = add_row(c, "exact", "", 0, 0);
        exact->macs_total = (double)cost.schedule_full / (double)cost.constant_guidance;
        exact->error = (ousac_interval){0, NAN, NAN};
        exact->measured = 1;
    }
    return status;
}

static void keep_measured(ousac_compare_cell *cell) {
    size_t kept = 0;
    for (size_t i = 0; i < cell->row_count; i++)
        if (cell->row[i].measured)
            cell->row[kept++] = cell->row[i];
    cell->row_count = kept;
}

ousac_status ousac_compare_run(const ousac_session *session, const ousac_compare_options *options,
                               ousac_compare_cell *cell, ousac_error *error) {
    comparison c = {.session = session, .options = options, .cell = cell};
    memset(cell, 0, sizeof *cell);
    ousac_status status = prepare(&c, error);
    if (!status)
        status = calibrate(&c, &c.even, (1U << OUSAC_METHOD_COUNT) - 1, error);
    if (!status)
        status = measure_reuse(&c, &c.even, 0, 0, error);
    if (!status)
        status = measure_reuse(&c, &c.even, 1, 0, error);
    if (!status)
        status = published(&c, error);
    if (!status)
        status = ours_even(&c, error);
    if (!status)
        status = ours_placed(&c, error);
    if (!status)
        status = published_placed(&c, error);
    if (!status)
        mark_shipped(cell);
    for (size_t i = 0; i < c.choice_count; i++)
        ousac_choice_free(&c.choice[i]);
    ousac_gauge_free(&c.test);
    calibrated_free(&c.even);
    calibrated_free(&c.placed);
    if (status == OUSAC_STATUS_INTERRUPTED)
        keep_measured(cell);
    else if (status)
        ousac_compare_free(cell);
    return status;
}
