#include "profile/run/solver.h"

#include <float.h>
#include <math.h>

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

int ousac_solver_advance(const ousac_solver_step *solver, const ousac_step *step, size_t count,
                         const float *cond, const float *uncond, float *x, double *data) {
    for (size_t i = 0; i < count; i++) {
        double eps;
        if (step->mode == OUSAC_MODE_CFG)
            eps = (double)uncond[i] + step->scale * ((double)cond[i] - (double)uncond[i]);
        else
            eps = step->mode == OUSAC_MODE_COND ? (double)cond[i] : (double)uncond[i];
        const double now = (double)x[i];
        double next = solver->x * now + solver->eps * eps;
        if (solver->before != 0)
            next += solver->before * data[i];
        if (data)
            data[i] = solver->data_x * now + solver->data_eps * eps;
        if (!(fabs(next) <= (double)FLT_MAX))
            return -1;
        x[i] = (float)next;
    }
    return 0;
}
