#include "profile/files/text.h"

#include "formats/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PIECE_BYTES = 1024, CAPACITY_FIRST = 4096 };

static void append(ousac_text *text, const char *piece, size_t size) {
    if (text->failed)
        return;
    if (size >= text->capacity - text->size) { /* a byte is kept for the NUL */
        size_t capacity = text->capacity ? text->capacity * 2 : (size_t)CAPACITY_FIRST;
        while (capacity - text->size <= size)
            capacity *= 2;
        char *grown = ousac_regrow(text->data, text->capacity, capacity, 1);
        if (!grown) {
            text->failed = 1;
            return;
        }
        text->data = grown;
        text->capacity = capacity;
    }
    memcpy(text->data + text->size, piece, size);
    text->size += size;
    text->data[text->size] = '\0';
}

void ousac_text_add(ousac_text *text, const char *format, ...) {
    char piece[PIECE_BYTES];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (size < 0 || size >= PIECE_BYTES)
        text->failed = 1;
    else
        append(text, piece, (size_t)size);
}

void ousac_text_add_json(ousac_text *text, const char *value) {
    append(text, "\"", 1);
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;
        if (c == '"' || c == '\\')
            append(text, "\\", 1);
        if (c < 0x20)
            ousac_text_add(text, "\\u%04x", c);
        else
            append(text, value, 1);
    }
    append(text, "\"", 1);
}
