/* SHA-256 (FIPS 180-4), by libsodium: the digest of every identity that ousac records.
 */
#ifndef OUSAC_SHA256_H
#define OUSAC_SHA256_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_DIGEST_CHARS = 65 }; /* 64 lower-case hexadecimal digits and a NUL */

/* Streaming state, caller-owned, no allocation; sized and aligned for libsodium's. */
typedef struct ousac_sha256 {
    unsigned long long opaque[16];
} ousac_sha256;

void ousac_sha256_begin(ousac_sha256 *state);
void ousac_sha256_add(ousac_sha256 *state, const void *data, size_t size);
/* As ousac_sha256_add of the text and its terminating NUL, so that consecutive texts cannot run together. */
void ousac_sha256_add_text(ousac_sha256 *state, const char *text);
/* 64-bit little-endian. */
void ousac_sha256_add_u64(ousac_sha256 *state, unsigned long long value);
void ousac_sha256_end(ousac_sha256 *state, char digest[OUSAC_DIGEST_CHARS]);

#ifdef __cplusplus
}
#endif
#endif
