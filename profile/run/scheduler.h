/* The schedule that a scheduler of diffusers stands for: from its scheduler_config.json and a number of steps, which
 * timesteps it visits and what it makes of the state there, update for update. Steps that are not the solver's between
 * these timesteps (DDIM's go to t - T / S, its last to the first alpha, Euler's interpolate their levels) get the
 * coefficients k and m of formats/SCHEDULE.md.
 *
 *     DDIMScheduler                     ddim; eta 0, no clipping
 *     DPMSolverMultistepScheduler       dpmpp-2m, or ddim for order 1; dpmsolver++, midpoint
 *     EulerDiscreteScheduler            ddim: the same steps in the state over alpha; no churn
 *     FlowMatchEulerDiscreteScheduler   flow-euler; a fixed shift, or one by resolution
 *
 * Formulas from diffusers' schedulers/scheduling_*.py, 0.42. Every option that such a schedule cannot say is refused by
 * its name, whatever its value would do.
 */
#ifndef OUSAC_SCHEDULER_H
#define OUSAC_SCHEDULER_H

#include "formats/schedule.h"
#include "formats/status.h"
#include "profile/model/noise.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_scheduler_request {
    size_t steps;
    size_t height,
        width; /* of the picture, pixels, for a shift by resolution: a token is 16 x 16; 0: not given */
    int own_sigmas; /* a flow's levels before the shift. 0: from 1 to 1 / steps, as FLUX's pipelines hand them over;
                             1: those of set_timesteps(steps), as SD3's pipelines take them */
} ousac_scheduler_request;

/* What goes with the schedule. */
typedef struct ousac_scheduler_terms {
    char scheduler[64];          /* its class */
    ousac_noise_kind kind;       /* levels that it is for, */
    size_t train_steps;          /* T, */
    ousac_prediction prediction; /* and what the model must predict; coefficients hold for that alone */
    double start;                /* the first state is this times normal noise; 1 but for some of Euler's */
} ousac_scheduler_terms;

/* `text` of `size` bytes is the config, `name` its file in messages. Fills solver, timesteps and coefficients; every
 * step is of mode COND with full gates. Errors: FORMAT for a config that is none; UNSUPPORTED naming the class or the
 * option that cannot be said; USAGE for steps or a size that do not fit. The schedule is zeroed then; free it with
 * ousac_schedule_free. */
ousac_status ousac_scheduler_schedule(ousac_schedule *schedule, ousac_scheduler_terms *terms,
                                      const char *text, size_t size, const char *name,
                                      const ousac_scheduler_request *request, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
