#include "profile/files/identity.h"

#include "formats/utf8.h"

#include <stdio.h>
#include <string.h>

int ousac_identity_process_differs(const ousac_identity *is, const ousac_identity *here,
                                   char text[OUSAC_IDENTITY_TEXT_BYTES]) {
    text[0] = '\0';
    if (!*is->process || !*here->process || strcmp(is->process, here->process) == 0)
        return 0;
    (void)snprintf(text, OUSAC_IDENTITY_TEXT_BYTES, "a model that %s, and this one %s", is->process,
                   here->process);
    return 1;
}

int ousac_identity_constants_differ(const ousac_identity *is, const ousac_identity *here,
                                    char text[OUSAC_IDENTITY_TEXT_BYTES]) {
    text[0] = '\0';
    if (!*is->constants || !*here->constants)
        (void)snprintf(text, OUSAC_IDENTITY_TEXT_BYTES, "unknown");
    else if (strcmp(is->constants, here->constants) != 0)
        (void)snprintf(text, OUSAC_IDENTITY_TEXT_BYTES, "%.160s, not %.160s", is->constants, here->constants);
    return text[0] != '\0';
}

int ousac_identity_differs(const ousac_identity *is, const ousac_identity *here,
                           char text[OUSAC_IDENTITY_TEXT_BYTES]) {
    text[0] = '\0';
    if (strcmp(is->digest, here->digest) == 0)
        return ousac_identity_process_differs(is, here, text);
    (void)snprintf(text, OUSAC_IDENTITY_TEXT_BYTES, "model %.12s, and this is model %.12s", is->digest,
                   here->digest);
    return 1;
}

static void make_key(char key[OUSAC_KEY_BYTES], const char *prefix, const char *field) {
    (void)snprintf(key, OUSAC_KEY_BYTES, "%s%s", prefix, field);
}

ousac_status ousac_identity_put(ousac_oca_writer *writer, const char *prefix, const ousac_identity *identity,
                                ousac_error *error) {
    const struct {
        const char *field, *value;
    } fields[] = {{"model_digest", identity->digest},
                  {"model_constants", identity->constants},
                  {"model_process", identity->process}};
    char key[OUSAC_KEY_BYTES];
    ousac_status status = OUSAC_STATUS_OK;
    if (*identity->digest && !ousac_digest_is_valid(identity->digest))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "the model_digest is \"%.64s\"; expected 64 hexadecimal digits, or nothing",
                          identity->digest);
    for (size_t i = 0; !status && i < sizeof fields / sizeof *fields; i++) {
        make_key(key, prefix, fields[i].field);
        status = ousac_oca_writer_metadata(writer, key, fields[i].value, error);
    }
    return status;
}

static ousac_status take_text(const ousac_archive *archive, const char *prefix, const char *field,
                              char *value, size_t size, ousac_error *error) {
    char key[OUSAC_KEY_BYTES];
    make_key(key, prefix, field);
    value[0] = '\0';
    if (archive->version < 2)
        return OUSAC_STATUS_OK;
    const ousac_status status = ousac_archive_copy_text(archive, key, value, size, error);
    if (!status && !ousac_utf8_printable(value, strlen(value)))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: metadata \"%s\" holds control characters, or is not UTF-8", archive->path,
                          key);
    return status;
}

ousac_status ousac_identity_take(const ousac_archive *archive, const char *prefix, int may_be_empty,
                                 char digest[OUSAC_DIGEST_CHARS], char constants[OUSAC_CONSTANTS_BYTES],
                                 char process[OUSAC_PROCESS_BYTES], ousac_error *error) {
    char key[OUSAC_KEY_BYTES];
    make_key(key, prefix, "model_digest");
    ousac_status status = ousac_archive_digest(archive, key, may_be_empty, digest, error);
    if (!status)
        status = take_text(archive, prefix, "model_constants", constants, OUSAC_CONSTANTS_BYTES, error);
    if (!status)
        status = take_text(archive, prefix, "model_process", process, OUSAC_PROCESS_BYTES, error);
    return status;
}
