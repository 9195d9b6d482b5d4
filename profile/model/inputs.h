/* The inputs file: what samples are conditioned on, where that is not drawn. Safetensors; every tensor has P
 * rows, and sample j takes row j mod P. The names that there are, each optional, a family says of which it
 * needs and takes:
 *
 *     label (P)                    whole numbers, I64 or I32
 *     prompt_embeds (P, L, c)      embeddings of L text tokens
 *     prompt_mask (P, L)           1 of tokens that are there, else 0
 *     pooled (P, c)
 *     negative_prompt_embeds, negative_prompt_mask, negative_pooled    likewise, of the unconditional branch
 *     guidance (P)                 the scale that a guidance-distilled model is told
 *     resolution (P, 2)            height and width that the model is told, pixels
 *     aspect_ratio (P, 1)
 *     noise (P, channels, height, width)    the initial state, in place of the seed's
 *
 * All but labels are F32, F16, BF16 or F64. Values are read where they lie, row by row.
 */
#ifndef OUSAC_INPUTS_H
#define OUSAC_INPUTS_H

#include "formats/sha256.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ousac_input {
    OUSAC_INPUT_LABEL = 0,
    OUSAC_INPUT_PROMPT_EMBEDS = 1,
    OUSAC_INPUT_PROMPT_MASK = 2,
    OUSAC_INPUT_POOLED = 3,
    OUSAC_INPUT_NEGATIVE_PROMPT_EMBEDS = 4,
    OUSAC_INPUT_NEGATIVE_PROMPT_MASK = 5,
    OUSAC_INPUT_NEGATIVE_POOLED = 6,
    OUSAC_INPUT_GUIDANCE = 7,
    OUSAC_INPUT_RESOLUTION = 8,
    OUSAC_INPUT_ASPECT_RATIO = 9,
    OUSAC_INPUT_NOISE = 10,
    OUSAC_INPUT_COUNT = 11
} ousac_input;

const char *ousac_input_name(ousac_input input);

/* Immutable after opening; safe to share between threads. */
typedef struct ousac_inputs ousac_inputs;

/* Reads the whole file once. Errors: IO; FORMAT naming file and tensor: an unknown name, another number of
 * dimensions or of rows than the others have, no rows, a label or mask out of range; NUMBER for a value that is
 * not finite. Free with ousac_inputs_close. */
ousac_status ousac_inputs_open(ousac_inputs **inputs, const char *path, ousac_error *error);
void ousac_inputs_close(ousac_inputs *inputs);

/* SHA-256 of what is in it, whatever its dtypes: names, shapes, labels, float32 values. */
const char *ousac_inputs_digest(const ousac_inputs *inputs);
/* P. */
size_t ousac_inputs_rows(const ousac_inputs *inputs);
/* 1 where `inputs` (may be NULL) holds it. */
int ousac_inputs_has(const ousac_inputs *inputs, ousac_input input);

/* For a family's check. FORMAT, naming file and tensor, where it is there in another shape than (P, shape), or is
 * not there although `required`. */
ousac_status ousac_inputs_expect(const ousac_inputs *inputs, ousac_input input, int required, size_t dims,
                                 const size_t *shape, ousac_error *error);
/* FORMAT where the file holds what is not in `taken`, one bit (1 << input) each. */
ousac_status ousac_inputs_refuse_others(const ousac_inputs *inputs, unsigned taken, const char *family,
                                        ousac_error *error);

/* The row of a sample: as many values as a row has, host memory. The input must be there, and no label. */
void ousac_inputs_read(const ousac_inputs *inputs, ousac_input input, uint64_t sample, float *values);
uint64_t ousac_inputs_label(const ousac_inputs *inputs, uint64_t sample);

#ifdef __cplusplus
}
#endif
#endif
