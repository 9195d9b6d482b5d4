#include "tools/mpi/wire.h"

#include "formats/memory.h"

#include <string.h>

enum { CAPACITY_FIRST = 256 };

void wire_free(wire *w) {
    ousac_free(w->data);
    memset(w, 0, sizeof *w);
}

static int reserve(wire *w, size_t more) {
    size_t capacity = w->capacity ? w->capacity : CAPACITY_FIRST;
    if (w->failed || more > SIZE_MAX / 2 - w->size) {
        w->failed = 1;
        return 0;
    }
    while (capacity < w->size + more)
        capacity *= 2;
    if (capacity > w->capacity) {
        unsigned char *data = ousac_regrow(w->data, w->capacity, capacity, 1);
        if (!data) {
            w->failed = 1;
            return 0;
        }
        w->data = data;
        w->capacity = capacity;
    }
    return 1;
}

unsigned char *wire_room(wire *w, size_t size) {
    w->size = 0;
    w->at = 0;
    w->failed = 0;
    if (!reserve(w, size))
        return NULL;
    w->size = size;
    return w->data;
}

void wire_put(wire *w, const void *data, size_t size) {
    if (size == 0 || !reserve(w, size))
        return;
    memcpy(w->data + w->size, data, size);
    w->size += size;
}

void wire_put_u64(wire *w, uint64_t value) {
    wire_put(w, &value, sizeof value);
}

void wire_put_text(wire *w, const char *text) {
    wire_put_u64(w, text ? strlen(text) + 1 : 0);
    if (text)
        wire_put(w, text, strlen(text) + 1);
}

void wire_take(wire *w, void *data, size_t size) {
    if (w->failed || size > w->size - w->at) {
        w->failed = 1;
        memset(data, 0, size);
        return;
    }
    if (size)
        memcpy(data, w->data + w->at, size);
    w->at += size;
}

uint64_t wire_take_u64(wire *w) {
    uint64_t value = 0;
    wire_take(w, &value, sizeof value);
    return value;
}

const char *wire_take_text(wire *w) {
    const uint64_t size = wire_take_u64(w);
    const char *text = (const char *)w->data + w->at;
    if (size == 0 || w->failed)
        return NULL;
    if (size > w->size - w->at || text[size - 1] != '\0') {
        w->failed = 1;
        return NULL;
    }
    w->at += size;
    return text;
}
