/* The cache of each branch and the linears that use it: what a runtime does at a full, cached or reuse
 * evaluation.
 *
 *     full         y = W x + b; x and y of every site and the output of every module are kept
 *     cached       y = y_c + A B (x - x_c) by the calibration's ranks, with its forecast where it has one; module
 *                  outputs are reused where a module is not live
 *     reuse        every module's output is that of the branch's last full evaluation
 *     extrapolate  every module's output is on the line through the branch's last two full evaluations, as
 *                  formats/SCHEDULE.md says; reused until there are two
 *
 * With a `gradient` what is reused is continued as the Gradient-Optimized Cache does (GOC, arXiv 2503.05156), by the change
 * between what the module gave at the branch's last two evaluations, cached ones included:
 *
 *     out_i = out_(i-1) + eta (out_(i-1) - out_(i-2)),   at an inflection out_i = out_(i-1)
 *
 * So at the first cached evaluation behind a refresh the change is that from the cached value before to the
 * recomputed one. All outputs of a module lie on one line, out_c + w (out_c - p) with p what it gave before the
 * refresh: only w and p are kept. Until the branch has had two full evaluations there is no change, and outputs are
 * reused.
 *
 * One executor serves one thread; the two branches' caches are separate and know nothing of each other.
 */
#ifndef OUSAC_EXECUTOR_H
#define OUSAC_EXECUTOR_H

#include "formats/schedule.h"
#include "profile/model/model.h"
#include "profile/run/calibration.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_executor ousac_executor;

/* Looks on while a forward runs. Called on the thread of the forward; matrices are backend memory, valid
 * during the call. Any member may be NULL. */
typedef struct ousac_observer {
    void *self;
    int late; /* 1: linear and module do not need what sum_squares adds before `end` is called */
    /* `gate` is the effective one. */
    ousac_status (*begin)(void *self, size_t step, int branch, ousac_gate gate, uint64_t first_sample,
                          size_t count, ousac_error *error);
    /* x (rows, n), y (rows, sum of m) as in ousac_linears. */
    ousac_status (*linear)(void *self, size_t group, size_t rows, const float *x, size_t ldx, const float *y,
                           size_t ldy, ousac_error *error);
    /* The module's outputs, as in ousac_linears. */
    ousac_status (*module)(void *self, size_t module, const ousac_rows *out, ousac_error *error);
    ousac_status (*end)(void *self, ousac_error *error);
} ousac_observer;

/* What really ran, summed over samples. MACs by the cost model's formulas, counted where the work is done. */
typedef struct ousac_counters {
    uint64_t forwards[OUSAC_GATES_RUN];                            /* branch evaluations by effective gate */
    uint64_t site_full;                                            /* site evaluations at full gates */
    uint64_t site_low_rank, site_dense, site_frozen, site_skipped; /* at other gates */
    uint64_t macs;
} ousac_counters;

void ousac_counters_add(ousac_counters *total, const ousac_counters *more);

/* Of GOC. */
typedef struct ousac_gradient {
    double weight;                   /* eta */
    size_t step_count;               /* of the schedule */
    const unsigned char *inflection; /* (step_count): 1 where the change is not applied; NULL: nowhere */
} ousac_gradient;

typedef struct ousac_executor_options {
    const ousac_calibration *calibration; /* borrowed; NULL: cached gates reuse module outputs */
    size_t batch;                         /* samples at once, at most */
    int keep;                             /* 0: no caches are kept, for runs whose every gate is full */
    int extrapolate; /* 1: some gate will be `extrapolate`; outputs of two full evaluations are kept */
    const ousac_gradient *gradient; /* borrowed; NULL: none. Alone: without a calibration and `extrapolate` */
} ousac_executor_options;

/* The model is borrowed. USAGE where a gradient stands beside another way of caching. */
ousac_status ousac_executor_create(ousac_executor **executor, const ousac_model *model,
                                   const ousac_executor_options *options, ousac_error *error);
void ousac_executor_free(ousac_executor *executor);

/* Forgets both caches: call at the start of a trajectory. */
void ousac_executor_reset(ousac_executor *executor);

/* Makes the caches of `to` those of `from`, of the first `count` samples: executors made with the same options.
 */
ousac_status ousac_executor_copy(ousac_executor *to, const ousac_executor *from, size_t count,
                                 ousac_error *error);

/* Starts the evaluation of a branch at a step (an index that only forecasts look at; it rises) for `count`
 * samples. Returns through `effective` the gate that will run: FULL where the branch has no cache yet.
 * `observer` may be NULL. */
ousac_status ousac_executor_begin(ousac_executor *executor, size_t step, int branch, ousac_gate gate,
                                  size_t count, const ousac_observer *observer, ousac_gate *effective,
                                  ousac_error *error);
/* The model's forward of the evaluation begun, at the timestep and scale of `step`, x and out as in
 * ousac_family.forward: as one sequence of the backend where it has those and no observer of linears or
 * modules needs results at once. */
ousac_status ousac_executor_forward(ousac_executor *executor, void *workspace, const float *x,
                                    const ousac_step *step, float *out, ousac_error *error);
void ousac_executor_end(ousac_executor *executor);

const ousac_counters *ousac_executor_counters(const ousac_executor *executor);

#ifdef __cplusplus
}
#endif
#endif
