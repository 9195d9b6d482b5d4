/* The DiT family (arXiv 2212.09748): class-conditional transformers with adaLN-Zero blocks, float32.
 *
 * Layouts: the public checkpoints' names (blocks.N.attn.qkv, ...) and diffusers'
 * (transformer_blocks.N.attn1.to_q, ...). Diffusers runs the same weights with two other constants, which its
 * config.json implies here too: timestep frequencies exp(-ln(10000) i / 127) instead of / 128, and the
 * config's norm_eps in the norm before the MLP.
 */
#ifndef OUSAC_DIT_H
#define OUSAC_DIT_H

#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ousac_dit_block {
    const float *qkv, *qkv_bias;   /* (3d, d), (3d) or NULL */
    const float *proj, *proj_bias; /* (d, d), (d) */
    const float *fc1, *fc1_bias;   /* (hidden, d), (hidden) */
    const float *fc2, *fc2_bias;   /* (d, hidden), (d) */
    const float *modulation,
        *modulation_bias; /* (6d, d), (6d): shift, scale, gate of attention, then of the MLP */
} ousac_dit_block;

/* Timestep and label to a condition. */
typedef struct ousac_dit_embedder {
    const float *t_w0, *t_bias0; /* (d, frequencies), (d) */
    const float *t_w2, *t_bias2; /* (d, d), (d) */
    const float *table;          /* (table_rows, d) */
} ousac_dit_embedder;

typedef struct ousac_dit {
    size_t L, N, d, hidden, heads;
    size_t side;         /* patches along an edge; N = side^2 */
    size_t patch;        /* pixels along a patch's edge */
    size_t channels;     /* of the sample */
    size_t out_channels; /* channels, or twice that with learn_sigma */
    size_t classes;      /* labels 0..classes-1 */
    size_t table_rows;   /* classes, or classes + 1 with the unconditional label last */
    size_t frequencies;  /* width of the timestep's features: cosines, then sines */
    double frequency_denominator;
    float attn_norm_eps, mlp_norm_eps, final_norm_eps;
    char **class_names; /* (classes) from the config, or NULL */

    const float *patch_w, *patch_bias; /* (d, C p p), (d) */
    const float *pos_embed;            /* (N, d) */
    ousac_dit_embedder
        *embedder; /* (embedders): one, or one a block, whose first is also the final layer's */
    size_t embedders;
    ousac_dit_block *block;                                /* (L) */
    const float *final_modulation, *final_modulation_bias; /* (2d, d), (2d): shift, scale */
    const float *final_w, *final_bias;                     /* (p p out_channels, d) */
    const uint32_t *patch_index; /* (N * C p p): element of the sample at each element of the patches */
    const uint32_t
        *unpatch_index; /* (C H W): element of the final layer's rows at each element of the sample */
    float *weights;     /* backend memory behind all the float pointers but those that lie in `sealed` */
    float *sealed;      /* weights of the linears over tokens, of ousac_backend.alloc_weights; or NULL */
    uint32_t *indices;  /* backend memory behind the two index tables */
} ousac_dit;

extern const ousac_family ousac_family_dit;

/* profile/model/dit_load.c */
ousac_status ousac_dit_load(ousac_model *model, const ousac_safetensors *file, const char *config,
                            const char *config_name, const ousac_model_options *options, ousac_error *error);
void ousac_dit_unload(ousac_model *model);
int ousac_dit_recognises(const ousac_safetensors *file);

#endif
