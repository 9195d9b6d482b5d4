/* The published methods against the pipeline that is run today: at most a share of the reference's
 * multiply-accumulates, judged by the distance of the final samples from the reference's own, on samples that nothing
 * was chosen on.
 *
 *     fewer-steps         as many of the reference's steps as the budget pays for, evenly chosen, uncached
 *     fewer-steps-dpmpp   as many steps of DPM-Solver++ 2M, at those timesteps or as a scheduler lays them out
 *     reuse               module outputs of the last full step (FORA, arXiv 2407.01425) on the reference's own steps,
 *                         full at every p-th, with the least p that fits
 *     extrapolation       the same along the line of the last two full steps (TaylorSeer, arXiv 2503.06923)
 *     goc                 the same along the change of the last two steps (GOC, arXiv 2503.05156), profile/run/executor.h,
 *                         but at inflections, pipeline/inflection.h; with either weight of its code, on the reference's
 *                         steps at the least period or at its own, 2, on as many of them as fit
 *     svd, ca-svd, cd-svd corrections of the linears (ICC, arXiv 2505.05829) on the reference's steps, full at every
 *                         p-th, the largest uniform rank that fits, p from 2 to 8
 *     ...+placement+forecast
 *                         the same factors with refreshes placed by our search (pipeline/place.h), from the best p on,
 *                         and our forecast
 *     ousac-published     guidance by evolution (pipeline/evolve.h) over 5/3 as many steps as fewer-steps has, then
 *                         ca-svd with ranks by regions (arXiv 2512.14096)
 *
 * Where there is a choice, the validation samples make it. Calibration samples, validation and test are disjoint, and
 * all methods see the same noise.
 */
#ifndef OUSAC_YARDSTICK_H
#define OUSAC_YARDSTICK_H

#include "calib/stats/stats.h"
#include "pipeline/evolve.h"
#include "pipeline/session.h"

#include <stddef.h>
#include <stdint.h>

typedef enum ousac_rival {
    OUSAC_RIVAL_FEWER,
    OUSAC_RIVAL_DPMPP,
    OUSAC_RIVAL_REUSE,
    OUSAC_RIVAL_EXTRAPOLATION,
    OUSAC_RIVAL_GOC,
    OUSAC_RIVAL_SVD,
    OUSAC_RIVAL_CA_SVD,
    OUSAC_RIVAL_CD_SVD,
    OUSAC_RIVAL_SVD_PLACED,
    OUSAC_RIVAL_CA_SVD_PLACED,
    OUSAC_RIVAL_CD_SVD_PLACED,
    OUSAC_RIVAL_OUSAC,
    OUSAC_RIVALS
} ousac_rival;
const char *ousac_rival_name(ousac_rival rival);
#define OUSAC_RIVAL_WORDS                                                                                    \
    "fewer-steps|fewer-steps-dpmpp|reuse|extrapolation|goc|svd|ca-svd|cd-svd|svd+placement+forecast|"        \
    "ca-svd+placement+forecast|cd-svd+placement+forecast|ousac-published"

#define OUSAC_YARDSTICK_CALIBRATION 32 /* literals, like every default: help prints them as they stand */
#define OUSAC_YARDSTICK_VALIDATION 24
#define OUSAC_YARDSTICK_GENERATIONS 15

typedef struct ousac_yardstick_row {
    const char *method;
    const char *left_out; /* why it does not apply; NULL: it does, and the rest is set */
    char settings[160];   /* what it was run with, for a person */
    size_t steps;
    double macs_share;    /* of the reference's; at most the budget */
    double seconds_share; /* wall time of the run over the reference's */
    ousac_interval error; /* relative, of the final sample against the reference's */
    double median, worst; /* of single samples */
    double validation;    /* the error on the validation samples; NAN where nothing was chosen */
    double seconds;       /* to find it */
    uint64_t
        evaluations; /* branch evaluations to find it, over samples; those of a placement's probe left out */
} ousac_yardstick_row;

typedef struct ousac_yardstick {
    char reference_name[OUSAC_SCHEDULE_NAME_BYTES];
    char solver[OUSAC_SCHEDULE_NAME_BYTES];
    size_t reference_steps;
    double budget;
    uint64_t macs; /* of a sample's trajectory, at most */
    ousac_sample_range calibration, validation, test;
    ousac_yardstick_row row[OUSAC_RIVALS];
    size_t row_count;
} ousac_yardstick;

typedef struct ousac_yardstick_options {
    const ousac_schedule *reference; /* as in ousac_search_options */
    double budget;                   /* of its MACs, above 0, below 1 */
    unsigned rivals;                 /* bits, 1 << ousac_rival */
    uint64_t calibration;            /* samples, from 0; at least OUSAC_YARDSTICK_LEAST */
    uint64_t validation;             /* behind them, at least 1 */
    ousac_sample_range test;         /* behind those */
    size_t generations;              /* of the evolution */
    /* After every row; may be NULL. An error of it ends the comparison. */
    ousac_status (*finished)(void *self, const ousac_yardstick *so_far, ousac_error *error);
    void *self;
} ousac_yardstick_options;

enum { OUSAC_YARDSTICK_LEAST = 24 }; /* a placement takes 8 to calibrate on and 16 to search on */

/* Errors: USAGE as of ousac_search, and where samples overlap; those of the steps. After INTERRUPTED the result holds
 * the rows that were complete. Nothing is to be freed. */
ousac_status ousac_yardstick_run(const ousac_session *session, const ousac_yardstick_options *options,
                                 ousac_yardstick *result, ousac_error *error);

#endif
