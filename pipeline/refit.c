#include "pipeline/refit.h"

#include "formats/memory.h"
#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "pipeline/shard.h"
#include "profile/run/evaluate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *ousac_refit_setting_name(ousac_refit_setting setting) {
    static const char *const names[] = {"as fitted", "seed", "scale", "steps"};
    return (unsigned)setting < sizeof names / sizeof *names ? names[setting] : "?";
}

/* --- settings --- */

/* The mean scale of the guided steps; NAN where there is none. */
static double mean_scale(const ousac_schedule *schedule) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < schedule->step_count; i++)
        if (schedule->steps[i].mode == OUSAC_MODE_CFG) {
            sum += schedule->steps[i].scale;
            count++;
        }
    return count ? sum / (double)count : NAN;
}

void ousac_refit_scale(ousac_schedule *schedule, double factor) {
    for (size_t i = 0; i < schedule->step_count; i++)
        if (schedule->steps[i].mode == OUSAC_MODE_CFG)
            schedule->steps[i].scale *= factor;
}

ousac_status ousac_refit_double_steps(ousac_schedule *schedule, const ousac_schedule *reference,
                                      ousac_error *error) {
    const size_t steps = reference->step_count;
    const double last = reference->steps[steps - 1].timestep;
    const int at_end = steps > 1 && last > 0 && 2 * last >= reference->steps[steps - 2].timestep - last;
    const size_t count = 2 * steps - !at_end;
    memset(schedule, 0, sizeof *schedule);
    if (count > OUSAC_SCHEDULE_STEPS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "a reference of %zu steps: twice as many are more than %d", steps,
                          OUSAC_SCHEDULE_STEPS_MAX);
    schedule->steps = ousac_malloc(count, sizeof *schedule->steps);
    if (!schedule->steps)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu steps", count);
    (void)snprintf(schedule->name, sizeof schedule->name, "%.100s, %zu steps", reference->name, count);
    schedule->solver = reference->solver;
    schedule->step_count = count;
    for (size_t i = 0; i < count; i++) {
        ousac_step *step = &schedule->steps[i];
        *step = reference->steps[i / 2];
        if (i % 2) {
            const double next = i / 2 + 1 < steps ? reference->steps[i / 2 + 1].timestep : 0;
            step->timestep = (step->timestep + next) / 2;
        }
    }
    ousac_place_evenly(schedule, 1);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_refit_textbook(ousac_schedule *plain, const ousac_schedule *schedule,
                                  const ousac_schedule *reference, ousac_error *error) {
    const ousac_status status = ousac_schedule_copy(plain, schedule, error);
    if (status)
        return status;
    ousac_free(plain->fitted);
    plain->fitted = NULL;
    for (size_t i = 0; i < plain->step_count; i++) {
        ousac_step *step = &plain->steps[i];
        double nearest = INFINITY;
        for (size_t k = 0; k < reference->step_count && step->mode == OUSAC_MODE_CFG; k++) {
            const double away = fabs(reference->steps[k].timestep - step->timestep);
            if (reference->steps[k].mode == OUSAC_MODE_CFG && away < nearest) {
                nearest = away;
                step->scale = reference->steps[k].scale;
            }
        }
    }
    return OUSAC_STATUS_OK;
}

/* A setting: the reference there, and the schedule as it is carried over. */
typedef struct trial {
    ousac_session session;
    ousac_schedule reference, transferred, textbook;
} trial;

static void free_trial(trial *s) {
    ousac_schedule_free(&s->reference);
    ousac_schedule_free(&s->transferred);
    ousac_schedule_free(&s->textbook);
}

static ousac_status make_trial(trial *s, const ousac_session *session, const ousac_refit_options *options,
                               ousac_refit_row *row, ousac_error *error) {
    const size_t steps = options->reference->step_count;
    ousac_status status = ousac_schedule_copy(&s->transferred, options->schedule, error);
    s->session = *session;
    if (status)
        return status;
    if (row->setting != OUSAC_REFIT_OTHER_STEPS)
        status = ousac_schedule_copy(&s->reference, options->reference, error);
    else if (row->value < (double)steps)
        status = ousac_fit_fewer_steps(&s->reference, options->reference, (size_t)row->value, error);
    else
        status = ousac_refit_double_steps(&s->reference, options->reference, error);
    if (status)
        return status;
    ousac_place_evenly(&s->reference, 1);
    switch (row->setting) {
    case OUSAC_REFIT_AS_FITTED:
        break;
    case OUSAC_REFIT_OTHER_SEED:
        s->session.seed++;
        row->value = (double)s->session.seed;
        break;
    case OUSAC_REFIT_OTHER_SCALE: {
        const double factor = row->value / mean_scale(options->reference);
        ousac_refit_scale(&s->reference, factor);
        ousac_refit_scale(&s->transferred, factor);
        break;
    }
    case OUSAC_REFIT_OTHER_STEPS:
        row->value = (double)s->reference.step_count;
        break;
    }
    status = ousac_run_check_schedule(session->model, &s->reference, error);
    return status ? status : ousac_refit_textbook(&s->textbook, &s->transferred, &s->reference, error);
}

/* --- measuring --- */

/* What the test samples of a setting are measured with. */
typedef struct test_bench {
    const ousac_session *session;
    const ousac_refit_options *options;
    size_t size;
    float *reference, *samples; /* (count, size) */
} test_bench;

static ousac_status run_test(const test_bench *b, const char *label, const ousac_schedule *schedule,
                             const ousac_fit_arm *arm, float *samples, ousac_error *error) {
    const ousac_session_run run = {.label = label,
                                   .schedule = schedule,
                                   .range = b->options->test,
                                   .exact = arm->exact,
                                   .calibration = arm->calibration,
                                   .samples = samples};
    return ousac_session_run_samples(b->session, &run, error);
}

/* Squared errors of single samples, (count). NUMBER where samples are not finite. */
static ousac_status measure(const test_bench *b, const char *label, const ousac_schedule *schedule,
                            double *squares, ousac_interval *interval, ousac_error *error) {
    const size_t count = (size_t)b->options->test.count;
    ousac_status status = run_test(b, label, schedule, &b->options->arm, b->samples, error);
    if (!status)
        status = ousac_evaluate_samples(b->samples, b->reference, count, b->size, NULL, squares, NULL, error);
    return status ? status : ousac_stats_root_mean(squares, count, b->session->seed, interval, error);
}

/* From the textbook's numbers, with the first `samples` of those to fit. */
static ousac_status fit_anew(const trial *s, const ousac_refit_options *options,
                             const ousac_fit_target *fitting, const ousac_fit_target *validation,
                             size_t samples, ousac_schedule *made, ousac_fit_report *report,
                             ousac_error *error) {
    const ousac_fit_options fit = {.numbers = options->numbers, .stepwise = 1, .arm = options->arm};
    ousac_fit_target some = {0};
    ousac_status status = ousac_schedule_copy(made, &s->textbook, error);
    if (!status && samples < fitting->range.count)
        status = ousac_fit_target_part(&some, fitting, samples, error);
    if (!status)
        status = ousac_fit_schedule(&s->session, &fit, some.state ? &some : fitting, validation, made, report,
                                    error);
    ousac_fit_target_free(&some);
    return status;
}

static ousac_status learn(ousac_refit *result, const test_bench *b, const trial *s,
                          const ousac_fit_target *fitting, const ousac_fit_target *validation,
                          double *squares, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    double least = INFINITY;
    for (size_t part = 1u << (OUSAC_FIT_CURVE - 1); part >= 1 && !status; part /= 2) {
        const size_t samples = (size_t)fitting->range.count / part;
        ousac_refit_point *point = &result->point[result->point_count];
        ousac_schedule made = {0};
        ousac_fit_report report;
        if (samples < s->session.micro_batch && part > 1)
            continue;
        status = fit_anew(s, b->options, fitting, validation, samples, &made, &report, error);
        if (!status)
            status = measure(b, "fewer fitting samples", &made, squares, &point->test, error);
        if (!status) {
            point->samples = samples;
            point->validation = report.after;
            least = fmin(least, point->test.mean);
            result->point_count++;
        }
        ousac_schedule_free(&made);
    }
    for (size_t k = result->point_count; k-- > 0;)
        if (result->point[k].test.mean <= 1.05 * least)
            result->enough = result->point[k].samples;
    return status;
}

static ousac_status compare(ousac_refit_row *row, const test_bench *b, const double *moved,
                            const double *made, ousac_error *error) {
    const size_t count = (size_t)b->options->test.count;
    const ousac_status status = ousac_paired_ratio(moved, made, count, b->session->seed, &row->ratio, error);
    if (status)
        return status;
    row->verdict = ousac_paired_decide(&row->ratio, b->options->threshold);
    if (!ousac_interval_known(&row->ratio) &&
        count > 1) /* the same ratio of every sample: as certain as can be */
        row->verdict = row->ratio.mean > b->options->threshold ? OUSAC_PAIRED_ABOVE : OUSAC_PAIRED_BELOW;
    row->more = ousac_paired_more(&row->ratio, b->options->threshold, count);
    return OUSAC_STATUS_OK;
}

static ousac_status run_row(ousac_refit *result, const ousac_session *session,
                            const ousac_refit_options *options, ousac_refit_row *row, ousac_error *error) {
    const ousac_fit_arm exact = {.exact = 1};
    const size_t count = (size_t)options->test.count, size = ousac_model_sample_size(session->model);
    trial s = {0};
    ousac_fit_target fitting = {0}, validation = {0};
    ousac_fit_report report;
    ousac_schedule made = {0};
    double *squares = ousac_malloc(count, 2 * sizeof *squares);
    float *samples = count > SIZE_MAX / size ? NULL : ousac_malloc(count * size, 2 * sizeof *samples);
    ousac_status status = make_trial(&s, session, options, row, error);
    if (!status && (!squares || !samples))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu samples", count);
    if (status)
        goto done;
    const test_bench bench = {.session = &s.session,
                              .options = options,
                              .size = size,
                              .reference = samples,
                              .samples = samples + count * size};
    status = run_test(&bench, "reference", &s.reference, &exact, bench.reference, error);
    if (!status)
        status = ousac_fit_target_create(&fitting, &s.session, &s.reference, &result->fitting, error);
    if (!status)
        status = ousac_fit_target_create(&validation, &s.session, &s.reference, &result->validation, error);
    if (!status)
        status = measure(&bench, "textbook", &s.textbook, squares, &row->textbook, error);
    if (!status)
        status = measure(&bench, "transferred", &s.transferred, squares, &row->transferred, error);
    if (!status)
        status = fit_anew(&s, options, &fitting, &validation, options->fitting, &made, &report, error);
    if (!status)
        status = measure(&bench, "refitted", &made, squares + count, &row->refitted, error);
    if (!status)
        status = compare(row, &bench, squares, squares + count, error);
    if (status)
        goto done;
    row->evaluations = report.evaluations;
    row->diverged = report.diverged;
    if (row->setting == OUSAC_REFIT_AS_FITTED)
        status = learn(result, &bench, &s, &fitting, &validation, squares, error);
done:
    ousac_schedule_free(&made);
    ousac_fit_target_free(&fitting);
    ousac_fit_target_free(&validation);
    free_trial(&s);
    ousac_free(samples);
    ousac_free(squares);
    return status;
}

/* --- all of them --- */

ousac_status ousac_refit_check(const ousac_refit_options *options, size_t micro_batch, ousac_error *error) {
    const uint64_t behind =
        (options->fitting + micro_batch - 1) / micro_batch * micro_batch + options->validation;
    const double scale = mean_scale(options->reference);
    if (ousac_schedule_is_fitted(options->reference))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "reference %s: has fitted coefficients; expected the textbook's steps",
                          ousac_schedule_called(options->reference));
    if (!ousac_schedule_is_fitted(options->schedule))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "schedule %s: has no fitted coefficients; expected one of version 2",
                          ousac_schedule_called(options->schedule));
    if (ousac_range_overlaps(&options->test, 0, behind))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`samples` %" PRIu64 ":%" PRIu64 ": expected test samples from %" PRIu64
                          " on, behind those that are fitted and validated on",
                          options->test.first, options->test.first + options->test.count, behind);
    if (options->scale_count > OUSAC_REFIT_SCALES_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu scales, expected at most %d", options->scale_count,
                          OUSAC_REFIT_SCALES_MAX);
    if (options->scale_count && isnan(scale))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "reference %s: guides no step, so there is no other scale",
                          ousac_schedule_called(options->reference));
    for (size_t i = 0; i < options->scale_count; i++)
        if (!(options->scale[i] > 0 && isfinite(options->scale[i])))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "scale %g: expected one above 0", options->scale[i]);
    return OUSAC_STATUS_OK;
}

static void add_row(ousac_refit *result, ousac_refit_setting setting, double value) {
    result->row[result->row_count++] = (ousac_refit_row){.setting = setting, .value = value};
}

static void list_rows(ousac_refit *result, const ousac_refit_options *options) {
    const size_t steps = options->reference->step_count;
    const double shares[] = {2.0 / 3, 4.0 / 3};
    add_row(result, OUSAC_REFIT_AS_FITTED, NAN);
    if (options->settings & 1U << (OUSAC_REFIT_OTHER_SEED - 1))
        add_row(result, OUSAC_REFIT_OTHER_SEED, NAN);
    if (options->settings & 1U << (OUSAC_REFIT_OTHER_SCALE - 1) && !isnan(result->scale)) {
        for (size_t i = 0; i < options->scale_count; i++)
            add_row(result, OUSAC_REFIT_OTHER_SCALE, options->scale[i]);
        for (size_t i = 0; i < 2 && options->scale_count == 0; i++)
            add_row(result, OUSAC_REFIT_OTHER_SCALE, result->scale * shares[i]);
    }
    if (options->settings & 1U << (OUSAC_REFIT_OTHER_STEPS - 1)) {
        if (steps > 1)
            add_row(result, OUSAC_REFIT_OTHER_STEPS, (double)(steps / 2));
        add_row(result, OUSAC_REFIT_OTHER_STEPS, 2 * (double)steps);
    }
}

ousac_status ousac_refit_run(const ousac_session *session, const ousac_refit_options *options,
                             ousac_refit *result, ousac_error *error) {
    const double since = ousac_clock_s();
    const size_t batch = session->micro_batch;
    memset(result, 0, sizeof *result);
    ousac_status status = ousac_refit_check(options, batch, error);
    if (!status)
        status = ousac_run_check_schedule(session->model, options->schedule, error);
    if (status)
        return status;
    result->fitting = (ousac_sample_range){0, options->fitting};
    result->validation =
        (ousac_sample_range){(options->fitting + batch - 1) / batch * batch, options->validation};
    result->test = options->test;
    result->threshold = options->threshold;
    result->scale = mean_scale(options->reference);
    result->reference_steps = options->reference->step_count;
    result->steps = options->schedule->step_count;
    list_rows(result, options);
    for (size_t i = 0; i < result->row_count && !status; i++)
        status = run_row(result, session, options, &result->row[i], error);
    result->seconds = ousac_clock_s() - since;
    return status;
}
