/* The backends that the operation tests run on, and copies to and from their memory.
 *
 * By default the CPU's, once per instruction set that this processor has, and the strict one (memory that the
 * host cannot touch). OUSAC_TEST_BACKEND=cuda: the CUDA plug-in
 * alone, found as the program finds it.
 */
#ifndef OUSAC_TEST_BACKENDS_H
#define OUSAC_TEST_BACKENDS_H

#include "calib/backend/backend.h"

#include <stddef.h>
#include <stdint.h>

/* 0, or what main returns: 77, a skip, where there is no device (1 with OUSAC_GPU_REQUIRED set); says why. */
int backends_open(void);
void backends_close(void);
size_t backends_count(void);
const ousac_backend *backends_at(size_t index);
int backends_are_cpu(void); /* 0 under OUSAC_TEST_BACKEND */

#define EACH_BACKEND(k)                                                                                      \
    for (size_t backend_index = 0; backend_index < backends_count(); backend_index++)                        \
        for (const ousac_backend *k = backends_at(backend_index); k; k = NULL)

/* A copy of `bytes` bytes in the backend's memory; release with drop. Fails the test where that fails. */
void *put(const ousac_backend *backend, const void *host, size_t bytes);
void get(const ousac_backend *backend, void *host, const void *block, size_t bytes);
void drop(const ousac_backend *backend, void *block);

/* --- host matrices: (rows, ld) floats and one more behind them; free --- */

/* All bytes stand for "untouched". */
float *blank(size_t rows, size_t ld);
float *filled(uint64_t *state, size_t rows, size_t ld);
/* Bytes of such a block. */
size_t block_bytes(size_t rows, size_t ld);
int is_untouched(const float *value);
/* Whatever lies between the columns and the leading dimension, and just behind the end, is not the backend's.
 */
void assert_pad_untouched(const float *block, size_t rows, size_t cols, size_t ld);
void assert_near(double value, double expected, double tolerance);

#endif
