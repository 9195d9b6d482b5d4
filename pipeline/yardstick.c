#include "pipeline/yardstick.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/fit.h"
#include "pipeline/headline.h"
#include "pipeline/inflection.h"
#include "pipeline/machine.h"
#include "pipeline/place.h"
#include "pipeline/search.h"
#include "pipeline/shard.h"
#include "pipeline/yardstick_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { INFLECTION_SAMPLES = 16 };
static const double goc_weights[] = {1.2, 0.8}; /* of GOC's code, with FORA and with learned routers */

const char *ousac_rival_name(ousac_rival rival) {
    static const char *const names[OUSAC_RIVALS] = {"fewer-steps",
                                                    "fewer-steps-dpmpp",
                                                    "reuse",
                                                    "extrapolation",
                                                    "goc",
                                                    "svd",
                                                    "ca-svd",
                                                    "cd-svd",
                                                    "svd+placement+forecast",
                                                    "ca-svd+placement+forecast",
                                                    "cd-svd+placement+forecast",
                                                    "ousac-published"};
    return (unsigned)rival < OUSAC_RIVALS ? names[rival] : "?";
}

/* --- arms --- */

void yardstick_arm_free(yardstick_arm *arm) {
    ousac_schedule_free(&arm->schedule);
    memset(arm, 0, sizeof *arm);
}

ousac_status yardstick_try(yardstick *y, const ousac_schedule *schedule, const ousac_gauge_arm *how,
                           const char *settings, yardstick_arm *best, ousac_error *error) {
    ousac_gauge_arm arm = *how;
    double relative = 0;
    arm.schedule = schedule;
    ousac_status status = ousac_gauge_measure(&y->validation, &arm, NULL, &relative, error);
    if (status == OUSAC_STATUS_NUMBER) { /* a method that leaves float32 is no choice, and no end */
        ousac_session_note(y->session, "%s, %s: %s", how->label, settings, error ? error->message : "");
        return OUSAC_STATUS_OK;
    }
    if (status)
        return status;
    ousac_session_note(y->session, "%s, %s: relative error %.4g", how->label, settings, relative);
    if (best->schedule.steps && relative >= best->validation)
        return OUSAC_STATUS_OK;
    yardstick_arm_free(best);
    best->how = *how;
    best->validation = relative;
    (void)snprintf(best->settings, sizeof best->settings, "%s", settings);
    return ousac_schedule_copy(&best->schedule, schedule, error);
}

ousac_status yardstick_finish(yardstick *y, const yardstick_arm *arm, ousac_yardstick_row *row,
                              ousac_error *error) {
    const size_t count = (size_t)y->test.range.count, size = ousac_model_sample_size(y->session->model);
    const double before = y->test.seconds;
    const uint64_t spent = *y->session->evaluations;
    ousac_gauge_arm how = arm->how;
    ousac_headline headline = {0};
    ousac_headline_row filled = {.method = row->method};
    ousac_counters counters = {0};
    double relative = 0;
    how.schedule = &arm->schedule;
    ousac_status status = ousac_gauge_measure(&y->test, &how, &counters, &relative, error);
    *y->session->evaluations = spent; /* the test is no part of what finding it cost */
    if (!status && counters.macs > y->result->macs * count)
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                            "%s, %s: %" PRIu64 " MACs a sample, more than the budget's %" PRIu64, row->method,
                            arm->settings, counters.macs / count, y->result->macs);
    if (!status)
        status = ousac_headline_add(&headline, &filled, y->test.samples, y->test.exact, count, size,
                                    y->session->seed, error);
    if (status)
        return status;
    filled = headline.row[0];
    ousac_headline_free(&headline);
    row->steps = arm->schedule.step_count;
    row->macs_share = y->options->budget * ((double)counters.macs / (double)count) / (double)y->result->macs;
    row->seconds_share = (y->test.seconds - before) / y->test.exact_seconds;
    row->error = filled.error;
    row->median = filled.median;
    row->worst = filled.worst;
    row->validation = arm->validation;
    (void)snprintf(row->settings, sizeof row->settings, "%s", arm->settings);
    return OUSAC_STATUS_OK;
}

/* --- fewer steps --- */

static ousac_status fewer(yardstick *y, ousac_yardstick_row *row, ousac_error *error) {
    yardstick_arm arm = {.how = {.label = "fewer steps"}, .validation = NAN};
    size_t steps = 0;
    ousac_status status = ousac_search_affordable(&y->price, &y->reference, y->result->macs, &steps, error);
    if (!status && steps == 0) {
        row->left_out = "the budget holds no step";
        return OUSAC_STATUS_OK;
    }
    if (!status)
        status = ousac_fit_fewer_steps(&arm.schedule, &y->reference, steps, error);
    (void)snprintf(arm.settings, sizeof arm.settings, "%zu of the reference's %zu steps", steps,
                   y->reference.step_count);
    if (!status)
        status = yardstick_finish(y, &arm, row, error);
    yardstick_arm_free(&arm);
    return status;
}

/* DPM-Solver++ 2M at the timesteps of fewer steps, and, where guidance is constant, as its schedulers lay them out. */
static ousac_status dpmpp(yardstick *y, ousac_yardstick_row *row, ousac_error *error) {
    static const char *const spacings[] = {"linspace", "leading", "trailing"};
    const ousac_gauge_arm how = {.label = "DPM-Solver++ 2M"};
    const ousac_schedule *reference = &y->reference;
    const size_t train = y->session->model->noise.train_steps;
    const int guided = reference->steps[0].mode == OUSAC_MODE_CFG;
    yardstick_arm best = {0};
    char settings[sizeof best.settings];
    size_t steps = 0;
    if (reference->solver == OUSAC_SOLVER_FLOW_EULER) {
        row->left_out = "a flow has no DPM-Solver++ 2M here, only its own solver";
        return OUSAC_STATUS_OK;
    }
    ousac_status status = ousac_search_affordable(&y->price, &y->reference, y->result->macs, &steps, error);
    if (!status && steps == 0) {
        row->left_out = "the budget holds no step";
        return OUSAC_STATUS_OK;
    }
    ousac_schedule at = {0};
    if (!status)
        status = ousac_fit_fewer_steps(&at, reference, steps, error);
    at.solver = OUSAC_SOLVER_DPMPP_2M;
    (void)snprintf(settings, sizeof settings, "%zu of the reference's timesteps", steps);
    if (!status)
        status = yardstick_try(y, &at, &how, settings, &best, error);
    for (int spacing = 0; spacing < 3 && !status; spacing++) {
        ousac_schedule laid = {0};
        double *scales = ousac_malloc(steps, sizeof *scales);
        ousac_gate *gates = ousac_calloc(steps, sizeof *gates); /* full */
        for (size_t i = 0; i < steps && scales; i++)
            scales[i] = guided ? reference->steps[0].scale : NAN;
        const ousac_schedule_options options = {.name = "dpmpp",
                                                .steps = steps,
                                                .train_steps = train,
                                                .spacing = (ousac_spacing)spacing,
                                                .other_mode =
                                                    guided ? OUSAC_MODE_COND : reference->steps[0].mode,
                                                .scales = scales,
                                                .gates = gates,
                                                .solver = OUSAC_SOLVER_DPMPP_2M};
        if (!scales || !gates)
            status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu steps", steps);
        if (!status)
            status = ousac_schedule_build(&laid, &options, error);
        for (size_t i = 0; i < laid.step_count; i++) {
            laid.steps[i].tells = reference->steps[0].tells;
            laid.steps[i].guidance = reference->steps[0].guidance;
        }
        (void)snprintf(settings, sizeof settings, "%zu steps, %s", steps, spacings[spacing]);
        if (!status)
            status = yardstick_try(y, &laid, &how, settings, &best, error);
        ousac_schedule_free(&laid);
        ousac_free(scales);
        ousac_free(gates);
    }
    if (!status && best.schedule.steps)
        status = yardstick_finish(y, &best, row, error);
    else if (!status)
        row->left_out = "no spacing of it stays finite";
    ousac_schedule_free(&at);
    yardstick_arm_free(&best);
    return status;
}

/* --- reused outputs --- */

enum { REUSE, EXTRAPOLATE, GRADIENT };

/* 1 where the schedule fits. A gradient costs at most an extrapolation, and one more at every refresh. */
static ousac_status fits(const yardstick *y, const ousac_schedule *schedule, int kind, int *does,
                         ousac_error *error) {
    const ousac_arch *arch = &y->session->model->arch;
    ousac_schedule counted = {0};
    ousac_cost_total cost;
    ousac_status status = ousac_schedule_copy(&counted, schedule, error);
    if (kind != REUSE)
        ousac_schedule_replace_gate(&counted, OUSAC_GATE_CACHED, OUSAC_GATE_EXTRAPOLATE);
    if (!status)
        status = ousac_cost_trajectory(arch, &counted, NULL, &cost, error);
    if (!status)
        *does = cost.schedule_cached +
                    (kind == GRADIENT ? cost.forwards_full * ousac_cost_extrapolation(arch) : 0) <=
                y->result->macs;
    ousac_schedule_free(&counted);
    return status;
}

/* Full at every p-th step with the least p that fits; *period 0 where none does. */
static ousac_status least_period(const yardstick *y, ousac_schedule *schedule, int kind, size_t *period,
                                 ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (*period = 2; *period <= schedule->step_count && !status; ++*period) {
        int does = 0;
        ousac_place_evenly(schedule, *period);
        status = fits(y, schedule, kind, &does, error);
        if (!status && does)
            return OUSAC_STATUS_OK;
    }
    *period = 0;
    return status;
}

static ousac_status reused(yardstick *y, int kind, ousac_yardstick_row *row, ousac_error *error) {
    yardstick_arm arm = {.how = {.label = row->method}, .validation = NAN};
    size_t period = 0;
    ousac_status status = ousac_schedule_copy(&arm.schedule, &y->reference, error);
    if (!status)
        status = least_period(y, &arm.schedule, kind, &period, error);
    if (!status && period == 0)
        row->left_out = "the budget holds no period";
    (void)snprintf(arm.settings, sizeof arm.settings, "the reference's %zu steps, full at every %zu",
                   arm.schedule.step_count, period);
    if (kind == EXTRAPOLATE)
        ousac_schedule_replace_gate(&arm.schedule, OUSAC_GATE_CACHED, OUSAC_GATE_EXTRAPOLATE);
    if (!status && !row->left_out)
        status = yardstick_finish(y, &arm, row, error);
    yardstick_arm_free(&arm);
    return status;
}

/* Both weights under a schedule whose gates are decided; what is best is kept with its gradient. */
static ousac_status try_gradients(yardstick *y, const ousac_schedule *schedule, size_t period,
                                  ousac_gradient gradient[2], yardstick_arm *best, ousac_error *error) {
    const uint64_t calibration = y->result->calibration.count;
    const size_t samples = calibration < INFLECTION_SAMPLES ? (size_t)calibration : INFLECTION_SAMPLES;
    unsigned char *inflection = ousac_calloc(schedule->step_count, 1);
    size_t count = 0;
    if (!inflection)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the inflections");
    gradient[0].inflection = gradient[1].inflection = inflection;
    gradient[0].step_count = gradient[1].step_count = schedule->step_count;
    ousac_status status = ousac_inflection_find(y->session, schedule, samples, inflection, error);
    for (size_t i = 0; i < schedule->step_count; i++)
        count += inflection[i];
    for (int w = 0; w < 2 && !status; w++) {
        const ousac_gauge_arm how = {.label = "goc", .gradient = &gradient[w]};
        char settings[sizeof best->settings];
        gradient[w].weight = goc_weights[w];
        (void)snprintf(settings, sizeof settings, "eta %g, %zu steps, full at every %zu, %zu inflections",
                       goc_weights[w], schedule->step_count, period, count);
        status = yardstick_try(y, schedule, &how, settings, best, error);
    }
    return status;
}

static ousac_status goc(yardstick *y, ousac_yardstick_row *row, ousac_error *error) {
    ousac_gradient gradient[2][2] = {{{0}}};
    ousac_schedule own = {0}, fewer_steps = {0};
    yardstick_arm best = {0};
    size_t period = 0;
    int does = 0;
    ousac_status status = ousac_schedule_copy(&own, &y->reference, error);
    if (!status)
        status = least_period(y, &own, GRADIENT, &period, error);
    if (!status && period)
        status = try_gradients(y, &own, period, gradient[0], &best, error);
    for (size_t steps = y->reference.step_count; steps > 1 && !status && !does && period != 2; steps--) {
        ousac_schedule_free(&fewer_steps);
        status = ousac_fit_fewer_steps(&fewer_steps, &y->reference, steps, error);
        if (!status)
            ousac_place_evenly(&fewer_steps, 2);
        if (!status)
            status = fits(y, &fewer_steps, GRADIENT, &does, error);
    }
    if (!status && does)
        status = try_gradients(y, &fewer_steps, 2, gradient[1], &best, error);
    if (!status && best.schedule.steps)
        status = yardstick_finish(y, &best, row, error);
    else if (!status)
        row->left_out = "no period that fits stays finite";
    for (int i = 0; i < 2; i++)
        ousac_free((void *)(uintptr_t)gradient[i][0].inflection);
    ousac_schedule_free(&own);
    ousac_schedule_free(&fewer_steps);
    yardstick_arm_free(&best);
    return status;
}

/* --- all of them --- */

static ousac_status prepare(yardstick *y, ousac_error *error) {
    const ousac_yardstick_options *o = y->options;
    const size_t batch = y->session->micro_batch;
    ousac_yardstick *r = y->result;
    ousac_cost_total cost;
    ousac_status status =
        ousac_search_check(&(ousac_search_options){.reference = o->reference, .budget = o->budget}, error);
    if (status)
        return status;
    r->calibration = (ousac_sample_range){0, o->calibration};
    r->validation = (ousac_sample_range){(o->calibration + batch - 1) / batch * batch, o->validation};
    r->test = o->test;
    if (o->calibration < OUSAC_YARDSTICK_LEAST)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`calibration` %" PRIu64 ": expected at least %d samples", o->calibration,
                          OUSAC_YARDSTICK_LEAST);
    if (ousac_range_overlaps(&o->test, 0, r->validation.first + r->validation.count))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`samples` %" PRIu64 ":%" PRIu64 ": expected test samples from %" PRIu64
                          " on, behind those of calibration and validation",
                          o->test.first, o->test.first + o->test.count,
                          r->validation.first + r->validation.count);
    status = ousac_run_check_schedule(y->session->model, o->reference, error);
    if (!status)
        status = ousac_schedule_copy(&y->reference, o->reference, error);
    if (status)
        return status;
    ousac_place_evenly(&y->reference, 1);
    status = ousac_price_of_macs(&y->price, &y->session->model->arch, error);
    if (status)
        return status;
    status = ousac_cost_trajectory(&y->session->model->arch, &y->reference, NULL, &cost, error);
    if (status)
        return status;
    (void)snprintf(r->reference_name, sizeof r->reference_name, "%s", ousac_schedule_called(o->reference));
    (void)snprintf(r->solver, sizeof r->solver, "%s", ousac_solver_name(o->reference->solver));
    r->reference_steps = o->reference->step_count;
    r->budget = o->budget;
    r->macs = (uint64_t)(o->budget * (double)cost.schedule_full);
    status = ousac_gauge_create(&y->test, y->session, &y->reference, &r->test, error);
    if (!status)
        status = ousac_gauge_create(&y->validation, y->session, &y->reference, &r->validation, error);
    return status;
}

static ousac_status one(yardstick *y, ousac_rival rival, ousac_yardstick_row *row, ousac_error *error) {
    switch (rival) {
    case OUSAC_RIVAL_FEWER:
        return fewer(y, row, error);
    case OUSAC_RIVAL_DPMPP:
        return dpmpp(y, row, error);
    case OUSAC_RIVAL_REUSE:
        return reused(y, REUSE, row, error);
    case OUSAC_RIVAL_EXTRAPOLATION:
        return reused(y, EXTRAPOLATE, row, error);
    case OUSAC_RIVAL_GOC:
        return goc(y, row, error);
    case OUSAC_RIVAL_SVD:
        return yardstick_corrected(y, OUSAC_METHOD_SVD, row, error);
    case OUSAC_RIVAL_CA_SVD:
        return yardstick_corrected(y, OUSAC_METHOD_CA_SVD, row, error);
    case OUSAC_RIVAL_CD_SVD:
        return yardstick_corrected(y, OUSAC_METHOD_CD_SVD, row, error);
    case OUSAC_RIVAL_OUSAC:
        return yardstick_evolved(y, row, error);
    default:
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "no method %d", (int)rival);
    }
}

/* What is placed shares one placement. */
static const struct {
    ousac_rival rival;
    ousac_method method;
} placed_rivals[] = {{OUSAC_RIVAL_SVD_PLACED, OUSAC_METHOD_SVD},
                     {OUSAC_RIVAL_CA_SVD_PLACED, OUSAC_METHOD_CA_SVD},
                     {OUSAC_RIVAL_CD_SVD_PLACED, OUSAC_METHOD_CD_SVD}};

static ousac_status placed(yardstick *y, ousac_error *error) {
    const double since = ousac_clock_s();
    ousac_yardstick_row made[OUSAC_METHOD_COUNT] = {{0}}, *row[OUSAC_METHOD_COUNT] = {NULL};
    unsigned methods = 0;
    for (size_t i = 0; i < sizeof placed_rivals / sizeof *placed_rivals; i++)
        if (y->options->rivals & 1U << placed_rivals[i].rival) {
            const ousac_method method = placed_rivals[i].method;
            methods |= 1U << method;
            row[method] = &made[method];
            made[method] = (ousac_yardstick_row){.method = ousac_rival_name(placed_rivals[i].rival)};
        }
    *y->session->evaluations = 0;
    const ousac_status status = yardstick_placed(y, methods, row, error);
    for (int m = 0; m < OUSAC_METHOD_COUNT && !status; m++)
        if (row[m]) {
            made[m].evaluations = *y->session->evaluations;
            made[m].seconds = ousac_clock_s() - since;
            y->result->row[y->result->row_count++] = made[m];
        }
    return status;
}

ousac_status ousac_yardstick_run(const ousac_session *session, const ousac_yardstick_options *options,
                                 ousac_yardstick *result, ousac_error *error) {
    const unsigned together =
        1U << OUSAC_RIVAL_SVD_PLACED | 1U << OUSAC_RIVAL_CA_SVD_PLACED | 1U << OUSAC_RIVAL_CD_SVD_PLACED;
    uint64_t evaluations = 0;
    ousac_session counted = *session;
    yardstick y = {.session = &counted, .options = options, .result = result};
    unsigned done = 0;
    counted.evaluations = &evaluations;
    memset(result, 0, sizeof *result);
    ousac_status status = prepare(&y, error);
    for (int rival = 0; rival < OUSAC_RIVALS && !status; rival++) {
        const double since = ousac_clock_s();
        if (!(options->rivals & ~done & 1U << rival))
            continue;
        if (together & 1U << rival) {
            status = placed(&y, error);
            done |= together;
        } else {
            ousac_yardstick_row row = {.method = ousac_rival_name((ousac_rival)rival)};
            const double tested = y.test.seconds;
            evaluations = 0;
            status = one(&y, (ousac_rival)rival, &row, error);
            row.evaluations = evaluations;
            row.seconds = ousac_clock_s() - since - (y.test.seconds - tested);
            if (!status)
                result->row[result->row_count++] = row;
        }
        if (!status && options->finished)
            status = options->finished(options->self, result, error);
    }
    yardstick_free_factors(&y);
    ousac_gauge_free(&y.test);
    ousac_gauge_free(&y.validation);
    ousac_schedule_free(&y.reference);
    ousac_price_free(&y.price);
    return status;
}
