#include "formats/dtype.h"

#include <float.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian and are used in place: a big-endian host needs byte swaps here"
#endif

_Static_assert(sizeof(float) == 4 && FLT_MANT_DIG == 24 && FLT_MAX_EXP == 128, "float must be binary32");
_Static_assert(sizeof(double) == 8 && DBL_MANT_DIG == 53, "double must be binary64");

size_t ousac_dtype_bytes(ousac_dtype dtype) {
    switch (dtype) {
    case OUSAC_DTYPE_F64:
    case OUSAC_DTYPE_I64:
        return 8;
    case OUSAC_DTYPE_F32:
    case OUSAC_DTYPE_I32:
        return 4;
    case OUSAC_DTYPE_F16:
    case OUSAC_DTYPE_BF16:
        return 2;
    case OUSAC_DTYPE_I8:
    case OUSAC_DTYPE_U8:
        return 1;
    }
    return 0;
}

const char *ousac_dtype_name(ousac_dtype dtype) {
    switch (dtype) {
    case OUSAC_DTYPE_F64:
        return "f64";
    case OUSAC_DTYPE_F32:
        return "f32";
    case OUSAC_DTYPE_F16:
        return "f16";
    case OUSAC_DTYPE_BF16:
        return "bf16";
    case OUSAC_DTYPE_I8:
        return "i8";
    case OUSAC_DTYPE_U8:
        return "u8";
    case OUSAC_DTYPE_I32:
        return "i32";
    case OUSAC_DTYPE_I64:
        return "i64";
    }
    return "?";
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* binary16: sign 1, exponent 5 (bias 15), fraction 10. binary32: sign 1, exponent 8 (bias 127), fraction 23.
 */

float ousac_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (uint32_t)half >> 10 & 0x1fu;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1f) /* infinity, or NaN with its payload */
        return bits_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* zero and subnormals: fraction x 2^-24, exact in binary32 */
        float magnitude = (float)fraction * 0x1p-24f;
        return bits_float(sign | float_bits(magnitude));
    }
    return bits_float(sign | (exponent + (127 - 15)) << 23 | fraction << 13);
}

float ousac_bf16_to_f32(uint16_t bits) {
    return bits_float((uint32_t)bits << 16);
}

/* value >> shift, rounded to nearest, ties to even; 1 <= shift <= 31. */
static uint32_t shift_rounding(uint32_t value, unsigned shift) {
    uint32_t kept = value >> shift;
    uint32_t rest = value & ((1u << shift) - 1), half = 1u << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

uint16_t ousac_f32_to_f16(float value) {
    uint32_t bits = float_bits(value);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) /* NaN: upper payload kept, made quiet lest it become an infinity */
        half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    else if (magnitude >= 0x477ff000u) /* >= 65520, halfway from the largest finite value to 2^16 */
        half = 0x7c00u;
    else if (magnitude >= 0x38800000u) /* >= 2^-14: normal; a carry out of the fraction raises the exponent */
        half = shift_rounding(magnitude - ((uint32_t)(127 - 15) << 23), 13);
    else if (magnitude >= 0x33000000u) /* >= 2^-25: subnormal, in units of 2^-24 */
        half = shift_rounding((magnitude & 0x7fffffu) | 0x800000u, 126 - (magnitude >> 23));
    else
        half = 0;
    return (uint16_t)(sign | half);
}

uint16_t ousac_f32_to_bf16(float value) {
    uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) >
        0x7f800000u) /* NaN: made quiet, because its payload may lie in the dropped half */
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)shift_rounding(bits, 16); /* a carry past the largest finite value gives infinity */
}

int ousac_dtype_to_f32(ousac_dtype dtype, const void *source, size_t count, float *target) {
    const unsigned char *bytes = source;
    uint16_t half;
    double wide;
    switch (dtype) {
    case OUSAC_DTYPE_F64:
        for (size_t i = 0; i < count; i++) {
            memcpy(&wide, bytes + i * sizeof wide, sizeof wide);
            target[i] = (float)wide;
        }
        return 0;
    case OUSAC_DTYPE_F32:
        if (count)
            memcpy(target, source, count * sizeof *target);
        return 0;
    case OUSAC_DTYPE_F16:
        for (size_t i = 0; i < count; i++) {
            memcpy(&half, bytes + i * sizeof half, sizeof half);
            target[i] = ousac_f16_to_f32(half);
        }
        return 0;
    case OUSAC_DTYPE_BF16:
        for (size_t i = 0; i < count; i++) {
            memcpy(&half, bytes + i * sizeof half, sizeof half);
            target[i] = ousac_bf16_to_f32(half);
        }
        return 0;
    default:
        return -1;
    }
}

int ousac_dtype_from_f32(ousac_dtype dtype, const float *source, size_t count, void *target) {
    unsigned char *bytes = target;
    uint16_t half;
    double wide;
    switch (dtype) {
    case OUSAC_DTYPE_F64:
        for (size_t i = 0; i < count; i++) {
            wide = (double)source[i];
            memcpy(bytes + i * sizeof wide, &wide, sizeof wide);
        }
        return 0;
    case OUSAC_DTYPE_F32:
        if (count)
            memcpy(target, source, count * sizeof *source);
        return 0;
    case OUSAC_DTYPE_F16:
        for (size_t i = 0; i < count; i++) {
            half = ousac_f32_to_f16(source[i]);
            memcpy(bytes + i * sizeof half, &half, sizeof half);
        }
        return 0;
    case OUSAC_DTYPE_BF16:
        for (size_t i = 0; i < count; i++) {
            half = ousac_f32_to_bf16(source[i]);
            memcpy(bytes + i * sizeof half, &half, sizeof half);
        }
        return 0;
    default:
        return -1;
    }
}
