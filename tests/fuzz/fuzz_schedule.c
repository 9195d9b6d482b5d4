/* Any bytes as a schedule: what parses also prints, and the printed text is the same schedule. */
#include "formats/memory.h"
#include "formats/schedule.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ousac_schedule schedule, back;
    ousac_error error = {0};
    char *text = NULL, *again = NULL, one[OUSAC_DIGEST_CHARS], other[OUSAC_DIGEST_CHARS];
    int *effective;

    if (ousac_schedule_parse(&schedule, (const char *)data, size, "fuzz", &error)) {
        if (schedule.steps || schedule.step_count || !error.message[0])
            abort();
        return 0;
    }
    if (ousac_schedule_validate(&schedule, "fuzz", NULL) || ousac_schedule_print(&schedule, &text, NULL) ||
        ousac_schedule_parse(&back, text, strlen(text), "printed", NULL) ||
        ousac_schedule_print(&back, &again, NULL))
        abort();
    ousac_schedule_digest(&schedule, one);
    ousac_schedule_digest(&back, other);
    if (strcmp(one, other) != 0 || strcmp(text, again) != 0 || strcmp(schedule.name, back.name) != 0)
        abort();
    effective = ousac_calloc(schedule.step_count, OUSAC_BRANCHES * sizeof *effective);
    if (effective)
        (void)ousac_schedule_effective_gates(&schedule, effective, &error);
    ousac_free(effective);
    ousac_free(text);
    ousac_free(again);
    ousac_schedule_free(&schedule);
    ousac_schedule_free(&back);
    return 0;
}
