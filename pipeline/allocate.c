#include "pipeline/pipeline.h"

#include "calib/choose/descent.h"
#include "calib/choose/regions.h"
#include "formats/memory.h"
#include "pipeline/gauge.h"
#include "pipeline/team.h"
#include "profile/record/forecast_fit.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const method_names[] = {"uniform", "knapsack", "regions", "descent"};
static const char *const forecast_names[] = {"off", "on", "auto"};

const char *pipeline_candidate_name(int candidate) {
    static const char *const names[PIPELINE_CANDIDATES] = {
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

ousac_status pipeline_methods_parse(unsigned *methods, const char *text, ousac_error *error) {
    *methods = 0;
    if (strcmp(text, "auto") == 0) {
        *methods = PIPELINE_METHODS_AUTO;
        return OUSAC_STATUS_OK;
    }
    for (const char *at = text;; at++) {
        const size_t length = strcspn(at, ",");
        int method = 0;
        while (method < PIPELINE_METHODS &&
               (strlen(method_names[method]) != length || strncmp(at, method_names[method], length) != 0))
            method++;
        if (method == PIPELINE_METHODS)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--method %s: expected auto, or some of uniform,knapsack,regions,descent",
                              text);
        *methods |= 1U << method;
        at += length;
        if (*at == '\0')
            return OUSAC_STATUS_OK;
    }
}

ousac_status pipeline_forecast_parse(pipeline_forecast *forecast, const char *name, ousac_error *error) {
    for (int i = 0; i <= PIPELINE_FORECAST_AUTO; i++)
        if (strcmp(name, forecast_names[i]) == 0) {
            *forecast = (pipeline_forecast)i;
            return OUSAC_STATUS_OK;
        }
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--forecast %s: expected off, on or auto", name);
}

int pipeline_note_range(const char *note, cli_range *range) {
    uint64_t first = 0, end = 0;
    if (sscanf(note, "validated on samples %" SCNu64 ":%" SCNu64, &first, &end) != 2 || end <= first)
        return 0;
    *range = (cli_range){first, end - first};
    return 1;
}

/* --- the budget --- */

/* NAN compares false, so that it is refused as well. */
static int within(double value, double low, double high) {
    return value >= low && value <= high;
}

ousac_status pipeline_budget_solve(const ousac_arch *arch, const ousac_schedule *schedule,
                                   const pipeline_budget *budget, uint64_t *macs, double *step,
                                   ousac_error *error) {
    const double full = (double)ousac_cost_full(arch), reuse = (double)ousac_cost_reuse(arch);
    ousac_cost_total cost;
    ousac_status status = OUSAC_STATUS_OK;

    if (!isnan(budget->step) && !isnan(budget->total))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected one of --budget-step and --budget-total, not both");
    if (isnan(budget->total)) {
        *step = isnan(budget->step) ? PIPELINE_BUDGET_STEP : budget->step;
        if (!within(*step, reuse / full, 1.0))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--budget-step %g: expected from %.6f (reuse alone) to 1 (every product exact)",
                              *step, ceil(1e6 * reuse / full) / 1e6);
    } else {
        status = ousac_cost_trajectory(arch, schedule, NULL, &cost, error);
        if (status)
            return status;
        const double constant = (double)cost.constant_guidance;
        if (cost.forwards_cached == 0)
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--budget-total: the schedule has no cached evaluation, so no ranks change its cost");
        /* Steps gated reuse cost the same whatever the ranks, so the ceiling can lie below the uncached
         * schedule. */
        const double fixed = (double)cost.forwards_full * full + (double)cost.forwards_reuse * reuse;
        const double floor_total = (fixed + (double)cost.forwards_cached * reuse) / constant;
        const double ceiling_total = (fixed + (double)cost.forwards_cached * full) / constant;
        if (!within(budget->total, floor_total, ceiling_total))
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--budget-total %g: under this schedule expected from %.6f (reuse alone) to %.6f "
                "(every product exact)",
                budget->total, ceil(1e6 * floor_total) / 1e6, floor(1e6 * ceiling_total) / 1e6);
        *step = (budget->total * constant - fixed) / (double)cost.forwards_cached / full;
    }
    *macs = (uint64_t)fmin(fmax(*step * full, reuse), full);
    return OUSAC_STATUS_OK;
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

static ousac_ranks candidate_ranks(const pipeline_candidate *candidate) {
    return (ousac_ranks){
        .rank = candidate->allocation.rank, .dense_fallback = 1, .forecast = candidate->forecast != NULL};
}

uint64_t pipeline_forecast_macs(const ousac_arch *arch) {
    uint64_t macs = 0;
    for (size_t s = 0; s < arch->site_count; s++)
        macs += (uint64_t)ousac_arch_site_tokens(arch, s) * (arch->sites[s].m + arch->sites[s].n);
    return macs;
}

/* What all candidates of one choice share. */
typedef struct workshop {
    const pipeline_runs *runs;
    const ousac_profile *profile;
    ousac_factor_set *set;
    const pipeline_allocate_options *options;
    const ousac_curve *curves;
    gauge search; /* made where a candidate first needs it */
} workshop;

static cli_range calibration_head(const ousac_profile *profile, uint64_t most) {
    const uint64_t count = profile->ranges[0].count;
    return (cli_range){profile->ranges[0].first, count < most ? count : most};
}

/* A plan under search, and the forecast it is run with. */
typedef struct contest {
    workshop *shop;
    const char *label;
    const ousac_forecast *forecast;
} contest;

static ousac_status run_contest(void *self, const size_t *rank, double *value, ousac_error *error) {
    const contest *c = self;
    return gauge_measure_ranks(&c->shop->search, c->label, &c->shop->profile->schedule, c->shop->set, rank,
                               c->forecast, value, error);
}

/* Regions or descent, from the uniform ranks of `start`, which also lends its forecast. */
static ousac_status search(workshop *shop, pipeline_method method, uint64_t macs,
                           const pipeline_candidate *start, const char *name, pipeline_candidate *candidate,
                           ousac_error *error) {
    const ousac_arch *arch = &shop->runs->model->arch;
    const cli_range range = calibration_head(shop->profile, PIPELINE_SEARCH_SAMPLES);
    char label[64];
    contest c = {.shop = shop, .label = label, .forecast = start->forecast};
    ousac_status status = OUSAC_STATUS_OK;
    (void)snprintf(label, sizeof label, "search %s", name);
    if (!shop->search.exact)
        status = gauge_create(&shop->search, shop->runs, &shop->profile->schedule, &range, error);
    if (status)
        return status;
    if (method == PIPELINE_REGIONS) {
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

static ousac_status solve(workshop *shop, pipeline_method method, uint64_t macs, const char *name,
                          const pipeline_candidate *start, pipeline_candidate *candidate,
                          ousac_error *error) {
    const ousac_arch *arch = &shop->runs->model->arch;
    ousac_allocation *allocation = &candidate->allocation;
    const ousac_knapsack_options knapsack = {.granularity = shop->options->granularity,
                                             .rank_min = shop->options->rank_min,
                                             .modules_may_stop = 1};
    ousac_status status = OUSAC_STATUS_OK;
    if (method == PIPELINE_UNIFORM)
        status = ousac_allocate_uniform(arch, shop->curves, macs, allocation, error);
    else if (method == PIPELINE_KNAPSACK)
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
    candidate->probed = method == PIPELINE_DESCENT && allocation->error > 0;
    if (!candidate->probed && (status = ousac_allocate_grade(arch, shop->curves, allocation, error)))
        return status;
    candidate->cached_step = (double)allocation->cost / (double)ousac_cost_full(arch);
    return OUSAC_STATUS_OK;
}

ousac_status pipeline_fit_forecast(const pipeline_runs *runs, const ousac_schedule *schedule,
                                   const cli_range *range, ousac_factor_set *set, const size_t *rank,
                                   const char *label, ousac_forecast **forecast, ousac_error *error) {
    const ousac_model *model = runs->model;
    const ousac_ranks plain = {.rank = rank, .dense_fallback = 1};
    ousac_calibration *calibration = NULL;
    ousac_forecast_fit *fit = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &plain,
                                                   ousac_factor_set_source, set, NULL, error);
    if (!status)
        status = ousac_forecast_fit_create(&fit, model, schedule, calibration, pipeline_threads(runs),
                                           runs->micro_batch, error);
    if (status)
        goto done;
    const pipeline_run run = {.label = label,
                              .schedule = schedule,
                              .range = *range,
                              .exact = 1,
                              .observers = ousac_forecast_fit_observers(fit)};
    const pipeline_team *team = pipeline_team_current();
    status = team ? team->fit(runs, &run, calibration, fit, error) : pipeline_run_samples(runs, &run, error);
    if (!status)
        status = ousac_forecast_fit_solve(fit, PIPELINE_FORECAST_LEAST_GAIN, forecast, error);
done:
    ousac_forecast_fit_free(fit);
    ousac_calibration_free(calibration);
    return status;
}

/* Fits the forecast of a candidate's ranks on calibration samples, and counts its cost. */
static ousac_status add_forecast(workshop *shop, const char *name, pipeline_candidate *candidate,
                                 ousac_error *error) {
    const ousac_arch *arch = &shop->runs->model->arch;
    const cli_range range = calibration_head(shop->profile, PIPELINE_FORECAST_SAMPLES);
    char label[64];
    (void)snprintf(label, sizeof label, "fit %s", name);
    const ousac_status status =
        pipeline_fit_forecast(shop->runs, &shop->profile->schedule, &range, shop->set,
                              candidate->allocation.rank, label, &candidate->forecast, error);
    if (status)
        return status;
    const ousac_ranks ranks = candidate_ranks(candidate);
    candidate->allocation.cost = ousac_cost_cached(arch, &ranks);
    candidate->cached_step = (double)candidate->allocation.cost / (double)ousac_cost_full(arch);
    return OUSAC_STATUS_OK;
}

static ousac_status validate(const workshop *shop, pipeline_choice *choice, ousac_error *error) {
    const ousac_schedule *schedule = &shop->profile->schedule;
    gauge validation = {0};
    ousac_status status = gauge_create(&validation, shop->runs, schedule, &choice->validation, error);
    for (int i = 0; !status && i < PIPELINE_CANDIDATES; i++) {
        pipeline_candidate *candidate = &choice->candidate[i];
        char label[64];
        if (!candidate->present)
            continue;
        (void)snprintf(label, sizeof label, "validate %s", pipeline_candidate_name(i));
        status = gauge_measure_ranks(&validation, label, schedule, shop->set, candidate->allocation.rank,
                                     candidate->forecast, &candidate->measured, error);
    }
    choice->validated = !status;
    gauge_free(&validation);
    return status;
}

/* --- the choice --- */

/* The samples behind the calibration's, from the next multiple of the micro-batch. */
static cli_range default_validation(const ousac_profile *profile, size_t micro_batch) {
    uint64_t end = 0;
    for (size_t i = 0; i < profile->range_count; i++)
        if (profile->ranges[i].first + profile->ranges[i].count > end)
            end = profile->ranges[i].first + profile->ranges[i].count;
    end += (micro_batch - end % micro_batch) % micro_batch;
    return (cli_range){end, PIPELINE_VALIDATION_SAMPLES};
}

static ousac_status check_validation(const cli_range *range, const ousac_profile *profile, size_t micro_batch,
                                     ousac_error *error) {
    ousac_status status = pipeline_check_range("validate", range, micro_batch, error);
    for (size_t i = 0; !status && i < profile->range_count; i++) {
        const ousac_sample_range *used = &profile->ranges[i];
        if (pipeline_ranges_overlap(range, used->first, used->count))
            status = OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--validate %" PRIu64 ":%" PRIu64 ": the profile was calibrated on samples %" PRIu64
                ":%" PRIu64 "; expected samples that it has not seen",
                range->first, range->first + range->count, used->first, used->first + used->count);
    }
    return status;
}

static void write_note(pipeline_choice *choice) {
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
    for (int i = 0; i < PIPELINE_CANDIDATES; i++)
        if (choice->candidate[i].present) {
            const size_t used = strlen(note);
            (void)snprintf(note + used, size - used, "%s %.4g %s", compared ? "," : "",
                           choice->candidate[i].measured, pipeline_candidate_name(i));
            compared++;
        }
    if (compared > 1) {
        const size_t used = strlen(note);
        (void)snprintf(note + used, size - used, "; the %s plan ships",
                       pipeline_candidate_name(choice->chosen));
    }
}

/* One candidate; `start`: the uniform one of the same kind, which searches begin from. */
static ousac_status make_candidate(workshop *shop, int index, uint64_t macs, const pipeline_candidate *start,
                                   pipeline_candidate *candidate, ousac_error *error) {
    const double since = cli_seconds();
    const char *name = pipeline_candidate_name(index);
    ousac_status status =
        solve(shop, (pipeline_method)(index % PIPELINE_METHODS), macs, name, start, candidate, error);
    if (!status && index >= PIPELINE_METHODS)
        status = add_forecast(shop, name, candidate, error);
    candidate->seconds = cli_seconds() - since;
    return status;
}

/* Every candidate that the options ask for, within the budget. A search begins from the uniform candidate,
 * which is therefore made as well and takes part. */
static ousac_status make_candidates(workshop *shop, uint64_t macs, pipeline_choice *choice,
                                    ousac_error *error) {
    const ousac_arch *arch = &shop->runs->model->arch;
    const pipeline_allocate_options *options = shop->options;
    const uint64_t extra = pipeline_forecast_macs(arch), least = ousac_cost_reuse(arch);
    const unsigned searches = 1U << PIPELINE_REGIONS | 1U << PIPELINE_DESCENT;
    const unsigned methods = options->methods | (options->methods & searches ? 1U << PIPELINE_UNIFORM : 0);
    ousac_cost_total cost;
    ousac_status status = ousac_cost_trajectory(arch, &shop->profile->schedule, NULL, &cost, error);
    for (int forecast = 0; forecast < 2; forecast++) {
        pipeline_candidate *row = &choice->candidate[forecast * PIPELINE_METHODS];
        if (options->forecast != PIPELINE_FORECAST_AUTO && (int)options->forecast != forecast)
            continue;
        if (!status && forecast && (macs < least + extra || cost.forwards_cached == 0)) {
            if (options->forecast == PIPELINE_FORECAST_AUTO)
                continue; /* nothing to pay it with, or nothing to forecast */
            status = OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--forecast on: the forecast alone costs %.6f of a full evaluation; the budget is %.6f",
                (double)(least + extra) / (double)ousac_cost_full(arch),
                (double)macs / (double)ousac_cost_full(arch));
        }
        for (int method = 0; !status && method < PIPELINE_METHODS; method++)
            if (methods & 1U << method)
                status = make_candidate(shop, forecast * PIPELINE_METHODS + method,
                                        forecast ? macs - extra : macs, row, &row[method], error);
    }
    return status;
}

/* The best end to end; without a measurement the only one, and of equals the simplest. */
static int best_candidate(const pipeline_choice *choice) {
    int best = -1;
    for (int i = 0; i < PIPELINE_CANDIDATES; i++)
        if (choice->candidate[i].present &&
            (best < 0 || choice->candidate[i].measured < choice->candidate[best].measured))
            best = i;
    return best;
}

int pipeline_allocate_runs(const pipeline_allocate_options *options) {
    return (options->methods & (options->methods - 1)) != 0 ||           /* several are compared */
           (options->methods & ~(unsigned)PIPELINE_METHODS_AUTO) != 0 || /* or one is searched for */
           options->forecast != PIPELINE_FORECAST_OFF || options->validation.count > 0;
}

ousac_status pipeline_allocate_ranks(const ousac_arch *arch, uint64_t macs,
                                     const pipeline_allocate_options *options, size_t *rank_max,
                                     ousac_error *error) {
    ousac_allocation uniform = {0};
    ousac_status status = OUSAC_STATUS_OK;
    const int runs = pipeline_allocate_runs(options);
    if (runs && options->methods == 1U << PIPELINE_UNIFORM)
        status = ousac_allocate_uniform(arch, NULL, macs, &uniform, error);
    for (size_t s = 0; !status && s < arch->site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&arch->sites[s]); /* from which on no factors are needed */
        const size_t most = uniform.rank && uniform.rank[s] < dense ? uniform.rank[s] : dense - 1;
        rank_max[s] = !runs ? 0 : uniform.rank && uniform.rank[s] >= dense ? 0 : most;
    }
    ousac_allocation_free(&uniform);
    return status;
}

ousac_status pipeline_allocate(const pipeline_runs *runs, const ousac_profile *profile, ousac_factor_set *set,
                               const pipeline_allocate_options *options, pipeline_choice *choice,
                               ousac_error *error) {
    const ousac_arch *arch = &runs->model->arch;
    const int compared =
        (options->methods & (options->methods - 1)) != 0 || options->forecast == PIPELINE_FORECAST_AUTO;
    ousac_curve *curves = make_curves(set);
    workshop shop = {.runs = runs, .profile = profile, .set = set, .options = options, .curves = curves};
    uint64_t macs = 0;
    ousac_status status = OUSAC_STATUS_OK;

    memset(choice, 0, sizeof *choice);
    if (!curves) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the error curves");
        goto done;
    }
    status =
        pipeline_budget_solve(arch, &profile->schedule, &options->budget, &macs, &choice->budget_step, error);
    if (status)
        goto done;
    choice->validation = options->validation;
    if (compared && choice->validation.count == 0)
        choice->validation = default_validation(profile, runs->micro_batch);
    if (choice->validation.count > 0)
        status = check_validation(&choice->validation, profile, runs->micro_batch, error);
    if (!status)
        status = make_candidates(&shop, macs, choice, error);
    if (!status && choice->validation.count > 0)
        status = validate(&shop, choice, error);
    if (status)
        goto done;

    choice->chosen = best_candidate(choice);
    const pipeline_candidate *chosen = &choice->candidate[choice->chosen];
    status = ousac_plan_create(&choice->plan, arch, options->name, pipeline_candidate_name(choice->chosen),
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
    (void)snprintf(choice->plan->error_model, sizeof choice->plan->error_model, "%s",
                   chosen->probed ? "squared end-to-end error, probed in context" : error_model(set->method));
    write_note(choice);
    const ousac_ranks ranks = ousac_plan_ranks(choice->plan);
    status = ousac_cost_trajectory(arch, &profile->schedule, &ranks, &choice->cost, error);
done:
    gauge_free(&shop.search);
    ousac_free(curves);
    if (status)
        pipeline_choice_free(choice);
    return status;
}

void pipeline_choice_free(pipeline_choice *choice) {
    for (int i = 0; i < PIPELINE_CANDIDATES; i++) {
        ousac_allocation_free(&choice->candidate[i].allocation);
        ousac_forecast_free(choice->candidate[i].forecast);
    }
    ousac_plan_free(choice->plan);
    memset(choice, 0, sizeof *choice);
}
