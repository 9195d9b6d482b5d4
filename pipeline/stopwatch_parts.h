/* What the files of the stopwatch share. */
#ifndef OUSAC_STOPWATCH_PARTS_H
#define OUSAC_STOPWATCH_PARTS_H

#include "pipeline/session.h"
#include "profile/run/calibration.h"

#include <stddef.h>

/* The factor of every forecast that is timed. */
#define OUSAC_STOPWATCH_FORECAST 0.25F

/* Corrections at a uniform rank by the first rows of the weights, with a forecast over `steps`. */
ousac_status ousac_stopwatch_calibration(ousac_calibration **calibration, const ousac_model *model,
                                         size_t rank, size_t steps, ousac_error *error);

/* Runs one sample under a schedule whose gates are full and cached in turns, and looks at every layer's first row.
 * INTERNAL, naming the rank, where it is not what such factors must give. */
ousac_status ousac_stopwatch_check(const ousac_session *session, const ousac_schedule *schedule,
                                   const ousac_calibration *calibration, size_t rank, ousac_error *error);

#endif
