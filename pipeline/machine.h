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
/* What the system calls the processor, at most size bytes; its architecture where it has no name. */
void ousac_processor_name(char *name, size_t size);
/* Seconds of processor time of the calling thread, and of the whole process. */
double ousac_thread_s(void);
double ousac_process_s(void);

#endif
