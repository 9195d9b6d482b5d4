/* A message between ranks: bytes appended at the end and taken from the front. The ranks of a job run the
 * same program on like machines, so numbers travel as they lie in memory. Failure is sticky: append or take
 * freely, ask once.
 */
#ifndef OUSAC_MPI_WIRE_H
#define OUSAC_MPI_WIRE_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialise; release with wire_free. */
typedef struct wire {
    unsigned char *data;
    size_t size, capacity;
    size_t at;  /* what was taken */
    int failed; /* memory was short, or more was taken than there is */
} wire;

void wire_free(wire *w);
/* Makes room for `size` bytes to be received; NULL where memory is short. */
unsigned char *wire_room(wire *w, size_t size);

void wire_put(wire *w, const void *data, size_t size);
void wire_put_u64(wire *w, uint64_t value);
void wire_put_text(wire *w, const char *text); /* NULL is told from "" */

void wire_take(wire *w, void *data, size_t size); /* zeros where there is not as much */
uint64_t wire_take_u64(wire *w);
const char *wire_take_text(wire *w); /* points into the message */

#endif
