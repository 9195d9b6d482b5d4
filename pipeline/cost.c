#include "pipeline/cost.h"

#include "formats/memory.h"
#include "pipeline/machine.h"
#include "pipeline/shard.h"

void ousac_record_convergence_put(ousac_json_doc *doc, cJSON *object, const ousac_record_convergence *found) {
    cJSON *item = ousac_json_put_object(doc, object, "convergence"), *list = NULL;
    ousac_json_put_bool(doc, item, "converged", found->converged);
    ousac_json_put_real(doc, item, "tolerance", found->tolerance);
    ousac_json_put_real(doc, item, "budget_step", found->budget_step);
    list = ousac_json_put_array(doc, item, "rounds");
    for (size_t i = 0; i < found->rounds; i++) {
        const ousac_record_round *round = &found->round[i];
        cJSON *entry = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_u64(doc, entry, "samples", round->samples);
        ousac_json_put_real(doc, entry, "excess", round->excess);
        ousac_json_put_real(doc, entry, "upper", round->upper);
        ousac_json_put_real(doc, entry, "worst", round->worst);
        ousac_json_put_text(doc, entry, "worst_site", round->worst_site);
    }
}

void ousac_record_cost_put(ousac_json_doc *doc, cJSON *object, const ousac_session *session,
                           const ousac_record_cost *cost, int reproducible) {
    if (!reproducible)
        ousac_json_put_real(doc, object, "wall_s", cost->seconds);
    ousac_json_put_u64(doc, object, "forwards", cost->forwards);
    if (!reproducible) {
        ousac_json_put_u64(doc, object, "peak_bytes", ousac_peak_bytes());
        ousac_json_put_u64(doc, object, "threads", ousac_session_threads(session));
    }
    ousac_json_put_text(doc, object, "backend", session->model->backend->detail);
    if (cost->pilot.count > 0)
        ousac_range_put(doc, object, "pilot", cost->pilot.first, cost->pilot.count);
    if (cost->convergence.rounds > 0)
        ousac_record_convergence_put(doc, object, &cost->convergence);
}

ousac_status ousac_record_save(const ousac_session *session, const ousac_profile *profile, const char *path,
                               const ousac_record_cost *cost, int reproducible, ousac_error *error) {
    ousac_json_doc doc;
    char *text = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    ousac_json_begin(&doc);
    ousac_record_cost_put(&doc, doc.root, session, cost, reproducible);
    status = ousac_json_text(&doc, 0, &text, error);
    if (!status)
        status = ousac_profile_save(profile, path, text, error);
    ousac_free(text);
    ousac_json_end(&doc);
    return status;
}
