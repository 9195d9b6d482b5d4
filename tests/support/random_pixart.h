/* Random PixArt checkpoints for tests, under diffusers' names, every parameter alive, and inputs files for them: pure
 * functions of the seed, float32.
 */
#ifndef OUSAC_TESTS_RANDOM_PIXART_H
#define OUSAC_TESTS_RANDOM_PIXART_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct random_pixart_options {
    uint64_t seed;
    size_t depth, width, heads,
        hidden; /* width a multiple of 12, so that positions and conditions have parts */
    size_t patch, channels, sample_size;
    size_t caption_tokens, caption_channels;
    size_t rows;          /* of the inputs file */
    int micro;            /* 1: with micro-conditions, and sizes in the inputs */
    int learn_sigma;      /* 1: twice as many output channels */
    int negative;         /* 1: inputs of the unconditional branch too */
    double interpolation; /* 0: left out of the config */
    const char *more;     /* more of the config, such as "\"norm_eps\": 1e-5,"; or NULL */
} random_pixart_options;

/* depth 2, width 24, 2 heads, hidden 40, patch 2, 3 channels, size 6 (9 tokens), captions of 5 x 7, 3 rows, conditions,
 * variances, both branches. */
random_pixart_options random_pixart_defaults(void);

/* Writes diffusion_pytorch_model.safetensors, config.json and inputs.safetensors into `directory`, which exists.
 * Captions have 1, all, 2... tokens. */
ousac_status random_pixart_write(const char *directory, const random_pixart_options *options,
                                 ousac_error *error);

#endif
