/* The oracle of the DiT engine: a forward in double precision by plain loops, no BLAS, no batch, no threads,
 * written from the paper (Peebles & Xie, arXiv 2212.09748) and the shipped model.py. Shares only the file
 * reader with ousac.
 *
 *     x = patches W^T + b + positions           c = mlp(frequencies(t)) + table[label]
 *     x += gate_a attn(norm(x) (1 + scale_a) + shift_a);  x += gate_m mlp(norm(x) (1 + scale_m) + shift_m)
 *     out = unpatchify(linear(norm(x) (1 + scale) + shift))
 */
#ifndef OUSAC_TESTS_NAIVE_DIT_H
#define OUSAC_TESTS_NAIVE_DIT_H

#include "formats/status.h"

#include <stddef.h>

typedef struct naive_linear {
    size_t m, n;
    double *weight; /* (m, n) */
    double *bias;   /* (m) */
} naive_linear;

typedef struct naive_block {
    naive_linear modulation; /* (6 d, d): shift, scale, gate of attention, then of the MLP */
    naive_linear qkv;        /* (3 d, d) */
    naive_linear proj, fc1, fc2;
    naive_linear t1, t2; /* an embedder of its own, "blocks.N.t_embedder..."; without weights: the model's */
    double *table;
} naive_block;

typedef struct naive_dit {
    size_t d, heads, hidden, depth, patch;
    size_t channels, out_channels; /* out_channels = 2 channels where sigma is learned */
    size_t side, tokens;           /* tokens = side^2; images are (side patch)^2; 0: no positions yet */
    size_t frequencies;            /* width of the timestep's frequency embedding, even, usually 256 */
    size_t labels;                 /* rows of the embedding table; the last is the unconditional label */
    /* Conventions; set by naive_dit_load to the public model's, may be changed before a forward. */
    double
        frequency_denominator; /* f_i = exp(-ln(10000) i / denominator): frequencies / 2; diffusers: less 1 */
    double attn_norm_eps;      /* 1e-6 everywhere */
    double mlp_norm_eps;       /* 1e-6; diffusers: norm_eps of its config, 1e-5 unless told */
    double final_norm_eps;     /* 1e-6 everywhere */
    naive_linear embed;        /* (d, channels patch^2) */
    naive_linear t1, t2;       /* (d, frequencies), (d, d) */
    double *table;             /* (labels, d) */
    double *positions;         /* (tokens, d); NULL where the file has none */
    naive_block *blocks;
    naive_linear final_modulation; /* (2 d, d): shift, scale */
    naive_linear final;            /* (patch^2 out_channels, d) */
} naive_dit;

/* Looks on. `rows` = tokens; pointers are valid during the call. Both may be NULL. What is written to y or
 * out is what the forward goes on with, so a test can put a cached linear in place of the exact one. */
typedef struct naive_observer {
    void *self;
    /* Site "blocks.<i>.attn.q", ".attn.k", ".attn.v", ".attn.proj", ".mlp.fc1", ".mlp.fc2", in this order:
     * x (rows, n) -> y (rows, m), contiguous. */
    void (*site)(void *self, const char *name, size_t rows, size_t m, size_t n, const double *x, double *y);
    /* "blocks.<i>.attn", ".mlp": out (rows, d) before the gate. */
    void (*module)(void *self, const char *name, size_t rows, size_t d, double *out);
} naive_observer;

/* Loads a safetensors file with the public DiT names; shapes come from the tensors. qkv's bias may be absent
 * (0). FORMAT naming the tensor where one is missing or of an unexpected shape. Free with naive_dit_free. */
ousac_status naive_dit_load(naive_dit **net, const char *path, size_t heads, ousac_error *error);
void naive_dit_free(naive_dit *net);

/* Puts 2-D sine-cosine positions for side x side tokens in place of the file's: the first half of the
 * channels from the column, the second from the row, each half sines then cosines. Needed where the file has
 * none. */
ousac_status naive_dit_set_sincos(naive_dit *net, size_t side, ousac_error *error);

/* One sample: x (channels, H, W), H = W = side patch -> out (out_channels, H, W). USAGE where the label is
 * outside the table or there are no positions. */
ousac_status naive_dit_forward(const naive_dit *net, const float *x, double t, size_t label, double *out,
                               ousac_error *error);
ousac_status naive_dit_forward_observed(const naive_dit *net, const float *x, double t, size_t label,
                                        double *out, const naive_observer *observer, ousac_error *error);

#endif
