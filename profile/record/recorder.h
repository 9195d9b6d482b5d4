/* The recorder: turns the activations of a run into a profile. This is the public capture API: anything that
 * can call an ousac_observer, or ousac_run_samples itself, can be profiled.
 *
 * The recorder keeps its own reference values of each branch, refreshed where the effective gate is full, so
 * that the deltas are those of the schedule's cache although the run itself is exact. It sees, and keeps, the
 * tokens used alone; they are drawn anew with each refresh.
 */
#ifndef OUSAC_RECORDER_H
#define OUSAC_RECORDER_H

#include "calib/backend/backend.h"
#include "profile/record/profile.h"
#include "profile/run/executor.h"
#include "profile/run/runner.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_recorder ousac_recorder;

/* Records into `profile` (borrowed, must outlive the recorder) with room for `workers` threads and
 * micro-batches of at most `batch` samples. */
ousac_status ousac_recorder_create(ousac_recorder **recorder, ousac_profile *profile,
                                   const ousac_backend *backend, size_t workers, size_t batch,
                                   ousac_error *error);
void ousac_recorder_free(ousac_recorder *recorder);

/* Of a device: micro-batches are added up there, beside the threads' own moments (device_sums.h), and the profile has all of
 * them once the observers have settled, which a run does at its end. Without it each micro-batch takes all moments to the host
 * and back. For a profile that nobody else reads or changes meanwhile; the sums are the same to the bit. Nothing on the
 * host's backend, or where memory is short. */
void ousac_recorder_sum_on_device(ousac_recorder *recorder);

/* The observers to put into an ousac_run. Non-finite activations among those of the tokens used are NUMBER,
 * naming site, step and branch. */
const ousac_run_observers *ousac_recorder_observers(ousac_recorder *recorder);

/* Rows of deltas, at most, that a thread holds back for each moment until one product takes them all:
 * whatever the schedule's gates are. */
size_t ousac_recorder_waiting(const ousac_schedule *schedule, size_t batch, size_t tokens_used);

#ifdef __cplusplus
}
#endif
#endif
