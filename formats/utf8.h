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

/* Copies text of any origin so that a terminal and a page show it on one line and obey nothing in it: bytes that are
 * not UTF-8, controls (C0, DEL, C1), line separators and marks that turn the direction of writing become '?'. Writes
 * at most `room` - 1 bytes, whole characters, and a NUL; room >= 1. `target` may be `text`. Returns the length. */
size_t ousac_utf8_show(const char *text, size_t size, char *target, size_t room);

/* The length of the character at the start of `size` > 0 bytes where it is one of those, else 0; *character is then its
 * code point, below U+10000. */
size_t ousac_utf8_obeyed(const char *text, size_t size, unsigned *character);

/* Copies text so that it is UTF-8: bytes that are not become U+FFFD, everything else stays. Room as above, for which
 * 3 size + 1 always suffices; `target` is another block. Returns the length. */
size_t ousac_utf8_repair(const char *text, size_t size, char *target, size_t room);

#ifdef __cplusplus
}
#endif
#endif
