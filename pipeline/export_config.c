#include "pipeline/export_config.h"

#include "formats/json_build.h"
#include "formats/memory.h"
#include "profile/bundle/bundle.h"
#include "profile/files/archive.h"

#include <stdio.h>
#include <string.h>

/* Classes of diffusers whose architecture a family is. */
static const struct {
    const char *family, *name;
} CLASSES[] = {{"dit", "DiTTransformer2DModel"},   {"pixart", "PixArtTransformer2DModel"},
               {"flux", "FluxTransformer2DModel"}, {"sd3", "SD3Transformer2DModel"},
               {"wan", "WanTransformer3DModel"},   {"qwenimage", "QwenImageTransformer2DModel"}};

static const char *const PATHS[] = {"frozen", "low-rank", "dense", "skipped"}; /* by ousac_path */

/* Whether a file is an archive that says it is a bundle. */
static int is_bundle(const char *path) {
    oca_file *file = NULL;
    if (oca_open_path(&file, path, NULL) != OCA_OK)
        return 0;
    const char *format = oca_metadata(file, "format");
    const int is = format && strcmp(format, OUSAC_FORMAT_BUNDLE) == 0;
    oca_close(file);
    return is;
}

static void put_model(ousac_json_doc *doc, const ousac_bundle *bundle) {
    const char *family = ousac_bundle_arch(bundle)->family;
    ousac_json_put_text(doc, doc->root, "family", family);
    for (size_t i = 0; i < sizeof CLASSES / sizeof *CLASSES; i++)
        if (strcmp(CLASSES[i].family, family) == 0) {
            ousac_json_put_text(doc, doc->root, "model_class", CLASSES[i].name);
            return;
        }
    ousac_json_put_null(doc, doc->root, "model_class");
}

/* The type of all stored factors; "mixed" where they differ, null where none is stored. */
static void put_dtype(ousac_json_doc *doc, const oca_file *file) {
    const char *found = NULL;
    oca_tensor tensor;
    for (size_t i = 0; i < oca_tensor_count(file); i++) {
        if (oca_tensor_at(file, i, &tensor) != OCA_OK || strncmp(tensor.name, "factor/", 7) != 0)
            continue;
        const char *end = strrchr(tensor.name, '/');
        if (strcmp(end, "/A") != 0 && strcmp(end, "/B") != 0)
            continue;
        const char *name = ousac_dtype_name((ousac_dtype)(int)tensor.dtype);
        found = found && strcmp(found, name) != 0 ? "mixed" : name;
        if (strcmp(found, "mixed") == 0)
            break;
    }
    if (found)
        ousac_json_put_text(doc, doc->root, "dtype", found);
    else
        ousac_json_put_null(doc, doc->root, "dtype");
}

static void put_sites(ousac_json_doc *doc, const ousac_arch *arch) {
    cJSON *sites = ousac_json_put_array(doc, doc->root, "sites");
    for (size_t i = 0; i < arch->site_count; i++) {
        cJSON *site = ousac_json_put_object(doc, sites, NULL);
        ousac_json_put_text(doc, site, "name", arch->sites[i].name);
        ousac_json_put_u64(doc, site, "m", arch->sites[i].m);
        ousac_json_put_u64(doc, site, "n", arch->sites[i].n);
        ousac_json_put_u64(doc, site, "group", arch->sites[i].group);
    }
}

static void put_plans(ousac_json_doc *doc, const ousac_bundle *bundle) {
    const ousac_arch *arch = ousac_bundle_arch(bundle);
    const ousac_plan *first = ousac_bundle_find_plan(bundle, NULL);
    if (first)
        ousac_json_put_text(doc, doc->root, "plan", first->name);
    else
        ousac_json_put_null(doc, doc->root, "plan");
    cJSON *plans = ousac_json_put_object(doc, doc->root, "plans");
    for (size_t k = 0; k < ousac_bundle_plan_count(bundle); k++) {
        const ousac_plan *plan = ousac_bundle_plan(bundle, k);
        const ousac_ranks ranks = ousac_plan_ranks(plan);
        cJSON *object = ousac_json_put_object(doc, plans, plan->name);
        ousac_json_put_bool(doc, object, "forecast", plan->forecast != NULL);
        cJSON *rank = ousac_json_put_array(doc, object, "ranks");
        cJSON *path = ousac_json_put_array(doc, object, "paths");
        for (size_t i = 0; i < arch->site_count; i++) {
            ousac_json_put_u64(doc, rank, NULL, plan->rank[i]);
            ousac_json_put_text(doc, path, NULL, PATHS[ousac_cost_path(arch, i, &ranks)]);
        }
    }
}

static ousac_status put_all(ousac_json_doc *doc, const ousac_bundle *bundle, const ousac_archive *archive,
                            ousac_error *error) {
    const char *schedule = NULL, *digest = NULL;
    ousac_status status = ousac_archive_text(archive, "schedule", &schedule, error);
    if (!status)
        status = ousac_archive_text(archive, "schedule_digest", &digest, error);
    if (status)
        return status;
    ousac_json_put_text(doc, doc->root, "format",
                        OUSAC_FORMAT_BUNDLE); /* first: the way back knows it by it */
    ousac_json_put_u64(doc, doc->root, "version", (uint64_t)archive->version);
    put_model(doc, bundle);
    ousac_json_put_text(doc, doc->root, "model_digest", ousac_bundle_model_digest(bundle));
    put_dtype(doc, archive->file);
    ousac_json_put_bool(doc, doc->root, "biases", 0);
    put_sites(doc, ousac_bundle_arch(bundle));
    put_plans(doc, bundle);
    ousac_json_put_text(doc, doc->root, "schedule_digest", digest);
    ousac_json_put_parsed(doc, doc->root, "schedule", schedule);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_export_config(const char *path, char **text, ousac_error *error) {
    ousac_archive archive = {0};
    ousac_bundle *bundle = NULL;
    ousac_json_doc doc;
    *text = NULL;
    if (!is_bundle(path))
        return OUSAC_STATUS_OK;
    ousac_json_begin(&doc);
    ousac_status status = ousac_archive_open(&archive, path, OUSAC_FORMAT_BUNDLE, error);
    const int newer = status == OUSAC_STATUS_UNSUPPORTED;
    if (!status)
        status = ousac_bundle_open(&bundle, path, error);
    if (!status)
        status = put_all(&doc, bundle, &archive, error);
    if (!status)
        status = ousac_json_text(&doc, 0, text, error);
    ousac_json_end(&doc);
    ousac_bundle_close(bundle);
    ousac_archive_close(&archive);
    return newer ? OUSAC_STATUS_OK : status;
}
