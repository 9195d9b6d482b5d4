/* What decides a trajectory beside the forward: how much data and noise a state holds at a timestep, and what
 * a model predicts of them. A state is
 *
 *     x = alpha(t) D + sigma(t) E        D the data, E the noise
 *
 * and timesteps may be fractional.
 */
#ifndef OUSAC_NOISE_H
#define OUSAC_NOISE_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ousac_prediction {
    OUSAC_PREDICTION_EPSILON = 0, /* E */
    OUSAC_PREDICTION_V = 1,       /* alpha E - sigma D; alpha^2 + sigma^2 = 1 (arXiv 2202.00512) */
    OUSAC_PREDICTION_FLOW = 2,    /* E - D; alpha + sigma = 1 (arXiv 2210.02747) */
    OUSAC_PREDICTION_SAMPLE = 3   /* D */
} ousac_prediction;

const char *ousac_prediction_name(ousac_prediction prediction); /* "epsilon", "v", "flow", "sample" */
/* The reverse, which takes diffusers' "v_prediction" and "flow_prediction" too; 0, or -1 for none. */
int ousac_prediction_parse(ousac_prediction *prediction, const char *name);

/* Squares: alpha^2 is alpha_bar of the discrete schedules, which is what they state. */
typedef struct ousac_noise_level {
    double alpha2, sigma2;
} ousac_noise_level;

/* After the last step: data alone. */
#define OUSAC_NOISE_NONE ((ousac_noise_level){1, 0})

typedef enum ousac_noise_kind {
    OUSAC_NOISE_DIFFUSION = 0, /* alpha^2 = alpha_bar(t), sigma^2 = 1 - alpha_bar(t); t in [0, T - 1] */
    OUSAC_NOISE_FLOW = 1       /* alpha = 1 - t / T, sigma = t / T; t in [0, T] */
} ousac_noise_kind;

typedef struct ousac_noise {
    ousac_noise_kind kind;
    ousac_prediction prediction;
    size_t train_steps; /* T */
    double *alpha_bar;  /* (T) of the whole timesteps, owned; NULL for FLOW */
} ousac_noise;

/* `text` is "linear FIRST LAST STEPS", "scaled_linear FIRST LAST STEPS" (linear in the root of beta) or "flow
 * STEPS". Fills kind, train_steps and, from the products of 1 - beta in double, alpha_bar. FORMAT naming
 * `where`. */
ousac_status ousac_noise_parse(const char *text, const char *where, ousac_noise *noise, ousac_error *error);
void ousac_noise_free(ousac_noise *noise);

/* UNSUPPORTED where what is predicted is not defined under these levels: v wants DIFFUSION, flow FLOW. */
ousac_status ousac_noise_check(const ousac_noise *noise, const char *where, ousac_error *error);

/* The largest timestep. */
double ousac_noise_last(const ousac_noise *noise);
/* Levels at a timestep; between whole ones of DIFFUSION log alpha is linear, as in DPM-Solver's schedules
 * (arXiv 2206.00927, appendix D.4). 0, or -1 where the timestep is out of range. */
int ousac_noise_at(const ousac_noise *noise, double timestep, ousac_noise_level *level);

/* One word that tells kinds, numbers of steps and tables apart: "diffusion/1000/5e1f0c9a7b3d2e44", the first
 * 16 digits of the table's SHA-256, or "flow/1000". */
enum { OUSAC_NOISE_WORD_BYTES = 64 };
void ousac_noise_word(const ousac_noise *noise, char word[OUSAC_NOISE_WORD_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
