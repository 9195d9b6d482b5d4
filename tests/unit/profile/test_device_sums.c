/* Sums that stay on a device: the same bits as by way of the host, fetched all or none, and what is kept where the device
 * fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "profile/record/checkpoint.h"
#include "profile/record/device_sums.h"
#include "profile/record/recorder.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"
#include "tests/support/strict_backend.h"

enum { SEED = 11, MICRO_BATCH = 2, SAMPLES = 10, STEPS = 4, NEVER = 1 << 30 };

/* The strict backend, whose transfers to the host can be counted and made to fail. */
static ousac_backend device;
static int transfers, last_good;

static ousac_status download(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                             ousac_error *error) {
    (void)backend;
    if (++transfers > last_good)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "the device is gone");
    return strict_backend()->download(strict_backend(), target, source, bytes, error);
}

static scratch directory;
static ousac_model *model;
static ousac_step steps[STEPS];
static ousac_schedule schedule = {.name = "four", .step_count = STEPS, .steps = steps};

static int set_up(void **state) {
    static const ousac_gate gates[STEPS] = {OUSAC_GATE_FULL, OUSAC_GATE_CACHED, OUSAC_GATE_FULL,
                                            OUSAC_GATE_CACHED};
    char file[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    (void)state;
    options.depth = 2;
    device = *strict_backend();
    device.download = download;
    for (size_t i = 0; i < STEPS; i++)
        steps[i] = (ousac_step){(double)(900 - 200 * i), OUSAC_MODE_CFG, 3, {gates[i], gates[i]}};
    scratch_create(&directory);
    if (random_dit_write(directory.path, &options, &error))
        return -1;
    scratch_join(file, directory.path, "model.safetensors");
    return ousac_model_load(&model, file, NULL, &device, &error);
}

static int tear_down(void **state) {
    (void)state;
    ousac_model_free(model);
    scratch_remove(&directory);
    return 0;
}

static ousac_profile *empty(void) {
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    ousac_profile_identity identity = {
        .seed = SEED, .micro_batch = MICRO_BATCH, .tokens_used = 3, .segments = 2, .magnitudes = 1};
    memcpy(identity.model_digest, model->digest, sizeof identity.model_digest);
    must_succeed(ousac_profile_create(&profile, &model->arch, &schedule, &identity, NULL, 1, &error), &error);
    return profile;
}

/* What a save finds in the profile. */
typedef struct keeper {
    const ousac_profile *profile;
    uint64_t samples;
    char digest[OUSAC_DIGEST_CHARS];
} keeper;

static ousac_status keep(void *self, ousac_error *error) {
    keeper *k = self;
    (void)error;
    k->samples = ousac_profile_samples(k->profile);
    ousac_profile_digest(k->profile, k->digest);
    return OUSAC_STATUS_OK;
}

/* Samples [samples of the profile, end), the transfers counted from here. `k`: what is kept in the end, or NULL. */
static ousac_status record(ousac_profile *profile, uint64_t end, size_t threads, int on_device, keeper *k,
                           ousac_error *error) {
    ousac_recorder *recorder = NULL;
    const uint64_t done = ousac_profile_samples(profile);
    must_succeed(ousac_recorder_create(&recorder, profile, &device, threads, MICRO_BATCH, error), error);
    if (on_device)
        ousac_recorder_sum_on_device(recorder);
    ousac_checkpoint checkpoint = {
        .inner = ousac_recorder_observers(recorder), .every_s = 1e6, .save = keep, .self = k};
    ousac_checkpoint_start(&checkpoint);
    transfers = 0;
    const ousac_run run = {.model = model,
                           .schedule = &schedule,
                           .seed = SEED,
                           .first = done,
                           .count = end - done,
                           .micro_batch = MICRO_BATCH,
                           .threads = threads,
                           .exact = 1,
                           .observers = k ? &checkpoint.observers : checkpoint.inner};
    const ousac_status status = ousac_run_samples(&run, error);
    if (k)
        (void)ousac_checkpoint_flush(&checkpoint, NULL);
    ousac_recorder_free(recorder);
    return status;
}

static void digest_of(uint64_t samples, char digest[OUSAC_DIGEST_CHARS]) {
    ousac_profile *profile = empty();
    ousac_error error = {0};
    last_good = NEVER;
    must_succeed(record(profile, samples, 1, 0, NULL, &error), &error);
    ousac_profile_digest(profile, digest);
    ousac_profile_free(profile);
}

static void the_sums_are_those_by_way_of_the_host(void **state) {
    char by_host[OUSAC_DIGEST_CHARS], by_device[OUSAC_DIGEST_CHARS];
    (void)state;
    digest_of(SAMPLES, by_host);
    for (size_t threads = 1; threads <= 2; threads++) {
        ousac_profile *profile = empty();
        ousac_error error = {0};
        must_succeed(record(profile, 4, threads, 1, NULL, &error), &error);
        assert_int_equal(ousac_profile_samples(profile), 4);
        must_succeed(record(profile, SAMPLES, threads, 1, NULL, &error),
                     &error); /* goes on from what is there */
        ousac_profile_digest(profile, by_device);
        assert_string_equal(by_device, by_host);
        ousac_profile_free(profile);
    }
}

/* Wherever the device is lost, what is left are whole micro-batches, or nothing is saved. */
static void a_device_that_is_lost_leaves_whole_micro_batches(void **state) {
    char expected[SAMPLES / MICRO_BATCH + 1][OUSAC_DIGEST_CHARS];
    int kept = 0, refused = 0, whole = 0;
    ousac_error error = {0};
    (void)state;
    for (size_t batches = 1; batches <= SAMPLES / MICRO_BATCH; batches++)
        digest_of(batches * MICRO_BATCH, expected[batches]);
    for (int good = 0; !whole; good++) {
        ousac_profile *profile = empty();
        keeper k = {.profile = profile};
        last_good = good;
        const ousac_status status = record(profile, SAMPLES, 1, 1, &k, &error);
        whole = status == OUSAC_STATUS_OK;
        if (!whole)
            must_fail(status, OUSAC_STATUS_IO, &error, "the device is gone");
        if (k.samples == 0) {
            refused++;
        } else {
            kept += !whole;
            assert_int_equal(k.samples % MICRO_BATCH, 0);
            assert_string_equal(k.digest, expected[k.samples / MICRO_BATCH]);
        }
        ousac_profile_free(profile);
    }
    assert_true(kept > 0);
    assert_true(refused > 0);
}

static void with_nothing_new_nothing_is_fetched(void **state) {
    ousac_error error = {0};
    int whole = 0;
    (void)state;
    last_good = NEVER;
    ousac_profile *profile = empty();
    must_succeed(record(profile, 2, 1, 1, NULL, &error), &error);
    ousac_device_sums *sums = ousac_device_sums_create(profile, &device);
    assert_non_null(sums);
    transfers = 0;
    must_succeed(ousac_device_sums_fetch(sums, &whole, &error), &error);
    assert_int_equal(whole, 1);
    assert_int_equal(transfers, 0);
    ousac_device_sums_free(sums);
    ousac_profile_free(profile);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sums_are_those_by_way_of_the_host),
        cmocka_unit_test(a_device_that_is_lost_leaves_whole_micro_batches),
        cmocka_unit_test(with_nothing_new_nothing_is_fetched),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
