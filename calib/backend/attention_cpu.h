/* Softmax attention of the CPU backend, internal to calib/: rows of queries in blocks that stay in cache.
 *
 * Few keys: all scores of a block of queries, their softmax, their product with the values. Many: keys in
 * blocks too, the softmax carried on from block to block (Milakov and Gimelshein, arXiv 1805.02867; blocks of
 * both as in FlashAttention, arXiv 2205.14135), so that what is packed of keys and values serves more queries
 * and scores do not leave the cache. Which of the two, and every sum's order, depends on the sizes alone.
 */
#ifndef OUSAC_ATTENTION_CPU_H
#define OUSAC_ATTENTION_CPU_H

#include "calib/backend/kernels.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of q (batch * queries) on those of k and v (batch * keys); sizes checked, none 0. */
typedef struct ousac_attention {
    size_t batch, queries, keys, heads, head_dim;
    const float *q, *k, *v, *bias; /* bias (batch, keys), or NULL */
    size_t ld_q, ld_kv, ld_out;
    float *out, *work; /* work: ousac_attention_floats */
} ousac_attention;

/* Floats of `work`: what a block of queries needs and, of many keys, a copy of a head's keys and values; never more than
 * queries * keys, whose product must fit. */
size_t ousac_attention_floats(size_t queries, size_t keys, size_t head_dim);

void ousac_attention_run(const ousac_kernels *kernels, const ousac_attention *attention);

#ifdef __cplusplus
}
#endif
#endif
