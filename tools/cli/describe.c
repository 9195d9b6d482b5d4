#include "tools/cli/describe.h"

#include "formats/file.h"
#include "formats/foreign.h"
#include "formats/json.h"
#include "formats/memory.h"
#include "profile/files/archive.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void describe_bytes(char text[DESCRIBE_BYTES], uint64_t bytes) {
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes / 1000;
    size_t unit = 0;

    if (bytes < 1000) {
        snprintf(text, DESCRIBE_BYTES, "%" PRIu64 " B", bytes);
        return;
    }
    while (value >= 999.95) {
        value /= 1000;
        unit++;
    }
    snprintf(text, DESCRIBE_BYTES, "%.1f %s", value, units[unit]);
}

void describe_macs(char text[DESCRIBE_BYTES], double macs) {
    static const char *const units[] = {"MAC", "kMAC", "MMAC", "GMAC", "TMAC", "PMAC"};
    size_t unit = 0;

    while (macs >= 999.95 && unit + 1 < sizeof units / sizeof *units) {
        macs /= 1000;
        unit++;
    }
    snprintf(text, DESCRIBE_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", macs, units[unit]);
}

void describe_ranges(char text[DESCRIBE_LINE_BYTES], const ousac_sample_range *ranges, size_t count) {
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (used + 48 > DESCRIBE_LINE_BYTES) { /* two 20-digit numbers, their marks, and "..." */
            memcpy(text + used, ",...", 5);
            return;
        }
        int length = snprintf(text + used, DESCRIBE_LINE_BYTES - used, "%s%" PRIu64 ":%" PRIu64,
                              i > 0 ? "," : "", ranges[i].first, ranges[i].first + ranges[i].count);
        used += length > 0 ? (size_t)length : 0;
    }
}

void describe_shape(char text[DESCRIBE_LINE_BYTES], const uint64_t *shape, size_t dims) {
    size_t used = (size_t)snprintf(text, DESCRIBE_LINE_BYTES, "(");

    for (size_t i = 0; i < dims && used + 24 < DESCRIBE_LINE_BYTES; i++) {
        int length =
            snprintf(text + used, DESCRIBE_LINE_BYTES - used, "%s%" PRIu64, i > 0 ? ", " : "", shape[i]);
        used += length > 0 ? (size_t)length : 0;
    }
    snprintf(text + used, DESCRIBE_LINE_BYTES - used, ")");
}

/* ---- schedules ---- */

ousac_status describe_schedule(const ousac_schedule *schedule, schedule_counts *counts, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int *effective = NULL;
    size_t entries = schedule->step_count * OUSAC_BRANCHES;

    memset(counts, 0, sizeof *counts);
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *step = &schedule->steps[i];
        int refresh = 0;
        if (step->mode == OUSAC_MODE_CFG) {
            counts->scale_low = counts->guided == 0 ? step->scale : fmin(counts->scale_low, step->scale);
            counts->scale_high = counts->guided == 0 ? step->scale : fmax(counts->scale_high, step->scale);
            counts->guided++;
        }
        if (step->tells) {
            counts->told_low = counts->told == 0 ? step->guidance : fmin(counts->told_low, step->guidance);
            counts->told_high = counts->told == 0 ? step->guidance : fmax(counts->told_high, step->guidance);
            counts->told++;
        }
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++) {
            if (ousac_mode_evaluates(step->mode, branch)) {
                counts->undecided |= step->gate[branch] == OUSAC_GATE_AUTO;
                refresh |= step->gate[branch] == OUSAC_GATE_FULL;
            }
        }
        counts->refreshes += (size_t)refresh;
    }
    ousac_schedule_digest(schedule, counts->digest);
    if (counts->undecided)
        goto done;
    effective = ousac_calloc(entries, sizeof *effective);
    if (effective == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the gates of %zu steps",
                            schedule->step_count);
        goto done;
    }
    status = ousac_schedule_effective_gates(schedule, effective, error);
    if (status)
        goto done;
    for (size_t i = 0; i < entries; i++) {
        counts->forwards_full += effective[i] == (int)OUSAC_GATE_FULL;
        counts->forwards_cached += effective[i] == (int)OUSAC_GATE_CACHED;
        counts->forwards_reuse += effective[i] == (int)OUSAC_GATE_REUSE;
        counts->forwards_extrapolate += effective[i] == (int)OUSAC_GATE_EXTRAPOLATE;
    }
done:
    ousac_free(effective);
    return status;
}

void describe_schedule_line(char text[DESCRIBE_LINE_BYTES], const ousac_schedule *schedule,
                            const schedule_counts *counts) {
    char guided[96] = "none guided", work[144] = "gates left to the plan", told[96] = "";

    if (counts->guided > 0 && counts->scale_low == counts->scale_high) {
        snprintf(guided, sizeof guided, "%zu guided (scale %.6g)", counts->guided, counts->scale_low);
    } else if (counts->guided > 0) {
        snprintf(guided, sizeof guided, "%zu guided (scale %.6g to %.6g)", counts->guided, counts->scale_low,
                 counts->scale_high);
    }
    if (counts->told > 0 && counts->told_low == counts->told_high) {
        snprintf(told, sizeof told, ", %zu told (guidance %.6g)", counts->told, counts->told_low);
    } else if (counts->told > 0) {
        snprintf(told, sizeof told, ", %zu told (guidance %.6g to %.6g)", counts->told, counts->told_low,
                 counts->told_high);
    }
    if (!counts->undecided) {
        int used =
            snprintf(work, sizeof work, "%zu refreshes: %zu full", counts->refreshes, counts->forwards_full);
        if (counts->forwards_cached > 0 && used > 0) {
            used +=
                snprintf(work + used, sizeof work - (size_t)used, ", %zu cached", counts->forwards_cached);
        }
        if (counts->forwards_reuse > 0 && used > 0)
            used += snprintf(work + used, sizeof work - (size_t)used, ", %zu reused", counts->forwards_reuse);
        if (counts->forwards_extrapolate > 0 && used > 0)
            used += snprintf(work + used, sizeof work - (size_t)used, ", %zu extrapolated",
                             counts->forwards_extrapolate);
        if (used > 0)
            snprintf(work + used, sizeof work - (size_t)used, " forwards a sample");
    }
    snprintf(text, DESCRIBE_LINE_BYTES, "%zu steps, %s, %s%s, %s", schedule->step_count,
             ousac_solver_name(schedule->solver), guided, told, work);
}

void describe_schedule_json(ousac_json_doc *doc, cJSON *object, const ousac_schedule *schedule,
                            const schedule_counts *counts) {
    ousac_json_put_text(doc, object, "name", schedule->name);
    ousac_json_put_text(doc, object, "digest", counts->digest);
    ousac_json_put_text(doc, object, "solver", ousac_solver_name(schedule->solver));
    ousac_json_put_u64(doc, object, "steps", schedule->step_count);
    ousac_json_put_u64(doc, object, "guided_steps", counts->guided);
    ousac_json_put_u64(doc, object, "told_steps", counts->told);
    ousac_json_put_u64(doc, object, "refreshes", counts->refreshes);
    ousac_json_put_bool(doc, object, "gates_left_to_plan", counts->undecided);
    if (counts->undecided) {
        ousac_json_put_null(doc, object, "forwards");
        return;
    }
    cJSON *forwards = ousac_json_put_object(doc, object, "forwards");
    ousac_json_put_u64(doc, forwards, "full", counts->forwards_full);
    ousac_json_put_u64(doc, forwards, "cached", counts->forwards_cached);
    ousac_json_put_u64(doc, forwards, "reuse", counts->forwards_reuse);
    ousac_json_put_u64(doc, forwards, "extrapolate", counts->forwards_extrapolate);
}

/* ---- files ---- */

const char *file_kind_name(file_kind kind) {
    switch (kind) {
    case FILE_KIND_PROFILE:
        return "profile";
    case FILE_KIND_PLAN:
        return "plan";
    case FILE_KIND_BUNDLE:
        return "bundle";
    case FILE_KIND_ARCHIVE:
        return "archive";
    case FILE_KIND_SAFETENSORS:
        return "safetensors";
    case FILE_KIND_SCHEDULE:
        return "schedule";
    case FILE_KIND_EVALUATION:
        return "evaluation";
    case FILE_KIND_COST:
        return "calibration cost";
    case FILE_KIND_SEARCH:
        return "search";
    case FILE_KIND_REFIT:
        return "fits under other settings";
    case FILE_KIND_TIME:
        return "time of evaluations";
    case FILE_KIND_COMPARISON:
        return "comparison";
    case FILE_KIND_CONFIG:
        return "model config";
    case FILE_KIND_UNKNOWN:
        break;
    }
    return "unknown";
}

static file_kind archive_kind(const oca_file *file) {
    const char *format = oca_metadata(file, "format");

    if (format != NULL && strcmp(format, OUSAC_FORMAT_PROFILE) == 0)
        return FILE_KIND_PROFILE;
    if (format != NULL && strcmp(format, OUSAC_FORMAT_PLAN) == 0)
        return FILE_KIND_PLAN;
    if (format != NULL && strcmp(format, OUSAC_FORMAT_BUNDLE) == 0)
        return FILE_KIND_BUNDLE;
    return FILE_KIND_ARCHIVE;
}

static int has_member(const cJSON *root, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(root, name) != NULL;
}

/* A text that is no JSON, or of no kind, counts as a schedule, whose reader says what is wrong with it. */
static file_kind json_kind(const char *text, size_t size) {
    cJSON *root = NULL;
    file_kind found = FILE_KIND_SCHEDULE;
    if (size > FILE_JSON_BYTES_MAX ||
        ousac_json_parse(&root, text, size, FILE_JSON_VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, "", NULL))
        return FILE_KIND_SCHEDULE;
    const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "kind"));
    if (kind && strcmp(kind, "ousac evaluation") == 0)
        found = FILE_KIND_EVALUATION;
    else if (kind && strcmp(kind, "ousac calibration cost") == 0)
        found = FILE_KIND_COST;
    else if (kind && strcmp(kind, "ousac search") == 0)
        found = FILE_KIND_SEARCH;
    else if (kind && strcmp(kind, "ousac refit") == 0)
        found = FILE_KIND_REFIT;
    else if (kind && strcmp(kind, "ousac time") == 0)
        found = FILE_KIND_TIME;
    else if (cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(root, "cells")))
        found = FILE_KIND_COMPARISON;
    else if (!has_member(root, "steps") &&
             (has_member(root, "num_heads") || has_member(root, "num_attention_heads") ||
              has_member(root, "_class_name")))
        found = FILE_KIND_CONFIG;
    cJSON_Delete(root);
    return found;
}

ousac_status file_kind_refuse(const char *path, ousac_error *error) {
    const ousac_status status =
        OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                   "%s: neither an .oca archive, nor a safetensors file, nor a schedule", path);
    return ousac_known_explain_file(status, path, OUSAC_KNOWN_NONE,
                                    "an .oca archive, a safetensors file or a schedule", error);
}

ousac_status file_kind_detect(file_kind *kind, uint64_t *size, const char *path, ousac_error *error) {
    static const unsigned char magic[8] = {0x89, 'O', 'C', 'A', '\r', '\n', 0x1a, '\n'};
    static const unsigned char zeros[4] = {0};
    ousac_file_view view = {NULL, 0};
    oca_file *file = NULL;

    *kind = FILE_KIND_UNKNOWN;
    ousac_status status = ousac_file_map(&view, path, error);
    if (status)
        return status;
    if (size != NULL)
        *size = view.size;
    size_t blanks = 0;
    while (blanks < view.size && strchr(" \t\r\n", view.data[blanks]) != NULL && view.data[blanks] != '\0')
        blanks++;
    if (view.size >= sizeof magic && memcmp(view.data, magic, sizeof magic) == 0) {
        status = ousac_archive_open_any(&file, path, error);
        *kind = status == OUSAC_STATUS_OK ? archive_kind(file) : FILE_KIND_UNKNOWN;
        oca_close(file);
    } else if (view.size >= 9 && view.data[8] == '{' && memcmp(view.data + 4, zeros, sizeof zeros) == 0) {
        /* A 64-bit header length below 2^32, then JSON. No JSON text has zero bytes, so the order of tests is
         * safe. */
        *kind = FILE_KIND_SAFETENSORS;
    } else if (blanks < view.size && view.data[blanks] == '{') {
        *kind = json_kind((const char *)view.data, view.size);
    }
    ousac_file_unmap(&view);
    return status;
}
