/* Says what ousac makes of texts, for a program that compares it with other readers: tests/fuzz/grammar.py.
 *
 *     judge safetensors|schedule
 *     judge config CHECKPOINT
 *
 * Reads cases from standard input, each four bytes of length, little-endian, and so many bytes; writes for each
 * one line of JSON: the status, and what was read or the message.
 */
#include "formats/json_build.h"
#include "formats/memory.h"
#include "formats/safetensors.h"
#include "formats/schedule.h"
#include "profile/model/model.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void put_safetensors(ousac_json_doc *doc, const ousac_safetensors *file, const char *data) {
    cJSON *list = ousac_json_put_array(doc, doc->root, "tensors"), *metadata = NULL;
    const void *position = NULL;
    const char *key, *value;
    for (size_t i = 0; i < ousac_safetensors_count(file); i++) {
        const ousac_safetensors_tensor *t = ousac_safetensors_at(file, i);
        cJSON *item = ousac_json_put_object(doc, list, NULL), *shape = NULL;
        ousac_json_put_text(doc, item, "name", t->name);
        ousac_json_put_text(doc, item, "dtype", t->dtype_name);
        shape = ousac_json_put_array(doc, item, "shape");
        for (size_t d = 0; d < t->dims; d++)
            ousac_json_put_u64(doc, shape, NULL, t->shape[d]);
        /* from the end of the file, which the data section ends at */
        ousac_json_put_u64(doc, item, "offset", (uint64_t)((const char *)t->data - data));
        ousac_json_put_u64(doc, item, "bytes", t->bytes);
    }
    metadata = ousac_json_put_object(doc, doc->root, "metadata");
    while (ousac_safetensors_metadata_next(file, &position, &key, &value))
        ousac_json_put_text(doc, metadata, key, value);
}

static ousac_status judge_safetensors(ousac_json_doc *doc, const char *data, size_t size,
                                      ousac_error *error) {
    ousac_safetensors *file = NULL;
    const ousac_status status = ousac_safetensors_open_memory(&file, data, size, "text", error);
    if (!status)
        put_safetensors(doc, file, data);
    ousac_safetensors_close(file);
    return status;
}

static ousac_status judge_schedule(ousac_json_doc *doc, const char *data, size_t size, ousac_error *error) {
    char digest[OUSAC_DIGEST_CHARS];
    ousac_schedule schedule;
    const ousac_status status = ousac_schedule_parse(&schedule, data, size, "text", error);
    if (!status) {
        ousac_schedule_digest(&schedule, digest);
        ousac_json_put_text(doc, doc->root, "name", schedule.name);
        ousac_json_put_text(doc, doc->root, "digest", digest);
    }
    ousac_schedule_free(&schedule);
    return status;
}

/* The case as the config of a checkpoint; what decides a trajectory is what was read. */
static ousac_status judge_config(ousac_json_doc *doc, const char *checkpoint, const char *data, size_t size,
                                 ousac_error *error) {
    char path[] = "/tmp/ousac-judge-XXXXXX";
    ousac_model *model = NULL;
    const int file = mkstemp(path);
    if (file < 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot be made", path);
    ousac_status status = OUSAC_STATUS_OK;
    if (write(file, data, size) != (ssize_t)size)
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot be written", path);
    (void)close(file);
    const ousac_model_options options = {.config_path = path, .use = OUSAC_MODEL_SHAPES};
    if (!status)
        status = ousac_model_load(&model, checkpoint, &options, NULL, error);
    (void)unlink(path);
    if (status)
        return status;
    ousac_json_put_text(doc, doc->root, "constants", model->constants);
    ousac_json_put_text(doc, doc->root, "process", model->process);
    ousac_json_put_bool(doc, doc->root, "uncond", model->has_uncond);
    ousac_model_free(model);
    return OUSAC_STATUS_OK;
}

static int judge(const char *kind, const char *checkpoint, const char *data, size_t size) {
    ousac_json_doc doc;
    char *text = NULL;
    ousac_error error = {0};
    ousac_json_begin(&doc);
    const ousac_status status = checkpoint ? judge_config(&doc, checkpoint, data, size, &error)
                                : strcmp(kind, "safetensors") == 0
                                    ? judge_safetensors(&doc, data, size, &error)
                                    : judge_schedule(&doc, data, size, &error);
    ousac_json_put_text(&doc, doc.root, "status", ousac_status_name(status));
    ousac_json_put_text(&doc, doc.root, "message", error.message);
    const int failed = ousac_json_text(&doc, 0, &text, NULL) != OUSAC_STATUS_OK;
    if (!failed)
        (void)puts(text);
    (void)fflush(stdout);
    ousac_free(text);
    ousac_json_end(&doc);
    return failed;
}

int main(int argc, char **argv) {
    unsigned char head[4];
    const int config = argc == 3 && strcmp(argv[1], "config") == 0;
    if (!config && (argc != 2 || (strcmp(argv[1], "safetensors") != 0 && strcmp(argv[1], "schedule") != 0))) {
        (void)fputs("usage: judge safetensors|schedule\n       judge config CHECKPOINT\n", stderr);
        return 2;
    }
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        const size_t size = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        char *data =
            ousac_malloc(size ? size : 1, 1); /* of this size exactly, so that reading on is caught */
        if (!data || fread(data, 1, size, stdin) != size ||
            judge(argv[1], config ? argv[2] : NULL, data, size))
            return 1;
        free(data);
    }
    return 0;
}
