/* What the files of the yardstick share; pipeline/yardstick.h is the door.
 */
#ifndef OUSAC_YARDSTICK_PARTS_H
#define OUSAC_YARDSTICK_PARTS_H

#include "calib/price.h"
#include "pipeline/gauge.h"
#include "pipeline/yardstick.h"

typedef struct yardstick {
    const ousac_session *session; /* counts evaluations */
    const ousac_yardstick_options *options;
    ousac_yardstick *result;
    ousac_gauge test, validation; /* of the reference */
    ousac_schedule reference;     /* all gates full */
    ousac_price price;            /* multiply-accumulates */
    /* of the published factors, made once they are asked for */
    ousac_profile *profile;
    ousac_factor_set *set[OUSAC_METHOD_COUNT];
} yardstick;

/* A way to run, settled but for the test. */
typedef struct yardstick_arm {
    ousac_schedule schedule; /* owned */
    ousac_gauge_arm how;     /* its schedule is this one */
    double validation;       /* INFINITY before the first */
    char settings[160];
} yardstick_arm;
void yardstick_arm_free(yardstick_arm *arm);

/* Measures `how` under `schedule` on the validation samples, and takes it where it is better than what `best` holds. Of
 * `how` nothing but the schedule is copied. */
ousac_status yardstick_try(yardstick *y, const ousac_schedule *schedule, const ousac_gauge_arm *how,
                           const char *settings, yardstick_arm *best, ousac_error *error);
/* Measures on the test samples and fills errors, cost and settings of a row. INTERNAL where it costs more than the
 * budget. */
ousac_status yardstick_finish(yardstick *y, const yardstick_arm *arm, ousac_yardstick_row *row,
                              ousac_error *error);

/* Rows of one kind; each fills `row`, or says why it is left out. */
ousac_status yardstick_corrected(yardstick *y, ousac_method method, ousac_yardstick_row *row,
                                 ousac_error *error);
/* As many rows as there are bits (1 << ousac_method) in `methods`, `row` indexed by the method. */
ousac_status yardstick_placed(yardstick *y, unsigned methods, ousac_yardstick_row *row[OUSAC_METHOD_COUNT],
                              ousac_error *error);
ousac_status yardstick_evolved(yardstick *y, ousac_yardstick_row *row, ousac_error *error);
void yardstick_free_factors(yardstick *y);

#endif
