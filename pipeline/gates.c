#include "pipeline/gates.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "pipeline/allocate.h"
#include "pipeline/place.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KEY_BYTES = 1024, KEPT_BYTES_MAX = 64 << 20 };

/* One line that says all that a decision depends on. */
static void write_key(const ousac_session *session, const ousac_gates_request *request,
                      const ousac_place_options *options, char key[KEY_BYTES]) {
    char digest[OUSAC_DIGEST_CHARS];
    ousac_schedule_digest(request->even, digest);
    const ousac_model *model = session->model;
    (void)snprintf(key, KEY_BYTES,
                   "gates of schedule %s for model %s, which %s, inputs %s: seed %" PRIu64
                   ", micro-batch %zu, %" PRIu64 " MACs, %zu evaluations, backend %s\n",
                   digest, model->digest, model->process,
                   model->inputs ? ousac_inputs_digest(model->inputs) : "drawn", session->seed,
                   session->micro_batch, options->budget, options->evaluations, model->backend->name);
}

static ousac_status keep(const char *path, const char *key, const ousac_schedule *schedule,
                         ousac_error *error) {
    char *text = NULL, *whole = NULL;
    ousac_status status = ousac_schedule_print(schedule, &text, error);
    const size_t head = strlen(key), size = status ? 0 : strlen(text);
    if (!status && !(whole = ousac_malloc(head + size, 1)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    if (!status) {
        memcpy(whole, key, head);
        memcpy(whole + head, text, size);
        status = ousac_file_replace(path, whole, head + size, error);
    }
    ousac_free(whole);
    ousac_free(text);
    return status;
}

/* 1 where the file holds the schedule of this very search. */
static int take_up(const char *path, const char *key, ousac_schedule *schedule) {
    const size_t head = strlen(key);
    char *text = NULL;
    size_t size = 0;
    ousac_error ignored;
    const int found =
        ousac_file_read_text(&text, &size, path, KEPT_BYTES_MAX, &ignored) == OUSAC_STATUS_OK &&
        size > head && memcmp(text, key, head) == 0 &&
        ousac_schedule_parse(schedule, text + head, size - head, path, &ignored) == OUSAC_STATUS_OK;
    ousac_free(text);
    return found;
}

static void tell(const ousac_session *session, const ousac_place_result *found) {
    ousac_session_note(session,
                       "placed %zu full evaluations in %zu end-to-end runs, %.0f s: relative error %.4g, "
                       "evenly spaced %.4g",
                       found->cost.forwards_full, found->step_count, found->seconds, found->error,
                       found->even_error);
}

ousac_status ousac_gates_decide(const ousac_session *session, const ousac_gates_request *request,
                                ousac_gates_decision *decision, ousac_error *error) {
    const ousac_arch *arch = &session->model->arch;
    const size_t batch = session->micro_batch;
    ousac_place_options options = {.even = request->even,
                                   .samples = OUSAC_PLACE_SAMPLES,
                                   .probe_samples = OUSAC_PLACE_PROBE_SAMPLES,
                                   .horizon = OUSAC_PLACE_HORIZON,
                                   .stride = OUSAC_PLACE_STRIDE,
                                   .evaluations =
                                       request->evaluations ? request->evaluations : OUSAC_PLACE_EVALUATIONS};
    char key[KEY_BYTES];
    ousac_place_result found = {0};
    ousac_cost_total cost;
    uint64_t step_macs = 0;
    size_t rank = 0;
    double step = 0;
    memset(decision, 0, sizeof *decision);
    ousac_status status = ousac_budget_solve(arch, request->even, &request->budget, &step_macs, &step, error);
    if (!status)
        status = ousac_place_budget(arch, request->even, step_macs, &options.budget, &rank, error);
    if (!status)
        status = ousac_cost_trajectory(arch, request->even, NULL, &cost, error);
    if (status)
        return status;
    /* Half a MAC more, so that rounding loses no rank. */
    decision->budget = (ousac_budget){NAN, ((double)options.budget + 0.5) / (double)cost.constant_guidance};
    decision->searched =
        (ousac_sample_range){0, (options.samples + batch - 1) / batch * batch + OUSAC_DEFAULT_SEARCH_SAMPLES};
    write_key(session, request, &options, key);
    decision->resumed = !request->restart && take_up(request->kept, key, &decision->schedule);
    if (decision->resumed) {
        ousac_session_note(session, "%s: the gates that an interrupted run decided", request->kept);
        return OUSAC_STATUS_OK;
    }
    status = ousac_place_search(session, &options, &found, error);
    if (!status)
        status = keep(request->kept, key, &found.schedule, error);
    if (!status) {
        tell(session, &found);
        decision->schedule = found.schedule;
        memset(&found.schedule, 0, sizeof found.schedule);
    }
    ousac_place_result_free(&found);
    return status;
}

void ousac_gates_free(ousac_gates_decision *decision) {
    ousac_schedule_free(&decision->schedule);
    memset(decision, 0, sizeof *decision);
}
