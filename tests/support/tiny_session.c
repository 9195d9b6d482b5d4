#include "tests/support/tiny_session.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/profile_support.h"

enum { STEPS_MAX = 64 };

void tiny_session_open(tiny_session *tiny, const random_dit_options *options) {
    const random_dit_options usual = random_dit_defaults();
    ousac_error error = {0};
    scratch_create(&tiny->directory);
    must_succeed(random_dit_write(tiny->directory.path, options ? options : &usual, &error), &error);
    (void)scratch_path(&tiny->directory, "model.safetensors", tiny->model_path);
    must_succeed(ousac_model_load(&tiny->model, tiny->model_path, NULL, ousac_backend_cpu(), &error), &error);
    tiny->session = (ousac_session){.model = tiny->model, .seed = 3, .micro_batch = 2, .threads = 2};
}

void tiny_session_close(tiny_session *tiny) {
    ousac_model_free(tiny->model);
    scratch_remove(&tiny->directory);
}

void tiny_schedule(ousac_schedule *schedule, size_t count, double scale, size_t guided, size_t period) {
    double scales[STEPS_MAX];
    ousac_gate gates[STEPS_MAX];
    ousac_error error = {0};
    assert_true(count <= STEPS_MAX);
    for (size_t i = 0; i < count; i++) {
        scales[i] = i % guided == 0 ? scale : NAN;
        gates[i] = i % period == 0 ? OUSAC_GATE_FULL : OUSAC_GATE_CACHED;
    }
    const ousac_schedule_options options = {"made",          count,  1000,  OUSAC_SPACING_LINSPACE,
                                            OUSAC_MODE_COND, scales, gates, OUSAC_SOLVER_DDIM};
    must_succeed(ousac_schedule_build(schedule, &options, &error), &error);
}
