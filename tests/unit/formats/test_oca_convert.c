/* Conversion while reading an .oca archive: correctly rounded, exact where it can be. The oracle is
 * arithmetic by ldexp and a search among the neighbours, which shares nothing with the reader, and the
 * compiler's own double to float.
 */
#include "formats/oca.h"
#include "formats/oca_write.h"
#include "tests/support/oca_items.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Value of a positive pattern of a format with `mantissa` stored bits and exponent bias `bias`. */
static double pattern_value(uint32_t pattern, int mantissa, int bias) {
    int exponent = (int)(pattern >> mantissa);
    double fraction = (double)(pattern & ((1u << mantissa) - 1));
    return exponent ? ldexp(fraction + (double)(1u << mantissa), exponent - bias - mantissa)
                    : ldexp(fraction, 1 - bias - mantissa);
}

/* The 16-bit pattern nearest to x, ties to even, by search among the neighbours; `infinity` its pattern. */
static uint16_t nearest_pattern(double x, int mantissa, int bias, uint32_t infinity) {
    uint32_t sign = signbit(x) ? 0x8000u : 0, low = 0, high = infinity;
    double size = fabs(x);
    if (isinf(x))
        return (uint16_t)(sign | infinity);
    while (high - low > 1) { /* value(low) <= size, and high is above it or infinite */
        uint32_t middle = (low + high) / 2;
        if (pattern_value(middle, mantissa, bias) <= size)
            low = middle;
        else
            high = middle;
    }
    double below = size - pattern_value(low, mantissa, bias),
           above = pattern_value(high, mantissa, bias) - size;
    int up = above < below || (above == below && (low & 1));
    return (uint16_t)(sign | (up ? high : low));
}

static double half_value(uint16_t bits, int mantissa, int bias, uint32_t infinity) {
    double sign = bits & 0x8000 ? -1 : 1;
    uint32_t pattern = bits & 0x7fffu;
    return sign * (pattern == infinity ? (double)INFINITY : pattern_value(pattern, mantissa, bias));
}

/* Doubles that lie on, beside and between the values of the narrower formats, and at their ends. */
static size_t hard_doubles(double *values, size_t room) {
    uint64_t seed = 99;
    size_t n = 0;
    static const double ends[] = {0,
                                  65504,
                                  65519.999,
                                  65520,
                                  65536,
                                  1e300,
                                  5e-324,
                                  3.4028235e38,
                                  3.4028236e38,
                                  0x1.fffffefffffffp127,
                                  0x1.ffffffp127,
                                  0x1p-149,
                                  0x1p-150,
                                  0x1.0000001p-150,
                                  0x1p-24,
                                  0x1p-25,
                                  0x1.0000000000001p-25,
                                  0x1p-133,
                                  0x1p-134,
                                  0x1.8p-134,
                                  0x1p-14,
                                  0x1.ffcp-15,
                                  0x1.ffep-15,
                                  0x1.fep127,
                                  0x1.ffp127,
                                  0x1.fefp127};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        values[n++] = ends[i];
        values[n++] = -ends[i];
    }
    values[n++] = INFINITY;
    values[n++] = -INFINITY;
    while (n + 3 <= room) {
        uint64_t r = oca_test_random(&seed);
        int bias = r & 1 ? 15 : 127, mantissa = r & 1 ? 10 : 7;
        uint32_t pattern = (uint32_t)(r >> 8) % (r & 1 ? 0x7c00u : 0x7f80u);
        double middle =
            (pattern_value(pattern, mantissa, bias) + pattern_value(pattern + 1, mantissa, bias)) / 2;
        values[n++] = middle;
        values[n++] = -nextafter(middle, 0);
        values[n++] = nextafter(middle, INFINITY);
    }
    return n;
}

static void write_one(const char *name, ousac_dtype dtype, size_t dims, const uint64_t *shape,
                      ousac_oca_codec codec, const void *data, const float *scales, size_t scale_dims,
                      const uint64_t *scale_shape) {
    ousac_oca_writer *writer = NULL;
    char scale_name[OCA_NAME_BYTES];
    (void)snprintf(scale_name, sizeof scale_name, "%s.scale", name);
    assert_int_equal(ousac_oca_writer_create(&writer, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_tensor(writer, name, dtype, dims, shape, codec, data, NULL),
                     OUSAC_STATUS_OK);
    if (scales)
        assert_int_equal(ousac_oca_writer_tensor(writer, scale_name, OUSAC_DTYPE_F32, scale_dims, scale_shape,
                                                 OUSAC_OCA_CODEC_RAW, scales, NULL),
                         OUSAC_STATUS_OK);
    assert_int_equal(ousac_oca_writer_save(writer, oca_test_path, NULL), OUSAC_STATUS_OK);
    ousac_oca_writer_free(writer);
}

static void test_doubles_round_correctly_to_every_float(void **state) {
    (void)state;
    enum { ROOM = 200000 };
    double *values = malloc(ROOM * sizeof *values);
    float *f32 = malloc(ROOM * sizeof *f32);
    uint16_t *half = malloc(ROOM * sizeof *half);
    uint64_t n = hard_doubles(values, ROOM);
    oca_file *file = NULL;
    write_one("x", OUSAC_DTYPE_F64, 1, &n, OUSAC_OCA_CODEC_SHUFFLE_ZSTD, values, NULL, 0, NULL);
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    assert_int_equal(oca_read(file, 0, 0, n, OCA_F32, f32, n * 4), OCA_OK);
    for (size_t i = 0; i < n; i++) {
        float expected = (float)values[i];
        if (memcmp(&f32[i], &expected, 4))
            fail_msg("%a to f32: %a, expected %a", values[i], (double)f32[i], (double)expected);
    }
    assert_int_equal(oca_read(file, 0, 0, n, OCA_F16, half, n * 2), OCA_OK);
    for (size_t i = 0; i < n; i++)
        if (half[i] != nearest_pattern(values[i], 10, 15, 0x7c00))
            fail_msg("%a to f16: %#x, expected %#x", values[i], half[i],
                     nearest_pattern(values[i], 10, 15, 0x7c00));
    assert_int_equal(oca_read(file, 0, 0, n, OCA_BF16, half, n * 2), OCA_OK);
    for (size_t i = 0; i < n; i++)
        if (half[i] != nearest_pattern(values[i], 7, 127, 0x7f80))
            fail_msg("%a to bf16: %#x, expected %#x", values[i], half[i],
                     nearest_pattern(values[i], 7, 127, 0x7f80));
    oca_close(file);
    free(values);
    free(f32);
    free(half);
}

/* All 65536 patterns of both, to f64 and f32 exactly, to themselves bit by bit, NaN to NaN. */
static void test_every_half_widens_exactly(void **state) {
    (void)state;
    static uint16_t patterns[65536], back[65536];
    static double wide[65536];
    static float single[65536];
    for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
        uint64_t n = 65536;
        uint32_t infinity = is_bf16 ? 0x7f80 : 0x7c00;
        oca_file *file = NULL;
        for (uint32_t i = 0; i < n; i++)
            patterns[i] = (uint16_t)i;
        write_one("x", is_bf16 ? OUSAC_DTYPE_BF16 : OUSAC_DTYPE_F16, 1, &n, OUSAC_OCA_CODEC_RAW, patterns,
                  NULL, 0, NULL);
        assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
        assert_int_equal(oca_read(file, 0, 0, n, OCA_F64, wide, sizeof wide), OCA_OK);
        assert_int_equal(oca_read(file, 0, 0, n, OCA_F32, single, sizeof single), OCA_OK);
        assert_int_equal(oca_read(file, 0, 0, n, is_bf16 ? OCA_BF16 : OCA_F16, back, sizeof back), OCA_OK);
        assert_memory_equal(back, patterns, sizeof back);
        for (uint32_t i = 0; i < n; i++) {
            if ((i & 0x7fff) > infinity) {
                assert_true(isnan(wide[i]) && isnan(single[i]));
                assert_int_equal(!!signbit(wide[i]), i >> 15);
                continue;
            }
            double expected = half_value((uint16_t)i, is_bf16 ? 7 : 10, is_bf16 ? 127 : 15, infinity);
            assert_true(wide[i] == expected && (double)single[i] == expected);
            assert_int_equal(!!signbit(single[i]), i >> 15);
        }
        oca_close(file);
    }
}

static void test_nan_and_float32_narrowing(void **state) {
    (void)state;
    float values[4096];
    uint16_t half[4096];
    double wide[4096];
    uint64_t n = 4096, seed = 4;
    oca_file *file = NULL;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)oca_test_random(&seed);
        memcpy(&values[i], &bits, 4);
    }
    values[0] = NAN;
    values[1] = -0.0f;
    values[2] = 0x1p-149f; /* subnormal */
    write_one("x", OUSAC_DTYPE_F32, 1, &n, OUSAC_OCA_CODEC_ZSTD, values, NULL, 0, NULL);
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    assert_int_equal(oca_read(file, 0, 0, n, OCA_F64, wide, sizeof wide), OCA_OK);
    for (size_t i = 0; i < n; i++)
        assert_true(isnan(values[i]) ? isnan(wide[i]) : wide[i] == (double)values[i]);
    assert_true(signbit(wide[1]));
    assert_int_equal(oca_read(file, 0, 0, n, OCA_F16, half, sizeof half), OCA_OK);
    for (size_t i = 0; i < n; i++) {
        if (isnan(values[i]))
            assert_true((half[i] & 0x7fff) > 0x7c00);
        else
            assert_int_equal(half[i], nearest_pattern((double)values[i], 10, 15, 0x7c00));
    }
    assert_int_equal(oca_read(file, 0, 0, n, OCA_BF16, half, sizeof half), OCA_OK);
    for (size_t i = 0; i < n; i++) {
        if (isnan(values[i]))
            assert_true((half[i] & 0x7fff) > 0x7f80);
        else
            assert_int_equal(half[i], nearest_pattern((double)values[i], 7, 127, 0x7f80));
    }
    oca_close(file);
}

static void test_scaled_i8(void **state) {
    (void)state;
    enum { ROWS = 6, INNER = 4, RUN = 100003 }; /* 2.4 MB: rows straddle chunks */
    static const uint64_t shapes[3][3] = {
        {ROWS * INNER * RUN, 0, 0}, {ROWS * INNER, RUN, 0}, {ROWS, INNER, RUN}};
    static const uint64_t scale_shapes[3][2] = {{1, 0}, {ROWS * INNER, 0}, {ROWS, INNER}};
    size_t total = (size_t)ROWS * INNER * RUN;
    signed char *data = malloc(total);
    float *target = malloc(total * sizeof *target), scales[ROWS * INNER];
    uint64_t seed = 7;
    for (size_t i = 0; i < total; i++)
        data[i] = (signed char)(oca_test_random(&seed) % 256 - 128);
    for (int i = 0; i < ROWS * INNER; i++)
        scales[i] = 0.001f * (float)(i + 1);
    for (size_t dims = 1; dims <= 3; dims++) {
        oca_file *file = NULL;
        size_t row = total / (size_t)shapes[dims - 1][0];
        write_one("q", OUSAC_DTYPE_I8, dims, shapes[dims - 1], OUSAC_OCA_CODEC_ZSTD, data, scales,
                  dims > 1 ? dims - 1 : 1, scale_shapes[dims - 1]);
        assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
        for (uint64_t first = 0; first < 4; first++) {
            uint64_t rows = shapes[dims - 1][0] - first - 1;
            size_t count = (size_t)rows * row;
            assert_int_equal(oca_read(file, 0, first, rows, OCA_F32, target, count * 4), OCA_OK);
            for (size_t i = 0; i < count; i++) {
                size_t at = (size_t)first * row + i;
                float scale = dims == 1 ? scales[0] : scales[at / RUN];
                if (target[i] != (float)data[at] * scale)
                    fail_msg("dims %zu element %zu: %a", dims, at, (double)target[i]);
            }
            assert_int_equal(oca_read(file, 0, first, rows, OCA_I8, target, count), OCA_OK);
            assert_memory_equal(target, data + (size_t)first * row, count);
        }
        oca_close(file);
    }
    uint64_t one[2] = {2, 3};
    oca_file *file = NULL;
    write_one("q", OUSAC_DTYPE_I8, 2, one, OUSAC_OCA_CODEC_RAW, data, NULL, 0, NULL);
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    assert_int_equal(oca_read(file, 0, 0, 2, OCA_F32, target, 24), OCA_ERR_SCALE);
    assert_int_equal(oca_read(file, 0, 0, 2, OCA_I8, target, 6), OCA_OK);
    oca_close(file);
    free(data);
    free(target);
}

static void test_other_conversions_are_refused(void **state) {
    (void)state;
    items all = items_create(8);
    for (int dtype = 0; dtype < 8; dtype++) {
        char name[OCA_NAME_BYTES];
        uint64_t shape[1] = {3};
        (void)snprintf(name, sizeof name, "%d", dtype);
        items_add(&all, name, (ousac_dtype)dtype, OUSAC_OCA_CODEC_RAW, 1, shape, 0);
    }
    assert_int_equal(items_write(&all, 0, NULL), OUSAC_STATUS_OK);
    oca_file *file = NULL;
    assert_int_equal(oca_open_path(&file, oca_test_path, NULL), OCA_OK);
    for (size_t from = 0; from < 8; from++)
        for (size_t as = 0; as < 8; as++) {
            unsigned char target[24];
            oca_status status =
                oca_read(file, from, 0, 3, (oca_dtype)as, target, 3 * oca_test_element_bytes[as]);
            oca_status expected = from == as || (from < 4 && as < 4) ? OCA_OK
                                  : from == 4 && as < 4              ? OCA_ERR_SCALE
                                                                     : OCA_ERR_UNSUPPORTED;
            assert_int_equal(status, expected);
        }
    oca_close(file);
    items_free(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_doubles_round_correctly_to_every_float),
        cmocka_unit_test(test_every_half_widens_exactly),
        cmocka_unit_test(test_nan_and_float32_narrowing),
        cmocka_unit_test(test_scaled_i8),
        cmocka_unit_test(test_other_conversions_are_refused),
    };
    return cmocka_run_group_tests_name("oca_convert", tests, oca_test_setup, oca_test_teardown);
}
