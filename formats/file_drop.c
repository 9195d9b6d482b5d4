#define _DEFAULT_SOURCE /* madvise: posix_madvise does nothing of the kind */

#include "formats/file.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

void ousac_file_drop(const ousac_file_view *view, const void *data, size_t size) {
    const long page = sysconf(_SC_PAGESIZE);
    if (!view->data || page <= 0)
        return;
    const uintptr_t begin = (uintptr_t)view->data, at = (uintptr_t)data, unit = (uintptr_t)page;
    if (at < begin || at - begin > view->size || size > view->size - (at - begin))
        return;
    /* Whole pages, those at the ends too: a neighbour that is still in use is read again. A mapping begins at
     * a page. */
    const uintptr_t first = at - at % unit, end = (at + size + unit - 1) / unit * unit;
    if (end > first)
        (void)madvise((void *)first, (size_t)(end - first), MADV_DONTNEED);
}
