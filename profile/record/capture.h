/* Capture: a profile from the activations of a loop that is somebody else's, as they pass.
 *
 * Samples come in micro-batches, of which as many as the options say may be under way at once, each with references and
 * sums of its own. The steps of a branch of a micro-batch come in the schedule's order, none left out; of the two branches
 * either may be ahead, and an evaluation of each may be open at once, of the same micro-batch or of two. In an evaluation
 * every group's input comes once, and every site's output where those are not computed here, in any order. What breaks
 * these rules is USAGE, naming what came twice, wrongly or not at all. A micro-batch is added to the profile with its last
 * evaluation: where they end in another order than they began, sums change by rounding.
 *
 * After any failure the micro-batches under way are forgotten, with their evaluations; what earlier ones left in the
 * profile is as it was, and the same samples may come again from their first step.
 */
#ifndef OUSAC_CAPTURE_H
#define OUSAC_CAPTURE_H

#include "calib/backend/backend.h"
#include "formats/dtype.h"
#include "profile/record/profile.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_captured ousac_captured;

typedef struct ousac_captured_options {
    const char *name;         /* of the model, in messages */
    ousac_sample_range range; /* first a multiple of micro_batch */
    size_t micro_batch;
    size_t at_once; /* micro-batches under way, at least 1; memory for another is taken when it comes */
    const float *const *weight, *const *bias; /* per site; NULL: outputs are handed over, not computed */
} ousac_captured_options;

/* Captures into `profile`; that, the name and the weights are borrowed. The host computes. */
ousac_status ousac_captured_create(ousac_captured **captured, ousac_profile *profile,
                                   const ousac_captured_options *options, ousac_error *error);
void ousac_captured_free(ousac_captured *captured);

/* `count` is the micro-batch, at the end of the range what is left of it. USAGE as said above, MISMATCH for samples that
 * the profile has already, MEMORY for a micro-batch beside others. */
ousac_status ousac_captured_begin(ousac_captured *captured, uint64_t first, uint64_t count, size_t step,
                                  int branch, ousac_error *error);

/* The rows of a stream that are looked at in a branch's open evaluation, rising: *count of those of all samples; *rows
 * NULL: all. Valid until it ends. */
ousac_status ousac_captured_rows(ousac_captured *captured, int branch, size_t stream, const uint32_t **rows,
                                 size_t *count, ousac_error *error);

/* Row-major, contiguous; f32, f16 or bf16. */
typedef struct ousac_captured_matrix {
    const void *data;
    ousac_dtype dtype;
    size_t rows,
        columns; /* rows: tokens of all samples one behind another; or `taken`: those of ousac_captured_rows */
    int taken;
} ousac_captured_matrix;

/* A group's input (rows, n); a site's output (rows, m), bias and all; a module's output before the gate of the residual
 * sum. The last need not come where it is the output of the module's last linear. */
ousac_status ousac_captured_input(ousac_captured *captured, int branch, size_t group,
                                  const ousac_captured_matrix *x, ousac_error *error);
ousac_status ousac_captured_output(ousac_captured *captured, int branch, size_t site,
                                   const ousac_captured_matrix *y, ousac_error *error);
ousac_status ousac_captured_module(ousac_captured *captured, int branch, size_t module, size_t output,
                                   const ousac_captured_matrix *out, ousac_error *error);

/* NUMBER, naming site or module, step and branch, where activations are not finite. With the micro-batch's last
 * evaluation it is in the profile. */
ousac_status ousac_captured_end(ousac_captured *captured, int branch, ousac_error *error);

/* Gives up the micro-batches under way. */
void ousac_captured_forget(ousac_captured *captured);

/* Evaluations that are in the profile, summed over samples. */
uint64_t ousac_captured_forwards(const ousac_captured *captured);

/* USAGE, naming the first sample, where some of the range are not in the profile. */
ousac_status ousac_captured_check_complete(const ousac_captured *captured, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
