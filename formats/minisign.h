/* Detached Ed25519 signatures in the files of the minisign program (format: the documentation of minisign,
 * "Signature format" and "Key format"), by libsodium. Both ways compatible: what one signs the other
 * verifies, and they share keys.
 *
 *     untrusted comment: TEXT
 *     base64(ALGORITHM[2] key id[8] signature[64])
 *     trusted comment: TEXT
 *     base64(global signature[64])
 *
 * ALGORITHM "ED": the signature is of the file's BLAKE2b-512; "Ed", the legacy form: of the file itself. The
 * global signature is of the 64 bytes of the signature and the trusted comment. Keys are files of a comment
 * line and a line of base64; a secret key may be encrypted under a password (scrypt).
 */
#ifndef OUSAC_MINISIGN_H
#define OUSAC_MINISIGN_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    OUSAC_MINISIGN_KEY_CHARS = 57,       /* of a public key in base64, with its NUL */
    OUSAC_MINISIGN_ID_CHARS = 17,        /* of a key's name in hexadecimal, with its NUL */
    OUSAC_MINISIGN_COMMENT_BYTES = 1024, /* of an untrusted comment */
    OUSAC_MINISIGN_TRUSTED_BYTES = 8192, /* of a trusted comment, with its NUL */
    OUSAC_MINISIGN_FILE_BYTES = 1 << 16  /* of a key or signature file */
};

typedef struct ousac_minisign_public {
    unsigned char id[8], key[32];
} ousac_minisign_public;

/* Wipe with ousac_minisign_forget. */
typedef struct ousac_minisign_secret {
    unsigned char id[8], key[64];
} ousac_minisign_secret;

/* A new pair. Errors: UNSUPPORTED where the system has no source of randomness. */
ousac_status ousac_minisign_generate(ousac_minisign_secret *secret, ousac_minisign_public *public_key,
                                     ousac_error *error);
void ousac_minisign_forget(ousac_minisign_secret *secret);

/* The public half. */
void ousac_minisign_public_of(const ousac_minisign_secret *secret, ousac_minisign_public *public_key);
/* The name of a key as minisign prints it, and the key itself in base64. */
void ousac_minisign_id_text(const unsigned char id[8], char text[OUSAC_MINISIGN_ID_CHARS]);
void ousac_minisign_key_text(const ousac_minisign_public *public_key, char text[OUSAC_MINISIGN_KEY_CHARS]);

/* `source` is a public key file or, where no such file exists, the key's base64. Errors: IO, FORMAT. */
ousac_status ousac_minisign_public_load(ousac_minisign_public *public_key, const char *source,
                                        ousac_error *error);
ousac_status ousac_minisign_public_save(const ousac_minisign_public *public_key, const char *path,
                                        ousac_error *error);

/* Whether a secret key file asks for a password. */
ousac_status ousac_minisign_secret_encrypted(const char *path, int *encrypted, ousac_error *error);
/* `password` NULL for none. MISMATCH for a wrong one, USAGE where one is missing; UNSUPPORTED for a key
 * derivation that asks for more than 4 GiB. */
ousac_status ousac_minisign_secret_load(ousac_minisign_secret *secret, const char *path, const char *password,
                                        ousac_error *error);
/* The file is readable by whom the process's umask allows: set it before. `password` NULL: not encrypted. */
ousac_status ousac_minisign_secret_save(const ousac_minisign_secret *secret, const char *path,
                                        const char *password, ousac_error *error);

typedef struct ousac_minisign_comments {
    const char *untrusted,
        *trusted; /* one line each; USAGE for another control character than a tab, or too long */
} ousac_minisign_comments;

/* The text of a signature file, a new block (ousac_free). */
ousac_status ousac_minisign_sign(const ousac_minisign_secret *secret, const void *data, size_t size,
                                 int legacy, const ousac_minisign_comments *comments, char **text,
                                 ousac_error *error);

/* Verifies signature and trusted comment. `name` stands for the signature's file in messages. `trusted` gets
 * the comment, and only where everything holds. FORMAT for a file that is no signature, MISMATCH for one of
 * another key or of other data. */
ousac_status ousac_minisign_verify(const ousac_minisign_public *public_key, const void *data, size_t size,
                                   const char *signature, const char *name,
                                   char trusted[OUSAC_MINISIGN_TRUSTED_BYTES], ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
