#include "profile/model.h"

#include "calib/philox.h"
#include "formats/file.h"
#include "formats/memory.h"
#include "profile/dit.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_BYTES_MAX = 16 << 20 };

/* A new family is one file and one line here. */
static const ousac_family *const FAMILIES[] = {&ousac_family_dit};

/* config.json beside the checkpoint. */
static char *default_config_path(const char *path) {
    static const char name[] = "config.json";
    const char *slash = strrchr(path, '/');
    size_t directory = slash ? (size_t)(slash - path) + 1 : 0;
    char *config = ousac_malloc(directory + sizeof name, 1);
    if (config) {
        memcpy(config, path, directory);
        memcpy(config + directory, name, sizeof name);
    }
    return config;
}

ousac_status ousac_model_load(ousac_model **model, const char *path, const ousac_model_options *options,
                              const ousac_backend *backend, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_safetensors *file = NULL;
    ousac_model *loaded = NULL;
    char *config = NULL, *config_path = NULL;
    struct stat info;
    *model = NULL;
    if ((status = ousac_safetensors_open(&file, path, error)))
        goto done;
    loaded = ousac_calloc(1, sizeof *loaded);
    config_path =
        options && options->config_path ? ousac_strdup(options->config_path) : default_config_path(path);
    if (!loaded || !config_path || !(loaded->path = ousac_strdup(path))) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory", path);
        goto done;
    }
    if (!backend) {
        const char *device = options && options->device ? options->device : "cpu";
        if ((status = ousac_device_open(&loaded->device, device, error)))
            goto done;
        backend = ousac_device_backend(loaded->device);
    }
    loaded->backend = backend;
    for (size_t i = 0; i < sizeof FAMILIES / sizeof *FAMILIES && !loaded->family; i++)
        if (FAMILIES[i]->recognises(file))
            loaded->family = FAMILIES[i];
    if (!loaded->family) {
        const ousac_safetensors_tensor *first = ousac_safetensors_at(file, 0);
        status = OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "%s: unknown tensor layout (first tensor: %s); expected a DiT under the public names "
            "(blocks.0.attn.qkv.weight, ...) or diffusers' (transformer_blocks.0.attn1.to_q.weight, "
            "...)",
            path, first ? first->name : "none");
        goto done;
    }
    /* A config that was named must exist; the default one may be absent. */
    if ((options && options->config_path) || stat(config_path, &info) == 0)
        if ((status = ousac_file_read_text(&config, NULL, config_path, CONFIG_BYTES_MAX, error)))
            goto done;
    if ((status = loaded->family->load(loaded, file, config, config_path, options, error)))
        goto done;
    *model = loaded;
    loaded = NULL;
done:
    ousac_model_free(loaded);
    ousac_safetensors_close(file);
    ousac_free(config);
    ousac_free(config_path);
    return status;
}

void ousac_model_free(ousac_model *model) {
    if (!model)
        return;
    if (model->family)
        model->family->unload(model);
    ousac_arch_free(&model->arch);
    ousac_free(model->alpha_bar);
    ousac_free(model->weight);
    ousac_free(model->bias);
    ousac_free(model->path);
    ousac_device_close(model->device);
    ousac_free(model);
}

size_t ousac_model_sample_size(const ousac_model *model) {
    return model->channels * model->height * model->width;
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

ousac_status ousac_model_probes(const ousac_model *model, double *probes, ousac_error *error) {
    const ousac_backend *be = model->backend;
    ousac_status status = OUSAC_STATUS_OK;
    size_t widest = 0;
    for (size_t s = 0; s < model->arch.site_count; s++)
        widest = model->arch.sites[s].n > widest ? model->arch.sites[s].n : widest;
    float *row = ousac_malloc(widest, sizeof *row);
    if (!row)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for projections", model->path);
    for (size_t s = 0; s < model->arch.site_count && !status; s++) {
        const ousac_site *site = &model->arch.sites[s];
        double *probe = probes + s * OUSAC_PROBE_COUNT;
        memset(probe, 0, OUSAC_PROBE_COUNT * sizeof *probe);
        for (size_t i = 0; i < site->m && !status; i++) {
            status = be->download(be, row, model->weight[s] + i * site->n, site->n * sizeof *row, error);
            for (size_t p = 0; p < OUSAC_PROBE_COUNT && !status; p++)
                probe[p] += signed_sum(row, site->n, (uint64_t)s * OUSAC_PROBE_COUNT + p, i);
        }
        for (size_t p = 0; p < OUSAC_PROBE_COUNT; p++)
            probe[p] /= sqrt((double)site->m * (double)site->n);
    }
    ousac_free(row);
    return status;
}

void ousac_model_draw_noise(const ousac_model *model, uint64_t seed, uint64_t first, size_t count, float *x) {
    size_t size = ousac_model_sample_size(model);
    for (size_t i = 0; i < count; i++)
        ousac_philox_normals(seed, OUSAC_STREAM_NOISE, first + i, size, x + i * size);
}
