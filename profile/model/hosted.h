/* A family whose forward is somebody else's: a callback that runs its own network and hands each group of linears
 * back through the ousac_linears of the evaluation under way. Everything above the family runs on it unchanged.
 *
 * One evaluation of a model runs at a time, whatever the threads that ask for it: what is hosted seldom bears more.
 * The host's memory is the backend's, which therefore is the CPU.
 */
#ifndef OUSAC_HOSTED_H
#define OUSAC_HOSTED_H

#include "formats/status.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The evaluation under way, as the host sees it. */
typedef struct ousac_hosted_call ousac_hosted_call;

typedef struct ousac_hosted_forward_args {
    int branch;
    uint64_t first; /* sample; the host finds its conditioning by it */
    size_t count;
    double timestep, guidance; /* as in ousac_evaluation */
    const float *x;            /* (count, channels, height, width) */
    float *out;                /* likewise */
} ousac_hosted_forward_args;

/* What the host says of its model. Texts are copied; weights are not, and must stay as they are. */
typedef struct ousac_hosted_options {
    const char *name;       /* in messages */
    const char *arch;       /* JSON, as in a profile (formats/PROFILE.md) */
    const char *levels;     /* as "betas" in docs/MODELS.md: "linear 1e-4 0.02 1000", "flow 1000" */
    const char *prediction; /* "epsilon", ... */
    const char *constants;  /* what else decides a forward; NULL: nothing */
    const char *rest;       /* digest of the weights that are no site's; NULL: none */
    const char *inputs;     /* inputs file; NULL: samples have noise alone */
    size_t channels, height, width, guided_channels; /* guided_channels 0: all */
    int has_uncond;
    int rescaled;               /* as in ousac_model; all channels are guided then */
    const float *const *weight; /* per site (m, n), row-major */
    const float *const *bias;   /* per site (m), or NULL; the array may be NULL */
    void *self;
    /* 0, or anything else where it failed; it then may have put one line into `message`. */
    int (*forward)(void *self, const ousac_hosted_forward_args *args, ousac_hosted_call *call, char *message,
                   size_t size);
} ousac_hosted_options;

/* USAGE naming the field that is missing or wrong; FORMAT for the architecture; NUMBER for a weight that is not finite;
 * as ousac_inputs_open. Free with ousac_model_free. */
ousac_status ousac_hosted_create(ousac_model **model, const ousac_hosted_options *options,
                                 ousac_error *error);

/* For the host, within its forward and on any one thread. All matrices are contiguous and of the rows of their stream
 * times count. The first failure is kept: the host passes the status on, or just goes on, and the evaluation fails.
 *
 * Before a module: `out` has a matrix (rows, width) for each of its outputs. *live = 0: they have been written and the
 * module is to be skipped. */
ousac_status ousac_hosted_module_begin(ousac_hosted_call *call, size_t module, float *const *out, int *live);
/* All sites of a group: x (rows, n) -> y (rows, sum of m), sites side by side. USAGE where a group comes twice. */
ousac_status ousac_hosted_linear(ousac_hosted_call *call, size_t group, const float *x, float *y);
/* After a live module, with its outputs before the gate of the residual sum. */
ousac_status ousac_hosted_module_end(ousac_hosted_call *call, size_t module, const float *const *out);

#ifdef __cplusplus
}
#endif
#endif
