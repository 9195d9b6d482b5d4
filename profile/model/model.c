#include "profile/model/model.h"

#include "calib/stats/philox.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "profile/model/dit.h"
#include "profile/model/flux.h"
#include "profile/model/folder.h"
#include "profile/model/pixart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_BYTES_MAX = 16 << 20 };

/* A new family is one file and one line here. */
static const ousac_family *const FAMILIES[] = {&ousac_family_dit, &ousac_family_pixart, &ousac_family_flux};

static ousac_status open_inputs(ousac_model *model, const char *path, ousac_error *error) {
    const size_t shape[] = {model->channels, model->height, model->width};
    ousac_status status = ousac_inputs_open(&model->inputs, path, error);
    if (!status)
        status = ousac_inputs_expect(model->inputs, OUSAC_INPUT_NOISE, 0, 3, shape, error);
    if (!status)
        status = model->family->check_inputs(model, model->inputs, error);
    if (model->family->uncond_from_inputs &&
        !ousac_inputs_has(model->inputs, OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS))
        model->has_uncond = 0;
    return status;
}

ousac_status ousac_model_check_inputs(const ousac_model *model, ousac_error *error) {
    return model->inputs ? OUSAC_STATUS_OK : model->family->check_inputs(model, NULL, error);
}

/* 1 for a name as model-00001-of-00003.safetensors, which is a part of a model. */
static int is_shard(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *of = strstr(base, "-of-");
    return of && of > base && of[-1] >= '0' && of[-1] <= '9' && of[4] >= '0' && of[4] <= '9';
}

/* No family has these tensors: what they are instead, where that can be told. */
static ousac_status unknown_layout(const ousac_safetensors *file, const char *path, ousac_error *error) {
    static const struct {
        const char *part, *meaning;
    } known[] = {
        {"_orig_mod.",
         "saved from a compiled module, whose names begin with _orig_mod.: save the module itself"},
        {"lora_", "a LoRA, which changes a model and is none: load it into its model and save that"}};
    const ousac_safetensors_tensor *first = ousac_safetensors_at(file, 0);
    const char *format = ousac_safetensors_metadata(file, "format");
    if (format && strncmp(format, "ousac-", 6) == 0)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "%s: what an ousac archive of format %.40s was exported to, no model; `ousac import` "
            "makes the archive of it again",
            path, format);
    for (size_t i = 0; first && i < sizeof known / sizeof *known; i++)
        if (strstr(first->name, known[i].part))
            return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "%s: %s", path, known[i].meaning);
    return OUSAC_FAIL(
        error, OUSAC_STATUS_UNSUPPORTED,
        "%s: unknown tensor layout (first tensor: %s); expected a DiT under the public names "
        "(blocks.0.attn.qkv.weight, ...) or diffusers' (transformer_blocks.0.attn1.to_q.weight, "
        "...), or a PixArt under diffusers' (adaln_single.linear.weight, ...), "
        "or a FLUX under its authors' (double_blocks.0.img_attn.qkv.weight, ...) or diffusers' "
        "(transformer_blocks.0.attn.add_q_proj.weight, ...)",
        path, first ? first->name : "none");
}

ousac_status ousac_model_load(ousac_model **model, const char *path, const ousac_model_options *options,
                              const ousac_backend *backend, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_safetensors *file = NULL;
    ousac_model *loaded = NULL;
    ousac_model_folder folder = {NULL, NULL, NULL, 0};
    char *config = NULL;
    struct stat info;
    *model = NULL;
    if ((status = ousac_model_folder_find(&folder, path, error)))
        goto done;
    if ((status = folder.sharded ? ousac_safetensors_open_index(&file, folder.weights, error)
                                 : ousac_safetensors_open(&file, folder.weights, error)))
        goto done;
    loaded = ousac_calloc(1, sizeof *loaded);
    const char *config_path = options && options->config_path ? options->config_path : folder.config;
    if (!loaded || !(loaded->path = ousac_strdup(path))) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", path);
        goto done;
    }
    if (!backend) {
        const char *device = options && options->device ? options->device : "cpu";
        if ((status = ousac_device_open(&loaded->device, device, options && options->bf16, error)))
            goto done;
        backend = ousac_device_backend(loaded->device);
    }
    loaded->backend = backend;
    loaded->use = options ? options->use : OUSAC_MODEL_RUN;
    for (size_t i = 0; i < sizeof FAMILIES / sizeof *FAMILIES && !loaded->family; i++)
        if (FAMILIES[i]->recognises(file))
            loaded->family = FAMILIES[i];
    if (!loaded->family) {
        status = unknown_layout(file, path, error);
        goto done;
    }
    /* A config that was named must exist; the default one may be absent. */
    if ((options && options->config_path) || stat(config_path, &info) == 0)
        if ((status = ousac_file_read_text(&config, NULL, config_path, CONFIG_BYTES_MAX, error)))
            goto done;
    if (folder.scheduler &&
        (status = ousac_model_folder_believe(&config, config_path, folder.scheduler, error)))
        goto done;
    if ((status = loaded->family->load(loaded, file, config, config_path, options, error)))
        goto done;
    ousac_model_describe_process(loaded);
    if (options && options->inputs_path)
        status = open_inputs(loaded, options->inputs_path, error);
    else if (loaded->use == OUSAC_MODEL_RUN)
        status = loaded->family->check_inputs(loaded, NULL, error);
    if (status)
        goto done;
    loaded->file = file;
    file = NULL;
    *model = loaded;
    loaded = NULL;
done:
    if ((status == OUSAC_STATUS_FORMAT || status == OUSAC_STATUS_UNSUPPORTED) && is_shard(path))
        status = OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "%s: one shard of several; expected the index of them (.index.json) or their folder", path);
    ousac_model_free(loaded);
    ousac_safetensors_close(file);
    ousac_free(config);
    ousac_model_folder_free(&folder);
    return status;
}

void ousac_model_free(ousac_model *model) {
    if (!model)
        return;
    if (model->family)
        model->family->unload(model);
    ousac_arch_free(&model->arch);
    ousac_noise_free(&model->noise);
    ousac_free(model->weight);
    ousac_free(model->bias);
    ousac_free(model->source);
    ousac_safetensors_close(model->file);
    ousac_inputs_close(model->inputs);
    ousac_free(model->path);
    ousac_device_close(model->device);
    ousac_free(model);
}

void ousac_model_describe_process(ousac_model *model) {
    char levels[OUSAC_NOISE_WORD_BYTES], rows[48] = "";
    ousac_noise_word(&model->noise, levels);
    if (model->rescaled)
        (void)snprintf(rows, sizeof rows, ", rescaled by rows of %zu", model->width);
    (void)snprintf(model->process, sizeof model->process,
                   "predicts %s, guidance on %zu of %zu channels%s, noise levels %s",
                   ousac_prediction_name(model->noise.prediction), model->guided_channels, model->channels,
                   rows, levels);
}

ousac_identity ousac_model_identity(const ousac_model *model) {
    return (ousac_identity){model->digest, model->constants, model->process};
}

const double *ousac_model_range(const ousac_model *model) {
    return model->data_range[0] < model->data_range[1] ? model->data_range : NULL;
}

size_t ousac_model_sample_size(const ousac_model *model) {
    return model->channels * model->height * model->width;
}

ousac_status ousac_model_site_rows(const ousac_model *model, size_t site, size_t first, size_t rows, float *w,
                                   ousac_error *error) {
    const size_t n = model->arch.sites[site].n;
    if (model->weight && model->weight[site] && !model->sealed)
        return model->backend->download(model->backend, w, model->weight[site] + first * n,
                                        rows * n * sizeof *w, error);
    const ousac_model_source *source = model->source ? &model->source[site] : NULL;
    if (!source || !source->tensor)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: site %s has no weights", model->path,
                          model->arch.sites[site].name);
    const uint64_t begin = source->first + (uint64_t)first * n;
    ousac_status status = ousac_safetensors_read_f32(source->tensor, begin, (uint64_t)rows * n, w, error);
    if (status)
        (void)ousac_error_prefix(error, "%s", model->path);
    ousac_safetensors_drop(model->file, source->tensor, begin, (uint64_t)rows * n);
    return status;
}

ousac_status ousac_model_site_weight(const ousac_model *model, size_t site, float *w, ousac_error *error) {
    return ousac_model_site_rows(model, site, 0, model->arch.sites[site].m, w, error);
}

/* The inner product of a row with random signs: bit j of the draws of (site and probe as seed, row as
 * sample). */
static double signed_sum(const float *row, size_t n, uint64_t seed, uint64_t sample) {
    double sum = 0;
    uint32_t words[4] = {0};
    for (size_t j = 0; j < n; j++) {
        if (j % 128 == 0)
            ousac_philox_draw(seed, OUSAC_STREAM_PROJECTION, sample, (uint32_t)(j / 128), words);
        sum += words[j % 128 / 32] >> j % 32 & 1 ? -(double)row[j] : (double)row[j];
    }
    return sum;
}

void ousac_model_project_row(size_t site, size_t n, size_t row, const float *w, double *probe) {
    for (size_t p = 0; p < OUSAC_PROBE_COUNT; p++)
        probe[p] += signed_sum(w, n, (uint64_t)site * OUSAC_PROBE_COUNT + p, row);
}

/* Rows of a site that are taken at a time where the whole weight is not needed. */
enum { ROWS_AT_ONCE = 64 };

ousac_status ousac_model_probes(const ousac_model *model, double *probes, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    size_t widest = 0;
    for (size_t s = 0; s < model->arch.site_count; s++)
        widest = model->arch.sites[s].n > widest ? model->arch.sites[s].n : widest;
    float *block = ousac_malloc(widest, ROWS_AT_ONCE * sizeof *block);
    if (!block)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for projections", model->path);
    for (size_t s = 0; s < model->arch.site_count && !status; s++) {
        const ousac_site *site = &model->arch.sites[s];
        double *probe = probes + s * OUSAC_PROBE_COUNT;
        memset(probe, 0, OUSAC_PROBE_COUNT * sizeof *probe);
        for (size_t i = 0; i < site->m && !status; i++) {
            const float *row = block + i % ROWS_AT_ONCE * site->n;
            if (i % ROWS_AT_ONCE == 0)
                status = ousac_model_site_rows(
                    model, s, i, site->m - i < ROWS_AT_ONCE ? site->m - i : ROWS_AT_ONCE, block, error);
            if (!status)
                ousac_model_project_row(s, site->n, i, row, probe);
        }
        for (size_t p = 0; p < OUSAC_PROBE_COUNT; p++)
            probe[p] /= sqrt((double)site->m * (double)site->n);
    }
    ousac_free(block);
    return status;
}

void ousac_model_draw_noise(const ousac_model *model, uint64_t seed, uint64_t first, size_t count, float *x) {
    size_t size = ousac_model_sample_size(model);
    for (size_t i = 0; i < count; i++)
        if (ousac_inputs_has(model->inputs, OUSAC_INPUT_NOISE))
            ousac_inputs_read(model->inputs, OUSAC_INPUT_NOISE, first + i, x + i * size);
        else
            ousac_philox_normals(seed, OUSAC_STREAM_NOISE, first + i, size, x + i * size);
}
