#include "pipeline/partial.h"

#include "formats/memory.h"
#include "pipeline/machine.h"
#include "pipeline/workers.h"
#include "profile/files/arch_text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- what an earlier run left --- */

/* A complete profile names no whole, being one. */
static ousac_status take_run(ousac_partial *partial, const char *path, ousac_error *error) {
    ousac_run_text run;
    ousac_status status = ousac_run_text_read(path, &run, error);
    if (status)
        return status;
    partial->held_cost = run.cost;
    partial->held_of = run.part_of;
    if (run.part_of.count == 0 && partial->held->range_count == 1)
        partial->held_of = partial->held->ranges[0];
    memcpy(partial->held_weights, run.weights, sizeof partial->held_weights);
    return OUSAC_STATUS_OK;
}

static ousac_status load(ousac_partial *partial, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    partial->held_path = ousac_strdup(path);
    if (!partial->held_path)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    status = ousac_profile_load(&partial->held, path, error);
    if (!status)
        status = take_run(partial, path, error);
    if (status == OUSAC_STATUS_FORMAT) {
        char message[OUSAC_ERROR_MESSAGE_BYTES];
        memcpy(message, error->message, sizeof message);
        status = OUSAC_FAIL(error, status, "%.400s; `restart` discards it", message);
    }
    return status;
}

static int is_there(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

ousac_status ousac_partial_open(ousac_partial *partial, const char *output,
                                const ousac_partial_options *options, const char *weights, const char *whole,
                                ousac_error *error) {
    const size_t size = strlen(output) + sizeof ".part";
    memset(partial, 0, sizeof *partial);
    partial->every_s = options->every_s;
    partial->restart = options->restart;
    partial->weights = weights;
    partial->path = ousac_malloc(size, 1);
    if (!partial->path)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", output);
    (void)snprintf(partial->path, size, "%s.part", output);
    if (options->restart) {
        if (unlink(partial->path) != 0 && errno != ENOENT)
            return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot remove it: %s", partial->path,
                              strerror(errno));
        return OUSAC_STATUS_OK;
    }
    partial->exists = is_there(partial->path);
    if (partial->exists)
        return load(partial, partial->path, error);
    return whole && is_there(whole) ? load(partial, whole, error) : OUSAC_STATUS_OK;
}

void ousac_partial_free(ousac_partial *partial) {
    ousac_profile_free(partial->held);
    ousac_free(partial->held_path);
    ousac_free(partial->path);
    memset(partial, 0, sizeof *partial);
}

int ousac_partial_has_weights(const ousac_partial *partial) {
    return partial->held && partial->held->moment;
}

/* MISMATCH: "FILE: left by another run: WHY". */
static ousac_status refuse(const ousac_partial *partial, const char *why, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: left by another run: %.300s; `restart` discards it",
                      partial->held_path, why);
}

static ousac_status refuse_weights(const ousac_partial *partial, ousac_error *error) {
    char why[96];
    (void)snprintf(why, sizeof why, "its step weights are %s, not %s", partial->held_weights,
                   partial->weights);
    return refuse(partial, why, error);
}

static ousac_status refuse_samples(const ousac_partial *partial, const char *what,
                                   const ousac_sample_range *have, const ousac_sample_range *want,
                                   ousac_error *error) {
    char why[160];
    (void)snprintf(why, sizeof why, "%s %" PRIu64 ":%" PRIu64 ", not %" PRIu64 ":%" PRIu64, what, have->first,
                   have->first + have->count, want->first, want->first + want->count);
    return refuse(partial, why, error);
}

static int same_range(const ousac_sample_range *a, const ousac_sample_range *b) {
    return a->first == b->first && a->count == b->count;
}

ousac_status ousac_partial_pilot(const ousac_partial *partial, uint64_t samples, ousac_profile *pilot,
                                 ousac_record_cost *cost, ousac_error *error) {
    const ousac_profile *held = partial->held;
    const ousac_sample_range want = {0, samples};
    char have_schedule[OUSAC_DIGEST_CHARS], want_schedule[OUSAC_DIGEST_CHARS];
    char text[OUSAC_ARCH_DIFFERENCE_BYTES], differs[OUSAC_IDENTITY_TEXT_BYTES];
    const ousac_identity of = ousac_profile_model(held), here = ousac_profile_model(pilot);
    if (!partial->weights)
        return refuse(partial, "it is no pilot", error);
    ousac_schedule_digest(&held->schedule, have_schedule);
    ousac_schedule_digest(&pilot->schedule, want_schedule);
    if (ousac_identity_differs(&of, &here, differs) || ousac_arch_difference(&held->arch, &pilot->arch, text))
        return refuse(partial, "it is of another model", error);
    if (strcmp(held->identity.inputs_digest, pilot->identity.inputs_digest) != 0)
        return refuse(partial, "it is of other inputs", error);
    if (strcmp(have_schedule, want_schedule) != 0)
        return refuse(partial, "it is of another schedule", error);
    if (strcmp(partial->held_weights, partial->weights) != 0)
        return refuse_weights(partial, error);
    if (!same_range(&partial->held_cost.pilot, &want))
        return refuse_samples(partial, "its pilot is of samples", &partial->held_cost.pilot, &want, error);
    memcpy(pilot->weight, held->weight,
           held->schedule.step_count * OUSAC_BRANCHES * held->arch.group_count * sizeof *held->weight);
    ousac_profile_weights_digest(pilot, pilot->identity.weights_digest);
    cost->pilot = want;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_partial_resume(ousac_partial *partial, ousac_profile *profile, ousac_sample_range *range,
                                  ousac_record_cost *cost, ousac_error *error) {
    const ousac_profile *held = partial->held;
    if (!held)
        return OUSAC_STATUS_OK;
    if (profile->moment && strcmp(partial->held_weights, partial->weights) != 0)
        return refuse_weights(partial, error);
    if (!profile->moment != !held->moment)
        return refuse(partial, held->moment ? "it is no pilot" : "it is a pilot", error);
    if (!same_range(&partial->held_of, range))
        return refuse_samples(partial, "it is part of samples", &partial->held_of, range, error);
    /* Whole micro-batches from the first on, or nothing that this run could have left. */
    const uint64_t done = ousac_profile_samples(held);
    const int prefix = held->range_count == 1 && held->ranges[0].first == range->first &&
                       done <= range->count &&
                       (done % profile->identity.micro_batch == 0 || done == range->count);
    if (!prefix)
        return refuse(partial, "its samples are not the first ones", error);
    ousac_status status = ousac_profile_merge(profile, held, error);
    if (status == OUSAC_STATUS_MISMATCH) {
        char why[OUSAC_ERROR_MESSAGE_BYTES];
        memcpy(why, error->message, sizeof why);
        return refuse(partial, why, error);
    }
    if (status)
        return status;
    range->first += done;
    range->count -= done;
    /* At the profile's stage what it cost is all that was spent, the pilot included. */
    cost->seconds += partial->held_cost.seconds;
    cost->forwards += partial->held_cost.forwards;
    ousac_profile_free(partial->held);
    partial->held = NULL;
    return OUSAC_STATUS_OK;
}

/* --- what this run leaves --- */

static ousac_status save(void *self, ousac_error *error) {
    ousac_partial *partial = self;
    const ousac_profile *profile = partial->profile;
    ousac_record_cost cost = partial->before;
    ousac_json_doc doc;
    char *text = NULL;
    cost.seconds += ousac_clock_s() - partial->started;
    cost.forwards += (ousac_profile_samples(profile) - partial->samples_before) * partial->evaluations;
    ousac_json_begin(&doc);
    ousac_record_cost_put(&doc, doc.root, partial->session, &cost, 0);
    ousac_run_text_put_part(&doc, doc.root, &partial->of,
                            partial->weights ? partial->weights : OUSAC_WEIGHTS_PILOT);
    ousac_status status = ousac_json_text(&doc, 0, &text, error);
    if (!status)
        status = ousac_profile_save(profile, partial->path, text, error);
    if (!status) {
        partial->exists = 1;
        partial->kept = ousac_profile_samples(profile);
    }
    ousac_free(text);
    ousac_json_end(&doc);
    return status;
}

const ousac_run_observers *ousac_partial_begin(ousac_partial *partial, const ousac_session *session,
                                               const ousac_sample_range *of, const ousac_profile *profile,
                                               const ousac_record_cost *cost,
                                               const ousac_run_observers *inner) {
    partial->session = session;
    partial->profile = profile;
    partial->before = *cost;
    partial->samples_before = partial->kept = ousac_profile_samples(profile);
    partial->started = ousac_clock_s();
    partial->of = *of;
    partial->evaluations = 0;
    for (size_t i = 0; i < profile->schedule.step_count * OUSAC_BRANCHES; i++)
        partial->evaluations += profile->gate[i] >= 0;
    partial->checkpoint =
        (ousac_checkpoint){.inner = inner, .every_s = partial->every_s, .save = save, .self = partial};
    ousac_checkpoint_start(&partial->checkpoint);
    return &partial->checkpoint.observers;
}

ousac_status ousac_partial_end(ousac_partial *partial, ousac_status status, ousac_error *error) {
    char message[OUSAC_ERROR_MESSAGE_BYTES];
    /* A device that was lost, or whose memory was short: the same command may fare better. */
    const int failed = status == OUSAC_STATUS_IO || status == OUSAC_STATUS_MEMORY;
    if (status != OUSAC_STATUS_INTERRUPTED && !failed)
        return status;
    memcpy(message, error->message, sizeof message);
    const ousac_status saved = ousac_checkpoint_flush(&partial->checkpoint, failed ? NULL : error);
    if (saved && !failed)
        return saved;
    const uint64_t kept = partial->exists ? partial->kept : 0;
    if (kept == 0)
        return failed ? status : OUSAC_FAIL(error, status, "%.300s; no micro-batch was complete", message);
    return OUSAC_FAIL(error, status,
                      "%.200s; %s keeps %" PRIu64 " of %" PRIu64
                      " samples: the same command goes on from there",
                      message, partial->path, kept, partial->of.count);
}

void ousac_partial_remove(ousac_partial *partial, const ousac_session *session) {
    if (session->workers && partial->path) /* none where the recording kept no state */
        session->workers->recorded(partial);
    if (partial->exists)
        (void)unlink(partial->path); /* one that stays is found complete, and removed, by the next run */
    partial->exists = 0;
}
