#include "tools/pipeline.h"

#include "formats/memory.h"
#include "profile/evaluate.h"
#include "profile/forecast_fit.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const method_names[] = {"uniform", "knapsack", "auto"};
static const char *const forecast_names[] = {"off", "on", "auto"};
static const char *const candidate_names[PIPELINE_CANDIDATES] = {"uniform", "knapsack", "uniform+forecast",
                                                                 "knapsack+forecast"};

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

ousac_status pipeline_method_parse(pipeline_method *method, const char *name, ousac_error *error) {
    for (int i = 0; i <= PIPELINE_AUTO; i++)
        if (strcmp(name, method_names[i]) == 0) {
            *method = (pipeline_method)i;
            return OUSAC_STATUS_OK;
        }
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--method %s: expected uniform, knapsack or auto", name);
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

/* What a forecast adds to a cached evaluation in which every site is corrected. */
static uint64_t forecast_macs(const ousac_arch *arch) {
    uint64_t macs = 0;
    for (size_t s = 0; s < arch->site_count; s++)
        macs += (uint64_t)arch->tokens * (arch->sites[s].m + arch->sites[s].n);
    return macs;
}

static ousac_status solve(const ousac_arch *arch, const ousac_factor_set *set, const ousac_curve *curves,
                          pipeline_method method, uint64_t macs, const pipeline_allocate_options *options,
                          pipeline_candidate *candidate, ousac_error *error) {
    ousac_allocation *allocation = &candidate->allocation;
    const ousac_knapsack_options knapsack = {
        .granularity = options->granularity, .rank_min = options->rank_min, .modules_may_stop = 1};
    ousac_status status = method == PIPELINE_UNIFORM
                              ? ousac_allocate_uniform(arch, curves, macs, allocation, error)
                              : ousac_allocate_knapsack(arch, curves, macs, &knapsack, allocation, error);
    if (status)
        return status;
    candidate->present = 1;
    candidate->measured = NAN;
    /* A direction that the spectrum does not hold corrects nothing, so its cost is not spent. */
    ousac_factor_set_clip(set, arch, allocation->rank);
    const ousac_ranks ranks = {.rank = allocation->rank, .dense_fallback = 1};
    const uint64_t cost = ousac_cost_cached(arch, &ranks);
    if (cost != allocation->cost) {
        allocation->cost = cost;
        allocation->error = ousac_allocate_error(arch, curves, &ranks);
        allocation->gap =
            allocation->error > 0 ? (allocation->error - allocation->bound) / allocation->error : 0.0;
    }
    candidate->cached_step = (double)cost / (double)ousac_cost_full(arch);
    return OUSAC_STATUS_OK;
}

/* Fits the forecast of a candidate's ranks on calibration samples, and counts its cost. */
static ousac_status fit_forecast(const pipeline_runs *runs, const ousac_profile *profile,
                                 ousac_factor_set *set, const char *name, pipeline_candidate *candidate,
                                 ousac_error *error) {
    const ousac_model *model = runs->model;
    const ousac_ranks plain = candidate_ranks(candidate);
    ousac_calibration *calibration = NULL;
    ousac_forecast_fit *fit = NULL;
    char label[64];
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &plain,
                                                   ousac_factor_set_source, set, NULL, error);
    if (!status)
        status = ousac_forecast_fit_create(&fit, model, &profile->schedule, calibration,
                                           runs->common->threads, runs->micro_batch, error);
    if (status)
        goto done;
    (void)snprintf(label, sizeof label, "fit %s", name);
    pipeline_run run = {.label = label,
                        .schedule = &profile->schedule,
                        .range = {profile->ranges[0].first, profile->ranges[0].count},
                        .exact = 1,
                        .observers = ousac_forecast_fit_observers(fit)};
    if (run.range.count > PIPELINE_FORECAST_SAMPLES)
        run.range.count = PIPELINE_FORECAST_SAMPLES;
    status = pipeline_run_samples(runs, &run, error);
    if (!status)
        status = ousac_forecast_fit_solve(fit, PIPELINE_FORECAST_LEAST_GAIN, &candidate->forecast, error);
    if (status)
        goto done;
    const ousac_ranks ranks = candidate_ranks(candidate);
    candidate->allocation.cost = ousac_cost_cached(&model->arch, &ranks);
    candidate->cached_step = (double)candidate->allocation.cost / (double)ousac_cost_full(&model->arch);
done:
    ousac_forecast_fit_free(fit);
    ousac_calibration_free(calibration);
    return status;
}

/* Runs a candidate on the validation samples and compares it with the exact run. */
static ousac_status measure(const pipeline_runs *runs, const ousac_profile *profile, ousac_factor_set *set,
                            const char *label, const cli_range *range, const float *exact, float *samples,
                            pipeline_candidate *candidate, ousac_error *error) {
    const ousac_ranks ranks = candidate_ranks(candidate);
    const ousac_model *model = runs->model;
    ousac_calibration *calibration = NULL;
    double *squares = NULL, sum = 0;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                                   ousac_factor_set_source, set, candidate->forecast, error);
    if (status)
        goto done;
    const pipeline_run run = {.label = label,
                              .schedule = &profile->schedule,
                              .range = *range,
                              .calibration = calibration,
                              .samples = samples};
    status = pipeline_run_samples(runs, &run, error);
    if (status)
        goto done;
    squares = ousac_malloc(range->count, sizeof *squares);
    if (!squares) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the validation");
        goto done;
    }
    status = ousac_evaluate_samples(samples, exact, range->count, ousac_model_sample_size(model), squares,
                                    NULL, error);
    if (status)
        goto done;
    for (uint64_t i = 0; i < range->count; i++)
        sum += squares[i];
    candidate->measured = sqrt(sum / (double)range->count);
done:
    ousac_free(squares);
    ousac_calibration_free(calibration);
    return status;
}

static ousac_status validate(const pipeline_runs *runs, const ousac_profile *profile, ousac_factor_set *set,
                             pipeline_choice *choice, ousac_error *error) {
    const size_t size = ousac_model_sample_size(runs->model), count = choice->validation.count;
    float *samples = NULL, *exact = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    if (count <= SIZE_MAX / size) {
        samples = ousac_malloc(count * size, sizeof *samples);
        exact = ousac_malloc(count * size, sizeof *exact);
    }
    if (!samples || !exact) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu validation samples", count);
        goto done;
    }
    const pipeline_run run = {.label = "validate exact",
                              .schedule = &profile->schedule,
                              .range = choice->validation,
                              .exact = 1,
                              .samples = exact};
    status = pipeline_run_samples(runs, &run, error);
    for (int i = 0; !status && i < PIPELINE_CANDIDATES; i++) {
        char label[64];
        if (!choice->candidate[i].present)
            continue;
        (void)snprintf(label, sizeof label, "validate %s", candidate_names[i]);
        status = measure(runs, profile, set, label, &choice->validation, exact, samples,
                         &choice->candidate[i], error);
    }
    choice->validated = !status;
done:
    ousac_free(exact);
    ousac_free(samples);
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
                           choice->candidate[i].measured, candidate_names[i]);
            compared++;
        }
    if (compared > 1) {
        const size_t used = strlen(note);
        (void)snprintf(note + used, size - used, "; the %s plan ships", candidate_names[choice->chosen]);
    }
}

/* Every candidate that the options ask for, within the budget. */
static ousac_status make_candidates(const pipeline_runs *runs, const ousac_profile *profile,
                                    ousac_factor_set *set, const pipeline_allocate_options *options,
                                    uint64_t macs, pipeline_choice *choice, ousac_error *error) {
    const ousac_arch *arch = &runs->model->arch;
    const uint64_t extra = forecast_macs(arch), least = ousac_cost_reuse(arch);
    ousac_status status = OUSAC_STATUS_OK;
    ousac_cost_total cost;
    ousac_curve *curves = make_curves(set);
    if (!curves) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the error curves");
        goto done;
    }
    status = ousac_cost_trajectory(arch, &profile->schedule, NULL, &cost, error);
    for (int i = 0; !status && i < PIPELINE_CANDIDATES; i++) {
        const int method = i % PIPELINE_METHODS, forecast = i / PIPELINE_METHODS;
        pipeline_candidate *candidate = &choice->candidate[i];
        if (options->method != PIPELINE_AUTO && (int)options->method != method)
            continue;
        if (options->forecast != PIPELINE_FORECAST_AUTO && (int)options->forecast != forecast)
            continue;
        if (forecast && (macs < least + extra || cost.forwards_cached == 0)) {
            if (options->forecast == PIPELINE_FORECAST_AUTO)
                continue; /* nothing to pay it with, or nothing to forecast */
            status = OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--forecast on: the forecast alone costs %.6f of a full evaluation; the budget is %.6f",
                (double)(least + extra) / (double)ousac_cost_full(arch),
                (double)macs / (double)ousac_cost_full(arch));
            break;
        }
        status = solve(arch, set, curves, (pipeline_method)method, forecast ? macs - extra : macs, options,
                       candidate, error);
        if (!status && forecast)
            status = fit_forecast(runs, profile, set, candidate_names[i], candidate, error);
    }
done:
    ousac_free(curves);
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

ousac_status pipeline_allocate(const pipeline_runs *runs, const ousac_profile *profile, ousac_factor_set *set,
                               const pipeline_allocate_options *options, pipeline_choice *choice,
                               ousac_error *error) {
    const ousac_arch *arch = &runs->model->arch;
    const int compared = options->method == PIPELINE_AUTO || options->forecast == PIPELINE_FORECAST_AUTO;
    uint64_t macs = 0;
    ousac_status status = OUSAC_STATUS_OK;

    memset(choice, 0, sizeof *choice);
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
        status = make_candidates(runs, profile, set, options, macs, choice, error);
    if (!status && choice->validation.count > 0)
        status = validate(runs, profile, set, choice, error);
    if (status)
        goto done;

    choice->chosen = best_candidate(choice);
    const pipeline_candidate *chosen = &choice->candidate[choice->chosen];
    status = ousac_plan_create(&choice->plan, arch, options->name, candidate_names[choice->chosen],
                               &chosen->allocation, error);
    if (!status && chosen->forecast)
        status = ousac_forecast_copy(&choice->plan->forecast, chosen->forecast, error);
    if (status)
        goto done;
    memcpy(choice->plan->model_digest, profile->identity.model_digest, sizeof choice->plan->model_digest);
    ousac_profile_digest(profile, choice->plan->profile_digest);
    choice->plan->cached_step = chosen->cached_step;
    choice->plan->budget = choice->budget_step;
    (void)snprintf(choice->plan->error_model, sizeof choice->plan->error_model, "%s",
                   error_model(set->method));
    write_note(choice);
    const ousac_ranks ranks = ousac_plan_ranks(choice->plan);
    status = ousac_cost_trajectory(arch, &profile->schedule, &ranks, &choice->cost, error);
done:
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

/* --- telling --- */

/* How many sites take each path. */
static void count_paths(const ousac_arch *arch, const size_t *rank, size_t count[4]) {
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    memset(count, 0, 4 * sizeof *count);
    for (size_t s = 0; s < arch->site_count; s++)
        count[ousac_cost_path(arch, s, &ranks)]++;
}

void pipeline_choice_print(const pipeline_choice *choice, const ousac_arch *arch) {
    size_t paths[4], least = SIZE_MAX, most = 0;
    printf("%-17s %12s %16s %14s %8s %12s\n", "method", "cached step", "modelled error", "dual bound", "gap",
           choice->validated ? "end to end" : "");
    for (int i = 0; i < PIPELINE_CANDIDATES; i++) {
        const pipeline_candidate *candidate = &choice->candidate[i];
        if (!candidate->present)
            continue;
        printf("%-17s %10.3f %% %16.6g %14.6g %6.2f %%", candidate_names[i], 100 * candidate->cached_step,
               candidate->allocation.error, candidate->allocation.bound, 100 * candidate->allocation.gap);
        if (choice->validated)
            printf(" %12.4g", candidate->measured);
        printf("%s\n", i == choice->chosen ? "  <- chosen" : "");
    }
    count_paths(arch, choice->plan->rank, paths);
    for (size_t s = 0; s < arch->site_count; s++) {
        least = choice->plan->rank[s] < least ? choice->plan->rank[s] : least;
        most = choice->plan->rank[s] > most ? choice->plan->rank[s] : most;
    }
    printf("error model: %s%s\n", choice->plan->error_model,
           choice->plan->exact ? "; the chosen plan is optimal under it at this granularity" : "");
    printf("ranks %zu to %zu; sites: %zu low rank, %zu exact products, %zu frozen, %zu in reused modules\n",
           least, most, paths[OUSAC_PATH_LOW_RANK], paths[OUSAC_PATH_DENSE], paths[OUSAC_PATH_FROZEN],
           paths[OUSAC_PATH_SKIPPED]);
    printf("budget: %.3f %% of a full evaluation; the plan: %.3f %% of one, %.3f %% of constant guidance "
           "uncached\n",
           100 * choice->budget_step, 100 * choice->cost.cached_step, 100 * choice->cost.total);
    if (choice->cost.forwards_cached == 0)
        printf("the schedule has no cached evaluation: there is nothing to correct\n");
    printf("%s\n", choice->plan->note);
}

static void put_candidate(json_doc *doc, cJSON *item, const pipeline_candidate *candidate, int validated) {
    json_put_real(doc, item, "cached_step", candidate->cached_step);
    json_put_real(doc, item, "modelled_error", candidate->allocation.error);
    json_put_real(doc, item, "bound", candidate->allocation.bound);
    json_put_real(doc, item, "gap", candidate->allocation.gap);
    json_put_bool(doc, item, "exact", candidate->allocation.exact);
    json_put_u64(doc, item, "nodes", candidate->allocation.nodes);
    if (validated)
        json_put_real(doc, item, "relative_error", candidate->measured);
}

void pipeline_choice_put(json_doc *doc, cJSON *object, const pipeline_choice *choice,
                         const ousac_arch *arch) {
    static const char *const path_names[] = {"frozen", "low_rank", "dense", "skipped"};
    cJSON *list = NULL;
    size_t paths[4];

    json_put_text(doc, object, "plan", choice->plan->name);
    json_put_text(doc, object, "method", choice->plan->method);
    json_put_text(doc, object, "note", choice->plan->note);
    json_put_real(doc, object, "budget_step", choice->budget_step);
    json_put_real(doc, object, "cached_step", choice->cost.cached_step);
    json_put_real(doc, object, "total", choice->cost.total);
    json_put_text(doc, object, "error_model", choice->plan->error_model);
    if (choice->validated)
        pipeline_json_range(doc, object, "validation", choice->validation.first, choice->validation.count);
    list = json_put_array(doc, object, "candidates");
    for (int i = 0; i < PIPELINE_CANDIDATES; i++)
        if (choice->candidate[i].present) {
            cJSON *item = json_put_object(doc, list, NULL);
            json_put_text(doc, item, "method", candidate_names[i]);
            json_put_bool(doc, item, "forecast", choice->candidate[i].forecast != NULL);
            put_candidate(doc, item, &choice->candidate[i], choice->validated);
        }
    count_paths(arch, choice->plan->rank, paths);
    list = json_put_object(doc, object, "sites");
    for (int i = 0; i < 4; i++)
        json_put_u64(doc, list, path_names[i], paths[i]);
}
