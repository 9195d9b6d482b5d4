/* UTF-8 (RFC 3629) for names that go into files and messages.
 */
#ifndef OUSAC_UTF8_H
#define OUSAC_UTF8_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 1 where the bytes are well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. */
int ousac_utf8_valid(const char *text, size_t size);

/* 1 where they are, and hold no control character (U+0000 to U+001F, U+007F to U+009F). */
int ousac_utf8_printable(const char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
