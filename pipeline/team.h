/* Processes that share the work of one command. The program runs alone; the one built by `make mpi` has the
 * other ranks of its MPI job at hand (tools/mpi/). Which of the two is decided when the program is linked.
 *
 * The command itself runs on rank 0 and knows nothing of this: the pipeline's own steps hand parts of their
 * work to the team. Results do not depend on how many there are, but for the rounding of float64 sums.
 */
#ifndef OUSAC_TEAM_H
#define OUSAC_TEAM_H

#include "pipeline/pipeline.h"
#include "profile/record/forecast_fit.h"

typedef struct pipeline_team {
    /* Every rank loads the model: MISMATCH where a rank finds another one under that path. */
    ousac_status (*load)(const pipeline_model_options *options, const ousac_model *model, ousac_error *error);
    /* As pipeline_run_samples, for runs without observers. */
    ousac_status (*run)(const pipeline_runs *runs, const pipeline_run *run, ousac_error *error);
    /* Records `range` into the profile, whose arch, schedule, identity and weights say what is recorded. Each
     * rank keeps a partial of its own beside that of `partial` (may be NULL). */
    ousac_status (*record)(const pipeline_runs *runs, const char *label, const cli_range *range,
                           const pipeline_partial *partial, ousac_profile *profile, pipeline_cost *cost,
                           ousac_error *error);
    /* The profile is complete and in its file: the ranks' partials go. */
    void (*recorded)(const pipeline_partial *partial);
    ousac_status (*factors)(const pipeline_runs *runs, const ousac_profile *profile, ousac_method method,
                            ousac_factor_set **set, ousac_error *error);
    /* An exact run whose sums `fit`, made with `calibration`, collects. */
    ousac_status (*fit)(const pipeline_runs *runs, const pipeline_run *run,
                        const ousac_calibration *calibration, ousac_forecast_fit *fit, ousac_error *error);
} pipeline_team;

/* NULL where this process is alone, or is not the one that runs the command. */
const pipeline_team *pipeline_team_current(void);

/* To be called now and then during long work, from any thread of any rank: learns whether another rank
 * failed, and then sets cli_stop. */
void pipeline_team_poll(void);

/* pipeline_run_samples and pipeline_factors on this process alone; `rank_max` as in
 * ousac_factorise_options, `groups` NULL for all, else per group 1 where its factors are wanted. */
ousac_status pipeline_run_here(const pipeline_runs *runs, const pipeline_run *run, ousac_error *error);
ousac_status pipeline_factors_here(const pipeline_runs *runs, const ousac_profile *profile,
                                   ousac_method method, const size_t *rank_max, const unsigned char *groups,
                                   ousac_factor_set **set, ousac_error *error);

#endif
