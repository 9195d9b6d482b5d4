/* What ranks do for one another: a job as rank 0 describes it and the others read it, and the parts of the
 * work that both sides do in the same way.
 */
#ifndef OUSAC_MPI_JOBS_H
#define OUSAC_MPI_JOBS_H

#include "pipeline/partial.h"
#include "profile/bundle/factorise.h"
#include "tools/mpi/wire.h"

#include <stddef.h>
#include <stdint.h>

enum { JOB_LOAD = 1, JOB_RUN, JOB_RECORD, JOB_REDUCE, JOB_RECORDED, JOB_FACTORS, JOB_FIT, JOB_END };

/* Seed, micro-batch, threads and schedule: what every run needs. */
void job_put_runs(wire *w, const ousac_session *session, const ousac_schedule *schedule);
/* A session of a silent rank, which learns of a stop while it works; `schedule` is the caller's to free. */
ousac_status job_take_runs(wire *w, const ousac_model *model, ousac_session *session,
                           ousac_schedule *schedule, ousac_error *error);

/* NULL is told from a calibration. */
ousac_status job_put_calibration(wire *w, const ousac_model *model, const ousac_calibration *calibration,
                                 ousac_error *error);
ousac_status job_take_calibration(wire *w, const ousac_model *model, ousac_calibration **calibration,
                                  ousac_error *error);

void job_put_range(wire *w, const ousac_sample_range *range);
ousac_sample_range job_take_range(wire *w);

/* Arch, schedule, identity, weights and whether there are moments: an empty profile like this one. */
void job_put_subject(wire *w, const ousac_profile *profile);
ousac_status job_take_subject(wire *w, const ousac_model *model, const ousac_schedule *schedule,
                              ousac_profile **profile, ousac_error *error);

/* A rank's factors of the groups that it owns, and into a set. */
void job_put_factors(wire *w, const ousac_arch *arch, const ousac_factor_set *set, const size_t *owner,
                     size_t rank);
ousac_status job_take_factors(wire *w, const ousac_arch *arch, ousac_factor_set *set, const size_t *owner,
                              size_t rank, ousac_error *error);

/* How a rank answers: its status, and behind it what the job asked for. */
void job_put_status(wire *w, ousac_status status, const ousac_error *error);
/* The status of `rank`, which its message names. */
ousac_status job_take_status(wire *w, size_t rank, ousac_error *error);

/* OUTPUT.K-of-N.part: what a rank keeps beside OUTPUT.part, whose path is given. Without ".part", as
 * ousac_partial_open wants it; ousac_free. */
char *job_part_path(const char *partial_path, size_t rank, size_t ranks);

/* The sums of every micro-batch of a pilot by itself: added in the order of the samples they are to the last
 * bit those of one process. */
typedef struct job_harvest {
    double *sums;               /* owned: [batch][sum] */
    size_t batches, batch_size; /* values of one batch */
} job_harvest;

/* Records samples [part] into `profile`; with `partial` (may be NULL) from what it holds and with
 * checkpoints. With `harvest` (else NULL) the profile's sums are left zero and the batches' go there.
 * *forwards receives what this and the runs before did. `part` may be empty. */
ousac_status job_record(const ousac_session *session, const char *label, const ousac_sample_range *part,
                        ousac_partial *partial, ousac_profile *profile, job_harvest *harvest,
                        uint64_t *forwards, ousac_error *error);
/* Adds one harvested batch. */
void job_add_batch(ousac_profile *profile, const double *sums);

/* Whether a sum of the profile (ousac_profile_sum) is a moment, and of which group. */
int job_sum_is_moment(const ousac_profile *profile, size_t index, size_t *group);

/* This rank's part in the sum of every rank's `profile`, which ends on rank 0: pairs at distance 1, 2, 4,
 * ..., in this fixed order. Other ranks' profiles are used up. */
void job_reduce(ousac_profile *profile);

#endif
