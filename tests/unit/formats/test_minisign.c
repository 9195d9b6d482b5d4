/* Signatures in minisign's files: what the program minisign 0.11 wrote is read, verified and, Ed25519 being
 * deterministic, written again byte for byte. The pair of keys below was made for this test and signs nothing
 * else.
 */
#include "formats/memory.h"
#include "formats/minisign.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* minisign -G -W */
static const char SECRET[] = "untrusted comment: minisign encrypted secret key\n"
                             "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAHiWiVBh"
                             "zU5NaJrfwBfAyOG4/Ys/Zhel6TQVvEa/soU99qZp/EROdd1iNu2H4y9GqpOpe9qw8Rsr/"
                             "Gb34ooiJinYObc+xyDaaAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
static const char PUBLIC[] = "untrusted comment: minisign public key 9353731854A2251E\n"
                             "RWQeJaJUGHNTk1iNu2H4y9GqpOpe9qw8Rsr/Gb34ooiJinYObc+xyDaa\n";
/* of the file "hello\n": minisign -S, and minisign -Sl -t 'my comment' */
static const char DATA[] = "hello\n";
static const char HASHED[] =
    "untrusted comment: signature from minisign secret key\n"
    "RUQeJaJUGHNTkzHpWn4G9VfSqyjSMWmmMl+ZeqxpGjnxfkhIr8wwzysFwtQ5/IihCxJvSaYeVA5zZF8Br2AS/7GjiImr3X7//QA=\n"
    "trusted comment: timestamp:1795382910\tfile:f\thashed\n"
    "w+LGEohsnWs5nN0tP1McJnpVS5dXlTHWzpx8vQ+z1DLzPhqgsseQewAg/3/9Fmt2PkT+l8mqUXAGftjsYEdMBQ==\n";
static const char LEGACY[] =
    "untrusted comment: signature from minisign secret key\n"
    "RWQeJaJUGHNTky3gFX8vQ9io7FEysWiYU/RR+XlwmUYZST4ftwR22jOvU65V3uFnEWPklSAGdz/CvMpC0vi6i2fxx4VZc41+JAA=\n"
    "trusted comment: my comment\n"
    "WsOATGQSLED9G9a5eKX023myvqpir4pJbOpkFt3lZPH+/H7OIppeNpkDwT/S2arKYPKjS8VgEK88AkcUWnScDA==\n";
enum { DATA_BYTES = sizeof DATA - 1 };

static ousac_minisign_public the_public_key(void) {
    ousac_minisign_public key;
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    scratch_create(&dir);
    scratch_put(&dir, "k.pub", PUBLIC, strlen(PUBLIC));
    assert_int_equal(ousac_minisign_public_load(&key, scratch_path(&dir, "k.pub", path), NULL),
                     OUSAC_STATUS_OK);
    scratch_remove(&dir);
    return key;
}

static ousac_minisign_secret the_secret_key(void) {
    ousac_minisign_secret key;
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    scratch_create(&dir);
    scratch_put(&dir, "k.key", SECRET, strlen(SECRET));
    assert_int_equal(ousac_minisign_secret_load(&key, scratch_path(&dir, "k.key", path), NULL, NULL),
                     OUSAC_STATUS_OK);
    scratch_remove(&dir);
    return key;
}

static void test_verifies_what_minisign_signed(void **state) {
    const ousac_minisign_public key = the_public_key();
    char trusted[OUSAC_MINISIGN_TRUSTED_BYTES], id[OUSAC_MINISIGN_ID_CHARS], text[OUSAC_MINISIGN_KEY_CHARS];
    (void)state;
    assert_int_equal(ousac_minisign_verify(&key, DATA, DATA_BYTES, HASHED, "f.minisig", trusted, NULL),
                     OUSAC_STATUS_OK);
    assert_non_null(strstr(trusted, "\tfile:f\thashed"));
    assert_int_equal(ousac_minisign_verify(&key, DATA, DATA_BYTES, LEGACY, "f.minisig", trusted, NULL),
                     OUSAC_STATUS_OK);
    assert_string_equal(trusted, "my comment");
    ousac_minisign_id_text(key.id, id);
    assert_non_null(strstr(PUBLIC, id));
    ousac_minisign_key_text(&key, text);
    assert_non_null(strstr(PUBLIC, text));
    ousac_minisign_public again;
    assert_int_equal(ousac_minisign_public_load(&again, text, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(&again, &key, sizeof key);
}

/* The part of a line of `text` that begins with `start`. */
static void take_comment(const char *text, const char *start, char *target) {
    const char *at = strstr(text, start) + strlen(start);
    if (*start == 't') /* "untrusted comment: " ends the same */
        at = strstr(text, "\ntrusted comment: ") + strlen("\ntrusted comment: ");
    memcpy(target, at, strcspn(at, "\n"));
    target[strcspn(at, "\n")] = '\0';
}

static void test_signs_as_minisign_does(void **state) {
    static const char *const wanted[] = {HASHED, LEGACY};
    ousac_minisign_secret key = the_secret_key();
    (void)state;
    for (int legacy = 0; legacy < 2; legacy++) {
        char untrusted[256], trusted[256], *text = NULL;
        take_comment(wanted[legacy], "untrusted comment: ", untrusted);
        take_comment(wanted[legacy], "trusted comment: ", trusted);
        const ousac_minisign_comments comments = {untrusted, trusted};
        assert_int_equal(ousac_minisign_sign(&key, DATA, DATA_BYTES, legacy, &comments, &text, NULL),
                         OUSAC_STATUS_OK);
        assert_string_equal(text, wanted[legacy]);
        ousac_free(text);
    }
    ousac_minisign_forget(&key);
    for (size_t i = 0; i < sizeof key; i++)
        assert_int_equal(((const unsigned char *)&key)[i], 0);
}

/* Every byte of data and signature file matters, but for the untrusted comment. */
static void test_any_altered_byte_is_noticed(void **state) {
    static const char *const texts[] = {HASHED, LEGACY};
    const ousac_minisign_public key = the_public_key();
    (void)state;
    for (int k = 0; k < 2; k++) {
        char text[1024], data[DATA_BYTES];
        const size_t skipped = strcspn(texts[k], "\n");
        for (size_t i = 0; texts[k][i]; i++) {
            char trusted[OUSAC_MINISIGN_TRUSTED_BYTES] = "untouched";
            if (i >= strlen("untrusted comment: ") && i < skipped)
                continue;
            if (!texts[k][i + 1]) /* the last line's end may be missing */
                continue;
            strcpy(text, texts[k]);
            text[i] = (char)(text[i] ^ 1);
            assert_int_not_equal(ousac_minisign_verify(&key, DATA, DATA_BYTES, text, "s", trusted, NULL),
                                 OUSAC_STATUS_OK);
            assert_string_equal(trusted, "untouched");
        }
        for (size_t i = 0; i < DATA_BYTES; i++) {
            memcpy(data, DATA, DATA_BYTES);
            data[i] = (char)(data[i] ^ 0x20);
            assert_int_equal(ousac_minisign_verify(&key, data, DATA_BYTES, texts[k], "s", NULL, NULL),
                             OUSAC_STATUS_MISMATCH);
        }
        assert_int_equal(ousac_minisign_verify(&key, DATA, DATA_BYTES - 1, texts[k], "s", NULL, NULL),
                         OUSAC_STATUS_MISMATCH);
        assert_int_equal(ousac_minisign_verify(&key, NULL, 0, texts[k], "s", NULL, NULL),
                         OUSAC_STATUS_MISMATCH);
    }
}

static void test_malformed_signatures_are_refused_by_name(void **state) {
    static const struct {
        const char *what, *text;
    } cases[] = {
        {"nothing", ""},
        {"one line", "untrusted comment: x\n"},
        {"no comment", "RUQeJaJUGHNTkzHp\n\n\n\n"},
        {"not base64", "untrusted comment: x\n!!!!\ntrusted comment: y\n!!!!\n"},
        {"a short signature", "untrusted comment: x\nRUQeJaJUGHM=\ntrusted comment: y\nRUQeJaJUGHM=\n"},
        {"a public key", PUBLIC},
        {"a secret key", SECRET},
    };
    const ousac_minisign_public key = the_public_key();
    char text[2048];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ousac_error error = {0};
        if (ousac_minisign_verify(&key, DATA, DATA_BYTES, cases[i].text, "s.minisig", NULL, &error) !=
            OUSAC_STATUS_FORMAT)
            fail_msg("%s: not refused as malformed", cases[i].what);
        assert_ptr_equal(strstr(error.message, "s.minisig: "), error.message);
    }
    (void)snprintf(text, sizeof text, "%sone line more\n", HASHED);
    assert_int_equal(ousac_minisign_verify(&key, DATA, DATA_BYTES, text, "s", NULL, NULL),
                     OUSAC_STATUS_FORMAT);
    (void)snprintf(text, sizeof text, "%s\n \n", HASHED);
    assert_int_equal(ousac_minisign_verify(&key, DATA, DATA_BYTES, text, "s", NULL, NULL), OUSAC_STATUS_OK);
}

static void test_another_key_is_told_by_its_name(void **state) {
    ousac_minisign_secret secret;
    ousac_minisign_public other;
    ousac_error error = {0};
    (void)state;
    assert_int_equal(ousac_minisign_generate(&secret, &other, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_minisign_verify(&other, DATA, DATA_BYTES, HASHED, "s", NULL, &error),
                     OUSAC_STATUS_MISMATCH);
    assert_non_null(strstr(error.message, "9353731854A2251E"));
    /* the right name on a wrong key */
    const ousac_minisign_public right = the_public_key();
    memcpy(other.id, right.id, sizeof other.id);
    assert_int_equal(ousac_minisign_verify(&other, DATA, DATA_BYTES, HASHED, "s", NULL, &error),
                     OUSAC_STATUS_MISMATCH);
}

static void test_new_keys_survive_their_files(void **state) {
    const ousac_minisign_comments comments = {"u", "t"};
    ousac_minisign_secret secret, again;
    ousac_minisign_public public_key, read, half;
    char path[SCRATCH_PATH_BYTES], *text = NULL;
    int encrypted = 1;
    scratch dir;
    (void)state;
    scratch_create(&dir);
    assert_int_equal(ousac_minisign_generate(&secret, &public_key, NULL), OUSAC_STATUS_OK);
    ousac_minisign_public_of(&secret, &half);
    assert_memory_equal(&half, &public_key, sizeof half);
    assert_int_equal(ousac_minisign_secret_save(&secret, scratch_path(&dir, "s", path), NULL, NULL),
                     OUSAC_STATUS_OK);
    assert_int_equal(ousac_minisign_secret_encrypted(path, &encrypted, NULL), OUSAC_STATUS_OK);
    assert_int_equal(encrypted, 0);
    assert_int_equal(ousac_minisign_secret_load(&again, path, NULL, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(&again, &secret, sizeof again);
    assert_int_equal(ousac_minisign_public_save(&public_key, scratch_path(&dir, "p", path), NULL),
                     OUSAC_STATUS_OK);
    assert_int_equal(ousac_minisign_public_load(&read, path, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(&read, &public_key, sizeof read);
    assert_int_equal(ousac_minisign_sign(&again, "", 0, 0, &comments, &text, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_minisign_verify(&read, "", 0, text, "s", NULL, NULL), OUSAC_STATUS_OK);
    ousac_free(text);
    scratch_remove(&dir);
}

static ousac_status load_altered(size_t at, char with) {
    ousac_minisign_secret key;
    char text[sizeof SECRET], path[SCRATCH_PATH_BYTES];
    scratch dir;
    scratch_create(&dir);
    memcpy(text, SECRET, sizeof SECRET);
    text[strcspn(SECRET, "\n") + 1 + at] = with;
    scratch_put(&dir, "s", text, strlen(text));
    ousac_status status = ousac_minisign_secret_load(&key, scratch_path(&dir, "s", path), NULL, NULL);
    scratch_remove(&dir);
    return status;
}

static void test_damaged_secret_keys_are_refused(void **state) {
    (void)state;
    assert_int_equal(load_altered(0, 'R'), OUSAC_STATUS_OK);
    assert_int_equal(load_altered(0, 'S'), OUSAC_STATUS_FORMAT); /* algorithm */
    assert_int_equal(load_altered(4, 'B'), OUSAC_STATUS_FORMAT); /* key derivation */
    assert_int_equal(load_altered(100, 'z'),
                     OUSAC_STATUS_FORMAT); /* seed, which no longer makes the public half */
    assert_int_equal(load_altered(150, 'z'), OUSAC_STATUS_FORMAT); /* public half */
    assert_int_equal(load_altered(190, 'z'), OUSAC_STATUS_FORMAT); /* checksum */
    assert_int_equal(load_altered(20, '!'), OUSAC_STATUS_FORMAT);
}

static void test_comments_are_one_line(void **state) {
    ousac_minisign_secret key = the_secret_key();
    char *text = NULL, *longest = malloc(OUSAC_MINISIGN_TRUSTED_BYTES + 1);
    (void)state;
    memset(longest, 'x', OUSAC_MINISIGN_TRUSTED_BYTES);
    longest[OUSAC_MINISIGN_TRUSTED_BYTES] = '\0';
    const ousac_minisign_comments bad[] = {
        {"a\nb", "t"}, {"a", "t\nu"}, {"a", "t\x1b[m"}, {"a", longest}, {longest, "t"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ousac_minisign_sign(&key, DATA, DATA_BYTES, 0, &bad[i], &text, NULL),
                         OUSAC_STATUS_USAGE);
        assert_null(text);
    }
    free(longest);
}

static void test_every_allocation_may_fail(void **state) {
    const ousac_minisign_comments comments = {"u", "t"};
    ousac_minisign_secret key = the_secret_key();
    const ousac_minisign_public public_key = the_public_key();
    ousac_status status = OUSAC_STATUS_MEMORY;
    char path[SCRATCH_PATH_BYTES];
    long allowed;
    scratch dir;
    (void)state;
    scratch_create(&dir);
    scratch_path(&dir, "s", path);
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        ousac_minisign_secret again;
        char *text = NULL;
        (void)ousac_memory_fail_after(allowed);
        status = ousac_minisign_secret_save(&key, path, NULL, NULL);
        if (!status)
            status = ousac_minisign_secret_load(&again, path, NULL, NULL);
        if (!status)
            status = ousac_minisign_sign(&key, DATA, DATA_BYTES, 0, &comments, &text, NULL);
        if (!status)
            status = ousac_minisign_verify(&public_key, DATA, DATA_BYTES, text, "s", NULL, NULL);
        (void)ousac_memory_fail_after(-1);
        ousac_free(text);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 5);
    assert_int_equal(scratch_entries(&dir), 1);
    scratch_remove(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verifies_what_minisign_signed),
        cmocka_unit_test(test_signs_as_minisign_does),
        cmocka_unit_test(test_any_altered_byte_is_noticed),
        cmocka_unit_test(test_malformed_signatures_are_refused_by_name),
        cmocka_unit_test(test_another_key_is_told_by_its_name),
        cmocka_unit_test(test_new_keys_survive_their_files),
        cmocka_unit_test(test_damaged_secret_keys_are_refused),
        cmocka_unit_test(test_comments_are_one_line),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
