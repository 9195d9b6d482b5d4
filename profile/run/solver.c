#include "profile/run/solver.h"

#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

int ousac_solver_looks_back(ousac_solver solver) {
    return solver == OUSAC_SOLVER_DPMPP_2M;
}

static ousac_status check_range(ousac_solver solver, const double *alpha_bar, size_t count,
                                ousac_error *error) {
    for (size_t i = 0; i <= count; i++) {
        const int may_be_one = i == count || solver == OUSAC_SOLVER_DDIM;
        if (!(alpha_bar[i] > 0 && (alpha_bar[i] < 1 || (may_be_one && alpha_bar[i] == 1))))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                              "step %zu: alpha_bar is %.17g; expected above 0, %s 1", i, alpha_bar[i],
                              may_be_one ? "at most" : "below");
    }
    return OUSAC_STATUS_OK;
}

/* x' = sqrt(a'/a) x + (sqrt(1 - a') - sqrt(a' (1 - a) / a)) eps. */
static void ddim(double a, double next, ousac_solver_step *step) {
    step->x = sqrt(next / a);
    step->eps = sqrt(1 - next) - sqrt(next * (1 - a) / a);
}

/* log(alpha / sigma). */
static double half_log_snr(double a) {
    return 0.5 * (log(a) - log1p(-a));
}

/* x' = (sigma' / sigma) x + k ((1 + g) D - g D_before), k = alpha' (1 - exp(-h)) = alpha' - alpha sigma' /
 * sigma, g = h / (2 h_before). */
static void dpmpp_2m(double a, double next, double g, ousac_solver_step *step) {
    const double ratio = sqrt((1 - next) / (1 - a)), k = sqrt(next) - sqrt(a) * ratio;
    step->x = ratio + k * (1 + g) * step->data_x;
    step->eps = k * (1 + g) * step->data_eps;
    step->before = -k * g;
}

ousac_status ousac_solver_steps(ousac_solver solver, const double *alpha_bar, size_t count,
                                ousac_solver_step *steps, ousac_error *error) {
    if (solver != OUSAC_SOLVER_DDIM && solver != OUSAC_SOLVER_DPMPP_2M)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "solver %d is none", (int)solver);
    const ousac_status status = check_range(solver, alpha_bar, count, error);
    if (status)
        return status;
    double h_before = 0; /* 0: the step before cannot be looked at */
    for (size_t i = 0; i < count; i++) {
        const double a = alpha_bar[i], next = alpha_bar[i + 1];
        const double h = next < 1 ? half_log_snr(next) - half_log_snr(a) : INFINITY;
        steps[i] = (ousac_solver_step){.data_x = 1 / sqrt(a), .data_eps = -sqrt((1 - a) / a)};
        /* A first-order step of either solver is the same; DDIM's form of it is the shorter sum. */
        if (solver == OUSAC_SOLVER_DDIM || h_before == 0 || !isfinite(h))
            ddim(a, next, &steps[i]);
        else
            dpmpp_2m(a, next, h / (2 * h_before), &steps[i]);
        h_before = h;
    }
    return OUSAC_STATUS_OK;
}

/* --- what a trajectory remembers --- */

ousac_status ousac_solver_memory_create(ousac_solver_memory *memory, const ousac_schedule *schedule,
                                        size_t count, ousac_error *error) {
    int needed[4] = {ousac_solver_looks_back(schedule->solver), 0, 0, 0};
    double **const member[4] = {&memory->data, &memory->before, &memory->earlier, &memory->held};
    for (size_t i = 0; schedule->fitted && i < schedule->step_count; i++) {
        const double *value = schedule->fitted[i].value;
        needed[1] |= value[OUSAC_COEFFICIENT_CHANGE] != 0 || value[OUSAC_COEFFICIENT_EARLIER] != 0;
        needed[2] |= value[OUSAC_COEFFICIENT_EARLIER] != 0;
        needed[3] |= value[OUSAC_COEFFICIENT_HOLD] != 0;
    }
    memset(memory, 0, sizeof *memory);
    memory->count = count;
    for (int k = 0; k < 4; k++)
        if (needed[k] && !(*member[k] = ousac_calloc(count, sizeof(double)))) {
            ousac_solver_memory_free(memory);
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a solver of %zu values", count);
        }
    return OUSAC_STATUS_OK;
}

void ousac_solver_memory_free(ousac_solver_memory *memory) {
    ousac_free(memory->data);
    ousac_free(memory->before);
    ousac_free(memory->earlier);
    ousac_free(memory->held);
    memset(memory, 0, sizeof *memory);
}

/* The other members are not read before they are written. */
void ousac_solver_memory_reset(ousac_solver_memory *memory) {
    memory->taken = 0;
    if (memory->held)
        memset(memory->held, 0, memory->count * sizeof *memory->held);
}

void ousac_solver_memory_copy(ousac_solver_memory *to, const ousac_solver_memory *from, size_t count) {
    const double *const source[4] = {from->data, from->before, from->earlier, from->held};
    double *const target[4] = {to->data, to->before, to->earlier, to->held};
    to->taken = from->taken;
    for (int k = 0; k < 4; k++)
        if (source[k] && target[k])
            memcpy(target[k], source[k], count * sizeof(double));
}

/* --- a step --- */

/* e of value i: guided, or of one branch with the guidance that the last guided step left. */
static double guided(const ousac_step *step, double hold, const float *cond, const float *uncond, size_t i,
                     ousac_solver_memory *memory) {
    if (step->mode == OUSAC_MODE_CFG) {
        const double difference = (double)cond[i] - (double)uncond[i];
        if (memory->held)
            memory->held[i] = difference;
        return (double)uncond[i] + step->scale * difference;
    }
    const double e = step->mode == OUSAC_MODE_COND ? (double)cond[i] : (double)uncond[i];
    return hold != 0 ? e + hold * memory->held[i] : e;
}

int ousac_solver_advance(const ousac_solver_step *solver, const ousac_step *step, const ousac_fitted *fitted,
                         size_t count, const float *cond, const float *uncond, float *x,
                         ousac_solver_memory *memory) {
    static const ousac_fitted textbook = {{0}};
    const double *value = fitted ? fitted->value : textbook.value;
    const double c = value[OUSAC_COEFFICIENT_CHANGE], d = value[OUSAC_COEFFICIENT_EARLIER];
    const double a = solver->x * (1 + value[OUSAC_COEFFICIENT_STATE]);
    const double b = solver->eps * (1 + value[OUSAC_COEFFICIENT_GAIN]);
    for (size_t i = 0; i < count; i++) {
        const double e = guided(step, value[OUSAC_COEFFICIENT_HOLD], cond, uncond, i, memory);
        const double now = (double)x[i];
        double next = a * now + b * e;
        if (solver->before != 0)
            next += solver->before * memory->data[i];
        if (c != 0 && memory->taken > 0)
            next += c * (e - memory->before[i]);
        if (d != 0 && memory->taken > 1)
            next += d * (memory->before[i] - memory->earlier[i]);
        if (memory->data)
            memory->data[i] = solver->data_x * now + solver->data_eps * e;
        if (memory->earlier && memory->taken > 0)
            memory->earlier[i] = memory->before[i];
        if (memory->before)
            memory->before[i] = e;
        if (!(fabs(next) <= (double)FLT_MAX))
            return -1;
        x[i] = (float)next;
    }
    memory->taken++;
    return 0;
}
