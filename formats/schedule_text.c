/* The schedule's file: JSON text to struct and back (formats/SCHEDULE.md). */
#include "formats/file.h"
#include "formats/foreign.h"
#include "formats/json.h"
#include "formats/memory.h"
#include "formats/schedule.h"
#include "formats/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TEXTBOOK = 1, /* versions */
    FITTED = 2,
    TELLING = 3,
    EXTRAPOLATING = 4,
    VALUES_MAX = 16 + 13 * OUSAC_SCHEDULE_STEPS_MAX, /* a step is at most 12 JSON values */
    WHERE_BYTES = 320,
    QUOTED_BYTES = 60, /* of a hostile text in a message */
    NUMBER_BYTES = 32,
    STEP_BYTES = 512
};

/* ---- parsing ---- */

/* The members of an object, each allowed once: values[i] is the one called keys[i], or NULL. Any other is an
 * error. */
static ousac_status collect(const cJSON *object, const char *const *keys, size_t count, const cJSON **values,
                            const char *where, ousac_error *error) {
    const cJSON *item;
    if (!cJSON_IsObject(object))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: expected an object", where);
    for (size_t i = 0; i < count; i++)
        values[i] = NULL;
    for (item = object->child; item; item = item->next) {
        size_t i = 0;
        while (i < count && strcmp(item->string, keys[i]) != 0)
            i++;
        if (i == count)
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: unknown key \"%.*s\"", where, QUOTED_BYTES,
                              item->string);
        if (values[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: key \"%s\" occurs twice", where, keys[i]);
        values[i] = item;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status need_text(const cJSON *item, const char *key, const char **text, const char *where,
                              ousac_error *error) {
    if (!item)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: missing key \"%s\"", where, key);
    if (!cJSON_IsString(item))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"%s\" must be a string", where, key);
    *text = item->valuestring;
    return OUSAC_STATUS_OK;
}

static ousac_status need_number(const cJSON *item, const char *key, double *number, const char *where,
                                ousac_error *error) {
    if (!item)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: missing key \"%s\"", where, key);
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"%s\" must be a finite number", where, key);
    *number = item->valuedouble + 0.0; /* -0 becomes 0 */
    return OUSAC_STATUS_OK;
}

static ousac_status need_gate(const cJSON *item, const char *key, ousac_gate *gate, const char *where,
                              ousac_error *error) {
    const char *text = NULL;
    ousac_status status = need_text(item, key, &text, where, error);
    if (!status && ousac_gate_parse(gate, text) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: \"%s\" is \"%.*s\", expected full, cached, reuse, extrapolate or auto",
                            where, key, QUOTED_BYTES, text);
    return status;
}

static ousac_status parse_gates(const cJSON *item, ousac_step *step, const char *where, ousac_error *error) {
    static const char *const keys[OUSAC_BRANCHES] = {"cond", "uncond"};
    const cJSON *values[OUSAC_BRANCHES];
    char inner[WHERE_BYTES + 8];
    ousac_status status;

    if (!item || cJSON_IsString(item)) {
        status = need_gate(item, "gate", &step->gate[0], where, error);
        step->gate[1] = step->gate[0];
        return status;
    }
    if (!cJSON_IsObject(item))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"gate\" must be a string or an object", where);
    (void)snprintf(inner, sizeof inner, "%s: gate", where);
    status = collect(item, keys, OUSAC_BRANCHES, values, inner, error);
    for (int b = 0; !status && b < OUSAC_BRANCHES; b++)
        status = need_gate(values[b], keys[b], &step->gate[b], inner, error);
    if (!status && step->mode != OUSAC_MODE_CFG && step->gate[0] != step->gate[1])
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: the gates differ, but mode \"%s\" evaluates one branch only", where,
                            ousac_mode_name(step->mode));
    return status;
}

/* `fitted`: NULL for version 1. */
static ousac_status parse_step(const cJSON *item, int version, ousac_step *step, ousac_fitted *fitted,
                               const char *where, ousac_error *error) {
    enum {
        TIMESTEP,
        MODE,
        SCALE,
        GATE,
        TEXTBOOK_KEYS,
        FITTED_KEYS = TEXTBOOK_KEYS + OUSAC_COEFFICIENTS,
        GUIDANCE = FITTED_KEYS,
        KEYS
    };
    static const char *const keys[KEYS] = {"timestep", "mode", "scale", "gate", "hold",
                                           "k",        "m",    "c",     "d",    "guidance"};
    const cJSON *values[KEYS];
    const char *text = NULL;
    ousac_status status;

    status = collect(item, keys,
                     version >= TELLING ? KEYS
                     : fitted           ? FITTED_KEYS
                                        : TEXTBOOK_KEYS,
                     values, where, error);
    if (status)
        return status;
    status = need_number(values[TIMESTEP], keys[TIMESTEP], &step->timestep, where, error);
    if (status)
        return status;
    status = need_text(values[MODE], keys[MODE], &text, where, error);
    if (status)
        return status;
    if (ousac_mode_parse(&step->mode, text) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: \"mode\" is \"%.*s\", expected cfg, cond or uncond", where, QUOTED_BYTES,
                          text);
    const int guided = step->mode == OUSAC_MODE_CFG;
    step->scale = 1;
    if (guided)
        status = need_number(values[SCALE], keys[SCALE], &step->scale, where, error);
    else if (values[SCALE])
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: mode \"%s\" has no \"scale\"", where, text);
    for (int k = 0; fitted && !status && k < OUSAC_COEFFICIENTS; k++) {
        const cJSON *value = values[TEXTBOOK_KEYS + k];
        if (version >= TELLING && !value)
            fitted->value[k] = 0;
        else if (k != OUSAC_COEFFICIENT_HOLD || !guided)
            status = need_number(value, keys[TEXTBOOK_KEYS + k], &fitted->value[k], where, error);
        else if (value)
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: mode \"cfg\" has no \"hold\"", where);
    }
    step->tells = version >= TELLING && values[GUIDANCE];
    if (!status && step->tells)
        status = need_number(values[GUIDANCE], keys[GUIDANCE], &step->guidance, where, error);
    if (status)
        return status;
    status = parse_gates(values[GATE], step, where, error);
    for (int b = 0; b < OUSAC_BRANCHES && !status && version < EXTRAPOLATING; b++)
        if (step->gate[b] == OUSAC_GATE_EXTRAPOLATE)
            status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: a gate \"extrapolate\" needs version %d",
                                where, EXTRAPOLATING);
    return status;
}

static ousac_status parse_steps(const cJSON *array, unsigned long long count, int version,
                                ousac_schedule *schedule, const char *name, ousac_error *error) {
    const cJSON *item;
    unsigned long long found = 0;

    if (!cJSON_IsArray(array))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"steps\" must be present and an array", name);
    for (item = array->child; item; item = item->next)
        found++;
    if (found != count)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %llu steps, but \"step_count\" says %llu", name,
                          found, count);
    if (count < 1 || count > OUSAC_SCHEDULE_STEPS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %llu steps, expected 1 to %d", name, count,
                          OUSAC_SCHEDULE_STEPS_MAX);
    schedule->steps = ousac_calloc((size_t)count, sizeof *schedule->steps);
    if (version != TEXTBOOK)
        schedule->fitted = ousac_calloc((size_t)count, sizeof *schedule->fitted);
    if (!schedule->steps || (version != TEXTBOOK && !schedule->fitted))
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory for %llu steps", name, count);
    for (item = array->child; item; item = item->next) {
        char where[WHERE_BYTES];
        ousac_status status;
        (void)snprintf(where, sizeof where, "%.*s: step %zu", WHERE_BYTES - 32, name, schedule->step_count);
        status = parse_step(item, version, &schedule->steps[schedule->step_count],
                            schedule->fitted ? &schedule->fitted[schedule->step_count] : NULL, where, error);
        if (status)
            return status;
        schedule->step_count++;
    }
    return OUSAC_STATUS_OK;
}

/* Format and version come first: the keys of another version are not this reader's to judge. */
static ousac_status parse_header(const cJSON *root, int *found, const char *name, ousac_error *error) {
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(root, "format");
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(root, "version");
    unsigned long long number;
    if (!cJSON_IsString(format) || strcmp(format->valuestring, "ousac-schedule") != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: not a schedule: \"format\" must be \"ousac-schedule\"", name);
    if (!ousac_json_whole(version, &number))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"version\" must be present and a whole number",
                          name);
    if (number < TEXTBOOK || number > EXTRAPOLATING)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: schedule version %llu; this build reads versions %d to %d", name, number,
                          TEXTBOOK, EXTRAPOLATING);
    *found = (int)number;
    return OUSAC_STATUS_OK;
}

static ousac_status parse_root(const cJSON *root, ousac_schedule *schedule, const char *name,
                               ousac_error *error) {
    enum { FORMAT, NUMBER, NAME, SOLVER, STEP_COUNT, STEPS, KEYS };
    static const char *const keys[KEYS] = {"format", "version", "name", "solver", "step_count", "steps"};
    const cJSON *values[KEYS];
    const char *text = NULL;
    unsigned long long count;
    int version = TEXTBOOK;
    ousac_status status;

    if (!cJSON_IsObject(root))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: expected a JSON object", name);
    status = parse_header(root, &version, name, error);
    if (status)
        return status;
    status = collect(root, keys, KEYS, values, name, error);
    if (status)
        return status;
    status = need_text(values[NAME], keys[NAME], &text, name, error);
    if (status)
        return status;
    if (strlen(text) >= sizeof schedule->name)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"name\" is longer than %d bytes", name,
                          OUSAC_SCHEDULE_NAME_BYTES - 1);
    memcpy(schedule->name, text, strlen(text) + 1);
    status = need_text(values[SOLVER], keys[SOLVER], &text, name, error);
    if (status)
        return status;
    if (ousac_solver_parse(&schedule->solver, text) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: \"solver\" is \"%.*s\", expected ddim, dpmpp-2m or flow-euler", name,
                          QUOTED_BYTES, text);
    if (!ousac_json_whole(values[STEP_COUNT], &count))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: \"step_count\" must be present and a whole number",
                          name);
    status = parse_steps(values[STEPS], count, version, schedule, name, error);
    if (status)
        return status;
    return ousac_schedule_validate(schedule, name, error);
}

ousac_status ousac_schedule_parse(ousac_schedule *schedule, const char *text, size_t size, const char *name,
                                  ousac_error *error) {
    ousac_status status;
    cJSON *root = NULL;

    memset(schedule, 0, sizeof *schedule);
    if (size > OUSAC_SCHEDULE_TEXT_BYTES_MAX) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: longer than %d bytes", name,
                            OUSAC_SCHEDULE_TEXT_BYTES_MAX);
        goto done;
    }
    status = ousac_json_parse(&root, text, size, VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, name, error);
    if (status)
        goto done;
    status = parse_root(root, schedule, name, error);

done:
    cJSON_Delete(root);
    if (status)
        ousac_schedule_free(schedule);
    return status;
}

void ousac_schedule_set_file(ousac_schedule *schedule, const char *path) {
    const size_t length = strlen(path), room = sizeof schedule->file;
    (void)ousac_utf8_show(path + (length < room ? 0 : length - room + 1), length < room ? length : room - 1,
                          schedule->file, room);
}

ousac_status ousac_schedule_load(ousac_schedule *schedule, const char *path, ousac_error *error) {
    char *text = NULL;
    size_t size;
    ousac_status status;

    memset(schedule, 0, sizeof *schedule);
    status = ousac_file_read_text(&text, &size, path, OUSAC_SCHEDULE_TEXT_BYTES_MAX, error);
    if (!status)
        status = ousac_schedule_parse(schedule, text, size, path, error);
    ousac_free(text);
    if (!status)
        ousac_schedule_set_file(schedule, path);
    return ousac_known_explain_file(status, path, OUSAC_KNOWN_JSON, "a schedule", error);
}

/* ---- printing ---- */

/* Whole numbers below 2^53 as such, others as the shortest decimal that reads back as the same double. */
static void print_number(char text[NUMBER_BYTES], double value) {
    value += 0.0;
    if (value == floor(value) && fabs(value) < 0x1p53) {
        (void)snprintf(text, NUMBER_BYTES, "%.0f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        double back;
        (void)snprintf(text, NUMBER_BYTES, "%.*g", digits, value);
        back = strtod(text, NULL);
        if (memcmp(&back, &value, sizeof back) == 0)
            break;
    }
    /* JSON's decimal point, whatever the locale's was */
    char *point = text + strspn(text, "-0123456789");
    size_t bytes = strcspn(point, "0123456789e");
    if (bytes) {
        *point = '.';
        memmove(point + 1, point + bytes, strlen(point + bytes) + 1);
    }
}

/* Appends one step's line, without its end; returns the length. `text` has STEP_BYTES of room. */
static size_t print_step(char *text, const ousac_step *step, const ousac_fitted *fitted) {
    char timestep[NUMBER_BYTES], number[NUMBER_BYTES], scale[NUMBER_BYTES + 16] = "", gate[64];
    char guidance[NUMBER_BYTES + 16] = "";
    char numbers[OUSAC_COEFFICIENTS * (NUMBER_BYTES + 16)] = "";
    size_t used = 0;
    int branch = step->mode == OUSAC_MODE_UNCOND ? OUSAC_BRANCH_UNCOND : OUSAC_BRANCH_COND;
    int length;

    print_number(timestep, step->timestep);
    if (step->mode == OUSAC_MODE_CFG) {
        print_number(number, step->scale);
        (void)snprintf(scale, sizeof scale, "\"scale\": %s, ", number);
    }
    if (step->tells) {
        print_number(number, step->guidance);
        (void)snprintf(guidance, sizeof guidance, "\"guidance\": %s, ", number);
    }
    for (int k = 0; fitted && k < OUSAC_COEFFICIENTS; k++)
        if (k != OUSAC_COEFFICIENT_HOLD || step->mode != OUSAC_MODE_CFG) {
            print_number(number, fitted->value[k]);
            used += (size_t)snprintf(numbers + used, sizeof numbers - used, "\"%s\": %s, ",
                                     ousac_coefficient_name((ousac_coefficient)k), number);
        }
    if (step->mode == OUSAC_MODE_CFG && step->gate[0] != step->gate[1])
        (void)snprintf(gate, sizeof gate, "{\"cond\": \"%s\", \"uncond\": \"%s\"}",
                       ousac_gate_name(step->gate[OUSAC_BRANCH_COND]),
                       ousac_gate_name(step->gate[OUSAC_BRANCH_UNCOND]));
    else
        (void)snprintf(gate, sizeof gate, "\"%s\"", ousac_gate_name(step->gate[branch]));
    length = snprintf(text, STEP_BYTES, "    {\"timestep\": %s, \"mode\": \"%s\", %s%s%s\"gate\": %s}",
                      timestep, ousac_mode_name(step->mode), scale, guidance, numbers, gate);
    return (size_t)length;
}

/* The least that can say it. */
static int version_of(const ousac_schedule *schedule) {
    return ousac_schedule_has_gate(schedule, OUSAC_GATE_EXTRAPOLATE) ? EXTRAPOLATING
           : ousac_schedule_tells(schedule)                          ? TELLING
           : ousac_schedule_is_fitted(schedule)                      ? FITTED
                                                                     : TEXTBOOK;
}

ousac_status ousac_schedule_print(const ousac_schedule *schedule, char **text, ousac_error *error) {
    char quoted[2 * OUSAC_SCHEDULE_NAME_BYTES], *out;
    size_t room, used = 0, kept = 0;
    ousac_status status;

    *text = NULL;
    status = ousac_schedule_validate(schedule, "schedule", error);
    if (status)
        return status;
    const int fitted = ousac_schedule_is_fitted(schedule);
    for (const char *c = schedule->name; *c; c++) { /* valid names hold nothing else to escape */
        if (*c == '"' || *c == '\\')
            quoted[kept++] = '\\';
        quoted[kept++] = *c;
    }
    quoted[kept] = '\0';

    room = (schedule->step_count + 4) * STEP_BYTES;
    out = ousac_malloc(room, 1);
    if (!out)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the text of %zu steps",
                          schedule->step_count);
    used += (size_t)snprintf(out, room,
                             "{\n  \"format\": \"ousac-schedule\",\n  \"version\": %d,\n  \"name\": \"%s\",\n"
                             "  \"solver\": \"%s\",\n  \"step_count\": %zu,\n  \"steps\": [\n",
                             version_of(schedule), quoted, ousac_solver_name(schedule->solver),
                             schedule->step_count);
    for (size_t i = 0; i < schedule->step_count; i++) {
        const char *end = i + 1 < schedule->step_count ? ",\n" : "\n";
        used += print_step(out + used, &schedule->steps[i], fitted ? &schedule->fitted[i] : NULL);
        used += (size_t)snprintf(out + used, room - used, "%s", end);
    }
    (void)snprintf(out + used, room - used, "  ]\n}\n");
    *text = out;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_schedule_save(const ousac_schedule *schedule, const char *path, ousac_error *error) {
    char *text = NULL;
    ousac_status status = ousac_schedule_print(schedule, &text, error);
    if (status)
        (void)ousac_error_prefix(error, "%s", path);
    else
        status = ousac_file_replace(path, text, strlen(text), error);
    ousac_free(text);
    return status;
}
