/* Element types of the files, and their conversion to and from float32.
 *
 * f16 is IEEE 754 binary16, bf16 the upper half of binary32; both conversions from float32 round to nearest,
 * ties to even, keep infinities and NaN, and bf16 and f16 to float32 are exact.
 */
#ifndef OUSAC_DTYPE_H
#define OUSAC_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ousac_dtype {
    OUSAC_DTYPE_F64 = 0,
    OUSAC_DTYPE_F32 = 1,
    OUSAC_DTYPE_F16 = 2,
    OUSAC_DTYPE_BF16 = 3,
    OUSAC_DTYPE_I8 = 4,
    OUSAC_DTYPE_U8 = 5,
    OUSAC_DTYPE_I32 = 6,
    OUSAC_DTYPE_I64 = 7
} ousac_dtype;

/* Bytes of one element; 0 for a value that is no dtype. */
size_t ousac_dtype_bytes(ousac_dtype dtype);
/* "f64", "f32", "f16", "bf16", "i8", "u8", "i32", "i64"; "?" for a value that is no dtype. */
const char *ousac_dtype_name(ousac_dtype dtype);

float ousac_f16_to_f32(uint16_t bits);
float ousac_bf16_to_f32(uint16_t bits);
uint16_t ousac_f32_to_f16(float value);
uint16_t ousac_f32_to_bf16(float value);

/* Converts `count` elements, any alignment of `source`; dtypes f64 (rounded), f32, f16, bf16.
 * Returns 0, or -1 for another dtype. */
int ousac_dtype_to_f32(ousac_dtype dtype, const void *source, size_t count, float *target);
/* The reverse; dtypes f64, f32, f16, bf16. */
int ousac_dtype_from_f32(ousac_dtype dtype, const float *source, size_t count, void *target);

#ifdef __cplusplus
}
#endif
#endif
