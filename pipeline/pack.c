#include "pipeline/pack.h"

#include "formats/memory.h"

/* Looks at a bundle that has not got its name yet; `self` points to a pointer to the model. */
static ousac_status verify_bundle(void *self, const char *path, ousac_error *error) {
    const ousac_model *model = *(const ousac_model *const *)self;
    ousac_bundle *bundle = NULL;
    ousac_status status = ousac_bundle_open(&bundle, path, error);
    if (!status)
        status = ousac_bundle_verify(bundle, error);
    if (!status)
        status = ousac_bundle_check_model(bundle, model, NULL, error);
    ousac_bundle_close(bundle);
    return status;
}

/* What both ways of packing share: `text` of the provenance and the options that carry it. */
static ousac_status describe_bundle(ousac_bundle_options *options, char **text, const ousac_profile *profile,
                                    const ousac_used_ranges *behind, ousac_method method,
                                    const ousac_plan *const *plans, size_t plan_count, const char *budget,
                                    const ousac_pack_storage *storage, int keep_all, ousac_error *error) {
    ousac_json_doc doc;
    ousac_json_begin(&doc);
    ousac_provenance_put(&doc, profile, behind, method, plans, plan_count, budget);
    const ousac_status status = ousac_json_text(&doc, 0, text, error);
    *options = (ousac_bundle_options){
        .dtype = storage->dtype,
        .choose = storage->choose,
        .codec = storage->codec,
        .keep_all = keep_all,
        .provenance = *text,
        .check = verify_bundle,
    };
    ousac_json_end(&doc);
    return status;
}

ousac_status ousac_pack(const char *path, const ousac_model *model, const ousac_profile *profile,
                        const ousac_used_ranges *behind, const ousac_factor_set *set,
                        const ousac_plan *const *plans, size_t plan_count, const char *budget,
                        const ousac_pack_storage *storage, int keep_all, ousac_error *error) {
    ousac_bundle_options options;
    char *provenance = NULL;
    ousac_status status = describe_bundle(&options, &provenance, profile, behind, set->method, plans,
                                          plan_count, budget, storage, keep_all, error);
    options.check_self = (void *)&model;
    if (!status)
        status = ousac_bundle_save(path, model, profile, set, plans, plan_count, &options, error);
    ousac_free(provenance);
    return status;
}

ousac_status ousac_pack_stream(const char *path, const ousac_session *session, const ousac_profile *profile,
                               const ousac_used_ranges *behind, ousac_method method,
                               const ousac_plan *const *plans, size_t plan_count,
                               const ousac_pack_storage *storage, int keep_all, ousac_error *error) {
    ousac_progress progress = ousac_session_progress(session, "pack");
    const ousac_factorise_options making = {
        .method = method,
        .threads = session->threads,
        .progress = ousac_progress_update,
        .progress_self = &progress,
        .stop = session->stop,
    };
    const ousac_model *model = session->model;
    ousac_bundle_options options;
    char *provenance = NULL;
    ousac_status status = describe_bundle(&options, &provenance, profile, behind, method, plans, plan_count,
                                          NULL, storage, keep_all, error);
    options.check_self = (void *)&model;
    if (!status)
        status = ousac_bundle_stream(path, model, profile, &making, plans, plan_count, &options, error);
    ousac_progress_end(&progress);
    ousac_free(provenance);
    return status;
}
