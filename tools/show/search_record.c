#include "profile/record/ranges.h"
#include "tools/show/show.h"

#include <string.h>

static const ousac_search_candidate *first_of(const ousac_search_result *found, ousac_search_kind kind) {
    for (size_t i = 0; i < found->count; i++)
        if (found->candidate[i].kind == kind)
            return &found->candidate[i];
    return NULL;
}

static void put_stage(ousac_json_doc *doc, cJSON *list, const char *stage, size_t steps, double share,
                      double relative_error) {
    cJSON *item = ousac_json_put_object(doc, list, NULL);
    ousac_json_put_text(doc, item, "stage", stage);
    ousac_json_put_u64(doc, item, "steps", steps);
    ousac_json_put_real(doc, item, "macs_share", share);
    ousac_json_put_real(doc, item, "error", relative_error);
}

/* The way to the result, each stage on the same validation samples. */
static void put_stages(ousac_json_doc *doc, cJSON *root, const search_record *record) {
    const ousac_search_result *found = record->found;
    const ousac_search_candidate *best = &found->candidate[found->best];
    const ousac_search_candidate *fewer = first_of(found, OUSAC_SEARCH_FEWER),
                                 *fitted = first_of(found, OUSAC_SEARCH_FITTED);
    cJSON *list = ousac_json_put_array(doc, root, "stages");
    if (fewer)
        put_stage(doc, list, "fewer steps", fewer->schedule.step_count, fewer->share, fewer->error);
    if (fitted)
        put_stage(doc, list, "fitted steps", fitted->schedule.step_count, fitted->share, fitted->error);
    const size_t steps = best->schedule.step_count;
    if (best->kind == OUSAC_SEARCH_SPARSE)
        put_stage(doc, list, "some guided, fitted", steps, best->share, best->error);
    if (best->kind == OUSAC_SEARCH_EXTRAPOLATED) {
        put_stage(doc, list, "more steps, extrapolated", steps, best->share, best->unfitted);
        put_stage(doc, list, "extrapolated and fitted", steps, best->share, best->error);
    }
    if (best->kind != OUSAC_SEARCH_CACHED)
        return;
    put_stage(doc, list, "more steps, cached", steps, best->share, best->unfitted);
    put_stage(doc, list, "cached and fitted", steps, best->share, best->error);
    if (record->shipped) {
        put_stage(doc, list, "ranks and factors that ship", steps, record->shipped_share,
                  record->shipped->before);
        put_stage(doc, list, "fitted once more", steps, record->shipped_share, record->shipped->after);
    }
}

ousac_status search_record_save(const search_record *record, const char *path, ousac_error *error) {
    const ousac_schedule *reference = record->options->reference;
    const ousac_search_result *found = record->found;
    const int timed = record->options->timing != NULL;
    char digest[OUSAC_DIGEST_CHARS];
    ousac_json_doc doc;
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "kind", "ousac search");
    ousac_json_put_u64(&doc, doc.root, "version", 1);
    ousac_json_put_text(&doc, doc.root, "model_digest", record->model->digest);
    ousac_json_put_u64(&doc, doc.root, "seed", record->seed);
    cJSON *item = ousac_json_put_object(&doc, doc.root, "reference");
    ousac_schedule_digest(reference, digest);
    ousac_json_put_text(&doc, item, "name", ousac_schedule_called(reference));
    ousac_json_put_text(&doc, item, "digest", digest);
    ousac_json_put_u64(&doc, item, "steps", reference->step_count);
    item = ousac_json_put_object(&doc, doc.root, "schedule");
    ousac_schedule_digest(record->schedule, digest);
    ousac_json_put_text(&doc, item, "digest", digest);
    ousac_json_put_u64(&doc, item, "steps", record->schedule->step_count);
    ousac_json_put_real(&doc, doc.root, "budget", record->options->budget);
    ousac_json_put_text(&doc, doc.root, "counted", timed ? "time" : "MACs");
    if (timed) {
        char machine[OUSAC_TIMING_LINE_BYTES];
        ousac_timing_describe(record->options->timing, machine);
        ousac_json_put_text(&doc, doc.root, "machine", machine);
    }
    ousac_json_put_text(&doc, doc.root, "effort",
                        record->options->effort == OUSAC_EFFORT_FULL ? "full" : "quick");
    ousac_range_put(&doc, doc.root, "fitting", found->fitting.first, found->fitting.count);
    ousac_range_put(&doc, doc.root, "validation", found->validation.first, found->validation.count);
    if (found->deciding.count)
        ousac_range_put(&doc, doc.root, "deciding", found->deciding.first, found->deciding.count);
    if (found->looked_again)
        ousac_range_put(&doc, doc.root, "again", found->again.first, found->again.count);
    search_put(&doc, doc.root, found, timed);
    put_stages(&doc, doc.root, record);
    if (record->headline->count) {
        ousac_range_put(&doc, doc.root, "test", record->test.first, record->test.count);
        headline_put(&doc, doc.root, record->headline);
        fine_put(&doc, doc.root, record->fine);
    }
    const ousac_status status = ousac_json_save(&doc, path, error);
    ousac_json_end(&doc);
    return status;
}
