#include "pipeline/allocate.h"

#include "calib/choose/descent.h"
#include "calib/choose/regions.h"
#include "formats/memory.h"
#include "pipeline/gauge.h"
#include "pipeline/machine.h"
#include "pipeline/shard.h"
#include "profile/record/forecast_fit.h"
#include "profile/record/run_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *ousac_candidate_name(int candidate) {
    static const char *const names[OUSAC_CANDIDATES] = {
        "uniform",          "knapsack",          "regions",          "descent",
        "uniform+forecast", "knapsack+forecast", "regions+forecast", "descent+forecast"};
    return names[candidate];
}

/* What the curves of a set of factors speak of. */
static const char *error_model(ousac_method method) {
    switch (method) {
    case OUSAC_METHOD_SVD:
        return "relative energy of the weights, summed over sites (svd)";
    case OUSAC_METHOD_CA_SVD:
        return "relative energy of the scaled weights, summed over sites (ca-svd)";
    case OUSAC_METHOD_CD_SVD:
        return "relative energy of the scaled weights, summed over sites (cd-svd)";
    case OUSAC_METHOD_DELTA_COV:
    case OUSAC_METHOD_COUNT:
        break;
    }
    return "relative local error, summed over sites";
}

/* --- candidates --- */

/* The curves of the error model: each site's spectrum over its own total. */
static ousac_curve *make_curves(const ousac_factor_set *set) {
    ousac_curve *curves = ousac_calloc(set->site_count, sizeof *curves);
    for (size_t s = 0; curves && s < set->site_count; s++) {
        const ousac_factors *site = &set->site[s];
        const double energy = ousac_spectrum_tail(site->lambda, site->lambda_count, 0);
        const double weight = energy > 0 ? 1.0 / energy : 0.0;
        curves[s] = (ousac_curve){site->lambda, site->lambda_count, isfinite(weight) ? weight : 0.0};
    }
    return curves;
}

static ousac_ranks candidate_ranks(const ousac_candidate *candidate) {
    return (ousac_ranks){
        .rank = candidate->allocation.rank, .dense_fallback = 1, .forecast = candidate->forecast != NULL};
}

/* What all candidates of one choice share. */
typedef struct workshop {
    const ousac_session *session;
    const ousac_profile *profile;
    ousac_factor_set *set;
    const ousac_choice_options *options;
    const ousac_curve *curves;
    ousac_gauge search; /* made where a candidate first needs it */
} workshop;

static ousac_sample_range calibration_head(const ousac_profile *profile, uint64_t most) {
    const uint64_t count = profile->ranges[0].count;
    return (ousac_sample_range){profile->ranges[0].first, count < most ? count : most};
}

/* A plan under search, and the forecast it is run with. */
typedef struct contest {
    workshop *shop;
    const char *label;
    const ousac_forecast *forecast;
} contest;

static ousac_status run_contest(void *self, const size_t *rank, double *value, ousac_error *error) {
    const contest *c = self;
    return ousac_gauge_measure_ranks(&c->shop->search, c->label, &c->shop->profile->schedule, c->shop->set,
                                     rank, c->forecast, value, error);
}

/* Regions or descent, from the uniform ranks of `start`, which also lends its forecast. */
static ousac_status search(workshop *shop, ousac_allocator method, uint64_t macs,
                           const ousac_candidate *start, const char *name, ousac_candidate *candidate,
                           ousac_error *error) {
    const ousac_arch *arch = &shop->session->model->arch;
    const ousac_sample_range range =
        calibration_head(shop->profile, shop->options->search_samples ? shop->options->search_samples
                                                                      : OUSAC_DEFAULT_SEARCH_SAMPLES);
    char label[64];
    contest c = {.shop = shop, .label = label, .forecast = start->forecast};
    ousac_status status = OUSAC_STATUS_OK;
    (void)snprintf(label, sizeof label, "search %s", name);
    if (!shop->search.exact)
        status = ousac_gauge_create(&shop->search, shop->session, &shop->profile->schedule, &range, error);
    if (status)
        return status;
    if (method == OUSAC_ALLOCATOR_REGIONS) {
        ousac_regions_report report;
        const ousac_regions_options options = {.rank_min = 1,
                                               .evaluations_max = shop->options->evaluations,
                                               .evaluate = run_contest,
                                               .self = &c};
        status = ousac_allocate_regions(arch, macs, &options, &candidate->allocation, &report, error);
        candidate->evaluations = report.evaluations;
    } else {
        ousac_descent_report report;
        const ousac_descent_options options = {.curves = shop->curves,
                                               .start = start->allocation.rank,
                                               .granularity = 1,
                                               .evaluations_max = shop->options->evaluations,
                                               .evaluate = run_contest,
                                               .self = &c};
        status = ousac_allocate_descent(arch, macs, &options, &candidate->allocation, &report, error);
        candidate->evaluations = status ? 0 : report.evaluations;
    }
    return status;
}

static ousac_status solve(workshop *shop, ousac_allocator method, uint64_t macs, const char *name,
                          const ousac_candidate *start, ousac_candidate *candidate, ousac_error *error) {
    const ousac_arch *arch = &shop->session->model->arch;
    ousac_allocation *allocation = &candidate->allocation;
    const ousac_knapsack_options knapsack = {.granularity = shop->options->granularity,
                                             .rank_min = shop->options->rank_min,
                                             .modules_may_stop = 1};
    ousac_status status = OUSAC_STATUS_OK;
    if (method == OUSAC_ALLOCATOR_UNIFORM)
        status = ousac_allocate_uniform(arch, shop->curves, macs, allocation, error);
    else if (method == OUSAC_ALLOCATOR_KNAPSACK)
        status = ousac_allocate_knapsack(arch, shop->curves, macs, &knapsack, allocation, error);
    else
        status = search(shop, method, macs, start, name, candidate, error);
    if (status)
        return status;
    candidate->present = 1;
    candidate->measured = NAN;
    /* A direction that the spectrum does not hold corrects nothing, so its cost is not spent. */
    ousac_factor_set_clip(shop->set, arch, allocation->rank);
    const ousac_ranks ranks = {.rank = allocation->rank, .dense_fallback = 1};
    allocation->cost = ousac_cost_cached(arch, &ranks);
    /* A descent that moved brings the certificate of its own model. */
    candidate->probed = method == OUSAC_ALLOCATOR_DESCENT && allocation->error > 0;
    if (!candidate->probed && (status = ousac_allocate_grade(arch, shop->curves, allocation, error)))
        return status;
    candidate->cached_step = (double)allocation->cost / (double)ousac_cost_full(arch);
    return OUSAC_STATUS_OK;
}

/* Fits the forecast of a candidate's ranks on calibration samples, and counts its cost. */
static ousac_status add_forecast(workshop *shop, const char *name, ousac_candidate *candidate,
                                 ousac_error *error) {
    const ousac_arch *arch = &shop->session->model->arch;
    const ousac_sample_range range = calibration_head(shop->profile, OUSAC_DEFAULT_FORECAST_SAMPLES);
    char label[64];
    (void)snprintf(label, sizeof label, "fit %s", name);
    const ousac_status status =
        ousac_session_fit_forecast(shop->session, &shop->profile->schedule, &range, shop->set,
                                   candidate->allocation.rank, label, &candidate->forecast, error);
    if (status)
        return status;
    const ousac_ranks ranks = candidate_ranks(candidate);
    candidate->allocation.cost = ousac_cost_cached(arch, &ranks);
    candidate->cached_step = (double)candidate->allocation.cost / (double)ousac_cost_full(arch);
    return OUSAC_STATUS_OK;
}

static ousac_status validate(const workshop *shop, ousac_choice *choice, ousac_error *error) {
    const ousac_schedule *schedule = &shop->profile->schedule;
    ousac_gauge validation = {0};
    ousac_status status =
        ousac_gauge_create(&validation, shop->session, schedule, &choice->validation, error);
    for (int i = 0; !status && i < OUSAC_CANDIDATES; i++) {
        ousac_candidate *candidate = &choice->candidate[i];
        char label[64];
        if (!candidate->present)
            continue;
        (void)snprintf(label, sizeof label, "validate %s", ousac_candidate_name(i));
        status =
            ousac_gauge_measure_ranks(&validation, label, schedule, shop->set, candidate->allocation.rank,
                                      candidate->forecast, &candidate->measured, error);
    }
    choice->validated = !status;
    ousac_gauge_free(&validation);
    return status;
}

/* --- the choice --- */

/* The samples behind the calibration's, from the next multiple of the micro-batch. */
static ousac_sample_range default_validation(const ousac_profile *profile, size_t micro_batch) {
    uint64_t end = 0;
    for (size_t i = 0; i < profile->range_count; i++)
        if (profile->ranges[i].first + profile->ranges[i].count > end)
            end = profile->ranges[i].first + profile->ranges[i].count;
    end += (micro_batch - end % micro_batch) % micro_batch;
    return (ousac_sample_range){end, OUSAC_DEFAULT_VALIDATION_SAMPLES};
}

static ousac_status check_validation(const ousac_sample_range *range, const ousac_profile *profile,
                                     size_t micro_batch, ousac_error *error) {
    ousac_status status = ousac_range_check("validate", range, micro_batch, error);
    for (size_t i = 0; !status && i < profile->range_count; i++) {
        const ousac_sample_range *used = &profile->ranges[i];
        if (ousac_range_overlaps(range, used->first, used->count))
            status = OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "`validate` %" PRIu64 ":%" PRIu64 ": the profile was calibrated on samples %" PRIu64
                ":%" PRIu64 "; expected samples that it has not seen",
                range->first, range->first + range->count, used->first, used->first + used->count);
    }
    return status;
}

static void write_validation(ousac_choice *choice) {
    char *note = choice->plan->note;
    const size_t size = sizeof choice->plan->note;
    const unsigned long long first = choice->validation.first, end = first + choice->validation.count;
    size_t compared = 0;

    if (!choice->validated) {
        (void)snprintf(note, size, "not validated end to end");
        return;
    }
    (void)snprintf(note, size, "validated on samples %llu:%llu: relative error of the final sample", first,
                   end);
    for (int i = 0; i < OUSAC_CANDIDATES; i++)
        if (choice->candidate[i].present) {
            const size_t used = strlen(note);
            (void)snprintf(note + used, size - used, "%s %.4g %s", compared ? "," : "",
                           choice->candidate[i].measured, ousac_candidate_name(i));
            compared++;
        }
    if (compared > 1) {
        const size_t used = strlen(note);
        (void)snprintf(note + used, size - used, "; the %s plan ships", ousac_candidate_name(choice->chosen));
    }
}

static void write_note(ousac_choice *choice, const char *remark) {
    char *note = choice->plan->note;
    write_validation(choice);
    const size_t used = strlen(note);
    if (remark)
        (void)snprintf(note + used, sizeof choice->plan->note - used, "; %s", remark);
}

/* One candidate; `start`: the uniform one of the same kind, which searches begin from. */
static ousac_status make_candidate(workshop *shop, int index, uint64_t macs, const ousac_candidate *start,
                                   ousac_candidate *candidate, ousac_error *error) {
    const double since = ousac_clock_s();
    const char *name = ousac_candidate_name(index);
    ousac_status status =
        solve(shop, (ousac_allocator)(index % OUSAC_ALLOCATORS), macs, name, start, candidate, error);
    if (!status && index >= OUSAC_ALLOCATORS)
        status = add_forecast(shop, name, candidate, error);
    candidate->seconds = ousac_clock_s() - since;
    return status;
}

/* --- what needs neither weights nor samples --- */

static int pays_forecast(const ousac_arch *arch, uint64_t macs, size_t cached) {
    return cached > 0 && macs >= ousac_cost_reuse(arch) + ousac_budget_forecast_macs(arch);
}

static ousac_status refuse_forecast(const ousac_arch *arch, uint64_t macs, ousac_error *error) {
    const double full = (double)ousac_cost_full(arch);
    const uint64_t least = ousac_cost_reuse(arch) + ousac_budget_forecast_macs(arch);
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                      "`forecast` on: the forecast alone costs %.6f of a full evaluation; the budget is %.6f",
                      (double)least / full, (double)macs / full);
}

ousac_status ousac_choice_check(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t macs,
                                const ousac_choice_options *options, ousac_error *error) {
    ousac_cost_total cost;
    ousac_status status = ousac_plan_check_name(options->name, error);
    if (status || options->forecast != OUSAC_FORECAST_ON)
        return status;
    status = ousac_cost_trajectory(arch, schedule, NULL, &cost, error);
    return status || pays_forecast(arch, macs, cost.forwards_cached) ? status
                                                                     : refuse_forecast(arch, macs, error);
}

ousac_status ousac_choice_check_validation(const ousac_profile *profile, const ousac_choice_options *options,
                                           ousac_error *error) {
    return options->validation.count > 0
               ? check_validation(&options->validation, profile, profile->identity.micro_batch, error)
               : OUSAC_STATUS_OK;
}

/* Every candidate that the options ask for, within the budget. A search begins from the uniform candidate,
 * which is therefore made as well and takes part. */
static ousac_status make_candidates(workshop *shop, uint64_t macs, ousac_choice *choice, ousac_error *error) {
    const ousac_arch *arch = &shop->session->model->arch;
    const ousac_choice_options *options = shop->options;
    const uint64_t extra = ousac_budget_forecast_macs(arch);
    const unsigned searches = 1U << OUSAC_ALLOCATOR_REGIONS | 1U << OUSAC_ALLOCATOR_DESCENT;
    const unsigned methods =
        options->methods | (options->methods & searches ? 1U << OUSAC_ALLOCATOR_UNIFORM : 0);
    ousac_cost_total cost;
    ousac_status status = ousac_cost_trajectory(arch, &shop->profile->schedule, NULL, &cost, error);
    for (int forecast = 0; forecast < 2; forecast++) {
        ousac_candidate *row = &choice->candidate[forecast * OUSAC_ALLOCATORS];
        if (options->forecast != OUSAC_FORECAST_AUTO && (int)options->forecast != forecast)
            continue;
        if (forecast && !pays_forecast(arch, macs, cost.forwards_cached)) {
            if (options->forecast == OUSAC_FORECAST_AUTO)
                continue; /* nothing to pay it with, or nothing to forecast */
            status = status ? status : refuse_forecast(arch, macs, error);
        }
        for (int method = 0; !status && method < OUSAC_ALLOCATORS; method++)
            if (methods & 1U << method)
                status = make_candidate(shop, forecast * OUSAC_ALLOCATORS + method,
                                        forecast ? macs - extra : macs, row, &row[method], error);
    }
    return status;
}

/* The best end to end; without a measurement the only one, and of equals the simplest. */
static int best_candidate(const ousac_choice *choice) {
    int best = -1;
    for (int i = 0; i < OUSAC_CANDIDATES; i++)
        if (choice->candidate[i].present &&
            (best < 0 || choice->candidate[i].measured < choice->candidate[best].measured))
            best = i;
    return best;
}

int ousac_choice_runs(const ousac_choice_options *options) {
    return (options->methods & (options->methods - 1)) != 0 ||           /* several are compared */
           (options->methods & ~(unsigned)OUSAC_ALLOCATORS_AUTO) != 0 || /* or one is searched for */
           options->forecast != OUSAC_FORECAST_OFF || options->validation.count > 0;
}

/* Raises rank_max to the uniform ranks of a budget; a site at its dense rank needs no factors. */
static ousac_status need_uniform(const ousac_arch *arch, uint64_t macs, size_t *rank_max,
                                 ousac_error *error) {
    ousac_allocation uniform = {0};
    const ousac_status status = ousac_allocate_uniform(arch, NULL, macs, &uniform, error);
    for (size_t s = 0; !status && s < arch->site_count; s++) {
        const size_t rank = uniform.rank[s];
        if (rank < ousac_cost_dense_rank(&arch->sites[s]) && rank > rank_max[s])
            rank_max[s] = rank;
    }
    ousac_allocation_free(&uniform);
    return status;
}

ousac_status ousac_choice_ranks(const ousac_arch *arch, uint64_t macs, const ousac_choice_options *options,
                                size_t *rank_max, ousac_error *error) {
    const uint64_t extra = ousac_budget_forecast_macs(arch);
    const int runs = ousac_choice_runs(options), only = options->methods == 1U << OUSAC_ALLOCATOR_UNIFORM;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t s = 0; s < arch->site_count; s++)
        rank_max[s] = runs && !only ? ousac_cost_dense_rank(&arch->sites[s]) - 1 : 0;
    if (!runs || !only)
        return OUSAC_STATUS_OK;
    /* What a forecast costs can bring a site below its dense rank that is above it without. */
    if (options->forecast != OUSAC_FORECAST_ON)
        status = need_uniform(arch, macs, rank_max, error);
    if (!status && options->forecast != OUSAC_FORECAST_OFF && macs >= ousac_cost_reuse(arch) + extra)
        status = need_uniform(arch, macs - extra, rank_max, error);
    return status;
}

ousac_status ousac_choice_create(const ousac_session *session, const ousac_profile *profile,
                                 ousac_factor_set *set, const ousac_choice_options *options,
                                 ousac_choice *choice, ousac_error *error) {
    const ousac_arch *arch = &session->model->arch;
    const int compared =
        (options->methods & (options->methods - 1)) != 0 || options->forecast == OUSAC_FORECAST_AUTO;
    ousac_curve *curves = make_curves(set);
    workshop shop = {
        .session = session, .profile = profile, .set = set, .options = options, .curves = curves};
    uint64_t macs = 0;
    ousac_status status = OUSAC_STATUS_OK;

    memset(choice, 0, sizeof *choice);
    if (!curves) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the error curves");
        goto done;
    }
    status =
        ousac_budget_solve(arch, &profile->schedule, &options->budget, &macs, &choice->budget_step, error);
    if (status)
        goto done;
    choice->validation = options->validation;
    if (compared && choice->validation.count == 0)
        choice->validation = default_validation(profile, session->micro_batch);
    if (choice->validation.count > 0)
        status = check_validation(&choice->validation, profile, session->micro_batch, error);
    if (!status)
        status = make_candidates(&shop, macs, choice, error);
    if (!status && choice->validation.count > 0)
        status = validate(&shop, choice, error);
    if (status)
        goto done;

    choice->chosen = best_candidate(choice);
    const ousac_candidate *chosen = &choice->candidate[choice->chosen];
    status = ousac_plan_create(&choice->plan, arch, options->name, ousac_candidate_name(choice->chosen),
                               &chosen->allocation, error);
    if (!status && chosen->forecast)
        status = ousac_forecast_copy(&choice->plan->forecast, chosen->forecast, error);
    if (status)
        goto done;
    memcpy(choice->plan->model_digest, profile->identity.model_digest, sizeof choice->plan->model_digest);
    memcpy(choice->plan->model_constants, profile->identity.model_constants,
           sizeof choice->plan->model_constants);
    memcpy(choice->plan->model_process, profile->identity.model_process, sizeof choice->plan->model_process);
    ousac_profile_digest(profile, choice->plan->profile_digest);
    choice->plan->cached_step = chosen->cached_step;
    choice->plan->budget = choice->budget_step;
    if (choice->validated)
        choice->plan->validation = choice->validation;
    (void)snprintf(choice->plan->error_model, sizeof choice->plan->error_model, "%s",
                   chosen->probed ? "squared end-to-end error, probed in context" : error_model(set->method));
    write_note(choice, options->remark);
    const ousac_ranks ranks = ousac_plan_ranks(choice->plan);
    status = ousac_cost_trajectory(arch, &profile->schedule, &ranks, &choice->cost, error);
done:
    ousac_gauge_free(&shop.search);
    ousac_free(curves);
    if (status)
        ousac_choice_free(choice);
    return status;
}

void ousac_choice_free(ousac_choice *choice) {
    for (int i = 0; i < OUSAC_CANDIDATES; i++) {
        ousac_allocation_free(&choice->candidate[i].allocation);
        ousac_forecast_free(choice->candidate[i].forecast);
    }
    ousac_plan_free(choice->plan);
    memset(choice, 0, sizeof *choice);
}
