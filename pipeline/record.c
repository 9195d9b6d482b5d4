#include "pipeline/record.h"

#include "calib/backend/backend_bf16.h"
#include "formats/memory.h"
#include "pipeline/machine.h"
#include "pipeline/partial.h"
#include "pipeline/workers.h"
#include "profile/record/recorder.h"

#include <stdio.h>
#include <string.h>

/* Runs the samples exactly and records them into a new profile. */
static ousac_status record(const ousac_session *session, const ousac_schedule *schedule, const char *label,
                           const ousac_sample_range *range, const ousac_profile_identity *identity,
                           const double *weight, int with_moments, ousac_partial *partial, const char *spill,
                           ousac_profile **profile, ousac_record_cost *cost, ousac_error *error) {
    ousac_recorder *recorder = NULL;
    ousac_counters counters = {0};
    ousac_sample_range left = *range;
    const double start = ousac_clock_s();
    ousac_status status = ousac_profile_create_spilled(profile, &session->model->arch, schedule, identity,
                                                       weight, with_moments, spill, error);
    if (!status && partial)
        status = ousac_partial_resume(partial, *profile, &left, cost, error);
    if (status || left.count == 0)
        goto done;
    if (session->workers) {
        status = session->workers->record(session, label, &left, partial, *profile, cost, error);
        goto done;
    }
    /* One for each thread that will have something to do. */
    const uint64_t batches = (left.count - 1) / session->micro_batch + 1;
    const size_t threads = ousac_session_threads(session);
    const size_t workers = batches < threads ? (size_t)batches : threads;
    status = ousac_recorder_create(&recorder, *profile, session->model->backend, workers,
                                   session->micro_batch, error);
    if (status)
        goto done;
    ousac_recorder_sum_on_device(recorder);
    const ousac_run_observers *observers = ousac_recorder_observers(recorder);
    const ousac_session_run run = {
        .label = label,
        .schedule = schedule,
        .range = left,
        .exact = 1,
        .observers =
            partial ? ousac_partial_begin(partial, session, range, *profile, cost, observers) : observers,
        .counters = &counters,
    };
    status = ousac_session_run_samples(session, &run, error);
    if (partial)
        status = ousac_partial_end(partial, status, error);
    cost->seconds += ousac_clock_s() - start;
    for (int gate = 0; gate < OUSAC_GATES_RUN; gate++)
        cost->forwards += counters.forwards[gate];
done:
    ousac_recorder_free(recorder);
    if (status) {
        ousac_profile_free(*profile);
        *profile = NULL;
    }
    return status;
}

static ousac_compute compute_of(const ousac_backend *backend) {
    return !ousac_backend_is_bf16(backend) ? OUSAC_COMPUTE_F32
           : backend->host                 ? OUSAC_COMPUTE_BF16
                                           : OUSAC_COMPUTE_BF16_ATTENTION;
}

ousac_profile_identity ousac_record_identity(const ousac_session *session,
                                             const ousac_record_options *options) {
    const ousac_model *model = session->model;
    const size_t tokens = ousac_arch_most_tokens(&model->arch);
    ousac_profile_identity identity = {
        .seed = session->seed,
        .micro_batch = session->micro_batch,
        .tokens_used = options->tokens                 ? options->tokens
                       : tokens < OUSAC_DEFAULT_TOKENS ? tokens
                                                       : OUSAC_DEFAULT_TOKENS,
        .segments = options->segments,
        .magnitudes = options->magnitudes != 0,
        .compute = compute_of(model->backend),
    };
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    memcpy(identity.model_constants, model->constants, sizeof identity.model_constants);
    memcpy(identity.model_process, model->process, sizeof identity.model_process);
    if (model->inputs)
        memcpy(identity.inputs_digest, ousac_inputs_digest(model->inputs), sizeof identity.inputs_digest);
    return identity;
}

ousac_status ousac_record_weigh(ousac_profile *pilot, ousac_error *error) {
    /* Sizes that the profile has already allocated once, so the product cannot overflow. */
    const size_t count = pilot->schedule.step_count * OUSAC_BRANCHES * pilot->arch.group_count;
    double *weight = ousac_malloc(count, sizeof *weight);
    if (!weight)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the step weights");
    ousac_profile_step_weights(pilot, weight);
    memcpy(pilot->weight, weight, count * sizeof *weight);
    ousac_profile_weights_digest(pilot, pilot->identity.weights_digest);
    ousac_free(weight);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_record_pilot(const ousac_session *session, const ousac_schedule *schedule,
                                uint64_t samples, ousac_partial *partial, ousac_profile **pilot,
                                ousac_record_cost *cost, ousac_error *error) {
    const ousac_record_options plain = {.segments = 1};
    const ousac_profile_identity identity = ousac_record_identity(session, &plain);
    const ousac_sample_range range = {0, samples};
    ousac_status status = OUSAC_STATUS_OK;
    if (partial && ousac_partial_has_weights(partial)) {
        status = ousac_profile_create(pilot, &session->model->arch, schedule, &identity, NULL, 0, error);
        if (!status)
            status = ousac_partial_pilot(partial, samples, *pilot, cost, error);
        if (status) {
            ousac_profile_free(*pilot);
            *pilot = NULL;
        }
        return status;
    }
    status =
        record(session, schedule, "pilot", &range, &identity, NULL, 0, partial, NULL, pilot, cost, error);
    if (status)
        return status;
    cost->pilot = range;
    status = ousac_record_weigh(*pilot, error);
    if (status) {
        ousac_profile_free(*pilot);
        *pilot = NULL;
    }
    return status;
}

ousac_status ousac_record_load_weights(const ousac_session *session, const ousac_schedule *schedule,
                                       const char *path, ousac_profile **weights, ousac_record_cost *cost,
                                       ousac_error *error) {
    return ousac_record_load_weights_of(session, schedule, compute_of(session->model->backend), path, weights,
                                        cost, error);
}

ousac_status ousac_record_load_weights_of(const ousac_session *session, const ousac_schedule *schedule,
                                          ousac_compute compute, const char *path, ousac_profile **weights,
                                          ousac_record_cost *cost, ousac_error *error) {
    const ousac_record_options plain = {.segments = 1};
    const ousac_profile_identity identity = ousac_record_identity(session, &plain);
    char have[OUSAC_DIGEST_CHARS], want[OUSAC_DIGEST_CHARS];
    char differs[OUSAC_IDENTITY_TEXT_BYTES], another[OUSAC_IDENTITY_TEXT_BYTES + 24];
    const char *what = NULL;
    ousac_status status = ousac_profile_open(weights, path, error);
    if (status)
        return status;
    ousac_schedule_digest(&(*weights)->schedule, have);
    ousac_schedule_digest(schedule, want);
    const ousac_identity of = ousac_profile_model(*weights), here = ousac_model_identity(session->model);
    if (ousac_identity_differs(&of, &here, differs)) {
        (void)snprintf(another, sizeof another, "another model: %s", differs);
        what = another;
    } else if (strcmp(have, want) != 0)
        what = "another schedule";
    else if (strcmp((*weights)->identity.inputs_digest, identity.inputs_digest) != 0)
        what = "other `inputs`";
    else if ((*weights)->identity.seed != session->seed)
        what = "another seed";
    else if ((*weights)->identity.compute != compute)
        what = "another `compute`";
    else if ((*weights)->arch.group_count != session->model->arch.group_count)
        what = "a model with other sites";
    if (what) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: step weights of %s; make a pilot of this one",
                            path, what);
        ousac_profile_free(*weights);
        *weights = NULL;
    } else if ((*weights)->range_count > 0) {
        const ousac_sample_range *first = (*weights)->ranges, *last = first + (*weights)->range_count - 1;
        cost->pilot = (ousac_sample_range){first->first, last->first + last->count - first->first};
    }
    return status;
}

ousac_status ousac_record_check_tokens(const ousac_model *model, size_t tokens, ousac_error *error) {
    const size_t most = ousac_arch_most_tokens(&model->arch);
    return tokens <= most ? OUSAC_STATUS_OK
                          : OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`tokens` %zu: the model has %zu tokens",
                                       tokens, most);
}

ousac_status ousac_record_check_segments(const ousac_schedule *schedule, size_t segments,
                                         ousac_error *error) {
    return segments <= schedule->step_count
               ? OUSAC_STATUS_OK
               : OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`segments` %zu: the schedule has %zu steps", segments,
                            schedule->step_count);
}

ousac_status ousac_record_profile(const ousac_session *session, const ousac_schedule *schedule,
                                  const ousac_record_options *options, ousac_profile **profile,
                                  ousac_record_cost *cost, ousac_error *error) {
    const ousac_profile_identity identity = ousac_record_identity(session, options);
    const size_t tokens = identity.tokens_used;
    ousac_status status = ousac_record_check_tokens(session->model, tokens, error);
    if (!status)
        status = ousac_record_check_segments(schedule, options->segments, error);
    if (status)
        return status;
    return record(session, schedule, "profile", &options->range, &identity,
                  options->weights ? options->weights->weight : NULL, 1, options->partial, options->spill,
                  profile, cost, error);
}

void ousac_record_cost_put(ousac_json_doc *doc, cJSON *object, const ousac_session *session,
                           const ousac_record_cost *cost, int reproducible) {
    const ousac_record_process process = {ousac_peak_bytes(), ousac_session_threads(session)};
    ousac_run_text_put(doc, object, session->model->backend->detail, reproducible ? NULL : &process, cost);
}

ousac_status ousac_record_save(const ousac_session *session, const ousac_profile *profile, const char *path,
                               const ousac_record_cost *cost, int reproducible, ousac_error *error) {
    ousac_json_doc doc;
    char *text = NULL;
    ousac_json_begin(&doc);
    ousac_record_cost_put(&doc, doc.root, session, cost, reproducible);
    ousac_status status = ousac_json_text(&doc, 0, &text, error);
    if (!status)
        status = ousac_profile_save(profile, path, text, error);
    ousac_free(text);
    ousac_json_end(&doc);
    return status;
}
