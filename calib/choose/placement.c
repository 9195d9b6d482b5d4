#include "calib/choose/placement.h"

#include "formats/memory.h"

#include <math.h>
#include <stdint.h>

/* The shortest paths of one branch: squared error of the best placement of evaluations 0..j-1 with m
 * refreshes, the next refresh at j (or the end, j = count), and where the interval before j began. */
typedef struct paths {
    size_t count, most; /* evaluations; refreshes, at most */
    double *best;       /* (count + 1, most + 1) */
    size_t *from;       /* likewise */
} paths;

static void paths_free(paths *p) {
    ousac_free(p->best);
    ousac_free(p->from);
}

static ousac_status check(const ousac_placement_branch *branches, size_t branch_count, size_t horizon,
                          ousac_error *error) {
    if (horizon < 2)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "placement: a horizon of %zu; expected at least 2",
                          horizon);
    for (size_t b = 0; b < branch_count; b++)
        for (size_t j = 0; j < branches[b].count; j++)
            for (size_t a = 1; a <= j && a < horizon; a++) {
                const double value = branches[b].amplitude[j * horizon + a];
                if (!(value >= 0 && isfinite(value)))
                    return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                                      "placement: branch %zu, evaluation %zu, age %zu: amplitude %g", b, j, a,
                                      value);
            }
    return OUSAC_STATUS_OK;
}

static ousac_status solve_branch(const ousac_placement_branch *branch, size_t horizon, size_t most, paths *p,
                                 ousac_error *error) {
    const size_t count = branch->count, width = most + 1;
    p->count = count;
    p->most = most;
    p->best = count < SIZE_MAX / width ? ousac_malloc((count + 1) * width, sizeof *p->best) : NULL;
    p->from = p->best ? ousac_calloc((count + 1) * width, sizeof *p->from) : NULL;
    if (!p->from)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to place %zu refreshes among %zu", most,
                          count);
    for (size_t i = 0; i < (count + 1) * width; i++)
        p->best[i] = INFINITY;
    p->best[0] = 0; /* the refresh at 0 is counted when its interval is left */
    for (size_t i = 0; i < count; i++)
        for (size_t m = 0; m < most; m++) {
            const double before = p->best[i * width + m];
            double sum = 0;
            for (size_t j = i + 1; isfinite(before) && j <= count && j - i <= horizon; j++) {
                double *target = &p->best[j * width + m + 1];
                if (before + sum * sum < *target) {
                    *target = before + sum * sum;
                    p->from[j * width + m + 1] = i;
                }
                if (j < count && j - i < horizon)
                    sum += branch->amplitude[j * horizon + (j - i)];
            }
        }
    return OUSAC_STATUS_OK;
}

static void walk_back(const paths *p, size_t refreshes, unsigned char *refresh) {
    size_t j = p->count;
    for (size_t i = 0; i < p->count; i++)
        refresh[i] = 0;
    for (size_t m = refreshes; m > 0; m--) {
        j = p->from[j * (p->most + 1) + m];
        refresh[j] = 1;
    }
}

/* (branch, refreshes over the branches so far) -> least squared error; a table over branches. */
static ousac_status combine(const paths *p, size_t branch_count, size_t refreshes, size_t *share,
                            double *total, ousac_error *error) {
    const size_t width = refreshes + 1;
    double *best = ousac_malloc((branch_count + 1) * width, sizeof *best);
    size_t *own = ousac_calloc(branch_count * width, sizeof *own);
    ousac_status status = OUSAC_STATUS_OK;
    if (!best || !own) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to place %zu refreshes", refreshes);
        goto done;
    }
    for (size_t i = 0; i < (branch_count + 1) * width; i++)
        best[i] = INFINITY;
    best[0] = 0;
    for (size_t b = 0; b < branch_count; b++)
        for (size_t used = 0; used <= refreshes; used++)
            for (size_t m = 0; m <= p[b].most && used + m <= refreshes; m++) {
                const double value = best[b * width + used] + p[b].best[p[b].count * (p[b].most + 1) + m];
                if (value < best[(b + 1) * width + used + m]) {
                    best[(b + 1) * width + used + m] = value;
                    own[b * width + used + m] = m;
                }
            }
    *total = best[branch_count * width + refreshes];
    for (size_t b = branch_count, left = refreshes; b-- > 0 && isfinite(*total);) {
        share[b] = own[b * width + left];
        left -= share[b];
    }
done:
    ousac_free(best);
    ousac_free(own);
    return status;
}

ousac_status ousac_placement_solve(const ousac_placement_branch *branches, size_t branch_count,
                                   size_t horizon, size_t refreshes, unsigned char *const *refresh,
                                   double *placement_error, ousac_error *error) {
    ousac_status status = check(branches, branch_count, horizon, error);
    size_t evaluations = 0, least = 0, *share = NULL;
    double total = INFINITY;
    paths *p = NULL;
    if (status)
        return status;
    for (size_t b = 0; b < branch_count; b++) {
        evaluations += branches[b].count;
        least += branches[b].count / horizon + (branches[b].count % horizon != 0);
    }
    if (refreshes > evaluations || refreshes < least)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu full evaluations: expected from %zu to %zu",
                          refreshes, least, evaluations);
    p = ousac_calloc(branch_count, sizeof *p);
    share = ousac_calloc(branch_count, sizeof *share);
    if (!p || !share) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to place %zu refreshes", refreshes);
        goto done;
    }
    for (size_t b = 0; b < branch_count && !status; b++)
        status = solve_branch(&branches[b], horizon,
                              branches[b].count < refreshes ? branches[b].count : refreshes, &p[b], error);
    if (!status)
        status = combine(p, branch_count, refreshes, share, &total, error);
    if (status)
        goto done;
    if (!isfinite(total)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "placement: the errors are too large to add");
        goto done;
    }
    for (size_t b = 0; b < branch_count; b++)
        walk_back(&p[b], share[b], refresh[b]);
    *placement_error = sqrt(total);
done:
    for (size_t b = 0; p && b < branch_count; b++)
        paths_free(&p[b]);
    ousac_free(p);
    ousac_free(share);
    return status;
}

ousac_status ousac_placement_error(const ousac_placement_branch *branches, size_t branch_count,
                                   size_t horizon, unsigned char *const *refresh, double *placement_error,
                                   ousac_error *error) {
    ousac_status status = check(branches, branch_count, horizon, error);
    double total = 0;
    for (size_t b = 0; b < branch_count && !status; b++) {
        double sum = 0;
        size_t last = 0;
        for (size_t j = 0; j < branches[b].count; j++) {
            if (refresh[b][j]) {
                total += sum * sum;
                sum = 0;
                last = j;
            } else if (j == 0 || j - last >= horizon) {
                return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                  "branch %zu: evaluation %zu has no refresh within %zu evaluations", b, j,
                                  horizon);
            } else {
                sum += branches[b].amplitude[j * horizon + (j - last)];
            }
        }
        total += sum * sum;
    }
    *placement_error = sqrt(total);
    return status;
}
