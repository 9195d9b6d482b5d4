#include "profile/record/checkpoint.h"

#include <time.h>

static double now_s(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static ousac_status settle(void *self, int *whole, ousac_error *error) {
    const ousac_run_observers *inner = ((ousac_checkpoint *)self)->inner;
    *whole = 1;
    return inner->settle ? inner->settle(inner->self, whole, error) : OUSAC_STATUS_OK;
}

ousac_status ousac_checkpoint_flush(ousac_checkpoint *checkpoint, ousac_error *error) {
    int whole;
    if (checkpoint->unsaved == 0 || checkpoint->broken)
        return OUSAC_STATUS_OK;
    const double begin = now_s();
    const ousac_status settled = settle(checkpoint, &whole, error);
    if (settled && !whole) {
        checkpoint->broken = 1;
        return settled;
    }
    const ousac_status status = checkpoint->save(checkpoint->self, settled ? NULL : error);
    const double end = now_s(), took = end - begin;
    checkpoint->seconds += took;
    if (settled || status)
        return settled ? settled : status;
    checkpoint->unsaved = 0;
    checkpoint->due = end + (checkpoint->every_s > 9 * took ? checkpoint->every_s : 9 * took);
    return OUSAC_STATUS_OK;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    const ousac_run_observers *inner = ((ousac_checkpoint *)self)->inner;
    return inner->attach ? inner->attach(inner->self, worker, observer, error) : OUSAC_STATUS_OK;
}

static ousac_status collect(void *self, size_t worker, uint64_t first, size_t count, ousac_error *error) {
    ousac_checkpoint *checkpoint = self;
    const ousac_run_observers *inner = checkpoint->inner;
    ousac_status status =
        inner->collect ? inner->collect(inner->self, worker, first, count, error) : OUSAC_STATUS_OK;
    if (status) {
        checkpoint->broken = 1;
        return status;
    }
    checkpoint->unsaved += count;
    /* 0 asks for every micro-batch, whatever that costs */
    return checkpoint->every_s <= 0 || now_s() >= checkpoint->due ? ousac_checkpoint_flush(checkpoint, error)
                                                                  : OUSAC_STATUS_OK;
}

void ousac_checkpoint_start(ousac_checkpoint *checkpoint) {
    checkpoint->observers = (ousac_run_observers){checkpoint, attach, collect, settle};
    checkpoint->due = now_s() + checkpoint->every_s;
    checkpoint->unsaved = 0;
    checkpoint->broken = 0;
    checkpoint->seconds = 0;
}
