#include "profile/record/ranges.h"

#include "formats/json.h"

#include <string.h>

void ousac_range_put(ousac_json_doc *doc, cJSON *object, const char *key, uint64_t first, uint64_t count) {
    cJSON *pair = ousac_json_put_array(doc, object, key);
    ousac_json_put_u64(doc, pair, NULL, first);
    ousac_json_put_u64(doc, pair, NULL, first + count);
}

int ousac_range_take(const cJSON *item, ousac_sample_range *range) {
    unsigned long long first = 0, end = 0;
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2 ||
        !ousac_json_whole(cJSON_GetArrayItem(item, 0), &first) ||
        !ousac_json_whole(cJSON_GetArrayItem(item, 1), &end) || end <= first)
        return 0;
    *range = (ousac_sample_range){first, end - first};
    return 1;
}

int ousac_used_ranges_take(ousac_used_ranges *ranges, const cJSON *item, const char *use) {
    ousac_sample_range range;
    if (!ousac_range_take(item, &range))
        return 0;
    for (size_t i = 0; i < ranges->count; i++)
        if (ranges->range[i].first == range.first && ranges->range[i].count == range.count &&
            strcmp(ranges->use[i], use) == 0)
            return 1;
    if (ranges->count == OUSAC_USED_RANGES_MAX)
        return 0;
    ranges->range[ranges->count] = range;
    ranges->use[ranges->count++] = use;
    return 1;
}
