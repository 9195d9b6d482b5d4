/* Oracles of families in double precision: what a forward shows of itself, the caches of ousac by their definition on
 * top of it, and trajectories. A family brings its forward alone (tests/support/naive_pixart.h).
 *
 * The caches: at a full gate every site's input and output, and every module's outputs, are kept, two deep. At a cached
 * gate a module that is not live repeats its outputs, or leads the line through the last two on; a site of a live one
 * gives y0 + f (y0 - y1) + A^T B (x - x0 - f (x0 - x1)).
 */
#ifndef OUSAC_TESTS_FAMILY_ORACLE_H
#define OUSAC_TESTS_FAMILY_ORACLE_H

#include "calib/cost.h"
#include "formats/schedule.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

/* A forward sees, and may replace, every site's output and every output of every module; `skip` (may be NULL) returns
 * 1 where a module is not computed at all, and its outputs are what `output` then makes of zeros. */
typedef struct family_hooks {
    void *self;
    void (*begin)(void *self, size_t step, int branch);
    int (*skip)(void *self, size_t module);
    void (*site)(void *self, size_t site, size_t rows, size_t m, size_t n, const double *x, double *y);
    void (*output)(void *self, size_t module, size_t output, size_t rows, size_t width, double *out);
} family_hooks;

/* x -> what is predicted, (channels, height, width) both, of a sample of the inputs. */
typedef struct family_forward {
    void *self;
    void (*run)(void *self, uint64_t sample, int branch, double timestep, const double *x,
                const family_hooks *hooks, double *out);
} family_forward;

/* A trajectory of DDIM from the seed's noise into x (float32 between the steps), of a model that predicts the noise at
 * whole timesteps under betas linear from 1e-4 to 0.02 over 1000; guidance on all channels. */
void family_trajectory(const family_forward *forward, size_t size, const ousac_schedule *schedule,
                       uint64_t seed, uint64_t sample, const family_hooks *hooks, float *x);

/* The caches of one sample. */
typedef struct family_cache family_cache;
typedef struct family_caching {
    const ousac_arch *arch;
    const ousac_schedule *schedule;
    const ousac_ranks *ranks; /* NULL: reuse */
} family_caching;
family_cache *family_cache_create(const family_caching *options);
void family_cache_free(family_cache *cache);
family_hooks family_cache_hooks(family_cache *cache);
/* The schedule, or one in which what is reused is extrapolated: of a run without ranks its cached evaluations too, but
 * nothing within a cached one. Free with ousac_schedule_free. */
ousac_schedule family_gated(const ousac_schedule *schedule, const ousac_ranks *ranks, int extrapolate);
/* What a forecast's coefficient is there. */
float family_coefficient(size_t step, int branch, size_t group);
/* Factors of a site, as ousac_calibration_create asks for them; self: the arch. */
ousac_status family_factors(void *self, size_t site, size_t rank, float *a, float *b, ousac_error *error);

/* What a profile that records all tokens is to hold of one sample after another: sums of squares and of changes since
 * the branch's last full evaluation, and the moments of the changes at cached gates. */
typedef struct family_watch {
    const ousac_arch *arch;
    const ousac_schedule *schedule;
    family_cache *kept; /* of the sample at hand */
    size_t step;
    int branch, gate, seen;                           /* seen: the branch has been evaluated before */
    double *x2, *dx2, *y2, *dy2, *module2, *dmodule2; /* (steps, branches, groups | sites | modules) */
    double **moment;                                  /* per group: packed lower triangle */
} family_watch;
family_watch *family_watch_create(const ousac_arch *arch, const ousac_schedule *schedule);
void family_watch_free(family_watch *watch);
/* Another sample begins. */
void family_watch_sample(family_watch *watch);
family_hooks family_watch_hooks(family_watch *watch);

#endif
