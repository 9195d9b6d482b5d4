/* The oracle of the PixArt engine: a forward in double precision by plain loops, one sample at a time, written from
 * the papers (arXiv 2310.00426, 2403.04692) and diffusers' class. Shares the file readers with ousac, and the inputs'
 * rows.
 */
#ifndef OUSAC_TESTS_NAIVE_PIXART_H
#define OUSAC_TESTS_NAIVE_PIXART_H

#include "formats/safetensors.h"
#include "profile/model/inputs.h"
#include "tests/support/family_oracle.h"

#include <stddef.h>

typedef struct naive_pixart {
    ousac_safetensors *file;
    ousac_inputs *inputs;
    size_t d, heads, hidden, depth, patch, channels, side, rows, cols, caption_tokens, caption_channels;
    int micro;
    double norm_eps, interpolation;
} naive_pixart;

/* A checkpoint in float32 and its inputs. What no tensor tells is given in the fields: heads, side,
 * rows and cols of patches, caption_tokens, norm_eps, interpolation. Free with naive_pixart_close. */
ousac_status naive_pixart_open(naive_pixart *net, const char *model, const char *inputs, ousac_error *error);
void naive_pixart_close(naive_pixart *net);

/* Sites in the order attn.q, k, v, proj, cross.q, proj, mlp.fc1, fc2 of each block; modules attn, cross, mlp. */
family_forward naive_pixart_forward(naive_pixart *net);

#endif
