#include "profile/run/solver.h"

#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

int ousac_solver_looks_back(ousac_solver solver) {
    return solver == OUSAC_SOLVER_DPMPP_2M;
}

/* Data and noise as combinations of the state and the prediction. */
typedef struct implied {
    double data_x, data_p, noise_x, noise_p;
} implied;

static implied implied_by(ousac_prediction prediction, ousac_noise_level at) {
    const double alpha = sqrt(at.alpha2), sigma = sqrt(at.sigma2);
    switch (prediction) {
    case OUSAC_PREDICTION_EPSILON:
        return (implied){1 / sqrt(at.alpha2), -sqrt(at.sigma2 / at.alpha2), 0, 1};
    case OUSAC_PREDICTION_V:
        return (implied){alpha, -sigma, sigma, alpha};
    case OUSAC_PREDICTION_FLOW:
        return (implied){1, -sigma, 1, alpha};
    case OUSAC_PREDICTION_SAMPLE:
        break;
    }
    return (implied){0, 1, 1 / sigma, -alpha / sigma};
}

/* x' = alpha' D + sigma' E. Of a predicted E: sqrt(a'/a) x + (sigma' - sqrt(a' sigma^2 / a)) eps. */
static void ddim(ousac_prediction prediction, ousac_noise_level at, ousac_noise_level next,
                 ousac_solver_step *step) {
    const implied of = implied_by(prediction, at);
    const double alpha = sqrt(next.alpha2), sigma = sqrt(next.sigma2);
    if (prediction == OUSAC_PREDICTION_EPSILON) {
        step->x = sqrt(next.alpha2 / at.alpha2);
        step->eps = sigma - sqrt(next.alpha2 * at.sigma2 / at.alpha2);
    } else {
        step->x = alpha * of.data_x + sigma * of.noise_x;
        step->eps = alpha * of.data_p + sigma * of.noise_p;
    }
}

/* dx / dsigma = E - D, where alpha + sigma = 1: x' = x + (sigma' - sigma) (E - D). */
static void flow_euler(ousac_prediction prediction, ousac_noise_level at, ousac_noise_level next,
                       ousac_solver_step *step) {
    const implied of = implied_by(prediction, at);
    const double h = sqrt(next.sigma2) - sqrt(at.sigma2);
    step->x = 1 + h * (of.noise_x - of.data_x);
    step->eps = h * (prediction == OUSAC_PREDICTION_FLOW ? 1 : of.noise_p - of.data_p);
}

/* log(alpha / sigma). */
static double half_log_snr(ousac_noise_level at) {
    return 0.5 * (log(at.alpha2) - (at.sigma2 == 1 - at.alpha2 ? log1p(-at.alpha2) : log(at.sigma2)));
}

/* x' = (sigma' / sigma) x + k ((1 + g) D - g D_before), k = alpha' (1 - exp(-h)) = alpha' - alpha sigma' /
 * sigma, g = h / (2 h_before). */
static void dpmpp_2m(ousac_noise_level at, ousac_noise_level next, double g, ousac_solver_step *step) {
    const double ratio = sqrt(next.sigma2 / at.sigma2), k = sqrt(next.alpha2) - sqrt(at.alpha2) * ratio;
    step->x = ratio + k * (1 + g) * step->data_x;
    step->eps = k * (1 + g) * step->data_eps;
    step->before = -k * g;
}

/* What a level must be for finite coefficients. */
static ousac_status check_level(ousac_solver solver, ousac_prediction prediction, ousac_noise_level at,
                                size_t i, int last, ousac_error *error) {
    const int needs_noise =
        !last && (solver == OUSAC_SOLVER_DPMPP_2M || prediction == OUSAC_PREDICTION_SAMPLE);
    if (!(at.alpha2 >= 0 && at.alpha2 <= 1 && at.sigma2 >= 0 && at.sigma2 <= 1) ||
        (prediction == OUSAC_PREDICTION_EPSILON && at.alpha2 == 0) || (needs_noise && at.sigma2 == 0))
        return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                          "step %zu: alpha^2 is %.17g, sigma^2 %.17g; expected within [0, 1]%s%s", i,
                          at.alpha2, at.sigma2,
                          prediction == OUSAC_PREDICTION_EPSILON ? ", alpha above 0" : "",
                          needs_noise ? ", sigma above 0" : "");
    if (solver == OUSAC_SOLVER_FLOW_EULER && fabs(sqrt(at.alpha2) + sqrt(at.sigma2) - 1) > 1e-9)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "step %zu: solver flow-euler follows straight lines from data to noise, which the "
                          "model's noise levels are not",
                          i);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_solver_steps(ousac_solver solver, ousac_prediction prediction,
                                const ousac_noise_level *level, size_t count, ousac_solver_step *steps,
                                ousac_error *error) {
    if (solver != OUSAC_SOLVER_DDIM && solver != OUSAC_SOLVER_DPMPP_2M && solver != OUSAC_SOLVER_FLOW_EULER)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "solver %d is none", (int)solver);
    for (size_t i = 0; i <= count; i++) {
        const ousac_status status = check_level(solver, prediction, level[i], i, i == count, error);
        if (status)
            return status;
    }
    double h_before = 0; /* 0: the step before cannot be looked at */
    for (size_t i = 0; i < count; i++) {
        const ousac_noise_level at = level[i], next = level[i + 1];
        const double h = next.sigma2 > 0 ? half_log_snr(next) - half_log_snr(at) : INFINITY;
        const implied of = implied_by(prediction, at);
        steps[i] = (ousac_solver_step){.data_x = of.data_x, .data_eps = of.data_p};
        /* A first-order step of DPM-Solver++ is DDIM's, whose form is the shorter sum. */
        if (solver == OUSAC_SOLVER_FLOW_EULER)
            flow_euler(prediction, at, next, &steps[i]);
        else if (solver == OUSAC_SOLVER_DDIM || h_before == 0 || !isfinite(h))
            ddim(prediction, at, next, &steps[i]);
        else
            dpmpp_2m(at, next, h / (2 * h_before), &steps[i]);
        h_before = isfinite(h) ? h : 0;
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

ousac_solver_row ousac_solver_rescale(double scale, const float *cond, const float *uncond, size_t row) {
    double wanted = 0, square = 0, slope = 0; /* |e_c|^2, |e|^2, e . d */
    for (size_t i = 0; i < row; i++) {
        const double c = (double)cond[i], d = c - (double)uncond[i], e = (double)uncond[i] + scale * d;
        wanted += c * c;
        square += e * e;
        slope += e * d;
    }
    if (!(square > 0))
        return (ousac_solver_row){1, 0};
    return (ousac_solver_row){sqrt(wanted / square), slope / square};
}

/* e of value i: guided where guidance acts on it, by the factor of its row, or of one branch with the guidance that the
 * last guided step left. */
static double guided(const ousac_step *step, double hold, const float *cond, const float *uncond, size_t i,
                     int acts, double factor, ousac_solver_memory *memory) {
    if (step->mode == OUSAC_MODE_CFG) {
        const double difference = acts ? (double)cond[i] - (double)uncond[i] : 0;
        if (memory->held)
            memory->held[i] = difference;
        return acts ? factor * ((double)uncond[i] + step->scale * difference) : (double)cond[i];
    }
    const double e = step->mode == OUSAC_MODE_COND ? (double)cond[i] : (double)uncond[i];
    return hold != 0 ? e + hold * memory->held[i] : e;
}

int ousac_solver_advance(const ousac_solver_step *solver, const ousac_step *step, const ousac_fitted *fitted,
                         const ousac_solver_layout *layout, size_t count, const float *cond,
                         const float *uncond, float *x, ousac_solver_memory *memory) {
    static const ousac_fitted textbook = {{0}};
    const double *value = fitted ? fitted->value : textbook.value;
    const double c = value[OUSAC_COEFFICIENT_CHANGE], d = value[OUSAC_COEFFICIENT_EARLIER];
    const double a = solver->x * (1 + value[OUSAC_COEFFICIENT_STATE]);
    const double b = solver->eps * (1 + value[OUSAC_COEFFICIENT_GAIN]);
    const size_t row = step->mode == OUSAC_MODE_CFG ? layout->row : 0;
    double factor = 1;
    for (size_t i = 0; i < count; i++) {
        if (row && i % row == 0)
            factor = ousac_solver_rescale(step->scale, cond + i, uncond + i, row).factor;
        const double e = guided(step, value[OUSAC_COEFFICIENT_HOLD], cond, uncond, i,
                                i % layout->sample < layout->guided, factor, memory);
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
