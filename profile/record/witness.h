/* What one thread sees of a micro-batch: the reference values of each branch and the sums of its deltas. The recorder
 * has one for each of its threads; a capture (capture.h) has one, and hands it activations as they come.
 *
 * An evaluation comes in pieces: begin, then every group's input, every site's output and every module's outputs once,
 * in any order, then end. An evaluation of each branch may be under way at once. It is the caller's to see that the
 * pieces are whole.
 */
#ifndef OUSAC_WITNESS_H
#define OUSAC_WITNESS_H

#include "calib/backend/backend.h"
#include "profile/record/magnitudes.h"
#include "profile/record/profile.h"
#include "profile/run/history.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which rows of a stream the evaluation under way is seen at. */
typedef struct ousac_seen {
    size_t used;  /* of each sample */
    size_t count; /* of all samples */
    const uint32_t *index,
        *next; /* backend: the rows that references stand for before it and after it; NULL: all */
    /* of ousac_witness_take, host: `taken` of them or, NULL, all; where index and next are among them */
    const uint32_t *take, *packed_index, *packed_next;
    size_t taken;
} ousac_seen;

/* A matrix of one row a token, whole samples one behind another; or `packed`: of the rows taken alone. */
typedef struct ousac_piece {
    const float *data; /* backend memory */
    size_t ld;
    int packed;
} ousac_piece;

typedef struct ousac_witness_evaluation ousac_witness_evaluation;

typedef struct ousac_witness {
    const ousac_profile *profile;
    const ousac_backend *backend;
    size_t batch;     /* samples, at most */
    size_t last_slot; /* of the schedule's last evaluation in the runner's order */
    int spilled;      /* 1: moments are mapped from the profile's spill, which frees them */
    ousac_history
        history[OUSAC_BRANCHES]; /* of the schedule's cache; empty for a branch that it never evaluates */
    size_t *group_m,
        *column;     /* per group: sum of m; per site: where its output begins among those of its group */
    float **waiting; /* per group: (capacity, dim), weighted deltas not yet in the moment */
    size_t *waiting_rows, *waiting_segment; /* per group */
    float *gram;                            /* (dim, dim), the largest */
    uint32_t *order;                        /* host: room for a permutation of the longest stream */
    double *scalar[OUSAC_SCALAR_COUNT]; /* as in the profile; those of modules stand for all tokens already */
    double **moment;                    /* backend memory, as in the profile; NULL without */
    ousac_magnitudes *magnitudes;       /* NULL where the profile holds none */
    ousac_witness_evaluation *under_way[OUSAC_BRANCHES];
} ousac_witness;

/* For micro-batches of at most `batch` samples under the schedule of the profile, which is borrowed. `moment` (may be
 * NULL: allocated) are those of a spill; the array is taken over. Zeroes the struct first; MEMORY leaves it to be
 * freed. */
ousac_status ousac_witness_create(ousac_witness *witness, const ousac_profile *profile,
                                  const ousac_backend *backend, size_t batch, double **moment,
                                  ousac_error *error);
void ousac_witness_free(ousac_witness *witness);

/* MISMATCH where the profile's schedule has no such evaluation. */
ousac_status ousac_witness_begin(ousac_witness *witness, size_t step, int branch, uint64_t first,
                                 size_t count, ousac_error *error);
/* The rows of a stream that are looked at, after begin; `taken` and what is packed where host is the backend. */
const ousac_seen *ousac_witness_seen(const ousac_witness *witness, int branch, size_t stream);
/* Fills in which rows have to be taken: those of index and of next, rising. For the host's backend. */
void ousac_witness_take(ousac_witness *witness, int branch, size_t stream);

/* A group's input (rows, n), a site's output (rows, m), a module's output (rows, width). In place of the last
 * ousac_witness_as_site says that it is what the module's last linear gave, which was measured as such. */
ousac_status ousac_witness_input(ousac_witness *witness, int branch, size_t group, const ousac_piece *x,
                                 ousac_error *error);
ousac_status ousac_witness_site(ousac_witness *witness, int branch, size_t site, const ousac_piece *y,
                                ousac_error *error);
ousac_status ousac_witness_output(ousac_witness *witness, int branch, size_t module, size_t output,
                                  const ousac_piece *out, ousac_error *error);
void ousac_witness_as_site(ousac_witness *witness, int branch, size_t module, size_t output);
/* The site that it may be of; SIZE_MAX where there is none. */
size_t ousac_witness_output_site(const ousac_arch *arch, size_t module, size_t output);

/* NUMBER, naming site or module, step and branch, where what was seen is not finite: the sums are then spoilt. */
ousac_status ousac_witness_end(ousac_witness *witness, int branch, ousac_error *error);

/* Forgets the references and the sums. Moments are on the host. */
void ousac_witness_forget(ousac_witness *witness);

/* Where a device's moments go: to those of the profile by way of `host`, room for the largest, or to others on the
 * device, `sum`, one for each of the profile's; `one`, in the backend's memory, is 1. */
typedef struct ousac_witness_target {
    double *host, *one, **sum; /* sum NULL: to the profile's */
} ousac_witness_target;

/* Adds the sums to the profile's, which is that of ousac_witness_create, or where the target has moments of its own one like it
 * without, and clears them. `target`: NULL where the backend's memory is the host's. */
ousac_status ousac_witness_collect(ousac_witness *witness, ousac_profile *profile,
                                   const ousac_witness_target *target, uint64_t first, size_t count,
                                   ousac_error *error);

/* Rows of deltas, at most, that wait for each moment until one product takes them all: whatever the schedule's gates
 * are. */
size_t ousac_witness_waiting(const ousac_schedule *schedule, size_t batch, size_t tokens_used);

#ifdef __cplusplus
}
#endif
#endif
