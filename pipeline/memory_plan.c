#include "pipeline/memory_plan.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/footprint.h"
#include "pipeline/record.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Measured: the program and its libraries, and per thread the buffers of OpenBLAS and the stack. The checks
 * in tests/cli/test_memory.sh hold these against what runs really take. */
#define PROCESS_BYTES ((uint64_t)16 << 20)
#define THREAD_BYTES ((uint64_t)20 << 20)

/* --- listing --- */

void ousac_memory_phase(ousac_memory_plan *plan, const char *name) {
    plan->phase_now = name;
    plan->now_count = 0;
    ousac_memory_add(plan, "the program", PROCESS_BYTES + plan->threads * THREAD_BYTES);
    ousac_memory_add(plan, plan->held.name, plan->held.bytes);
}

void ousac_memory_hold(ousac_memory_plan *plan, const char *name, uint64_t bytes) {
    plan->held = (ousac_memory_part){name, bytes};
}

void ousac_memory_add(ousac_memory_plan *plan, const char *name, uint64_t bytes) {
    if (bytes && plan->now_count < OUSAC_MEMORY_PARTS)
        plan->now[plan->now_count++] = (ousac_memory_part){name, bytes};
}

void ousac_memory_phase_end(ousac_memory_plan *plan) {
    uint64_t sum = 0;
    for (size_t i = 0; i < plan->now_count; i++)
        sum += plan->now[i].bytes;
    ousac_memory_add(plan, "the allocator's slack", sum / 64);
    sum += sum / 64;
    if (sum <= plan->peak)
        return;
    plan->peak = sum;
    plan->phase = plan->phase_now;
    plan->part_count = plan->now_count;
    memcpy(plan->part, plan->now, sizeof plan->now);
}

void ousac_memory_file(ousac_memory_plan *plan, const char *path) {
    if (path && plan->file_count < OUSAC_MEMORY_FILES)
        plan->file[plan->file_count++] = path;
}

/* --- fitting --- */

ousac_status ousac_memory_parse(const ousac_memory_options *options, ousac_memory_plan *plan, int *wanted,
                                ousac_error *error) {
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},
                 {"B", 1},
                 {"KiB", 1024},
                 {"MiB", 1048576},
                 {"GiB", 1073741824},
                 {"kB", 1e3},
                 {"MB", 1e6},
                 {"GB", 1e9},
                 {"k", 1024},
                 {"M", 1048576},
                 {"G", 1073741824},
                 {"TiB", 1099511627776.0},
                 {"TB", 1e12}};
    char *end = NULL;
    memset(plan, 0, sizeof *plan);
    *wanted = options->dry_run || options->limit;
    if (!options->limit)
        return OUSAC_STATUS_OK;
    errno = 0;
    const double value = *options->limit >= '0' && *options->limit <= '9' ? strtod(options->limit, &end) : 0;
    for (size_t i = 0; end && errno == 0 && i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].name) == 0 && value * units[i].bytes >= 1 && value * units[i].bytes < 1e18)
            plan->limit = (uint64_t)(value * units[i].bytes);
    if (!plan->limit)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "`memory` expects a size such as 6GiB or 800MB, not '%s'", options->limit);
    return OUSAC_STATUS_OK;
}

static void relist(ousac_memory_plan *plan, size_t threads, int spilled, ousac_memory_list list,
                   const void *self) {
    const uint64_t limit = plan->limit;
    memset(plan, 0, sizeof *plan);
    plan->limit = limit;
    plan->threads = threads;
    plan->spilled = spilled;
    list(self, plan);
}

ousac_status ousac_memory_fit(ousac_memory_plan *plan, size_t threads_most, int may_spill, int spills,
                              ousac_memory_list list, const void *self, ousac_error *error) {
    uint64_t least = UINT64_MAX;
    for (size_t threads = threads_most; threads > 0; threads--)
        for (int spilled = spills; spilled <= (spills || (may_spill && plan->limit)); spilled++) {
            relist(plan, threads, spilled, list, self);
            if (!plan->limit || plan->peak <= plan->limit)
                return OUSAC_STATUS_OK;
            least = plan->peak < least ? plan->peak : least;
        }
    return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY,
                      "`memory` %.3f GiB: needs up to %.3f GiB with the fewest threads, most of it while %s",
                      (double)plan->limit / 0x1p30, (double)least / 0x1p30, plan->phase);
}

/* --- recording --- */

uint64_t ousac_memory_run_macs(const ousac_arch *arch, const ousac_schedule *schedule, uint64_t samples,
                               uint64_t cached) {
    uint64_t macs = 0;
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            if (ousac_mode_evaluates(schedule->steps[i].mode, b))
                macs +=
                    schedule->steps[i].gate[b] == OUSAC_GATE_FULL || !cached ? ousac_cost_full(arch) : cached;
    return macs * samples;
}

size_t ousac_memory_workers(const ousac_memory_plan *plan, uint64_t samples, size_t micro_batch) {
    const uint64_t batches = samples ? (samples - 1) / micro_batch + 1 : 0;
    return batches < plan->threads ? (size_t)batches : plan->threads;
}

void ousac_memory_list_recording(ousac_memory_plan *plan, const ousac_memory_recording *r) {
    const ousac_arch *arch = &r->model->arch;
    const size_t steps = r->schedule->step_count;
    const size_t most = ousac_arch_most_tokens(arch), asked = r->tokens ? r->tokens : OUSAC_DEFAULT_TOKENS;
    const size_t tokens = asked < most ? asked : most;
    const uint64_t kept = ousac_footprint_profile(arch, steps, 0); /* the pilot's, beside the profile */
    const uint64_t moments =
        plan->spilled ? ousac_footprint_largest_moment(arch) : ousac_footprint_moments(arch, r->segments);
    for (int with_moments = 0; with_moments < 2; with_moments++) {
        const uint64_t samples = with_moments ? r->samples : r->pilot_samples;
        const size_t workers = ousac_memory_workers(plan, samples, r->micro_batch);
        const size_t batch = samples < r->micro_batch ? (size_t)samples : r->micro_batch;
        const int magnitudes = with_moments && r->magnitudes;
        if (!samples)
            continue;
        ousac_memory_phase(plan, with_moments ? "recording" : "recording the pilot");
        ousac_memory_add(plan, "weights", r->model->weight_bytes);
        ousac_memory_add(plan, "activations of the threads",
                         workers * ousac_footprint_forward(r->model, batch));
        ousac_memory_add(plan, "references of the threads",
                         workers *
                             ousac_footprint_witness(arch, r->schedule, batch, tokens, 0, magnitudes, 0));
        if (with_moments) {
            ousac_memory_add(
                plan, "moments of the threads",
                workers * (ousac_footprint_witness(arch, r->schedule, batch, tokens, r->segments, magnitudes,
                                                   plan->spilled) -
                           ousac_footprint_witness(arch, r->schedule, batch, tokens, 0, magnitudes, 0)));
            ousac_memory_add(plan, "the profile's moments", moments + ousac_footprint_largest_moment(arch));
        }
        ousac_memory_add(plan, "the rest of the profile",
                         kept + ousac_footprint_profile(arch, steps, magnitudes));
        ousac_memory_phase_end(plan);
        plan->macs += ousac_memory_run_macs(arch, r->schedule, samples, 0);
    }
}
