/* Writing the files that torch.load reads: a zip archive without compression that holds a pickle of protocol
 * 2 and one file per storage (the layout that torch.save has written since 1.6). What is written here is what
 * the code of ICC (arXiv 2505.05829) saves and loads:
 *
 *     {OUTER: {NAME: [tensor, ...], ...}}
 *
 * with contiguous float32 tensors of two dimensions on the CPU. The pickle uses no opcode that
 * `weights_only=True` refuses. Deterministic. Zip64 is not used: a file stays below 4 GiB and 65,535 members.
 */
#ifndef OUSAC_TORCH_WRITE_H
#define OUSAC_TORCH_WRITE_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_torch_matrix {
    size_t rows, cols; /* either may be 0 */
} ousac_torch_matrix;

typedef struct ousac_torch_list {
    const char *name;
    size_t count;
    const ousac_torch_matrix *items;
} ousac_torch_list;

/* Fills rows x cols floats, row-major, of one matrix. Called once for each that is not empty, in order. */
typedef ousac_status (*ousac_torch_source)(void *self, size_t list, size_t item, float *target,
                                           ousac_error *error);

/* Errors: UNSUPPORTED where the file would pass the limits above; IO; MEMORY; what the source returns. */
ousac_status ousac_torch_save(const char *path, const char *outer, const ousac_torch_list *lists,
                              size_t list_count, ousac_torch_source source, void *self, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
