/* Trajectories: samples denoised under a schedule, in micro-batches spread over threads.
 *
 * A micro-batch is a fixed range of absolute sample indices (multiples of `micro_batch`), computed by one
 * thread with one BLAS thread; results are handed over in index order. So they do not depend on the number of
 * threads.
 */
#ifndef OUSAC_RUNNER_H
#define OUSAC_RUNNER_H

#include "formats/schedule.h"
#include "formats/stop.h"
#include "profile/model/model.h"
#include "profile/run/executor.h"
#include "profile/run/solver.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Makes and collects per-thread observers; every member may be NULL. */
typedef struct ousac_run_observers {
    void *self;
    /* The observer of thread `worker`; called once per worker before the first batch, on the calling thread.
     */
    ousac_status (*attach)(void *self, size_t worker, ousac_observer *observer, ousac_error *error);
    /* After a micro-batch, in index order, one call at a time, from any thread. */
    ousac_status (*collect)(void *self, size_t worker, uint64_t first, size_t count, ousac_error *error);
    /* What was collected and still lies on a device comes to where it is read: at the end of a run that failed
     * nowhere, and before a checkpoint is saved. Where that fails, *whole says whether what is there is all of an earlier
     * moment. */
    ousac_status (*settle)(void *self, int *whole, ousac_error *error);
} ousac_run_observers;

typedef struct ousac_run {
    const ousac_model *model;
    const ousac_schedule *schedule;
    uint64_t seed;
    uint64_t first, count;                /* samples; `first` a multiple of micro_batch */
    size_t micro_batch;                   /* >= 1 */
    size_t threads;                       /* >= 1 */
    int exact;                            /* 1: every gate full, whatever the schedule says */
    const ousac_calibration *calibration; /* may be NULL */
    const ousac_gradient *gradient;       /* may be NULL; as in ousac_executor_options */
    const ousac_run_observers *observers; /* may be NULL */
    float *samples;                       /* out, host: (count, channels, height, width); may be NULL */
    ousac_counters *counters;             /* out; may be NULL */
    double *seconds;                      /* out: wall time of the whole run; may be NULL */
    /* After every denoising step of every micro-batch, from any thread: samples x steps done so far. May be
     * NULL. */
    void (*progress)(void *self, uint64_t done, uint64_t total);
    void *progress_self;
    const ousac_stop *stop; /* asked: stop at the next step with INTERRUPTED; may be NULL */
} ousac_run;

/* The coefficients of the schedule's steps; ousac_free. The timesteps must be the model's. */
ousac_status ousac_run_solver_steps(const ousac_model *model, const ousac_schedule *schedule,
                                    ousac_solver_step **steps, ousac_error *error);

/* How the model's samples are made of values. */
ousac_solver_layout ousac_run_layout(const ousac_model *model);

/* USAGE where the schedule has timesteps that the model does not have, or evaluates an unconditional branch
 * that it cannot run. */
ousac_status ousac_run_check_schedule(const ousac_model *model, const ousac_schedule *schedule,
                                      ousac_error *error);

/* Errors: USAGE (timesteps that the model does not have, an unconditional branch that it cannot run, an
 * unaligned first sample), NUMBER naming step and branch where the state stops being finite, INTERRUPTED. */
ousac_status ousac_run_samples(const ousac_run *run, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
