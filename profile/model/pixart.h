/* The PixArt family (arXiv 2310.00426, 2403.04692): latent transformers that are told a caption by cross attention,
 * with one modulation for all blocks (adaLN-single), float32, under diffusers' names (PixArtTransformer2DModel, or
 * Transformer2DModel as the published configs of alpha still say).
 *
 *     e   = W2 silu(W1 S(t)); with micro-conditions e += [R S(height), R S(width), A S(height / width)]
 *     T   = linear(silu(e)), (6, d);  ctx = C2 gelu(C1 caption)
 *     block: (shift, scale, gate) x 2 = table + T
 *            h += gate attn(norm(h) (1 + scale) + shift);  h += cross(h, ctx);  h += gate mlp(norm(h) (1 + scale) + shift)
 *     out = linear(norm(h) (1 + scale) + shift), (shift, scale) = table + e
 *
 * Captions come from an inputs file. What ctx and the keys and values of cross attention are does not change over
 * the steps: they are the constant groups.
 */
#ifndef OUSAC_PIXART_H
#define OUSAC_PIXART_H

#include "calib/arch.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_PIXART_SITES = 8, OUSAC_PIXART_GROUPS = 6, OUSAC_PIXART_MODULES = 3 }; /* of a block */

/* W (m, n) and its bias (m). */
typedef struct ousac_pixart_linear {
    const float *w, *bias;
} ousac_pixart_linear;

typedef struct ousac_pixart_block {
    ousac_pixart_linear qkv, proj;          /* (3d, d), (d, d) */
    ousac_pixart_linear cross_q, cross_out; /* (d, d) */
    ousac_pixart_linear cross_kv;           /* (2d, d): keys, then values, of ctx */
    ousac_pixart_linear fc1, fc2;           /* (hidden, d), (d, hidden) */
} ousac_pixart_block;

typedef struct ousac_pixart {
    size_t L, N, d, hidden, heads;
    size_t rows, cols, patch, channels, out_channels; /* as ousac_patches */
    size_t
        side; /* patches along an edge of the square sample that positions are drawn together or apart to */
    size_t caption_tokens, caption_channels; /* of an embedding */
    size_t frequencies;                      /* width of S: cosines, then sines */
    int micro;                               /* 1: it is told height, width and their ratio */
    double pixels[2];     /* height and width that it is told where the inputs do not say: 8 a latent value */
    double interpolation; /* of the positions */
    float norm_eps, final_norm_eps;

    ousac_pixart_linear patch_in;           /* (d, C p p) */
    const float *pos_embed;                 /* (N, d) */
    ousac_pixart_linear t1, t2;             /* (d, frequencies), (d, d) */
    ousac_pixart_linear size1, size2;       /* (d / 3, frequencies), (d / 3, d / 3) */
    ousac_pixart_linear ratio1, ratio2;     /* likewise */
    ousac_pixart_linear modulation;         /* (6d, d) */
    ousac_pixart_linear caption1, caption2; /* (d, caption_channels), (d, d) */
    const float *tables;                    /* (L, 6d): shift, scale, gate of attention, then of the MLP */
    const float *final_table;               /* (2d): shift, scale */
    ousac_pixart_linear final;              /* (p p out_channels, d) */
    ousac_pixart_block *block;              /* (L) */
    const float *ones;                      /* (max(L, 2)) */
    const uint32_t *patch_index, *unpatch_index;
    float *weights, *sealed, *one_block; /* backend memory behind all of these */
    uint32_t *indices;
} ousac_pixart;

extern const ousac_family ousac_family_pixart;

/* Sites, groups and modules: streams image and caption; per block the sites q, k, v (one group), proj, cross.q,
 * cross.proj, fc1, fc2 and the modules attn, cross and mlp; constant are the caption's projection and the blocks' keys
 * and values. USAGE where a size is 0 or a forward's MACs exceed 64 bits. Free with ousac_arch_free. */
ousac_status ousac_arch_create_pixart(ousac_arch *arch, const ousac_pixart *sizes, ousac_error *error);

/* profile/model/pixart_load.c */
ousac_status ousac_pixart_load(ousac_model *model, const ousac_safetensors *file, const char *config,
                               const char *config_name, const ousac_model_options *options,
                               ousac_error *error);
void ousac_pixart_unload(ousac_model *model);
int ousac_pixart_recognises(const ousac_safetensors *file);

#ifdef __cplusplus
}
#endif
#endif
