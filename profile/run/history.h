/* What a branch's last one or two full evaluations left: the inputs and outputs of its linears and the
 * outputs of its modules, each of the rows of its stream. The cache of the executor, and the references of whoever measures what a cache
 * would hold.
 */
#ifndef OUSAC_HISTORY_H
#define OUSAC_HISTORY_H

#include "calib/arch.h"
#include "calib/backend/backend.h"
#include "formats/status.h"
#include "profile/model/model.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Backend memory throughout. Slot 0 is the last full evaluation, slot 1 the one before; matrices are (rows,
 * columns), contiguous. A matrix that was not asked for is NULL and is skipped by the keep functions. */
typedef struct ousac_history {
    const ousac_arch *arch;
    const ousac_backend *backend;
    size_t depth;  /* 1 or 2 */
    size_t filled; /* full evaluations kept, at most depth */
    float **x[2];  /* per group: (rows, n) */
    float **y[2];  /* per group: (rows, sum of m) */
    /* per output, module * OUSAC_OUTPUTS_MAX + output: (rows, width); the y of a group (ousac_arch_output_group)
     * where that is the same memory */
    float **out[2];
    float **room[2]; /* likewise: memory for `out` where it is not */
} ousac_history;

/* Which matrices to keep; NULL: all of the kind. */
typedef struct ousac_history_needs {
    const int *x, *y; /* (group_count) */
} ousac_history_needs;

/* Room for `batch` samples, of each stream at most `tokens` tokens (SIZE_MAX: all). Zeroes the struct first; on
 * MEMORY it is left freed. */
ousac_status ousac_history_create(ousac_history *history, const ousac_arch *arch,
                                  const ousac_backend *backend, size_t batch, size_t tokens, size_t depth,
                                  const ousac_history_needs *needs, ousac_error *error);
void ousac_history_free(ousac_history *history);

/* Empties it: the start of a trajectory. */
void ousac_history_reset(ousac_history *history);

/* Makes `to` hold what `from` holds of the first `count` samples: histories of the same needs and depth that keep
 * all tokens. */
ousac_status ousac_history_copy(ousac_history *to, const ousac_history *from, size_t count,
                                ousac_error *error);

/* Where a full evaluation may write the input (output 0) or output (1) of a group, contiguous, so that
 * keeping it takes no copy; NULL where it is not kept. */
float *ousac_history_place(const ousac_history *history, size_t group, int output);

/* During a full evaluation: what was last of this group or module becomes what was before, and these values
 * the last. Once per group and module, in any order; `filled` counts the evaluation from ousac_history_end
 * on. Values that are in their place already, and a module's output that is the kept y of a group, are not
 * copied. */
ousac_status ousac_history_keep_linear(ousac_history *history, size_t group, size_t rows, const float *x,
                                       size_t ldx, const float *y, size_t ldy, ousac_error *error);
ousac_status ousac_history_keep_module(ousac_history *history, size_t module, const ousac_rows *out,
                                       ousac_error *error);
void ousac_history_end(ousac_history *history);

/* Sum of m over the sites of a group. */
size_t ousac_history_group_m(const ousac_arch *arch, size_t group);

#ifdef __cplusplus
}
#endif
#endif
