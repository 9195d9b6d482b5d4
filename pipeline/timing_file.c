/* The file of a timing: struct to JSON text and back (formats/TIME.md). */
#include "formats/file.h"
#include "formats/json.h"
#include "formats/memory.h"
#include "pipeline/timing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define KIND "ousac time"
enum { VERSION = 2, TEXT_BYTES_MAX = 1 << 20, VALUES_MAX = 4096, WHERE_BYTES = 64, COUNT_MAX = 1 << 30 };
/* What a line may be further from its points than it says, for rounding. */
#define RESIDUAL_SLACK 1e-3

static const char *const forecast_names[2] = {"plain", "forecast"};

/* --- writing --- */

static void put_spread(ousac_json_doc *doc, cJSON *object, const char *key,
                       const ousac_timing_spread *spread) {
    cJSON *item = ousac_json_put_object(doc, object, key);
    ousac_json_put_real(doc, item, "median_s", spread->median);
    ousac_json_put_real(doc, item, "least_s", spread->least);
    ousac_json_put_real(doc, item, "most_s", spread->most);
    ousac_json_put_u64(doc, item, "count", spread->count);
}

void ousac_timing_put(ousac_json_doc *doc, cJSON *object, const ousac_timing *timing) {
    ousac_json_put_text(doc, object, "kind", KIND);
    ousac_json_put_u64(doc, object, "version", VERSION);
    cJSON *machine = ousac_json_put_object(doc, object, "machine");
    ousac_json_put_text(doc, machine, "processor", timing->processor);
    ousac_json_put_u64(doc, machine, "processors", timing->processors);
    ousac_json_put_text(doc, machine, "device", timing->device);
    ousac_json_put_text(doc, machine, "backend", timing->backend);
    ousac_json_put_text(doc, machine, "compute", timing->compute);
    ousac_json_put_u64(doc, machine, "threads", timing->threads);
    ousac_json_put_u64(doc, machine, "micro_batch", timing->micro_batch);
    ousac_json_put_text(doc, object, "model", timing->model_digest);
    ousac_json_put_text(doc, object, "mode", ousac_mode_name(timing->mode));
    ousac_json_put_text(doc, object, "clock", timing->processor_clock ? "processor" : "wall");
    ousac_json_put_u64(doc, object, "repeats", timing->repeats);
    for (int part = 0; part < OUSAC_TIMING_PARTS; part++)
        put_spread(doc, object, ousac_timing_part_name((ousac_timing_part)part), &timing->part[part]);
    cJSON *list = ousac_json_put_array(doc, object, "cached");
    for (size_t i = 0; i < timing->point_count; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_u64(doc, item, "rank", timing->point[i].rank);
        for (int f = 0; f < 2; f++)
            put_spread(doc, item, forecast_names[f], &timing->point[i].cached[f]);
    }
    cJSON *lines = ousac_json_put_object(doc, object, "line");
    for (int f = 0; f < 2; f++) {
        cJSON *item = ousac_json_put_object(doc, lines, forecast_names[f]);
        ousac_json_put_real(doc, item, "fixed_s", timing->line[f].fixed);
        ousac_json_put_real(doc, item, "per_rank_s", timing->line[f].per_rank);
        ousac_json_put_real(doc, item, "residual", timing->line[f].residual);
    }
}

ousac_status ousac_timing_save(const ousac_timing *timing, const char *path, ousac_error *error) {
    ousac_json_doc doc;
    ousac_json_begin(&doc);
    ousac_timing_put(&doc, doc.root, timing);
    const ousac_status status = ousac_json_save(&doc, path, error);
    ousac_json_end(&doc);
    return status;
}

/* --- reading --- */

/* An object of the file: its members, and what it is called in messages. */
typedef struct place {
    const char *name; /* of the file */
    const cJSON *object;
    char where[WHERE_BYTES]; /* "", "machine.", "cached[0].plain." */
} place;

static ousac_status refuse(const place *p, const char *key, const char *expected, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"%s%s\": expected %s", p->name, p->where, key,
                      expected);
}

static const cJSON *member(const place *p, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(p->object, key);
}

/* The object under a key, whose members are among `keys`, ended by NULL. */
static ousac_status enter(place *inner, const place *p, const char *key, const cJSON *object,
                          const char *const *keys, ousac_error *error) {
    const cJSON *item;
    *inner = (place){.name = p->name, .object = object};
    (void)snprintf(inner->where, sizeof inner->where, "%.20s%.40s%s", p->where, key, *key ? "." : "");
    if (!cJSON_IsObject(object))
        return refuse(p, *key ? key : "whole file", "an object", error);
    cJSON_ArrayForEach(item, object) {
        size_t i = 0;
        while (keys[i] && strcmp(keys[i], item->string) != 0)
            i++;
        if (!keys[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"%s%.40s\": unknown key", p->name,
                              inner->where, item->string);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status read_text(const place *p, const char *key, char *text, size_t bytes, ousac_error *error) {
    const char *value = cJSON_GetStringValue(member(p, key));
    if (!value || !*value || strlen(value) >= bytes)
        return refuse(p, key, "a short text", error);
    (void)snprintf(text, bytes, "%s", value);
    return OUSAC_STATUS_OK;
}

/* One of `words`, ended by NULL. */
static ousac_status read_word(const place *p, const char *key, const char *const *words, const char *expected,
                              int *index, ousac_error *error) {
    const char *value = cJSON_GetStringValue(member(p, key));
    for (*index = 0; value && words[*index]; ++*index)
        if (strcmp(value, words[*index]) == 0)
            return OUSAC_STATUS_OK;
    return refuse(p, key, expected, error);
}

static ousac_status read_count(const place *p, const char *key, size_t least, size_t *count,
                               ousac_error *error) {
    unsigned long long value = 0;
    if (!ousac_json_whole(member(p, key), &value) || value < least || value > COUNT_MAX)
        return refuse(p, key, least ? "a whole number of at least 1" : "a whole number", error);
    *count = (size_t)value;
    return OUSAC_STATUS_OK;
}

/* A number from `least` on; above it where `above` is set. */
static ousac_status read_number(const place *p, const char *key, int above, double *number,
                                ousac_error *error) {
    const cJSON *item = member(p, key);
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble) || item->valuedouble < 0 ||
        (above && !(item->valuedouble > 0)))
        return refuse(p, key, above ? "a number above 0" : "a number of at least 0", error);
    *number = item->valuedouble;
    return OUSAC_STATUS_OK;
}

/* What an evaluation takes is above 0; what a step takes beside may be 0. */
static ousac_status read_spread(const place *p, const char *key, int above, ousac_timing_spread *spread,
                                ousac_error *error) {
    static const char *const keys[] = {"median_s", "least_s", "most_s", "count", NULL};
    place in;
    ousac_status status = enter(&in, p, key, member(p, key), keys, error);
    if (status || (status = read_number(&in, "median_s", above, &spread->median, error)) ||
        (status = read_number(&in, "least_s", above, &spread->least, error)) ||
        (status = read_number(&in, "most_s", above, &spread->most, error)) ||
        (status = read_count(&in, "count", 1, &spread->count, error)))
        return status;
    return spread->least <= spread->median && spread->median <= spread->most
               ? OUSAC_STATUS_OK
               : refuse(&in, "median_s", "a number between \"least_s\" and \"most_s\"", error);
}

static ousac_status read_machine(const place *p, ousac_timing *timing, ousac_error *error) {
    static const char *const keys[] = {"processor", "processors", "device",      "backend",
                                       "compute",   "threads",    "micro_batch", NULL};
    place in;
    ousac_status status = enter(&in, p, "machine", member(p, "machine"), keys, error);
    if (status ||
        (status = read_text(&in, "processor", timing->processor, sizeof timing->processor, error)) ||
        (status = read_count(&in, "processors", 1, &timing->processors, error)) ||
        (status = read_text(&in, "device", timing->device, sizeof timing->device, error)) ||
        (status = read_text(&in, "backend", timing->backend, sizeof timing->backend, error)) ||
        (status = read_text(&in, "compute", timing->compute, sizeof timing->compute, error)) ||
        (status = read_count(&in, "threads", 1, &timing->threads, error)))
        return status;
    return read_count(&in, "micro_batch", 1, &timing->micro_batch, error);
}

static ousac_status read_points(const place *p, ousac_timing *timing, ousac_error *error) {
    static const char *const keys[] = {"rank", "plain", "forecast", NULL};
    const cJSON *list = member(p, "cached"), *item;
    const int count = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (count < 2 || count > OUSAC_TIMING_RANKS_MAX)
        return refuse(p, "cached", "an array of 2 to 16 ranks", error);
    cJSON_ArrayForEach(item, list) {
        ousac_timing_point *point = &timing->point[timing->point_count];
        char key[WHERE_BYTES];
        place in;
        (void)snprintf(key, sizeof key, "cached[%zu]", timing->point_count);
        ousac_status status = enter(&in, p, key, item, keys, error);
        if (!status)
            status = read_count(&in, "rank", 1, &point->rank, error);
        if (!status && timing->point_count > 0 && point->rank <= point[-1].rank)
            status = refuse(&in, "rank", "ranks that rise", error);
        for (int f = 0; f < 2 && !status; f++)
            status = read_spread(&in, forecast_names[f], 1, &point->cached[f], error);
        if (status)
            return status;
        timing->point_count++;
    }
    return OUSAC_STATUS_OK;
}

/* The line that is stated is the one that counts, once its points lie as near to it as it says. */
static ousac_status read_lines(const place *p, ousac_timing *timing, ousac_error *error) {
    static const char *const names[] = {"plain", "forecast", NULL};
    static const char *const keys[] = {"fixed_s", "per_rank_s", "residual", NULL};
    place lines, in;
    ousac_status status = enter(&lines, p, "line", member(p, "line"), names, error);
    for (int f = 0; f < 2 && !status; f++) {
        ousac_timing_line *line = &timing->line[f];
        if ((status = enter(&in, &lines, names[f], member(&lines, names[f]), keys, error)) ||
            (status = read_number(&in, "fixed_s", 0, &line->fixed, error)) ||
            (status = read_number(&in, "per_rank_s", 0, &line->per_rank, error)) ||
            (status = read_number(&in, "residual", 0, &line->residual, error)))
            return status;
        for (size_t i = 0; i < timing->point_count; i++) {
            const double at = line->fixed + line->per_rank * (double)timing->point[i].rank;
            if (!(fabs(timing->point[i].cached[f].median - at) <= (line->residual + RESIDUAL_SLACK) * at))
                return OUSAC_FAIL(
                    error, OUSAC_STATUS_FORMAT,
                    "%s: \"%sresidual\": %.3g, but the median at rank %zu is further from the line", p->name,
                    in.where, line->residual, timing->point[i].rank);
        }
    }
    return status;
}

static ousac_status read_root(const place *file, const cJSON *root, ousac_timing *timing,
                              ousac_error *error) {
    static const char *const keys[] = {"kind",    "version", "machine", "model", "mode",        "clock",
                                       "repeats", "full",    "refresh", "reuse", "extrapolate", "alone",
                                       "step",    "cached",  "line",    NULL};
    static const char *const kinds[] = {KIND, NULL};
    static const char *const modes[] = {"cfg", "cond", "uncond", NULL};
    static const char *const clocks[] = {"wall", "processor", NULL};
    char digest[2 * OUSAC_DIGEST_CHARS];
    size_t version = 0;
    int word = 0;
    place p;
    ousac_status status = enter(&p, file, "", root, keys, error);
    if (status || (status = read_word(&p, "kind", kinds, "\"" KIND "\"", &word, error)) ||
        (status = read_count(&p, "version", 1, &version, error)))
        return status;
    if (version != VERSION)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "%s: \"version\": %zu; expected %d", p.name,
                          version, VERSION);
    if ((status = read_machine(&p, timing, error)) ||
        (status = read_text(&p, "model", digest, sizeof digest, error)))
        return status;
    if (strlen(digest) != OUSAC_DIGEST_CHARS - 1 || strspn(digest, "0123456789abcdef") != strlen(digest))
        return refuse(&p, "model", "the 64 hexadecimal digits of a model's digest", error);
    memcpy(timing->model_digest, digest, sizeof timing->model_digest);
    if ((status = read_word(&p, "mode", modes, "cfg, cond or uncond", &word, error)))
        return status;
    timing->mode = (ousac_mode)word;
    if ((status = read_word(&p, "clock", clocks, "processor or wall", &timing->processor_clock, error)) ||
        (status = read_count(&p, "repeats", 1, &timing->repeats, error)))
        return status;
    for (int part = 0; part < OUSAC_TIMING_PARTS; part++)
        if ((status = read_spread(&p, ousac_timing_part_name((ousac_timing_part)part),
                                  part != OUSAC_TIMING_STEP, &timing->part[part], error)))
            return status;
    if ((status = read_points(&p, timing, error)))
        return status;
    return read_lines(&p, timing, error);
}

ousac_status ousac_timing_parse(ousac_timing *timing, const char *text, size_t size, const char *name,
                                ousac_error *error) {
    const place file = {.name = name};
    cJSON *root = NULL;
    memset(timing, 0, sizeof *timing);
    ousac_status status =
        ousac_json_parse(&root, text, size, VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, name, error);
    if (!status)
        status = ousac_json_check_unique(root, name, error);
    if (!status)
        status = read_root(&file, root, timing, error);
    cJSON_Delete(root);
    return status;
}

ousac_status ousac_timing_load(ousac_timing *timing, const char *path, ousac_error *error) {
    char *text = NULL;
    size_t size = 0;
    ousac_status status = ousac_file_read_text(&text, &size, path, TEXT_BYTES_MAX, error);
    if (!status)
        status = ousac_timing_parse(timing, text, size, path, error);
    ousac_free(text);
    return status;
}
