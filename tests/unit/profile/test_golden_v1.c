/* Files of version 1, as the program wrote them before version 2 (tests/golden/v1, at d36c24f; nothing makes
 * them any more), are still read, and what they do not say is not taken for granted. The model is that of
 * `make_dit DIRECTORY 1 1 8`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "calib/backend/backend.h"
#include "formats/memory.h"
#include "profile/bundle/bundle.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

#define V1 "tests/golden/v1/"
#define MODEL_DIGEST "adb1f188e3eb92a6e037ac0b5e2c7c5aa7e16db4e88bcc9ace26dd18efc5f7f4"
#define PROFILE_DIGEST "1cb146b117243251e8bf3772138dc9198b630771ffa0e741ea76c5211663bd42"

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

static ousac_profile *load(const char *path) {
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    must_succeed(ousac_profile_load(&profile, path, &error), &error);
    return profile;
}

static void profiles_keep_their_digests(void **state) {
    static const struct {
        const char *file, *digest;
        int moments, magnitudes, tokens_unknown;
        size_t tokens;
    } cases[] = {
        {V1 "profile.oca", PROFILE_DIGEST, 1, 1, 0, 16},
        {V1 "tokens.oca", "d34533cbee91a8ea486e150756eaf68c6b4a28119a74686ae9b486054805920e", 1, 0, 1, 4},
        {V1 "pilot.oca", "299c58f6ea142c5d9eb5d9ff61d514a92fc61c0f529c46ddf04e80d521f8de07", 0, 0, 0, 16},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char digest[OUSAC_DIGEST_CHARS], again[OUSAC_DIGEST_CHARS], path[SCRATCH_PATH_BYTES];
        ousac_error error = {0};
        ousac_profile *profile = load(cases[i].file);
        assert_int_equal(profile->version, 1);
        ousac_profile_digest(profile, digest);
        assert_string_equal(digest, cases[i].digest);
        assert_string_equal(profile->identity.model_digest, MODEL_DIGEST);
        assert_string_equal(profile->identity.model_process, "");
        assert_int_equal(profile->identity.compute, OUSAC_COMPUTE_F32);
        assert_int_equal(profile->identity.tokens_unknown, cases[i].tokens_unknown);
        assert_int_equal(profile->identity.tokens_used, cases[i].tokens);
        assert_int_equal(profile->identity.magnitudes, cases[i].magnitudes);
        assert_int_equal(profile->moment != NULL, cases[i].moments);
        assert_int_equal(ousac_profile_samples(profile), 4);
        /* written again it is of version 2, of another digest, and knows no more than before */
        scratch_join(path, directory.path, "again.oca");
        must_succeed(ousac_profile_save(profile, path, NULL, &error), &error);
        ousac_profile *second = load(path);
        assert_int_equal(second->version, 2);
        ousac_profile_digest(second, again);
        assert_string_not_equal(again, digest);
        assert_int_equal(second->identity.tokens_unknown, cases[i].tokens_unknown);
        assert_string_equal(second->identity.model_process, "");
        for (size_t k = 0; profile->moment && k < profile->arch.group_count; k++)
            assert_memory_equal(second->moment[k], profile->moment[k],
                                ousac_profile_moment_size(&profile->arch.groups[k]) * sizeof(double));
        ousac_profile_free(second);
        ousac_profile_free(profile);
    }
}

static void what_version_1_does_not_say_does_not_merge(void **state) {
    ousac_error error = {0};
    (void)state;
    ousac_profile *a = load(V1 "tokens.oca"), *b = load(V1 "tokens.oca");
    b->ranges[0].first += 4;
    must_fail(ousac_profile_merge(a, b, &error), OUSAC_STATUS_MISMATCH, &error, "by which rule");
    b->identity.tokens_unknown = 0;
    must_fail(ousac_profile_merge(a, b, &error), OUSAC_STATUS_MISMATCH, &error, "by which rule");
    a->identity.tokens_unknown = 0;
    must_succeed(ousac_profile_merge(a, b, &error), &error);
    ousac_profile_free(a);
    ousac_profile_free(b);
    /* where every token is used there is nothing to choose */
    a = load(V1 "profile.oca"), b = load(V1 "profile.oca");
    b->ranges[0].first += 4;
    must_succeed(ousac_profile_merge(a, b, &error), &error);
    assert_int_equal(a->version, 2);
    ousac_profile_free(b);
    ousac_profile_free(a);
}

/* A version 1 file of bfloat16 may be a CPU's or a GPU's. */
static void bfloat16_of_version_1_is_of_an_unknown_kind(void **state) {
    char path[SCRATCH_PATH_BYTES], whole[SCRATCH_PATH_BYTES], digest[OUSAC_DIGEST_CHARS];
    ousac_profile *a = load(V1 "profile.oca"), *b = NULL;
    ousac_error error = {0};
    (void)state;
    scratch_join(path, directory.path, "bf16.oca");
    scratch_join(whole, directory.path, "bf16-whole.oca");
    a->identity.compute = OUSAC_COMPUTE_BF16_UNKNOWN;
    ousac_profile_digest(a, digest);
    rewrite_archive(V1 "profile.oca", path, &(archive_edit){.key = "compute", .value = "bf16"});
    must_fail(ousac_profile_load(&b, path, &error), OUSAC_STATUS_FORMAT, &error, "digest");
    rewrite_archive(path, whole, &(archive_edit){.key = "digest", .value = digest});
    b = load(whole);
    assert_int_equal(b->identity.compute, OUSAC_COMPUTE_BF16_UNKNOWN);
    b->ranges[0].first += 4;
    must_fail(ousac_profile_merge(a, b, &error), OUSAC_STATUS_MISMATCH, &error, "bf16+unknown");
    ousac_profile_free(a);
    ousac_profile_free(b);
}

static void plans_and_bundles_are_read(void **state) {
    ousac_plan *plan = NULL;
    ousac_bundle *bundle = NULL;
    ousac_model *model = NULL;
    ousac_calibration *calibration = NULL;
    char note[OUSAC_ERROR_MESSAGE_BYTES], path[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_plan_load(&plan, V1 "plan.oca", &error), &error);
    assert_string_equal(plan->model_digest, MODEL_DIGEST);
    assert_string_equal(plan->profile_digest, PROFILE_DIGEST);
    assert_string_equal(plan->model_process, "");
    assert_non_null(plan->forecast);
    for (size_t s = 0; s < plan->site_count; s++)
        assert_int_equal(plan->rank[s], 2);
    scratch_join(path, directory.path, "plan.oca");
    must_succeed(ousac_plan_save(plan, path, &error), &error);
    ousac_plan_free(plan);
    must_succeed(ousac_plan_load(&plan, path, &error), &error);
    assert_string_equal(plan->profile_digest, PROFILE_DIGEST);
    ousac_plan_free(plan);

    must_succeed(ousac_model_load(&model, V1 "model.safetensors", NULL, ousac_backend_cpu(), &error), &error);
    assert_string_equal(model->digest, MODEL_DIGEST);
    must_succeed(ousac_bundle_open(&bundle, V1 "bundle.oca", &error), &error);
    must_succeed(ousac_bundle_verify(bundle, &error), &error);
    must_succeed(ousac_bundle_check_model(bundle, model, note, &error), &error);
    assert_non_null(strstr(note, "version 1"));
    must_succeed(ousac_bundle_calibration(bundle, ousac_bundle_plan(bundle, 0), &model->arch, model->backend,
                                          &calibration, &error),
                 &error);
    assert_non_null(calibration->forecast);
    assert_int_equal(calibration->group_rank[0], 6);
    ousac_calibration_free(calibration);
    /* another file of the same projections might have other constants */
    synthetic_digest(model->digest, 'd');
    must_fail(ousac_bundle_check_model(bundle, model, note, &error), OUSAC_STATUS_MISMATCH, &error,
              "unknown");
    ousac_bundle_close(bundle);
    ousac_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(profiles_keep_their_digests),
        cmocka_unit_test(what_version_1_does_not_say_does_not_merge),
        cmocka_unit_test(bfloat16_of_version_1_is_of_an_unknown_kind),
        cmocka_unit_test(plans_and_bundles_are_read),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
