#include "profile/record/run_text.h"

#include "formats/json.h"
#include "formats/oca.h"
#include "profile/files/archive.h"

#include <stdio.h>
#include <string.h>

static void put_convergence(ousac_json_doc *doc, cJSON *object, const ousac_record_convergence *found) {
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

void ousac_run_text_put(ousac_json_doc *doc, cJSON *object, const char *backend,
                        const ousac_record_process *process, const ousac_record_cost *cost) {
    if (process)
        ousac_json_put_real(doc, object, "wall_s", cost->seconds);
    ousac_json_put_u64(doc, object, "forwards", cost->forwards);
    if (process) {
        ousac_json_put_u64(doc, object, "peak_bytes", process->peak_bytes);
        ousac_json_put_u64(doc, object, "threads", process->threads);
    }
    ousac_json_put_text(doc, object, "backend", backend);
    if (cost->pilot.count > 0)
        ousac_range_put(doc, object, "pilot", cost->pilot.first, cost->pilot.count);
    if (cost->convergence.rounds > 0)
        put_convergence(doc, object, &cost->convergence);
}

void ousac_run_text_put_part(ousac_json_doc *doc, cJSON *object, const ousac_sample_range *of,
                             const char *weights) {
    ousac_range_put(doc, object, "part_of", of->first, of->count);
    ousac_json_put_text(doc, object, "weights", weights);
}

/* Parses the metadata; *root is NULL where the file has none. */
static ousac_status parse(const char *path, cJSON **root, ousac_error *error) {
    enum { VALUES_MAX = 1 << 16 };
    oca_file *file = NULL;
    *root = NULL;
    ousac_status status = ousac_archive_open_any(&file, path, error);
    if (status)
        return status;
    const char *text = oca_metadata(file, "run");
    if (text)
        status = ousac_json_parse(root, text, strlen(text), VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, path, error);
    oca_close(file);
    return status;
}

ousac_status ousac_run_text_read(const char *path, ousac_run_text *run, ousac_error *error) {
    unsigned long long forwards = 0;
    cJSON *root = NULL;
    memset(run, 0, sizeof *run);
    ousac_status status = parse(path, &root, error);
    if (!status && !root)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: expected metadata \"run\"", path);
    if (status)
        return status;
    const cJSON *wall = cJSON_GetObjectItemCaseSensitive(root, "wall_s");
    const char *weights = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "weights"));
    (void)ousac_json_whole(cJSON_GetObjectItemCaseSensitive(root, "forwards"), &forwards);
    run->cost.forwards = forwards;
    run->cost.seconds = cJSON_IsNumber(wall) ? wall->valuedouble : 0;
    (void)ousac_range_take(cJSON_GetObjectItemCaseSensitive(root, "pilot"), &run->cost.pilot);
    (void)ousac_range_take(cJSON_GetObjectItemCaseSensitive(root, "part_of"), &run->part_of);
    (void)snprintf(run->weights, sizeof run->weights, "%s", weights ? weights : OUSAC_WEIGHTS_PILOT);
    cJSON_Delete(root);
    return status;
}

ousac_status ousac_run_text_read_pilots(const char *path, ousac_used_ranges *pilots, ousac_error *error) {
    cJSON *root = NULL;
    const cJSON *item = NULL;
    int good = 1;
    memset(pilots, 0, sizeof *pilots);
    ousac_status status = parse(path, &root, error);
    if (status)
        return status;
    const cJSON *pilot = cJSON_IsObject(root) ? cJSON_GetObjectItemCaseSensitive(root, "pilot") : NULL;
    if (pilot)
        good = ousac_used_ranges_take(pilots, pilot, "pilot");
    else if (cJSON_IsArray(root))
        cJSON_ArrayForEach(item, root) {
            pilot = cJSON_GetObjectItemCaseSensitive(item, "pilot");
            good &= !pilot || ousac_used_ranges_take(pilots, pilot, "pilot");
        }
    if (!good)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"run\": expected \"pilot\" as [first, end]", path);
    cJSON_Delete(root);
    return status;
}

ousac_status ousac_run_text_gather(ousac_json_doc *doc, cJSON *array, const char *path, ousac_error *error) {
    cJSON *root = NULL;
    ousac_status status = parse(path, &root, error);
    if (status || !root)
        return status;
    if (!cJSON_IsArray(root)) {
        if (!cJSON_AddItemToArray(array, root)) {
            doc->failed = 1;
            cJSON_Delete(root);
        }
        return status;
    }
    while (cJSON_GetArraySize(root) > 0) {
        cJSON *item = cJSON_DetachItemFromArray(root, 0);
        if (!cJSON_AddItemToArray(array, item)) {
            doc->failed = 1;
            cJSON_Delete(item);
        }
    }
    cJSON_Delete(root);
    return status;
}
