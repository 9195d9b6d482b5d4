/* Damped Gauss-Newton on the final samples (pipeline/fit.h). */
#include "calib/stats/ridge.h"
#include "formats/memory.h"
#include "pipeline/fit_parts.h"

#include <math.h>
#include <string.h>

/* One direction: numbers of one kind at neighbouring steps, moved together, most at the knot in their middle. The
 * stepwise fit has settled what each step wants for itself; what is left changes slowly from step to step, and the
 * fewer directions, the fewer runs and the less that a few samples can be overfitted. */
typedef struct unknown {
    int kind;
    size_t first; /* the first step that it moves */
    double *move; /* (step_count): by how much a theta of 1 moves each step's number */
} unknown;

typedef struct newton {
    const ousac_session *session;
    const ousac_fit_options *options;
    const ousac_fit_target *fitting, *validation;
    ousac_walk *walk, *fork;
    ousac_schedule *at;    /* the present point */
    ousac_schedule origin; /* where theta is 0 */
    unknown *unknown;
    double *moves; /* behind their `move` */
    size_t count;
    float *column;         /* (count, samples, size) */
    double *gram, *right;  /* (count, count), (count) */
    double *theta, *trial; /* (count) */
    double *penalty, *move;
    double *weight; /* (samples): what a squared error counts */
    double damping;
    ousac_fit_report *report;
} newton;

/* How far a number is moved to see what it does, in its natural unit: small against what curves the map,
 * large against float32. */
#define NUDGE 0.01
#define DAMPING_FIRST 1e-6
#define DAMPING_MOST 1e3
enum { STEPS_PER_JACOBIAN = 6 };

/* --- what is free --- */

/* Knots at even distances over the steps at which the kind is free, as hats that add up to 1. */
static void list_kind(newton *n, int kind, const size_t *step, size_t free_count) {
    const size_t wanted = n->options->knots, knots = wanted && wanted < free_count ? wanted : free_count;
    const double apart = knots > 1 ? (double)(free_count - 1) / (double)(knots - 1) : 1;
    const ousac_solver_step *solver = ousac_walk_solver(n->walk);
    for (size_t k = 0; k < knots; k++) {
        unknown *u = &n->unknown[n->count];
        *u = (unknown){.kind = kind, .first = SIZE_MAX, .move = n->moves + n->count * n->at->step_count};
        n->count++;
        for (size_t j = 0; j < free_count; j++) {
            const double away = fabs((double)j - (double)k * apart) / apart;
            const size_t i = step[j];
            if (away >= 1 && knots > 1)
                continue;
            u->move[i] = (knots > 1 ? 1 - away : 1) * ousac_fit_unit(&solver[i], kind, n->at->steps[i].scale);
            u->first = i < u->first ? i : u->first;
        }
    }
}

static ousac_status list_unknowns(newton *n, ousac_error *error) {
    const size_t steps = n->at->step_count, most = steps * OUSAC_FIT_KINDS;
    size_t *step = ousac_malloc(steps, sizeof *step);
    n->unknown = ousac_calloc(most, sizeof *n->unknown);
    n->moves = ousac_calloc(most, steps * sizeof *n->moves);
    if (!step || !n->unknown || !n->moves) {
        ousac_free(step);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the numbers of %zu steps", steps);
    }
    for (int kind = 0; kind < OUSAC_FIT_KINDS; kind++) {
        size_t free_count = 0;
        for (size_t i = 0; i < steps; i++)
            if (ousac_fit_is_free(n->at, i, kind, n->options->numbers))
                step[free_count++] = i;
        list_kind(n, kind, step, free_count);
    }
    ousac_free(step);
    return ousac_schedule_copy(&n->origin, n->at, error);
}

static void move_along(const unknown *u, double theta, ousac_schedule *schedule) {
    for (size_t i = u->first; i < schedule->step_count; i++)
        if (u->move[i] != 0)
            *ousac_fit_number(schedule, i, u->kind) += theta * u->move[i];
}

static void write_theta(const newton *n, const double *theta, ousac_schedule *schedule) {
    const size_t steps = schedule->step_count;
    memcpy(schedule->steps, n->origin.steps, steps * sizeof *schedule->steps);
    memcpy(schedule->fitted, n->origin.fitted, steps * sizeof *schedule->fitted);
    for (size_t p = 0; p < n->count; p++)
        move_along(&n->unknown[p], theta[p], schedule);
}

/* --- the Jacobian --- */

static size_t column_values(const newton *n) {
    return (size_t)n->fitting->range.count * n->fitting->size;
}

/* The column of one direction, from the walk that stands before its first step with that step's predictions made. */
static ousac_status measure_column(newton *n, size_t p, ousac_error *error) {
    const unknown *u = &n->unknown[p];
    const size_t values = column_values(n);
    ousac_schedule moved = {0};
    ousac_status status = ousac_schedule_copy(&moved, n->at, error);
    if (!status)
        status = ousac_walk_copy(n->fork, n->walk, error);
    if (!status) {
        move_along(u, NUDGE, &moved);
        status = ousac_walk_advance(n->fork, &moved.steps[u->first], &moved.fitted[u->first], error);
    }
    if (!status)
        status = ousac_walk_finish(n->fork, &moved, error);
    if (!status)
        memcpy(n->column + p * values, ousac_walk_state(n->fork), values * sizeof *n->column);
    n->report->columns++;
    ousac_schedule_free(&moved);
    return status;
}

/* Walks the present point once, and every column from its first step on. Leaves the walk at the end. */
static ousac_status measure_columns(newton *n, ousac_error *error) {
    const size_t values = column_values(n);
    ousac_status status = OUSAC_STATUS_OK;
    ousac_walk_reset(n->walk);
    for (size_t i = 0; i < n->at->step_count && !status; i++) {
        status = ousac_walk_evaluate(n->walk, error);
        for (size_t p = 0; p < n->count && !status; p++)
            if (n->unknown[p].first == i)
                status = measure_column(n, p, error);
        if (!status)
            status = ousac_walk_advance(n->walk, &n->at->steps[i], &n->at->fitted[i], error);
    }
    for (size_t p = 0; p < n->count && !status; p++) /* from moved samples to derivatives */
        for (size_t i = 0; i < values; i++)
            n->column[p * values + i] =
                (float)(((double)n->column[p * values + i] - (double)ousac_walk_state(n->walk)[i]) / NUDGE);
    return status;
}

/* Most of a mean of squares is a few samples, which stand where the map is steepest: fitted as they count, they
 * would have the numbers to themselves, and others' steepest places are elsewhere. So a sample that is far off
 * where the descent begins counts in proportion less; a typical one, 1. */
static ousac_status set_weights(newton *n, ousac_error *error) {
    const ousac_fit_target *target = n->fitting;
    const size_t count = (size_t)target->range.count;
    double *sorted = ousac_malloc(count, sizeof *sorted);
    if (!sorted)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu samples", count);
    for (size_t s = 0; s < count; s++) {
        const double e2 = ousac_fit_square(target, ousac_walk_state(n->walk), s);
        size_t k = s;
        for (; k > 0 && sorted[k - 1] > e2; k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = e2;
        n->weight[s] = e2;
    }
    const double typical = sorted[count / 2];
    for (size_t s = 0; s < count; s++)
        n->weight[s] = n->weight[s] > typical ? typical / n->weight[s] : 1;
    ousac_free(sorted);
    return OUSAC_STATUS_OK;
}

/* The mean of the weighted squares. */
static double weighted(const newton *n) {
    const size_t count = (size_t)n->fitting->range.count;
    double sum = 0;
    for (size_t s = 0; s < count; s++)
        sum += n->weight[s] * ousac_fit_square(n->fitting, ousac_walk_state(n->walk), s);
    return sum / (double)count;
}

/* Inner product of two columns, every sample relative to the reference's and weighted. */
static double inner(const newton *n, const float *a, const float *b) {
    const ousac_fit_target *target = n->fitting;
    double sum = 0;
    for (size_t s = 0; s < target->range.count; s++) {
        double own = 0;
        for (size_t i = s * target->size; i < (s + 1) * target->size; i++)
            own += (double)a[i] * (double)b[i];
        sum += n->weight[s] * own / target->norm2[s];
    }
    return sum / (double)target->range.count;
}

static void make_gram(newton *n) {
    const size_t values = column_values(n);
    for (size_t p = 0; p < n->count; p++)
        for (size_t q = 0; q <= p; q++)
            n->gram[p * n->count + q] = inner(n, n->column + p * values, n->column + q * values);
}

/* Columns against what is left, with the ridge's pull. */
static ousac_status make_right(newton *n, const float *samples, ousac_error *error) {
    const size_t values = column_values(n);
    const float *wanted = ousac_fit_target_samples(n->fitting);
    float *left = ousac_malloc(values, sizeof *left);
    if (!left)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory to fit %zu values", values);
    for (size_t i = 0; i < values; i++)
        left[i] = wanted[i] - samples[i];
    for (size_t p = 0; p < n->count; p++)
        n->right[p] = inner(n, n->column + p * values, left) - n->options->ridge * n->theta[p];
    ousac_free(left);
    return OUSAC_STATUS_OK;
}

/* --- descending --- */

/* Of the point at which the walk has ended. */
static double objective(const newton *n, const double *theta) {
    double sum = 0;
    for (size_t p = 0; p < n->count; p++)
        sum += theta[p] * theta[p];
    return weighted(n) + n->options->ridge * sum;
}

/* Runs a point on the fitting samples; *relative INFINITY where it is not finite. */
static ousac_status run_point(newton *n, const ousac_schedule *schedule, double *relative,
                              ousac_error *error) {
    ousac_walk_reset(n->walk);
    ousac_status status = ousac_walk_finish(n->walk, schedule, error);
    if (!status)
        status = ousac_fit_error(n->fitting, ousac_walk_state(n->walk), relative, error);
    if (status == OUSAC_STATUS_NUMBER) {
        n->report->diverged = 1;
        *relative = INFINITY;
        return OUSAC_STATUS_OK;
    }
    return status;
}

/* One step of the descent with the present columns; *taken 0 where no damping lowers the error. */
static ousac_status descend(newton *n, double *now, int *taken, ousac_error *error) {
    ousac_schedule trial = {0};
    ousac_status status = make_right(n, ousac_walk_state(n->walk), error);
    *taken = 0;
    if (!status)
        status = ousac_schedule_copy(&trial, n->at, error);
    while (!status && !*taken && n->damping <= DAMPING_MOST) {
        double relative = INFINITY;
        for (size_t p = 0; p < n->count; p++)
            n->penalty[p] = n->options->ridge + n->damping * n->gram[p * n->count + p];
        status = ousac_ridge_solve(n->count, n->gram, n->right, n->penalty, n->move, error);
        if (status)
            break;
        for (size_t p = 0; p < n->count; p++)
            n->trial[p] = n->theta[p] + n->move[p];
        write_theta(n, n->trial, &trial);
        status = run_point(n, &trial, &relative, error);
        if (status)
            break;
        const double reached = isfinite(relative) ? objective(n, n->trial) : INFINITY;
        if (!(reached < *now)) {
            n->damping *= 10;
            continue;
        }
        *taken = 1;
        *now = reached;
        n->report->steps++;
        n->damping = fmax(n->damping / 10, DAMPING_FIRST);
        memcpy(n->theta, n->trial, n->count * sizeof *n->theta);
        write_theta(n, n->theta, n->at);
        n->report->fitted = relative;
    }
    ousac_schedule_free(&trial);
    return status;
}

static ousac_status allocate(newton *n, ousac_error *error) {
    const size_t count = n->count, values = column_values(n);
    n->weight = ousac_calloc((size_t)n->fitting->range.count, sizeof *n->weight);
    if (count == 0 || count > SIZE_MAX / values)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a fit needs free numbers, and fewer than %zu", count);
    n->column = ousac_malloc(count * values, sizeof *n->column);
    n->gram = ousac_calloc(count * count, sizeof *n->gram);
    double **const vectors[] = {&n->right, &n->theta, &n->trial, &n->penalty, &n->move};
    int ok = n->column && n->gram && n->weight;
    for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
        ok &= (*vectors[k] = ousac_calloc(count, sizeof **vectors[k])) != NULL;
    return ok ? OUSAC_STATUS_OK
              : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu columns of %zu values", count,
                           values);
}

static void release(newton *n) {
    ousac_walk_free(n->fork);
    ousac_walk_free(n->walk);
    ousac_free(n->unknown);
    ousac_free(n->moves);
    ousac_schedule_free(&n->origin);
    ousac_free(n->column);
    ousac_free(n->gram);
    ousac_free(n->right);
    ousac_free(n->theta);
    ousac_free(n->trial);
    ousac_free(n->penalty);
    ousac_free(n->move);
    ousac_free(n->weight);
}

/* Steps with one set of columns, and the best of them by the validation samples into `best`. */
static ousac_status use_columns(newton *n, ousac_schedule *best, double *least, ousac_error *error) {
    double now = objective(n, n->theta);
    int taken = 1;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t k = 0; k < STEPS_PER_JACOBIAN && taken && !status; k++) {
        const double before = now;
        double relative = INFINITY;
        status = descend(n, &now, &taken, error);
        if (!status && taken)
            status = ousac_fit_measure(n->session, &n->options->arm, n->validation, n->at, &relative,
                                       &n->report->evaluations, error);
        if (status == OUSAC_STATUS_NUMBER) {
            n->report->diverged = 1;
            status = OUSAC_STATUS_OK;
        }
        if (status || !taken)
            break;
        ousac_session_note(n->session, "newton: %zu columns: fitted %.4g, validation %.4g",
                           n->report->columns, n->report->fitted, relative);
        if (relative < *least) {
            *least = relative;
            ousac_schedule_free(best);
            status = ousac_schedule_copy(best, n->at, error);
        }
        taken = now < 0.98 * before; /* what is left is for new columns */
    }
    return status;
}

ousac_status ousac_fit_newton(const ousac_session *session, const ousac_fit_options *options,
                              const ousac_fit_target *fitting, const ousac_fit_target *validation,
                              ousac_schedule *best, double *least, ousac_fit_report *report,
                              ousac_error *error) {
    ousac_schedule at = {0};
    newton n = {.session = session,
                .options = options,
                .fitting = fitting,
                .validation = validation,
                .at = &at,
                .damping = DAMPING_FIRST,
                .report = report};
    ousac_status status = ousac_schedule_copy(&at, best, error);
    if (!status)
        status = ousac_schedule_make_fitted(&at, error);
    if (!status)
        status = ousac_fit_walk(session, &options->arm, &fitting->range, &at, &n.walk, error);
    if (!status)
        status = ousac_walk_fork(&n.fork, n.walk, error);
    if (!status)
        status = list_unknowns(&n, error);
    if (!status)
        status = allocate(&n, error);
    for (size_t k = 0; k < options->jacobians && !status; k++) {
        const double before = *least;
        status = measure_columns(&n, error);
        if (!status)
            status = ousac_fit_error(fitting, ousac_walk_state(n.walk), &report->fitted, error);
        if (status)
            break;
        if (k == 0)
            status = set_weights(&n, error);
        if (status)
            break;
        make_gram(&n);
        status = use_columns(&n, best, least, error);
        if (*least > 0.99 * before)
            break;
    }
    if (n.walk)
        report->evaluations += ousac_walk_evaluations(n.walk);
    if (n.fork)
        report->evaluations += ousac_walk_evaluations(n.fork);
    release(&n);
    ousac_schedule_free(&at);
    return status;
}
