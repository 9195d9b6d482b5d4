/* SHA-256 against the vectors that NIST publishes for FIPS 180-4, and the framing of texts and integers. */
#include "formats/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void digest_of(const void *data, size_t size, char digest[OUSAC_DIGEST_CHARS]) {
    ousac_sha256 state;
    ousac_sha256_begin(&state);
    ousac_sha256_add(&state, data, size);
    ousac_sha256_end(&state, digest);
}

static void published_vectors(void **state) {
    static const char *const vectors[][2] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrs"
         "mnopqrstnopqrstu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"}};
    char digest[OUSAC_DIGEST_CHARS];
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        digest_of(vectors[i][0], strlen(vectors[i][0]), digest);
        assert_string_equal(digest, vectors[i][1]);
    }
}

static void a_million_times_a_in_uneven_parts(void **state) {
    static char block[997];
    ousac_sha256 hash;
    char digest[OUSAC_DIGEST_CHARS];
    size_t left = 1000000;
    (void)state;
    memset(block, 'a', sizeof block);
    ousac_sha256_begin(&hash);
    for (size_t part = 0; left; part = (part + 61) % sizeof block) {
        size_t size = part < left ? part : left; /* the first part is empty */
        ousac_sha256_add(&hash, size ? block : NULL, size);
        left -= size;
    }
    ousac_sha256_end(&hash, digest);
    assert_string_equal(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void texts_cannot_run_together(void **state) {
    ousac_sha256 hash;
    char one[OUSAC_DIGEST_CHARS], other[OUSAC_DIGEST_CHARS], plain[OUSAC_DIGEST_CHARS];
    (void)state;
    ousac_sha256_begin(&hash);
    ousac_sha256_add_text(&hash, "ab");
    ousac_sha256_add_text(&hash, "c");
    ousac_sha256_end(&hash, one);
    ousac_sha256_begin(&hash);
    ousac_sha256_add_text(&hash, "a");
    ousac_sha256_add_text(&hash, "bc");
    ousac_sha256_end(&hash, other);
    digest_of("ab\0c", 5, plain);
    assert_string_equal(one, plain);
    assert_string_not_equal(one, other);
}

static void integers_are_little_endian(void **state) {
    static const unsigned char bytes[8] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
    ousac_sha256 hash;
    char one[OUSAC_DIGEST_CHARS], plain[OUSAC_DIGEST_CHARS];
    (void)state;
    ousac_sha256_begin(&hash);
    ousac_sha256_add_u64(&hash, 0x1122334455667788);
    ousac_sha256_end(&hash, one);
    digest_of(bytes, sizeof bytes, plain);
    assert_string_equal(one, plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(a_million_times_a_in_uneven_parts),
        cmocka_unit_test(texts_cannot_run_together),
        cmocka_unit_test(integers_are_little_endian),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
