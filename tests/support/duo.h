/* A family that a DiT is not, for tests of the contract: two streams of different length and their join, joint
 * attention with two outputs, cross attention on keys and values that are constant over the steps, a block whose
 * first linear makes queries, keys, values and an MLP's inner layer from one input, a flow as prediction,
 * fractional timesteps, conditioning and a guidance value from a file.
 *
 *     a  = silu(T f(t) + P pooled + guidance g)                    f(t) = cos, sin of t / 1000 and t / 100
 *     hi = X pixels, ht = U embeds
 *     double block: hi += J_i / 2, ht += J_t / 2                   joint attention of N(hi), N(ht), text first
 *                   hi += cross attention of N(hi) on K, V = W embeds, / 2
 *                   hi += F2 tanh(F1 N(hi)) / 2, and ht likewise
 *     single block: h = [ht; hi]; q, k, v, m = S1 N(h); h += S2 [attention, tanh m] / 2
 *     out = Y LN(hi)                                               N(h) = LN(h) (1 + a)
 *
 * Every linear has a bias. The engine is plain loops over host memory; the oracle is the same in double precision,
 * written apart, site by site (duo_naive.c).
 */
#ifndef OUSAC_TESTS_DUO_H
#define OUSAC_TESTS_DUO_H

#include "formats/schedule.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

enum {
    DUO_CHANNELS = 2,
    DUO_HEIGHT = 2,
    DUO_WIDTH = 3,
    DUO_IMAGE = DUO_HEIGHT * DUO_WIDTH, /* tokens */
    DUO_TEXT = 4,
    DUO_JOINT = DUO_IMAGE + DUO_TEXT,
    DUO_SIZE = DUO_CHANNELS * DUO_IMAGE,
    DUO_D = 8,
    DUO_HEADS = 2,
    DUO_HIDDEN = 16,
    DUO_EMBED = 5, /* of a text token */
    DUO_POOLED = 3,
    DUO_DOUBLES = 2,
    DUO_SINGLES = 1,
    DUO_SITES = DUO_DOUBLES * 14 + DUO_SINGLES * 5,
    DUO_GROUPS = DUO_DOUBLES * 10 + DUO_SINGLES * 2,
    DUO_MODULES = DUO_DOUBLES * 4 + DUO_SINGLES,
    DUO_ROWS = 3 /* of the inputs file */
};

/* W (m, n), then a bias (m), of a linear that is no site. */
typedef struct duo_outer {
    size_t m, n;
    const float *w, *bias;
} duo_outer;

enum {
    DUO_OUTER_X,
    DUO_OUTER_TEXT,
    DUO_OUTER_T,
    DUO_OUTER_POOLED,
    DUO_OUTER_GUIDANCE,
    DUO_OUTER_Y,
    DUO_OUTER_KV /* and on: of each double block */
};

/* The model's state. */
typedef struct duo {
    duo_outer outer[DUO_OUTER_KV + DUO_DOUBLES];
    float *values;
} duo;

/* Weights are a function of the seed; inputs come from the file at `path`, which duo_write_inputs makes. Free with
 * ousac_model_free. */
ousac_status duo_create(ousac_model **model, uint64_t seed, const char *path, ousac_error *error);
ousac_status duo_write_inputs(const char *path, uint64_t seed, ousac_error *error);

/* The oracle. It sees, and may replace, every site's output, and every output of every module; `skip` (may be NULL)
 * returns 1 where a module is not computed at all, and its outputs are what `output` then makes of zeros. */
typedef struct duo_hooks {
    void *self;
    void (*begin)(void *self, size_t step, int branch);
    int (*skip)(void *self, size_t module);
    void (*site)(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x, double *y);
    void (*output)(void *self, size_t module, size_t output, size_t rows, size_t width, double *out);
} duo_hooks;

/* x (DUO_SIZE) -> the flow; of the row of the inputs file that serves `sample`. */
void duo_naive_forward(const ousac_model *model, uint64_t sample, int branch, double timestep,
                       const double *x, const duo_hooks *hooks, double *out);
/* A trajectory by Euler's method, from the seed's noise. */
void duo_naive_trajectory(const ousac_model *model, const ousac_schedule *schedule, uint64_t seed,
                          uint64_t sample, const duo_hooks *hooks, float *x);

#endif
