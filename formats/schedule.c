#include "formats/schedule.h"
#include "formats/memory.h"
#include "formats/utf8.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- names ---- */

static const char *const mode_names[] = {"cfg", "cond", "uncond"};
static const char *const gate_names[] = {"full", "cached", "reuse", "extrapolate", "auto"};

static const char *const coefficient_names[] = {"hold", "k", "m", "c", "d"};

static const char *const solver_names[] = {"ddim", "dpmpp-2m", "flow-euler"};

enum {
    MODES = sizeof mode_names / sizeof *mode_names,
    GATES = sizeof gate_names / sizeof *gate_names,
    SOLVERS = sizeof solver_names / sizeof *solver_names
};

const char *ousac_mode_name(ousac_mode mode) {
    return (unsigned)mode < MODES ? mode_names[mode] : "?";
}

const char *ousac_gate_name(ousac_gate gate) {
    return (unsigned)gate < GATES ? gate_names[gate] : "?";
}

const char *ousac_solver_name(ousac_solver solver) {
    return (unsigned)solver < SOLVERS ? solver_names[solver] : "?";
}

const char *ousac_branch_name(int branch) {
    return branch == OUSAC_BRANCH_COND ? "cond" : branch == OUSAC_BRANCH_UNCOND ? "uncond" : "?";
}

const char *ousac_coefficient_name(ousac_coefficient coefficient) {
    return (unsigned)coefficient < OUSAC_COEFFICIENTS ? coefficient_names[coefficient] : "?";
}

int ousac_mode_parse(ousac_mode *mode, const char *name) {
    for (int i = 0; i < MODES; i++)
        if (strcmp(name, mode_names[i]) == 0) {
            *mode = (ousac_mode)i;
            return 0;
        }
    return -1;
}

int ousac_gate_parse(ousac_gate *gate, const char *name) {
    for (int i = 0; i < GATES; i++)
        if (strcmp(name, gate_names[i]) == 0) {
            *gate = (ousac_gate)i;
            return 0;
        }
    return -1;
}

int ousac_solver_parse(ousac_solver *solver, const char *name) {
    for (int i = 0; i < SOLVERS; i++)
        if (strcmp(name, solver_names[i]) == 0) {
            *solver = (ousac_solver)i;
            return 0;
        }
    return -1;
}

int ousac_mode_evaluates(ousac_mode mode, int branch) {
    return mode == OUSAC_MODE_CFG || (mode == OUSAC_MODE_COND && branch == OUSAC_BRANCH_COND) ||
           (mode == OUSAC_MODE_UNCOND && branch == OUSAC_BRANCH_UNCOND);
}

int ousac_schedule_is_fitted(const ousac_schedule *schedule) {
    for (size_t i = 0; schedule->fitted && i < schedule->step_count; i++)
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
            if (schedule->fitted[i].value[k] != 0)
                return 1;
    return 0;
}

int ousac_schedule_tells(const ousac_schedule *schedule) {
    for (size_t i = 0; i < schedule->step_count; i++)
        if (schedule->steps[i].tells)
            return 1;
    return 0;
}

int ousac_schedule_has_gate(const ousac_schedule *schedule, ousac_gate gate) {
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (ousac_mode_evaluates(schedule->steps[i].mode, b) && schedule->steps[i].gate[b] == gate)
                return 1;
    return 0;
}

int ousac_schedule_needs_no_factors(const ousac_schedule *schedule) {
    return !ousac_schedule_has_gate(schedule, OUSAC_GATE_CACHED) &&
           !ousac_schedule_has_gate(schedule, OUSAC_GATE_AUTO);
}

void ousac_schedule_replace_gate(ousac_schedule *schedule, ousac_gate from, ousac_gate to) {
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (schedule->steps[i].gate[b] == from)
                schedule->steps[i].gate[b] = to;
}

int ousac_step_tells_alike(const ousac_step *a, const ousac_step *b) {
    return !a->tells == !b->tells && (!a->tells || a->guidance == b->guidance);
}

ousac_status ousac_schedule_make_fitted(ousac_schedule *schedule, ousac_error *error) {
    if (!schedule->fitted)
        schedule->fitted = ousac_calloc(schedule->step_count, sizeof *schedule->fitted);
    return schedule->fitted
               ? OUSAC_STATUS_OK
               : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the coefficients of %zu steps",
                            schedule->step_count);
}

/* ---- validity ---- */

static ousac_status validate_fitted(const ousac_schedule *schedule, size_t index, const char *name,
                                    ousac_error *error) {
    const ousac_fitted *fitted = &schedule->fitted[index];
    for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
        if (!isfinite(fitted->value[k]))
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                              "%s: step %zu: coefficient %s is %g, expected a finite number", name, index,
                              coefficient_names[k], fitted->value[k]);
    if (schedule->steps[index].mode == OUSAC_MODE_CFG && fitted->value[OUSAC_COEFFICIENT_HOLD] != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: step %zu: hold is %.17g, expected 0 because mode \"cfg\" has a difference of "
                          "its own",
                          name, index, fitted->value[OUSAC_COEFFICIENT_HOLD]);
    return OUSAC_STATUS_OK;
}

static ousac_status validate_step(const ousac_schedule *schedule, size_t index, const char *name,
                                  ousac_error *error) {
    const ousac_step *step = &schedule->steps[index];
    if (!isfinite(step->timestep) || step->timestep < 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: step %zu: timestep is %g, expected a finite number that is not negative", name,
                          index, step->timestep);
    if (index > 0 && !(step->timestep < step[-1].timestep))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: step %zu: timestep %.17g is not below %.17g of the step before it", name,
                          index, step->timestep, step[-1].timestep);
    if ((unsigned)step->mode >= MODES)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: step %zu: mode %d is none", name, index,
                          (int)step->mode);
    if (!isfinite(step->scale))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: step %zu: scale is %g, expected a finite number",
                          name, index, step->scale);
    if (step->mode != OUSAC_MODE_CFG && !(step->scale >= 1 && step->scale <= 1))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: step %zu: scale is %.17g, expected 1 because mode \"%s\" has no guidance",
                          name, index, step->scale, ousac_mode_name(step->mode));
    if (step->tells && !isfinite(step->guidance))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: step %zu: guidance is %g, expected a finite number", name, index,
                          step->guidance);
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        if (ousac_mode_evaluates(step->mode, b) && (unsigned)step->gate[b] >= GATES)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: step %zu: gate %d of branch %s is none", name,
                              index, (int)step->gate[b], ousac_branch_name(b));
    return OUSAC_STATUS_OK;
}

ousac_status ousac_schedule_validate(const ousac_schedule *schedule, const char *name, ousac_error *error) {
    const char *end = memchr(schedule->name, '\0', sizeof schedule->name);
    if (!end || !ousac_utf8_printable(schedule->name, (size_t)(end - schedule->name)))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_FORMAT,
            "%s: the schedule's name must be at most %d bytes of UTF-8 without control characters", name,
            OUSAC_SCHEDULE_NAME_BYTES - 1);
    if ((unsigned)schedule->solver >= SOLVERS)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: solver %d is none", name, (int)schedule->solver);
    if (schedule->step_count < 1 || schedule->step_count > OUSAC_SCHEDULE_STEPS_MAX || !schedule->steps)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %zu steps, expected 1 to %d", name,
                          schedule->step_count, OUSAC_SCHEDULE_STEPS_MAX);
    for (size_t i = 0; i < schedule->step_count; i++) {
        ousac_status status = validate_step(schedule, i, name, error);
        if (!status && schedule->fitted)
            status = validate_fitted(schedule, i, name, error);
        if (status)
            return status;
    }
    return OUSAC_STATUS_OK;
}

const char *ousac_schedule_called(const ousac_schedule *schedule) {
    return *schedule->name ? schedule->name : *schedule->file ? schedule->file : "without a name";
}

/* ---- life ---- */

void ousac_schedule_free(ousac_schedule *schedule) {
    if (!schedule)
        return;
    ousac_free(schedule->steps);
    ousac_free(schedule->fitted);
    memset(schedule, 0, sizeof *schedule);
}

ousac_status ousac_schedule_copy(ousac_schedule *target, const ousac_schedule *source, ousac_error *error) {
    const size_t count = source->step_count;
    ousac_step *steps = count ? ousac_malloc(count, sizeof *steps) : NULL;
    ousac_fitted *fitted = count && source->fitted ? ousac_malloc(count, sizeof *fitted) : NULL;
    if (count && (!steps || (source->fitted && !fitted))) {
        ousac_free(steps);
        ousac_free(fitted);
        memset(target, 0, sizeof *target);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for a schedule of %zu steps", count);
    }
    if (steps)
        memcpy(steps, source->steps, count * sizeof *steps);
    if (fitted)
        memcpy(fitted, source->fitted, count * sizeof *fitted);
    *target = *source;
    target->steps = steps;
    target->fitted = fitted;
    return OUSAC_STATUS_OK;
}

/* ---- identity ---- */

static uint64_t double_bits(double value) {
    uint64_t bits;
    value += 0.0; /* -0 and 0 are one number and get one digest */
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static const char *evaluated_gate_name(const ousac_step *step, int branch) {
    return ousac_mode_evaluates(step->mode, branch) ? ousac_gate_name(step->gate[branch]) : "-";
}

void ousac_schedule_digest(const ousac_schedule *schedule, char digest[OUSAC_DIGEST_CHARS]) {
    ousac_sha256 state;
    const int tells = ousac_schedule_tells(schedule), fitted = tells || ousac_schedule_is_fitted(schedule);
    char line[128];
    int length;

    ousac_sha256_begin(&state);
    length = snprintf(line, sizeof line, "ousac-schedule/%d\nsolver=%s\nsteps=%zu\n", 1 + fitted + tells,
                      ousac_solver_name(schedule->solver), schedule->step_count);
    ousac_sha256_add(&state, line, (size_t)length);
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *step = &schedule->steps[i];
        length = snprintf(line, sizeof line, "%016llx %s %016llx %s %s",
                          (unsigned long long)double_bits(step->timestep), ousac_mode_name(step->mode),
                          (unsigned long long)double_bits(step->mode == OUSAC_MODE_CFG ? step->scale : 1),
                          evaluated_gate_name(step, OUSAC_BRANCH_COND),
                          evaluated_gate_name(step, OUSAC_BRANCH_UNCOND));
        ousac_sha256_add(&state, line, (size_t)length);
        for (int k = 0; fitted && k < OUSAC_COEFFICIENTS; k++) {
            length = snprintf(
                line, sizeof line, " %016llx",
                (unsigned long long)double_bits(schedule->fitted ? schedule->fitted[i].value[k] : 0));
            ousac_sha256_add(&state, line, (size_t)length);
        }
        if (tells) {
            length = step->tells ? snprintf(line, sizeof line, " %016llx",
                                            (unsigned long long)double_bits(step->guidance))
                                 : snprintf(line, sizeof line, " -");
            ousac_sha256_add(&state, line, (size_t)length);
        }
        ousac_sha256_add(&state, "\n", 1);
    }
    ousac_sha256_end(&state, digest);
}

ousac_status ousac_schedule_effective_gates(const ousac_schedule *schedule, int *effective,
                                            ousac_error *error) {
    size_t full[OUSAC_BRANCHES] = {0, 0}; /* full evaluations of the branch so far */
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *step = &schedule->steps[i];
        for (int b = 0; b < OUSAC_BRANCHES; b++) {
            int *out = &effective[i * OUSAC_BRANCHES + (size_t)b];
            if (!ousac_mode_evaluates(step->mode, b)) {
                *out = -1;
                continue;
            }
            if (step->gate[b] == OUSAC_GATE_AUTO)
                return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                  "step %zu: gate of branch %s is \"auto\"; a plan must decide it first", i,
                                  ousac_branch_name(b));
            *out = full[b] == 0                                              ? (int)OUSAC_GATE_FULL
                   : full[b] == 1 && step->gate[b] == OUSAC_GATE_EXTRAPOLATE ? (int)OUSAC_GATE_REUSE
                                                                             : (int)step->gate[b];
            full[b] += *out == OUSAC_GATE_FULL;
        }
    }
    return OUSAC_STATUS_OK;
}

/* ---- building ---- */

static double to_even(double value) {
    const double down = floor(value), rest = value - down;
    return rest < 0.5 || (rest == 0.5 && fmod(down, 2) == 0) ? down : down + 1;
}

/* In the order of NumPy's operations, which decide where a point lies between two whole ones. */
double ousac_spaced_timestep(ousac_spacing spacing, size_t points, size_t train_steps, size_t index,
                             int whole) {
    const double T = (double)train_steps, back = (double)(points - 1 - index);
    if (spacing == OUSAC_SPACING_LEADING)
        return back * (double)(train_steps / points);
    if (spacing == OUSAC_SPACING_TRAILING) { /* arange(T, 0, -T / points) */
        const double step = (T - T / (double)points) - T;
        return to_even(T + (double)index * step) - 1;
    }
    /* linspace(0, T - 1, points) */
    const double at = points == 1 ? 0 : index == 0 ? T - 1 : back * ((T - 1) / (double)(points - 1));
    return whole ? to_even(at) : at;
}

/* DPM-Solver's timesteps are the first of one more: the last is where its last step leads. */
static int is_one_longer(const ousac_schedule_options *options) {
    return options->solver == OUSAC_SOLVER_DPMPP_2M && options->spacing != OUSAC_SPACING_TRAILING;
}

static ousac_status check_options(const ousac_schedule_options *options, ousac_error *error) {
    const char *name = options->name ? options->name : "";
    if (strlen(name) >= OUSAC_SCHEDULE_NAME_BYTES || !ousac_utf8_printable(name, strlen(name)))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "schedule name must be at most %d bytes of UTF-8 without control characters",
                          OUSAC_SCHEDULE_NAME_BYTES - 1);
    if (options->train_steps < 1 || options->train_steps > OUSAC_SCHEDULE_TRAIN_STEPS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu training steps, expected 1 to %d",
                          options->train_steps, OUSAC_SCHEDULE_TRAIN_STEPS_MAX);
    if (options->steps < 1 || options->steps > OUSAC_SCHEDULE_STEPS_MAX ||
        options->steps > options->train_steps)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu steps, expected 1 to %zu", options->steps,
                          options->train_steps < OUSAC_SCHEDULE_STEPS_MAX ? options->train_steps
                                                                          : (size_t)OUSAC_SCHEDULE_STEPS_MAX);
    if (options->spacing != OUSAC_SPACING_LINSPACE && options->spacing != OUSAC_SPACING_LEADING &&
        options->spacing != OUSAC_SPACING_TRAILING)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "spacing %d is none", (int)options->spacing);
    if (options->other_mode != OUSAC_MODE_COND && options->other_mode != OUSAC_MODE_UNCOND)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "mode of the unguided steps must be \"cond\" or \"uncond\"");
    if ((unsigned)options->solver >= SOLVERS)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "solver %d is none", (int)options->solver);
    if (options->solver == OUSAC_SOLVER_FLOW_EULER && options->spacing != OUSAC_SPACING_LINSPACE)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "solver flow-euler knows the spacing linspace alone");
    if (options->steps == options->train_steps && is_one_longer(options))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%zu steps of dpmpp-2m, expected fewer than training steps", options->steps);
    if (!options->scales || !options->gates)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a schedule needs a scale and a gate for every step");
    for (size_t i = 0; i < options->steps; i++) {
        if (isinf(options->scales[i]))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "step %zu: guidance scale is infinite", i);
        if ((unsigned)options->gates[i] >= GATES)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "step %zu: gate %d is none", i,
                              (int)options->gates[i]);
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_schedule_build(ousac_schedule *schedule, const ousac_schedule_options *options,
                                  ousac_error *error) {
    ousac_status status;

    memset(schedule, 0, sizeof *schedule);
    status = check_options(options, error);
    if (status)
        return status;
    schedule->steps = ousac_calloc(options->steps, sizeof *schedule->steps);
    if (!schedule->steps)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for a schedule of %zu steps",
                          options->steps);
    if (options->name)
        memcpy(schedule->name, options->name, strlen(options->name) + 1);
    schedule->solver = options->solver;
    schedule->step_count = options->steps;
    for (size_t i = 0; i < options->steps; i++) {
        ousac_step *step = &schedule->steps[i];
        int guided = !isnan(options->scales[i]);
        if (options->solver == OUSAC_SOLVER_FLOW_EULER)
            step->timestep = (double)options->train_steps * (1 - (double)i / (double)options->steps);
        else
            step->timestep =
                ousac_spaced_timestep(options->spacing, options->steps + (size_t)is_one_longer(options),
                                      options->train_steps, i, 1);
        if (options->steps == 1 && options->solver == OUSAC_SOLVER_DDIM &&
            options->spacing == OUSAC_SPACING_LINSPACE)
            step->timestep = (double)(options->train_steps - 1);
        step->mode = guided ? OUSAC_MODE_CFG : options->other_mode;
        step->scale = guided ? options->scales[i] : 1;
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            step->gate[b] = options->gates[i];
    }
    return OUSAC_STATUS_OK;
}
