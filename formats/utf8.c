#include "formats/utf8.h"

#include <stdint.h>
#include <string.h>

/* Decodes the character at the start of `size` > 0 bytes; returns its length, 0 where it is malformed. */
static size_t decode(const unsigned char *bytes, size_t size, uint32_t *character) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000}; /* below it the form is overlong */
    size_t length;
    uint32_t value;
    if (bytes[0] < 0x80) {
        *character = bytes[0];
        return 1;
    }
    if (bytes[0] >= 0xc0 && bytes[0] < 0xe0) {
        length = 2;
        value = bytes[0] & 0x1fu;
    } else if (bytes[0] >= 0xe0 && bytes[0] < 0xf0) {
        length = 3;
        value = bytes[0] & 0x0fu;
    } else if (bytes[0] >= 0xf0 && bytes[0] < 0xf8) {
        length = 4;
        value = bytes[0] & 0x07u;
    } else {
        return 0;
    }
    if (length > size)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (bytes[i] & 0x3fu);
    }
    if (value < smallest[length] || (value >= 0xd800 && value < 0xe000) || value > 0x10ffff)
        return 0;
    *character = value;
    return length;
}

static int check(const char *text, size_t size, int printable) {
    const unsigned char *bytes = (const unsigned char *)text;
    while (size) {
        uint32_t character = 0;
        size_t length = decode(bytes, size, &character);
        if (!length)
            return 0;
        if (printable && (character < 0x20 || (character >= 0x7f && character < 0xa0)))
            return 0;
        bytes += length;
        size -= length;
    }
    return 1;
}

/* What a terminal or a browser would obey instead of showing it. */
static int is_obeyed(uint32_t c) {
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0x061c || c == 0xfeff;
}

size_t ousac_utf8_obeyed(const char *text, size_t size, unsigned *character) {
    uint32_t decoded = 0;
    const size_t length = decode((const unsigned char *)text, size, &decoded);
    *character = decoded;
    return length && is_obeyed(decoded) ? length : 0;
}

size_t ousac_utf8_show(const char *text, size_t size, char *target, size_t room) {
    size_t used = 0;
    while (size) {
        uint32_t character = 0;
        const size_t length = decode((const unsigned char *)text, size, &character);
        const int shown = length && !is_obeyed(character);
        const size_t taken = length ? length : 1, put = shown ? length : 1;
        if (put >= room - used)
            break;
        if (shown)
            memmove(target + used, text, length);
        else
            target[used] = '?';
        used += put;
        text += taken;
        size -= taken;
    }
    target[used] = '\0';
    return used;
}

size_t ousac_utf8_repair(const char *text, size_t size, char *target, size_t room) {
    static const char replacement[] = "\xef\xbf\xbd";
    size_t used = 0;
    while (size) {
        uint32_t character = 0;
        const size_t length = decode((const unsigned char *)text, size, &character);
        const size_t taken = length ? length : 1, put = length ? length : sizeof replacement - 1;
        if (put >= room - used)
            break;
        memcpy(target + used, length ? text : replacement, put);
        used += put;
        text += taken;
        size -= taken;
    }
    target[used] = '\0';
    return used;
}

int ousac_utf8_valid(const char *text, size_t size) {
    return check(text, size, 0);
}

int ousac_utf8_printable(const char *text, size_t size) {
    return check(text, size, 1);
}
