#include "tools/cli/files.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "formats/minisign.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { PASSWORD_BYTES = 1024 };

typedef struct sign_request {
    int generate, encrypt, legacy, force;
    const char *key, *public_key, *output, *comment, *trusted, *password_file;
    char **files;
    size_t file_count;
} sign_request;

/* ---- passwords ---- */

static ousac_status take_line(char password[PASSWORD_BYTES], const char *text, const char *from,
                              ousac_error *error) {
    size_t length = strcspn(text, "\r\n");
    if (length == 0 || length >= PASSWORD_BYTES)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: expected a password of 1 to %d bytes", from,
                          PASSWORD_BYTES - 1);
    memcpy(password, text, length);
    password[length] = '\0';
    return OUSAC_STATUS_OK;
}

/* One line from the terminal, unseen, whatever standard input is. */
static ousac_status ask(char password[PASSWORD_BYTES], const char *question, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    struct termios before, silent;
    char text[PASSWORD_BYTES + 2] = {0};
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || tcgetattr(fd, &before) != 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "no terminal to ask for a password; expected --password-file");
        goto done;
    }
    silent = before;
    silent.c_lflag &= ~(tcflag_t)ECHO;
    (void)tcsetattr(fd, TCSAFLUSH, &silent);
    (void)!write(fd, question, strlen(question));
    ssize_t got = read(fd, text, sizeof text - 1);
    (void)tcsetattr(fd, TCSAFLUSH, &before);
    (void)!write(fd, "\n", 1);
    text[got > 0 ? got : 0] = '\0';
    status = take_line(password, text, "the terminal", error);
done:
    sodium_memzero(text, sizeof text);
    if (fd >= 0)
        (void)close(fd);
    return status;
}

static ousac_status get_password(const sign_request *request, int twice, char password[PASSWORD_BYTES],
                                 ousac_error *error) {
    char again[PASSWORD_BYTES] = {0}, *text = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (request->password_file) {
        status = ousac_file_read_text(&text, NULL, request->password_file, 1 << 16, error);
        if (!status)
            status = take_line(password, text, request->password_file, error);
        if (text)
            sodium_memzero(text, strlen(text));
        ousac_free(text);
        return status;
    }
    status = ask(password, "password of the secret key: ", error);
    if (!status && twice)
        status = ask(again, "the same again: ", error);
    if (!status && twice && strcmp(password, again) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "the two passwords differ");
    sodium_memzero(again, sizeof again);
    return status;
}

/* ---- keys ---- */

static ousac_status refuse_existing(const char *path, const sign_request *request, ousac_error *error) {
    if (!request->force && access(path, F_OK) == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: exists; expected another name, or --force", path);
    return OUSAC_STATUS_OK;
}

static ousac_status generate(const cli_common *common, const sign_request *request, ousac_json_doc *doc,
                             ousac_error *error) {
    char password[PASSWORD_BYTES] = {0}, text[OUSAC_MINISIGN_KEY_CHARS], id[OUSAC_MINISIGN_ID_CHARS];
    ousac_minisign_secret secret = {{0}, {0}};
    ousac_minisign_public public_key;
    ousac_status status = refuse_existing(request->key, request, error);
    if (!status)
        status = refuse_existing(request->public_key, request, error);
    if (!status && (request->encrypt || request->password_file))
        status = get_password(request, 1, password, error);
    if (!status)
        status = ousac_minisign_generate(&secret, &public_key, error);
    if (!status) {
        const mode_t before = umask(077); /* the secret key is its owner's alone */
        status = ousac_minisign_secret_save(&secret, request->key, *password ? password : NULL, error);
        (void)umask(before);
    }
    if (!status)
        status = ousac_minisign_public_save(&public_key, request->public_key, error);
    if (!status) {
        ousac_minisign_key_text(&public_key, text);
        ousac_minisign_id_text(public_key.id, id);
        ousac_json_put_text(doc, doc->root, "secret_key", request->key);
        ousac_json_put_text(doc, doc->root, "public_key", request->public_key);
        ousac_json_put_text(doc, doc->root, "id", id);
        ousac_json_put_text(doc, doc->root, "key", text);
        ousac_json_put_bool(doc, doc->root, "encrypted", *password != '\0');
        if (common->json)
            status = cli_json_print(doc, error);
        else
            cli_printf("%s: secret key %s%s; keep it to yourself\n%s: public key %s\n", request->key, id,
                       *password ? ", encrypted" : "", request->public_key, text);
    }
    sodium_memzero(password, sizeof password);
    ousac_minisign_forget(&secret);
    return status;
}

/* ---- signing ---- */

/* What minisign writes where it is told nothing. */
static ousac_status default_trusted(const char *path, int legacy, char **text, ousac_error *error) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const size_t bytes = strlen(base) + 64;
    *text = ousac_malloc(bytes, 1);
    if (!*text)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    (void)snprintf(*text, bytes, "timestamp:%lld\tfile:%s%s", (long long)time(NULL), base,
                   legacy ? "" : "\thashed");
    return OUSAC_STATUS_OK;
}

static ousac_status sign_file(const sign_request *request, const ousac_minisign_secret *secret,
                              const char *path, char **target, ousac_error *error) {
    ousac_file_view view = {NULL, 0};
    char *trusted = NULL, *text = NULL;
    const size_t bytes = strlen(path) + sizeof ".minisig";
    ousac_status status = OUSAC_STATUS_OK;
    *target = request->output ? ousac_strdup(request->output) : ousac_malloc(bytes, 1);
    if (!*target)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    if (!request->output)
        (void)snprintf(*target, bytes, "%s.minisig", path);
    status = ousac_file_map(&view, path, error);
    if (!status)
        status = default_trusted(path, request->legacy, &trusted, error);
    const ousac_minisign_comments comments = {request->comment,
                                              request->trusted ? request->trusted : trusted};
    if (!status)
        status = ousac_minisign_sign(secret, view.data, view.size, request->legacy, &comments, &text, error);
    if (!status)
        status = ousac_file_replace(*target, text, strlen(text), error);
    ousac_free(text);
    ousac_free(trusted);
    ousac_file_unmap(&view);
    return status;
}

static ousac_status sign(const cli_common *common, const sign_request *request, ousac_json_doc *doc,
                         ousac_error *error) {
    char password[PASSWORD_BYTES] = {0}, id[OUSAC_MINISIGN_ID_CHARS];
    ousac_minisign_secret secret = {{0}, {0}};
    int encrypted = 0;
    cJSON *list = ousac_json_put_array(doc, doc->root, "files");
    ousac_status status = ousac_minisign_secret_encrypted(request->key, &encrypted, error);
    if (!status && encrypted)
        status = get_password(request, 0, password, error);
    if (!status)
        status = ousac_minisign_secret_load(&secret, request->key, encrypted ? password : NULL, error);
    sodium_memzero(password, sizeof password);
    for (size_t i = 0; !status && i < request->file_count; i++) {
        char *target = NULL;
        status = sign_file(request, &secret, request->files[i], &target, error);
        if (!status) {
            cJSON *item = ousac_json_put_object(doc, list, NULL);
            ousac_json_put_text(doc, item, "file", request->files[i]);
            ousac_json_put_text(doc, item, "signature", target);
            ousac_minisign_id_text(secret.id, id);
            if (!common->json)
                cli_printf("%s: signed by key %s\n", target, id);
        }
        ousac_free(target);
    }
    if (!status && common->json) {
        ousac_minisign_id_text(secret.id, id);
        ousac_json_put_text(doc, doc->root, "id", id);
        status = cli_json_print(doc, error);
    }
    ousac_minisign_forget(&secret);
    return status;
}

static ousac_status check(const sign_request *request, ousac_error *error) {
    if (request->generate && (request->file_count || request->output || request->trusted || request->legacy))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--generate signs nothing; expected only --key and --public");
    if (request->generate && !request->public_key)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--generate: expected --public FILE, for the public key");
    if (!request->generate && (request->public_key || request->encrypt || request->force))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--public, --encrypt and --force belong to --generate");
    if (!request->generate && request->file_count == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expects at least one file");
    if (request->output && request->file_count > 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--output names one signature; %zu files are to be signed", request->file_count);
    return OUSAC_STATUS_OK;
}

#define AT(member) offsetof(sign_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"key", 'k', CLI_TEXT, AT(key), "FILE", CLI_REQUIRED,
     "secret key, of ousac or minisign", 0, 0},
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", NULL,
     "signature to write (default: FILE.minisig)", 0, 0},
    {"comment", 0, CLI_TEXT, AT(comment), "TEXT", "signature from ousac",
     "the untrusted comment", 0, 0},
    {"trusted-comment", 't', CLI_TEXT, AT(trusted), "TEXT", NULL,
     "comment that is signed too (default: time and file name)", 0, 0},
    {"legacy", 'l', CLI_FLAG, AT(legacy), NULL, NULL,
     "sign the file itself, not its BLAKE2b-512", 0, 0},
    {"password-file", 0, CLI_INPUT, AT(password_file), "FILE", NULL,
     "password of the secret key, first line (default: asked for)", 0, 0},
    {"generate", 0, CLI_FLAG, AT(generate), NULL, NULL,
     "make a new pair of keys instead", 0, 0},
    {"public", 0, CLI_OUTPUT, AT(public_key), "FILE", NULL,
     "of --generate: public key to write", 0, 0},
    {"encrypt", 0, CLI_FLAG, AT(encrypt), NULL, NULL,
     "of --generate: protect the secret key by a password", 0, 0},
    {"force", 0, CLI_FLAG, AT(force), NULL, NULL,
     "of --generate: replace existing keys", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    sign_request *request = values;
    ousac_json_doc doc;
    request->files = call->files;
    request->file_count = call->file_count;
    ousac_json_begin(&doc);
    ousac_status status = check(request, error);
    if (!status)
        status = request->generate ? generate(&call->common, request, &doc, error)
                                   : sign(&call->common, request, &doc, error);
    ousac_json_end(&doc);
    return status;
}

/* The secret key is read to sign, and written to --generate. */
static void list_files(const cli_call *call, const void *values, cli_files *files) {
    const sign_request *request = values;
    if (request->generate)
        cli_files_written(files, "--key", request->key);
    else
        cli_files_read(files, "--key", request->key);
    for (size_t i = 0; !request->output && i < call->file_count; i++)
        cli_files_written_as(files, "the signature", call->files[i], ".minisig");
}

const cli_command command_sign = {
    .name = "sign",
    .summary = "sign files, so that `verify --key` and minisign can tell whose they are",
    .arguments = "FILE...",
    .details = "Writes a detached Ed25519 signature beside each file, in the format of the minisign program: "
               "`minisign -V` "
               "accepts it, and `ousac verify --key` accepts minisign's. The file's BLAKE2b-512 is signed, "
               "and a trusted "
               "comment with it.\n"
               "--generate makes the keys; keys of minisign serve as well. A secret key is written readable "
               "by its owner "
               "only, and encrypted where --encrypt or --password-file is given.",
    .example =
        "build/ousac sign --generate --key build/demo/ousac.key --public build/demo/ousac.pub --force\n"
        "build/ousac sign --key build/demo/ousac.key build/demo/bundle.oca\n"
        "build/ousac verify --key build/demo/ousac.pub build/demo/bundle.oca",
    .options = options,
    .request_size = sizeof(sign_request),
    .arguments_least = 0,
    .arguments_most = SIZE_MAX,
    .expects = "expects files",
    .files = list_files,
    .run = run,
};
