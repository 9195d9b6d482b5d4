/* The CPU backend with the model's own linears in bfloat16: inputs and weights rounded to 8 bits of
 * significand, products accumulated in float32 by the processor's bfloat16 units (AMX-BF16 or AVX512_BF16),
 * through oneDNN.
 *
 * Weights are rounded once, when ousac_backend.prepare is told of them; a linear whose W was not prepared, or
 * with few rows, runs in float32 as on the CPU backend, and so does everything else: corrections, attention,
 * norms, factors.
 */
#ifndef OUSAC_BACKEND_BF16_H
#define OUSAC_BACKEND_BF16_H

#include "calib/backend/backend.h"
#include "formats/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Static storage. UNSUPPORTED, saying what is missing, where the processor has no bfloat16 units or oneDNN
 * (libdnnl.so.2 or .so.3, opened at run time) is not installed, lacks the product or refuses it here. */
ousac_status ousac_backend_bf16(const ousac_backend **backend, ousac_error *error);

/* "AMX-BF16", "AVX512_BF16" or NULL for none, by what CPUID leaf 7 says: EDX of subleaf 0, EAX of subleaf 1. */
const char *ousac_backend_bf16_units(unsigned edx, unsigned eax);

/* 1 where `backend` rounds linears to bfloat16. */
int ousac_backend_is_bf16(const ousac_backend *backend);

#ifdef __cplusplus
}
#endif
#endif
