/* Random DiT checkpoints for tests: any shapes, a pure function of the seed, activations of order 1 at every
 * depth, modulation and final layer alive. The same options give the same weights in either layout.
 *
 * Public layout: model.safetensors under the names of the public DiT checkpoints, config.json with the keys
 * of the shipped model, "mlp_ratio" besides where it is not 4. Diffusers layout:
 * diffusion_pytorch_model.safetensors and the config.json of DiTTransformer2DModel (names and order of parts
 * from diffusers' convert_dit_to_diffusers.py).
 */
#ifndef OUSAC_TESTS_RANDOM_DIT_H
#define OUSAC_TESTS_RANDOM_DIT_H

#include "formats/dtype.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

typedef enum random_dit_layout { RANDOM_DIT_PUBLIC = 0, RANDOM_DIT_DIFFUSERS = 1 } random_dit_layout;

typedef enum random_dit_positions {
    RANDOM_DIT_SINCOS = 0, /* stored in the public layout, absent in the other, which computes them */
    RANDOM_DIT_RANDOM = 1, /* stored in both, as "pos_embed" and "pos_embed.pos_embed" */
    RANDOM_DIT_ABSENT = 2  /* stored in neither */
} random_dit_positions;

typedef struct random_dit_options {
    uint64_t seed;
    size_t depth, width, heads,
        hidden; /* heads divides width; width a multiple of 4 for sine-cosine positions */
    size_t patch, channels, input_size; /* patch divides input_size, the height and the width */
    size_t classes;                     /* the label table has one row more */
    int learn_sigma;                    /* 1: twice as many output channels */
    random_dit_positions positions;
    ousac_dtype dtype; /* f32, f16 or bf16 */
    random_dit_layout layout;
    int zero_final; /* 1: the last linear is zero, as training begins with, and the model predicts 0 */
    int own_embedders; /* 1: every block has an embedder of its own; the public layout, which knows none, then has
                          those of later blocks beside, as "blocks.N.t_embedder...", for the oracle alone */
    double norm_eps; /* written to the diffusers config; 0: the key is left out */
} random_dit_options;

/* depth 2, width 24, 2 heads, hidden 96, patch 2, 3 channels, size 8 (16 tokens), 5 classes, f32, public
 * layout. */
random_dit_options random_dit_defaults(void);

/* Name of the weights file of a layout. */
const char *random_dit_file(random_dit_layout layout);

/* Writes weights and config.json into `directory`, which is made where it is missing (its parent must exist).
 */
ousac_status random_dit_write(const char *directory, const random_dit_options *options, ousac_error *error);

#endif
