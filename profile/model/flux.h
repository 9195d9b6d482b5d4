/* The FLUX.1 family: a flow transformer of text and image (github.com/black-forest-labs/flux; Scalable Rectified
 * Flow Transformers, arXiv 2403.03206, for the double blocks), float32.
 *
 *     temb   = M_t S(t) + M_p pooled (+ M_g S(1000 g) where there is a guidance embedder), M = L2 silu(L1 .)
 *     S(u)   = [cos(u f_k), sin(u f_k)], f_k = 10000^(-k / half), k < half
 *     image  = X tokens, text = C prompt_embeds
 *     double: (shift, scale, gate) twice = norm1 silu(temb), the same of the text with a layer of its own
 *             q, k, v of both at LN(.)(1 + scale) + shift; q, k normed by head and turned; joint attention, text
 *             first; image += gate to_out, text += gate to_add_out; then each its MLP, W2 gelu_tanh(W1 .)
 *     single: h = [text; image]; n = LN(h)(1 + scale) + shift; h += gate proj_out [attention(n), gelu_tanh(proj_mlp n)]
 *     out    = proj_out(LN(image)(1 + scale) + shift)
 *
 * t is 1000 times the noise level. A token of the image is a 2 x 2 square of the latent, its values in the order
 * channel, row, column: 64 = 16 * 2 * 2. Positions: of the text 0, 0, 0, of the image 0, row, column, each an axis of
 * its own with a part of a head's pairs.
 *
 * Layouts: diffusers' names (transformer_blocks.N.attn.to_q, ...) and the ones of the authors' code
 * (double_blocks.N.img_attn.qkv, ...), whose linears over one input are fused, in the same order, and whose last
 * modulation has its halves the other way round. Canonical are the authors' names with diffusers' order of these
 * halves, so that one model has one digest.
 */
#ifndef OUSAC_FLUX_H
#define OUSAC_FLUX_H

#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

enum {
    OUSAC_FLUX_AXES = 3,
    OUSAC_FLUX_PATCH = 2, /* of the latent, along an edge */
    /* of the arch, and their order */
    OUSAC_FLUX_IMAGE = 0,
    OUSAC_FLUX_TEXT = 1,
    OUSAC_FLUX_JOINT = 2,
    OUSAC_FLUX_DOUBLE_SITES = 12,
    OUSAC_FLUX_DOUBLE_GROUPS = 8,
    OUSAC_FLUX_DOUBLE_MODULES = 3,
    OUSAC_FLUX_SINGLE_SITES = 5,
    OUSAC_FLUX_SINGLE_GROUPS = 2
};

typedef struct ousac_flux_linear {
    const float *w, *bias; /* (m, n), (m) */
} ousac_flux_linear;

typedef struct ousac_flux_embedder {
    ousac_flux_linear first, second; /* (d, n), (d, d) */
} ousac_flux_embedder;

/* What a double block has for each of its two streams. */
typedef struct ousac_flux_half {
    ousac_flux_linear modulation; /* (6d, d): shift, scale, gate of attention, then of the MLP */
    ousac_flux_linear qkv;        /* (3d, d) */
    const float *q_norm, *k_norm; /* (head_dim) */
    ousac_flux_linear proj;       /* (d, d) */
    ousac_flux_linear fc1, fc2;   /* (hidden, d), (d, hidden) */
} ousac_flux_half;

typedef struct ousac_flux_double {
    ousac_flux_half half[2]; /* OUSAC_FLUX_IMAGE, OUSAC_FLUX_TEXT */
} ousac_flux_double;

typedef struct ousac_flux_single {
    ousac_flux_linear modulation; /* (3d, d): shift, scale, gate */
    ousac_flux_linear linear1;    /* (3d + hidden, d): q, k, v, MLP */
    const float *q_norm, *k_norm; /* (head_dim) */
    ousac_flux_linear linear2;    /* (d, d + hidden) */
} ousac_flux_single;

typedef struct ousac_flux {
    size_t d, hidden, heads, head_dim;
    size_t doubles, singles;             /* blocks */
    size_t rows, cols;                   /* of tokens of the image */
    size_t image, text, joint;           /* tokens */
    size_t packed;                       /* values of an image token */
    size_t embed, pooled;                /* values of a text token; of the pooled text */
    size_t frequencies;                  /* width of the timestep's features: cosines, then sines */
    size_t axis[OUSAC_FLUX_AXES];        /* channels of a head */
    int guided;                          /* 1: told a guidance scale */
    ousac_flux_linear image_in, text_in; /* (d, packed), (d, embed) */
    ousac_flux_embedder time_in, pooled_in, guidance_in;
    ousac_flux_double *double_block;    /* (doubles) */
    ousac_flux_single *single_block;    /* (singles) */
    ousac_flux_linear final_modulation; /* (2d, d): scale, shift */
    ousac_flux_linear final;            /* (packed, d) */
    float *turns;                 /* (joint, head_dim), backend memory: cos and sin of each pair in turns */
    const uint32_t *pack_index;   /* (image * packed): element of the latent at each of the tokens */
    const uint32_t *unpack_index; /* the reverse */
    float *weights;    /* backend memory behind the pointers above but those that lie in `sealed` */
    float *sealed;     /* weights of the linears over tokens, of ousac_backend.alloc_weights; or NULL */
    uint32_t *indices; /* backend memory behind the two tables */
} ousac_flux;

extern const ousac_family ousac_family_flux;

/* Streams image, text, joint; per double block the sites attn.to_q, to_k, to_v, add_q_proj, add_k_proj, add_v_proj,
 * to_out.0, to_add_out, ff.net.0.proj, ff.net.2 and ff_context's two; per single block attn.to_q, to_k, to_v, proj_mlp,
 * proj_out. `flux` needs its sizes alone. profile/model/flux_arch.c */
ousac_status ousac_arch_create_flux(ousac_arch *arch, const ousac_flux *flux, ousac_error *error);

/* profile/model/flux_load.c */
ousac_status ousac_flux_load(ousac_model *model, const ousac_safetensors *file, const char *config,
                             const char *config_name, const ousac_model_options *options, ousac_error *error);
void ousac_flux_unload(ousac_model *model);
int ousac_flux_recognises(const ousac_safetensors *file);

#endif
