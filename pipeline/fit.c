#include "pipeline/fit.h"

#include "formats/memory.h"
#include "pipeline/fit_parts.h"
#include "pipeline/machine.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* --- the reference --- */

ousac_status ousac_fit_level(const ousac_model *model, double timestep, double *alpha, double *sigma,
                             ousac_error *error) {
    ousac_noise_level level;
    if (ousac_noise_at(&model->noise, timestep, &level))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "timestep %g: expected one of the model's", timestep);
    *alpha = sqrt(level.alpha2);
    *sigma = sqrt(level.sigma2);
    return OUSAC_STATUS_OK;
}

static ousac_status target_allocate(ousac_fit_target *target, const ousac_session *session,
                                    const ousac_schedule *reference, const ousac_sample_range *range,
                                    ousac_error *error) {
    const size_t steps = reference->step_count, count = (size_t)range->count;
    memset(target, 0, sizeof *target);
    target->range = *range;
    target->size = ousac_model_sample_size(session->model);
    target->step_count = steps;
    target->timestep = ousac_malloc(steps, sizeof *target->timestep);
    target->sigma = ousac_malloc(steps, sizeof *target->sigma);
    target->alpha = ousac_malloc(steps, sizeof *target->alpha);
    target->norm2 = ousac_malloc(count, sizeof *target->norm2);
    if (count <= SIZE_MAX / target->size / (steps + 1))
        target->state = ousac_malloc((steps + 1) * count * target->size, sizeof *target->state);
    if (!target->timestep || !target->sigma || !target->alpha || !target->norm2 || !target->state)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the states of %zu samples", count);
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < steps && !status; i++) {
        target->timestep[i] = reference->steps[i].timestep;
        status =
            ousac_fit_level(session->model, target->timestep[i], &target->alpha[i], &target->sigma[i], error);
    }
    return status;
}

const float *ousac_fit_target_samples(const ousac_fit_target *target) {
    return target->state + target->step_count * (size_t)target->range.count * target->size;
}

ousac_status ousac_fit_target_create(ousac_fit_target *target, const ousac_session *session,
                                     const ousac_schedule *reference, const ousac_sample_range *range,
                                     ousac_error *error) {
    const ousac_fit_arm exact = {.exact = 1};
    ousac_walk *walk = NULL;
    ousac_status status = target_allocate(target, session, reference, range, error);
    const size_t values = (size_t)range->count * target->size;
    if (!status)
        status = ousac_fit_walk(session, &exact, range, reference, &walk, error);
    for (size_t i = 0; i <= reference->step_count && !status; i++) {
        memcpy(target->state + i * values, ousac_walk_state(walk), values * sizeof *target->state);
        if (i == reference->step_count)
            break;
        status = ousac_walk_evaluate(walk, error);
        if (!status)
            status = ousac_walk_advance(walk, &reference->steps[i],
                                        reference->fitted ? &reference->fitted[i] : NULL, error);
    }
    for (size_t s = 0; s < range->count && !status; s++) {
        const float *x = ousac_fit_target_samples(target) + s * target->size;
        target->norm2[s] = 0;
        for (size_t i = 0; i < target->size; i++)
            target->norm2[s] += (double)x[i] * (double)x[i];
        if (!(target->norm2[s] > 0))
            status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                                "sample %zu of the reference is all zero, so no error is relative to it", s);
    }
    ousac_walk_free(walk);
    if (status)
        ousac_fit_target_free(target);
    return status;
}

void ousac_fit_target_free(ousac_fit_target *target) {
    ousac_free(target->timestep);
    ousac_free(target->sigma);
    ousac_free(target->alpha);
    ousac_free(target->norm2);
    ousac_free(target->state);
    memset(target, 0, sizeof *target);
}

ousac_status ousac_fit_target_part(ousac_fit_target *part, const ousac_fit_target *target, size_t count,
                                   ousac_error *error) {
    const size_t steps = target->step_count, whole = (size_t)target->range.count * target->size,
                 values = count * target->size;
    memset(part, 0, sizeof *part);
    if (count == 0 || count > target->range.count)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu samples, expected 1 to %" PRIu64, count,
                          target->range.count);
    part->range = (ousac_sample_range){target->range.first, count};
    part->size = target->size;
    part->step_count = steps;
    part->timestep = ousac_malloc(steps, sizeof *part->timestep);
    part->sigma = ousac_malloc(steps, sizeof *part->sigma);
    part->alpha = ousac_malloc(steps, sizeof *part->alpha);
    part->norm2 = ousac_malloc(count, sizeof *part->norm2);
    part->state = ousac_malloc((steps + 1) * values, sizeof *part->state);
    if (!part->timestep || !part->sigma || !part->alpha || !part->norm2 || !part->state) {
        ousac_fit_target_free(part);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the states of %zu samples", count);
    }
    memcpy(part->timestep, target->timestep, steps * sizeof *part->timestep);
    memcpy(part->sigma, target->sigma, steps * sizeof *part->sigma);
    memcpy(part->alpha, target->alpha, steps * sizeof *part->alpha);
    memcpy(part->norm2, target->norm2, count * sizeof *part->norm2);
    for (size_t i = 0; i <= steps; i++)
        memcpy(part->state + i * values, target->state + i * whole, values * sizeof *part->state);
    return OUSAC_STATUS_OK;
}

/* Where the prediction stands still, which is what the reference's solver does between two of its timesteps, states are
 * alpha D + sigma E of one D and one E: those of the two that they lie between. A flow begins at alpha 0. */
void ousac_fit_state_at(const ousac_fit_target *target, double timestep, double alpha, double sigma,
                        float *state) {
    const size_t values = (size_t)target->range.count * target->size;
    size_t after = 0;
    while (after < target->step_count && target->timestep[after] > timestep)
        after++;
    const float *b = target->state + after * values;
    if (after == 0 || timestep < 0 || (after < target->step_count && target->timestep[after] >= timestep)) {
        memcpy(state, timestep < 0 ? ousac_fit_target_samples(target) : b, values * sizeof *state);
        return;
    }
    const float *a = b - values;
    const int last = after == target->step_count;
    const double alpha_b = last ? 1 : target->alpha[after], sigma_b = last ? 0 : target->sigma[after];
    const double alpha_a = target->alpha[after - 1], sigma_a = target->sigma[after - 1];
    const double whole = alpha_a * sigma_b - alpha_b * sigma_a; /* below 0: sigma / alpha falls */
    const double of_a = (alpha * sigma_b - alpha_b * sigma) / whole,
                 of_b = (alpha_a * sigma - alpha * sigma_a) / whole;
    for (size_t i = 0; i < values; i++)
        state[i] = (float)(of_a * (double)a[i] + of_b * (double)b[i]);
}

/* --- running --- */

ousac_fit_arm ousac_fit_arm_of(const ousac_schedule *schedule, const ousac_calibration *calibration) {
    return (ousac_fit_arm){calibration, !calibration && !ousac_schedule_needs_no_factors(schedule)};
}

ousac_status ousac_fit_walk(const ousac_session *session, const ousac_fit_arm *arm,
                            const ousac_sample_range *range, const ousac_schedule *schedule,
                            ousac_walk **walk, ousac_error *error) {
    const ousac_walk_options options = {
        .model = session->model,
        .schedule = schedule,
        .calibration = arm->calibration,
        .exact = arm->exact,
        .seed = session->seed,
        .first = range->first,
        .count = range->count,
        .micro_batch = ousac_session_batch(session, range->count),
        .threads = ousac_session_threads(session),
        .stop = session->stop,
    };
    return ousac_walk_create(walk, &options, error);
}

double ousac_fit_square(const ousac_fit_target *target, const float *samples, size_t s) {
    const float *a = samples + s * target->size, *b = ousac_fit_target_samples(target) + s * target->size;
    double sum = 0;
    for (size_t i = 0; i < target->size; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum / target->norm2[s];
}

ousac_status ousac_fit_error(const ousac_fit_target *target, const float *samples, double *relative_error,
                             ousac_error *error) {
    const size_t count = (size_t)target->range.count;
    double sum = 0;
    for (size_t s = 0; s < count; s++)
        sum += ousac_fit_square(target, samples, s);
    *relative_error = sqrt(sum / (double)count);
    return isfinite(*relative_error) ? OUSAC_STATUS_OK
                                     : OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "the samples are not finite");
}

/* A run and not a walk: as many samples have caches at once as there are threads, not all of them. */
ousac_status ousac_fit_measure(const ousac_session *session, const ousac_fit_arm *arm,
                               const ousac_fit_target *target, const ousac_schedule *schedule,
                               double *relative_error, uint64_t *evaluations, ousac_error *error) {
    const size_t count = (size_t)target->range.count;
    ousac_session alike = *session; /* in the micro-batches of a walk, and counted here */
    ousac_counters counters = {0};
    float *samples = ousac_malloc(count * target->size, sizeof *samples);
    const ousac_session_run run = {.label = "measuring a fit",
                                   .schedule = schedule,
                                   .range = target->range,
                                   .exact = arm->exact,
                                   .calibration = arm->calibration,
                                   .samples = samples,
                                   .counters = &counters};
    alike.micro_batch = ousac_session_batch(session, count);
    alike.evaluations = NULL;
    ousac_status status =
        samples ? ousac_session_run_here(&alike, &run, error)
                : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu samples", count);
    if (!status)
        status = ousac_fit_error(target, samples, relative_error, error);
    for (int gate = 0; gate < OUSAC_GATES_RUN && evaluations; gate++)
        *evaluations += counters.forwards[gate];
    ousac_free(samples);
    return status;
}

/* --- numbers --- */

int ousac_fit_is_free(const ousac_schedule *schedule, size_t step, int kind, unsigned numbers) {
    const int guided = schedule->steps[step].mode == OUSAC_MODE_CFG;
    int held = 0;
    if (!(numbers & 1u << kind))
        return 0;
    switch (kind) {
    case OUSAC_FIT_SCALE:
        return guided;
    case OUSAC_COEFFICIENT_HOLD:
        for (size_t i = 0; i < step; i++)
            held |= schedule->steps[i].mode == OUSAC_MODE_CFG;
        return !guided && held;
    case OUSAC_COEFFICIENT_CHANGE:
        return step > 0;
    case OUSAC_COEFFICIENT_EARLIER:
        return step > 1;
    default:
        return 1;
    }
}

double *ousac_fit_number(ousac_schedule *schedule, size_t step, int kind) {
    return kind == OUSAC_FIT_SCALE ? &schedule->steps[step].scale : &schedule->fitted[step].value[kind];
}

double ousac_fit_unit(const ousac_solver_step *solver, int kind, double scale0) {
    switch (kind) {
    case OUSAC_FIT_SCALE:
        return fabs(scale0) > 1 ? fabs(scale0) : 1;
    case OUSAC_COEFFICIENT_CHANGE:
    case OUSAC_COEFFICIENT_EARLIER:
        return fabs(solver->eps) > 0 ? fabs(solver->eps) : 1;
    case OUSAC_COEFFICIENT_STATE:
        return 0.1;
    default:
        return 1;
    }
}

/* --- both --- */

/* Step by step, from the numbers that are in `trial`. */
static ousac_status walk_stepwise(const ousac_session *session, const ousac_fit_options *options,
                                  const ousac_fit_target *fitting, ousac_schedule *trial, double *relative,
                                  ousac_fit_report *report, ousac_error *error) {
    ousac_walk *walk = NULL;
    ousac_status status = ousac_fit_walk(session, &options->arm, &fitting->range, trial, &walk, error);
    if (!status)
        status = ousac_fit_stepwise(walk, session->model, fitting, options, trial, error);
    if (!status)
        status = ousac_fit_error(fitting, ousac_walk_state(walk), relative, error);
    if (walk)
        report->evaluations += ousac_walk_evaluations(walk);
    ousac_walk_free(walk);
    return status;
}

static void take_mean(ousac_schedule *one, double weight, const ousac_schedule *other, double other_weight) {
    const double share = other_weight / (weight + other_weight);
    for (size_t i = 0; i < one->step_count; i++) {
        one->steps[i].scale += share * (other->steps[i].scale - one->steps[i].scale);
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
            one->fitted[i].value[k] += share * (other->fitted[i].value[k] - one->fitted[i].value[k]);
    }
}

/* Into `best`, where the validation samples agree. */
static ousac_status try_stepwise(const ousac_session *session, const ousac_fit_options *options,
                                 const ousac_fit_target *fitting, const ousac_fit_target *validation,
                                 ousac_schedule *best, double *least, ousac_fit_report *report,
                                 ousac_error *error) {
    ousac_schedule trial = {0}, beside = {0};
    double relative = INFINITY, ignored = 0;
    ousac_status status = ousac_schedule_copy(&trial, best, error);
    if (!status)
        status = ousac_schedule_make_fitted(&trial, error);
    if (!status && options->beside)
        status = ousac_schedule_copy(&beside, &trial, error);
    if (!status)
        status = walk_stepwise(session, options, fitting, &trial, &report->fitted, report, error);
    if (!status && options->beside) {
        status = walk_stepwise(session, options, options->beside, &beside, &ignored, report, error);
        if (!status)
            take_mean(&trial, (double)fitting->range.count, &beside, (double)options->beside->range.count);
    }
    if (!status)
        status = ousac_fit_measure(session, &options->arm, validation, &trial, &relative,
                                   &report->evaluations, error);
    if (status == OUSAC_STATUS_NUMBER) {
        report->diverged = 1;
        status = OUSAC_STATUS_OK;
    }
    if (!status && relative < *least) {
        *least = relative;
        ousac_schedule_free(best);
        *best = trial;
        memset(&trial, 0, sizeof trial);
    }
    ousac_schedule_free(&trial);
    ousac_schedule_free(&beside);
    return status;
}

ousac_status ousac_fit_schedule(const ousac_session *session, const ousac_fit_options *given,
                                const ousac_fit_target *fitting, const ousac_fit_target *validation,
                                ousac_schedule *schedule, ousac_fit_report *report, ousac_error *error) {
    const double since = ousac_clock_s();
    ousac_fit_options options = *given;
    ousac_schedule best = {0};
    double least = INFINITY;
    memset(report, 0, sizeof *report);
    if (options.ridge <= 0)
        options.ridge = OUSAC_FIT_RIDGE;
    ousac_status status = ousac_schedule_copy(&best, schedule, error);
    if (!status)
        status = ousac_fit_measure(session, &options.arm, validation, schedule, &least, &report->evaluations,
                                   error);
    report->before = report->stepwise = least;
    if (!status && options.stepwise) {
        status = try_stepwise(session, &options, fitting, validation, &best, &least, report, error);
        report->stepwise = least;
        ousac_session_note(session, "stepwise: validation %.4g, before %.4g", least, report->before);
    }
    if (!status && options.jacobians)
        status = ousac_fit_newton(session, &options, fitting, validation, &best, &least, report, error);
    report->after = least;
    report->seconds = ousac_clock_s() - since;
    if (!status) {
        ousac_schedule_free(schedule);
        *schedule = best;
        memset(&best, 0, sizeof best);
    }
    ousac_schedule_free(&best);
    return status;
}

ousac_status ousac_fit_learning(const ousac_session *session, const ousac_fit_options *options,
                                const ousac_fit_target *fitting, const ousac_fit_target *validation,
                                const ousac_schedule *schedule, ousac_fit_curve *curve, ousac_error *error) {
    ousac_fit_options stepwise = *options;
    ousac_status status = OUSAC_STATUS_OK;
    double least = INFINITY;
    memset(curve, 0, sizeof *curve);
    stepwise.stepwise = 1;
    stepwise.jacobians = 0;
    for (size_t part = 1u << (OUSAC_FIT_CURVE - 1); part >= 1 && !status; part /= 2) {
        const size_t count = (size_t)fitting->range.count / part;
        ousac_fit_target some = {0};
        ousac_schedule trial = {0};
        ousac_fit_report report;
        if (count < session->micro_batch && part > 1)
            continue;
        status = ousac_fit_target_part(&some, fitting, count, error);
        if (!status)
            status = ousac_schedule_copy(&trial, schedule, error);
        if (!status)
            status = ousac_fit_schedule(session, &stepwise, &some, validation, &trial, &report, error);
        if (!status) {
            curve->samples[curve->points] = count;
            curve->error[curve->points++] = report.after;
            least = report.after < least ? report.after : least;
        }
        ousac_fit_target_free(&some);
        ousac_schedule_free(&trial);
    }
    for (size_t k = curve->points; k-- > 0;)
        if (curve->error[k] <= 1.05 * least)
            curve->enough = curve->samples[k];
    return status;
}

/* --- fewer steps --- */

enum { LEAST_TO_THE_END = 3 }; /* steps: the first one and two at the end */

/* Every p-th of `have` steps but the last `end`, and those. */
static size_t steps_to_the_end(size_t have, size_t p, size_t end) {
    return (have - end + p - 1) / p + end;
}

static void choose_to_the_end(size_t have, size_t steps, size_t *at) {
    size_t p = 1, end = 2;
    while (steps_to_the_end(have, p, end) > steps)
        p++;
    while (steps_to_the_end(have, p, end) < steps)
        end++;
    for (size_t i = 0; i < steps; i++)
        at[i] = i < steps - end ? i * p : have - (steps - i);
}

static void choose_by_power(size_t have, size_t steps, double power, size_t *at) {
    size_t next = 0;
    for (size_t i = 0; i < steps; i++) {
        /* the power's last bit shall not decide where it is a whole number */
        const double place = (double)have * pow((double)i / (double)steps, power);
        const size_t most = have - (steps - i);
        at[i] = (size_t)(place + 1e-9);
        at[i] = at[i] < next ? next : at[i];
        at[i] = at[i] > most ? most : at[i];
        next = at[i] + 1;
    }
}

ousac_status ousac_fit_spaced_steps(ousac_schedule *schedule, const ousac_schedule *reference, size_t steps,
                                    double power, ousac_error *error) {
    const size_t have = reference->step_count;
    if (steps < 1 || steps > have)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu steps, expected 1 to the reference's %zu", steps,
                          have);
    size_t *at = ousac_malloc(steps, sizeof *at);
    ousac_status status =
        at ? ousac_schedule_copy(schedule, reference, error)
           : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to choose %zu steps", steps);
    if (!status) {
        if (power > 0 || steps < LEAST_TO_THE_END)
            choose_by_power(have, steps, power > 0 ? power : 1, at);
        else
            choose_to_the_end(have, steps, at);
        for (size_t i = 0; i < steps; i++)
            schedule->steps[i] = reference->steps[at[i]];
        schedule->step_count = steps;
    }
    ousac_free(at);
    return status;
}

ousac_status ousac_fit_fewer_steps(ousac_schedule *schedule, const ousac_schedule *reference, size_t steps,
                                   ousac_error *error) {
    return ousac_fit_spaced_steps(schedule, reference, steps, 1, error);
}
