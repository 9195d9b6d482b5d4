#include "formats/sha256.h"

#include <sodium.h>
#include <stdalign.h>
#include <string.h>

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(ousac_sha256),
               "ousac_sha256 must hold libsodium's state");
_Static_assert(alignof(ousac_sha256) % alignof(crypto_hash_sha256_state) == 0, "and be aligned for it");

/* libsodium's state lives in the opaque words by copy, so that neither type aliases the other. */
static crypto_hash_sha256_state load(const ousac_sha256 *state) {
    crypto_hash_sha256_state inner;
    memcpy(&inner, state->opaque, sizeof inner);
    return inner;
}

static void store(ousac_sha256 *state, const crypto_hash_sha256_state *inner) {
    memcpy(state->opaque, inner, sizeof *inner);
}

void ousac_sha256_begin(ousac_sha256 *state) {
    crypto_hash_sha256_state inner;
    memset(state, 0, sizeof *state);
    (void)crypto_hash_sha256_init(&inner);
    store(state, &inner);
}

void ousac_sha256_add(ousac_sha256 *state, const void *data, size_t size) {
    crypto_hash_sha256_state inner = load(state);
    if (size)
        (void)crypto_hash_sha256_update(&inner, data, size);
    store(state, &inner);
}

void ousac_sha256_add_text(ousac_sha256 *state, const char *text) {
    ousac_sha256_add(state, text, strlen(text) + 1);
}

void ousac_sha256_add_u64(ousac_sha256 *state, unsigned long long value) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(value >> (8 * i) & 0xff);
    ousac_sha256_add(state, bytes, sizeof bytes);
}

void ousac_sha256_end(ousac_sha256 *state, char digest[OUSAC_DIGEST_CHARS]) {
    crypto_hash_sha256_state inner = load(state);
    unsigned char bytes[crypto_hash_sha256_BYTES];
    _Static_assert(2 * sizeof bytes + 1 == OUSAC_DIGEST_CHARS, "two digits a byte and a NUL");
    (void)crypto_hash_sha256_final(&inner, bytes);
    (void)sodium_bin2hex(digest, OUSAC_DIGEST_CHARS, bytes, sizeof bytes);
    memset(state, 0, sizeof *state);
}
