/* Makes the checksums of an archive's header and index right again, or hardly any mutated input would come
 * past them.
 */
#ifndef OUSAC_FUZZ_SEAL_H
#define OUSAC_FUZZ_SEAL_H

#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

static inline void seal_put64(unsigned char *at, uint64_t value) {
    for (size_t i = 0; i < 8; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

/* Offsets as in formats/OCA.md; size >= 64. */
static inline void seal_archive(unsigned char *data, size_t size) {
    uint64_t index = 0;
    for (size_t i = 8; i-- > 0;)
        index = index << 8 | data[24 + i];
    if (index <= size - 64)
        seal_put64(data + 48, XXH64(data + 64, (size_t)index, 0));
    seal_put64(data + 56, XXH64(data, 56, 0));
}

#endif
