#include "pipeline/headline.h"

#include "formats/memory.h"
#include "profile/run/evaluate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The first row's errors over these; NAN where there is no such ratio. */
static ousac_status compare_with_first(ousac_headline *headline, const double *squares, size_t count,
                                       uint64_t seed, ousac_interval *ratio, ousac_error *error) {
    int some = headline->count > 0 && headline->first_count == count;
    *ratio = (ousac_interval){NAN, NAN, NAN};
    for (size_t s = 0; s < count && some; s++)
        some = squares[s] > 0;
    return some ? ousac_paired_ratio(headline->first, squares, count, seed, ratio, error) : OUSAC_STATUS_OK;
}

ousac_status ousac_headline_add(ousac_headline *headline, const ousac_headline_row *row, const float *samples,
                                const float *reference, size_t count, size_t size, uint64_t seed,
                                ousac_error *error) {
    ousac_headline_row made = *row;
    double *squares = ousac_malloc(count, sizeof *squares);
    if (!squares)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu samples", count);
    ousac_status status = ousac_evaluate_samples(samples, reference, count, size, NULL, squares, NULL, error);
    if (!status)
        status = ousac_stats_root_mean(squares, count, seed, &made.error, error);
    if (!status && headline->count == OUSAC_HEADLINE_ROWS)
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "more than %d rows", OUSAC_HEADLINE_ROWS);
    if (!status)
        status = compare_with_first(headline, squares, count, seed, &made.ratio, error);
    if (!status && headline->count == 0) {
        ousac_free(headline->first);
        headline->first_count = 0;
        headline->first = ousac_malloc(count, sizeof *headline->first);
        if (!headline->first)
            status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu samples", count);
        else {
            memcpy(headline->first, squares, count * sizeof *squares);
            headline->first_count = count;
        }
    }
    if (!status) {
        qsort(squares, count, sizeof *squares, ascending);
        made.median = (sqrt(squares[(count - 1) / 2]) + sqrt(squares[count / 2])) / 2;
        made.worst = sqrt(squares[count - 1]);
        headline->row[headline->count++] = made;
    }
    ousac_free(squares);
    return status;
}

ousac_status ousac_headline_run_and_add(ousac_headline *headline, const ousac_session *session,
                                        const ousac_headline_run *run, ousac_error *error) {
    const size_t size = ousac_model_sample_size(session->model), count = (size_t)run->range.count;
    ousac_counters counters = {0};
    double seconds = 0;
    float *samples = count > SIZE_MAX / size ? NULL : ousac_malloc(count * size, sizeof *samples);
    ousac_status status = OUSAC_STATUS_OK;
    if (!samples)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %" PRIu64 " samples",
                          run->range.count);
    const ousac_session_run inner = {.label = run->method,
                                     .schedule = run->schedule,
                                     .range = run->range,
                                     .exact = !ousac_schedule_needs_no_factors(run->schedule),
                                     .samples = samples,
                                     .counters = &counters,
                                     .seconds = &seconds};
    status = ousac_session_run_samples(session, &inner, error);
    const ousac_headline_row row = {.method = run->method,
                                    .steps = run->schedule->step_count,
                                    .macs_share =
                                        (double)counters.macs / ((double)run->reference_macs * (double)count),
                                    .seconds_share = seconds / run->reference_seconds};
    if (!status)
        status =
            ousac_headline_add(headline, &row, samples, run->reference, count, size, session->seed, error);
    if (!status && run->keep) {
        ousac_free(*run->keep);
        *run->keep = samples;
        samples = NULL;
    }
    ousac_free(samples);
    return status;
}

void ousac_headline_free(ousac_headline *headline) {
    ousac_free(headline->fewer);
    ousac_free(headline->fitted);
    ousac_free(headline->extrapolated);
    ousac_free(headline->first);
    memset(headline, 0, sizeof *headline);
}
