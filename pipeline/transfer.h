/* A bundle under a schedule that it was not made for: how good it still is, and whether recalibrating pays.
 * Keys of the JSON form: formats/EVAL.md.
 *
 * On the evaluated samples three runs under the new schedule are compared with its exact run:
 *     reuse         without correction            (of the evaluation, pipeline/evaluation.h)
 *     calibrated    the bundle, transferred: its factors as they are, its forecast mapped by timestep
 *                   (profile/bundle/forecast_map.h)      (of the evaluation)
 *     recalibrated  the plan's ranks, with factors and forecast measured anew under the new schedule, on a
 * few calibration samples disjoint from the evaluated ones
 */
#ifndef OUSAC_TRANSFER_H
#define OUSAC_TRANSFER_H

#include "calib/stats/paired.h"
#include "pipeline/evaluation.h"
#include "profile/bundle/bundle.h"
#include "profile/record/run_text.h"

/* Recalibrating pays where the transferred error is surely more than this times the recalibrated one. */
#define OUSAC_TRANSFER_THRESHOLD 1.1
#define OUSAC_TRANSFER_SAMPLES 16

typedef struct ousac_transfer {
    char from_name[OUSAC_SCHEDULE_NAME_BYTES]; /* the bundle's schedule */
    char from_digest[OUSAC_DIGEST_CHARS];
    int forecast; /* 1: the plan has one, and it was mapped */
    int corrects; /* 0: no evaluation under the new schedule is corrected: nothing to compare */
    ousac_sample_range calibration; /* samples of the recalibration; count 0 where it was not asked for */
    ousac_record_cost cost;         /* of recording them */
    double seconds;                 /* wall time of the recalibration: pilot, profile, factors and forecast */
    ousac_eval_run run;             /* the recalibrated run; samples NULL where there was none */
    ousac_difference difference;    /* recalibrated against exact */
    ousac_interval ratio;           /* relative error, transferred over recalibrated */
    double threshold;
    ousac_paired_verdict verdict; /* ABOVE: recalibrate */
    size_t more;                  /* of samples, that might decide; 0 where none might or it is decided */
} ousac_transfer;

typedef struct ousac_transfer_options {
    const ousac_schedule *from, *to; /* the bundle's schedule, the new one */
    const ousac_plan *plan;          /* its forecast fits `to` */
    size_t samples;                  /* of the recalibration, from 0; 0: none, and no verdict */
    double threshold;
} ousac_transfer_options;

/* USAGE where the evaluated samples overlap those of the recalibration. */
ousac_status ousac_transfer_check(const ousac_sample_range *evaluated, size_t samples, ousac_error *error);

/* `plan` with its forecast mapped from one schedule to the other. */
ousac_status ousac_transfer_plan(ousac_plan **mapped, const ousac_plan *plan, const ousac_schedule *from,
                                 const ousac_schedule *to, ousac_error *error);

/* Recalibrates and compares; `result` is the evaluation of the transferred plan under `to`. Free with
 * ousac_transfer_free. */
ousac_status ousac_transfer_create(ousac_transfer *t, const ousac_session *session,
                                   const ousac_transfer_options *options, const ousac_eval *result,
                                   ousac_error *error);
void ousac_transfer_free(ousac_transfer *t);

#endif
