/* Checkpoints: when they save, that a recording goes on from a saved one to the same bits, and the public
 * parts of work that is shared out: the sums of a profile and the groups of a factorisation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "profile/bundle/factorise.h"
#include "profile/record/checkpoint.h"
#include "profile/record/recorder.h"
#include "tests/support/profile_support.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

/* --- when it saves --- */

typedef struct script {
    size_t collected, saves, saved_at; /* saved_at: how much had been collected then */
    ousac_status collect_status, save_status;
} script;

static ousac_status note_collect(void *self, size_t worker, uint64_t first, size_t count,
                                 ousac_error *error) {
    script *s = self;
    (void)worker, (void)first;
    if (s->collect_status)
        return OUSAC_FAIL(error, s->collect_status, "collecting failed");
    s->collected += count;
    return OUSAC_STATUS_OK;
}

static ousac_status note_save(void *self, ousac_error *error) {
    script *s = self;
    if (s->save_status)
        return OUSAC_FAIL(error, s->save_status, "saving failed");
    s->saves++;
    s->saved_at = s->collected;
    return OUSAC_STATUS_OK;
}

static void start(ousac_checkpoint *checkpoint, ousac_run_observers *inner, script *s, double every_s) {
    *inner = (ousac_run_observers){.self = s, .collect = note_collect};
    *checkpoint = (ousac_checkpoint){.inner = inner, .every_s = every_s, .save = note_save, .self = s};
    ousac_checkpoint_start(checkpoint);
}

static ousac_status batch(ousac_checkpoint *checkpoint, ousac_error *error) {
    return checkpoint->observers.collect(checkpoint->observers.self, 0, 0, 4, error);
}

static void no_interval_saves_every_micro_batch(void **state) {
    script s = {0};
    ousac_checkpoint checkpoint;
    ousac_run_observers inner;
    ousac_error error = {0};
    (void)state;
    start(&checkpoint, &inner, &s, 0);
    for (size_t i = 1; i <= 3; i++) {
        must_succeed(batch(&checkpoint, &error), &error);
        assert_int_equal(s.saves, i);
        assert_int_equal(s.saved_at, 4 * i);
    }
    must_succeed(ousac_checkpoint_flush(&checkpoint, &error), &error);
    assert_int_equal(s.saves, 3); /* nothing new */
}

static void a_long_interval_saves_when_flushed(void **state) {
    script s = {0};
    ousac_checkpoint checkpoint;
    ousac_run_observers inner;
    ousac_error error = {0};
    (void)state;
    start(&checkpoint, &inner, &s, 1e6);
    must_succeed(ousac_checkpoint_flush(&checkpoint, &error), &error);
    must_succeed(batch(&checkpoint, &error), &error);
    must_succeed(batch(&checkpoint, &error), &error);
    assert_int_equal(s.saves, 0);
    must_succeed(ousac_checkpoint_flush(&checkpoint, &error), &error);
    assert_int_equal(s.saves, 1);
    assert_int_equal(s.saved_at, 8);
}

/* A device that is lost while a micro-batch is collected leaves part of it in the sums. */
static void what_was_collected_in_part_is_never_saved(void **state) {
    script s = {0};
    ousac_checkpoint checkpoint;
    ousac_run_observers inner;
    ousac_error error = {0};
    (void)state;
    start(&checkpoint, &inner, &s, 1e6);
    must_succeed(batch(&checkpoint, &error), &error);
    s.collect_status = OUSAC_STATUS_IO;
    assert_int_equal(batch(&checkpoint, &error), OUSAC_STATUS_IO);
    must_succeed(ousac_checkpoint_flush(&checkpoint, &error), &error);
    assert_int_equal(s.saves, 0);
    s.collect_status = OUSAC_STATUS_OK;
    start(&checkpoint, &inner, &s, 1e6); /* another run begins whole */
    must_succeed(batch(&checkpoint, &error), &error);
    must_succeed(ousac_checkpoint_flush(&checkpoint, &error), &error);
    assert_int_equal(s.saves, 1);
}

static void a_failure_ends_the_run(void **state) {
    script s = {.save_status = OUSAC_STATUS_IO};
    ousac_checkpoint checkpoint;
    ousac_run_observers inner;
    ousac_error error = {0};
    (void)state;
    start(&checkpoint, &inner, &s, 0);
    must_fail(batch(&checkpoint, &error), OUSAC_STATUS_IO, &error, "saving failed");
    s.save_status = OUSAC_STATUS_OK;
    must_succeed(ousac_checkpoint_flush(&checkpoint, &error), &error); /* it is still to be saved */
    assert_int_equal(s.saved_at, 4);
    s.collect_status = OUSAC_STATUS_NUMBER;
    must_fail(batch(&checkpoint, &error), OUSAC_STATUS_NUMBER, &error, "collecting failed");
    must_succeed(ousac_checkpoint_flush(&checkpoint, &error), &error);
    assert_int_equal(s.saves, 1); /* what was not collected is not saved */
}

/* --- going on from a file --- */

enum { SEED = 5, MICRO_BATCH = 2, SAMPLES = 10, STEPS = 4 };

typedef struct fixture {
    scratch directory;
    ousac_model *model;
    ousac_schedule schedule;
    ousac_step steps[STEPS];
    char path[SCRATCH_PATH_BYTES];
} fixture;

static void create(fixture *f) {
    static const ousac_gate gates[STEPS] = {OUSAC_GATE_FULL, OUSAC_GATE_CACHED, OUSAC_GATE_FULL,
                                            OUSAC_GATE_CACHED};
    char file[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    random_dit_options options = random_dit_defaults();
    memset(f, 0, sizeof *f);
    options.depth = 2;
    scratch_create(&f->directory);
    must_succeed(random_dit_write(f->directory.path, &options, &error), &error);
    scratch_join(file, f->directory.path, "model.safetensors");
    scratch_join(f->path, f->directory.path, "state.oca");
    must_succeed(ousac_model_load(&f->model, file, NULL, ousac_backend_cpu(), &error), &error);
    for (size_t i = 0; i < STEPS; i++)
        f->steps[i] = (ousac_step){(double)(900 - 200 * i), OUSAC_MODE_CFG, 3, {gates[i], gates[i]}};
    f->schedule = (ousac_schedule){.name = "four", .step_count = STEPS, .steps = f->steps};
}

static void destroy(fixture *f) {
    ousac_model_free(f->model);
    scratch_remove(&f->directory);
}

static ousac_profile *empty(const fixture *f) {
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    ousac_profile_identity identity = {
        .seed = SEED, .micro_batch = MICRO_BATCH, .tokens_used = 3, .segments = 2, .magnitudes = 1};
    memcpy(identity.model_digest, f->model->digest, sizeof identity.model_digest);
    must_succeed(ousac_profile_create(&profile, &f->model->arch, &f->schedule, &identity, NULL, 1, &error),
                 &error);
    return profile;
}

/* A save that stops the run after `left` more of them. */
typedef struct keeper {
    const ousac_profile *profile;
    const char *path;
    int left;
    ousac_stop stop;
} keeper;

static ousac_status keep(void *self, ousac_error *error) {
    keeper *k = self;
    if (--k->left == 0)
        ousac_stop_ask(&k->stop);
    return ousac_profile_save(k->profile, k->path, NULL, error);
}

static ousac_status record(const fixture *f, ousac_profile *profile, size_t threads, int saves,
                           ousac_error *error) {
    ousac_recorder *recorder = NULL;
    const uint64_t done = ousac_profile_samples(profile);
    keeper k = {profile, f->path, saves, {0}};
    must_succeed(ousac_recorder_create(&recorder, profile, f->model->backend, threads, MICRO_BATCH, error),
                 error);
    ousac_checkpoint checkpoint = {.inner = ousac_recorder_observers(recorder), .save = keep, .self = &k};
    ousac_checkpoint_start(&checkpoint);
    const ousac_run run = {.model = f->model,
                           .schedule = &f->schedule,
                           .seed = SEED,
                           .first = done,
                           .count = SAMPLES - done,
                           .micro_batch = MICRO_BATCH,
                           .threads = threads,
                           .exact = 1,
                           .observers = &checkpoint.observers,
                           .stop = &k.stop};
    const ousac_status status = ousac_run_samples(&run, error);
    ousac_recorder_free(recorder);
    return status;
}

static void a_recording_goes_on_from_its_file_to_the_same_bits(void **state) {
    fixture f;
    ousac_error error = {0};
    char whole_digest[OUSAC_DIGEST_CHARS], digest[OUSAC_DIGEST_CHARS];
    (void)state;
    create(&f);
    ousac_profile *whole = empty(&f), *profile = empty(&f);
    must_succeed(record(&f, whole, 1, 0, &error), &error);
    ousac_profile_digest(whole, whole_digest);
    /* stopped after one micro-batch and again after another, each time with other threads */
    for (size_t i = 0; i < 3; i++) {
        const ousac_status status = record(&f, profile, 1 + (i + 1) % 2, i < 2 ? 1 : 0, &error);
        assert_int_equal(status, i < 2 ? OUSAC_STATUS_INTERRUPTED : OUSAC_STATUS_OK);
        ousac_profile_free(profile);
        must_succeed(ousac_profile_load(&profile, f.path, &error), &error);
        assert_true(i < 2 ? ousac_profile_samples(profile) < SAMPLES
                          : ousac_profile_samples(profile) == SAMPLES);
    }
    ousac_profile_digest(profile, digest);
    assert_string_equal(whole_digest, digest);
    ousac_profile_free(profile);
    ousac_profile_free(whole);
    destroy(&f);
}

/* --- shared work --- */

static void the_sums_of_a_profile_are_what_merging_adds(void **state) {
    ousac_profile *a = NULL, *b = NULL, *merged = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile_with_magnitudes(&a, 0, 8);
    synthetic_profile_with_magnitudes(&merged, 0, 8);
    synthetic_profile_with_magnitudes(&b, 8, 4);
    must_succeed(ousac_profile_merge(merged, b, &error), &error);
    /* scalars, a moment per group, four kinds of magnitudes */
    assert_int_equal(ousac_profile_sum_count(a), OUSAC_SCALAR_COUNT + a->arch.group_count + 4);
    for (size_t i = 0; i < ousac_profile_sum_count(a); i++) {
        size_t count = 0;
        double *sum = ousac_profile_sum(a, i, &count);
        const double *more = ousac_profile_sum(b, i, &count);
        assert_true(count > 0);
        for (size_t j = 0; j < count; j++)
            sum[j] += more[j];
    }
    must_succeed(ousac_profile_add_range(a, 8, 4, &error), &error);
    char by_hand[OUSAC_DIGEST_CHARS], by_merging[OUSAC_DIGEST_CHARS];
    ousac_profile_digest(a, by_hand);
    ousac_profile_digest(merged, by_merging);
    assert_string_equal(by_hand, by_merging);
    ousac_profile_free(a);
    ousac_profile_free(b);
    ousac_profile_free(merged);
}

static void factors_in_parts_are_the_factors(void **state) {
    enum { PARTS = 3, GROUPS_MAX = 64 };
    ousac_model *model = NULL;
    ousac_profile *profile = NULL;
    ousac_factor_set *whole = NULL, *part = NULL;
    ousac_error error = {0};
    size_t owner[GROUPS_MAX], sites = 0;
    (void)state;
    synthetic_model(&model, 11);
    synthetic_profile(&profile, 0, 40, 1, 1);
    const ousac_arch *arch = &model->arch;
    ousac_factorise_options options = {.threads = 2};
    must_succeed(ousac_factor_set_create(&whole, model, profile, &options, &error), &error);
    must_succeed(ousac_factorise_share(arch, OUSAC_METHOD_DELTA_COV, PARTS, owner, &error), &error);
    for (size_t p = 0; p < PARTS; p++) {
        unsigned char wanted[GROUPS_MAX];
        for (size_t g = 0; g < arch->group_count; g++)
            wanted[g] = owner[g] == p;
        options.groups = wanted;
        must_succeed(ousac_factor_set_create(&part, model, profile, &options, &error), &error);
        for (size_t s = 0; s < arch->site_count; s++) {
            const ousac_factors *a = &part->site[s], *b = &whole->site[s];
            if (!wanted[arch->sites[s].group]) {
                assert_null(a->a);
                continue;
            }
            sites++;
            assert_int_equal(a->rank, b->rank);
            assert_memory_equal(a->a, b->a, a->rank * a->m * sizeof *a->a);
            assert_memory_equal(a->b, b->b, a->rank * a->n * sizeof *a->b);
            assert_memory_equal(a->lambda, b->lambda, a->lambda_count * sizeof *a->lambda);
        }
        ousac_factor_set_free(part);
    }
    assert_int_equal(sites, arch->site_count); /* every one in exactly one part */
    ousac_factor_set_free(whole);
    ousac_profile_free(profile);
    synthetic_model_free(model);
}

static void equal_blocks_are_shared_equally(void **state) {
    enum { BLOCKS = 8, PARTS = 4 };
    ousac_arch arch;
    ousac_error error = {0};
    size_t owner[4 * BLOCKS], of_kind[PARTS][4] = {{0}};
    (void)state;
    must_succeed(ousac_arch_create_dit(&arch, BLOCKS, 16, 96, 384, &error), &error);
    assert_int_equal(arch.group_count, 4 * BLOCKS);
    must_succeed(ousac_factorise_share(&arch, OUSAC_METHOD_DELTA_COV, PARTS, owner, &error), &error);
    for (size_t g = 0; g < arch.group_count; g++) {
        assert_true(owner[g] < PARTS);
        of_kind[owner[g]][g % 4]++;
    }
    for (size_t p = 0; p < PARTS; p++)
        for (size_t kind = 0; kind < 4; kind++)
            assert_int_equal(of_kind[p][kind], BLOCKS / PARTS);
    ousac_arch_free(&arch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_interval_saves_every_micro_batch),
        cmocka_unit_test(a_long_interval_saves_when_flushed),
        cmocka_unit_test(what_was_collected_in_part_is_never_saved),
        cmocka_unit_test(a_failure_ends_the_run),
        cmocka_unit_test(a_recording_goes_on_from_its_file_to_the_same_bits),
        cmocka_unit_test(the_sums_of_a_profile_are_what_merging_adds),
        cmocka_unit_test(factors_in_parts_are_the_factors),
        cmocka_unit_test(equal_blocks_are_shared_equally),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
