/* Noise schedules of diffusion training: betas to cumulative products.
 */
#ifndef OUSAC_NOISE_H
#define OUSAC_NOISE_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* `text` is "linear FIRST LAST STEPS" or "scaled_linear FIRST LAST STEPS" (linear in the root of beta). On
 * return *alpha_bar (ousac_free) holds the STEPS products of 1 - beta, in double. FORMAT naming `where`. */
ousac_status ousac_noise_parse(const char *text, const char *where, double **alpha_bar, size_t *steps,
                               ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
