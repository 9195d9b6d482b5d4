/* A bundle that is written group by group is the bundle that is written from a whole set of factors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "formats/memory.h"
#include "profile/bundle/bundle.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

enum { SITES = SYNTHETIC_BLOCKS * 6, PLANS = 2 };

static const size_t plan_ranks[PLANS][SITES] = {{2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2},
                                                {1, 3, 2, 1, 5, 4, 0, 0, 0, 3, 6, 6}};
/* the most that a low-rank path of the two takes; 3 of site 9 is of a module that is off */
static const size_t needed[SITES] = {2, 3, 2, 2, 5, 4, 2, 2, 2, 2, 6, 6};

typedef struct fixture {
    scratch directory;
    char streamed[SCRATCH_PATH_BYTES], whole[SCRATCH_PATH_BYTES], profile_path[SCRATCH_PATH_BYTES];
    ousac_model *model;
    ousac_profile *profile, *opened; /* of two segments, loaded and in its file */
    ousac_plan *plan[PLANS];
} fixture;

static int create(void **state) {
    static const char *const names[PLANS] = {"default", "other"};
    fixture *f = ousac_calloc(1, sizeof *f);
    ousac_error error = {0};
    assert_non_null(f);
    scratch_create(&f->directory);
    scratch_join(f->streamed, f->directory.path, "streamed.oca");
    scratch_join(f->whole, f->directory.path, "whole.oca");
    scratch_join(f->profile_path, f->directory.path, "profile.oca");
    synthetic_model(&f->model, 22);
    synthetic_profile(&f->profile, 0, 24, 2, 1);
    must_succeed(ousac_profile_save(f->profile, f->profile_path, NULL, &error), &error);
    must_succeed(ousac_profile_open(&f->opened, f->profile_path, &error), &error);
    for (size_t i = 0; i < PLANS; i++) {
        size_t rank[SITES];
        memcpy(rank, plan_ranks[i], sizeof rank);
        const ousac_allocation allocation = {.rank = rank, .cost = 1000, .budget = 2000, .error = 0.1};
        must_succeed(
            ousac_plan_create(&f->plan[i], &f->model->arch, names[i], "uniform", &allocation, &error),
            &error);
        memcpy(f->plan[i]->model_digest, f->model->digest, OUSAC_DIGEST_CHARS);
    }
    *state = f;
    return 0;
}

static int destroy(void **state) {
    fixture *f = *state;
    scratch_remove(&f->directory);
    for (size_t i = 0; i < PLANS; i++)
        ousac_plan_free(f->plan[i]);
    ousac_profile_free(f->profile);
    ousac_profile_free(f->opened);
    synthetic_model_free(f->model);
    ousac_free(f);
    return 0;
}

static ousac_status stream(const fixture *f, size_t threads, const ousac_bundle_options *options,
                           ousac_error *error) {
    const ousac_factorise_options making = {.threads = threads};
    return ousac_bundle_stream(f->streamed, f->model, f->opened, &making, (const ousac_plan *const *)f->plan,
                               PLANS, options, error);
}

static void it_is_the_file_of_a_whole_set(void **state) {
    const fixture *f = *state;
    ousac_error error = {0};
    const ousac_bundle_options cases[] = {
        {.dtype = OUSAC_DTYPE_BF16, .codec = OUSAC_OCA_CODEC_RAW, .provenance = "{}"},
        {.dtype = OUSAC_DTYPE_I8, .codec = OUSAC_OCA_CODEC_ZSTD},
        {.choose = 1, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD},
        {.choose = 1, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD, .keep_all = 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ousac_factor_set *set = NULL;
        const ousac_factorise_options making = {.threads = 1, .rank_max = cases[i].keep_all ? NULL : needed};
        must_succeed(ousac_factor_set_create(&set, f->model, f->profile, &making, &error), &error);
        must_succeed(ousac_bundle_save(f->whole, f->model, f->profile, set,
                                       (const ousac_plan *const *)f->plan, PLANS, &cases[i], &error),
                     &error);
        for (size_t threads = 1; threads < 4; threads++) {
            ousac_bundle *bundle = NULL;
            must_succeed(stream(f, threads, &cases[i], &error), &error);
            assert_true(files_are_equal(f->streamed, f->whole));
            must_succeed(ousac_bundle_open(&bundle, f->streamed, &error), &error);
            must_succeed(ousac_bundle_verify(bundle, &error), &error);
            ousac_bundle_close(bundle);
        }
        ousac_factor_set_free(set);
    }
    assert_int_equal(scratch_entries(&f->directory), 3); /* nothing of the spill */
}

static void what_cannot_be_written_leaves_nothing(void **state) {
    fixture *f = *state;
    ousac_error error = {0};
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32};
    float *w = synthetic_weight(f->model, 4);
    const float before = *w;
    *w = NAN;
    assert_int_equal(stream(f, 2, &options, &error), OUSAC_STATUS_NUMBER);
    assert_non_null(strstr(error.message, "streamed.oca"));
    *w = before;
    assert_int_equal(scratch_entries(&f->directory), 1);
    synthetic_digest(f->opened->identity.model_digest, 'f');
    assert_int_equal(stream(f, 2, &options, &error), OUSAC_STATUS_MISMATCH);
    const ousac_bundle_options force = {.dtype = OUSAC_DTYPE_F32, .force = 1};
    must_succeed(stream(f, 2, &force, &error), &error);
}

/* A zero moment leaves no directions, so a plan that wants some cannot have them. */
static void a_plan_beyond_the_spectrum_is_refused(void **state) {
    fixture *f = *state;
    ousac_error error = {0};
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32};
    for (size_t segment = 0; segment < 2; segment++)
        memset(f->profile->moment[segment * f->profile->arch.group_count + 1], 0,
               ousac_profile_moment_size(&f->profile->arch.groups[1]) * sizeof(double));
    ousac_profile_free(f->opened);
    f->opened = NULL;
    must_succeed(ousac_profile_save(f->profile, f->profile_path, NULL, &error), &error);
    must_succeed(ousac_profile_open(&f->opened, f->profile_path, &error), &error);
    assert_int_equal(stream(f, 1, &options, &error), OUSAC_STATUS_MISMATCH);
    assert_non_null(strstr(error.message, "rank 2 for site blocks.0.attn.proj, whose factors hold 0"));
}

static void short_memory_is_an_error_and_leaves_nothing(void **state) {
    const fixture *f = *state;
    const ousac_bundle_options options = {.choose = 1, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD};
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed = 0;
    for (; status == OUSAC_STATUS_MEMORY && allowed < 100000; allowed += 1 + allowed / 40) {
        (void)ousac_memory_fail_after(allowed);
        status = stream(f, 1, &options, &error);
        (void)ousac_memory_fail_after(-1);
        assert_int_equal(scratch_entries(&f->directory), status ? 1 : 2);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 200);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, create, destroy)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(it_is_the_file_of_a_whole_set),
        TEST(what_cannot_be_written_leaves_nothing),
        TEST(a_plan_beyond_the_spectrum_is_refused),
        TEST(short_memory_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
