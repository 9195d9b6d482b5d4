/* Archives of known tensors for the tests of the .oca reader and writer, and a directory to put them in.
 */
#ifndef OUSAC_TESTS_OCA_ITEMS_H
#define OUSAC_TESTS_OCA_ITEMS_H

#include "formats/dtype.h"
#include "formats/oca_write.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

enum { OCA_MIB = 1 << 20, OCA_NAME_BYTES = 64 };

/* Group setup and teardown for cmocka: oca_test_path is a file name in a fresh directory. The teardown fails
 * where anything else was left in it. */
extern char oca_test_path[128];
extern char oca_test_directory[64];
int oca_test_setup(void **state);
int oca_test_teardown(void **state);

uint64_t oca_test_random(uint64_t *state); /* splitmix64 */

typedef struct file_bytes {
    unsigned char *data; /* the caller's to free */
    size_t size;
} file_bytes;

/* The file at oca_test_path. */
file_bytes oca_test_slurp(void);
/* A read_at callback whose context is a file_bytes; -1 for a range outside it. */
int oca_test_read_memory(void *context, uint64_t offset, void *target, size_t bytes);

typedef struct item {
    char name[OCA_NAME_BYTES];
    ousac_dtype dtype;
    ousac_oca_codec codec;
    size_t dims;
    uint64_t shape[4];
    size_t bytes;
    unsigned char *data;
} item;

typedef struct items {
    item *list;
    size_t count, room;
} items;

extern const size_t oca_test_element_bytes[8]; /* by dtype */

items items_create(size_t room);
void items_free(items *all);
/* Pseudo-random bytes that depend on the item's position. Noise does not compress; the others mostly repeat.
 */
void items_add(items *all, const char *name, ousac_dtype dtype, ousac_oca_codec codec, size_t dims,
               const uint64_t *shape, int noise);
/* Every dtype and codec: several small shapes, one of several chunks with rows across their borders, one of
 * exactly one chunk. */
items items_everything(void);
/* Five tensors of at most 1.2 MB, among them an i8 tensor with its scales. */
items items_few(void);
/* Writes all and four metadata pairs ("a", "b", "a/b" and one beyond ASCII) to oca_test_path, tensors in the
 * given order (order 0) or shuffled by that seed. */
ousac_status items_write(const items *all, uint64_t order, ousac_error *error);

#endif
