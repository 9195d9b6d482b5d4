#include "pipeline/session.h"

#include "calib/backend/backend_bf16.h"
#include "formats/memory.h"
#include "pipeline/workers.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- progress and notes --- */

ousac_progress ousac_session_progress(const ousac_session *session, const char *label) {
    const ousac_session_hooks *hooks = session->hooks;
    return (ousac_progress){session, hooks && hooks->start ? hooks->start(hooks->self, label) : NULL};
}

void ousac_progress_update(void *self, uint64_t done, uint64_t total) {
    const ousac_progress *progress = self;
    const ousac_session *session = progress->session;
    if (session->workers && session->workers->poll)
        session->workers->poll();
    if (progress->handle && session->hooks->update)
        session->hooks->update(progress->handle, done, total);
}

void ousac_progress_end(ousac_progress *progress) {
    const ousac_session_hooks *hooks = progress->session->hooks;
    if (progress->handle && hooks->end)
        hooks->end(progress->handle);
    progress->handle = NULL;
}

void ousac_session_note(const ousac_session *session, const char *format, ...) {
    char line[OUSAC_ERROR_MESSAGE_BYTES];
    va_list arguments;
    if (!session->hooks || !session->hooks->note)
        return;
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    session->hooks->note(session->hooks->self, line);
}

/* --- model and schedule --- */

/* The backend that such a model runs on, where that is the CPU; NULL where another is opened with the model. */
static ousac_status choose_backend(const ousac_backend **backend, const ousac_session_model *options,
                                   ousac_error *error) {
    const int on_cpu = !options->device || strcmp(options->device, "cpu") == 0;
    *backend = on_cpu ? ousac_backend_cpu() : NULL;
    return on_cpu && options->bf16 ? ousac_backend_bf16(backend, error) : OUSAC_STATUS_OK;
}

ousac_status ousac_session_load_model(ousac_model **model, const ousac_session_model *options,
                                      const ousac_workers *workers, ousac_error *error) {
    const ousac_model_options load = {.config_path = options->config,
                                      .inputs_path = options->inputs,
                                      .heads = options->heads,
                                      .use = options->use,
                                      .device = options->device,
                                      .bf16 = options->bf16};
    const ousac_backend *backend = NULL;
    ousac_status status = choose_backend(&backend, options, error);
    if (!status)
        status = ousac_model_load(model, options->path, &load, backend, error);
    if (!status && workers && options->use == OUSAC_MODEL_RUN &&
        (status = workers->load(options, *model, error))) {
        ousac_model_free(*model);
        *model = NULL;
    }
    return status;
}

ousac_status ousac_session_load_schedule(ousac_schedule *schedule, const char *path, ousac_error *error) {
    int *effective = NULL;
    ousac_status status = ousac_schedule_load(schedule, path, error);
    if (status)
        return status;
    effective = ousac_malloc(schedule->step_count, OUSAC_BRANCHES * sizeof *effective);
    if (!effective) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    } else {
        status = ousac_schedule_effective_gates(schedule, effective, error);
        if (status)
            (void)ousac_error_prefix(error, "%s", path);
    }
    ousac_free(effective);
    if (status)
        ousac_schedule_free(schedule);
    return status;
}

/* --- running --- */

size_t ousac_session_threads(const ousac_session *session) {
    const size_t threads = session->threads;
    const int limited =
        !session->threads_chosen && session->model->device && session->model->backend != ousac_backend_cpu();
    return limited && threads > OUSAC_SESSION_DEVICE_THREADS ? OUSAC_SESSION_DEVICE_THREADS : threads;
}

size_t ousac_session_batch(const ousac_session *session, uint64_t samples) {
    const ousac_model *model = session->model;
    const size_t batch = session->micro_batch;
    const int together = model->device || model->family->one_at_a_time;
    return together || batch % 2 || samples > batch || samples <= batch / 2 ? batch : batch / 2;
}

static void count(const ousac_session *session, const ousac_counters *counters) {
    for (int gate = 0; gate < OUSAC_GATES_RUN && session->evaluations; gate++)
        *session->evaluations += counters->forwards[gate];
}

ousac_status ousac_session_run_samples(const ousac_session *session, const ousac_session_run *run,
                                       ousac_error *error) {
    const ousac_workers *workers = session->workers;
    ousac_counters counters = {0};
    ousac_session_run counted = *run;
    if (!workers || run->observers || run->gradient)
        return ousac_session_run_here(session, run, error);
    if (!counted.counters)
        counted.counters = &counters;
    const ousac_status status = workers->run(session, &counted, error);
    if (!status)
        count(session, counted.counters);
    return status;
}

ousac_status ousac_session_run_here(const ousac_session *session, const ousac_session_run *run,
                                    ousac_error *error) {
    ousac_progress progress = ousac_session_progress(session, run->label);
    ousac_counters counters = {0};
    const ousac_run inner = {
        .model = session->model,
        .schedule = run->schedule,
        .seed = session->seed,
        .first = run->range.first,
        .count = run->range.count,
        .micro_batch = session->micro_batch,
        .threads = ousac_session_threads(session),
        .exact = run->exact,
        .calibration = run->calibration,
        .gradient = run->gradient,
        .observers = run->observers,
        .samples = run->samples,
        .counters = run->counters ? run->counters : &counters,
        .seconds = run->seconds,
        .progress = ousac_progress_update,
        .progress_self = &progress,
        .stop = session->stop,
    };
    const ousac_status status = ousac_run_samples(&inner, error);
    if (!status)
        count(session, inner.counters);
    ousac_progress_end(&progress);
    return status;
}
