/* oca: a reader of .oca tensor archives in two files, C99 (or C++) and the C library only.
 *
 * It opens an archive from memory, a path or a `read_at` callback, lists metadata and tensors, lends raw
 * tensors without copying, and decodes, verifies, converts and truncates tensors into buffers of the caller.
 * It does not write archives, print, abort, keep globals or start threads. The format, normatively: OCA.md.
 * In short, all little-endian:
 *
 *   header, 64 bytes    0 magic "\x89OCA\r\n\x1a\n"   8 u16 major = 1   10 u16 minor   12 u32 zero
 *                       16 u64 index offset = 64   24 u64 index size   32 u64 payload offset
 *                       40 u64 file size   48 u64 XXH64 of the index   56 u64 XXH64 of header bytes 0..55
 *   index, at 64        six u64: M metadata, T tensors, K chunks, text bytes, extension bytes, zero
 *     M x 32 bytes      u64 key offset, key size, value offset, value size; offsets into the text
 *     T x 104 bytes     0 u64 name offset   8 u64 name size   16 u32 dtype   20 u32 codec   24 u32 dims
 *                       28 u32 zero   32 u64 shape[4]   64 u64 first chunk   72 u64 chunks
 *                       80 u64 chunk size   88 u64 decoded size   96 u64 ignored
 *     K x 24 bytes      u64 file offset, u64 stored size, u64 XXH64 of the decoded bytes
 *     text              NUL-terminated UTF-8: keys and values in turn, then tensor names
 *     extension         ignored
 *   payload             chunks in table order, 64-byte aligned, zeros between; stored size equal to the
 *                       decoded size: the bytes as they are; smaller: compressed by the tensor's codec
 *
 * Threads: a handle is immutable once open; any number of threads may use it at once, where the callbacks
 * given to it allow that.
 *
 * Hostile input: every count, offset and size is checked at opening. What is allocated is bounded: the index
 * (at most `max_index_bytes`), two chunks (at most OCA_CHUNK_BYTES_MAX each) and zstd's context for each
 * lane, the scales of the rows asked for, and, without OCA_WITH_MMAP, a file opened by path. A mapped file
 * that another program shortens while it is open raises SIGBUS, as every mapping does.
 *
 * Macros, when compiling oca.c: OCA_WITH_ZSTD uses libzstd where the options give no `decompress`;
 * OCA_WITH_MMAP maps files opened by path (POSIX) instead of loading them into memory.
 */
#ifndef OCA_H
#define OCA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Pinned values. */
typedef enum oca_status {
    OCA_OK = 0,
    OCA_ERR_ARGUMENT = -1,    /* a NULL pointer, an index or an enum value that is none */
    OCA_ERR_IO = -2,          /* the system or the read_at callback failed */
    OCA_ERR_MEMORY = -3,      /* an allocation failed */
    OCA_ERR_LIMIT = -4,       /* larger than this reader was told, or is able, to take */
    OCA_ERR_UNSUPPORTED = -5, /* no zstd here, no such conversion, or a tensor that cannot be lent */
    OCA_ERR_NOT_FOUND = -6,   /* no tensor of that name */
    OCA_ERR_RANGE = -7,       /* rows outside the tensor, or a target of another size than the rows need */
    OCA_ERR_TASK = -8,        /* the caller's `parallel` failed or left tasks undone */
    OCA_ERR_MAGIC = -20,      /* not an oca archive */
    OCA_ERR_VERSION = -21,    /* a major version this reader does not know */
    OCA_ERR_TRUNCATED = -22,  /* shorter than its header says, or than a header */
    OCA_ERR_TRAILING = -23,   /* longer than its header says */
    OCA_ERR_HEADER_CHECKSUM = -24,
    OCA_ERR_INDEX_CHECKSUM = -25,
    OCA_ERR_DATA_CHECKSUM = -26, /* a chunk's decoded bytes are not those that were written */
    OCA_ERR_RESERVED = -27,      /* a must-be-zero field is not zero */
    OCA_ERR_LAYOUT = -28,        /* sections or chunks overlap, leave gaps or lie outside the file */
    OCA_ERR_TEXT = -29,          /* an empty key or name, or text that is not NUL-terminated, packed UTF-8 */
    OCA_ERR_ORDER = -30,         /* keys or names are not sorted */
    OCA_ERR_DUPLICATE = -31,     /* a key or name occurs twice */
    OCA_ERR_DTYPE = -32,         /* an unknown dtype */
    OCA_ERR_CODEC = -33,         /* an unknown codec */
    OCA_ERR_SHAPE = -34,     /* no or too many dimensions, a dimension of 0, or a size that is not theirs */
    OCA_ERR_CHUNK = -35,     /* chunk size, count or stored size against the rules */
    OCA_ERR_PADDING = -36,   /* padding that is not zero */
    OCA_ERR_SCALE = -37,     /* an i8 tensor's companion is missing (when converting) or of the wrong kind */
    OCA_ERR_COMPRESSED = -38 /* not one zstd frame that declares and holds the decoded size */
} oca_status;

/* A short explanation, static storage; "unknown status" for a value that is none. */
const char *oca_status_string(oca_status status);

typedef enum oca_dtype {
    OCA_F64 = 0,
    OCA_F32 = 1,
    OCA_F16 = 2, /* IEEE 754 binary16 */
    OCA_BF16 = 3,
    OCA_I8 = 4, /* plain, or scaled by the companion tensor "<name>.scale" */
    OCA_U8 = 5,
    OCA_I32 = 6,
    OCA_I64 = 7
} oca_dtype;

/* Bytes of one element; 0 for a value that is no dtype. */
size_t oca_dtype_bytes(oca_dtype dtype);

typedef enum oca_codec { OCA_CODEC_RAW = 0, OCA_CODEC_ZSTD = 1, OCA_CODEC_SHUFFLE_ZSTD = 2 } oca_codec;

#define OCA_DIMS_MAX 4
#define OCA_LANES_MAX 64
#define OCA_CHUNK_BYTES_MAX ((size_t)16 << 20)
#define OCA_INDEX_BYTES_DEFAULT ((uint64_t)256 << 20)

/* What oca_open_* found wrong, and in which record. */
typedef struct oca_fault {
    const char *what; /* one line, static storage; NULL where nothing is wrong */
    uint64_t item;    /* number of the metadata, tensor or chunk record; 0 where none is meant */
} oca_fault;

/* All optional; zero-initialise. Copied at opening; the contexts must outlive the handle. */
typedef struct oca_options {
    /* Both or neither; malloc and free otherwise. Called from every thread that reads. */
    void *(*allocate)(void *context, size_t bytes);
    void (*release)(void *context, void *block);
    void *memory_context;
    /* Decompresses one zstd frame into exactly `target_bytes`; 0 on success. The frame's extent and its
     * declared size have been checked. Called from every thread that reads. */
    int (*decompress)(void *context, void *target, size_t target_bytes, const void *source,
                      size_t source_bytes);
    void *decompress_context;
    /* Runs task(argument, 0) ... task(argument, count - 1), in any order, on any threads, and returns when
     * all are done; 0 on success. Reads of several chunks are handed to it in at most `lanes` tasks (0: 8; at
     * most OCA_LANES_MAX). */
    int (*parallel)(void *context, size_t count, void (*task)(void *argument, size_t index), void *argument);
    void *parallel_context;
    size_t lanes;
    uint64_t max_index_bytes; /* 0: OCA_INDEX_BYTES_DEFAULT; LIMIT above */
    oca_fault *fault;         /* where not NULL, filled in by oca_open_*; not kept */
} oca_options;

typedef struct oca_file oca_file;

/* Open and check header and index; the payload is checked as it is read. On failure *file is NULL. `options`
 * may be NULL. Errors: ARGUMENT, MEMORY, LIMIT, IO, and every status from MAGIC to SCALE but DATA_CHECKSUM.
 */

/* The caller keeps `data` alive and unchanged until oca_close. */
oca_status oca_open_memory(oca_file **file, const void *data, size_t size, const oca_options *options);
oca_status oca_open_path(oca_file **file, const char *path, const oca_options *options);
/* read_at fills `target` with `bytes` bytes from `offset`, 0 on success; it is never asked to read beyond
 * `size`. */
oca_status oca_open_callback(oca_file **file,
                             int (*read_at)(void *context, uint64_t offset, void *target, size_t bytes),
                             void *context, uint64_t size, const oca_options *options);
/* NULL is fine. */
void oca_close(oca_file *file);

/* The file's minor version; fields that a newer minor version added are ignored. */
unsigned oca_minor_version(const oca_file *file);

/* Metadata, sorted by key (byte order). The strings live as long as the handle. */
size_t oca_metadata_count(const oca_file *file);
oca_status oca_metadata_at(const oca_file *file, size_t index, const char **key, const char **value);
/* NULL where the key is absent. */
const char *oca_metadata(const oca_file *file, const char *key);

typedef struct oca_tensor {
    const char *name; /* lives as long as the handle */
    size_t index;     /* what the functions below take; tensors are sorted by name (byte order) */
    oca_dtype dtype;
    oca_codec codec;
    size_t dims;                  /* 1..OCA_DIMS_MAX */
    uint64_t shape[OCA_DIMS_MAX]; /* row-major; 0 beyond dims */
    uint64_t count;               /* elements */
    uint64_t bytes;               /* decoded */
    uint64_t stored_bytes;        /* in the file */
    size_t chunk_bytes;           /* decoded size of every chunk but the last */
    size_t chunks;
} oca_tensor;

size_t oca_tensor_count(const oca_file *file);
oca_status oca_tensor_at(const oca_file *file, size_t index, oca_tensor *tensor);
/* NOT_FOUND where there is no such name. */
oca_status oca_tensor_find(const oca_file *file, const char *name, oca_tensor *tensor);

/* Lends the bytes of a tensor that is stored as it is: no copy, no check (oca_verify_tensor makes one). They
 * are 64-byte aligned relative to the start of the file and live as long as the handle. UNSUPPORTED where a
 * chunk is compressed, the archive was opened by callback, or this machine is big-endian and the elements are
 * wider than a byte. */
oca_status oca_borrow(const oca_file *file, size_t tensor, const void **data);

/* Decodes rows first_row .. first_row + rows - 1 (indices of the first dimension), verifies every chunk they
 * touch, and writes them to `target` as dtype `as`, in the byte order of this machine; target_bytes must be
 * the size of just that. rows may be 0. Conversions: f64, f32, f16, bf16 and scaled i8 to f64, f32, f16,
 * bf16, correctly rounded (to nearest, ties to even); every dtype to itself, bit by bit. On failure the
 * target's contents are unspecified. */
oca_status oca_read(const oca_file *file, size_t tensor, uint64_t first_row, uint64_t rows, oca_dtype as,
                    void *target, size_t target_bytes);

/* Decodes every chunk of a tensor, checks it against its checksum, and the padding behind it. */
oca_status oca_verify_tensor(const oca_file *file, size_t tensor);
/* All tensors. *failed, where not NULL, is the tensor at fault. */
oca_status oca_verify(const oca_file *file, size_t *failed);

#ifdef __cplusplus
}
#endif
#endif
