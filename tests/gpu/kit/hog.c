/* Takes the memory of a device but for LEAVE bytes, says "ready", and holds it until standard input ends: so that another
 * program finds a device that is short of memory. With "wait" it opens the device, says "open", and takes nothing before
 * it is sent a line: so that the other is short in the middle.
 *
 *     hog DEVICE LEAVE [wait]
 *
 * Exit code 77: no such device.
 */
#include "calib/backend/backend_plugin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCKS_MAX = 4096 };

int main(int argc, char **argv) {
    static void *blocks[BLOCKS_MAX];
    static uint64_t sizes[BLOCKS_MAX];
    ousac_device *device = NULL;
    ousac_error error = {0};
    size_t count = 0;
    uint64_t left = 0;
    if (argc < 3 || argc > 4) {
        (void)fputs("usage: hog DEVICE LEAVE [wait]\n", stderr);
        return 2;
    }
    const uint64_t leave = strtoull(argv[2], NULL, 10);
    if (ousac_device_open(&device, argv[1], 0, &error)) {
        (void)fprintf(stderr, "hog: %s\n", error.message);
        return 77;
    }
    const ousac_backend *k = ousac_device_backend(device);
    if (argc == 4) {
        (void)puts("open");
        (void)fflush(stdout);
        for (int c = getchar(); c != EOF && c != '\n'; c = getchar()) {
        }
    }
    /* Ever smaller blocks until none of 1 MiB is left; then the smallest are given back. */
    for (uint64_t size = (uint64_t)8 << 30; size >= 1 << 20; size /= 2)
        while (count < BLOCKS_MAX && (blocks[count] = k->alloc(k, (size_t)size, 1)) != NULL)
            sizes[count++] = size;
    while (count > 0 && left < leave) {
        left += sizes[--count];
        k->release(k, blocks[count]);
    }
    (void)printf("ready %" PRIu64 "\n", left);
    (void)fflush(stdout);
    while (getchar() != EOF) {
    }
    while (count > 0)
        k->release(k, blocks[--count]);
    ousac_device_close(device);
    return 0;
}
