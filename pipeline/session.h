/* What every run of a calibration has in common: the model, how samples are drawn and computed, whom to tell of
 * progress, how to be stopped, and who shares the work. The library prints nothing and reads no option: whoever
 * embeds it fills a session.
 */
#ifndef OUSAC_SESSION_H
#define OUSAC_SESSION_H

#include "formats/schedule.h"
#include "formats/status.h"
#include "formats/stop.h"
#include "profile/model/model.h"
#include "profile/record/profile.h"
#include "profile/run/runner.h"

#include <stddef.h>
#include <stdint.h>

#define OUSAC_DEFAULT_MICRO_BATCH 4 /* a literal, like every default: help prints it as it stands */
enum { OUSAC_MICRO_BATCH_MAX = 4096, OUSAC_SAMPLES_MAX = 1 << 30 };

/* Whom a session tells. Every member may be NULL. */
typedef struct ousac_session_hooks {
    void *self;
    /* A piece of work begins; the handle returned is given to the other two, NULL for nobody to tell. */
    void *(*start)(void *self, const char *label);
    /* From any thread. */
    void (*update)(void *handle, uint64_t done, uint64_t total);
    void (*end)(void *handle);
    /* One line that may interest a person. */
    void (*note)(void *self, const char *line);
} ousac_session_hooks;

typedef struct ousac_workers ousac_workers; /* pipeline/workers.h */

typedef struct ousac_session {
    const ousac_model *model;
    uint64_t seed;                    /* of noise and conditioning */
    size_t micro_batch;               /* samples computed together; part of a profile's identity */
    size_t threads;                   /* at least 1 */
    int threads_chosen;               /* 1: by the user, so that another device's limit does not lower them */
    const ousac_stop *stop;           /* NULL: never */
    const ousac_session_hooks *hooks; /* NULL: nobody is told */
    const ousac_workers *workers;     /* NULL: this process alone */
    uint64_t *evaluations; /* NULL, or where the branch evaluations of its runs are added, over samples */
} ousac_session;

/* A piece of work under way. `update` has the signature that profile/ wants, with the ousac_progress as self; it
 * also learns whether another process of the job has failed. */
typedef struct ousac_progress {
    const ousac_session *session;
    void *handle;
} ousac_progress;
ousac_progress ousac_session_progress(const ousac_session *session, const char *label);
void ousac_progress_update(void *progress, uint64_t done, uint64_t total);
void ousac_progress_end(ousac_progress *progress);

void ousac_session_note(const ousac_session *session, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Which model, and how it is computed. */
typedef struct ousac_session_model {
    const char *path;
    const char *config; /* NULL: beside the checkpoint */
    const char *inputs; /* inputs file; NULL: conditioning and noise are drawn */
    size_t heads;       /* 0: from the config */
    int bf16;           /* 1: the linears in bfloat16 */
    ousac_model_use use;
    const char *device; /* NULL: cpu */
} ousac_session_model;

/* `workers` (may be NULL) load it too, where it is to run: MISMATCH where one finds another model under that path.
 * UNSUPPORTED where this machine has no bfloat16 products. Free with ousac_model_free. */
ousac_status ousac_session_load_model(ousac_model **model, const ousac_session_model *options,
                                      const ousac_workers *workers, ousac_error *error);

/* A schedule that says when it refreshes: USAGE, naming the file, where a gate is left to a plan. */
ousac_status ousac_session_load_schedule(ousac_schedule *schedule, const char *path, ousac_error *error);

/* Threads of a run: those of the session, but on another device at most OUSAC_SESSION_DEVICE_THREADS unless chosen:
 * each keeps caches in the device's memory, of which there is less. */
enum { OUSAC_SESSION_DEVICE_THREADS = 2 };
size_t ousac_session_threads(const ousac_session *session);

/* Samples computed together where errors are compared, in searches, fits and probes: a micro-batch, or half of one where there are no more samples than
 * that, so that two threads have something to do. The number of samples alone decides: results are the same whatever
 * the threads. A device, or a model that computes one evaluation at a time, keeps the micro-batch. */
size_t ousac_session_batch(const ousac_session *session, uint64_t samples);

/* One run. `samples`, `counters`, `seconds` and `observers` may be NULL. */
typedef struct ousac_session_run {
    const char *label; /* of its progress */
    const ousac_schedule *schedule;
    ousac_sample_range range;
    int exact;
    const ousac_calibration *calibration;
    const ousac_gradient *gradient; /* as in ousac_run; it is run in this process */
    const ousac_run_observers *observers;
    float *samples;
    ousac_counters *counters;
    double *seconds;
} ousac_session_run;
/* Shared with the workers where nothing observes it and it has no gradient; the second one runs in this process. */
ousac_status ousac_session_run_samples(const ousac_session *session, const ousac_session_run *run,
                                       ousac_error *error);
ousac_status ousac_session_run_here(const ousac_session *session, const ousac_session_run *run,
                                    ousac_error *error);

#endif
