/* A small FLUX in files, loaded, and its oracle: what the tests of that family have in common. */
#ifndef OUSAC_TESTS_FLUX_SESSION_H
#define OUSAC_TESTS_FLUX_SESSION_H

#include "formats/schedule.h"
#include "profile/run/runner.h"
#include "tests/support/scratch.h"
#include "tests/support/small_flux.h"

enum { FLUX_SEED = 5, FLUX_SAMPLES = 5, FLUX_STEPS = 7 };

typedef struct flux_session {
    scratch directory;
    /* Inputs; the same weights under both namings; weights without a guidance embedder. */
    char inputs[SCRATCH_PATH_BYTES], weights[SCRATCH_PATH_BYTES], authors[SCRATCH_PATH_BYTES],
        unguided[SCRATCH_PATH_BYTES];
    ousac_model *model; /* of `weights`, on the CPU */
    naive_flux *oracle;
} flux_session;
extern flux_session flux;

/* Every mode, gate and way of being told a guidance. */
extern ousac_step flux_steps[FLUX_STEPS];
extern const ousac_schedule flux_schedule;

/* For a group of cmocka. */
int flux_session_open(void **state);
int flux_session_close(void **state);

/* || a - b || / || b || */
double flux_relative(const float *a, const float *b, size_t count);
/* All samples under the schedule, into `samples` and `counters`, which may be NULL. */
ousac_run flux_run_of(float *samples, ousac_counters *counters);

#endif
