#include "profile/files/arch_text.h"

#include "formats/json.h"
#include "formats/memory.h"
#include "profile/files/text.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUES_MAX = 1 << 22, SIZE_LARGEST = INT32_MAX, MACS_TEXT_BYTES = 24, FIELDS_MAX = 12 };

/* ---- names ---- */

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names become parts of tensor names, so: no blanks, no control bytes, no slash, none twice. `stride` bytes
 * apart. */
static ousac_status check_names(const char *what, const char *first, size_t stride, size_t count,
                                ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const char **sorted = ousac_calloc(count, sizeof *sorted);
    if (!sorted)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the names of %zu %ss", count, what);
    for (size_t i = 0; i < count; i++) {
        sorted[i] = first + i * stride;
        for (const char *c = sorted[i]; *c; c++)
            if ((unsigned char)*c <= 0x20 || *c == 0x7f || *c == '/') {
                status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                    "the name of %s \"%s\" holds a blank, a control byte or a slash", what,
                                    sorted[i]);
                goto done;
            }
    }
    qsort(sorted, count, sizeof *sorted, compare_texts);
    for (size_t i = 1; i < count; i++)
        if (strcmp(sorted[i - 1], sorted[i]) == 0) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "two %ss are named \"%s\"", what, sorted[i]);
            goto done;
        }
done:
    ousac_free(sorted);
    return status;
}

static ousac_status check_all_names(const ousac_arch *arch, ousac_error *error) {
    ousac_status status =
        check_names("site", arch->sites->name, sizeof *arch->sites, arch->site_count, error);
    if (!status)
        status = check_names("group", arch->groups->name, sizeof *arch->groups, arch->group_count, error);
    if (!status)
        status = check_names("module", arch->modules->name, sizeof *arch->modules, arch->module_count, error);
    if (!status)
        status = check_names("stream", arch->stream->name, sizeof *arch->stream, arch->stream_count, error);
    if (!status)
        status = check_names("constant group", arch->constants->name, sizeof *arch->constants,
                             arch->constant_count, error);
    return status;
}

/* Sizes are kept to 31 bits: squares then fit 64, and BLAS takes them. */
static ousac_status check_sizes(const ousac_arch *arch, ousac_error *error) {
    const size_t tokens = ousac_arch_most_tokens(arch);
    size_t largest = tokens > arch->width ? tokens : arch->width;
    for (size_t i = 0; i < arch->site_count; i++) {
        const ousac_site *site = &arch->sites[i];
        largest = site->m > largest ? site->m : largest;
        largest = site->n > largest ? site->n : largest;
    }
    for (size_t i = 0; i < arch->module_count; i++)
        for (size_t o = 0; o < arch->modules[i].output_count; o++) {
            const size_t width = arch->modules[i].output[o].width;
            largest = width > largest ? width : largest;
        }
    for (size_t i = 0; i < arch->constant_count; i++) {
        const ousac_constant *constant = &arch->constants[i];
        largest = constant->m > largest ? constant->m : largest;
        largest = constant->n > largest ? constant->n : largest;
    }
    if (largest > SIZE_LARGEST)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "an architecture with a size of %zu; at most %ld expected", largest,
                          (long)SIZE_LARGEST);
    return OUSAC_STATUS_OK;
}

/* ---- printing ---- */

ousac_status ousac_arch_print(const ousac_arch *arch, char **text, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_text out = {0};
    *text = NULL;
    status = ousac_arch_check(arch, error);
    if (!status)
        status = check_sizes(arch, error);
    if (!status)
        status = check_all_names(arch, error);
    if (status)
        goto done;
    ousac_text_add(&out, "{\"family\":");
    ousac_text_add_json(&out, arch->family);
    ousac_text_add(&out, ",\"width\":%zu,\"blocks\":%zu,\"other_macs\":\"%" PRIu64 "\",\"streams\":[",
                   arch->width, arch->block_count, arch->other_macs);
    for (size_t i = 0; i < arch->stream_count; i++) {
        ousac_text_add(&out, "%s{\"name\":", i ? "," : "");
        ousac_text_add_json(&out, arch->stream[i].name);
        ousac_text_add(&out, ",\"tokens\":%zu}", arch->stream[i].tokens);
    }
    ousac_text_add(&out, "],\"sites\":[");
    for (size_t i = 0; i < arch->site_count; i++) {
        const ousac_site *site = &arch->sites[i];
        ousac_text_add(&out, "%s{\"name\":", i ? "," : "");
        ousac_text_add_json(&out, site->name);
        ousac_text_add(&out, ",\"block\":%zu,\"module\":%zu,\"group\":%zu,\"stage\":%zu,\"m\":%zu,\"n\":%zu}",
                       site->block, site->module, site->group, site->stage, site->m, site->n);
    }
    ousac_text_add(&out, "],\"groups\":[");
    for (size_t i = 0; i < arch->group_count; i++) {
        const ousac_group *group = &arch->groups[i];
        ousac_text_add(&out, "%s{\"name\":", i ? "," : "");
        ousac_text_add_json(&out, group->name);
        ousac_text_add(&out, ",\"first_site\":%zu,\"sites\":%zu,\"stream\":%zu,\"side\":\"%s\",\"dim\":%zu}",
                       group->first_site, group->site_count, group->stream,
                       group->side == OUSAC_SIDE_INPUT ? "input" : "output", group->dim);
    }
    ousac_text_add(&out, "],\"modules\":[");
    for (size_t i = 0; i < arch->module_count; i++) {
        const ousac_module *module = &arch->modules[i];
        ousac_text_add(&out, "%s{\"name\":", i ? "," : "");
        ousac_text_add_json(&out, module->name);
        ousac_text_add(
            &out,
            ",\"block\":%zu,\"stages\":%zu,\"first_site\":%zu,\"sites\":%zu,\"fixed_macs\":\"%" PRIu64
            "\",\"outputs\":[",
            module->block, module->stage_count, module->first_site, module->site_count, module->fixed_macs);
        for (size_t o = 0; o < module->output_count; o++)
            ousac_text_add(&out, "%s{\"stream\":%zu,\"width\":%zu}", o ? "," : "", module->output[o].stream,
                           module->output[o].width);
        ousac_text_add(&out, "]}");
    }
    ousac_text_add(&out, "],\"constants\":[");
    for (size_t i = 0; i < arch->constant_count; i++) {
        ousac_text_add(&out, "%s{\"name\":", i ? "," : "");
        ousac_text_add_json(&out, arch->constants[i].name);
        ousac_text_add(&out, ",\"stream\":%zu,\"m\":%zu,\"n\":%zu}", arch->constants[i].stream,
                       arch->constants[i].m, arch->constants[i].n);
    }
    ousac_text_add(&out, "]}");
    if (out.failed) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the text of an architecture");
        goto done;
    }
    *text = out.data;
    out.data = NULL;
done:
    ousac_free(out.data);
    return status;
}

/* ---- parsing ---- */

typedef struct field {
    const char *key;
    enum { FIELD_NAME, FIELD_SIZE, FIELD_MACS, FIELD_SIDE, FIELD_ARRAY } kind;
    void *value; /* char [OUSAC_NAME_BYTES], size_t, uint64_t, ousac_side, const cJSON * */
} field;

static int parse_macs(const char *text, uint64_t *value) {
    size_t length = strlen(text);
    uint64_t number = 0;
    if (length == 0 || length >= MACS_TEXT_BYTES || (text[0] == '0' && length > 1))
        return -1;
    for (; *text; text++) {
        unsigned digit = (unsigned)(unsigned char)*text - '0';
        if (digit > 9 || number > (UINT64_MAX - digit) / 10)
            return -1;
        number = number * 10 + digit;
    }
    *value = number;
    return 0;
}

/* 0, or -1 where the item is not of the field's kind. */
static int take_field(const field *wanted, const cJSON *item) {
    unsigned long long whole = 0;
    switch (wanted->kind) {
    case FIELD_NAME:
        if (!cJSON_IsString(item) || strlen(item->valuestring) >= OUSAC_NAME_BYTES)
            return -1;
        memcpy(wanted->value, item->valuestring, strlen(item->valuestring) + 1);
        return 0;
    case FIELD_SIZE:
        if (!ousac_json_whole(item, &whole) || whole > SIZE_LARGEST)
            return -1;
        *(size_t *)wanted->value = (size_t)whole;
        return 0;
    case FIELD_MACS:
        return cJSON_IsString(item) ? parse_macs(item->valuestring, wanted->value) : -1;
    case FIELD_SIDE:
        if (!cJSON_IsString(item))
            return -1;
        if (strcmp(item->valuestring, "input") == 0)
            *(ousac_side *)wanted->value = OUSAC_SIDE_INPUT;
        else if (strcmp(item->valuestring, "output") == 0)
            *(ousac_side *)wanted->value = OUSAC_SIDE_OUTPUT;
        else
            return -1;
        return 0;
    case FIELD_ARRAY:
        if (!cJSON_IsArray(item))
            return -1;
        *(const cJSON **)wanted->value = item;
        return 0;
    }
    return -1;
}

/* Every field exactly once and nothing else, but for those without a key, which the version does not have.
 * `what` and `index` name the object in messages. */
static ousac_status take_object(const cJSON *object, const field *fields, size_t count, const char *name,
                                const char *what, size_t index, ousac_error *error) {
    int seen[FIELDS_MAX] = {0};
    const cJSON *item = NULL;
    if (!cJSON_IsObject(object))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %s %zu is not an object", name, what, index);
    cJSON_ArrayForEach(item, object) {
        size_t i = 0;
        while (i < count && !(fields[i].key && strcmp(fields[i].key, item->string) == 0))
            i++;
        if (i == count || seen[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %s %zu: %s key \"%.64s\"", name, what, index,
                              i == count ? "unknown" : "repeated", item->string);
        seen[i] = 1;
        if (take_field(&fields[i], item))
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %s %zu: \"%s\" is not a valid value", name,
                              what, index, fields[i].key);
    }
    for (size_t i = 0; i < count; i++)
        if (fields[i].key && !seen[i])
            return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: %s %zu: no \"%s\"", name, what, index,
                              fields[i].key);
    return OUSAC_STATUS_OK;
}

static ousac_status take_sites(ousac_arch *arch, const cJSON *array, const char *name, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const cJSON *item = NULL;
    size_t i = 0;
    cJSON_ArrayForEach(item, array) {
        ousac_site *site = &arch->sites[i];
        const field fields[] = {{"name", FIELD_NAME, site->name},
                                {"block", FIELD_SIZE, &site->block},
                                {"module", FIELD_SIZE, &site->module},
                                {"group", FIELD_SIZE, &site->group},
                                {"stage", FIELD_SIZE, &site->stage},
                                {"m", FIELD_SIZE, &site->m},
                                {"n", FIELD_SIZE, &site->n}};
        status = take_object(item, fields, sizeof fields / sizeof *fields, name, "site", i++, error);
        if (status)
            break;
    }
    return status;
}

static ousac_status take_groups(ousac_arch *arch, const cJSON *array, int version, const char *name,
                                ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const cJSON *item = NULL;
    size_t i = 0;
    cJSON_ArrayForEach(item, array) {
        ousac_group *group = &arch->groups[i];
        const field fields[] = {{"name", FIELD_NAME, group->name},
                                {"first_site", FIELD_SIZE, &group->first_site},
                                {"sites", FIELD_SIZE, &group->site_count},
                                {version > 1 ? "stream" : NULL, FIELD_SIZE, &group->stream},
                                {"side", FIELD_SIDE, &group->side},
                                {"dim", FIELD_SIZE, &group->dim}};
        status = take_object(item, fields, sizeof fields / sizeof *fields, name, "group", i++, error);
        if (status)
            break;
    }
    return status;
}

static size_t array_size(const cJSON *array) {
    size_t count = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, array) count++;
    return count;
}

static ousac_status take_outputs(ousac_module *module, const cJSON *array, const char *name, size_t index,
                                 ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const cJSON *item = NULL;
    if (array_size(array) > OUSAC_OUTPUTS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: module %zu: more than %d outputs", name, index,
                          OUSAC_OUTPUTS_MAX);
    cJSON_ArrayForEach(item, array) {
        ousac_output *output = &module->output[module->output_count];
        const field fields[] = {{"stream", FIELD_SIZE, &output->stream},
                                {"width", FIELD_SIZE, &output->width}};
        status = take_object(item, fields, sizeof fields / sizeof *fields, name, "output",
                             module->output_count++, error);
        if (status)
            break;
    }
    return status;
}

static ousac_status take_modules(ousac_arch *arch, const cJSON *array, int version, const char *name,
                                 ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const cJSON *item = NULL;
    size_t i = 0;
    cJSON_ArrayForEach(item, array) {
        ousac_module *module = &arch->modules[i];
        const cJSON *outputs = NULL;
        const field fields[] = {{"name", FIELD_NAME, module->name},
                                {"block", FIELD_SIZE, &module->block},
                                {"stages", FIELD_SIZE, &module->stage_count},
                                {"first_site", FIELD_SIZE, &module->first_site},
                                {"sites", FIELD_SIZE, &module->site_count},
                                {version > 1 ? NULL : "width", FIELD_SIZE, &module->output[0].width},
                                {version > 1 ? "outputs" : NULL, FIELD_ARRAY, &outputs},
                                {"fixed_macs", FIELD_MACS, &module->fixed_macs}};
        status = take_object(item, fields, sizeof fields / sizeof *fields, name, "module", i, error);
        if (!status && version > 1)
            status = take_outputs(module, outputs, name, i, error);
        else
            module->output_count = 1;
        if (status)
            break;
        i++;
    }
    return status;
}

static ousac_status take_streams(ousac_arch *arch, const cJSON *array, const char *name, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const cJSON *item = NULL;
    if (array_size(array) > OUSAC_STREAMS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: more than %d streams", name, OUSAC_STREAMS_MAX);
    cJSON_ArrayForEach(item, array) {
        ousac_stream *stream = &arch->stream[arch->stream_count];
        const field fields[] = {{"name", FIELD_NAME, stream->name}, {"tokens", FIELD_SIZE, &stream->tokens}};
        status = take_object(item, fields, sizeof fields / sizeof *fields, name, "stream",
                             arch->stream_count++, error);
        if (status)
            break;
    }
    return status;
}

static ousac_status take_constants(ousac_arch *arch, const cJSON *array, const char *name,
                                   ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const cJSON *item = NULL;
    size_t i = 0;
    cJSON_ArrayForEach(item, array) {
        ousac_constant *constant = &arch->constants[i];
        const field fields[] = {{"name", FIELD_NAME, constant->name},
                                {"stream", FIELD_SIZE, &constant->stream},
                                {"m", FIELD_SIZE, &constant->m},
                                {"n", FIELD_SIZE, &constant->n}};
        status =
            take_object(item, fields, sizeof fields / sizeof *fields, name, "constant group", i++, error);
        if (status)
            break;
    }
    return status;
}

ousac_status ousac_arch_parse(ousac_arch *arch, const char *text, int version, const char *name,
                              ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    cJSON *root = NULL;
    const cJSON *sites = NULL, *groups = NULL, *modules = NULL, *streams = NULL, *constants = NULL;
    ousac_arch head = {0};
    const field fields[] = {{"family", FIELD_NAME, head.family},
                            {version > 1 ? NULL : "tokens", FIELD_SIZE, &head.stream[0].tokens},
                            {version > 1 ? "streams" : NULL, FIELD_ARRAY, &streams},
                            {version > 1 ? "constants" : NULL, FIELD_ARRAY, &constants},
                            {"width", FIELD_SIZE, &head.width},
                            {"blocks", FIELD_SIZE, &head.block_count},
                            {"other_macs", FIELD_MACS, &head.other_macs},
                            {"sites", FIELD_ARRAY, &sites},
                            {"groups", FIELD_ARRAY, &groups},
                            {"modules", FIELD_ARRAY, &modules}};
    memset(arch, 0, sizeof *arch);
    status =
        ousac_json_parse(&root, text, strlen(text), VALUES_MAX, OUSAC_JSON_NUMBERS_INTEGERS, name, error);
    if (!status)
        status = take_object(root, fields, sizeof fields / sizeof *fields, name, "architecture", 0, error);
    if (!status)
        status = ousac_arch_create(arch, array_size(sites), array_size(groups), array_size(modules),
                                   array_size(constants), error);
    if (status)
        goto done;
    memcpy(arch->family, head.family, sizeof arch->family);
    if (version > 1) {
        status = take_streams(arch, streams, name, error);
        if (!status)
            status = take_constants(arch, constants, name, error);
    } else {
        arch->stream_count = 1;
        (void)snprintf(arch->stream[0].name, sizeof arch->stream[0].name, "image");
        arch->stream[0].tokens = head.stream[0].tokens;
    }
    arch->width = head.width;
    arch->block_count = head.block_count;
    arch->other_macs = head.other_macs;
    if (!status)
        status = take_sites(arch, sites, name, error);
    if (!status)
        status = take_groups(arch, groups, version, name, error);
    if (!status)
        status = take_modules(arch, modules, version, name, error);
    if (status)
        goto done;
    status = ousac_arch_check(arch, error);
    if (!status)
        status = check_all_names(arch, error);
    if (status) {
        /* a contradiction in a file is the file's fault, not ousac's or its caller's */
        if (status != OUSAC_STATUS_MEMORY)
            status = OUSAC_STATUS_FORMAT;
        if (error)
            error->status = status;
        (void)ousac_error_prefix(error, "%s", name);
    }
done:
    cJSON_Delete(root);
    if (status)
        ousac_arch_free(arch);
    return status;
}

/* ---- copying, comparing, digesting ---- */

ousac_status ousac_arch_copy(ousac_arch *target, const ousac_arch *source, ousac_error *error) {
    ousac_status status = ousac_arch_create(target, source->site_count, source->group_count,
                                            source->module_count, source->constant_count, error);
    if (status)
        return status;
    ousac_arch made = *target;
    *target = *source;
    target->sites = made.sites;
    target->groups = made.groups;
    target->modules = made.modules;
    target->constants = made.constants;
    memcpy(target->sites, source->sites, source->site_count * sizeof *source->sites);
    memcpy(target->groups, source->groups, source->group_count * sizeof *source->groups);
    memcpy(target->modules, source->modules, source->module_count * sizeof *source->modules);
    memcpy(target->constants, source->constants, source->constant_count * sizeof *source->constants);
    return OUSAC_STATUS_OK;
}

static int sites_differ(const ousac_site *a, const ousac_site *b) {
    return strcmp(a->name, b->name) != 0 || a->block != b->block || a->module != b->module ||
           a->group != b->group || a->stage != b->stage || a->m != b->m || a->n != b->n;
}

static int groups_differ(const ousac_group *a, const ousac_group *b) {
    return strcmp(a->name, b->name) != 0 || a->first_site != b->first_site ||
           a->site_count != b->site_count || a->stream != b->stream || a->side != b->side || a->dim != b->dim;
}

static int modules_differ(const ousac_module *a, const ousac_module *b) {
    int differ = strcmp(a->name, b->name) != 0 || a->block != b->block || a->stage_count != b->stage_count ||
                 a->first_site != b->first_site || a->site_count != b->site_count ||
                 a->output_count != b->output_count || a->fixed_macs != b->fixed_macs;
    for (size_t o = 0; !differ && o < a->output_count; o++)
        differ = a->output[o].stream != b->output[o].stream || a->output[o].width != b->output[o].width;
    return differ;
}

int ousac_arch_difference(const ousac_arch *a, const ousac_arch *b, char text[OUSAC_ARCH_DIFFERENCE_BYTES]) {
    const size_t size = OUSAC_ARCH_DIFFERENCE_BYTES;
    if (strcmp(a->family, b->family) != 0) {
        (void)snprintf(text, size, "the family is %s, not %s", a->family, b->family);
        return 1;
    }
    if (a->site_count != b->site_count || a->group_count != b->group_count ||
        a->module_count != b->module_count || a->block_count != b->block_count) {
        (void)snprintf(text, size, "there are %zu sites in %zu blocks, not %zu in %zu", a->site_count,
                       a->block_count, b->site_count, b->block_count);
        return 1;
    }
    for (size_t i = 0; i < a->site_count; i++) {
        const ousac_site *x = &a->sites[i], *y = &b->sites[i];
        if (sites_differ(x, y)) {
            (void)snprintf(text, size, "site %zu is %s (%zu, %zu), not %s (%zu, %zu)", i, x->name, x->m, x->n,
                           y->name, y->m, y->n);
            return 1;
        }
    }
    for (size_t i = 0; i < a->group_count; i++)
        if (groups_differ(&a->groups[i], &b->groups[i])) {
            (void)snprintf(text, size, "group %s differs from group %s", a->groups[i].name,
                           b->groups[i].name);
            return 1;
        }
    for (size_t i = 0; i < a->module_count; i++)
        if (modules_differ(&a->modules[i], &b->modules[i])) {
            (void)snprintf(text, size, "module %s differs from module %s", a->modules[i].name,
                           b->modules[i].name);
            return 1;
        }
    if (a->stream_count != b->stream_count || a->constant_count != b->constant_count) {
        (void)snprintf(text, size, "there are %zu streams and %zu constant groups, not %zu and %zu",
                       a->stream_count, a->constant_count, b->stream_count, b->constant_count);
        return 1;
    }
    for (size_t i = 0; i < a->stream_count; i++)
        if (strcmp(a->stream[i].name, b->stream[i].name) != 0 || a->stream[i].tokens != b->stream[i].tokens) {
            (void)snprintf(text, size, "there are %zu tokens of stream %s, not %zu of %s",
                           a->stream[i].tokens, a->stream[i].name, b->stream[i].tokens, b->stream[i].name);
            return 1;
        }
    for (size_t i = 0; i < a->constant_count; i++) {
        const ousac_constant *x = &a->constants[i], *y = &b->constants[i];
        if (strcmp(x->name, y->name) != 0 || x->stream != y->stream || x->m != y->m || x->n != y->n) {
            (void)snprintf(text, size, "constant group %s differs from %s", x->name, y->name);
            return 1;
        }
    }
    if (a->width != b->width || a->other_macs != b->other_macs) {
        (void)snprintf(text, size, "the width is %zu, not %zu, or other multiply-accumulates differ",
                       a->width, b->width);
        return 1;
    }
    text[0] = '\0';
    return 0;
}

void ousac_arch_digest_add(const ousac_arch *arch, int version, ousac_sha256 *state) {
    ousac_sha256_add_text(state, arch->family);
    if (version > 1) {
        ousac_sha256_add_u64(state, arch->stream_count);
        for (size_t i = 0; i < arch->stream_count; i++) {
            ousac_sha256_add_text(state, arch->stream[i].name);
            ousac_sha256_add_u64(state, arch->stream[i].tokens);
        }
    } else {
        ousac_sha256_add_u64(state, arch->stream[0].tokens);
    }
    ousac_sha256_add_u64(state, arch->width);
    ousac_sha256_add_u64(state, arch->block_count);
    ousac_sha256_add_u64(state, arch->site_count);
    ousac_sha256_add_u64(state, arch->group_count);
    ousac_sha256_add_u64(state, arch->module_count);
    for (size_t i = 0; i < arch->site_count; i++) {
        const ousac_site *site = &arch->sites[i];
        ousac_sha256_add_text(state, site->name);
        ousac_sha256_add_u64(state, site->block);
        ousac_sha256_add_u64(state, site->module);
        ousac_sha256_add_u64(state, site->group);
        ousac_sha256_add_u64(state, site->stage);
        ousac_sha256_add_u64(state, site->m);
        ousac_sha256_add_u64(state, site->n);
    }
    for (size_t i = 0; i < arch->group_count; i++) {
        const ousac_group *group = &arch->groups[i];
        ousac_sha256_add_text(state, group->name);
        ousac_sha256_add_u64(state, group->first_site);
        ousac_sha256_add_u64(state, group->site_count);
        if (version > 1)
            ousac_sha256_add_u64(state, group->stream);
        ousac_sha256_add_u64(state, (unsigned long long)group->side);
        ousac_sha256_add_u64(state, group->dim);
    }
    for (size_t i = 0; i < arch->module_count; i++) {
        const ousac_module *module = &arch->modules[i];
        ousac_sha256_add_text(state, module->name);
        ousac_sha256_add_u64(state, module->block);
        ousac_sha256_add_u64(state, module->stage_count);
        ousac_sha256_add_u64(state, module->first_site);
        ousac_sha256_add_u64(state, module->site_count);
        if (version > 1)
            ousac_sha256_add_u64(state, module->output_count);
        for (size_t o = 0; o < module->output_count; o++) {
            if (version > 1)
                ousac_sha256_add_u64(state, module->output[o].stream);
            ousac_sha256_add_u64(state, module->output[o].width);
        }
        ousac_sha256_add_u64(state, module->fixed_macs);
    }
    if (version > 1)
        ousac_sha256_add_u64(state, arch->constant_count);
    for (size_t i = 0; version > 1 && i < arch->constant_count; i++) {
        ousac_sha256_add_text(state, arch->constants[i].name);
        ousac_sha256_add_u64(state, arch->constants[i].stream);
        ousac_sha256_add_u64(state, arch->constants[i].m);
        ousac_sha256_add_u64(state, arch->constants[i].n);
    }
    ousac_sha256_add_u64(state, arch->other_macs);
}
