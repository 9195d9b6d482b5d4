#include "pipeline/search_time.h"

#include <stdio.h>
#include <string.h>

/* The line that explains a share fits its points badly from here on. */
#define RESIDUAL_NOTED 0.05

static void tell(const ousac_session *session, const ousac_timing *timing, const char *from) {
    const ousac_timing_line *line = &timing->line[1];
    ousac_session_note(session,
                       "%s: in full %.4g s, refreshed %.4g s, cached %.4g s + %.3g s a rank, a micro-batch",
                       from, timing->part[OUSAC_TIMING_FULL].median,
                       timing->part[OUSAC_TIMING_REFRESH].median, line->fixed, line->per_rank);
    if (line->residual > RESIDUAL_NOTED)
        ousac_session_note(session, "%s: the line is up to %.1f %% from what was measured", from,
                           100 * line->residual);
}

/* 1 where the file is there and of this very setting. */
static int take_up(const ousac_search_time_options *options, const ousac_timing *expected,
                   ousac_timing *timing) {
    ousac_error ignored;
    return options->take_up && ousac_timing_load(timing, options->measured, &ignored) == OUSAC_STATUS_OK &&
           ousac_timing_check(timing, expected, options->measured, &ignored) == OUSAC_STATUS_OK &&
           strcmp(timing->processor, expected->processor) == 0;
}

ousac_status ousac_search_time(const ousac_session *session, const ousac_search_time_options *options,
                               ousac_timing *timing, ousac_error *error) {
    const ousac_stopwatch_options measure = {.like = options->reference, .repeats = OUSAC_DEFAULT_REPEATS};
    ousac_timing expected = {0};
    ousac_timing_identify(&expected, session, options->reference->steps[0].mode);
    if (options->given) {
        ousac_status status = ousac_timing_load(timing, options->given, error);
        if (!status)
            status = ousac_timing_check(timing, &expected, options->given, error);
        if (!status && strcmp(timing->processor, expected.processor) != 0)
            ousac_session_note(session, "%s: measured on %s; this is %s", options->given, timing->processor,
                               expected.processor);
        if (!status)
            tell(session, timing, options->given);
        return status;
    }
    if (take_up(options, &expected, timing)) {
        tell(session, timing, options->measured);
        return OUSAC_STATUS_OK;
    }
    ousac_status status = ousac_stopwatch_measure(timing, session, &measure, error);
    if (!status)
        status = ousac_timing_save(timing, options->measured, error);
    if (!status) /* as a later run will read it, to the last digit */
        status = ousac_timing_load(timing, options->measured, error);
    if (!status)
        tell(session, timing, options->measured);
    return status;
}

void ousac_search_time_text(const ousac_timing *timing, double budget, char text[OUSAC_SEARCH_TIME_BYTES]) {
    char machine[OUSAC_TIMING_LINE_BYTES];
    ousac_timing_describe(timing, machine);
    (void)snprintf(text, OUSAC_SEARCH_TIME_BYTES, "a budget of %g of the reference's time on %s", budget,
                   machine);
}
