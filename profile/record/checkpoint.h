/* Checkpoints of a recording: after a micro-batch has been added to what an observer collects, and at most so
 * often, a callback saves it.
 *
 * What lies on a device is settled first: where that fails, what was settled before is saved, or nothing where that is no
 * longer whole.
 * Micro-batches are collected in index order, one at a time (profile/run/runner.h), so what the callback sees is
 * the sum over a prefix of the samples: a run that begins behind that prefix and goes on from the saved sums
 * adds the same numbers in the same order, and ends with the same bits.
 */
#ifndef OUSAC_CHECKPOINT_H
#define OUSAC_CHECKPOINT_H

#include "formats/status.h"
#include "profile/run/runner.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_checkpoint {
    const ousac_run_observers *inner; /* borrowed */
    double every_s;                   /* least time between two saves; 0: after every micro-batch */
    /* From any thread, one call at a time; a failure ends the run. */
    ousac_status (*save)(void *self, ousac_error *error);
    void *self;
    /* filled by ousac_checkpoint_start and kept during the run: */
    ousac_run_observers observers; /* to be put into the ousac_run */
    double due;                    /* seconds of the monotonic clock */
    uint64_t unsaved;              /* samples collected since the last save */
    int broken;     /* 1: a micro-batch could not be collected whole, so what there is must not be saved */
    double seconds; /* spent in saving */
} ousac_checkpoint;

/* Takes `inner` to `self`, fills the rest. The next save after one that took t seconds comes no sooner than
 * 9 t later, so that saving takes at most a tenth of the time. The checkpoint must outlive the run. */
void ousac_checkpoint_start(ousac_checkpoint *checkpoint);

/* Saves where something was collected since the last save, and whole: for a run that was interrupted. */
ousac_status ousac_checkpoint_flush(ousac_checkpoint *checkpoint, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
