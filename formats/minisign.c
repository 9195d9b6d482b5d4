#include "formats/minisign.h"

#include "formats/file.h"
#include "formats/memory.h"

#include <limits.h>
#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Byte positions in the decoded line of each kind of file. */
enum {
    ALGORITHM_BYTES = 2,
    ID_BYTES = 8,
    PUBLIC_BYTES = ALGORITHM_BYTES + ID_BYTES + crypto_sign_PUBLICKEYBYTES,
    SIGNATURE_BYTES = ALGORITHM_BYTES + ID_BYTES + crypto_sign_BYTES,
    SECRET_KDF = 2,
    SECRET_CHECK = 4,
    SECRET_SALT = 6,
    SECRET_OPS = 38,
    SECRET_MEMORY = 46,
    SECRET_KEY = 54, /* from here on encrypted: id, key, checksum */
    CHECK_BYTES = 32,
    SECRET_LOCKED = ID_BYTES + crypto_sign_SECRETKEYBYTES + CHECK_BYTES,
    SECRET_BYTES = SECRET_KEY + SECRET_LOCKED,
    LINES_MAX = 4
};
static const uint64_t MEMORY_MAX = (uint64_t)4 << 30;

static const char UNTRUSTED[] = "untrusted comment: ", TRUSTED[] = "trusted comment: ";

_Static_assert(PUBLIC_BYTES == 42 && SIGNATURE_BYTES == 74 && SECRET_BYTES == 158,
               "sizes of minisign's format");

static uint64_t get64(const unsigned char *p) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static void put64(unsigned char *p, uint64_t value) {
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

static ousac_status start(ousac_error *error) {
    if (sodium_init() < 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "libsodium found no source of random numbers");
    return OUSAC_STATUS_OK;
}

/* ---- lines ---- */

/* Cuts a text into `wanted` lines in place, without their ends; blanks may follow. Returns 0 where it has
 * others. */
static int cut_lines(char *text, char **lines, int wanted) {
    for (int i = 0; i < wanted; i++) {
        size_t length = strcspn(text, "\n");
        if (!length)
            return 0;
        lines[i] = text;
        text += length + (text[length] == '\n');
        lines[i][length] = '\0';
        if (lines[i][length - 1] == '\r')
            lines[i][length - 1] = '\0';
    }
    return strspn(text, " \t\r\n") == strlen(text);
}

static int decode(const char *line, unsigned char *target, size_t size) {
    size_t got = 0;
    return sodium_base642bin(target, size, line, strlen(line), NULL, &got, NULL,
                             sodium_base64_VARIANT_ORIGINAL) == 0 &&
           got == size;
}

static int comment_is_plain(const char *comment) {
    for (const char *c = comment; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return 0;
    return 1;
}

/* A file of a comment line and a line that decodes to `size` bytes. */
static ousac_status read_key(const char *path, const char *what, unsigned char *target, size_t size,
                             ousac_error *error) {
    char *text = NULL, *lines[2];
    ousac_status status = ousac_file_read_text(&text, NULL, path, OUSAC_MINISIGN_FILE_BYTES, error);
    if (!status && (!cut_lines(text, lines, 2) || strncmp(lines[0], UNTRUSTED, strlen(UNTRUSTED)) != 0 ||
                    !decode(lines[1], target, size)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                            "%s: expected a %s of minisign: a comment and a line of base64", path, what);
    if (text)
        sodium_memzero(text, strlen(text));
    ousac_free(text);
    return status;
}

/* ---- keys ---- */

ousac_status ousac_minisign_generate(ousac_minisign_secret *secret, ousac_minisign_public *public_key,
                                     ousac_error *error) {
    ousac_status status = start(error);
    if (status)
        return status;
    (void)crypto_sign_keypair(public_key->key, secret->key);
    randombytes_buf(secret->id, sizeof secret->id);
    memcpy(public_key->id, secret->id, sizeof secret->id);
    return OUSAC_STATUS_OK;
}

void ousac_minisign_forget(ousac_minisign_secret *secret) {
    sodium_memzero(secret, sizeof *secret);
}

void ousac_minisign_public_of(const ousac_minisign_secret *secret, ousac_minisign_public *public_key) {
    memcpy(public_key->id, secret->id, sizeof public_key->id);
    memcpy(public_key->key, secret->key + crypto_sign_SECRETKEYBYTES - crypto_sign_PUBLICKEYBYTES,
           sizeof public_key->key);
}

void ousac_minisign_id_text(const unsigned char id[8], char text[OUSAC_MINISIGN_ID_CHARS]) {
    (void)snprintf(text, OUSAC_MINISIGN_ID_CHARS, "%016llX", (unsigned long long)get64(id));
}

void ousac_minisign_key_text(const ousac_minisign_public *public_key, char text[OUSAC_MINISIGN_KEY_CHARS]) {
    unsigned char bytes[PUBLIC_BYTES] = {'E', 'd'};
    memcpy(bytes + ALGORITHM_BYTES, public_key->id, ID_BYTES);
    memcpy(bytes + ALGORITHM_BYTES + ID_BYTES, public_key->key, sizeof public_key->key);
    (void)sodium_bin2base64(text, OUSAC_MINISIGN_KEY_CHARS, bytes, sizeof bytes,
                            sodium_base64_VARIANT_ORIGINAL);
}

ousac_status ousac_minisign_public_load(ousac_minisign_public *public_key, const char *source,
                                        ousac_error *error) {
    unsigned char bytes[PUBLIC_BYTES] = {0};
    ousac_status status = start(error);
    if (!status && !(access(source, F_OK) != 0 && decode(source, bytes, sizeof bytes)))
        status = read_key(source, "public key", bytes, sizeof bytes, error);
    if (!status && memcmp(bytes, "Ed", ALGORITHM_BYTES) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not an Ed25519 public key", source);
    if (status)
        return status;
    memcpy(public_key->id, bytes + ALGORITHM_BYTES, ID_BYTES);
    memcpy(public_key->key, bytes + ALGORITHM_BYTES + ID_BYTES, sizeof public_key->key);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_minisign_public_save(const ousac_minisign_public *public_key, const char *path,
                                        ousac_error *error) {
    char id[OUSAC_MINISIGN_ID_CHARS], key[OUSAC_MINISIGN_KEY_CHARS], text[256];
    ousac_minisign_id_text(public_key->id, id);
    ousac_minisign_key_text(public_key, key);
    int length = snprintf(text, sizeof text, "%sminisign public key %s\n%s\n", UNTRUSTED, id, key);
    return ousac_file_replace(path, text, (size_t)length, error);
}

/* BLAKE2b-256 of algorithm, id and key. */
static void check_of(const unsigned char *key, unsigned char check[CHECK_BYTES]) {
    crypto_generichash_state state;
    (void)crypto_generichash_init(&state, NULL, 0, CHECK_BYTES);
    (void)crypto_generichash_update(&state, (const unsigned char *)"Ed", ALGORITHM_BYTES);
    (void)crypto_generichash_update(&state, key, ID_BYTES + crypto_sign_SECRETKEYBYTES);
    (void)crypto_generichash_final(&state, check, CHECK_BYTES);
}

/* Exclusive-or of the locked part with the password's stream. */
static ousac_status lock(unsigned char *bytes, const char *password, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    unsigned char stream[SECRET_LOCKED];
    const uint64_t operations = get64(bytes + SECRET_OPS), memory = get64(bytes + SECRET_MEMORY);
    if (memory > MEMORY_MAX || operations > MEMORY_MAX)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "%s: its key derivation asks for %llu bytes and %llu operations; at most 2^32 are allowed", path,
            (unsigned long long)memory, (unsigned long long)operations);
    if (crypto_pwhash_scryptsalsa208sha256(stream, sizeof stream, password, strlen(password),
                                           bytes + SECRET_SALT, operations, (size_t)memory) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no %llu MiB of memory to derive its key", path,
                            (unsigned long long)(memory >> 20));
    for (size_t i = 0; !status && i < sizeof stream; i++)
        bytes[SECRET_KEY + i] ^= stream[i];
    sodium_memzero(stream, sizeof stream);
    return status;
}

static ousac_status read_secret(unsigned char bytes[SECRET_BYTES], const char *path, int *encrypted,
                                ousac_error *error) {
    ousac_status status = start(error);
    if (!status)
        status = read_key(path, "secret key", bytes, SECRET_BYTES, error);
    if (status)
        return status;
    *encrypted = memcmp(bytes + SECRET_KDF, "Sc", 2) == 0;
    if (memcmp(bytes, "Ed", 2) != 0 || memcmp(bytes + SECRET_CHECK, "B2", 2) != 0 ||
        (!*encrypted && memcmp(bytes + SECRET_KDF, "\0\0", 2) != 0))
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: a secret key of an unknown kind", path);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_minisign_secret_encrypted(const char *path, int *encrypted, ousac_error *error) {
    unsigned char bytes[SECRET_BYTES] = {0};
    ousac_status status = read_secret(bytes, path, encrypted, error);
    sodium_memzero(bytes, sizeof bytes);
    return status;
}

ousac_status ousac_minisign_secret_load(ousac_minisign_secret *secret, const char *path, const char *password,
                                        ousac_error *error) {
    unsigned char bytes[SECRET_BYTES] = {0}, check[CHECK_BYTES];
    unsigned char derived[crypto_sign_PUBLICKEYBYTES], pair[crypto_sign_SECRETKEYBYTES];
    const unsigned char *key = bytes + SECRET_KEY, *recorded = key + ID_BYTES + crypto_sign_SECRETKEYBYTES;
    int encrypted = 0;
    ousac_status status = read_secret(bytes, path, &encrypted, error);
    if (!status && encrypted && !password)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: an encrypted secret key; expected a password", path);
    if (!status && encrypted)
        status = lock(bytes, password, path, error);
    if (status)
        goto done;
    check_of(key, check);
    /* minisign leaves the checksum of an unencrypted key zero */
    if (sodium_memcmp(check, recorded, CHECK_BYTES) != 0 &&
        (encrypted || !sodium_is_zero(recorded, CHECK_BYTES))) {
        status = encrypted ? OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: wrong password", path)
                           : OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: its checksum does not fit", path);
        goto done;
    }
    /* signing with a public half that is not the seed's would give the seed away */
    (void)crypto_sign_seed_keypair(derived, pair, key + ID_BYTES);
    if (sodium_memcmp(pair, key + ID_BYTES, sizeof pair) != 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: its two halves do not belong together", path);
        goto done;
    }
    memcpy(secret->id, key, ID_BYTES);
    memcpy(secret->key, key + ID_BYTES, sizeof secret->key);
done:
    sodium_memzero(bytes, sizeof bytes);
    sodium_memzero(pair, sizeof pair);
    return status;
}

ousac_status ousac_minisign_secret_save(const ousac_minisign_secret *secret, const char *path,
                                        const char *password, ousac_error *error) {
    unsigned char bytes[SECRET_BYTES] = {'E', 'd', 0, 0, 'B', '2'};
    unsigned char *key = bytes + SECRET_KEY;
    char line[sodium_base64_ENCODED_LEN(SECRET_BYTES, sodium_base64_VARIANT_ORIGINAL)], text[512];
    ousac_status status = start(error);
    if (status)
        goto done;
    memcpy(key, secret->id, ID_BYTES);
    memcpy(key + ID_BYTES, secret->key, sizeof secret->key);
    check_of(key, key + ID_BYTES + sizeof secret->key);
    if (password) {
        memcpy(bytes + SECRET_KDF, "Sc", 2);
        randombytes_buf(bytes + SECRET_SALT, SECRET_OPS - SECRET_SALT);
        put64(bytes + SECRET_OPS, crypto_pwhash_scryptsalsa208sha256_OPSLIMIT_SENSITIVE);
        put64(bytes + SECRET_MEMORY, crypto_pwhash_scryptsalsa208sha256_MEMLIMIT_SENSITIVE);
        status = lock(bytes, password, path, error);
    }
    if (status)
        goto done;
    (void)sodium_bin2base64(line, sizeof line, bytes, sizeof bytes, sodium_base64_VARIANT_ORIGINAL);
    int length = snprintf(text, sizeof text, "%sminisign %s secret key\n%s\n", UNTRUSTED,
                          password ? "encrypted" : "unencrypted", line);
    status = ousac_file_replace(path, text, (size_t)length, error);
    sodium_memzero(line, sizeof line);
    sodium_memzero(text, sizeof text);
done:
    sodium_memzero(bytes, sizeof bytes);
    return status;
}

/* ---- signatures ---- */

/* What is signed: the file's BLAKE2b-512, or the file itself. */
typedef struct message {
    unsigned char hash[crypto_generichash_BYTES_MAX];
    const unsigned char *data;
    size_t size;
} message;

static void make_message(message *m, const void *data, size_t size, int legacy) {
    static const unsigned char nothing[1];
    m->data = size ? data : nothing;
    m->size = size;
    if (legacy)
        return;
    (void)crypto_generichash(m->hash, sizeof m->hash, m->data, size, NULL, 0);
    m->data = m->hash;
    m->size = sizeof m->hash;
}

/* The 64 bytes of the signature and the trusted comment, which the global signature covers. */
static size_t global_message(unsigned char *target, const unsigned char *signature, const char *trusted) {
    memcpy(target, signature, crypto_sign_BYTES);
    memcpy(target + crypto_sign_BYTES, trusted, strlen(trusted));
    return crypto_sign_BYTES + strlen(trusted);
}

ousac_status ousac_minisign_sign(const ousac_minisign_secret *secret, const void *data, size_t size,
                                 int legacy, const ousac_minisign_comments *comments, char **text,
                                 ousac_error *error) {
    ousac_status status = start(error);
    unsigned char bytes[SIGNATURE_BYTES] = {'E', legacy ? 'd' : 'D'}, global[crypto_sign_BYTES];
    unsigned char covered[crypto_sign_BYTES + OUSAC_MINISIGN_TRUSTED_BYTES];
    char line[sodium_base64_ENCODED_LEN(SIGNATURE_BYTES, sodium_base64_VARIANT_ORIGINAL)];
    char last[sodium_base64_ENCODED_LEN(crypto_sign_BYTES, sodium_base64_VARIANT_ORIGINAL)];
    size_t room = sizeof line + sizeof last + 64;
    message m;

    *text = NULL;
    if (status)
        return status;
    if (strlen(comments->untrusted) > OUSAC_MINISIGN_COMMENT_BYTES - sizeof UNTRUSTED ||
        strlen(comments->trusted) > OUSAC_MINISIGN_TRUSTED_BYTES - sizeof TRUSTED ||
        !comment_is_plain(comments->untrusted) || !comment_is_plain(comments->trusted))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "a comment: expected one line of at most %d bytes (trusted: %d)",
                          OUSAC_MINISIGN_COMMENT_BYTES - (int)sizeof UNTRUSTED,
                          OUSAC_MINISIGN_TRUSTED_BYTES - (int)sizeof TRUSTED);
    room += strlen(comments->untrusted) + strlen(comments->trusted);
    *text = ousac_malloc(room, 1);
    if (!*text)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a signature");
    make_message(&m, data, size, legacy);
    memcpy(bytes + ALGORITHM_BYTES, secret->id, ID_BYTES);
    (void)crypto_sign_detached(bytes + ALGORITHM_BYTES + ID_BYTES, NULL, m.data, m.size, secret->key);
    size_t length = global_message(covered, bytes + ALGORITHM_BYTES + ID_BYTES, comments->trusted);
    (void)crypto_sign_detached(global, NULL, covered, length, secret->key);
    (void)sodium_bin2base64(line, sizeof line, bytes, sizeof bytes, sodium_base64_VARIANT_ORIGINAL);
    (void)sodium_bin2base64(last, sizeof last, global, sizeof global, sodium_base64_VARIANT_ORIGINAL);
    (void)snprintf(*text, room, "%s%s\n%s\n%s%s\n%s\n", UNTRUSTED, comments->untrusted, line, TRUSTED,
                   comments->trusted, last);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_minisign_verify(const ousac_minisign_public *public_key, const void *data, size_t size,
                                   const char *signature, const char *name,
                                   char trusted[OUSAC_MINISIGN_TRUSTED_BYTES], ousac_error *error) {
    ousac_status status = start(error);
    unsigned char bytes[SIGNATURE_BYTES], global[crypto_sign_BYTES];
    unsigned char covered[crypto_sign_BYTES + OUSAC_MINISIGN_TRUSTED_BYTES];
    char own[OUSAC_MINISIGN_ID_CHARS], other[OUSAC_MINISIGN_ID_CHARS];
    char *text = NULL, *lines[LINES_MAX];
    message m;

    if (status)
        goto done;
    text = ousac_strdup(signature);
    if (!text) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", name);
        goto done;
    }
    if (!cut_lines(text, lines, LINES_MAX) || strncmp(lines[0], UNTRUSTED, strlen(UNTRUSTED)) != 0 ||
        !decode(lines[1], bytes, sizeof bytes) || strncmp(lines[2], TRUSTED, strlen(TRUSTED)) != 0 ||
        strlen(lines[2]) - strlen(TRUSTED) >= OUSAC_MINISIGN_TRUSTED_BYTES ||
        !decode(lines[3], global, sizeof global)) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: expected a signature of minisign: four lines", name);
        goto done;
    }
    if (bytes[0] != 'E' || (bytes[1] != 'd' && bytes[1] != 'D')) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: a signature of an unknown algorithm", name);
        goto done;
    }
    if (memcmp(bytes + ALGORITHM_BYTES, public_key->id, ID_BYTES) != 0) {
        ousac_minisign_id_text(bytes + ALGORITHM_BYTES, other);
        ousac_minisign_id_text(public_key->id, own);
        status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: a signature by key %s; expected one by key %s",
                            name, other, own);
        goto done;
    }
    make_message(&m, data, size, bytes[1] == 'd');
    const unsigned char *made = bytes + ALGORITHM_BYTES + ID_BYTES;
    const char *comment = lines[2] + strlen(TRUSTED);
    size_t length = global_message(covered, made, comment);
    if (crypto_sign_verify_detached(made, m.data, m.size, public_key->key) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: not a signature of this file", name);
    else if (crypto_sign_verify_detached(global, covered, length, public_key->key) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: the trusted comment was altered", name);
    else if (trusted)
        memcpy(trusted, comment, strlen(comment) + 1);
done:
    ousac_free(text);
    return status;
}
