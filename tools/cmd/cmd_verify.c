#include "profile/files/archive.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "formats/minisign.h"
#include "formats/safetensors.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/plan.h"
#include "profile/bundle/provenance.h"
#include "profile/record/profile.h"
#include "tools/cli/describe.h"
#include "tools/report/samples.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK_VALUES = 1 << 18 };

typedef struct verification {
    const char *model_path, *schedule_path, *config;
    size_t heads;
    const char *key, *signature;      /* NULL: no signature asked for; FILE.minisig */
    ousac_minisign_public public_key; /* where `key` is given */
    ousac_model *model;               /* NULL: not asked for */
    ousac_schedule schedule;          /* step_count 0: not asked for */
    float *block;                     /* BLOCK_VALUES */
} verification;

/* What was found of one file. */
typedef struct finding {
    file_kind kind;
    uint64_t bytes;
    size_t tensors;   /* of archives and checkpoints */
    size_t unchecked; /* tensors of a dtype whose values were not looked at */
    int is_signed;    /* 1: the signature holds; the comment that it covers is `trusted` */
    char trusted[OUSAC_MINISIGN_TRUSTED_BYTES];
    char note[OUSAC_ERROR_MESSAGE_BYTES]; /* of a bundle against the model; "" for none */
} finding;

/* Only the bytes are looked at, not what they say. */
static ousac_status verify_signature(const verification *v, const char *path, finding *found,
                                     ousac_error *error) {
    ousac_file_view view = {NULL, 0};
    char *name = NULL, *text = NULL;
    const size_t bytes = strlen(path) + sizeof ".minisig";
    ousac_status status = OUSAC_STATUS_OK;

    name = v->signature != NULL ? ousac_strdup(v->signature) : ousac_malloc(bytes, 1);
    if (name == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    if (v->signature == NULL)
        (void)snprintf(name, bytes, "%s.minisig", path);
    status = ousac_file_map(&view, path, error);
    if (!status)
        status = ousac_file_read_text(&text, NULL, name, OUSAC_MINISIGN_FILE_BYTES, error);
    if (!status) {
        status =
            ousac_minisign_verify(&v->public_key, view.data, view.size, text, name, found->trusted, error);
    }
    found->is_signed = status == OUSAC_STATUS_OK;
    ousac_free(text);
    ousac_file_unmap(&view);
    ousac_free(name);
    return status;
}

static ousac_status verify_archive(const char *path, finding *found, ousac_error *error) {
    oca_file *file = NULL;
    ousac_status status = ousac_archive_open_any(&file, path, error);

    found->tensors = status == OUSAC_STATUS_OK ? oca_tensor_count(file) : 0;
    for (size_t i = 0; !status && i < found->tensors; i++) {
        oca_tensor tensor;
        oca_status got = oca_tensor_at(file, i, &tensor);
        if (got == OCA_OK)
            got = oca_verify_tensor(file, i);
        if (got != OCA_OK)
            status = ousac_archive_fail(path, tensor.name, got, error);
        else if (ousac_stop_asked(&cli_stop))
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted");
    }
    oca_close(file);
    return status;
}

static ousac_status check_digests(const verification *v, const char *path, const ousac_identity *of,
                                  const ousac_schedule *schedule, ousac_error *error) {
    char wanted[OUSAC_DIGEST_CHARS], digest[OUSAC_DIGEST_CHARS], differs[OUSAC_IDENTITY_TEXT_BYTES];

    if (v->model != NULL) {
        const ousac_identity here = ousac_model_identity(v->model);
        if (ousac_identity_differs(of, &here, differs))
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: is of %s", path, differs);
    }
    if (v->schedule.step_count > 0 && schedule != NULL) {
        ousac_schedule_digest(&v->schedule, wanted);
        ousac_schedule_digest(schedule, digest);
        if (strcmp(wanted, digest) != 0) {
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                              "%s is of schedule %.12s, and %s is schedule %.12s", path, digest,
                              v->schedule_path, wanted);
        }
    }
    return OUSAC_STATUS_OK;
}

static ousac_status verify_profile(const verification *v, const char *path, ousac_error *error) {
    ousac_profile *profile = NULL;
    ousac_used_ranges pilots;
    ousac_status status = ousac_profile_open(&profile, path, error);
    if (!status)
        status = ousac_run_text_read_pilots(path, &pilots, error);

    if (!status) {
        const ousac_identity of = ousac_profile_model(profile);
        status = check_digests(v, path, &of, &profile->schedule, error);
    }
    ousac_profile_free(profile);
    return status;
}

static ousac_status verify_plan(const verification *v, const char *path, ousac_error *error) {
    ousac_plan *plan = NULL;
    ousac_status status = ousac_plan_load(&plan, path, error);

    if (!status && v->model != NULL)
        status = ousac_plan_check(plan, &v->model->arch, path, error);
    if (!status) {
        const ousac_identity of = ousac_plan_model(plan);
        status = check_digests(v, path, &of, NULL, error);
    }
    ousac_plan_free(plan);
    return status;
}

static ousac_status verify_bundle(const verification *v, const char *path, finding *found,
                                  ousac_error *error) {
    ousac_bundle *bundle = NULL;
    ousac_provenance provenance;
    ousac_status status = ousac_bundle_open(&bundle, path, error);

    if (!status)
        status = ousac_bundle_verify(bundle, error);
    if (!status)
        status = ousac_provenance_read(path, &provenance, error);
    if (!status && v->model != NULL)
        status = ousac_bundle_check_model(bundle, v->model, found->note, error);
    if (!status && v->schedule.step_count > 0)
        status = ousac_bundle_check_schedule(bundle, &v->schedule, error);
    ousac_bundle_close(bundle);
    return status;
}

static ousac_status verify_safetensors(const verification *v, const char *path, finding *found,
                                       ousac_error *error) {
    ousac_safetensors *file = NULL;
    ousac_status status = ousac_safetensors_open(&file, path, error);

    found->tensors = status == OUSAC_STATUS_OK ? ousac_safetensors_count(file) : 0;
    for (size_t i = 0; !status && i < found->tensors; i++) {
        const ousac_safetensors_tensor *tensor = ousac_safetensors_at(file, i);
        found->unchecked += !tensor->readable;
        for (uint64_t first = 0; !status && tensor->readable && first < tensor->count;) {
            uint64_t count = tensor->count - first < BLOCK_VALUES ? tensor->count - first : BLOCK_VALUES;
            status = ousac_safetensors_read_f32(tensor, first, count, v->block, error);
            first += count;
            if (status)
                ousac_error_prefix(error, "%s", path);
        }
        if (!status && ousac_stop_asked(&cli_stop))
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted");
    }
    ousac_safetensors_close(file);
    return status;
}

/* What is printed and parsed again must be the same schedule. */
static ousac_status verify_schedule(const char *path, ousac_error *error) {
    ousac_schedule schedule = {0}, again = {0};
    char digest[OUSAC_DIGEST_CHARS], digest_again[OUSAC_DIGEST_CHARS], *text = NULL;

    ousac_status status = ousac_schedule_load(&schedule, path, error);
    if (!status)
        status = ousac_schedule_print(&schedule, &text, error);
    if (!status)
        status = ousac_schedule_parse(&again, text, strlen(text), path, error);
    if (!status) {
        ousac_schedule_digest(&schedule, digest);
        ousac_schedule_digest(&again, digest_again);
        if (strcmp(digest, digest_again) != 0 || strcmp(schedule.name, again.name) != 0) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                                "%s: printed and parsed again it is another schedule", path);
        }
    }
    ousac_free(text);
    ousac_schedule_free(&schedule);
    ousac_schedule_free(&again);
    return status;
}

/* Samples are the one other format that commands read; of an archive of no format that ousac knows the checksums are
 * all there is. */
static ousac_status verify_other(const char *path, ousac_error *error) {
    samples loaded = {0};
    int are_samples = 0;
    ousac_status status = samples_recognise(path, &are_samples, error);
    if (!status && are_samples)
        status = samples_load(&loaded, path, error);
    samples_free(&loaded);
    return status;
}

static ousac_status verify_file(const verification *v, const char *path, finding *found, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;

    memset(found, 0, sizeof *found);
    if (v->key != NULL)
        status = verify_signature(v, path, found, error);
    if (!status)
        status = file_kind_detect(&found->kind, &found->bytes, path, error);
    if (status)
        return status;
    if (found->kind == FILE_KIND_SAFETENSORS)
        return verify_safetensors(v, path, found, error);
    if (found->kind == FILE_KIND_SCHEDULE)
        return verify_schedule(path, error);
    if (found->kind == FILE_KIND_UNKNOWN)
        return file_kind_refuse(path, error);
    if (found->kind >= FILE_KIND_EVALUATION)
        return OUSAC_STATUS_OK; /* strict JSON, or its kind would not have been told */
    status = verify_archive(path, found, error);
    if (status)
        return status;
    switch (found->kind) {
    case FILE_KIND_PROFILE:
        return verify_profile(v, path, error);
    case FILE_KIND_PLAN:
        return verify_plan(v, path, error);
    case FILE_KIND_BUNDLE:
        return verify_bundle(v, path, found, error);
    case FILE_KIND_ARCHIVE:
        return verify_other(path, error);
    default:
        return OUSAC_STATUS_OK;
    }
}

static void print_finding(const char *path, const finding *found, const ousac_error *failure) {
    char size[DESCRIBE_BYTES];

    if (failure != NULL) {
        /* Most messages name the file themselves. */
        size_t length = strlen(path);
        const char *message = failure->message;
        if (strncmp(message, path, length) == 0 && (message[length] == ':' || message[length] == ' '))
            message += length + strspn(message + length, ": ");
        cli_printf("%s: FAILED: %s\n", path, message);
        return;
    }
    describe_bytes(size, found->bytes);
    const char *plural = found->tensors == 1 ? "" : "s";
    if (found->kind == FILE_KIND_SCHEDULE) {
        cli_printf("%s: ok (%s, %s)\n", path, file_kind_name(found->kind), size);
    } else if (found->unchecked > 0) {
        cli_printf("%s: ok (%s, %zu tensor%s, %s; values of %zu not checked: dtype)\n", path,
                   file_kind_name(found->kind), found->tensors, plural, size, found->unchecked);
    } else {
        cli_printf("%s: ok (%s, %zu tensor%s, %s)\n", path, file_kind_name(found->kind), found->tensors,
                   plural, size);
    }
    if (found->is_signed) {
        char line[sizeof found->trusted];
        size_t length = strlen(found->trusted);
        for (size_t i = 0; i <= length; i++) { /* tabs and what else a terminal would obey */
            const unsigned char c = (unsigned char)found->trusted[i];
            line[i] = i < length && (c < 0x20 || c == 0x7f) ? ' ' : found->trusted[i];
        }
        cli_printf("  signed; %s\n", line);
    }
    if (found->note[0] != '\0')
        cli_printf("  note: %s\n", found->note);
}

static void put_finding(ousac_json_doc *doc, cJSON *array, const char *path, const finding *found,
                        const ousac_error *failure) {
    cJSON *object = ousac_json_put_object(doc, array, NULL);

    ousac_json_put_text(doc, object, "file", path);
    ousac_json_put_bool(doc, object, "ok", failure == NULL);
    ousac_json_put_text(doc, object, "kind", file_kind_name(found->kind));
    ousac_json_put_u64(doc, object, "bytes", found->bytes);
    ousac_json_put_u64(doc, object, "tensors", found->tensors);
    ousac_json_put_u64(doc, object, "values_not_checked", found->unchecked);
    ousac_json_put_bool(doc, object, "signed", found->is_signed);
    if (found->is_signed)
        ousac_json_put_text(doc, object, "trusted_comment", found->trusted);
    if (found->note[0] != '\0')
        ousac_json_put_text(doc, object, "note", found->note);
    if (failure != NULL) {
        ousac_json_put_text(doc, object, "status", ousac_status_name(failure->status));
        ousac_json_put_text(doc, object, "message", failure->message);
    }
}

static ousac_status open_references(verification *v, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_model_options options = {.config_path = v->config, .heads = v->heads, .use = OUSAC_MODEL_FACTORS};

    v->block = ousac_malloc(BLOCK_VALUES, sizeof *v->block);
    if (v->block == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a block of %d values", BLOCK_VALUES);
    if (v->key != NULL)
        status = ousac_minisign_public_load(&v->public_key, v->key, error);
    if (!status && v->schedule_path != NULL)
        status = ousac_schedule_load(&v->schedule, v->schedule_path, error);
    if (!status && v->model_path != NULL)
        status = ousac_model_load(&v->model, v->model_path, &options, ousac_backend_cpu(), error);
    return status;
}

/* A failure of the machine, not of the file. */
static int says_nothing(const ousac_error *failure) {
    return failure->status == OUSAC_STATUS_INTERRUPTED || failure->status == OUSAC_STATUS_MEMORY ||
           (failure->status == OUSAC_STATUS_IO && (strstr(failure->message, strerror(EMFILE)) != NULL ||
                                                   strstr(failure->message, strerror(ENFILE)) != NULL));
}

static ousac_status verify_all(const verification *v, const cli_common *common, char **paths, size_t count,
                               size_t *failed, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_json_doc doc;

    ousac_json_begin(&doc);
    cJSON *array = ousac_json_put_array(&doc, doc.root, "files");
    for (size_t i = 0; i < count; i++) {
        ousac_error failure = {0};
        finding found;
        status = verify_file(v, paths[i], &found, &failure);
        if (says_nothing(&failure)) {
            *error = failure; /* says nothing of the file */
            goto done;
        }
        const ousac_error *shown = status != OUSAC_STATUS_OK ? &failure : NULL;
        *failed += shown != NULL;
        if (common->json)
            put_finding(&doc, array, paths[i], &found, shown);
        else
            print_finding(paths[i], &found, shown);
    }
    status = OUSAC_STATUS_OK;
    if (common->json) {
        ousac_json_put_u64(&doc, doc.root, "failed", *failed);
        status = cli_json_print(&doc, error);
    }
done:
    ousac_json_end(&doc);
    return status;
}

#define AT(member) offsetof(verification, member)
/* clang-format off */
static const cli_option options[] = {
    {"model", 'm', CLI_INPUT, AT(model_path), "FILE", NULL,
     "also check that profiles, plans and bundles were made for this checkpoint", 0, 0},
    {"schedule", 's', CLI_INPUT, AT(schedule_path), "FILE", NULL,
     "also check that profiles and bundles were made for this schedule", 0, 0},
    {"heads", 0, CLI_SIZE, AT(heads), "N", NULL,
     "of --model: attention heads, where config.json lacks them", 1, 4096},
    {"config", 0, CLI_INPUT, AT(config), "FILE", NULL,
     "of --model: its config.json (default: beside the checkpoint)", 0, 0},
    {"key", 'k', CLI_TEXT, AT(key), "PUB", NULL,
     "first check the signature FILE.minisig against this public key: a file, or its base64", 0, 0},
    {"signature", 0, CLI_INPUT, AT(signature), "FILE", NULL,
     "of --key: the signature, of one file", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    verification *v = values;
    size_t failed = 0;
    if (v->signature && (!v->key || call->file_count > 1))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--signature: expected with --key and one file");
    ousac_status status = open_references(v, error);
    if (!status)
        status = verify_all(v, &call->common, call->files, call->file_count, &failed, error);
    call->code = failed > 0 ? EXIT_FORMAT : EXIT_OK;
    ousac_free(v->block);
    ousac_schedule_free(&v->schedule);
    ousac_model_free(v->model);
    return status;
}

const cli_command command_verify = {
    .name = "verify",
    .summary = "check every checksum and invariant of files",
    .arguments = "FILE...",
    .details =
        "Reads the whole of each file and checks it: of .oca archives every checksum and all padding, "
        "then by their "
        "kind the digests, shapes, ranks and spectra of profiles, plans and bundles; of safetensors "
        "checkpoints the "
        "structure and that every value is finite; of schedules that they parse and print as the same "
        "schedule. "
        "Prints one line a file. Exit code 3 where any file fails, for whatever reason.\n"
        "With --key, nothing of a file is believed before its signature holds (of `ousac sign` or minisign); "
        "a "
        "file that must not change under the program belongs in a directory that only its user can write.",
    .example = "build/ousac verify data/schedules/sparse.json data/shapes-dit/model.safetensors\n"
               "build/ousac verify --model data/shapes-dit/model.safetensors build/demo/bundle.oca",
    .options = options,
    .request_size = sizeof(verification),
    .arguments_least = 1,
    .arguments_most = SIZE_MAX,
    .expects = "expects at least one file",
    .run = run,
};
