/* Synthetic models and profiles: the laws are those of the shipped model, the files follow them, load, run
 * and do not depend on threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/cost.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "profile/model/dit.h"
#include "profile/run/executor.h"
#include "profile/synth/synth_family.h"
#include "tests/support/profile_support.h"
#include "tests/support/scratch.h"
#include "tests/support/synth_fit.h"

#define SHIPPED "data/shapes-dit/model.safetensors"
#define SPARSE "data/schedules/sparse.json"

enum { SAMPLES = 4 };

static scratch directory;
static ousac_schedule sparse;

static int set_up(void **state) {
    ousac_error error = {0};
    (void)state;
    scratch_create(&directory);
    must_succeed(ousac_schedule_load(&sparse, SPARSE, &error), &error);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ousac_schedule_free(&sparse);
    scratch_remove(&directory);
    return 0;
}

/* DiT-S/2 of `depth` blocks and 16 tokens. */
static ousac_synth_options small(size_t depth, ousac_dtype dtype) {
    ousac_synth_options options = {.dtype = dtype, .seed = 7, .threads = 2};
    ousac_error error = {0};
    must_succeed(ousac_synth_preset(&options.shape, "DiT-S/2", &error), &error);
    must_succeed(ousac_synth_set_tokens(&options.shape, 16, &error), &error);
    options.shape.depth = depth;
    return options;
}

static const char *save(const ousac_synth_options *options, const char *name, char *path) {
    ousac_error error = {0};
    must_succeed(ousac_synth_save_model(options, scratch_path(&directory, name, path), &error), &error);
    return path;
}

static ousac_model *load(const ousac_synth_options *options, const char *name) {
    char path[SCRATCH_PATH_BYTES], config[SCRATCH_PATH_BYTES], inputs[SCRATCH_PATH_BYTES], *text = NULL;
    ousac_model *model = NULL;
    ousac_error error = {0};
    must_succeed(ousac_synth_config(options, &text, &error), &error);
    scratch_put(&directory, "config.json", text, strlen(text));
    ousac_free(text);
    ousac_model_options from = {.config_path = scratch_path(&directory, "config.json", config)};
    if (ousac_synth_needs_inputs(&options->shape)) {
        from.inputs_path = scratch_path(&directory, "inputs.safetensors", inputs);
        must_succeed(ousac_synth_save_inputs(options, 2, inputs, &error), &error);
    }
    must_succeed(ousac_model_load(&model, save(options, name, path), &from, ousac_backend_cpu(), &error),
                 &error);
    return model;
}

/* --- the laws --- */

static void near(double value, double expected, double tolerance, const char *what, size_t index) {
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%s %zu: fitted %.5f, recorded %.5f, tolerance %.5f", what, index, value, expected,
                 tolerance);
}

static void near_decay(const ousac_decay *fitted, const ousac_decay *recorded, double tolerance,
                       const char *what, size_t index) {
    near(fitted->a, recorded->a, tolerance, what, index);
    near(fitted->b, recorded->b, tolerance, what, index);
    near(fitted->c, recorded->c, tolerance, what, index);
}

/* Weights are data, so their fit is exact but for the rounding of the table; a run differs between
 * processors. */
static void laws_are_those_of_the_shipped_model(void **state) {
    ousac_synth_weight_law weights[OUSAC_SYNTH_KIND_COUNT];
    ousac_decay moments[OUSAC_SYNTH_GROUPS];
    ousac_synth_level levels[OUSAC_SYNTH_LEVELS];
    double worst[OUSAC_SYNTH_KIND_COUNT], modulation[OUSAC_SYNTH_MODULATIONS];
    ousac_model *model = NULL;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_model_load(&model, SHIPPED, NULL, ousac_backend_cpu(), &error), &error);
    synth_fit_weights(model, weights, worst);
    for (size_t i = 0; i < OUSAC_SYNTH_KIND_COUNT; i++) {
        near_decay(&weights[i].decay, &ousac_synth_weight_laws[i].decay, 0.002, "weight", i);
        near(weights[i].gain, ousac_synth_weight_laws[i].gain, 0.001, "gain", i);
        near(worst[i], 0, 0.2, "deviation of the logarithm of weight", i);
    }
    synth_fit_modulation(model, modulation);
    for (size_t i = 0; i < OUSAC_SYNTH_MODULATIONS; i++)
        near(modulation[i], ousac_synth_modulations[i], 0.001, "modulation", i);
    ousac_profile *profile = synth_record(model, &sparse);
    synth_fit_moments(profile, moments, worst);
    for (size_t i = 0; i < OUSAC_SYNTH_GROUPS; i++) {
        near_decay(&moments[i], &ousac_synth_moment_laws[i], 0.02, "moment", i);
        near(worst[i], 0, 0.5, "deviation of the logarithm of moment", i);
    }
    synth_fit_levels(profile, levels);
    for (size_t i = 0; i < OUSAC_SYNTH_LEVELS; i++) {
        const ousac_synth_level *recorded = &ousac_synth_levels[i];
        near(levels[i].rms, recorded->rms, 0.01 * recorded->rms, "level", i);
        near(levels[i].share, recorded->share, 0.02 * recorded->share, "share", i);
        near(levels[i].growth, recorded->growth, 0.02, "growth", i);
    }
    ousac_profile_free(profile);
    ousac_model_free(model);
}

/* --- weights --- */

/* The singular values of W against the law's; `rounding` is what each element was rounded by, relative. */
static void follows(const float *w, size_t m, size_t n, ousac_synth_kind kind, double gain, double rounding) {
    const size_t p = m < n ? m : n;
    double *expected = calloc(p, sizeof *expected), *values = calloc(p, sizeof *values);
    assert_true(expected && values);
    ousac_decay_fill(&ousac_synth_weight_laws[kind].decay, p, 2, expected);
    synth_singular_values(m, n, w, values);
    /* white noise of that size has singular values up to (sqrt(m) + sqrt(n)) times its deviation */
    const double scale = gain * sqrt((double)m / (double)p),
                 noise = rounding * gain / sqrt((double)n) * (sqrt((double)m) + sqrt((double)n));
    for (size_t i = 0; i < p; i++)
        if (!(fabs(values[i] - scale * expected[i]) < noise + 1e-5 * scale))
            fail_msg("kind %d, singular value %zu: %.6f, the law says %.6f", (int)kind, i, values[i],
                     scale * expected[i]);
    free(values);
    free(expected);
}

static void weights_follow_the_laws(void **state) {
    static const struct {
        ousac_dtype dtype;
        double rounding; /* bf16 keeps 8 bits: at most 2^-9 of the value */
    } cases[] = {{OUSAC_DTYPE_F32, 1e-7}, {OUSAC_DTYPE_BF16, 1.0 / 512}};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        const ousac_synth_options options = small(1, cases[k].dtype);
        ousac_model *model = load(&options, "law.safetensors");
        const ousac_dit *dit = model->state;
        for (size_t s = 0; s < model->arch.site_count; s++)
            follows(model->weight[s], model->arch.sites[s].m, model->arch.sites[s].n, (ousac_synth_kind)s,
                    ousac_synth_weight_laws[s].gain, cases[k].rounding);
        double squares = 0;
        for (size_t i = 0; i < dit->d * dit->d; i++)
            squares += (double)dit->block[0].modulation[i] * (double)dit->block[0].modulation[i];
        follows(dit->block[0].modulation, dit->d, dit->d, OUSAC_SYNTH_MODULATION,
                sqrt(squares / (double)dit->d), cases[k].rounding);
        ousac_model_free(model);
    }
}

static void modulation_and_gates_are_alive(void **state) {
    const ousac_synth_options options = small(4, OUSAC_DTYPE_BF16);
    double rms[OUSAC_SYNTH_MODULATIONS];
    (void)state; /* a few directions carry most of a modulation, so that it varies from layer to layer */
    ousac_model *model = load(&options, "gates.safetensors");
    synth_fit_modulation(model, rms);
    for (size_t i = 0; i < OUSAC_SYNTH_MODULATIONS; i++)
        near(rms[i], ousac_synth_modulations[i], 0.5 * ousac_synth_modulations[i], "modulation", i);
    ousac_model_free(model);
}

static double rms_of(const float *x, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)count);
}

/* Presets in shape, shortened: activations stay of order 1 and both label and timestep matter. */
static void forwards_are_finite_and_well_scaled(const char *preset, size_t depth) {
    const double timesteps[] = {999, 500, 0};
    ousac_synth_options options = {.dtype = OUSAC_DTYPE_BF16, .seed = 3, .threads = 2};
    ousac_executor *executor = NULL;
    void *workspace = NULL;
    ousac_error error = {0};
    ousac_gate effective;
    must_succeed(ousac_synth_preset(&options.shape, preset, &error), &error);
    must_succeed(ousac_synth_set_tokens(&options.shape, 16, &error), &error);
    options.shape.depth = depth;
    ousac_model *model = load(&options, "run.safetensors");
    const size_t size = ousac_model_sample_size(model);
    float *x = calloc(size, sizeof *x), *out = calloc(6 * size, sizeof *out);
    assert_true(x && out);
    must_succeed(ousac_executor_create(&executor, model, &(ousac_executor_options){.batch = 1}, &error),
                 &error);
    must_succeed(model->family->workspace_create(model, 1, &workspace, &error), &error);
    must_succeed(model->family->set_inputs(model, workspace, 5, 0, 1, &error), &error);
    ousac_model_draw_noise(model, 5, 0, 1, x);
    for (size_t t = 0; t < 3; t++)
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++) {
            float *y = out + (2 * t + (size_t)branch) * size;
            must_succeed(
                ousac_executor_begin(executor, 0, branch, OUSAC_GATE_FULL, 1, NULL, &effective, &error),
                &error);
            must_succeed(ousac_executor_forward(executor, workspace, x,
                                                &(ousac_step){.timestep = timesteps[t]}, y, &error),
                         &error);
            ousac_executor_end(executor);
            const double rms = rms_of(y, size);
            if (!(rms > 0.3 && rms < 3))
                fail_msg("%s: output of root mean square %g", preset, rms);
        }
    for (size_t k = 1; k < 6; k++) { /* another branch or timestep is another output */
        double difference = 0;
        for (size_t i = 0; i < size; i++)
            difference += pow((double)out[k * size + i] - (double)out[i], 2);
        assert_true(sqrt(difference / (double)size) > 0.05);
    }
    model->family->workspace_free(model, workspace);
    ousac_executor_free(executor);
    free(out);
    free(x);
    ousac_model_free(model);
}

static void models_run(void **state) {
    (void)state;
    forwards_are_finite_and_well_scaled("DiT-S/2", 12);
    forwards_are_finite_and_well_scaled("DiT-B/2", 2);
    forwards_are_finite_and_well_scaled("DiT-XL/2", 1);
    forwards_are_finite_and_well_scaled("PixArt-XL/2-256", 1);
    forwards_are_finite_and_well_scaled("PixArt-XL/2-1024", 1);
}

static void the_digest_is_the_loaders(void **state) {
    static const ousac_dtype dtypes[] = {OUSAC_DTYPE_F32, OUSAC_DTYPE_BF16};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        const ousac_synth_options options = small(2, dtypes[k]);
        char digest[OUSAC_DIGEST_CHARS];
        ousac_error error = {0};
        ousac_model *model = load(&options, "digest.safetensors");
        must_succeed(ousac_synth_model_digest(&options, digest, &error), &error);
        assert_string_equal(digest, model->digest);
        ousac_model_free(model);
    }
}

static void so_it_is_where_tensors_are_joined(void **state) {
    static const char *const presets[] = {"PixArt-XL/2-256", "PixArt-XL/2-1024", "FLUX.1-dev",
                                          "FLUX.1-schnell"};
    (void)state;
    for (size_t k = 0; k < 4; k++) {
        ousac_synth_options options = {.dtype = OUSAC_DTYPE_BF16, .seed = 7, .threads = 2};
        char digest[OUSAC_DIGEST_CHARS];
        ousac_error error = {0};
        must_succeed(ousac_synth_preset(&options.shape, presets[k], &error), &error);
        options.shape.depth = 4;
        options.shape.width = 96; /* the laws hold at any; small, to be quick */
        options.shape.hidden = 384;
        options.shape.heads = 4;
        ousac_model *model = load(&options, "digest.safetensors");
        must_succeed(ousac_synth_model_digest(&options, digest, &error), &error);
        assert_string_equal(digest, model->digest);
        assert_int_equal(model->height, k == 0 ? 32 : 128);
        ousac_model_free(model);
    }
}

static void bytes_depend_on_the_seed_alone(void **state) {
    char a[SCRATCH_PATH_BYTES], b[SCRATCH_PATH_BYTES];
    ousac_synth_options options = small(1, OUSAC_DTYPE_BF16);
    (void)state;
    save(&options, "one.safetensors", a);
    options.threads = 5;
    assert_true(files_are_equal(a, save(&options, "two.safetensors", b)));
    options.seed++;
    assert_false(files_are_equal(a, save(&options, "two.safetensors", b)));
}

static void a_shorter_model_is_a_beginning_of_the_longer(void **state) {
    const ousac_synth_options one = small(1, OUSAC_DTYPE_BF16), two = small(2, OUSAC_DTYPE_BF16);
    char a[SCRATCH_PATH_BYTES], b[SCRATCH_PATH_BYTES];
    ousac_safetensors *shorter = NULL, *longer = NULL;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_safetensors_open(&shorter, save(&one, "one.safetensors", a), &error), &error);
    must_succeed(ousac_safetensors_open(&longer, save(&two, "two.safetensors", b), &error), &error);
    assert_int_equal(ousac_safetensors_count(longer), ousac_safetensors_count(shorter) + 10);
    for (size_t i = 0; i < ousac_safetensors_count(shorter); i++) {
        const ousac_safetensors_tensor *t = ousac_safetensors_at(shorter, i),
                                       *same = ousac_safetensors_find(longer, t->name);
        assert_non_null(same);
        assert_int_equal(t->bytes, same->bytes);
        assert_memory_equal(t->data, same->data, t->bytes);
    }
    assert_string_equal(ousac_safetensors_metadata(shorter, "synthetic"), "true");
    assert_string_equal(ousac_safetensors_metadata(shorter, "preset"), "DiT-S/2");
    assert_string_equal(ousac_safetensors_metadata(shorter, "seed"), "7");
    assert_non_null(ousac_safetensors_metadata(shorter, "ousac_version"));
    ousac_safetensors_close(longer);
    ousac_safetensors_close(shorter);
}

/* Published: 675 M, 458 M, 130 M and 33 M (arXiv 2212.09748, table 4; without positions, which are fixed). */
static void parameters_are_the_published_ones(void **state) {
    static const struct {
        const char *name;
        double millions;
    } known[] = {{"DiT-XL/2", 675}, {"DiT-L/2", 458}, {"DiT-B/2", 130}, {"DiT-S/2", 33}};
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        ousac_synth_shape shape;
        ousac_error error = {0};
        must_succeed(ousac_synth_preset(&shape, known[i].name, &error), &error);
        const double parameters =
            (double)ousac_synth_parameters(&shape) - (double)(ousac_synth_tokens(&shape) * shape.width);
        near(1e-6 * parameters, known[i].millions, 0.6, known[i].name, i);
    }
}

/* The files on the Hugging Face Hub hold 611 M float32 values, 2.45 GB; multiply-accumulates of a forward with the keys
 * and values of 120 tokens of caption, as papers count them. */
static void pixarts_are_the_published_ones(void **state) {
    static const struct {
        const char *name;
        double giga;
    } known[] = {{"PixArt-XL/2-256", 148.3}, {"PixArt-XL/2-512", 617.2}, {"PixArt-XL/2-1024", 3253.8}};
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        ousac_synth_shape shape;
        ousac_arch arch;
        ousac_error error = {0};
        must_succeed(ousac_synth_preset(&shape, known[i].name, &error), &error);
        near(1e-6 * (double)ousac_synth_parameters(&shape), 611, 1, known[i].name, i);
        must_succeed(shape.family->arch(&shape, &arch, &error), &error);
        double macs = (double)ousac_cost_full(&arch);
        for (size_t c = 0; c < arch.constant_count; c++)
            if (strstr(arch.constants[c].name, "cross.kv"))
                macs += 120 * (double)arch.constants[c].m * (double)arch.constants[c].n;
        near(1e-9 * macs, known[i].giga, 0.05, known[i].name, i);
        ousac_arch_free(&arch);
    }
}

static void fluxes_are_the_published_ones(void **state) {
    static const struct {
        const char *name;
        double tera, billions;
        size_t sites;
    } known[] = {{"FLUX.1-dev", 37.2, 11.90, 418}, {"FLUX.1-schnell", 34.7, 11.89, 418}};
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        ousac_synth_shape shape;
        ousac_arch arch;
        ousac_error error = {0};
        must_succeed(ousac_synth_preset(&shape, known[i].name, &error), &error);
        near(1e-9 * (double)ousac_synth_parameters(&shape), known[i].billions, 0.005, known[i].name, i);
        must_succeed(shape.family->arch(&shape, &arch, &error), &error);
        near(1e-12 * (double)ousac_cost_full(&arch), known[i].tera, 0.05, known[i].name, i);
        assert_int_equal(arch.site_count, known[i].sites);
        ousac_arch_free(&arch);
    }
}

/* At full width, one block of each kind: what is predicted is of order 1, and the text and the timestep matter. */
static void fluxes_run(void **state) {
    ousac_synth_options options = {.dtype = OUSAC_DTYPE_BF16, .seed = 3, .threads = 2};
    ousac_executor *executor = NULL;
    void *workspace = NULL;
    ousac_error error = {0};
    ousac_gate effective;
    (void)state;
    must_succeed(ousac_synth_preset(&options.shape, "FLUX.1-dev", &error), &error);
    must_succeed(ousac_synth_set_tokens(&options.shape, 16, &error), &error);
    options.shape.depth = 2;
    options.shape.width = 768;
    options.shape.hidden = 3072;
    options.shape.heads = 6;
    options.shape.caption_tokens = 8;
    ousac_model *model = load(&options, "run.safetensors");
    const size_t size = ousac_model_sample_size(model);
    float *x = calloc(size, sizeof *x), *out = calloc(3 * size, sizeof *out);
    assert_true(x && out);
    must_succeed(ousac_executor_create(&executor, model, &(ousac_executor_options){.batch = 1}, &error),
                 &error);
    must_succeed(model->family->workspace_create(model, 1, &workspace, &error), &error);
    ousac_model_draw_noise(model, 5, 0, 1, x);
    for (size_t k = 0; k < 3; k++) { /* another text, another timestep */
        must_succeed(model->family->set_inputs(model, workspace, 5, k == 1, 1, &error), &error);
        must_succeed(ousac_executor_begin(executor, 0, OUSAC_BRANCH_COND, OUSAC_GATE_FULL, 1, NULL,
                                          &effective, &error),
                     &error);
        must_succeed(ousac_executor_forward(executor, workspace, x,
                                            &(ousac_step){.timestep = k == 2 ? 300 : 1000, .scale = 1},
                                            out + k * size, &error),
                     &error);
        ousac_executor_end(executor);
        const double rms = rms_of(out + k * size, size);
        if (!(rms > 0.3 && rms < 3))
            fail_msg("output of root mean square %g", rms);
        double difference = 0;
        for (size_t i = 0; i < size; i++)
            difference += pow((double)out[k * size + i] - (double)out[i], 2);
        assert_true(k == 0 || sqrt(difference / (double)size) > 0.05);
    }
    model->family->workspace_free(model, workspace);
    ousac_executor_free(executor);
    free(out), free(x);
    ousac_model_free(model);
}

static void wrong_shapes_are_refused(void **state) {
    ousac_synth_shape shape;
    ousac_error error = {0};
    (void)state;
    must_fail(ousac_synth_preset(&shape, "DiT-Z", &error), OUSAC_STATUS_USAGE, &error, "DiT-S/2, FLUX-shape");
    must_succeed(ousac_synth_preset(&shape, "DiT-S/2", &error), &error);
    must_fail(ousac_synth_set_tokens(&shape, 15, &error), OUSAC_STATUS_USAGE, &error, "square");
    must_fail(ousac_synth_set_input_size(&shape, 31, &error), OUSAC_STATUS_USAGE, &error, "multiple");
    const ousac_synth_options dit = small(1, OUSAC_DTYPE_F32);
    char inputs[SCRATCH_PATH_BYTES];
    must_fail(ousac_synth_save_inputs(&dit, 3, scratch_path(&directory, "none", inputs), &error),
              OUSAC_STATUS_USAGE, &error, "takes no captions");
    ousac_synth_options options = small(1, OUSAC_DTYPE_F16);
    char path[SCRATCH_PATH_BYTES];
    must_fail(ousac_synth_save_model(&options, scratch_path(&directory, "f16", path), &error),
              OUSAC_STATUS_USAGE, &error, "f32 or bf16");
}

/* --- profiles --- */

static const char *save_profile(const ousac_synth_options *options, const char *name, char *path) {
    ousac_error error = {0};
    must_succeed(
        ousac_synth_save_profile(options, &sparse, SAMPLES, scratch_path(&directory, name, path), &error),
        &error);
    return path;
}

static void profiles_follow_the_laws(void **state) {
    const ousac_synth_options options = small(1, OUSAC_DTYPE_BF16);
    char path[SCRATCH_PATH_BYTES], digest[OUSAC_DIGEST_CHARS];
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    size_t cached = 0;
    double *values = calloc(options.shape.width, sizeof *values),
           *expected = calloc(options.shape.width, sizeof *expected);
    (void)state;
    assert_true(values && expected);
    must_succeed(ousac_profile_load(&profile, save_profile(&options, "law.oca", path), &error), &error);
    must_succeed(ousac_synth_model_digest(&options, digest, &error), &error);
    assert_string_equal(profile->identity.model_digest, digest);
    assert_int_equal(ousac_profile_samples(profile), SAMPLES);
    for (size_t at = 0; at < sparse.step_count * OUSAC_BRANCHES; at++)
        cached += profile->gate[at] == OUSAC_GATE_CACHED;
    assert_int_equal(cached, 39);
    for (size_t g = 0; g < profile->arch.group_count; g++) {
        const size_t d = profile->arch.groups[g].dim;
        double trace = 0;
        synth_eigenvalues(d, profile->moment[g], values);
        ousac_decay_fill(&ousac_synth_moment_laws[g], d, 1, expected);
        for (size_t i = 0; i < d; i++)
            trace += values[i];
        /* each cached evaluation, weighted to a mean trace of 1, over all samples */
        near(trace, 39 * SAMPLES, 1e-6, "trace", g);
        for (size_t i = 0; i < d; i++)
            assert_true(fabs(values[i] * (double)d / trace / expected[i] - 1) < 1e-8);
        assert_true(values[d - 1] > 0);
    }
    ousac_profile_free(profile);
    free(expected);
    free(values);
}

/* The energies of a synthetic profile are the levels that were fitted. */
static void profiles_have_the_fitted_levels(void **state) {
    const ousac_synth_options options = small(2, OUSAC_DTYPE_BF16);
    char path[SCRATCH_PATH_BYTES];
    ousac_synth_level levels[OUSAC_SYNTH_LEVELS];
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_profile_load(&profile, save_profile(&options, "levels.oca", path), &error), &error);
    synth_fit_levels(profile, levels);
    for (size_t i = 0; i < OUSAC_SYNTH_LEVELS; i++) {
        near(levels[i].rms, ousac_synth_levels[i].rms, 1e-9, "level", i);
        near(levels[i].share, ousac_synth_levels[i].share, 1e-9, "share", i);
        near(levels[i].growth, ousac_synth_levels[i].growth, 1e-9, "growth", i);
    }
    ousac_profile_free(profile);
}

static void streamed_profiles_are_the_bytes_of_whole_ones(void **state) {
    ousac_synth_options options = small(1, OUSAC_DTYPE_BF16);
    char a[SCRATCH_PATH_BYTES], b[SCRATCH_PATH_BYTES];
    ousac_profile *profile = NULL;
    ousac_error error = {0};
    (void)state;
    save_profile(&options, "streamed.oca", a);
    must_succeed(ousac_profile_load(&profile, a, &error), &error);
    must_succeed(ousac_profile_save(profile, scratch_path(&directory, "whole.oca", b),
                                    "{\"synthetic\":\"DiT-S/2\",\"seed\":\"7\"}", &error),
                 &error);
    assert_true(files_are_equal(a, b));
    options.threads = 1;
    assert_true(files_are_equal(a, save_profile(&options, "whole.oca", b)));
    ousac_profile_free(profile);
}

static void a_schedule_without_cached_steps_is_refused(void **state) {
    const ousac_synth_options options = small(1, OUSAC_DTYPE_BF16);
    const double scales[2] = {NAN, NAN};
    const ousac_gate gates[2] = {OUSAC_GATE_FULL, OUSAC_GATE_FULL};
    const ousac_schedule_options two = {
        .steps = 2, .train_steps = 1000, .other_mode = OUSAC_MODE_COND, .scales = scales, .gates = gates};
    char path[SCRATCH_PATH_BYTES];
    ousac_schedule schedule;
    ousac_error error = {0};
    (void)state;
    must_succeed(ousac_schedule_build(&schedule, &two, &error), &error);
    must_fail(
        ousac_synth_save_profile(&options, &schedule, 1, scratch_path(&directory, "none.oca", path), &error),
        OUSAC_STATUS_USAGE, &error, "no cached evaluation");
    assert_false(file_exists(path));
    ousac_schedule_free(&schedule);
}

/* --- interruption --- */

static ousac_stop stop;
static uint64_t stop_at;

static void count(void *self, uint64_t done, uint64_t total) {
    (void)self;
    (void)total;
    if (done >= stop_at)
        ousac_stop_ask(&stop);
}

static void interruption_leaves_no_file(void **state) {
    ousac_synth_options options = small(1, OUSAC_DTYPE_BF16);
    char path[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    const size_t before = scratch_entries(&directory);
    (void)state;
    options.progress = count;
    options.stop = &stop;
    for (stop_at = 1; stop_at < 6; stop_at += 2) {
        stop = (ousac_stop){0};
        must_fail(ousac_synth_save_model(&options, scratch_path(&directory, "never", path), &error),
                  OUSAC_STATUS_INTERRUPTED, &error, "interrupted");
        stop = (ousac_stop){0};
        must_fail(
            ousac_synth_save_profile(&options, &sparse, 1, scratch_path(&directory, "never", path), &error),
            OUSAC_STATUS_INTERRUPTED, &error, "interrupted");
        assert_int_equal(scratch_entries(&directory), before);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(laws_are_those_of_the_shipped_model),
        cmocka_unit_test(weights_follow_the_laws),
        cmocka_unit_test(modulation_and_gates_are_alive),
        cmocka_unit_test(models_run),
        cmocka_unit_test(the_digest_is_the_loaders),
        cmocka_unit_test(bytes_depend_on_the_seed_alone),
        cmocka_unit_test(a_shorter_model_is_a_beginning_of_the_longer),
        cmocka_unit_test(parameters_are_the_published_ones),
        cmocka_unit_test(so_it_is_where_tensors_are_joined),
        cmocka_unit_test(pixarts_are_the_published_ones),
        cmocka_unit_test(fluxes_are_the_published_ones),
        cmocka_unit_test(fluxes_run),
        cmocka_unit_test(wrong_shapes_are_refused),
        cmocka_unit_test(profiles_follow_the_laws),
        cmocka_unit_test(profiles_have_the_fitted_levels),
        cmocka_unit_test(streamed_profiles_are_the_bytes_of_whole_ones),
        cmocka_unit_test(a_schedule_without_cached_steps_is_refused),
        cmocka_unit_test(interruption_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
