/* What this process may use and has used of its machine.
 */
#ifndef OUSAC_MACHINE_H
#define OUSAC_MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* Seconds of a monotonic clock. */
double ousac_clock_s(void);
/* Peak resident memory of this process; 0 where the system does not say. */
uint64_t ousac_peak_bytes(void);
/* Processors that this process may use, at least 1: those it may run on, within the quota of its control group. */
size_t ousac_processors(void);

#endif
