/* Room on disk for what is too large to keep in memory while a command runs: a temporary file that has no
 * name, so that nothing is left of it however the process ends. Two ways to use it: bytes appended and read
 * back, or blocks mapped into memory, which the system writes out when memory is short. Knows nothing of any
 * format.
 */
#ifndef OUSAC_SPILL_H
#define OUSAC_SPILL_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Not for several threads at once, but for ousac_spill_drop. */
typedef struct ousac_spill ousac_spill;

/* Errors: IO, naming the directory and the system's reason; MEMORY. */
ousac_status ousac_spill_create(ousac_spill **spill, const char *directory, ousac_error *error);
/* Frees the blocks too. NULL is fine. */
void ousac_spill_free(ousac_spill *spill);

/* Writes behind what is there; *offset is where. */
ousac_status ousac_spill_append(ousac_spill *spill, const void *data, size_t size, uint64_t *offset,
                                ousac_error *error);
/* Reads back what was appended. USAGE beyond it. */
ousac_status ousac_spill_read(ousac_spill *spill, uint64_t offset, void *data, size_t size,
                              ousac_error *error);

/* A block of `size` zeroed bytes, aligned to a page, whose disk space is set aside at once: a full disk is an
 * IO here and no fault later. */
ousac_status ousac_spill_map(ousac_spill *spill, size_t size, void **block, ousac_error *error);
/* Takes a block out of the process's memory; its values stay and come back when they are touched. From any
 * thread, each for blocks that no other is using. */
void ousac_spill_drop(void *block, size_t size);

#ifdef __cplusplus
}
#endif
#endif
