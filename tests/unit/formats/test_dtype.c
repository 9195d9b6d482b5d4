/* f16 and bf16 conversions, over every 16-bit pattern and around every rounding boundary, against an oracle
 * that works in double with ldexp and nearbyint and never touches the bits of a float. */
#include "formats/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

typedef struct half_format {
    int exponent_bits, fraction_bits;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
} half_format;

static const half_format f16 = {5, 10, ousac_f16_to_f32, ousac_f32_to_f16};
static const half_format bf16 = {8, 7, ousac_bf16_to_f32, ousac_f32_to_bf16};

static int bias(const half_format *format) {
    return (1 << (format->exponent_bits - 1)) - 1;
}

/* The value of a bit pattern, from the definition of the format. */
static double oracle_value(const half_format *format, unsigned pattern) {
    int exponent = (int)(pattern >> format->fraction_bits) & ((1 << format->exponent_bits) - 1);
    int fraction = (int)pattern & ((1 << format->fraction_bits) - 1);
    double value;
    if (exponent == (1 << format->exponent_bits) - 1)
        value = fraction ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        value = ldexp(fraction, 1 - bias(format) - format->fraction_bits);
    else
        value =
            ldexp(fraction + (1 << format->fraction_bits), exponent - bias(format) - format->fraction_bits);
    return pattern & 0x8000 ? -value : value;
}

/* x rounded to the format, to nearest with ties to even (nearbyint in the default rounding mode). */
static double oracle_round(const half_format *format, double x) {
    int exponent, smallest = 1 - bias(format);
    double unit, rounded;
    if (isnan(x) || isinf(x))
        return x;
    (void)frexp(x, &exponent); /* |x| in [2^(exponent - 1), 2^exponent) */
    exponent -= 1;
    if (x == 0 || exponent < smallest)
        exponent = smallest;
    unit = ldexp(1, exponent - format->fraction_bits);
    rounded = nearbyint(x / unit) * unit;
    return fabs(rounded) >= ldexp(1, bias(format) + 1) ? copysign((double)INFINITY, x) : copysign(rounded, x);
}

static void assert_same(double found, double expected) {
    if (isnan(expected)) {
        assert_true(isnan(found));
        return;
    }
    assert_true(found == expected);
    assert_int_equal(!signbit(found), !signbit(expected));
}

static void check_narrow(const half_format *format, float x) {
    assert_same(oracle_value(format, format->narrow(x)), oracle_round(format, (double)x));
}

static void check_every_pattern(const half_format *format) {
    for (unsigned pattern = 0; pattern < 65536; pattern++) {
        double expected = oracle_value(format, pattern);
        float wide = format->widen((uint16_t)pattern);
        uint16_t back = format->narrow(wide);
        assert_same((double)wide, expected);
        if (isnan(expected))
            assert_true(isnan(oracle_value(format, back)));
        else
            assert_int_equal(back, pattern);
    }
}

/* Between each pair of neighbours: just above the lower, around the middle, just below the upper. */
static void check_every_boundary(const half_format *format) {
    unsigned infinity = ((1u << format->exponent_bits) - 1) << format->fraction_bits;
    for (unsigned pattern = 0; pattern < infinity; pattern++) {
        double low = oracle_value(format, pattern);
        double high = pattern + 1 < infinity ? oracle_value(format, pattern + 1) : ldexp(1, bias(format) + 1);
        float middle = (float)((low + high) / 2); /* exact: a float has bits to spare, except at bf16's top */
        float probes[5] = {nextafterf((float)low, INFINITY), nextafterf(middle, 0), middle,
                           nextafterf(middle, INFINITY), nextafterf((float)high, 0)};
        for (int i = 0; i < 5; i++) {
            check_narrow(format, probes[i]);
            check_narrow(format, -probes[i]);
        }
    }
}

static void check_spread_of_floats(const half_format *format) {
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 19937) {
        uint32_t pattern = (uint32_t)bits;
        float x;
        memcpy(&x, &pattern, sizeof x);
        check_narrow(format, x);
    }
}

static void check_nans(const half_format *format) {
    static const uint32_t nans[] = {0x7f800001, 0x7f801fff, 0x7f80ffff, 0x7fc00000,
                                    0x7fffffff, 0xff800001, 0xffffffff};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        float x;
        uint16_t half;
        memcpy(&x, &nans[i], sizeof x);
        half = format->narrow(x);
        assert_true(isnan(oracle_value(format, half)));
        assert_int_equal(half >> 15, nans[i] >> 31);
    }
}

static void f16_every_pattern(void **state) {
    (void)state;
    check_every_pattern(&f16);
}

static void bf16_every_pattern(void **state) {
    (void)state;
    check_every_pattern(&bf16);
}

static void f16_rounds_to_nearest_even(void **state) {
    (void)state;
    check_every_boundary(&f16);
    check_spread_of_floats(&f16);
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    check_every_boundary(&bf16);
    check_spread_of_floats(&bf16);
}

static void nan_stays_nan(void **state) {
    (void)state;
    check_nans(&f16);
    check_nans(&bf16);
}

/* Written out by hand from the formats' definitions. */
static void known_values(void **state) {
    (void)state;
    assert_int_equal(ousac_f32_to_f16(1), 0x3c00);
    assert_int_equal(ousac_f32_to_f16(-2), 0xc000);
    assert_int_equal(ousac_f32_to_f16(65504), 0x7bff);
    assert_int_equal(ousac_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(ousac_f32_to_f16(65520), 0x7c00);
    assert_int_equal(ousac_f32_to_f16(0x1p-24f), 0x0001);
    assert_int_equal(ousac_f32_to_f16(0x1p-25f), 0x0000);
    assert_int_equal(ousac_f32_to_f16(-0x1.8p-25f), 0x8001);
    assert_int_equal(ousac_f32_to_bf16(1), 0x3f80);
    assert_int_equal(ousac_f32_to_bf16(0x1.fep+127f), 0x7f7f);
    assert_int_equal(ousac_f32_to_bf16(0x1.fffffep+127f), 0x7f80);
}

static void sizes_and_names(void **state) {
    static const struct {
        ousac_dtype dtype;
        int value;
        size_t bytes;
        const char *name;
    } expected[] = {
        {OUSAC_DTYPE_F64, 0, 8, "f64"},   {OUSAC_DTYPE_F32, 1, 4, "f32"}, {OUSAC_DTYPE_F16, 2, 2, "f16"},
        {OUSAC_DTYPE_BF16, 3, 2, "bf16"}, {OUSAC_DTYPE_I8, 4, 1, "i8"},   {OUSAC_DTYPE_U8, 5, 1, "u8"},
        {OUSAC_DTYPE_I32, 6, 4, "i32"},   {OUSAC_DTYPE_I64, 7, 8, "i64"}, {(ousac_dtype)8, 8, 0, "?"}};
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(expected[i].dtype, expected[i].value);
        assert_int_equal(ousac_dtype_bytes(expected[i].dtype), expected[i].bytes);
        assert_string_equal(ousac_dtype_name(expected[i].dtype), expected[i].name);
    }
}

static void arrays_of_any_alignment(void **state) {
    static const ousac_dtype dtypes[] = {OUSAC_DTYPE_F64, OUSAC_DTYPE_F32, OUSAC_DTYPE_F16, OUSAC_DTYPE_BF16};
    static const float values[5] = {1.5f, -0.25f, 384, 0, -96}; /* exact in all four */
    unsigned char bytes[8 * 5 + 3];
    float back[5];
    (void)state;
    for (size_t d = 0; d < 4; d++)
        for (size_t shift = 0; shift < 3; shift++) {
            memset(bytes, 0xee, sizeof bytes);
            memset(back, 0xee, sizeof back);
            assert_int_equal(ousac_dtype_from_f32(dtypes[d], values, 5, bytes + shift), 0);
            assert_int_equal(bytes[shift + 5 * ousac_dtype_bytes(dtypes[d])], 0xee);
            assert_int_equal(ousac_dtype_to_f32(dtypes[d], bytes + shift, 5, back), 0);
            for (int i = 0; i < 5; i++)
                assert_same((double)back[i], (double)values[i]);
        }
}

static void f64_is_rounded(void **state) {
    const double wide[4] = {1 + 0x1p-24, 1 + 0x1.8p-23, 1e300, -1e-320};
    float narrow[4];
    (void)state;
    assert_int_equal(ousac_dtype_to_f32(OUSAC_DTYPE_F64, wide, 4, narrow), 0);
    assert_same((double)narrow[0], 1); /* tie to even */
    assert_same((double)narrow[1], 1 + 0x1p-22);
    assert_same((double)narrow[2], (double)INFINITY);
    assert_same((double)narrow[3], -0.0);
}

static void other_dtypes_are_refused(void **state) {
    static const ousac_dtype others[] = {OUSAC_DTYPE_I8, OUSAC_DTYPE_U8, OUSAC_DTYPE_I32, OUSAC_DTYPE_I64,
                                         (ousac_dtype)99};
    unsigned char bytes[8] = {0};
    float value = 5;
    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_int_equal(ousac_dtype_to_f32(others[i], bytes, 1, &value), -1);
        assert_int_equal(ousac_dtype_from_f32(others[i], &value, 1, bytes), -1);
    }
    assert_same((double)value, 5);
    assert_int_equal(bytes[0], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_every_pattern),
        cmocka_unit_test(bf16_every_pattern),
        cmocka_unit_test(f16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(nan_stays_nan),
        cmocka_unit_test(known_values),
        cmocka_unit_test(sizes_and_names),
        cmocka_unit_test(arrays_of_any_alignment),
        cmocka_unit_test(f64_is_rounded),
        cmocka_unit_test(other_dtypes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
