/* Reading safetensors files (format: the README of the safetensors project, "Format"), mapped, never trusted.
 *
 * Checks: header length within the file and at most 100,000,000 bytes; the header a JSON object that begins
 * with '{'; no duplicate names; known dtypes; shape x dtype equal to the byte range without overflow; ranges
 * in the data section, without overlap, gap or trailing bytes; `__metadata__` a map of strings, or
 * null. Tensors of a dtype that ousac does not compute with (F4, F8_E4M3, BOOL, U16, ...) are listed, but
 * reading them is UNSUPPORTED.
 * Keys of a tensor other than dtype, shape and data_offsets are ignored, whatever their values.
 */
#ifndef OUSAC_SAFETENSORS_H
#define OUSAC_SAFETENSORS_H

#include "formats/dtype.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_SAFETENSORS_DIMS = 8 };

/* Immutable after opening; safe to share between threads. */
typedef struct ousac_safetensors ousac_safetensors;

typedef struct ousac_safetensors_tensor {
    const char *name;
    const char *dtype_name; /* as the file spells it: "F32", "BF16", ... */
    int readable;           /* 1: `dtype` is valid and ousac_safetensors_read_f32 works */
    ousac_dtype dtype;
    size_t dims;
    uint64_t shape[OUSAC_SAFETENSORS_DIMS];
    uint64_t count; /* elements */
    uint64_t bytes;
    const void *data; /* in the map, unaligned */
} ousac_safetensors_tensor;

/* Errors: IO; FORMAT naming the path and, where there is one, the tensor; UNSUPPORTED for more than
 * OUSAC_SAFETENSORS_DIMS dimensions or a header of millions of JSON values. Free with
 * ousac_safetensors_close. */
ousac_status ousac_safetensors_open(ousac_safetensors **file, const char *path, ousac_error *error);
/* All shards of an index, `{"weight_map": {"TENSOR": "FILE", ...}}` with files beside it, as one file without metadata.
 * FORMAT too where a shard lacks a tensor that the index says it has, or holds one that it does not say. */
ousac_status ousac_safetensors_open_index(ousac_safetensors **file, const char *path, ousac_error *error);
/* The same over memory that the caller keeps alive; `name` stands for the path in messages. */
ousac_status ousac_safetensors_open_memory(ousac_safetensors **file, const void *data, size_t size,
                                           const char *name, ousac_error *error);
void ousac_safetensors_close(ousac_safetensors *file);

/* Sorted by name (byte order). Pointers live as long as the handle. NULL past the end, or for no such name.
 */
size_t ousac_safetensors_count(const ousac_safetensors *file);
const ousac_safetensors_tensor *ousac_safetensors_at(const ousac_safetensors *file, size_t index);
const ousac_safetensors_tensor *ousac_safetensors_find(const ousac_safetensors *file, const char *name);
/* A value of `__metadata__`, or NULL. */
const char *ousac_safetensors_metadata(const ousac_safetensors *file, const char *key);
/* Walks `__metadata__` in the file's order: *position begins as NULL. Returns 0 past the end. */
int ousac_safetensors_metadata_next(const ousac_safetensors *file, const void **position, const char **key,
                                    const char **value);

/* Converts elements [first, first + count) to float32. UNSUPPORTED for an unreadable dtype, USAGE for a range
 * outside the tensor, NUMBER where a value is not finite (named by tensor and index). */
ousac_status ousac_safetensors_read_f32(const ousac_safetensors_tensor *tensor, uint64_t first,
                                        uint64_t count, float *target, ousac_error *error);
/* Lets go of the memory behind elements [first, first + count), which stay readable (ousac_file_drop);
 * nothing for a file that was opened in the caller's memory. */
void ousac_safetensors_drop(const ousac_safetensors *file, const ousac_safetensors_tensor *tensor,
                            uint64_t first, uint64_t count);

#ifdef __cplusplus
}
#endif
#endif
