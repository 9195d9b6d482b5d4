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
#include "pipeline/pipeline.h"
#include "profile/bundle/factorise.h"
#include "profile/model/model.h"
#include "tools/cli/cli.h"

#include <stddef.h>
#include <stdint.h>

/* Options of the commands that run long. */
typedef struct memory_options {
    const char *limit, *spill;
    int dry_run;
} memory_options;

/* Rows of a command's option table. */
#define MEMORY_OPTIONS(options)                                                                              \
    {"memory",                                                                                               \
     0,                                                                                                      \
     CLI_TEXT,                                                                                               \
     &(options)->limit,                                                                                      \
     0,                                                                                                      \
     0,                                                                                                      \
     0,                                                                                                      \
     "SIZE",                                                                                                 \
     "stay below this much resident memory, for instance 6GiB, with fewer threads where need be, or refuse " \
     "at once (default: no limit)"},                                                                         \
    {                                                                                                        \
        "dry-run", 0, CLI_FLAG, &(options)->dry_run, 0, 0, 0, NULL,                                          \
            "say what memory, multiply-accumulates and files it will take, and do nothing"                   \
    }

#define MEMORY_SPILL_OPTION(options)                                                                         \
    {                                                                                                        \
        "spill", 0, CLI_TEXT, &(options)->spill, 0, 0, 0, "DIR",                                             \
            "keep the moments in a nameless file in DIR instead of in memory (default: beside the output, "  \
            "where --memory asks for it)"                                                                    \
    }

enum { MEMORY_PARTS = 16, MEMORY_FILES = 12 };

typedef struct memory_part {
    const char *name; /* static text */
    uint64_t bytes;
} memory_part;

typedef struct memory_plan {
    size_t threads; /* to use */
    int spilled;    /* moments go to disk */
    uint64_t limit; /* 0 for none */
    uint64_t macs;  /* of forwards and of the products behind factors */
    size_t part_count, file_count;
    const char *phase;              /* the largest */
    memory_part part[MEMORY_PARTS]; /* of it */
    const char *file[MEMORY_FILES]; /* to be written */
    uint64_t peak;                  /* the sum of its parts */
    const char *phase_now;          /* being listed */
    size_t now_count;
    memory_part now[MEMORY_PARTS];
} memory_plan;

/* Lists a phase: begin, parts (of 0 bytes: left out), end. Every phase begins with the process itself. */
void memory_phase(memory_plan *plan, const char *name);
void memory_add(memory_plan *plan, const char *name, uint64_t bytes);
void memory_phase_end(memory_plan *plan);
void memory_file(memory_plan *plan, const char *path);

/* Lists everything for plan->threads and plan->spilled. */
typedef void (*memory_list)(const void *self, memory_plan *plan);

/* Takes the options: *wanted is 1 where the command must plan at all. USAGE for a size that is none. */
ousac_status memory_parse(const memory_options *options, memory_plan *plan, int *wanted, ousac_error *error);
/* Finds threads and spill that fit: as many threads as `common` allows or fewer, spilled only where there is
 * no other way or `spills` says always (may_spill 0: never). MEMORY, naming what is needed at least, where
 * nothing fits. */
ousac_status memory_fit(memory_plan *plan, const cli_common *common, int may_spill, int spills,
                        memory_list list, const void *self, ousac_error *error);
/* What --dry-run prints. */
ousac_status memory_print(const memory_plan *plan, const cli_common *common, const char *command,
                          ousac_error *error);

/* --- what the commands share --- */

/* Recording samples: pilot and profile, and saving it. */
typedef struct memory_recording {
    const ousac_model *model;
    const ousac_schedule *schedule;
    uint64_t pilot_samples, samples; /* 0 for none */
    size_t micro_batch, segments;
    size_t tokens; /* of each sample that are recorded; 0 for the default */
    int magnitudes;
} memory_recording;
void memory_list_recording(memory_plan *plan, const memory_recording *recording);

/* Multiply-accumulates of an exact run, and of one whose cached evaluations cost `cached` each. */
uint64_t memory_run_macs(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t samples,
                         uint64_t cached);
/* Threads that `samples` keep busy. */
size_t memory_workers(const memory_plan *plan, uint64_t samples, size_t micro_batch);

#endif
