/* The factors of a bundle in the file form that the public code of ICC (arXiv 2505.05829) loads:
 *
 *     torch.load(FILE)["decomp_weight"]["q_wa"][block]
 *
 * with the lists q_wa, q_wb, k_wa, ..., fc2_wb, one float32 tensor a block: wa (m, rank) is A, wb (rank, n)
 * is B, so that wa @ wb replaces W. A frozen layer has rank 0; a layer that the plan computes exactly has wa
 * @ wb = W, one of the two being the identity.
 */
#ifndef OUSAC_EXPORT_ICC_H
#define OUSAC_EXPORT_ICC_H

#include "formats/status.h"
#include "pipeline/session.h"

#include <stddef.h>

typedef struct ousac_export_icc_request {
    const char *bundle, *output;
    const char *plan;          /* NULL: the bundle's default */
    size_t rank;               /* with uniform: the rank of every layer */
    int uniform;               /* 1: `rank` instead of a plan */
    ousac_session_model model; /* for layers computed exactly; path NULL: none */
} ousac_export_icc_request;

typedef struct ousac_export_icc_result {
    size_t blocks, exact, frozen, rank_low,
        rank_high; /* exact and frozen count layers; ranks are of the others */
    int forecast;  /* 1: the plan forecasts, which ICC's code cannot */
} ousac_export_icc_result;

/* Errors: UNSUPPORTED for a model that is not made of DiT blocks; MISMATCH for a rank beyond the factors
 * held; USAGE for a plan that is not there, or that computes a layer exactly where no model is given. */
ousac_status ousac_export_icc(const ousac_export_icc_request *request, ousac_export_icc_result *result,
                              ousac_error *error);

#endif
