/* A FLUX of a few kilobytes with every parameter random, in files; and the oracle of its engine: the forward in double
 * precision by plain loops, one sample at a time, written from the description in diffusers' terms
 * (transformer_flux.py). The two share the file reader with ousac and nothing else.
 */
#ifndef OUSAC_TESTS_SMALL_FLUX_H
#define OUSAC_TESTS_SMALL_FLUX_H

#include "formats/schedule.h"
#include "formats/status.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

enum {
    FLUX_CHANNELS = 2,
    FLUX_ROWS = 2, /* of tokens */
    FLUX_COLS = 3,
    FLUX_IMAGE = FLUX_ROWS * FLUX_COLS,
    FLUX_TEXT = 4,
    FLUX_JOINT = FLUX_IMAGE + FLUX_TEXT,
    FLUX_PACKED = FLUX_CHANNELS * 4,
    FLUX_SIZE = FLUX_IMAGE * FLUX_PACKED,
    FLUX_D = 16,
    FLUX_HEADS = 2,
    FLUX_HIDDEN = 24,
    FLUX_EMBED = 5, /* of a text token */
    FLUX_POOLED = 3,
    FLUX_FREQUENCIES = 12,
    FLUX_DOUBLES = 2,
    FLUX_SINGLES = 2,
    FLUX_SITES = FLUX_DOUBLES * 12 + FLUX_SINGLES * 5,
    FLUX_GROUPS = FLUX_DOUBLES * 8 + FLUX_SINGLES * 2,
    FLUX_MODULES = FLUX_DOUBLES * 3 + FLUX_SINGLES,
    FLUX_PROMPTS = 3 /* rows of the inputs file */
};

typedef enum small_flux_naming { SMALL_FLUX_DIFFUSERS = 0, SMALL_FLUX_AUTHORS = 1 } small_flux_naming;

/* Writes the weights file `path`, and beside it config.json; the same seed gives the same values under either naming. */
ousac_status small_flux_write(const char *path, uint64_t seed, small_flux_naming naming, int guided,
                              ousac_error *error);
/* prompt_embeds and pooled; the negative ones and guidance where asked. */
ousac_status small_flux_write_inputs(const char *path, uint64_t seed, int negative, int guidance,
                                     ousac_error *error);

/* Everything that the oracle reads, float64; of a file under diffusers' names. Free with naive_flux_close. */
typedef struct naive_flux naive_flux;
ousac_status naive_flux_open(naive_flux **flux, const char *path, ousac_error *error);
void naive_flux_close(naive_flux *flux);

/* It sees, and may replace, every site's output, and every output of every module, in the order of execution; `skip`
 * (may be NULL) returns 1 where a module is not computed at all, and its outputs are what `output` then makes of zeros. */
typedef struct naive_flux_hooks {
    void *self;
    void (*begin)(void *self, size_t step, int branch);
    int (*skip)(void *self, size_t module);
    void (*site)(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x, double *y);
    void (*output)(void *self, size_t module, size_t output, size_t rows, size_t width, double *out);
} naive_flux_hooks;

/* x (channels, 2 rows, 2 cols) -> the flow; of the row of the inputs that serves `sample`. The model is told what the
 * step states, else the inputs', else the step's scale. */
void naive_flux_forward(const naive_flux *flux, const ousac_inputs *inputs, uint64_t sample, int branch,
                        const ousac_step *step, const double *x, const naive_flux_hooks *hooks, double *out);
/* A trajectory by Euler's method over 1000 timesteps, from the seed's noise; guidance on all channels. */
void naive_flux_trajectory(const naive_flux *flux, const ousac_inputs *inputs, const ousac_schedule *schedule,
                           uint64_t seed, uint64_t sample, const naive_flux_hooks *hooks, float *x);

#endif
