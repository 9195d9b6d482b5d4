/* Bundles: what was put in comes out, truncated and rounded as asked, and for the wrong model, schedule or
 * plan not at all. */
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
#include "formats/oca.h"
#include "profile/bundle/bundle.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"

enum { SITES = SYNTHETIC_BLOCKS * 6, PLANS = 3 };

/* "default": rank 2 everywhere; "a-low": less, and the attention of block 1 off, since q, k and v are;
 * "a": every product exact, so no factors at all. */
static const size_t plan_ranks[PLANS][SITES] = {{2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2},
                                                {1, 3, 2, 1, 5, 4, 0, 0, 0, 3, 6, 6},
                                                {4, 4, 4, 4, 7, 7, 4, 4, 4, 4, 7, 7}};
static const char *const plan_names[PLANS] = {"default", "a-low", "a"};
/* the most that a low-rank path of "default" or "a-low" takes; 3 of site 9 is of a module that is off */
static const size_t needed[SITES] = {2, 3, 2, 2, 5, 4, 2, 2, 2, 2, 6, 6};

typedef struct fixture {
    scratch directory;
    char path[SCRATCH_PATH_BYTES];
    ousac_model *model;
    ousac_profile *profile;
    ousac_factor_set *set;
    ousac_plan *plan[PLANS];
} fixture;

static int create(void **state) {
    fixture *f = ousac_calloc(1, sizeof *f);
    ousac_error error = {0};
    const ousac_factorise_options options = {.threads = 1};
    assert_non_null(f);
    scratch_create(&f->directory);
    scratch_join(f->path, f->directory.path, "bundle.oca");
    synthetic_model(&f->model, 21);
    synthetic_profile(&f->profile, 0, 24, 1, 1);
    must_succeed(ousac_factor_set_create(&f->set, f->model, f->profile, &options, &error), &error);
    for (size_t i = 0; i < PLANS; i++) {
        size_t rank[SITES];
        memcpy(rank, plan_ranks[i], sizeof rank);
        const ousac_allocation allocation = {.rank = rank, .cost = 1000 + i, .budget = 2000, .error = 0.1};
        must_succeed(
            ousac_plan_create(&f->plan[i], &f->model->arch, plan_names[i], "uniform", &allocation, &error),
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
    ousac_factor_set_free(f->set);
    ousac_profile_free(f->profile);
    synthetic_model_free(f->model);
    ousac_free(f);
    return 0;
}

static ousac_status save(const fixture *f, const char *path, ousac_dtype dtype, int keep_all,
                         ousac_error *error) {
    const ousac_bundle_options options = {
        .dtype = dtype, .keep_all = keep_all, .provenance = "{\"by\":\"a test\"}"};
    return ousac_bundle_save(path, f->model, f->profile, f->set, (const ousac_plan *const *)f->plan, PLANS,
                             &options, error);
}

static ousac_bundle *saved(const fixture *f, ousac_dtype dtype, int keep_all) {
    ousac_bundle *bundle = NULL;
    ousac_error error = {0};
    must_succeed(save(f, f->path, dtype, keep_all, &error), &error);
    must_succeed(ousac_bundle_open(&bundle, f->path, &error), &error);
    return bundle;
}

static float rounded(float value, ousac_dtype dtype) {
    return dtype == OUSAC_DTYPE_BF16  ? ousac_bf16_to_f32(ousac_f32_to_bf16(value))
           : dtype == OUSAC_DTYPE_F16 ? ousac_f16_to_f32(ousac_f32_to_f16(value))
                                      : value;
}

static void assert_rounded(const float *is, const float *of, size_t rows, size_t cols, ousac_dtype dtype) {
    for (size_t r = 0; r < rows; r++, is += cols, of += cols) {
        float scale = 0; /* of i8: a row's largest value is 127 steps */
        for (size_t j = 0; j < cols; j++)
            scale = fabsf(of[j]) > scale * 127 ? fabsf(of[j]) / 127 : scale;
        for (size_t j = 0; j < cols; j++)
            if (dtype == OUSAC_DTYPE_I8)
                assert_true(fabsf(is[j] - of[j]) <= 0.5001F * scale);
            else
                assert_true(is[j] == rounded(of[j], dtype));
    }
}

static void factors_come_back_truncated_to_the_plan(void **state) {
    static const ousac_dtype dtypes[] = {OUSAC_DTYPE_F32, OUSAC_DTYPE_BF16, OUSAC_DTYPE_F16, OUSAC_DTYPE_I8};
    const fixture *f = *state;
    const ousac_arch *arch = &f->model->arch;
    ousac_error error = {0};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        ousac_bundle *bundle = saved(f, dtypes[i], 0);
        must_succeed(ousac_bundle_verify(bundle, &error), &error);
        for (size_t p = 0; p < PLANS; p++) {
            ousac_calibration *c = NULL;
            const ousac_plan *plan = ousac_bundle_find_plan(bundle, plan_names[p]);
            size_t low_rank = 0;
            assert_non_null(plan);
            must_succeed(ousac_bundle_calibration(bundle, plan, arch, f->model->backend, &c, &error), &error);
            for (size_t g = 0; g < arch->group_count; g++) {
                const float *b = c->b[g];
                for (size_t s = arch->groups[g].first_site, n = arch->groups[g].site_count; n--; s++) {
                    assert_int_equal(c->rank[s], plan_ranks[p][s]);
                    if (c->path[s] != OUSAC_PATH_LOW_RANK)
                        continue;
                    assert_rounded(c->a[s], f->set->site[s].a, c->rank[s], arch->sites[s].m, dtypes[i]);
                    assert_rounded(b, f->set->site[s].b, c->rank[s], arch->sites[s].n, dtypes[i]);
                    b += c->rank[s] * arch->sites[s].n;
                    low_rank++;
                }
            }
            assert_int_equal(low_rank, p == 0 ? 12 : p == 1 ? 8 : 0);
            ousac_calibration_free(c);
        }
        ousac_bundle_close(bundle);
    }
}

/* Types that differ from factor to factor, and what they add, are in the file. */
static void chosen_types_add_little_and_say_so(void **state) {
    const fixture *f = *state;
    const ousac_bundle_options options = {.choose = 1, .codec = OUSAC_OCA_CODEC_SHUFFLE_ZSTD};
    ousac_bundle *bundle = NULL;
    oca_file *file = NULL;
    ousac_error error = {0};
    size_t small = 0;
    must_succeed(ousac_bundle_save(f->path, f->model, f->profile, f->set, (const ousac_plan *const *)f->plan,
                                   PLANS, &options, &error),
                 &error);
    must_succeed(ousac_bundle_open(&bundle, f->path, &error), &error);
    must_succeed(ousac_bundle_verify(bundle, &error), &error);
    assert_int_equal(oca_open_path(&file, f->path, NULL), OCA_OK);
    for (size_t s = 0; s < SITES; s++) {
        const char *site = f->model->arch.sites[s].name;
        char key[128];
        oca_tensor a;
        (void)snprintf(key, sizeof key, "factor/%s/A", site);
        if (oca_tensor_find(file, key, &a) != OCA_OK)
            continue;
        small += a.dtype != OCA_F32;
        (void)snprintf(key, sizeof key, "added.%s", site);
        const char *added = oca_metadata(file, key);
        assert_non_null(added);
        assert_true(strtod(added, NULL) < 0.01);
    }
    assert_true(small > 0);
    oca_close(file);
    ousac_bundle_close(bundle);
}

static void plans_schedule_and_identity_come_back(void **state) {
    const fixture *f = *state;
    char wanted[OUSAC_DIGEST_CHARS], got[OUSAC_DIGEST_CHARS];
    ousac_bundle *bundle = saved(f, OUSAC_DTYPE_BF16, 0);
    assert_string_equal(ousac_bundle_model_digest(bundle), f->model->digest);
    ousac_schedule_digest(&f->profile->schedule, wanted);
    ousac_schedule_digest(ousac_bundle_schedule(bundle), got);
    assert_string_equal(wanted, got);
    assert_string_equal(ousac_bundle_schedule(bundle)->name, "synthetic");
    assert_int_equal(ousac_bundle_plan_count(bundle), PLANS);
    assert_string_equal(ousac_bundle_plan(bundle, 0)->name, "a");
    assert_string_equal(ousac_bundle_plan(bundle, 1)->name, "a-low");
    assert_string_equal(ousac_bundle_plan(bundle, 2)->name, "default");
    assert_null(ousac_bundle_plan(bundle, 3));
    assert_ptr_equal(ousac_bundle_find_plan(bundle, NULL), ousac_bundle_plan(bundle, 2));
    assert_null(ousac_bundle_find_plan(bundle, "low"));
    const ousac_plan *plan = ousac_bundle_find_plan(bundle, "a-low");
    assert_true(plan->cached_step == f->plan[1]->cached_step && plan->budget == f->plan[1]->budget);
    assert_true(plan->modelled_error == 0.1);
    assert_string_equal(plan->method, "uniform");
    assert_string_equal(plan->model_digest, f->model->digest);
    assert_memory_equal(plan->rank, plan_ranks[1], sizeof plan_ranks[1]);
    ousac_bundle_close(bundle);
}

static void the_only_plan_needs_no_name(void **state) {
    const fixture *f = *state;
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32};
    const ousac_plan *plans[1] = {f->plan[1]};
    ousac_bundle *bundle = NULL;
    ousac_error error = {0};
    must_succeed(ousac_bundle_save(f->path, f->model, f->profile, f->set, plans, 1, &options, &error),
                 &error);
    must_succeed(ousac_bundle_open(&bundle, f->path, &error), &error);
    assert_ptr_equal(ousac_bundle_find_plan(bundle, NULL), ousac_bundle_plan(bundle, 0));
    ousac_bundle_close(bundle);
    plans[0] = NULL;
    must_fail(ousac_bundle_save(f->path, f->model, f->profile, f->set, plans, 0, &options, &error),
              OUSAC_STATUS_USAGE, &error, "without a plan");
}

/* Directions that the file holds of a site; 0 where it has neither tensor. */
static size_t held(oca_file *file, const fixture *f, size_t s) {
    char name[256];
    oca_tensor a, b;
    (void)snprintf(name, sizeof name, "factor/%s/A", f->model->arch.sites[s].name);
    const int has_a = oca_tensor_find(file, name, &a) == OCA_OK;
    (void)snprintf(name, sizeof name, "factor/%s/B", f->model->arch.sites[s].name);
    assert_int_equal(oca_tensor_find(file, name, &b) == OCA_OK, has_a);
    if (!has_a)
        return 0;
    assert_true(a.shape[0] == b.shape[0] && a.shape[1] == f->model->arch.sites[s].m &&
                b.shape[1] == f->model->arch.sites[s].n);
    return (size_t)a.shape[0];
}

static void only_what_the_plans_need_is_stored(void **state) {
    fixture *f = *state;
    oca_file *file = NULL;
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_BF16};
    ousac_error error = {0};
    for (int keep_all = 0; keep_all < 2; keep_all++) {
        must_succeed(save(f, f->path, OUSAC_DTYPE_BF16, keep_all, &error), &error);
        assert_int_equal(oca_open_path(&file, f->path, NULL), OCA_OK);
        for (size_t s = 0; s < SITES; s++)
            assert_int_equal(held(file, f, s), keep_all ? f->set->site[s].rank : needed[s]);
        oca_close(file);
    }
    /* a site that no plan corrects has no factors, but has its spectrum */
    const ousac_plan *plans[1] = {f->plan[1]};
    must_succeed(ousac_bundle_save(f->path, f->model, f->profile, f->set, plans, 1, &options, &error),
                 &error);
    assert_int_equal(oca_open_path(&file, f->path, NULL), OCA_OK);
    assert_int_equal(held(file, f, 6), 0);
    assert_int_equal(held(file, f, 9), 0); /* rank 3, in a module that is off */
    oca_tensor curve;
    double lambda[8];
    assert_int_equal(oca_tensor_find(file, "curve/blocks.1.attn.q", &curve), OCA_OK);
    assert_int_equal(oca_read(file, curve.index, 0, 8, OCA_F64, lambda, sizeof lambda), OCA_OK);
    assert_memory_equal(lambda, f->set->site[6].lambda, sizeof lambda);
    oca_close(file);
}

static void the_same_parts_give_the_same_bytes(void **state) {
    const fixture *f = *state;
    char again[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    scratch_join(again, f->directory.path, "again.oca");
    must_succeed(save(f, f->path, OUSAC_DTYPE_F16, 0, &error), &error);
    must_succeed(save(f, again, OUSAC_DTYPE_F16, 0, &error), &error);
    assert_true(files_are_equal(f->path, again));
    /* the order in which plans are given does not matter */
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F16, .provenance = "{\"by\":\"a test\"}"};
    const ousac_plan *turned[PLANS] = {f->plan[2], f->plan[0], f->plan[1]};
    must_succeed(ousac_bundle_save(again, f->model, f->profile, f->set, turned, PLANS, &options, &error),
                 &error);
    assert_true(files_are_equal(f->path, again));
}

static void a_model_is_recognised_in_another_dtype(void **state) {
    static const ousac_dtype dtypes[] = {OUSAC_DTYPE_BF16, OUSAC_DTYPE_F16};
    const fixture *f = *state;
    const ousac_arch *arch = &f->model->arch;
    ousac_bundle *bundle = saved(f, OUSAC_DTYPE_BF16, 0);
    ousac_model *other = NULL;
    ousac_error error = {0};
    must_succeed(ousac_bundle_check_model(bundle, f->model, NULL, &error), &error);
    for (size_t i = 0; i < 2; i++) {
        synthetic_model(&other, 21);
        synthetic_digest(other->digest, 'd');
        for (size_t s = 0; s < SITES; s++)
            for (size_t j = 0; j < arch->sites[s].m * arch->sites[s].n; j++)
                synthetic_weight(other, s)[j] = rounded(other->weight[s][j], dtypes[i]);
        must_succeed(ousac_bundle_check_model(bundle, other, NULL, &error), &error);
        synthetic_model_free(other);
    }
    ousac_bundle_close(bundle);
}

/* The same digest, or projections that agree: what decides a trajectory must be the same in either case, and
 * the constants of the forward too where the file is another one. */
static void noise_levels_and_constants_must_agree(void **state) {
    const fixture *f = *state;
    ousac_bundle *bundle = saved(f, OUSAC_DTYPE_BF16, 0);
    ousac_model *other = NULL;
    char note[OUSAC_ERROR_MESSAGE_BYTES];
    ousac_error error = {0};
    for (int same = 0; same < 2; same++) {
        synthetic_model(&other, 21);
        if (!same)
            synthetic_digest(other->digest, 'd');
        must_succeed(ousac_bundle_check_model(bundle, other, note, &error), &error);
        if (same)
            assert_string_equal(note, "");
        else
            assert_non_null(strstr(note, "model dddddddddddd, another file, matched by the projections"));
        (void)snprintf(other->process, sizeof other->process, "predicts v, and so on");
        must_fail(ousac_bundle_check_model(bundle, other, note, &error), OUSAC_STATUS_MISMATCH, &error,
                  SYNTHETIC_PROCESS ", and this one predicts v, and so on");
        synthetic_model_free(other);
    }
    synthetic_model(&other, 21);
    synthetic_digest(other->digest, 'd');
    (void)snprintf(other->constants, sizeof other->constants, "synthetic heads=4");
    must_fail(ousac_bundle_check_model(bundle, other, note, &error), OUSAC_STATUS_MISMATCH, &error,
              SYNTHETIC_CONSTANTS ", not synthetic heads=4");
    other->constants[0] = '\0';
    must_fail(ousac_bundle_check_model(bundle, other, note, &error), OUSAC_STATUS_MISMATCH, &error,
              "unknown");
    synthetic_model_free(other);
    ousac_bundle_close(bundle);
}

/* Factors, bundles and plans of a model under other noise levels. */
static void another_process_is_refused(void **state) {
    fixture *f = *state;
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32, .keep_all = 1};
    const ousac_factorise_options factors = {.threads = 1};
    ousac_factor_set *set = NULL;
    ousac_error error = {0};
    char path[SCRATCH_PATH_BYTES];
    scratch_join(path, f->directory.path, "other.oca");
    (void)snprintf(f->model->process, sizeof f->model->process, "predicts v");
    must_fail(ousac_factor_set_create(&set, f->model, f->profile, &factors, &error), OUSAC_STATUS_MISMATCH,
              &error, ", and this one predicts v");
    must_fail(ousac_bundle_save(path, f->model, f->profile, f->set, NULL, 0, &options, &error),
              OUSAC_STATUS_MISMATCH, &error, ", and this one predicts v");
    (void)snprintf(f->profile->identity.model_process, sizeof f->profile->identity.model_process,
                   "predicts v");
    const ousac_plan *plan = f->plan[0];
    (void)snprintf(f->plan[0]->model_process, sizeof f->plan[0]->model_process, "predicts sample");
    must_fail(ousac_bundle_save(path, f->model, f->profile, f->set, &plan, 1, &options, &error),
              OUSAC_STATUS_MISMATCH, &error, "predicts sample, and this one predicts v");
    f->plan[0]->model_process[0] = '\0';
    (void)snprintf(f->model->process, sizeof f->model->process, "%s", SYNTHETIC_PROCESS);
    (void)snprintf(f->profile->identity.model_process, sizeof f->profile->identity.model_process, "%s",
                   SYNTHETIC_PROCESS);
    assert_null(set);
    assert_false(file_exists(path));
}

static void another_model_is_refused(void **state) {
    const fixture *f = *state;
    ousac_bundle *bundle = saved(f, OUSAC_DTYPE_BF16, 0);
    ousac_model *other = NULL;
    ousac_error error = {0};
    synthetic_model(&other, 22);
    synthetic_digest(other->digest, 'd');
    must_fail(ousac_bundle_check_model(bundle, other, NULL, &error), OUSAC_STATUS_MISMATCH, &error,
              "blocks.0.attn.q");
    assert_non_null(strstr(error.message, "model aaaaaaaaaaaa, and this is model dddddddddddd"));
    synthetic_model_free(other);
    /* one site alone: negated, tripled, zeroed, or with one row of another model's */
    for (int change = 0; change < 4; change++) {
        synthetic_model(&other, 21);
        synthetic_digest(other->digest, 'd');
        float *w = synthetic_weight(other, 10);
        for (size_t j = 0; j < 32 * 8; j++)
            w[j] = change == 0   ? -w[j]
                   : change == 1 ? 3 * w[j]
                   : change == 2 ? 0
                   : j / 8 == 5  ? 9 - w[j]
                                 : w[j];
        must_fail(ousac_bundle_check_model(bundle, other, NULL, &error), OUSAC_STATUS_MISMATCH, &error,
                  "blocks.1.mlp.fc1");
        w[0] = NAN;
        must_fail(ousac_bundle_check_model(bundle, other, NULL, &error), OUSAC_STATUS_MISMATCH, &error,
                  "blocks.1.mlp.fc1");
        synthetic_model_free(other);
    }
    /* other shapes, whatever the digest */
    synthetic_model(&other, 21);
    other->arch.sites[7].name[0] = 'x';
    must_fail(ousac_bundle_check_model(bundle, other, NULL, &error), OUSAC_STATUS_MISMATCH, &error, "site 7");
    ousac_calibration *c = NULL;
    must_fail(ousac_bundle_calibration(bundle, ousac_bundle_plan(bundle, 0), &other->arch, f->model->backend,
                                       &c, &error),
              OUSAC_STATUS_MISMATCH, &error, "site 7");
    assert_null(c);
    synthetic_model_free(other);
    ousac_bundle_close(bundle);
}

static void another_schedule_is_refused_with_the_step_that_differs(void **state) {
    const fixture *f = *state;
    ousac_bundle *bundle = saved(f, OUSAC_DTYPE_BF16, 0);
    ousac_schedule other;
    ousac_error error = {0};
    synthetic_schedule(&other);
    (void)snprintf(other.name, sizeof other.name, "other"); /* a name is no difference */
    must_succeed(ousac_bundle_check_schedule(bundle, &other, &error), &error);
    other.steps[3].timestep += 0.25;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "\"synthetic\", and this is \"other\": step 3 has timestep 547.75, not 547.5");
    other.steps[3].timestep -= 0.25;
    other.steps[1].scale = 2;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "step 1 has scale 2, not 2.5");
    other.steps[1].scale = 2.5;
    other.steps[5].gate[OUSAC_BRANCH_UNCOND] = OUSAC_GATE_REUSE;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "step 5 has gate reuse of branch uncond, not cached");
    other.steps[5].gate[OUSAC_BRANCH_UNCOND] = OUSAC_GATE_CACHED;
    other.steps[2].mode = OUSAC_MODE_UNCOND;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "step 2 has mode uncond, not cond");
    other.steps[2].mode = OUSAC_MODE_COND;
    other.step_count = 5;
    must_fail(ousac_bundle_check_schedule(bundle, &other, &error), OUSAC_STATUS_MISMATCH, &error,
              "of 6 steps, and this is \"other\" of 5");
    other.step_count = 6;
    must_succeed(ousac_bundle_check_schedule(bundle, &other, &error), &error);
    ousac_schedule_free(&other);
    ousac_bundle_close(bundle);
}

static void parts_that_do_not_fit_are_not_written(void **state) {
    fixture *f = *state;
    ousac_error error = {0};
    must_fail(save(f, f->path, OUSAC_DTYPE_F64, 0, &error), OUSAC_STATUS_USAGE, &error,
              "f32, bf16, f16 or i8");
    f->plan[0]->rank[3] = 3; /* site 3 (8, 8) holds 3 directions, and is dense from 4 */
    must_succeed(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), &error);
    assert_int_equal(remove(f->path), 0);
    f->set->site[3].rank = 2;
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_MISMATCH, &error,
              "plan default: rank 3 for site blocks.0.attn.proj, whose factors hold 2");
    f->set->site[3].rank = 3;
    f->plan[0]->rank[3] = 9;
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_MISMATCH, &error,
              "plan default: rank 9");
    f->plan[0]->rank[3] = 2;
    f->plan[1]->model_digest[0] = 'e';
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_MISMATCH, &error, "plan a-low");
    f->plan[1]->model_digest[0] = 'a';
    (void)snprintf(f->plan[1]->name, sizeof f->plan[1]->name, "default");
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_USAGE, &error, "two plans");
    (void)snprintf(f->plan[1]->name, sizeof f->plan[1]->name, "a b");
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_USAGE, &error, "cannot name");
    (void)snprintf(f->plan[1]->name, sizeof f->plan[1]->name, "a-low");
    f->set->site[2].m = 9;
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_MISMATCH, &error,
              "site blocks.0.attn.v");
    f->set->site[2].m = 8;
    const float kept = f->set->site[2].b[1];
    f->set->site[2].b[1] = 70000; /* beyond binary16 */
    must_fail(save(f, f->path, OUSAC_DTYPE_F16, 0, &error), OUSAC_STATUS_NUMBER, &error,
              "factor/blocks.0.attn.v/B\": 70000 is not a finite number in f16");
    f->set->site[2].b[1] = NAN;
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_NUMBER, &error,
              "factor/blocks.0.attn.v/B");
    f->set->site[2].b[1] = kept;
    synthetic_digest(f->profile->identity.model_digest, 'f');
    must_fail(save(f, f->path, OUSAC_DTYPE_F32, 0, &error), OUSAC_STATUS_MISMATCH, &error,
              "of model ffffffffffff, and this is model aaaaaaaaaaaa");
    assert_false(file_exists(f->path));
    const ousac_bundle_options force = {.dtype = OUSAC_DTYPE_F32, .force = 1};
    must_succeed(ousac_bundle_save(f->path, f->model, f->profile, f->set, (const ousac_plan *const *)f->plan,
                                   PLANS, &force, &error),
                 &error);
}

static void a_plan_beyond_the_factors_held_is_refused(void **state) {
    const fixture *f = *state;
    ousac_bundle *bundle = saved(f, OUSAC_DTYPE_BF16, 0);
    ousac_plan *plan = NULL;
    ousac_calibration *c = NULL;
    ousac_error error = {0};
    must_succeed(ousac_plan_copy(&plan, f->plan[0], &error), &error);
    plan->rank[0] = 3; /* 2 are held */
    must_fail(ousac_bundle_calibration(bundle, plan, &f->model->arch, f->model->backend, &c, &error),
              OUSAC_STATUS_MISMATCH, &error,
              "rank 3 for site blocks.0.attn.q, of which 2 directions are held");
    assert_null(c);
    plan->rank[0] = 4; /* dense: none are needed */
    must_succeed(ousac_bundle_calibration(bundle, plan, &f->model->arch, f->model->backend, &c, &error),
                 &error);
    ousac_calibration_free(c);
    ousac_plan_free(plan);
    ousac_bundle_close(bundle);
}

static void a_file_that_contradicts_itself_is_refused(void **state) {
    static const float ones[64] = {1, 1};
    static const double numbers[64] = {1, NAN};
    static const int32_t wide[SITES] = {3}, much[SITES] = {9}, negative[SITES] = {-1};
    static const struct {
        const char *why;
        archive_edit edit;
    } cases[] = {
        {"expected \"ousac-bundle\"", {.key = "format", .value = "ousac-profile"}},
        {"no metadata \"arch\"", {.drop = "arch"}},
        {"no metadata \"schedule\"", {.drop = "schedule"}},
        {"metadata \"schedule_digest\"",
         {.key = "schedule_digest",
          .value = "0000000000000000000000000000000000000000000000000000000000000000"}},
        {"no metadata \"model_digest\"", {.drop = "model_digest"}},
        {"no metadata \"profile_digest\"", {.drop = "profile_digest"}},
        {"no metadata \"plan.a-low.note\"", {.drop = "plan.a-low.note"}},
        {"metadata \"plan.a.gap\"", {.key = "plan.a.gap", .value = "?"}},
        {"no tensor \"probe\"", {.drop = "probe"}},
        {"no tensor \"curve/blocks.1.mlp.fc2\"", {.drop = "curve/blocks.1.mlp.fc2"}},
        {"\"factor/blocks.0.attn.q/B\" without", {.drop = "factor/blocks.0.attn.q/A"}},
        {"no tensor \"factor/blocks.0.attn.q/B\"", {.drop = "factor/blocks.0.attn.q/B"}},
        {"(2, 8)",
         {.tensor = "factor/blocks.0.attn.q/A",
          .dtype = OUSAC_DTYPE_F32,
          .dims = 2,
          .shape = {2, 9},
          .data = ones}},
        {"no tensor \"factor/blocks.0.attn.q/B.scale\"",
         {.tensor = "factor/blocks.0.attn.q/B",
          .dtype = OUSAC_DTYPE_I8,
          .dims = 2,
          .shape = {2, 8},
          .data = ones}},
        {"expected f32, bf16, f16 or i8",
         {.tensor = "factor/blocks.0.attn.q/A",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 2,
          .shape = {2, 8},
          .data = numbers}},
        {"9 directions of a weight (8, 8)",
         {.tensor = "factor/blocks.0.attn.q/A",
          .dtype = OUSAC_DTYPE_F32,
          .dims = 2,
          .shape = {9, 1},
          .data = ones}},
        {"plan a-low: rank 3 for site blocks.0.attn.q",
         {.tensor = "plan/a-low/rank", .dtype = OUSAC_DTYPE_I32, .dims = 1, .shape = {SITES}, .data = wide}},
        {"plan a-low: rank 9 for site blocks.0.attn.q",
         {.tensor = "plan/a-low/rank", .dtype = OUSAC_DTYPE_I32, .dims = 1, .shape = {SITES}, .data = much}},
        {"rank -1",
         {.tensor = "plan/a-low/rank",
          .dtype = OUSAC_DTYPE_I32,
          .dims = 1,
          .shape = {SITES},
          .data = negative}},
        {"expected \"plan/NAME/rank\"",
         {.tensor = "plan/a-low/ranks", .dtype = OUSAC_DTYPE_I32, .dims = 1, .shape = {SITES}, .data = wide}},
        {"expected \"plan/NAME/rank\"",
         {.tensor = "plan//rank", .dtype = OUSAC_DTYPE_I32, .dims = 1, .shape = {SITES}, .data = wide}},
        {"no metadata \"plan.more.",
         {.tensor = "plan/more/rank", .dtype = OUSAC_DTYPE_I32, .dims = 1, .shape = {SITES}, .data = wide}},
        {"tensor \"probe\"",
         {.tensor = "probe", .dtype = OUSAC_DTYPE_F64, .dims = 2, .shape = {SITES, 4}, .data = numbers}},
        {"tensors; expected",
         {.tensor = "factor/elsewhere/A",
          .dtype = OUSAC_DTYPE_F32,
          .dims = 2,
          .shape = {2, 8},
          .data = ones}},
    };
    fixture *f = *state;
    char bad[SCRATCH_PATH_BYTES];
    ousac_bundle *bundle = NULL;
    ousac_error error = {0};
    scratch_join(bad, f->directory.path, "bad.oca");
    /* wide asks for 3 directions of a live module: q 3, k 1, v 1, proj 1 */
    int32_t three[SITES] = {3, 1, 1, 1, 0};
    must_succeed(save(f, f->path, OUSAC_DTYPE_BF16, 0, &error), &error);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        archive_edit edit = cases[i].edit;
        if (edit.data == wide)
            edit.data = three;
        rewrite_archive(f->path, bad, &edit);
        must_fail(ousac_bundle_open(&bundle, bad, &error), OUSAC_STATUS_FORMAT, &error, cases[i].why);
        must_fail(error.status, OUSAC_STATUS_FORMAT, &error, bad);
        assert_null(bundle);
    }
}

static void verifying_reads_everything(void **state) {
    static const double rising[8] = {1, 2, 3, 4, 5, 6, 7, 8}, negative[8] = {1, 0, -1}, nan[8] = {1, NAN};
    static const uint16_t infinite[2 * 8] = {0x3f80, 0x7f80}; /* bf16: 1, infinity */
    static const struct {
        const char *why;
        archive_edit edit;
    } cases[] = {
        {"\"curve/blocks.1.attn.q\" rises at element 1",
         {.tensor = "curve/blocks.1.attn.q",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 1,
          .shape = {8},
          .data = rising}},
        {"\"curve/blocks.1.attn.q\": element 2 is -1",
         {.tensor = "curve/blocks.1.attn.q",
          .dtype = OUSAC_DTYPE_F64,
          .dims = 1,
          .shape = {8},
          .data = negative}},
        {"\"curve/blocks.1.attn.q\": element 1 is",
         {.tensor = "curve/blocks.1.attn.q", .dtype = OUSAC_DTYPE_F64, .dims = 1, .shape = {8}, .data = nan}},
        {"\"factor/blocks.0.attn.q/B\": element 1 is not finite",
         {.tensor = "factor/blocks.0.attn.q/B",
          .dtype = OUSAC_DTYPE_BF16,
          .dims = 2,
          .shape = {2, 8},
          .data = infinite}},
    };
    fixture *f = *state;
    char bad[SCRATCH_PATH_BYTES];
    ousac_bundle *bundle = NULL;
    ousac_calibration *c = NULL;
    ousac_error error = {0};
    scratch_join(bad, f->directory.path, "bad.oca");
    must_succeed(save(f, f->path, OUSAC_DTYPE_BF16, 0, &error), &error);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rewrite_archive(f->path, bad, &cases[i].edit);
        must_succeed(ousac_bundle_open(&bundle, bad, &error), &error);
        must_fail(ousac_bundle_verify(bundle, &error), OUSAC_STATUS_FORMAT, &error, cases[i].why);
        ousac_bundle_close(bundle);
    }
    must_succeed(ousac_bundle_open(&bundle, bad, &error), &error);
    must_fail(ousac_bundle_calibration(bundle, ousac_bundle_plan(bundle, 2), &f->model->arch,
                                       f->model->backend, &c, &error),
              OUSAC_STATUS_FORMAT, &error, "not finite");
    ousac_bundle_close(bundle);
    /* one bit of a factor, behind the reader's checks at opening */
    oca_file *file = NULL;
    oca_tensor tensor;
    const void *data = NULL, *first = NULL;
    assert_int_equal(oca_open_path(&file, f->path, NULL), OCA_OK);
    assert_int_equal(oca_tensor_find(file, "factor/blocks.0.mlp.fc1/B", &tensor), OCA_OK);
    assert_int_equal(oca_borrow(file, tensor.index, &data), OCA_OK);
    unsigned char byte = *(const unsigned char *)data ^ 4;
    FILE *stream = fopen(f->path, "r+b");
    assert_non_null(stream);
    unsigned char window[64];
    long at = 0;
    first = NULL;
    while (!first &&
           fread(window, 1, sizeof window, stream) == sizeof window) { /* tensors begin at multiples of 64 */
        if (memcmp(window, data, sizeof window) == 0)
            first = window;
        else
            at += (long)sizeof window;
    }
    assert_non_null(first);
    oca_close(file);
    assert_int_equal(fseek(stream, at, SEEK_SET), 0);
    assert_int_equal(fputc(byte, stream), byte);
    assert_int_equal(fclose(stream), 0);
    must_succeed(ousac_bundle_open(&bundle, f->path, &error), &error);
    must_fail(ousac_bundle_verify(bundle, &error), OUSAC_STATUS_FORMAT, &error, "factor/blocks.0.mlp.fc1/B");
    must_fail(ousac_bundle_calibration(bundle, ousac_bundle_plan(bundle, 2), &f->model->arch,
                                       f->model->backend, &c, &error),
              OUSAC_STATUS_FORMAT, &error, "factor/blocks.0.mlp.fc1/B");
    assert_null(c);
    ousac_bundle_close(bundle);
}

static void short_memory_is_an_error_and_leaves_nothing(void **state) {
    fixture *f = *state;
    ousac_bundle *bundle = NULL;
    ousac_calibration *c = NULL;
    ousac_error error = {0};
    ousac_status status = OUSAC_STATUS_MEMORY;
    ousac_model *other = NULL;
    long allowed;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = save(f, f->path, OUSAC_DTYPE_BF16, 0, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        assert_int_equal(file_exists(f->path), status == OUSAC_STATUS_OK);
    }
    assert_true(allowed > 50);
    status = OUSAC_STATUS_MEMORY;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_bundle_open(&bundle, f->path, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        assert_int_equal(bundle != NULL, status == OUSAC_STATUS_OK);
    }
    assert_true(allowed > 15);
    status = OUSAC_STATUS_MEMORY;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_bundle_calibration(bundle, ousac_bundle_plan(bundle, 1), &f->model->arch,
                                          f->model->backend, &c, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
        assert_int_equal(c != NULL, status == OUSAC_STATUS_OK);
    }
    ousac_calibration_free(c);
    status = OUSAC_STATUS_MEMORY;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_bundle_verify(bundle, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
    }
    assert_true(allowed > 15);
    synthetic_model(&other, 21);
    synthetic_digest(other->digest, 'd');
    status = OUSAC_STATUS_MEMORY;
    for (allowed = 0; status; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_bundle_check_model(bundle, other, NULL, &error);
        (void)ousac_memory_fail_after(-1);
        if (status)
            must_fail(status, OUSAC_STATUS_MEMORY, &error, "");
    }
    assert_true(allowed > 2);
    synthetic_model_free(other);
    ousac_bundle_close(bundle);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, create, destroy)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(factors_come_back_truncated_to_the_plan),
        TEST(plans_schedule_and_identity_come_back),
        TEST(chosen_types_add_little_and_say_so),
        TEST(the_only_plan_needs_no_name),
        TEST(only_what_the_plans_need_is_stored),
        TEST(the_same_parts_give_the_same_bytes),
        TEST(a_model_is_recognised_in_another_dtype),
        TEST(noise_levels_and_constants_must_agree),
        TEST(another_process_is_refused),
        TEST(another_model_is_refused),
        TEST(another_schedule_is_refused_with_the_step_that_differs),
        TEST(parts_that_do_not_fit_are_not_written),
        TEST(a_plan_beyond_the_factors_held_is_refused),
        TEST(a_file_that_contradicts_itself_is_refused),
        TEST(verifying_reads_everything),
        TEST(short_memory_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
