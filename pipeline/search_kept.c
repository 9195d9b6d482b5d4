#include "pipeline/search_kept.h"

#include "pipeline/search_parts.h"

#include "formats/file.h"
#include "formats/json.h"
#include "formats/json_build.h"
#include "formats/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KEY_BYTES = 1024, KEPT_BYTES_MAX = 64 << 20, VALUES_MAX = 1 << 20 };

/* One line that says all that a candidate depends on. */
static void write_key(const ousac_search_options *options, const ousac_session *session,
                      char key[KEY_BYTES]) {
    char digest[OUSAC_DIGEST_CHARS], timing[OUSAC_DIGEST_CHARS] = "";
    ousac_schedule_digest(options->reference, digest);
    if (options->timing)
        ousac_timing_digest(options->timing, timing);
    (void)snprintf(
        key, KEY_BYTES,
        "candidates for model %s against reference %s: budget %.17g in %s%s, effort %d, seed %" PRIu64
        ", micro-batch %zu, samples from %" PRIu64 ", backend %s",
        session->model->digest, digest, options->budget, options->timing ? "time by " : "MACs", timing,
        (int)options->effort, session->seed, session->micro_batch, options->unused,
        session->model->backend->name);
}

ousac_status ousac_search_keep(const ousac_search_options *options, const ousac_session *session,
                               const ousac_search_result *result, ousac_error *error) {
    char key[KEY_BYTES];
    ousac_json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;
    write_key(options, session, key);
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "of", key);
    cJSON *list = ousac_json_put_array(&doc, doc.root, "candidates");
    for (size_t i = 0; i < result->count && !status; i++) {
        const ousac_search_candidate *c = &result->candidate[i];
        cJSON *item = ousac_json_put_object(&doc, list, NULL);
        char *text = NULL;
        status = ousac_schedule_print(&c->schedule, &text, error);
        ousac_json_put_u64(&doc, item, "kind", (uint64_t)c->kind);
        ousac_json_put_u64(&doc, item, "guided", c->guided);
        ousac_json_put_u64(&doc, item, "full", c->full);
        ousac_json_put_u64(&doc, item, "rank", c->rank);
        ousac_json_put_bool(&doc, item, "forecast", c->forecast);
        ousac_json_put_real(&doc, item, "power", c->power);
        ousac_json_put_real(&doc, item, "share", c->share);
        ousac_json_put_real(&doc, item, "spent", c->spent);
        ousac_json_put_real(&doc, item, "unfitted", c->unfitted);
        ousac_json_put_real(&doc, item, "error", c->error);
        ousac_json_put_real(&doc, item, "decided", c->decided);
        if (!isnan(c->again))
            ousac_json_put_real(&doc, item, "again", c->again);
        ousac_json_put_real(&doc, item, "seconds", c->seconds);
        ousac_json_put_text(&doc, item, "schedule", text ? text : "");
        ousac_free(text);
    }
    list = ousac_json_put_array(&doc, doc.root, "points");
    for (size_t i = 0; i < result->point_count; i++) {
        const ousac_search_point *p = &result->point[i];
        cJSON *item = ousac_json_put_object(&doc, list, NULL);
        ousac_json_put_u64(&doc, item, "kind", (uint64_t)p->kind);
        ousac_json_put_u64(&doc, item, "steps", p->steps);
        ousac_json_put_real(&doc, item, "share", p->share);
        ousac_json_put_real(&doc, item, "spent", p->spent);
        ousac_json_put_real(&doc, item, "error", p->error);
    }
    if (!status)
        status = ousac_json_save(&doc, options->kept, error);
    ousac_json_end(&doc);
    return status;
}

static double real_of(const cJSON *item, const char *key) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(item, key);
    return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* Where a candidate was looked at again, and null stands for what is not finite. */
static double again_of(const cJSON *item) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(item, "again");
    return cJSON_IsNull(value) ? INFINITY : real_of(item, "again");
}

static size_t whole_of(const cJSON *item, const char *key) {
    unsigned long long value = 0;
    (void)ousac_json_whole(cJSON_GetObjectItemCaseSensitive(item, key), &value);
    return (size_t)value;
}

/* 1 where it could be read whole. */
static int read_candidate(const cJSON *item, const char *name, ousac_search_candidate *c) {
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(item, "schedule");
    const int knows_guided = cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(item, "guided"));
    ousac_error ignored;
    *c =
        (ousac_search_candidate){.kind = (ousac_search_kind)whole_of(item, "kind"),
                                 .guided = whole_of(item, "guided"),
                                 .full = whole_of(item, "full"),
                                 .rank = whole_of(item, "rank"),
                                 .forecast = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(item, "forecast")),
                                 .power = real_of(item, "power"),
                                 .share = real_of(item, "share"),
                                 .spent = real_of(item, "spent"),
                                 .unfitted = real_of(item, "unfitted"),
                                 .error = real_of(item, "error"),
                                 .decided = real_of(item, "decided"),
                                 .again = again_of(item),
                                 .seconds = real_of(item, "seconds"),
                                 .resumed = 1};
    return knows_guided && c->kind < OUSAC_SEARCH_KINDS && c->power >= 0 && c->power <= 1 &&
           isfinite(c->share) && isfinite(c->spent) && isfinite(c->unfitted) && isfinite(c->error) &&
           isfinite(c->decided) && cJSON_IsString(text) &&
           ousac_schedule_parse(&c->schedule, text->valuestring, strlen(text->valuestring), name, &ignored) ==
               OUSAC_STATUS_OK;
}

static int read_point(const cJSON *item, ousac_search_point *p) {
    *p = (ousac_search_point){.kind = (ousac_search_kind)whole_of(item, "kind"),
                              .steps = whole_of(item, "steps"),
                              .share = real_of(item, "share"),
                              .spent = real_of(item, "spent"),
                              .error = real_of(item, "error")};
    return p->kind <= OUSAC_SEARCH_FITTED && p->steps > 0 && isfinite(p->share) && isfinite(p->spent) &&
           isfinite(p->error);
}

void ousac_search_take_up(const ousac_search_options *options, const ousac_session *session,
                          ousac_search_result *result) {
    char key[KEY_BYTES], *text = NULL;
    size_t size = 0;
    cJSON *root = NULL;
    ousac_error ignored;
    write_key(options, session, key);
    if (ousac_file_read_text(&text, &size, options->kept, KEPT_BYTES_MAX, &ignored) == OUSAC_STATUS_OK &&
        ousac_json_parse(&root, text, size, VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, options->kept, &ignored) ==
            OUSAC_STATUS_OK) {
        const cJSON *of = cJSON_GetObjectItemCaseSensitive(root, "of"), *item;
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "candidates");
        const cJSON *points = cJSON_GetObjectItemCaseSensitive(root, "points");
        const int same = cJSON_IsString(of) && strcmp(of->valuestring, key) == 0;
        if (same)
            cJSON_ArrayForEach(item, list) {
                ousac_search_candidate c;
                if (result->count == OUSAC_SEARCH_CANDIDATES_MAX || !read_candidate(item, options->kept, &c))
                    break;
                ousac_search_add(result, &c);
            }
        if (same)
            cJSON_ArrayForEach(item, points) {
                if (result->point_count == OUSAC_SEARCH_POINTS_MAX ||
                    !read_point(item, &result->point[result->point_count]))
                    break;
                result->point_count++;
            }
        if (result->count)
            ousac_session_note(session, "%s: %zu candidates of an interrupted search", options->kept,
                               result->count);
    }
    cJSON_Delete(root);
    ousac_free(text);
}
