#include "pipeline/evaluation.h"

#include "formats/memory.h"
#include "pipeline/fit.h"
#include "pipeline/shard.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ousac_eval_arm_name(ousac_eval_arm arm) {
    static const char *const names[] = {"exact", "calibrated", "reuse", "reference"};
    return names[arm];
}

static int compare_doubles(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* The median guided scale; *guided counts the guided steps. */
static ousac_status median_scale(const ousac_schedule *schedule, double *median, size_t *guided,
                                 ousac_error *error) {
    size_t count = 0;
    double *scales = ousac_malloc(schedule->step_count, sizeof *scales);
    if (!scales)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the guidance scales");
    for (size_t i = 0; i < schedule->step_count; i++)
        if (schedule->steps[i].mode == OUSAC_MODE_CFG)
            scales[count++] = schedule->steps[i].scale;
    qsort(scales, count, sizeof *scales, compare_doubles);
    *guided = count;
    *median = count == 0 ? 0.0 : (scales[(count - 1) / 2] + scales[count / 2]) / 2;
    ousac_free(scales);
    return OUSAC_STATUS_OK;
}

/* The schedule that 100 % stands for: as given, or this schedule's timesteps at constant guidance, or, where
 * no step is guided, the schedule itself. */
static ousac_status make_reference(ousac_schedule *reference, ousac_eval *result,
                                   const ousac_eval_options *options, ousac_error *error) {
    double scale = 0;
    size_t guided = 0;
    ousac_status status = OUSAC_STATUS_OK;

    if (options->reference)
        return ousac_schedule_copy(reference, options->reference, error);
    status = ousac_schedule_copy(reference, options->schedule, error);
    if (!status)
        status = median_scale(options->schedule, &scale, &guided, error);
    if (status)
        return status;
    if (!isnan(options->reference_scale))
        scale = options->reference_scale;
    else if (guided == 0)
        return OUSAC_STATUS_OK;
    result->reference_scale = scale;
    ousac_free(reference->fitted); /* what was fitted belongs to other scales */
    reference->fitted = NULL;
    for (size_t i = 0; i < reference->step_count; i++) {
        reference->steps[i].mode = OUSAC_MODE_CFG;
        reference->steps[i].scale = scale;
    }
    (void)snprintf(reference->name, sizeof reference->name, "constant guidance %g", scale);
    return OUSAC_STATUS_OK;
}

static void set_every_gate(ousac_schedule *schedule, ousac_gate gate) {
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++)
            schedule->steps[i].gate[branch] = gate;
}

/* 1 where every gate full makes the same run of both. */
static int same_trajectory(const ousac_schedule *a, const ousac_schedule *b) {
    if (a->step_count != b->step_count || a->solver != b->solver)
        return 0;
    for (size_t i = 0; i < a->step_count; i++)
        if (a->steps[i].timestep != b->steps[i].timestep || a->steps[i].mode != b->steps[i].mode ||
            a->steps[i].scale != b->steps[i].scale || !ousac_step_tells_alike(&a->steps[i], &b->steps[i]))
            return 0;
    for (size_t i = 0; i < a->step_count; i++)
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
            if ((a->fitted ? a->fitted[i].value[k] : 0) != (b->fitted ? b->fitted[i].value[k] : 0))
                return 0;
    return 1;
}

static ousac_status run_arm(ousac_eval *result, ousac_eval_arm arm, const ousac_session *session,
                            const ousac_schedule *schedule, const ousac_calibration *calibration,
                            uint64_t macs_per_sample, ousac_error *error) {
    ousac_eval_run *run = &result->run[arm];
    const size_t size = ousac_model_sample_size(session->model);
    const ousac_session_run inner = {
        .label = ousac_eval_arm_name(arm),
        .schedule = schedule,
        .range = result->range,
        .exact = arm == OUSAC_EVAL_EXACT || arm == OUSAC_EVAL_REFERENCE,
        .calibration = calibration,
        .samples = run->samples = result->range.count > SIZE_MAX / size
                                      ? NULL
                                      : ousac_malloc(result->range.count * size, sizeof(float)),
        .counters = &run->counters,
        .seconds = &run->seconds,
    };
    if (!run->samples)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %" PRIu64 " samples",
                          result->range.count);
    run->model_macs = macs_per_sample * result->range.count;
    ousac_status status = ousac_session_run_samples(session, &inner, error);
    if (!status && run->counters.macs != run->model_macs)
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                            "the %s run did %" PRIu64 " MACs where the cost model says %" PRIu64, inner.label,
                            run->counters.macs, run->model_macs);
    return status;
}

static ousac_status run_all(ousac_eval *result, const ousac_session *session,
                            const ousac_eval_options *options, const ousac_schedule *reference,
                            ousac_error *error) {
    const ousac_schedule *schedule = options->schedule;
    const ousac_cost_total *cost = &result->cost;
    ousac_status status =
        run_arm(result, OUSAC_EVAL_EXACT, session, schedule, NULL, cost->schedule_full, error);
    if (!status)
        status = run_arm(result, OUSAC_EVAL_CALIBRATED, session, schedule, options->calibration,
                         cost->schedule_cached, error);
    if (!status)
        status = run_arm(result, OUSAC_EVAL_REUSE, session, schedule, NULL, cost->schedule_reuse, error);
    if (!status && !result->reference_same)
        status =
            run_arm(result, OUSAC_EVAL_REFERENCE, session, reference, NULL, result->reference_macs, error);
    if (!status && result->reference_same) {
        result->run[OUSAC_EVAL_REFERENCE] = result->run[OUSAC_EVAL_EXACT];
        result->run[OUSAC_EVAL_REFERENCE].samples = NULL;
    }
    return status;
}

static ousac_status compare_all(ousac_eval *result, const ousac_model *model, ousac_error *error) {
    static const ousac_eval_arm pairs[OUSAC_EVAL_PAIRS][2] = {
        {OUSAC_EVAL_CALIBRATED, OUSAC_EVAL_EXACT},     {OUSAC_EVAL_REUSE, OUSAC_EVAL_EXACT},
        {OUSAC_EVAL_CALIBRATED, OUSAC_EVAL_REFERENCE}, {OUSAC_EVAL_EXACT, OUSAC_EVAL_REFERENCE},
        {OUSAC_EVAL_REUSE, OUSAC_EVAL_REFERENCE},
    };
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; !status && i < OUSAC_EVAL_PAIRS; i++) {
        ousac_eval_pair *pair = &result->pair[i];
        pair->arm = pairs[i][0];
        pair->against = pairs[i][1];
        const ousac_eval_arm against = pair->against == OUSAC_EVAL_REFERENCE && result->reference_same
                                           ? OUSAC_EVAL_EXACT
                                           : pair->against;
        status = ousac_evaluate_difference(result->run[pair->arm].samples, result->run[against].samples,
                                           result->range.count, ousac_model_sample_size(model),
                                           ousac_model_range(model), result->seed, &pair->difference, error);
    }
    return status;
}

/* The calibrated run beside the fewer steps whose cost is nearest to its own. */
static ousac_status make_headline(ousac_eval *result, const ousac_session *session,
                                  const ousac_eval_options *options, const ousac_schedule *reference,
                                  ousac_error *error) {
    const ousac_eval_run *calibrated = &result->run[OUSAC_EVAL_CALIBRATED],
                         *from = &result->run[OUSAC_EVAL_REFERENCE];
    const float *samples = result->reference_same ? result->run[OUSAC_EVAL_EXACT].samples : from->samples;
    const double share = (double)result->cost.schedule_cached / (double)result->reference_macs;
    const size_t steps = (size_t)(share * (double)reference->step_count + 0.5);
    const ousac_headline_row row = {
        .method = "calibrated",
        .steps = options->schedule->step_count,
        .macs_share = share,
        .seconds_share = calibrated->seconds / from->seconds,
    };
    ousac_schedule fewer = {0};
    ousac_headline_run run = {.method = "fewer-steps",
                              .schedule = &fewer,
                              .range = result->range,
                              .reference = samples,
                              .reference_seconds = from->seconds,
                              .reference_macs = result->reference_macs,
                              .keep = &result->headline.fewer};
    ousac_status status =
        ousac_headline_add(&result->headline, &row, calibrated->samples, samples, (size_t)result->range.count,
                           ousac_model_sample_size(session->model), session->seed, error);
    if (!status && steps > 0 && steps <= reference->step_count) {
        status = ousac_fit_fewer_steps(&fewer, reference, steps, error);
        if (!status)
            status = ousac_headline_run_and_add(&result->headline, session, &run, error);
    }
    if (!status && options->fitted) {
        run.method = "fitted-steps";
        run.keep = options->fine ? &result->headline.fitted : NULL;
        run.schedule = options->fitted;
        status = ousac_headline_run_and_add(&result->headline, session, &run, error);
    }
    ousac_schedule_free(&fewer);
    return status;
}

/* Everything of the headline, the reference and the exact run against a fine one. */
static ousac_status compare_with_fine(ousac_eval *result, const ousac_session *session,
                                      const ousac_eval_options *options, const ousac_schedule *reference,
                                      ousac_error *error) {
    const ousac_headline *headline = &result->headline;
    const ousac_eval_run *run = result->run;
    const double seconds = run[OUSAC_EVAL_REFERENCE].seconds;
    const ousac_headline_row today = {
        .method = "reference", .steps = reference->step_count, .macs_share = 1, .seconds_share = 1};
    const ousac_headline_row exact = {.method = "exact",
                                      .steps = options->schedule->step_count,
                                      .macs_share =
                                          (double)result->cost.schedule_full / (double)result->reference_macs,
                                      .seconds_share = run[OUSAC_EVAL_EXACT].seconds / seconds};
    ousac_status status =
        ousac_fine_run(&result->fine, session, reference, options->fine, &result->range, error);
    if (!status)
        status = ousac_fine_add(&result->fine, session, &today,
                                run[result->reference_same ? OUSAC_EVAL_EXACT : OUSAC_EVAL_REFERENCE].samples,
                                &result->range, error);
    for (size_t i = 0; i < headline->count && !status; i++) {
        const char *method = headline->row[i].method;
        const float *samples = strcmp(method, "calibrated") == 0    ? run[OUSAC_EVAL_CALIBRATED].samples
                               : strcmp(method, "fewer-steps") == 0 ? headline->fewer
                                                                    : headline->fitted;
        status = ousac_fine_add(&result->fine, session, &headline->row[i], samples, &result->range, error);
        if (!status && i == 0 && !result->reference_same) /* the same schedule without a cache */
            status = ousac_fine_add(&result->fine, session, &exact, run[OUSAC_EVAL_EXACT].samples,
                                    &result->range, error);
    }
    return status;
}

ousac_status ousac_eval_create(ousac_eval *result, const ousac_session *session,
                               const ousac_eval_options *options, ousac_error *error) {
    const ousac_arch *arch = &session->model->arch;
    const ousac_ranks ranks = ousac_plan_ranks(options->plan);
    ousac_schedule reference = {0};
    ousac_cost_total cost = {0};
    ousac_status status = OUSAC_STATUS_OK;

    memset(result, 0, sizeof *result);
    result->range = options->range;
    result->seed = session->seed;
    result->micro_batch = session->micro_batch;
    result->threads = ousac_session_threads(session);
    result->steps = options->schedule->step_count;
    result->held_out = options->held_out;
    memcpy(result->model_digest, session->model->digest, sizeof result->model_digest);
    ousac_schedule_digest(options->schedule, result->schedule_digest);
    (void)snprintf(result->schedule_name, sizeof result->schedule_name, "%s",
                   ousac_schedule_called(options->schedule));
    memcpy(result->plan_name, options->plan->name, sizeof result->plan_name);
    memcpy(result->plan_method, options->plan->method, sizeof result->plan_method);
    memcpy(result->note, options->plan->note, sizeof result->note);

    status = make_reference(&reference, result, options, error);
    if (!status)
        status = ousac_run_check_schedule(session->model, options->schedule, error);
    if (!status)
        status = ousac_run_check_schedule(session->model, &reference, error);
    if (!status && options->fine) { /* refused before anything is run */
        ousac_schedule fine;
        status = ousac_fine_schedule(&fine, &reference, options->fine, error);
        ousac_schedule_free(&fine);
    }
    if (status)
        goto done;
    result->reference_same = same_trajectory(&reference, options->schedule);
    result->reference_steps = reference.step_count;
    set_every_gate(&reference, OUSAC_GATE_FULL);
    ousac_schedule_digest(&reference, result->reference_digest);
    (void)snprintf(result->reference_name, sizeof result->reference_name, "%s",
                   ousac_schedule_called(&reference));
    status = ousac_cost_trajectory(arch, options->schedule, &ranks, &result->cost, error);
    if (!status)
        status = ousac_cost_trajectory(arch, &reference, NULL, &cost, error);
    if (status)
        goto done;
    result->reference_macs = cost.schedule_full;
    status = run_all(result, session, options, &reference, error);
    if (!status)
        status = compare_all(result, session->model, error);
    if (!status)
        status = make_headline(result, session, options, &reference, error);
    if (!status && options->fine)
        status = compare_with_fine(result, session, options, &reference, error);
done:
    ousac_schedule_free(&reference);
    if (status)
        ousac_eval_free(result);
    return status;
}

void ousac_eval_free(ousac_eval *result) {
    ousac_headline_free(&result->headline);
    ousac_fine_free(&result->fine);
    for (int arm = 0; arm < OUSAC_EVAL_ARMS; arm++)
        ousac_free(result->run[arm].samples);
    memset(result, 0, sizeof *result);
}

ousac_status ousac_eval_check_samples(const ousac_session *session, const ousac_provenance *provenance,
                                      const ousac_sample_range *range, uint64_t seed, int force,
                                      int *held_out, ousac_error *error) {
    *held_out = 0;
    if (!provenance->known) {
        ousac_session_note(session,
                           "warning: the bundle does not say which samples made it; these may be among them");
        return OUSAC_STATUS_OK;
    }
    *held_out = 1;
    if (seed != provenance->seed) /* another seed draws other noise under every index */
        return OUSAC_STATUS_OK;
    for (size_t i = 0; i < provenance->used.count; i++) {
        const ousac_sample_range *used = &provenance->used.range[i];
        if (!ousac_range_overlaps(range, used->first, used->count))
            continue;
        const char *use = provenance->used.use[i];
        *held_out = 0;
        if (!force)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "`samples` %" PRIu64 ":%" PRIu64 ": %s used samples %" PRIu64 ":%" PRIu64
                              " of this seed; expected held-out samples, or `force`",
                              range->first, range->first + range->count, use, used->first,
                              used->first + used->count);
        ousac_session_note(session,
                           "warning: %s used samples %" PRIu64 ":%" PRIu64
                           " of this seed; the errors are not held out",
                           use, used->first, used->first + used->count);
    }
    return OUSAC_STATUS_OK;
}
