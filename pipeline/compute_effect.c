#include "pipeline/compute_effect.h"

#include "formats/memory.h"
#include "pipeline/record.h"
#include "profile/run/runner.h"

#include <math.h>
#include <stdio.h>

/* Delta energy of a group over the cached evaluations. */
static double group_energy(const ousac_profile *pilot, size_t group) {
    const size_t groups = pilot->arch.group_count;
    double sum = 0;
    for (size_t at = 0; at < pilot->schedule.step_count * OUSAC_BRANCHES; at++)
        if (pilot->gate[at] == OUSAC_GATE_CACHED)
            sum += pilot->scalar[OUSAC_SCALAR_DX2][at * groups + group];
    return sum;
}

static void compare_energies(const ousac_profile *rounded, const ousac_profile *plain,
                             ousac_compute_effect *effect) {
    double changed = 0, all = 0;
    for (size_t g = 0; g < plain->arch.group_count; g++) {
        const double now = group_energy(rounded, g), then = group_energy(plain, g);
        const double change = then > 0 ? fabs(now - then) / then : 0;
        changed += now - then;
        all += then;
        if (g == 0 || change > effect->worst) {
            effect->worst = change;
            (void)snprintf(effect->group, sizeof effect->group, "%s", plain->arch.groups[g].name);
        }
    }
    effect->energy = all > 0 ? changed / all : 0;
}

static ousac_status draw(const ousac_session *session, const ousac_model *model,
                         const ousac_schedule *schedule, uint64_t samples, float *out, ousac_error *error) {
    const ousac_run run = {.model = model,
                           .schedule = schedule,
                           .seed = session->seed,
                           .count = samples,
                           .micro_batch = session->micro_batch,
                           .threads = ousac_session_threads(session),
                           .exact = 1,
                           .samples = out,
                           .stop = session->stop};
    return ousac_run_samples(&run, error);
}

ousac_status ousac_compute_effect_measure(const ousac_session *session, const ousac_session_model *options,
                                          const ousac_schedule *schedule, uint64_t samples,
                                          const ousac_profile *pilot, ousac_compute_effect *effect,
                                          ousac_error *error) {
    ousac_session_model in_f32 = *options;
    ousac_model *model = NULL;
    ousac_profile *plain = NULL, *rounded = NULL;
    float *a = NULL, *b = NULL;
    double wrong = 0, square = 0;
    ousac_record_cost uncounted = {0};
    in_f32.bf16 = 0;
    *effect = (ousac_compute_effect){.samples = samples};
    ousac_status status = ousac_session_load_model(&model, &in_f32, session->workers, error);
    if (status)
        return status;
    ousac_session plain_session = *session;
    plain_session.model = model;
    const size_t size = ousac_model_sample_size(model);
    status = ousac_record_pilot(&plain_session, schedule, samples, NULL, &plain, &uncounted, error);
    if (!status && !pilot)
        status = ousac_record_pilot(session, schedule, samples, NULL, &rounded, &uncounted, error);
    if (status)
        goto done;
    compare_energies(pilot ? pilot : rounded, plain, effect);
    if (samples > SIZE_MAX / size || !(a = ousac_malloc((size_t)samples * size, sizeof *a)) ||
        !(b = ousac_malloc((size_t)samples * size, sizeof *b))) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the pilot's samples");
        goto done;
    }
    status = draw(session, session->model, schedule, samples, a, error);
    if (!status)
        status = draw(session, model, schedule, samples, b, error);
    for (size_t i = 0; !status && i < (size_t)samples * size; i++) {
        const double difference = (double)a[i] - (double)b[i];
        wrong += difference * difference;
        square += (double)b[i] * (double)b[i];
    }
    effect->output = square > 0 ? sqrt(wrong / square) : 0;
done:
    ousac_free(a);
    ousac_free(b);
    ousac_profile_free(plain);
    ousac_profile_free(rounded);
    ousac_model_free(model);
    return status;
}
