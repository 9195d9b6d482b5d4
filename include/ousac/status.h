/* Status codes and the error object of every fallible function.
 *
 * The library reports; it never prints, exits or aborts. The values are pinned: they are part of the ABI. An
 * ousac_error belongs to one thread at a time.
 */
#ifndef OUSAC_PUBLIC_STATUS_H
#define OUSAC_PUBLIC_STATUS_H

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ousac_status {
    OUSAC_STATUS_OK = 0,
    OUSAC_STATUS_USAGE = -1,       /* an argument or option is wrong, unknown or out of range */
    OUSAC_STATUS_IO = -2,          /* the operating system refused: open, read, write, sync, rename */
    OUSAC_STATUS_FORMAT = -3,      /* a file is not what its format says it must be */
    OUSAC_STATUS_MISMATCH = -4,    /* files are well-formed but were not made for one another */
    OUSAC_STATUS_MEMORY = -5,      /* an allocation failed */
    OUSAC_STATUS_NUMBER = -6,      /* a value is not finite, or a numerical routine did not converge */
    OUSAC_STATUS_UNSUPPORTED = -7, /* recognised, but this build or this machine cannot do it */
    OUSAC_STATUS_INTERRUPTED = -8, /* the caller asked to stop */
    OUSAC_STATUS_INTERNAL = -9     /* a broken invariant of ousac itself */
} ousac_status;

enum { OUSAC_ERROR_MESSAGE_BYTES = 512 };

/* Caller-owned; zero-initialise. Every function that takes one accepts NULL and then drops the message. */
typedef struct ousac_error {
    ousac_status status;
    const char *file; /* source file that raised it; static storage */
    int line;
    char message
        [OUSAC_ERROR_MESSAGE_BYTES]; /* one line of UTF-8; where too long, long names lose their middles */
} ousac_error;

/* Short lower-case name of a status, static storage; "unknown" for a value that is none. */
const char *ousac_status_name(ousac_status status);

#ifdef __cplusplus
}
#endif

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#endif
