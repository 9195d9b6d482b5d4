/* Writes the golden archives and golden.json, which records what is in them as digests of the source data:
 *
 *     make_golden DIRECTORY       (tests/golden; linked with libousac_formats.a, from the repository root)
 *
 * The digests do not come from a reader. The archives' bytes depend on the version of libzstd, golden.json
 * does not.
 */
#include "formats/file.h"
#include "formats/memory.h"
#include "formats/oca_write.h"
#include "formats/sha256.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MIB = 1 << 20, TENSORS_MAX = 64, PATH_BYTES = 1024 };

static const char *const dtype_names[8] = {"f64", "f32", "f16", "bf16", "i8", "u8", "i32", "i64"};
static const size_t dtype_bytes[8] = {8, 4, 2, 2, 1, 1, 4, 8};

static void die(const char *what, const ousac_error *error) {
    (void)fprintf(stderr, "make_golden: %s: %s\n", what, error->message);
    exit(1);
}

static uint32_t next_random(uint32_t *state) { /* xorshift32 */
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

/* The number that element i of a tensor stands for, exact in every float dtype: a multiple of 1/8 in [-16,
 * 16). */
static double number(uint32_t *state) {
    return (double)(int)(next_random(state) % 32) / 4 - 4;
}

/* Bits of such a number in a binary format, by frexp: no conversion of ousac's is used. */
static uint64_t float_bits(double x, int exponent_bits, int mantissa_bits) {
    int exponent = 0, bias = (1 << (exponent_bits - 1)) - 1;
    double fraction = frexp(fabs(x), &exponent); /* in [1/2, 1) */
    uint64_t sign = signbit(x) ? UINT64_C(1) << (exponent_bits + mantissa_bits) : 0;
    if (x == 0)
        return sign;
    return sign | (uint64_t)(exponent - 1 + bias) << mantissa_bits |
           (uint64_t)ldexp(2 * fraction - 1, mantissa_bits);
}

static void put_bytes(unsigned char *target, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++, value >>= 8)
        target[i] = (unsigned char)value;
}

static void digest(const unsigned char *data, size_t bytes, char text[OUSAC_DIGEST_CHARS]) {
    ousac_sha256 state;
    ousac_sha256_begin(&state);
    ousac_sha256_add(&state, data, bytes);
    ousac_sha256_end(&state, text);
}

typedef struct golden {
    ousac_oca_writer *writer;
    FILE *json;
    const char *separator;
} golden;

/* Adds the tensor to the archive and its digests to golden.json. f32 NULL: none. */
static void add(golden *g, const char *name, int dtype, size_t dims, const uint64_t *shape, int codec,
                unsigned char *data, size_t bytes, const unsigned char *f32) {
    ousac_error error = {0};
    char text[OUSAC_DIGEST_CHARS];
    size_t count = bytes / dtype_bytes[dtype];
    digest(data, bytes, text);
    (void)fprintf(g->json, "%s\n        \"%s\": {\"dtype\": \"%s\", \"shape\": [", g->separator, name,
                  dtype_names[dtype]);
    for (size_t d = 0; d < dims; d++)
        (void)fprintf(g->json, "%s%llu", d ? ", " : "", (unsigned long long)shape[d]);
    (void)fprintf(g->json, "], \"sha256\": \"%s\"", text);
    if (f32) {
        digest(f32, count * 4, text);
        (void)fprintf(g->json, ", \"f32_sha256\": \"%s\"", text);
    }
    (void)fputs("}", g->json);
    g->separator = ",";
    if (ousac_oca_writer_tensor_take(g->writer, name, (ousac_dtype)dtype, dims, shape, (ousac_oca_codec)codec,
                                     data, &error))
        die(name, &error);
}

/* A tensor of numbers or of integers, from a seed; i8 gets no f32 digest here, since it has no scales. */
static void add_random(golden *g, const char *name, int dtype, size_t dims, const uint64_t *shape, int codec,
                       uint32_t seed) {
    static const int exponent_bits[4] = {11, 8, 5, 8}, mantissa_bits[4] = {52, 23, 10, 7};
    size_t count = 1, width = dtype_bytes[dtype];
    for (size_t d = 0; d < dims; d++)
        count *= (size_t)shape[d];
    unsigned char *data = ousac_malloc(count, width), *f32 = ousac_malloc(count, 4);
    ousac_error error = {0};
    if (!data || !f32)
        die("memory", &error);
    for (size_t i = 0; i < count; i++) {
        if (dtype < 4) {
            double x = number(&seed);
            put_bytes(data + i * width, float_bits(x, exponent_bits[dtype], mantissa_bits[dtype]), width);
            put_bytes(f32 + i * 4, float_bits(x, 8, 23), 4);
        } else {
            put_bytes(data + i * width, (uint64_t)(next_random(&seed) % 11) - 5, width); /* of either sign */
        }
    }
    add(g, name, dtype, dims, shape, codec, data, count * width, dtype < 4 ? f32 : NULL);
    ousac_free(f32);
}

/* Every dtype and codec, one to four dimensions. */
static void fill_dtypes(golden *g) {
    static const uint64_t shape[4] = {3, 2, 7, 5};
    static const char *const codecs[3] = {"raw", "zstd", "shuffle"};
    for (int dtype = 0; dtype < 8; dtype++)
        for (int codec = 0; codec < 3; codec++) {
            char name[64];
            (void)snprintf(name, sizeof name, "%s/%s", dtype_names[dtype], codecs[codec]);
            size_t dims = codec ? 4 : 1 + (size_t)dtype % 4; /* 210 elements do compress */
            add_random(g, name, dtype, dims, shape, codec, (uint32_t)(dtype * 3 + codec + 1));
        }
}

/* Several chunks, among them one that does not shrink; scales; names beyond ASCII. */
static void fill_chunks(golden *g) {
    ousac_error error = {0};
    const size_t mixed_bytes = 2 * MIB + 3000, ramp_count = 5 * MIB / 8 + 1;
    uint64_t mixed_shape[1] = {mixed_bytes}, ramp_shape[2] = {1, ramp_count};
    uint32_t seed = 77;
    unsigned char *mixed = ousac_calloc(mixed_bytes, 1), *ramp = ousac_calloc(ramp_count, 4);
    if (!mixed || !ramp)
        die("memory", &error);
    for (size_t i = 2 * MIB; i < mixed_bytes; i++)
        mixed[i] = (unsigned char)(next_random(&seed) >> 9);
    mixed[MIB] = 1;
    for (size_t i = 0; i < ramp_count; i++)
        put_bytes(ramp + 4 * i, float_bits((double)(i >> 12), 8, 23), 4);
    add(g, "mixed", 5, 1, mixed_shape, 1, mixed, mixed_bytes, NULL);
    unsigned char *ramp_copy = ousac_malloc(ramp_count, 4);
    if (!ramp_copy)
        die("memory", &error);
    memcpy(ramp_copy, ramp, ramp_count * 4);
    uint64_t scaled_shape[3] = {2, 3, 50}, scale_shape[2] = {2, 3};
    unsigned char *scaled = ousac_malloc(300, 1), *numbers = ousac_malloc(300, 4),
                  *scales = ousac_malloc(6, 4);
    if (!scaled || !numbers || !scales)
        die("memory", &error);
    for (size_t i = 0; i < 300; i++) {
        int q = (int)(next_random(&seed) >> 8) % 256 - 128;
        double scale = ldexp((double)(i / 50 + 1), -7);
        scaled[i] = (unsigned char)q;
        put_bytes(scales + i / 50 * 4, float_bits(scale, 8, 23), 4);
        put_bytes(numbers + i * 4, float_bits((double)q * scale, 8, 23), 4);
    }
    add(g, "quantised", 4, 3, scaled_shape, 2, scaled, 300, numbers);
    unsigned char *scales_copy = ousac_malloc(6, 4);
    if (!scales_copy)
        die("memory", &error);
    memcpy(scales_copy, scales, 24);
    add(g, "quantised.scale", 1, 2, scale_shape, 0, scales, 24, scales_copy);
    add(g, "ramp", 1, 2, ramp_shape, 2, ramp, ramp_count * 4, ramp_copy);
    static const uint64_t one[1] = {1};
    add_random(g, "\xce\xb1/\xe6\x95\xb0/\xf0\x9f\x9a\x80", 0, 1, one, 0, 5);
    ousac_free(ramp_copy);
    ousac_free(numbers);
    ousac_free(scales_copy);
}

/* What a newer minor version may write: another minor number, an extension, and bits in the ignored fields.
 */
static void make_newer(const char *path) {
    ousac_error error = {0};
    ousac_file_view view = {NULL, 0};
    if (ousac_file_map(&view, path, &error))
        die(path, &error);
    unsigned char *data = ousac_calloc(view.size + 64, 1);
    if (!data)
        die("memory", &error);
    size_t index = 0, size = view.size + 64, chunks, end;
    memcpy(data, view.data, view.size);
    for (size_t i = 8; i-- > 0;)
        index = index << 8 | data[24 + i];
    end = 64 + index;
    size_t metadata = data[64], tensors = data[72], chunk_count = data[80]; /* all below 256 here */
    memmove(data + end + 64, data + end, view.size - end);
    memset(data + end, 0xe7, 64);
    put_bytes(data + 10, 3, 2);
    put_bytes(data + 24, index + 64, 8);
    put_bytes(data + 32, (end + 64 + 63) / 64 * 64, 8);
    put_bytes(data + 40, size, 8);
    put_bytes(data + 64 + 32, 64, 8);
    chunks = 64 + 48 + 32 * metadata + 104 * tensors;
    for (size_t i = 0; i < tensors; i++)
        memset(data + chunks - 104 * (i + 1) + 96, 0xff, 8);
    for (size_t i = 0; i < chunk_count; i++) {
        uint64_t offset = 0;
        for (size_t k = 8; k-- > 0;)
            offset = offset << 8 | data[chunks + 24 * i + k];
        put_bytes(data + chunks + 24 * i, offset + 64, 8);
    }
    put_bytes(data + 48, XXH64(data + 64, index + 64, 0), 8);
    put_bytes(data + 56, XXH64(data, 56, 0), 8);
    ousac_file_unmap(&view);
    if (ousac_file_replace(path, data, size, &error))
        die(path, &error);
    ousac_free(data);
}

static void fill_newer(golden *g) {
    static const uint64_t shape[2] = {5, 4};
    add_random(g, "a", 1, 2, shape, 0, 21);
    add_random(g, "b", 7, 2, shape, 2, 22);
}

static void fill_nothing(golden *g) {
    (void)g;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*fill)(golden *);
        const char *metadata[3][2];
    } files[] = {
        {"chunks", fill_chunks, {{"title", "several chunks"}, {"unit", "\xc2\xb5s"}, {NULL, NULL}}},
        {"dtypes", fill_dtypes, {{"empty", ""}, {"title", "every dtype and codec"}, {NULL, NULL}}},
        {"empty", fill_nothing, {{NULL, NULL}}},
        {"newer-minor", fill_newer, {{"title", "minor version 3"}, {NULL, NULL}}},
    };
    char path[PATH_BYTES];
    ousac_error error = {0};
    golden g = {NULL, NULL, ""};
    if (argc != 2) {
        (void)fputs("usage: make_golden DIRECTORY\n", stderr);
        return 2;
    }
    (void)snprintf(path, sizeof path, "%s/golden.json", argv[1]);
    g.json = fopen(path, "wb");
    if (!g.json) {
        perror(path);
        return 1;
    }
    (void)fputs("{", g.json);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (ousac_oca_writer_create(&g.writer, &error))
            die("writer", &error);
        (void)fprintf(g.json, "%s\n    \"%s.oca\": {\n      \"metadata\": {", i ? "," : "", files[i].name);
        for (size_t k = 0; files[i].metadata[k][0]; k++) {
            const char *const *pair = files[i].metadata[k];
            (void)fprintf(g.json, "%s\"%s\": \"%s\"", k ? ", " : "", pair[0], pair[1]);
            if (ousac_oca_writer_metadata(g.writer, pair[0], pair[1], &error))
                die(pair[0], &error);
        }
        (void)fputs("},\n      \"tensors\": {", g.json);
        g.separator = "";
        files[i].fill(&g);
        (void)fputs("}}", g.json);
        (void)snprintf(path, sizeof path, "%s/%s.oca", argv[1], files[i].name);
        if (ousac_oca_writer_save(g.writer, path, &error))
            die(path, &error);
        ousac_oca_writer_free(g.writer);
        if (files[i].fill == fill_newer)
            make_newer(path);
    }
    (void)fputs("\n}\n", g.json);
    return fclose(g.json) ? 1 : 0;
}
