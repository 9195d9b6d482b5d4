/* What the reader finds in .oca files, one JSON line a file in the form of tests/golden/golden.json, for
 * comparison with oca_decode.py: metadata, and of every tensor dtype, shape and digests; or the status that
 * refuses the file.
 *
 *     oca_dump FILE...
 */
#include "formats/oca.h"
#include "formats/sha256.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const dtype_names[8] = {"f64", "f32", "f16", "bf16", "i8", "u8", "i32", "i64"};

static void print_text(const char *text) {
    (void)putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == '"' || c == '\\')
            (void)printf("\\u%04x", c);
        else
            (void)putchar(c);
    }
    (void)putchar('"');
}

/* Prints the digest of the tensor read as `as`; nothing where there is no such conversion. */
static oca_status print_digest(const oca_file *file, const oca_tensor *t, oca_dtype as, const char *key) {
    char text[OUSAC_DIGEST_CHARS];
    ousac_sha256 state;
    size_t bytes = (size_t)t->count * oca_dtype_bytes(as);
    void *target = malloc(bytes);
    oca_status status = target ? oca_read(file, t->index, 0, t->shape[0], as, target, bytes) : OCA_ERR_MEMORY;
    if (!status) {
        ousac_sha256_begin(&state);
        ousac_sha256_add(&state, target, bytes);
        ousac_sha256_end(&state, text);
        (void)printf(", \"%s\": \"%s\"", key, text);
    }
    free(target);
    return status;
}

/* Everything is checked before the first tensor is printed. */
static oca_status print_contents(const oca_file *file) {
    oca_status status = oca_verify(file, NULL);
    if (status)
        return status;
    (void)printf(", \"metadata\": {");
    for (size_t i = 0; i < oca_metadata_count(file); i++) {
        const char *key = "", *value = "";
        (void)oca_metadata_at(file, i, &key, &value);
        (void)printf("%s", i ? ", " : "");
        print_text(key);
        (void)printf(": ");
        print_text(value);
    }
    (void)printf("}, \"tensors\": {");
    for (size_t i = 0; i < oca_tensor_count(file); i++) {
        oca_tensor t;
        (void)oca_tensor_at(file, i, &t);
        (void)printf("%s", i ? ", " : "");
        print_text(t.name);
        (void)printf(": {\"dtype\": \"%s\", \"shape\": [", dtype_names[t.dtype]);
        for (size_t d = 0; d < t.dims; d++)
            (void)printf("%s%llu", d ? ", " : "", (unsigned long long)t.shape[d]);
        (void)printf("]");
        status = print_digest(file, &t, t.dtype, "sha256");
        if (status)
            return status;
        status = print_digest(file, &t, OCA_F32, "f32_sha256");
        if (status && status != OCA_ERR_UNSUPPORTED && status != OCA_ERR_SCALE)
            return status;
        (void)printf("}");
    }
    (void)printf("}");
    return OCA_OK;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        oca_file *file = NULL;
        oca_status status = oca_open_path(&file, argv[i], NULL);
        (void)printf("{\"file\": ");
        print_text(argv[i]);
        if (!status)
            status = print_contents(file);
        if (status)
            (void)printf(", \"invalid\": \"%s\"", oca_status_string(status));
        (void)printf("}\n");
        oca_close(file);
        failed |= status == OCA_ERR_MEMORY || status == OCA_ERR_IO;
    }
    return failed;
}
