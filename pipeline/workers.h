/* Processes that share the work of a session: the other ranks of an MPI job (tools/mpi/), or whatever an embedder has.
 *
 * The command itself runs in one process and knows nothing of this: the pipeline's own steps hand parts of their work
 * over. Results do not depend on how many workers there are, but for the rounding of float64 sums.
 */
#ifndef OUSAC_WORKERS_H
#define OUSAC_WORKERS_H

#include "pipeline/partial.h"
#include "pipeline/session.h"
#include "profile/bundle/factorise.h"
#include "profile/record/forecast_fit.h"
#include "profile/record/run_text.h"

struct ousac_workers {
    /* Every worker loads the model: MISMATCH where one finds another under that path. */
    ousac_status (*load)(const ousac_session_model *options, const ousac_model *model, ousac_error *error);
    /* As ousac_session_run_samples, for runs without observers. */
    ousac_status (*run)(const ousac_session *session, const ousac_session_run *run, ousac_error *error);
    /* Records `range` into the profile, whose arch, schedule, identity and weights say what is recorded. Each worker
     * keeps a partial of its own beside that of `partial` (may be NULL). */
    ousac_status (*record)(const ousac_session *session, const char *label, const ousac_sample_range *range,
                           const ousac_partial *partial, ousac_profile *profile, ousac_record_cost *cost,
                           ousac_error *error);
    /* The profile is complete and in its file: the workers' partials go. */
    void (*recorded)(const ousac_partial *partial);
    ousac_status (*factors)(const ousac_session *session, const ousac_profile *profile, ousac_method method,
                            ousac_factor_set **set, ousac_error *error);
    /* An exact run whose sums `fit`, made with `calibration`, collects. */
    ousac_status (*fit)(const ousac_session *session, const ousac_session_run *run,
                        const ousac_calibration *calibration, ousac_forecast_fit *fit, ousac_error *error);
    /* Called now and then during long work, from any thread: learns whether another worker failed, and then asks the
     * session's stop. */
    void (*poll)(void);
};

#endif
