/* Guidance by evolution: stage 1 of OUSAC as published (arXiv 2512.14096), to compare with.
 *
 * A candidate is one real number w_i in [0, w_max] for every step. Below a threshold tau the step skips the
 * unconditional branch, else w_i is its scale. Least is
 *
 *     L = mean over samples of || x - x_ref ||^2 / || x_ref ||^2 + lambda x guided steps / steps
 *
 * with x_ref of the reference, which has more steps at constant guidance. The paper's operators and constants are not
 * public but for 15 generations; these are: two elites; parents by tournaments of two; every number from either parent;
 * with probability 2 / steps a number is moved, half of the time by a normal number of w_max / 10, else a guided step
 * loses its guidance or an unguided one gets a scale even in [tau, w_max]. The first candidates are constant guidance
 * and evenly spaced guided steps of every share, with the scale that keeps the total.
 */
#ifndef OUSAC_EVOLVE_H
#define OUSAC_EVOLVE_H

#include "pipeline/gauge.h"

#include <stddef.h>
#include <stdint.h>

enum { OUSAC_EVOLVE_GENERATIONS = 15, OUSAC_EVOLVE_POPULATION = 12 };
#define OUSAC_EVOLVE_THRESHOLD 1.0 /* tau: guidance of scale 1 is none */
#define OUSAC_EVOLVE_MOST 4.0      /* w_max over the reference's scale */
#define OUSAC_EVOLVE_LAMBDA 0.01

typedef struct ousac_evolve_options {
    double scale;                   /* of the constant guidance */
    size_t population, generations; /* at least 4 and 1 */
    uint64_t seed;
} ousac_evolve_options;

typedef struct ousac_evolve_report {
    double loss, error; /* of the best: L, and the root of its first part */
    size_t guided;      /* steps */
    size_t runs;        /* candidates measured */
} ousac_evolve_report;

/* Sets modes and scales of `schedule`, whose steps, all its gates full, are kept; `gauge` holds the reference on the
 * samples that are evolved on. The same seed gives the same schedule. */
ousac_status ousac_evolve_guidance(ousac_gauge *gauge, const ousac_evolve_options *options,
                                   ousac_schedule *schedule, ousac_evolve_report *report, ousac_error *error);

#endif
