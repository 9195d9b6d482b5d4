#include "pipeline/provenance.h"

#include "formats/json.h"
#include "formats/memory.h"
#include "formats/oca.h"
#include "pipeline/shard.h"
#include "profile/files/archive.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ousac_provenance_put(ousac_json_doc *doc, const ousac_profile *profile, const ousac_used_ranges *pilots,
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
    list = ousac_json_put_array(doc, doc->root, "pilot");
    for (size_t i = 0; i < pilots->count; i++)
        ousac_range_put(doc, list, NULL, pilots->range[i].first, pilots->range[i].count);
    list = ousac_json_put_array(doc, doc->root, "validation");
    for (size_t i = 0; i < plan_count; i++)
        if (plans[i]->validation.count > 0)
            ousac_range_put(doc, list, NULL, plans[i]->validation.first, plans[i]->validation.count);
}

/* Adds a range [first, end]; 0 where the item is none. A range that is there already is not added again. */
static int add_range(ousac_used_ranges *ranges, const cJSON *item, const char *use) {
    unsigned long long first = 0, end = 0;
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2 ||
        !ousac_json_whole(cJSON_GetArrayItem(item, 0), &first) ||
        !ousac_json_whole(cJSON_GetArrayItem(item, 1), &end) || end <= first)
        return 0;
    for (size_t i = 0; i < ranges->count; i++)
        if (ranges->range[i].first == first && ranges->range[i].count == end - first)
            return 1;
    if (ranges->count == OUSAC_USED_RANGES_MAX)
        return 0;
    ranges->range[ranges->count] = (ousac_sample_range){first, end - first};
    ranges->use[ranges->count++] = use;
    return 1;
}

/* Parses a file's metadata; *root is NULL where the key is absent. */
static ousac_status read_metadata(const char *path, const char *key, cJSON **root, ousac_error *error) {
    enum { VALUES_MAX = 1 << 16 };
    oca_file *file = NULL;
    const char *text = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    *root = NULL;
    status = ousac_archive_open_any(&file, path, error);
    if (status)
        return status;
    text = oca_metadata(file, key);
    if (text)
        status = ousac_json_parse(root, text, strlen(text), VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, path, error);
    oca_close(file);
    return status;
}

ousac_status ousac_provenance_read_pilots(const char *path, ousac_used_ranges *pilots, ousac_error *error) {
    cJSON *root = NULL;
    const cJSON *item = NULL;
    int good = 1;
    ousac_status status = read_metadata(path, "run", &root, error);

    memset(pilots, 0, sizeof *pilots);
    if (status)
        goto done;
    /* One run, or those of the profiles that were merged. */
    const cJSON *pilot = cJSON_IsObject(root) ? cJSON_GetObjectItemCaseSensitive(root, "pilot") : NULL;
    if (pilot)
        good = add_range(pilots, pilot, "pilot");
    else if (cJSON_IsArray(root))
        cJSON_ArrayForEach(item, root) {
            pilot = cJSON_GetObjectItemCaseSensitive(item, "pilot");
            good &= !pilot || add_range(pilots, pilot, "pilot");
        }
    if (!good)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"run\": expected \"pilot\" as [first, end]", path);
done:
    cJSON_Delete(root);
    return status;
}

ousac_status ousac_provenance_read(const char *path, ousac_provenance *provenance, ousac_error *error) {
    static const char *const uses[] = {"calibration", "pilot", "validation"};
    cJSON *root = NULL;
    const char *seed = NULL;
    char *end = NULL;
    int good = 1;
    ousac_status status = read_metadata(path, "provenance", &root, error);

    memset(provenance, 0, sizeof *provenance);
    if (status || !root)
        goto done;
    seed = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "seed"));
    errno = 0;
    good = seed && *seed >= '0' && *seed <= '9';
    if (good)
        provenance->seed = strtoull(seed, &end, 10);
    good = good && errno == 0 && *end == '\0';
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, uses[i]), *item = NULL;
        good &= cJSON_IsArray(list);
        cJSON_ArrayForEach(item, list) good &= add_range(&provenance->used, item, uses[i]);
    }
    provenance->known = good;
    if (!good)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: metadata \"provenance\": expected a seed and lists of sample ranges", path);
done:
    cJSON_Delete(root);
    return status;
}
