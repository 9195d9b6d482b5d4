/* A text that grows, for the small JSON that goes into metadata. Failure is sticky: append freely, ask once
 * at the end.
 */
#ifndef OUSAC_TEXT_H
#define OUSAC_TEXT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_text {
    char *data; /* NUL-terminated; NULL while empty. ousac_free */
    size_t size, capacity;
    int failed; /* 1: memory was short; what was appended since is lost */
} ousac_text;

/* At most 1023 bytes a call. */
void ousac_text_add(ousac_text *text, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* `value` (UTF-8) as a JSON string, quoted and escaped. */
void ousac_text_add_json(ousac_text *text, const char *value);

#ifdef __cplusplus
}
#endif
#endif
