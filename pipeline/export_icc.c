#include "pipeline/export_icc.h"

#include "formats/memory.h"
#include "formats/torch_write.h"
#include "profile/bundle/bundle.h"
#include "profile/files/archive.h"

#include <stdio.h>
#include <string.h>

enum { KEYS = 6, LISTS = 2 * KEYS };

static const struct {
    const char *key, *site;
} LAYERS[KEYS] = {{"q", "attn.q"},       {"k", "attn.k"},    {"v", "attn.v"},
                  {"proj", "attn.proj"}, {"fc1", "mlp.fc1"}, {"fc2", "mlp.fc2"}};

typedef struct layer {
    size_t site, rank;
    int exact; /* wa or wb is the weight, the other the identity */
} layer;

typedef struct job {
    const ousac_export_icc_request *request;
    ousac_archive archive;
    ousac_bundle *bundle;
    ousac_arch arch;
    ousac_schedule schedule;
    ousac_model *model;           /* NULL: none */
    layer *layers;                /* (block_count, KEYS) */
    ousac_torch_matrix *matrices; /* (LISTS, block_count) */
    float *rows;
} job;

static ousac_status find_layers(job *j, ousac_error *error) {
    const ousac_arch *arch = &j->arch;
    char name[OUSAC_NAME_BYTES];
    j->layers = ousac_calloc(arch->block_count, KEYS * sizeof *j->layers);
    j->matrices = ousac_calloc(arch->block_count, LISTS * sizeof *j->matrices);
    if (!j->layers || !j->matrices)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu blocks", j->request->bundle,
                          arch->block_count);
    if (arch->site_count != arch->block_count * KEYS)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: %zu layers in %zu blocks; ICC's code takes DiT blocks of %d layers",
                          j->request->bundle, arch->site_count, arch->block_count, KEYS);
    for (size_t i = 0; i < arch->block_count * KEYS; i++) {
        (void)snprintf(name, sizeof name, "blocks.%zu.%s", i / KEYS, LAYERS[i % KEYS].site);
        j->layers[i].site = ousac_arch_find_site(arch, name);
        if (j->layers[i].site == SIZE_MAX)
            return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: no layer \"%s\"; ICC's code takes DiT blocks", j->request->bundle, name);
    }
    return OUSAC_STATUS_OK;
}

/* Directions that the file holds of a site. */
static size_t held(const job *j, size_t site) {
    char name[OUSAC_TENSOR_NAME_BYTES];
    oca_tensor tensor;
    (void)snprintf(name, sizeof name, "factor/%s/A", j->arch.sites[site].name);
    return oca_tensor_find(j->archive.file, name, &tensor) == OCA_OK ? (size_t)tensor.shape[0] : 0;
}

static ousac_status choose_ranks(job *j, ousac_export_icc_result *result, ousac_error *error) {
    const ousac_export_icc_request *request = j->request;
    const ousac_plan *plan = request->uniform ? NULL : ousac_bundle_find_plan(j->bundle, request->plan);
    if (!request->uniform && !plan)
        return request->plan
                   ? OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: no plan \"%s\"", request->bundle,
                                request->plan)
                   : OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                "%s: no default plan; expected `plan` NAME or `rank` R", request->bundle);
    const ousac_ranks ranks = {.rank = plan ? plan->rank : NULL, .dense_fallback = 1};
    *result = (ousac_export_icc_result){
        .blocks = j->arch.block_count, .rank_low = SIZE_MAX, .forecast = plan && plan->forecast};
    for (size_t i = 0; i < j->arch.block_count * KEYS; i++) {
        layer *l = &j->layers[i];
        const ousac_site *site = &j->arch.sites[l->site];
        const ousac_path path = plan ? ousac_cost_path(&j->arch, l->site, &ranks) : OUSAC_PATH_LOW_RANK;
        const size_t most = site->m < site->n ? site->m : site->n;
        l->exact = path == OUSAC_PATH_DENSE;
        l->rank = path == OUSAC_PATH_LOW_RANK ? (plan ? plan->rank[l->site] : request->rank)
                  : l->exact                  ? most
                                              : 0;
        if (path == OUSAC_PATH_LOW_RANK && l->rank > held(j, l->site))
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                              "%s: rank %zu for %s, of which %zu directions are held", request->bundle,
                              l->rank, site->name, held(j, l->site));
        if (l->exact && !j->model)
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "%s: the plan computes %s exactly, and ICC's code knows only factors; expected `model` "
                "FILE, to write its weight as factors, or `rank` R",
                request->bundle, site->name);
        result->exact += l->exact != 0;
        result->frozen += l->rank == 0;
        if (l->rank && !l->exact) {
            result->rank_low = l->rank < result->rank_low ? l->rank : result->rank_low;
            result->rank_high = l->rank > result->rank_high ? l->rank : result->rank_high;
        }
        j->matrices[2 * (i % KEYS) * j->arch.block_count + i / KEYS] = (ousac_torch_matrix){site->m, l->rank};
        j->matrices[(2 * (i % KEYS) + 1) * j->arch.block_count + i / KEYS] =
            (ousac_torch_matrix){l->rank, site->n};
    }
    if (result->rank_low == SIZE_MAX)
        result->rank_low = 0;
    return OUSAC_STATUS_OK;
}

static ousac_status read_factor(const job *j, const ousac_site *site, const char *which, size_t rank,
                                size_t width, float *target, ousac_error *error) {
    char name[OUSAC_TENSOR_NAME_BYTES];
    oca_tensor tensor;
    (void)snprintf(name, sizeof name, "factor/%s/%s", site->name, which);
    oca_status got = oca_tensor_find(j->archive.file, name, &tensor);
    if (got == OCA_OK)
        got =
            oca_read(j->archive.file, tensor.index, 0, rank, OCA_F32, target, rank * width * sizeof *target);
    return got == OCA_OK ? OUSAC_STATUS_OK : ousac_archive_fail(j->request->bundle, name, got, error);
}

static void identity(float *target, size_t size) {
    memset(target, 0, size * size * sizeof *target);
    for (size_t i = 0; i < size; i++)
        target[i * size + i] = 1;
}

/* An ousac_torch_source: list 2 k is wa of layer k, list 2 k + 1 its wb; item is the block. */
static ousac_status fill(void *self, size_t list, size_t item, float *target, ousac_error *error) {
    const job *j = self;
    const layer *l = &j->layers[item * KEYS + list / 2];
    const ousac_site *site = &j->arch.sites[l->site];
    const int is_b = list % 2;
    if (l->exact) {
        if ((site->m <= site->n) == is_b)
            return ousac_model_site_weight(j->model, l->site, target, error);
        identity(target, l->rank);
        return OUSAC_STATUS_OK;
    }
    if (is_b)
        return read_factor(j, site, "B", l->rank, site->n, target, error);
    ousac_status status = read_factor(j, site, "A", l->rank, site->m, j->rows, error);
    for (size_t r = 0; !status && r < l->rank; r++)
        for (size_t i = 0; i < site->m; i++)
            target[i * l->rank + r] = j->rows[r * site->m + i];
    return status;
}

static ousac_status open_parts(job *j, ousac_error *error) {
    const ousac_export_icc_request *request = j->request;
    ousac_status status = ousac_bundle_open(&j->bundle, request->bundle, error);
    if (!status)
        status = ousac_archive_open(&j->archive, request->bundle, OUSAC_FORMAT_BUNDLE, error);
    if (!status)
        status = ousac_archive_subject(&j->archive, &j->arch, &j->schedule, error);
    if (!status && request->model.path)
        status = ousac_session_load_model(&j->model, &request->model, NULL, error);
    if (!status && j->model)
        status = ousac_bundle_check_model(j->bundle, j->model, NULL, error);
    return status;
}

ousac_status ousac_export_icc(const ousac_export_icc_request *request, ousac_export_icc_result *result,
                              ousac_error *error) {
    job j = {.request = request};
    ousac_torch_list lists[LISTS];
    char names[LISTS][16];
    size_t largest = 0;
    ousac_status status = open_parts(&j, error);
    if (!status)
        status = find_layers(&j, error);
    if (!status)
        status = choose_ranks(&j, result, error);
    if (status)
        goto done;
    for (size_t i = 0; i < j.arch.block_count * KEYS; i++) {
        const size_t size = j.layers[i].exact ? 0 : j.layers[i].rank * j.arch.sites[j.layers[i].site].m;
        largest = size > largest ? size : largest;
    }
    j.rows = ousac_malloc(largest, sizeof *j.rows);
    if (!j.rows) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a factor of %zu values",
                            request->bundle, largest);
        goto done;
    }
    for (size_t l = 0; l < LISTS; l++) {
        (void)snprintf(names[l], sizeof names[l], "%s_w%c", LAYERS[l / 2].key, l % 2 ? 'b' : 'a');
        lists[l] = (ousac_torch_list){names[l], j.arch.block_count, j.matrices + l * j.arch.block_count};
    }
    status = ousac_torch_save(request->output, "decomp_weight", lists, LISTS, fill, &j, error);
done:
    ousac_free(j.rows);
    ousac_free(j.matrices);
    ousac_free(j.layers);
    ousac_model_free(j.model);
    ousac_schedule_free(&j.schedule);
    ousac_arch_free(&j.arch);
    ousac_archive_close(&j.archive);
    ousac_bundle_close(j.bundle);
    return status;
}
