/* A calibration as a whole: from a schedule, or from what is run today and a budget, to a bundle.
 *
 *     schedule  searched for (pipeline/search.h), or given and its open gates decided (pipeline/gates.h)
 *     profile   a pilot for the step weights, then the deltas
 *     bundle    factors, ranks, after a search the free numbers once more on the trajectory as it ships, and all of
 *               it packed and verified
 *
 * Each writes its file when it is complete. The same job, begun again where one was interrupted, goes on from what
 * there is.
 */
#ifndef OUSAC_JOB_H
#define OUSAC_JOB_H

#include "pipeline/allocate.h"
#include "pipeline/factors.h"
#include "pipeline/pack.h"
#include "pipeline/partial.h"
#include "pipeline/record_auto.h"
#include "pipeline/search.h"
#include "pipeline/search_time.h"

#include <stddef.h>
#include <stdint.h>

/* An automatic effort is quick where an evaluation of one branch takes more multiply-accumulates than this, else full:
 * a full search takes more than a hundred thousand of them. */
#define OUSAC_EFFORT_AUTO_MACS 1e10

/* What a job leaves in its directory, and what stands there while it is under way. */
enum {
    OUSAC_JOB_SCHEDULE, /* schedule.json */
    OUSAC_JOB_WEIGHTS,  /* weights.oca: of the steps, by the pilot */
    OUSAC_JOB_PROFILE,  /* profile.oca */
    OUSAC_JOB_PLAN,     /* plan.oca */
    OUSAC_JOB_BUNDLE,   /* bundle.oca */
    OUSAC_JOB_TIME,     /* time.json: where time was measured */
    OUSAC_JOB_RESULTS,
    OUSAC_JOB_GATES = OUSAC_JOB_RESULTS, /* gates.part: those decided here */
    OUSAC_JOB_SEARCH,                    /* search.part: the candidates */
    OUSAC_JOB_MARKER,                    /* calibrate.part: the profile is complete */
    OUSAC_JOB_PARTIAL,                   /* profile.oca.part: it is not */
    OUSAC_JOB_FILES
};
const char *ousac_job_file_name(int file);

typedef struct ousac_job_options {
    const char *directory; /* made where it is missing */
    const char *schedule;  /* a file; NULL: searched for */
    const char *reference; /* a file: what is run today; NULL only where a schedule is given */
    size_t period;       /* of open gates: within the cost of every so-manieth step; 0: OUSAC_PLACE_PERIOD */
    ousac_effort effort; /* of a search; an automatic one is decided by the check */
    int curve;           /* of a search: 1: fewer steps are measured at other costs too */
    double budget_time;  /* of a search, instead of choose.budget: seconds over the reference's; NAN */
    const char *time;    /* of that: measurements (formats/TIME.md); NULL: made here */
    size_t samples;      /* calibration samples, from 0; 0: as many as `automatic` finds enough */
    size_t validation;   /* samples behind those and a search's */
    size_t test;         /* samples behind all of these that the caller tests on: nothing else uses them */
    ousac_record_auto_options automatic; /* its budget is not looked at */
    size_t tokens;                       /* recorded of a sample; 0: at most OUSAC_DEFAULT_TOKENS */
    ousac_method made_of;                /* what factors are made of */
    ousac_choice_options choose;         /* and the budget; validation is not looked at */
    ousac_pack_storage storage;
    ousac_partial_options partial;
    const char *spill; /* NULL, or a directory in which to keep the moments */
} ousac_job_options;

enum { OUSAC_JOB_PLACING, OUSAC_JOB_PROFILING, OUSAC_JOB_PACKING, OUSAC_JOB_STEPS };

typedef struct ousac_job {
    ousac_job_options options;
    char *path[OUSAC_JOB_FILES];
    ousac_schedule reference; /* empty where none was given */
    ousac_schedule schedule;  /* as it stands; open gates spaced evenly until they are decided */
    int open;                 /* 1: its gates were left to a plan */
    int effort_decided;       /* 1: the effort was left to the model's size */
    ousac_timing timing;      /* under a budget in time */
    char budget_text[OUSAC_SEARCH_TIME_BYTES];
    ousac_search_result found; /* of a search; count 0 without one */
    int uncached;              /* 1: no cache pays; the schedule is all, and nothing was recorded or packed */
    ousac_choice_options choose; /* how ranks were chosen */
    ousac_sample_range samples, validation;
    ousac_sample_range searched; /* behind gates or a search; count 0 for none */
    uint64_t next_sample;        /* the first that nothing has used, a multiple of the micro-batch */
    ousac_partial partial;
    ousac_profile *pilot, *profile;
    ousac_factor_set *set;
    ousac_choice choice;
    ousac_fit_report fit; /* after a search */
    ousac_record_cost cost;
    double seconds[OUSAC_JOB_STEPS]; /* wall time */
} ousac_job;

/* 1 where the schedule is to be searched for, and by a budget in time. */
int ousac_job_searches(const ousac_job *job);
int ousac_job_is_timed(const ousac_job *job);

/* Loads what is given and checks what needs no model. Texts of the options are not copied. Free with ousac_job_free,
 * also after a failure. USAGE naming the field; errors of reading. */
ousac_status ousac_job_begin(ousac_job *job, const ousac_job_options *options, ousac_error *error);
void ousac_job_free(ousac_job *job);

/* What it searches with. Borrows from the job. */
ousac_search_options ousac_job_search_options(const ousac_job *job);

/* Samples of the pilot; 1 where the factors need channel magnitudes. */
size_t ousac_job_pilot(const ousac_job_options *options);
int ousac_job_magnitudes(const ousac_job_options *options);

/* What the model has to say against it, before anything is run: budgets out of reach, tokens, timesteps, branches. Times
 * that are given are checked against the session. */
ousac_status ousac_job_check(ousac_job *job, const ousac_session *session, ousac_error *error);

/* Everything, into the directory. */
ousac_status ousac_job_run(ousac_job *job, const ousac_session *session, ousac_error *error);

/* After a run and whatever was done with its bundle: the profile gets the schedule that ships, and what stood there to go
 * on from is removed. */
ousac_status ousac_job_finish(ousac_job *job, const ousac_session *session, ousac_error *error);

#endif
