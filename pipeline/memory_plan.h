/* What a command will need before it begins: memory at its peak, multiply-accumulates, files. The shapes
 * alone decide it, so that --dry-run answers at once and --memory refuses in advance.
 *
 * A command lists what each of its phases holds; the largest phase is the peak. Under a limit the threads are
 * lowered, and moments go to disk, until it fits: neither changes a result.
 */
#ifndef OUSAC_MEMORY_PLAN_H
#define OUSAC_MEMORY_PLAN_H

#include "calib/arch.h"
#include "formats/schedule.h"
#include "profile/bundle/factorise.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

/* Options of the commands that run long. */
typedef struct ousac_memory_options {
    const char *limit, *spill;
    int dry_run;
} ousac_memory_options;

enum { OUSAC_MEMORY_PARTS = 16, OUSAC_MEMORY_FILES = 12 };

typedef struct ousac_memory_part {
    const char *name; /* static text */
    uint64_t bytes;
} ousac_memory_part;

typedef struct ousac_memory_plan {
    size_t threads; /* to use */
    int spilled;    /* moments go to disk */
    uint64_t limit; /* 0 for none */
    uint64_t macs;  /* of forwards and of the products behind factors */
    size_t part_count, file_count;
    const char *phase;                          /* the largest */
    ousac_memory_part part[OUSAC_MEMORY_PARTS]; /* of it */
    const char *file[OUSAC_MEMORY_FILES];       /* to be written */
    uint64_t peak;                              /* the sum of its parts */
    ousac_memory_part held;                     /* part of every phase that is still to be listed */
    const char *phase_now;                      /* being listed */
    size_t now_count;
    ousac_memory_part now[OUSAC_MEMORY_PARTS];
} ousac_memory_plan;

/* Lists a phase: begin, parts (of 0 bytes: left out), end. Every phase begins with the process itself. */
void ousac_memory_phase(ousac_memory_plan *plan, const char *name);
void ousac_memory_add(ousac_memory_plan *plan, const char *name, uint64_t bytes);
void ousac_memory_phase_end(ousac_memory_plan *plan);
/* What is held from here on, in every phase that follows. */
void ousac_memory_hold(ousac_memory_plan *plan, const char *name, uint64_t bytes);
void ousac_memory_file(ousac_memory_plan *plan, const char *path);

/* Lists everything for plan->threads and plan->spilled. */
typedef void (*ousac_memory_list)(const void *self, ousac_memory_plan *plan);

/* Takes the options: *wanted is 1 where the command must plan at all. USAGE for a size that is none. */
ousac_status ousac_memory_parse(const ousac_memory_options *options, ousac_memory_plan *plan, int *wanted,
                                ousac_error *error);
/* Finds threads and spill that fit: `threads_most` threads or fewer, spilled only where there is
 * no other way or `spills` says always (may_spill 0: never). MEMORY, naming what is needed at least, where
 * nothing fits. */
ousac_status ousac_memory_fit(ousac_memory_plan *plan, size_t threads_most, int may_spill, int spills,
                              ousac_memory_list list, const void *self, ousac_error *error);
/* --- what the commands share --- */

/* Recording samples: pilot and profile, and saving it. */
typedef struct ousac_memory_recording {
    const ousac_model *model;
    const ousac_schedule *schedule;
    uint64_t pilot_samples, samples; /* 0 for none */
    size_t micro_batch, segments;
    size_t tokens; /* of each sample that are recorded; 0 for the default */
    int magnitudes;
} ousac_memory_recording;
void ousac_memory_list_recording(ousac_memory_plan *plan, const ousac_memory_recording *recording);

/* Multiply-accumulates of an exact run, and of one whose cached evaluations cost `cached` each. */
uint64_t ousac_memory_run_macs(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t samples,
                               uint64_t cached);
/* Threads that `samples` keep busy. */
size_t ousac_memory_workers(const ousac_memory_plan *plan, uint64_t samples, size_t micro_batch);

#endif
