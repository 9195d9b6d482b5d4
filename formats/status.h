/* Reporting errors: how library code fills the error object of <ousac/status.h>. The functions hold no global state.
 */
#ifndef OUSAC_STATUS_H
#define OUSAC_STATUS_H

#include <ousac/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Records the error (where `error` is not NULL) and returns `status`. What a terminal would obey in the message,
 * which may quote hostile input, is replaced by '?' (ousac_utf8_show), so that it is always one printable line. */
ousac_status ousac_error_set(ousac_error *error, ousac_status status, const char *file, int line,
                             const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 5, 6)))
#endif
    ;

/* Puts "PREFIX: " before the recorded message, to name a file or a tensor that the callee could not know.
 * Returns error->status (OUSAC_STATUS_OK where `error` is NULL). */
ousac_status ousac_error_prefix(ousac_error *error, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

#define OUSAC_FAIL(error, status, ...) ousac_error_set((error), (status), __FILE__, __LINE__, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
