/* Memory that matrix products take besides their operands.
 *
 * OpenBLAS maps a buffer for every thread that is inside a call, keeps it, and where the system refuses one it
 * asks again without end. Under a limit of the address space (`ulimit -v`) the buffers are therefore taken
 * before any thread starts, or refused with the figure.
 */
#ifndef OUSAC_RESERVE_H
#define OUSAC_RESERVE_H

#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Takes the buffers of `threads` threads where the address space is limited; without a limit it does nothing.
 * To be called before products on threads begin, on one thread; again with more threads, as often as wanted.
 * MEMORY: what is needed, what the limit leaves, and how many threads would fit. */
ousac_status ousac_blas_reserve(size_t threads, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
