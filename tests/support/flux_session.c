#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <sys/stat.h>

#include "tests/support/flux_session.h"
#include "tests/support/profile_support.h"

flux_session flux;

#define GATES(c, u)                                                                                          \
    { OUSAC_GATE_##c, OUSAC_GATE_##u }
ousac_step flux_steps[FLUX_STEPS] = {{1000, OUSAC_MODE_COND, 1, GATES(FULL, FULL), 1, 5.5},
                                     {871.5, OUSAC_MODE_CFG, 3, GATES(CACHED, FULL), 1, 0.25},
                                     {700.25, OUSAC_MODE_CFG, 2, GATES(FULL, CACHED), 0, 0},
                                     {512, OUSAC_MODE_CFG, 2.5, GATES(CACHED, FULL), 1, 4},
                                     {300.125, OUSAC_MODE_COND, 1, GATES(REUSE, FULL), 0, 0},
                                     {180, OUSAC_MODE_CFG, 1.5, GATES(CACHED, CACHED), 1, 0},
                                     {90.75, OUSAC_MODE_UNCOND, 1, GATES(FULL, CACHED), 1, 7}};
const ousac_schedule flux_schedule = {
    .name = "flux", .solver = OUSAC_SOLVER_FLOW_EULER, .step_count = FLUX_STEPS, .steps = flux_steps};

int flux_session_open(void **state) {
    ousac_error error = {0};
    (void)state;
    scratch_create(&flux.directory);
    scratch_join(flux.inputs, flux.directory.path, "inputs.safetensors");
    scratch_join(flux.weights, flux.directory.path, "weights.safetensors");
    scratch_join(flux.authors, flux.directory.path, "authors.safetensors");
    scratch_join(flux.unguided, flux.directory.path, "unguided");
    assert_int_equal(mkdir(flux.unguided, 0700), 0);
    scratch_join(flux.unguided, flux.unguided, "weights.safetensors");
    must_succeed(small_flux_write_inputs(flux.inputs, 9, 1, 1, &error), &error);
    must_succeed(small_flux_write(flux.weights, 2, SMALL_FLUX_DIFFUSERS, 1, &error), &error);
    must_succeed(small_flux_write(flux.authors, 2, SMALL_FLUX_AUTHORS, 1, &error), &error);
    must_succeed(small_flux_write(flux.unguided, 2, SMALL_FLUX_DIFFUSERS, 0, &error), &error);
    const ousac_model_options options = {.inputs_path = flux.inputs};
    must_succeed(ousac_model_load(&flux.model, flux.weights, &options, ousac_backend_cpu(), &error), &error);
    must_succeed(naive_flux_open(&flux.oracle, flux.weights, &error), &error);
    return 0;
}

int flux_session_close(void **state) {
    (void)state;
    ousac_model_free(flux.model);
    naive_flux_close(flux.oracle);
    scratch_remove(&flux.directory);
    return 0;
}

double flux_relative(const float *a, const float *b, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)a[i] - (double)b[i], 2);
        norm += pow((double)b[i], 2);
    }
    return sqrt(difference / norm);
}

ousac_run flux_run_of(float *samples, ousac_counters *counters) {
    return (ousac_run){.model = flux.model,
                       .schedule = &flux_schedule,
                       .seed = FLUX_SEED,
                       .count = FLUX_SAMPLES,
                       .micro_batch = 2,
                       .threads = 2,
                       .samples = samples,
                       .counters = counters};
}
