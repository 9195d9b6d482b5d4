/* Profiles: sums and identity survive files and merging, and nothing that contradicts itself is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/memory.h"
#include "profile/files/arch_text.h"
#include "profile/files/archive.h"
#include "profile/record/profile.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

static scratch directory;

static int set_up(void **state) {
    (void)state;
    scratch_create(&directory);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    scratch_remove(&directory);
    return 0;
}

static const char *in_directory(char path[SCRATCH_PATH_BYTES], const char *name) {
    scratch_join(path, directory.path, name);
    return path;
}

static size_t evaluations(const ousac_profile *profile) {
    return profile->schedule.step_count * OUSAC_BRANCHES;
}

/* Largest difference of two profiles' sums, relative to the largest sum of each array. */
static double sums_differ(const ousac_profile *a, const ousac_profile *b) {
    double worst = 0;
    for (size_t i = 0; i < OUSAC_SCALAR_COUNT + a->identity.segments * a->arch.group_count; i++) {
        const double *x, *y;
        size_t count;
        double largest = 0, difference = 0;
        if (i < OUSAC_SCALAR_COUNT) {
            x = a->scalar[i];
            y = b->scalar[i];
            count = evaluations(a) * ousac_profile_scalar_width(&a->arch, (ousac_scalar)i);
        } else {
            const size_t at = i - OUSAC_SCALAR_COUNT;
            const size_t dim = a->arch.groups[at % a->arch.group_count].dim;
            x = a->moment[at];
            y = b->moment[at];
            count = dim * (dim + 1) / 2;
        }
        for (size_t j = 0; j < count; j++) {
            largest = fmax(largest, fabs(x[j]));
            difference = fmax(difference, fabs(x[j] - y[j]));
        }
        assert_true(largest > 0);
        worst = fmax(worst, difference / largest);
    }
    return worst;
}

static void gates_and_ages_follow_the_schedule(void **state) {
    /* by hand: cond runs everywhere, full at 0 and 3; uncond at 0 full, 1, 3 full, 5 */
    static const int gate[SYNTHETIC_STEPS][2] = {{0, 0}, {1, 1}, {1, -1}, {0, 0}, {1, -1}, {1, 1}};
    static const int age[SYNTHETIC_STEPS][2] = {{0, 0}, {1, 1}, {2, 0}, {3, 3}, {1, 0}, {2, 2}};
    ousac_profile *profile = NULL;
    (void)state;
    synthetic_profile(&profile, 0, 1, 4, 1);
    for (size_t step = 0; step < SYNTHETIC_STEPS; step++)
        for (size_t branch = 0; branch < 2; branch++) {
            assert_int_equal(profile->gate[step * 2 + branch], gate[step][branch]);
            assert_int_equal(profile->age[step * 2 + branch], age[step][branch]);
        }
    /* floor(step * 4 / 6) */
    static const size_t segment[SYNTHETIC_STEPS] = {0, 0, 1, 2, 2, 3};
    for (size_t step = 0; step < SYNTHETIC_STEPS; step++)
        assert_int_equal(ousac_profile_segment(profile, step), segment[step]);
    for (size_t i = 0; i < evaluations(profile) * profile->arch.group_count; i++)
        assert_true(profile->weight[i] == 1);
    ousac_profile_free(profile);
}

static void a_file_holds_the_whole_profile(void **state) {
    char a[SCRATCH_PATH_BYTES], b[SCRATCH_PATH_BYTES];
    char before[OUSAC_DIGEST_CHARS], after[OUSAC_DIGEST_CHARS], text[OUSAC_ARCH_DIFFERENCE_BYTES];
    ousac_profile *saved = NULL, *loaded = NULL;
    ousac_error error = {0};
    (void)state;
    for (int with_moments = 0; with_moments < 2; with_moments++) {
        synthetic_profile(&saved, 8, 5, with_moments ? 3 : 1, with_moments);
        must_succeed(ousac_profile_add_range(saved, UINT64_MAX - 10, 10, &error), &error);
        saved->identity.compute = with_moments ? OUSAC_COMPUTE_BF16_ATTENTION : OUSAC_COMPUTE_BF16_UNKNOWN;
        saved->identity.tokens_unknown = with_moments;
        if (with_moments)
            synthetic_digest(saved->identity.inputs_digest, '7');
        must_succeed(ousac_profile_save(saved, in_directory(a, "a.oca"), "{\"seconds\":1}", &error), &error);
        must_succeed(ousac_profile_load(&loaded, a, &error), &error);
        assert_false(ousac_arch_difference(&saved->arch, &loaded->arch, text));
        assert_int_equal(loaded->range_count, 2);
        assert_true(loaded->ranges[0].first == 8 && loaded->ranges[0].count == 5);
        assert_true(loaded->ranges[1].first == UINT64_MAX - 10 && loaded->ranges[1].count == 10);
        assert_true(loaded->identity.seed == UINT64_MAX - 1);
        assert_int_equal(loaded->identity.micro_batch, 4);
        assert_int_equal(loaded->identity.tokens_used, SYNTHETIC_TOKENS);
        assert_int_equal(loaded->identity.segments, with_moments ? 3 : 1);
        assert_int_equal(loaded->moment != NULL, with_moments);
        assert_string_equal(loaded->schedule.name, "synthetic");
        assert_string_equal(loaded->identity.model_digest, saved->identity.model_digest);
        assert_string_equal(loaded->identity.model_constants, SYNTHETIC_CONSTANTS);
        assert_string_equal(loaded->identity.model_process, SYNTHETIC_PROCESS);
        assert_string_equal(loaded->identity.inputs_digest, saved->identity.inputs_digest);
        assert_int_equal(loaded->identity.compute, saved->identity.compute);
        assert_int_equal(loaded->identity.tokens_unknown, saved->identity.tokens_unknown);
        if (with_moments)
            assert_true(sums_differ(saved, loaded) == 0);
        ousac_profile_digest(saved, before);
        ousac_profile_digest(loaded, after);
        assert_string_equal(before, after);
        must_succeed(ousac_profile_save(loaded, in_directory(b, "b.oca"), "{\"seconds\":1}", &error), &error);
        assert_true(files_are_equal(a, b));
        ousac_profile_free(saved);
        ousac_profile_free(loaded);
    }
}

/* A profile that is opened holds what a loaded one does, reads each moment when asked, and is only read. */
static void an_opened_profile_reads_its_moments_from_the_file(void **state) {
    char path[SCRATCH_PATH_BYTES];
    char loaded_digest[OUSAC_DIGEST_CHARS], opened_digest[OUSAC_DIGEST_CHARS];
    ousac_profile *saved = NULL, *loaded = NULL, *opened = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile(&saved, 8, 5, 3, 1);
    must_succeed(ousac_profile_save(saved, in_directory(path, "a.oca"), NULL, &error), &error);
    must_succeed(ousac_profile_load(&loaded, path, &error), &error);
    must_succeed(ousac_profile_open(&opened, path, &error), &error);
    ousac_profile_digest(loaded, loaded_digest);
    ousac_profile_digest(opened, opened_digest);
    assert_string_equal(loaded_digest, opened_digest);
    for (size_t g = 0; g < saved->arch.group_count; g++) {
        const size_t size = ousac_profile_moment_size(&saved->arch.groups[g]);
        double *read = malloc(size * sizeof *read), *sum = calloc(size, sizeof *sum);
        assert_true(read && sum);
        for (size_t segment = 0; segment < 3; segment++) {
            const size_t index = segment * saved->arch.group_count + g;
            assert_null(opened->moment[index]);
            must_succeed(ousac_profile_read_moment(opened, index, read, &error), &error);
            assert_memory_equal(read, saved->moment[index], size * sizeof *read);
            must_succeed(ousac_profile_read_moment(loaded, index, read, &error), &error);
            assert_memory_equal(read, saved->moment[index], size * sizeof *read);
            for (size_t i = 0; i < size; i++)
                sum[i] += saved->moment[index][i];
        }
        must_succeed(ousac_profile_sum_moments(opened, g, read, &error), &error);
        assert_memory_equal(read, sum, size * sizeof *read);
        free(read);
        free(sum);
    }
    assert_int_equal(ousac_profile_merge(opened, loaded, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_profile_merge(loaded, opened, &error),
                     OUSAC_STATUS_MISMATCH); /* the same samples */
    ousac_profile *sums[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) { /* to another profile, an opened one adds what a loaded one does */
        synthetic_profile(&sums[i], 100, 3, 3, 1);
        must_succeed(ousac_profile_merge(sums[i], i ? opened : loaded, &error), &error);
    }
    assert_true(sums_differ(sums[0], sums[1]) == 0);
    ousac_profile_digest(sums[0], loaded_digest);
    ousac_profile_digest(sums[1], opened_digest);
    assert_string_equal(loaded_digest, opened_digest);
    ousac_profile_free(sums[0]);
    ousac_profile_free(sums[1]);
    assert_int_equal(ousac_profile_save(opened, path, NULL, &error), OUSAC_STATUS_USAGE);
    ousac_profile_free(saved);
    ousac_profile_free(loaded);
    ousac_profile_free(opened);

    synthetic_profile(&saved, 8, 5, 1, 0); /* a pilot has none */
    must_succeed(ousac_profile_save(saved, path, NULL, &error), &error);
    must_succeed(ousac_profile_open(&opened, path, &error), &error);
    assert_null(opened->moment);
    ousac_profile_free(saved);
    ousac_profile_free(opened);
}

/* What a loaded profile is refused for, an opened one is: a moment that is not finite, or not the digest's.
 */
static void an_opened_profile_is_checked_as_a_loaded_one(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_error loaded_error = {0}, opened_error = {0};
    (void)state;
    ousac_profile *saved = NULL, *made = NULL;
    synthetic_profile(&saved, 8, 5, 2, 1);
    saved->moment[3][1] = NAN;
    must_succeed(ousac_profile_save(saved, in_directory(path, "a.oca"), NULL, &loaded_error), &loaded_error);
    assert_int_equal(ousac_profile_load(&made, path, &loaded_error), OUSAC_STATUS_FORMAT);
    assert_int_equal(ousac_profile_open(&made, path, &opened_error), OUSAC_STATUS_FORMAT);
    assert_null(made);
    assert_string_equal(loaded_error.message, opened_error.message);
    ousac_profile_free(saved);
}

static void opening_survives_short_memory(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_profile *saved = NULL, *opened = NULL;
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    long n = 0;
    (void)state;
    synthetic_profile(&saved, 8, 5, 2, 1);
    must_succeed(ousac_profile_save(saved, in_directory(path, "a.oca"), NULL, &error), &error);
    for (; status == OUSAC_STATUS_MEMORY && n < 10000; n++) {
        (void)ousac_memory_fail_after(n);
        status = ousac_profile_open(&opened, path, &error);
        (void)ousac_memory_fail_after(-1);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(n > 20);
    ousac_profile_free(opened);
    ousac_profile_free(saved);
}

static void an_empty_profile_survives_its_file(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_profile *saved = NULL, *loaded = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile(&saved, 0, 0, 1, 1);
    must_succeed(ousac_profile_save(saved, in_directory(path, "a.oca"), NULL, &error), &error);
    must_succeed(ousac_profile_load(&loaded, path, &error), &error);
    assert_int_equal(loaded->range_count, 0);
    assert_true(ousac_profile_samples(loaded) == 0);
    ousac_profile_free(saved);
    ousac_profile_free(loaded);
}

/* The expected digests come from a program of its own, written from formats/PROFILE.md, over the file that
 * this profile makes; they change when the synthetic profile does. */
static void digests_are_those_of_the_specification(void **state) {
    ousac_profile *profile = NULL;
    char digest[OUSAC_DIGEST_CHARS];
    ousac_error error = {0};
    (void)state;
    synthetic_profile(&profile, 0, 0, 2, 1);
    must_succeed(ousac_profile_add_range(profile, 8, 5, &error), &error);
    profile->weight[3] = 0.25;
    profile->moment[9][2] = -1.5;
    profile->scalar[OUSAC_SCALAR_MODULE2][0] = 3;
    ousac_profile_weights_digest(profile, profile->identity.weights_digest);
    assert_string_equal(profile->identity.weights_digest,
                        "8b08f3a9230b1ddaad9fe08ba4f0b65f9cbc652c7174fdb8f626970318ed8b3f");
    profile->version = 1;
    ousac_profile_digest(profile, digest);
    assert_string_equal(digest, "f8071e757c5671ed74313ece8845f0a942972e8826cddca7a07e82e09e9e3cd8");
    ousac_profile_free(profile);

    synthetic_profile_with_magnitudes(&profile, 0, 0);
    must_succeed(ousac_profile_add_range(profile, 8, 5, &error), &error);
    profile->magnitude[OUSAC_MAGNITUDE_Y][17] = 0.25;
    profile->magnitude[OUSAC_MAGNITUDE_ADX][2] = 4.5;
    profile->version = 1;
    ousac_profile_digest(profile, digest);
    assert_string_equal(digest, "29c8b412d2ee94866e0781d19ba2d89508dfc24ca42481cb4bf62a018851bdf2");
    ousac_profile_free(profile);
}

static int magnitudes_differ(const ousac_profile *a, const ousac_profile *b, double tolerance) {
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++)
        for (size_t i = 0; i < ousac_profile_magnitude_size(&a->arch, (ousac_magnitude)k); i++)
            if (!(fabs(a->magnitude[k][i] - b->magnitude[k][i]) <= tolerance))
                return 1;
    return 0;
}

static void magnitudes_survive_files_and_merging(void **state) {
    /* 2 blocks of groups with n 8, 8, 8, 32 and sites with m 8, 8, 8, 8, 32, 8 */
    static const size_t sizes[OUSAC_MAGNITUDE_COUNT] = {112, 144, 112, 144};
    char a[SCRATCH_PATH_BYTES], b[SCRATCH_PATH_BYTES], before[OUSAC_DIGEST_CHARS], after[OUSAC_DIGEST_CHARS];
    ousac_profile *whole = NULL, *part = NULL, *loaded = NULL, *plain = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile_with_magnitudes(&whole, 0, 12);
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++)
        assert_int_equal(ousac_profile_magnitude_size(&whole->arch, (ousac_magnitude)k), sizes[k]);
    assert_int_equal(ousac_profile_magnitude_offset(&whole->arch, OUSAC_MAGNITUDE_ADX, 4), 56);
    assert_int_equal(ousac_profile_magnitude_offset(&whole->arch, OUSAC_MAGNITUDE_Y, 5), 64);
    must_succeed(ousac_profile_save(whole, in_directory(a, "a.oca"), NULL, &error), &error);
    must_succeed(ousac_profile_load(&loaded, a, &error), &error);
    assert_int_equal(loaded->identity.magnitudes, 1);
    assert_false(magnitudes_differ(whole, loaded, 0));
    must_succeed(ousac_profile_save(loaded, in_directory(b, "b.oca"), NULL, &error), &error);
    assert_true(files_are_equal(a, b));
    ousac_profile_free(loaded);

    synthetic_profile_with_magnitudes(&loaded, 4, 8);
    synthetic_profile_with_magnitudes(&part, 0, 4);
    must_succeed(ousac_profile_merge(loaded, part, &error), &error);
    assert_false(magnitudes_differ(whole, loaded, 1e-12));
    ousac_profile_free(part);
    synthetic_profile(&plain, 12, 4, 1, 1);
    must_fail(ousac_profile_merge(loaded, plain, &error), OUSAC_STATUS_MISMATCH, &error, "magnitudes");
    must_fail(ousac_profile_merge(plain, loaded, &error), OUSAC_STATUS_MISMATCH, &error, "magnitudes");
    ousac_profile_free(plain);
    ousac_profile_free(loaded);

    /* each of them is part of the identity */
    ousac_profile_digest(whole, before);
    for (int k = 0; k < OUSAC_MAGNITUDE_COUNT; k++) {
        whole->magnitude[k][sizes[k] - 1] += 1;
        ousac_profile_digest(whole, after);
        assert_string_not_equal(before, after);
        whole->magnitude[k][sizes[k] - 1] -= 1;
    }
    ousac_profile_free(whole);
}

static void magnitudes_that_are_none_are_refused(void **state) {
    static const double negative[8] = {0, 0, -1}, few[7] = {0}, other[8] = {1};
    static const struct {
        const char *why;
        archive_edit edit;
    } cases[] = {
        {"no tensor \"magnitude/blocks.1.attn.qkv/adx\"", {.drop = "magnitude/blocks.1.attn.qkv/adx"}},
        {"no tensor \"magnitude/blocks.0.attn.k/y\"", {.drop = "magnitude/blocks.0.attn.k/y"}},
        {"tensors; expected", {.drop = "magnitudes"}},
        {"metadata \"magnitudes\" is \"0\"", {.key = "magnitudes", .value = "0"}},
        {"magnitude/blocks.0.attn.proj/x",
         {.tensor = "magnitude/blocks.0.attn.proj/x",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 1,
          .shape = {8},
          .data = negative}},
        {"magnitude/blocks.0.attn.proj/ady",
         {.tensor = "magnitude/blocks.0.attn.proj/ady",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 1,
          .shape = {7},
          .data = few}},
        {"metadata \"digest\"",
         {.tensor = "magnitude/blocks.0.attn.proj/x",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 1,
          .shape = {8},
          .data = other}},
    };
    char good[SCRATCH_PATH_BYTES], bad[SCRATCH_PATH_BYTES];
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile_with_magnitudes(&profile, 0, 2);
    must_succeed(ousac_profile_save(profile, in_directory(good, "good.oca"), NULL, &error), &error);
    ousac_profile_free(profile);
    in_directory(bad, "bad.oca");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rewrite_archive(good, bad, &cases[i].edit);
        must_fail(ousac_profile_load(&profile, bad, &error), OUSAC_STATUS_FORMAT, &error, cases[i].why);
        assert_null(profile);
    }
}

static void merged_parts_equal_the_whole(void **state) {
    static const uint64_t parts[4][2] = {{32, 16}, {0, 16}, {48, 16}, {16, 16}};
    ousac_profile *whole = NULL, *sum = NULL, *part = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile(&whole, 0, 64, 2, 1);
    synthetic_profile(&sum, parts[0][0], parts[0][1], 2, 1);
    for (size_t i = 1; i < 4; i++) {
        synthetic_profile(&part, parts[i][0], parts[i][1], 2, 1);
        must_succeed(ousac_profile_merge(sum, part, &error), &error);
        ousac_profile_free(part);
    }
    assert_true(sums_differ(whole, sum) < 1e-10);
    assert_int_equal(sum->range_count, 1); /* adjacent ranges became one */
    assert_true(sum->ranges[0].first == 0 && sum->ranges[0].count == 64);
    ousac_profile_free(sum);
    /* apart, they stay apart */
    synthetic_profile(&sum, 32, 16, 2, 1);
    synthetic_profile(&part, 0, 16, 2, 1);
    must_succeed(ousac_profile_merge(sum, part, &error), &error);
    assert_int_equal(sum->range_count, 2);
    assert_true(sum->ranges[0].first == 0 && sum->ranges[1].first == 32);
    assert_true(ousac_profile_samples(sum) == 32);
    ousac_profile_free(sum);
    ousac_profile_free(part);
    ousac_profile_free(whole);
}

/* `more` must not merge into a profile of samples 0..15, which must stay as it was. */
static void refuse_merge(const ousac_profile *more, const char *text) {
    char before[OUSAC_DIGEST_CHARS], after[OUSAC_DIGEST_CHARS];
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    synthetic_profile(&profile, 0, 16, 2, 1);
    ousac_profile_digest(profile, before);
    must_fail(ousac_profile_merge(profile, more, &error), OUSAC_STATUS_MISMATCH, &error, text);
    ousac_profile_digest(profile, after);
    assert_string_equal(before, after);
    ousac_profile_free(profile);
}

static void what_differs_is_not_merged(void **state) {
    ousac_profile *more = NULL;
    (void)state;
    synthetic_profile(&more, 15, 8, 2, 1);
    refuse_merge(more, "0..15 and 15..22");
    ousac_profile_free(more);
    synthetic_profile(&more, 16, 8, 3, 1);
    refuse_merge(more, "segments");
    ousac_profile_free(more);
    synthetic_profile(&more, 16, 8, 2, 0);
    refuse_merge(more, "pilot");
    ousac_profile_free(more);

    synthetic_profile(&more, 16, 8, 2, 1);
    more->identity.model_digest[0] = 'b';
    refuse_merge(more, "models");
    more->identity.model_digest[0] = 'a';
    (void)snprintf(more->identity.model_process, sizeof more->identity.model_process, "predicts v");
    refuse_merge(more, SYNTHETIC_PROCESS);
    (void)snprintf(more->identity.model_process, sizeof more->identity.model_process, SYNTHETIC_PROCESS);
    synthetic_digest(more->identity.inputs_digest, '1');
    refuse_merge(more, "different inputs: drawn and 111111111111");
    more->identity.inputs_digest[0] = '\0';
    more->identity.compute = OUSAC_COMPUTE_BF16_ATTENTION;
    refuse_merge(more, "f32 and the other in bf16+attention");
    more->identity.compute = OUSAC_COMPUTE_F32;
    more->identity.tokens_unknown = 1;
    refuse_merge(more, "by which rule");
    more->identity.tokens_unknown = 0;
    more->identity.seed--;
    refuse_merge(more, "seeds");
    more->identity.seed++;
    more->identity.micro_batch++;
    refuse_merge(more, "micro-batches");
    more->identity.micro_batch--;
    more->identity.tokens_used--;
    refuse_merge(more, "tokens");
    more->identity.tokens_used++;
    more->schedule.steps[5].scale += 1;
    refuse_merge(more, "schedules");
    more->schedule.steps[5].scale -= 1;
    more->weight[3] = 2;
    ousac_profile_weights_digest(more, more->identity.weights_digest);
    refuse_merge(more, "weights");
    more->weight[3] = 1;
    ousac_profile_weights_digest(more, more->identity.weights_digest);
    more->arch.sites[4].name[0] = 'x';
    refuse_merge(more, "site 4");
    ousac_profile_free(more);
}

static void a_profile_cannot_be_merged_with_itself(void **state) {
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile(&profile, 3, 2, 1, 1);
    must_fail(ousac_profile_merge(profile, profile, &error), OUSAC_STATUS_MISMATCH, &error, "3..4");
    ousac_profile_free(profile);
}

static void ranges_are_added_in_any_order_and_never_twice(void **state) {
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile(&profile, 8, 4, 1, 0);
    must_succeed(ousac_profile_add_range(profile, 0, 4, &error), &error);
    must_succeed(ousac_profile_add_range(profile, 20, 1, &error), &error);
    assert_int_equal(profile->range_count, 3);
    must_fail(ousac_profile_add_range(profile, 11, 4, &error), OUSAC_STATUS_MISMATCH, &error,
              "8..11 and 11..14");
    must_fail(ousac_profile_add_range(profile, 3, 1, &error), OUSAC_STATUS_MISMATCH, &error, "0..3 and 3..3");
    must_fail(ousac_profile_add_range(profile, 1, 100, &error), OUSAC_STATUS_MISMATCH, &error, "0..3");
    must_succeed(ousac_profile_add_range(profile, 4, 4, &error), &error); /* closes the gap */
    assert_int_equal(profile->range_count, 2);
    assert_true(profile->ranges[0].first == 0 && profile->ranges[0].count == 12);
    must_fail(ousac_profile_add_range(profile, UINT64_MAX - 1, 2, &error), OUSAC_STATUS_USAGE, &error,
              "64 bits");
    ousac_profile_free(profile);
}

static void step_weights_are_inverse_traces_of_cached_steps(void **state) {
    ousac_profile *pilot = NULL;
    double *weight = NULL;
    (void)state;
    synthetic_profile(&pilot, 0, 12, 1, 0);
    const size_t groups = pilot->arch.group_count, sites = pilot->arch.site_count;
    pilot->scalar[OUSAC_SCALAR_DX2][(1 * 2 + 0) * groups + 2] = 0;      /* a group that did not move */
    pilot->scalar[OUSAC_SCALAR_DX2][(1 * 2 + 0) * groups + 1] = 1e-320; /* too little to divide by */
    weight = ousac_calloc(evaluations(pilot), groups * sizeof *weight);
    assert_non_null(weight);
    ousac_profile_step_weights(pilot, weight);
    for (size_t step = 0; step < SYNTHETIC_STEPS; step++)
        for (size_t branch = 0; branch < 2; branch++)
            for (size_t g = 0; g < groups; g++) {
                const size_t at = step * 2 + branch;
                const int cached = branch == 0 ? step % 3 != 0 : step == 1 || step == 5;
                double expected = 0;
                if (cached && g % 4 == 3) /* fc2 is wide: output side, energy of dy */
                    expected = 12 / pilot->scalar[OUSAC_SCALAR_DY2][at * sites + g / 4 * 6 + 5];
                else if (cached && !(at == 2 && (g == 1 || g == 2)))
                    expected = 12 / pilot->scalar[OUSAC_SCALAR_DX2][at * groups + g];
                assert_true(weight[at * groups + g] == expected);
            }
    ousac_free(weight);
    ousac_profile_free(pilot);
}

static void weights_are_part_of_the_identity(void **state) {
    ousac_profile *plain = NULL, *weighted = NULL;
    ousac_error error = {0};
    double weight[SYNTHETIC_STEPS * 2 * 8];
    char path[SCRATCH_PATH_BYTES];
    (void)state;
    synthetic_profile(&plain, 0, 1, 1, 0);
    assert_int_equal(plain->arch.group_count, 8);
    for (size_t i = 0; i < sizeof weight / sizeof *weight; i++)
        weight[i] = 0.1 * (double)i;
    must_succeed(
        ousac_profile_create(&weighted, &plain->arch, &plain->schedule, &plain->identity, weight, 1, &error),
        &error);
    assert_string_not_equal(plain->identity.weights_digest, weighted->identity.weights_digest);
    must_succeed(ousac_profile_save(weighted, in_directory(path, "w.oca"), NULL, &error), &error);
    ousac_profile_free(weighted);
    must_succeed(ousac_profile_load(&weighted, path, &error), &error);
    assert_memory_equal(weighted->weight, weight, sizeof weight);
    ousac_profile_free(weighted);

    weight[17] = -1;
    must_fail(
        ousac_profile_create(&weighted, &plain->arch, &plain->schedule, &plain->identity, weight, 1, &error),
        OUSAC_STATUS_USAGE, &error, "blocks.0.attn.proj at step 1, branch cond");
    weight[17] = NAN;
    must_fail(
        ousac_profile_create(&weighted, &plain->arch, &plain->schedule, &plain->identity, weight, 1, &error),
        OUSAC_STATUS_USAGE, &error, "step 1");
    assert_null(weighted);
    /* weights written behind the digest's back are not saved under it */
    plain->weight[0] = 5;
    must_fail(ousac_profile_save(plain, path, NULL, &error), OUSAC_STATUS_INTERNAL, &error, "weights");
    ousac_profile_free(plain);
}

static void an_identity_out_of_range_is_refused(void **state) {
    ousac_profile *good = NULL, *bad = NULL;
    ousac_error error = {0};
    (void)state;
    synthetic_profile(&good, 0, 1, 1, 0);
    ousac_profile_identity identity = good->identity;
    identity.segments = 0;
    must_fail(ousac_profile_create(&bad, &good->arch, &good->schedule, &identity, NULL, 1, &error),
              OUSAC_STATUS_USAGE, &error, "segments");
    identity.segments = SYNTHETIC_STEPS + 1;
    must_fail(ousac_profile_create(&bad, &good->arch, &good->schedule, &identity, NULL, 1, &error),
              OUSAC_STATUS_USAGE, &error, "segments");
    identity = good->identity;
    identity.tokens_used = SYNTHETIC_TOKENS + 1;
    must_fail(ousac_profile_create(&bad, &good->arch, &good->schedule, &identity, NULL, 1, &error),
              OUSAC_STATUS_USAGE, &error, "tokens");
    identity = good->identity;
    identity.magnitudes = 2;
    must_fail(ousac_profile_create(&bad, &good->arch, &good->schedule, &identity, NULL, 1, &error),
              OUSAC_STATUS_USAGE, &error, "magnitudes");
    identity = good->identity;
    identity.micro_batch = 0;
    must_fail(ousac_profile_create(&bad, &good->arch, &good->schedule, &identity, NULL, 1, &error),
              OUSAC_STATUS_USAGE, &error, "micro-batch");
    identity = good->identity;
    identity.model_digest[5] = 'X';
    must_fail(ousac_profile_create(&bad, &good->arch, &good->schedule, &identity, NULL, 1, &error),
              OUSAC_STATUS_USAGE, &error, "digest");
    good->schedule.steps[1].gate[0] = OUSAC_GATE_AUTO;
    must_fail(ousac_profile_create(&bad, &good->arch, &good->schedule, &good->identity, NULL, 1, &error),
              OUSAC_STATUS_USAGE, &error, "");
    assert_null(bad);
    ousac_profile_free(good);
}

static void another_kind_of_file_is_named(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_profile *profile = NULL;
    ousac_oca_writer *writer = NULL;
    ousac_error error = {0};
    (void)state;
    in_directory(path, "none.oca");
    must_fail(ousac_profile_load(&profile, path, &error), OUSAC_STATUS_IO, &error, "No such file");
    must_succeed(ousac_oca_writer_create(&writer, &error), &error);
    must_succeed(ousac_oca_writer_metadata(writer, "a", "b", &error), &error);
    must_succeed(ousac_oca_writer_save(writer, path, &error), &error);
    must_fail(ousac_profile_load(&profile, path, &error), OUSAC_STATUS_FORMAT, &error,
              "expected \"ousac-profile\"");
    must_succeed(ousac_oca_writer_metadata(writer, "format", "ousac-plan", &error), &error);
    must_succeed(ousac_oca_writer_save(writer, path, &error), &error);
    must_fail(ousac_profile_load(&profile, path, &error), OUSAC_STATUS_FORMAT, &error,
              "\"ousac-plan\"; expected \"ousac-profile\"");
    ousac_oca_writer_free(writer);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs("not an archive at all, and longer than a header would be, by some more bytes", file) >=
                0);
    assert_int_equal(fclose(file), 0);
    must_fail(ousac_profile_load(&profile, path, &error), OUSAC_STATUS_FORMAT, &error, path);
    assert_null(profile);
}

static void a_file_that_contradicts_itself_is_refused(void **state) {
    static const double numbers[64] = {1, NAN, 3};
    static const double negative[96] = {-1};
    static const int32_t zeros[12] = {0};
    static const struct {
        const char *why; /* in the message, with the file's path */
        archive_edit edit;
    } cases[] = {
        {"no metadata \"arch\"", {.drop = "arch"}},
        {"no metadata \"schedule\"", {.drop = "schedule"}},
        {"no metadata \"seed\"", {.drop = "seed"}},
        {"no metadata \"ranges\"", {.drop = "ranges"}},
        {"no metadata \"digest\"", {.drop = "digest"}},
        {"no metadata \"weights_digest\"", {.drop = "weights_digest"}},
        {"no tensor \"step/gate\"", {.drop = "step/gate"}},
        {"no tensor \"step/dmodule2\"", {.drop = "step/dmodule2"}},
        {"no tensor \"moment/blocks.1.mlp.fc2/1\"", {.drop = "moment/blocks.1.mlp.fc2/1"}},
        {"metadata \"arch\"", {.key = "arch", .value = "[]"}},
        {"metadata \"arch\"", {.key = "arch", .value = "{\"family\":\"dit\"}"}},
        {"metadata \"schedule\"", {.key = "schedule", .value = "{}"}},
        {"metadata \"seed\" is \"-1\"", {.key = "seed", .value = "-1"}},
        {"metadata \"seed\" is \"01\"", {.key = "seed", .value = "01"}},
        {"metadata \"seed\" is \"\"", {.key = "seed", .value = ""}},
        {"metadata \"seed\"", {.key = "seed", .value = "18446744073709551616"}},
        {"metadata \"seed\" is \"1 \"", {.key = "seed", .value = "1 "}},
        {"metadata \"digest\"", {.key = "seed", .value = "7"}}, /* the digest covers the seed */
        {"metadata \"digest\"", {.key = "micro_batch", .value = "8"}},
        {"metadata \"digest\"", {.key = "ranges", .value = "0+8"}},
        {"metadata \"ranges\"", {.key = "ranges", .value = "0+4 4+4"}}, /* adjacent */
        {"metadata \"ranges\"", {.key = "ranges", .value = "4+4 0+2"}},
        {"metadata \"ranges\"", {.key = "ranges", .value = "0+8 4+8"}},
        {"metadata \"ranges\"", {.key = "ranges", .value = "0+0"}},
        {"metadata \"ranges\"", {.key = "ranges", .value = "0+4 "}},
        {"metadata \"ranges\"", {.key = "ranges", .value = " 0+4"}},
        {"metadata \"ranges\"", {.key = "ranges", .value = "0-4"}},
        {"metadata \"ranges\"", {.key = "ranges", .value = "+4"}},
        {"metadata \"ranges\"", {.key = "ranges", .value = "18446744073709551615+1"}},
        {"metadata \"tokens_used\"", {.key = "tokens_used", .value = "5"}},
        {"metadata \"segments\"", {.key = "segments", .value = "0"}},
        {"metadata \"segments\"", {.key = "segments", .value = "7"}},
        {"no tensor \"moment/blocks.0.attn.qkv/2\"", {.key = "segments", .value = "3"}},
        {"tensors; expected", {.key = "segments", .value = "1"}},
        {"tensors; expected", {.key = "moments", .value = "0"}},
        {"metadata \"moments\"", {.key = "moments", .value = "2"}},
        {"metadata \"model_digest\"", {.key = "model_digest", .value = "abc"}},
        {"no metadata \"model_constants\"", {.drop = "model_constants"}},
        {"no metadata \"model_process\"", {.drop = "model_process"}},
        {"control characters", {.key = "model_process", .value = "a\nb"}},
        {"metadata \"digest\"", {.key = "model_process", .value = "predicts v"}},
        {"metadata \"digest\"", {.key = "model_constants", .value = "heads=3"}},
        {"metadata \"inputs_digest\"", {.key = "inputs_digest", .value = "abc"}},
        {"metadata \"digest\"",
         {.key = "inputs_digest",
          .value = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}},
        {"no metadata \"compute\"", {.drop = "compute"}},
        {"compute \"f16\"", {.key = "compute", .value = "f16"}},
        {"metadata \"digest\"", {.key = "compute", .value = "bf16"}},
        {"metadata \"token_choice\"", {.key = "token_choice", .value = "step"}},
        {"metadata \"digest\"", {.key = "token_choice", .value = "unknown"}},
        {"metadata \"schedule_digest\"",
         {.key = "schedule_digest",
          .value = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}},
        {"metadata \"weights_digest\"",
         {.key = "weights_digest",
          .value = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}},
        {"metadata \"digest\"",
         {.key = "digest", .value = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}},
        {"\"step/gate\" has 0 at step 1",
         {.tensor = "step/gate", .dtype = OUSAC_DTYPE_I32, .dims = 2, .shape = {6, 2}, .data = zeros}},
        {"\"step/age\" has 0 at step 1",
         {.tensor = "step/age", .dtype = OUSAC_DTYPE_I32, .dims = 2, .shape = {6, 2}, .data = zeros}},
        {"\"step/gate\" has the shape (12); expected (6, 2)",
         {.tensor = "step/gate", .dtype = OUSAC_DTYPE_I32, .dims = 1, .shape = {12}, .data = zeros}},
        {"\"step/gate\" is u8; expected i32",
         {.tensor = "step/gate", .dtype = OUSAC_DTYPE_U8, .dims = 2, .shape = {6, 2}, .data = zeros}},
        {"\"step/weight\": element 0 is -1",
         {.tensor = "step/weight",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 3,
          .shape = {6, 2, 8},
          .data = negative}},
        {"\"step/x2\": element 0 is -1",
         {.tensor = "step/x2", .dtype = OUSAC_DTYPE_F64, .dims = 3, .shape = {6, 2, 8}, .data = negative}},
        {"\"moment/blocks.0.attn.proj/0\": element 1 is",
         {.tensor = "moment/blocks.0.attn.proj/0",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 1,
          .shape = {36},
          .data = numbers}},
        {"has the shape (35); expected (36)",
         {.tensor = "moment/blocks.0.attn.proj/0",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 1,
          .shape = {35},
          .data = numbers}},
        {"tensors; expected",
         {.tensor = "surprise", .dtype = OUSAC_DTYPE_F64, .dims = 1, .shape = {2}, .data = numbers}},
    };
    char path[SCRATCH_PATH_BYTES], bad[SCRATCH_PATH_BYTES];
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    (void)state;
    in_directory(path, "good.oca");
    in_directory(bad, "bad.oca");
    synthetic_profile(&profile, 0, 4, 2, 1);
    must_succeed(ousac_profile_save(profile, path, NULL, &error), &error);
    ousac_profile_free(profile);
    /* rewriting changes nothing by itself */
    rewrite_archive(path, bad, &(archive_edit){.key = "extra", .value = "is ignored"});
    must_succeed(ousac_profile_load(&profile, bad, &error), &error);
    ousac_profile_free(profile);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rewrite_archive(path, bad, &cases[i].edit);
        must_fail(ousac_profile_load(&profile, bad, &error), OUSAC_STATUS_FORMAT, &error, cases[i].why);
        must_fail(error.status, OUSAC_STATUS_FORMAT, &error, bad);
        assert_null(profile);
    }
    rewrite_archive(path, bad, &(archive_edit){.key = "format_version", .value = "3"});
    must_fail(ousac_profile_load(&profile, bad, &error), OUSAC_STATUS_UNSUPPORTED, &error, "version \"3\"");
}

/* One replacement in the text of an architecture. */
static void refuse_arch(const char *good, const char *from, const char *to, const char *why) {
    ousac_arch arch;
    ousac_error error = {0};
    const char *at = strstr(good, from);
    assert_non_null(at);
    char *bad = ousac_calloc(strlen(good) + strlen(to) + 1, 1);
    assert_non_null(bad);
    (void)sprintf(bad, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    must_fail(ousac_arch_parse(&arch, bad, 2, "here", &error), OUSAC_STATUS_FORMAT, &error, why);
    must_fail(error.status, OUSAC_STATUS_FORMAT, &error, "here");
    assert_null(arch.sites);
    ousac_free(bad);
}

static void the_text_of_an_architecture_is_checked(void **state) {
    ousac_arch arch, back;
    ousac_error error = {0};
    char difference[OUSAC_ARCH_DIFFERENCE_BYTES];
    char *text = NULL;
    (void)state;
    synthetic_arch(&arch);
    arch.other_macs = (uint64_t)1 << 60; /* needs more than a double */
    arch.other_macs++;
    must_succeed(ousac_arch_print(&arch, &text, &error), &error);
    must_succeed(ousac_arch_parse(&back, text, 2, "here", &error), &error);
    assert_false(ousac_arch_difference(&arch, &back, difference));
    assert_true(back.other_macs == arch.other_macs);
    for (size_t g = 0; g < arch.group_count; g++) /* it is no part of the text */
        assert_false(back.groups[g].consumed);
    back.modules[1].fixed_macs++;
    assert_true(ousac_arch_difference(&arch, &back, difference));
    assert_non_null(strstr(difference, "blocks.0.mlp"));
    refuse_arch(text, "\"family\":\"dit\",", "", "no \"family\"");
    refuse_arch(text, "\"family\":\"dit\",", "\"family\":\"dit\",\"family\":\"dit\",", "repeated");
    refuse_arch(text, "\"family\":\"dit\",", "\"family\":\"dit\",\"colour\":1,", "unknown");
    refuse_arch(text, "\"tokens\":4", "\"tokens\":0", "tokens");
    refuse_arch(text, "\"tokens\":4", "\"tokens\":4.5", "here");
    refuse_arch(text, "\"tokens\":4", "\"tokens\":\"4\"", "tokens");
    refuse_arch(text, "\"tokens\":4", "\"tokens\":99999999999", "tokens");
    refuse_arch(text, "\"streams\":[{\"name\":\"image\",\"tokens\":4}],", "", "no \"streams\"");
    refuse_arch(text, "\"streams\":[", "\"tokens\":4,\"streams\":[", "unknown key \"tokens\"");
    refuse_arch(text, "\"streams\":[{\"name\":\"image\",\"tokens\":4}]", "\"streams\":[]", "stream");
    refuse_arch(text, "{\"name\":\"image\",\"tokens\":4}",
                "{\"name\":\"image\",\"tokens\":4},{\"name\":\"image\",\"tokens\":4}", "two streams");
    refuse_arch(text, "\"stream\":0,\"side\"", "\"stream\":1,\"side\"", "stream");
    refuse_arch(text, "\"outputs\":[{\"stream\":0,\"width\":8}]", "\"outputs\":[]", "outputs");
    refuse_arch(text, "\"outputs\":[{\"stream\":0,\"width\":8}]", "\"width\":8", "unknown key \"width\"");
    refuse_arch(text, "\"constants\":[]", "\"constants\":[{\"name\":\"c\",\"stream\":1,\"m\":1,\"n\":1}]",
                "constant group");
    refuse_arch(text, "\"m\":8", "\"m\":0", "site 0");
    refuse_arch(text, "\"name\":\"blocks.0.attn.k\"", "\"name\":\"blocks.0.attn.q\"", "two sites");
    refuse_arch(text, "\"name\":\"blocks.0.attn.k\"", "\"name\":\"blocks/0\"", "slash");
    refuse_arch(text, "\"name\":\"blocks.0.attn.k\"", "\"name\":\"\"", "site 1");
    refuse_arch(text, "\"side\":\"input\"", "\"side\":\"left\"", "side");
    refuse_arch(text, "\"dim\":8", "\"dim\":9", "");
    refuse_arch(text, "\"group\":0", "\"group\":77", "");
    refuse_arch(text, "\"first_site\":0", "\"first_site\":1", "");
    refuse_arch(text, "\"fixed_macs\":\"256\"", "\"fixed_macs\":256", "fixed_macs");
    refuse_arch(text, "\"fixed_macs\":\"256\"", "\"fixed_macs\":\"-256\"", "fixed_macs");
    ousac_free(text);
    ousac_arch_free(&arch);
    ousac_arch_free(&back);
}

static void short_memory_is_an_error_and_leaves_nothing(void **state) {
    char path[SCRATCH_PATH_BYTES], again[SCRATCH_PATH_BYTES];
    ousac_profile *profile = NULL, *loaded = NULL;
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    (void)state;
    synthetic_profile(&profile, 0, 2, 1, 1);
    in_directory(path, "p.oca");
    in_directory(again, "again.oca");
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_profile_save(profile, path, NULL, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        assert_int_equal(file_exists(path), status == OUSAC_STATUS_OK);
    }
    assert_true(allowed > 20);
    status = OUSAC_STATUS_MEMORY;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_profile_load(&loaded, path, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        assert_int_equal(loaded != NULL, status == OUSAC_STATUS_OK);
    }
    assert_true(allowed > 20);
    must_succeed(ousac_profile_save(loaded, again, NULL, &error), &error);
    assert_true(files_are_equal(path, again));
    /* a merge that runs out of memory changes nothing */
    char before[OUSAC_DIGEST_CHARS], after[OUSAC_DIGEST_CHARS];
    ousac_profile_free(loaded);
    synthetic_profile(&loaded, 2, 2, 1, 1);
    ousac_profile_digest(profile, before);
    (void)ousac_memory_fail_after(0);
    status = ousac_profile_merge(profile, loaded, &error);
    (void)ousac_memory_fail_after(-1);
    must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
    ousac_profile_digest(profile, after);
    assert_string_equal(before, after);
    ousac_profile_free(profile);
    ousac_profile_free(loaded);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gates_and_ages_follow_the_schedule),
        cmocka_unit_test(a_file_holds_the_whole_profile),
        cmocka_unit_test(an_opened_profile_reads_its_moments_from_the_file),
        cmocka_unit_test(an_opened_profile_is_checked_as_a_loaded_one),
        cmocka_unit_test(opening_survives_short_memory),
        cmocka_unit_test(an_empty_profile_survives_its_file),
        cmocka_unit_test(digests_are_those_of_the_specification),
        cmocka_unit_test(magnitudes_survive_files_and_merging),
        cmocka_unit_test(magnitudes_that_are_none_are_refused),
        cmocka_unit_test(merged_parts_equal_the_whole),
        cmocka_unit_test(what_differs_is_not_merged),
        cmocka_unit_test(a_profile_cannot_be_merged_with_itself),
        cmocka_unit_test(ranges_are_added_in_any_order_and_never_twice),
        cmocka_unit_test(step_weights_are_inverse_traces_of_cached_steps),
        cmocka_unit_test(weights_are_part_of_the_identity),
        cmocka_unit_test(an_identity_out_of_range_is_refused),
        cmocka_unit_test(another_kind_of_file_is_named),
        cmocka_unit_test(a_file_that_contradicts_itself_is_refused),
        cmocka_unit_test(the_text_of_an_architecture_is_checked),
        cmocka_unit_test(short_memory_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
