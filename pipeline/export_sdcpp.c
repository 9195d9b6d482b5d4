#include "pipeline/export_sdcpp.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "formats/schedule.h"
#include "profile/bundle/bundle.h"

#include <stdio.h>
#include <string.h>

enum { VALUE_BYTES = 64 }; /* at least those of "VALUExCOUNT+" */

/* Runs of equal scales from the last step to the first; the last run is one longer. */
static size_t print_line(const ousac_schedule *schedule, char *text, size_t size) {
    size_t used = (size_t)snprintf(
        text, size, "--steps %zu --extra-sample-args guidance_schedule=", schedule->step_count);
    for (size_t last = schedule->step_count, first = 0; last > 0; last = first) {
        const double scale = schedule->steps[last - 1].scale;
        for (first = last - 1; first > 0 && schedule->steps[first - 1].scale == scale;)
            first--;
        used += (size_t)snprintf(text + used, size - used, "%s%.9gx%zu",
                                 last < schedule->step_count ? "+" : "", scale, last - first + (first == 0));
    }
    return used + (size_t)snprintf(text + used, size - used, "\n");
}

static ousac_status export_schedule(const ousac_schedule *schedule, const char *input, const char *output,
                                    ousac_export_sdcpp_result *result, ousac_error *error) {
    const size_t bytes = (schedule->step_count + 2) * VALUE_BYTES;
    *result = (ousac_export_sdcpp_result){schedule->step_count, 0, ousac_schedule_is_fitted(schedule)};
    for (size_t i = 0; i < schedule->step_count; i++) {
        if (schedule->steps[i].mode == OUSAC_MODE_UNCOND)
            return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: step %zu evaluates the unconditional branch alone, which has no scale",
                              input, i);
        if (schedule->steps[i].tells)
            return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                              "%s: step %zu states guidance %g, but guidance_schedule says scales alone",
                              input, i, schedule->steps[i].guidance);
        result->skipped += schedule->steps[i].mode == OUSAC_MODE_COND;
    }
    char *line = ousac_malloc(bytes, 1);
    if (!line)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", input);
    const ousac_status status = ousac_file_replace(output, line, print_line(schedule, line, bytes), error);
    ousac_free(line);
    return status;
}

ousac_status ousac_export_sdcpp(const char *input, const char *output, ousac_export_sdcpp_result *result,
                                ousac_error *error) {
    const size_t length = strlen(input);
    ousac_status status;
    if (length > 5 && strcmp(input + length - 5, ".json") == 0) {
        ousac_schedule schedule = {0};
        status = ousac_schedule_load(&schedule, input, error);
        if (!status)
            status = export_schedule(&schedule, input, output, result, error);
        ousac_schedule_free(&schedule);
        return status;
    }
    ousac_bundle *bundle = NULL;
    status = ousac_bundle_open(&bundle, input, error);
    if (!status)
        status = export_schedule(ousac_bundle_schedule(bundle), input, output, result, error);
    ousac_bundle_close(bundle);
    return status;
}
