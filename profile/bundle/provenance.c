#include "profile/bundle/provenance.h"

#include "formats/json.h"
#include "profile/files/archive.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What samples were used for: those that every bundle says, and those that are there only where there was one. */
enum { USES_ALWAYS = 3 };
static const char *const uses[] = {"calibration", "pilot", "validation", "placement", "search"};

/* Those of the ranges that were used so. */
static void put_used(ousac_json_doc *doc, cJSON *list, const ousac_used_ranges *ranges, const char *use) {
    for (size_t i = 0; i < ranges->count; i++)
        if (strcmp(ranges->use[i], use) == 0)
            ousac_range_put(doc, list, NULL, ranges->range[i].first, ranges->range[i].count);
}

static int was_used(const ousac_used_ranges *ranges, const char *use) {
    int found = 0;
    for (size_t i = 0; i < ranges->count; i++)
        found |= strcmp(ranges->use[i], use) == 0;
    return found;
}

void ousac_provenance_put(ousac_json_doc *doc, const ousac_profile *profile, const ousac_used_ranges *behind,
                          ousac_method factors, const ousac_plan *const *plans, size_t plan_count,
                          const char *budget) {
    char seed[24];
    cJSON *list = NULL;

    /* As text: readers of JSON round numbers of 64 bits. */
    (void)snprintf(seed, sizeof seed, "%" PRIu64, profile->identity.seed);
    ousac_json_put_text(doc, doc->root, "seed", seed);
    ousac_json_put_u64(doc, doc->root, "micro_batch", profile->identity.micro_batch);
    ousac_json_put_u64(doc, doc->root, "tokens", profile->identity.tokens_used);
    ousac_json_put_text(doc, doc->root, "factors", ousac_method_name(factors));
    if (budget)
        ousac_json_put_text(doc, doc->root, "budget", budget);
    list = ousac_json_put_array(doc, doc->root, "calibration");
    for (size_t i = 0; i < profile->range_count; i++)
        ousac_range_put(doc, list, NULL, profile->ranges[i].first, profile->ranges[i].count);
    put_used(doc, ousac_json_put_array(doc, doc->root, "pilot"), behind, "pilot");
    list = ousac_json_put_array(doc, doc->root, "validation");
    for (size_t i = 0; i < plan_count; i++)
        if (plans[i]->validation.count > 0)
            ousac_range_put(doc, list, NULL, plans[i]->validation.first, plans[i]->validation.count);
    for (size_t i = USES_ALWAYS; i < sizeof uses / sizeof *uses; i++)
        if (was_used(behind, uses[i]))
            put_used(doc, ousac_json_put_array(doc, doc->root, uses[i]), behind, uses[i]);
}

/* Digits alone, of 64 bits. */
static int take_seed(const char *text, uint64_t *seed) {
    char *end = NULL;
    if (!text || *text < '0' || *text > '9')
        return 0;
    errno = 0;
    *seed = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0';
}

ousac_status ousac_provenance_of(ousac_provenance *provenance, const oca_file *file, const char *name,
                                 ousac_error *error) {
    enum { VALUES_MAX = 1 << 16 };
    const char *text = oca_metadata(file, "provenance");
    cJSON *root = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    memset(provenance, 0, sizeof *provenance);
    if (text)
        status = ousac_json_parse(&root, text, strlen(text), VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, name, error);
    if (status || !root)
        return status;
    const char *factors = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "factors"));
    int good =
        take_seed(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "seed")), &provenance->seed);
    provenance->of_weights = factors && strcmp(factors, ousac_method_name(OUSAC_METHOD_DELTA_COV)) != 0;
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, uses[i]), *item = NULL;
        good &= cJSON_IsArray(list) || (!list && i >= USES_ALWAYS);
        cJSON_ArrayForEach(item, list) good &= ousac_used_ranges_take(&provenance->used, item, uses[i]);
    }
    provenance->known = good;
    if (!good)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"provenance\": expected a seed and lists of sample ranges", name);
    cJSON_Delete(root);
    return status;
}

ousac_status ousac_provenance_read(const char *path, ousac_provenance *provenance, ousac_error *error) {
    oca_file *file = NULL;
    memset(provenance, 0, sizeof *provenance);
    ousac_status status = ousac_archive_open_any(&file, path, error);
    if (!status)
        status = ousac_provenance_of(provenance, file, path, error);
    oca_close(file);
    return status;
}
