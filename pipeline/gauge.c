#include "pipeline/gauge.h"

#include "formats/memory.h"

#include <math.h>
#include <string.h>

ousac_status ousac_gauge_create(ousac_gauge *g, const ousac_session *session, const ousac_schedule *schedule,
                                const ousac_sample_range *range, ousac_error *error) {
    const size_t size = ousac_model_sample_size(session->model), count = (size_t)range->count;
    ousac_status status = OUSAC_STATUS_OK;
    memset(g, 0, sizeof *g);
    g->session = *session;
    g->session.micro_batch = ousac_session_batch(session, range->count);
    g->range = *range;
    if (range->count <= SIZE_MAX / size) {
        g->exact = ousac_malloc(count * size, sizeof *g->exact);
        g->samples = ousac_malloc(count * size, sizeof *g->samples);
        g->squares = ousac_malloc(count, sizeof *g->squares);
    }
    if (!g->exact || !g->samples || !g->squares) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu samples", count);
        goto done;
    }
    const ousac_session_run run = {.label = "exact",
                                   .schedule = schedule,
                                   .range = *range,
                                   .exact = 1,
                                   .samples = g->exact,
                                   .seconds = &g->exact_seconds};
    status = ousac_session_run_samples(&g->session, &run, error);
done:
    if (status)
        ousac_gauge_free(g);
    return status;
}

void ousac_gauge_free(ousac_gauge *g) {
    ousac_free(g->exact);
    ousac_free(g->samples);
    ousac_free(g->squares);
    memset(g, 0, sizeof *g);
}

ousac_status ousac_gauge_measure(ousac_gauge *g, const ousac_gauge_arm *arm, ousac_counters *counters,
                                 double *relative_error, ousac_error *error) {
    double seconds = 0, sum = 0;
    const ousac_session_run run = {.label = arm->label,
                                   .schedule = arm->schedule,
                                   .range = g->range,
                                   .calibration = arm->calibration,
                                   .gradient = arm->gradient,
                                   .samples = g->samples,
                                   .counters = counters,
                                   .seconds = &seconds};
    ousac_status status = ousac_session_run_samples(&g->session, &run, error);
    if (!status)
        status =
            ousac_evaluate_samples(g->samples, g->exact, (size_t)g->range.count,
                                   ousac_model_sample_size(g->session.model), NULL, g->squares, NULL, error);
    if (status)
        return status;
    for (uint64_t i = 0; i < g->range.count; i++)
        sum += g->squares[i];
    *relative_error = sqrt(sum / (double)g->range.count);
    g->evaluations++;
    g->seconds += seconds;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_gauge_measure_ranks(ousac_gauge *g, const char *label, const ousac_schedule *schedule,
                                       ousac_factor_set *set, const size_t *rank,
                                       const ousac_forecast *forecast, double *relative_error,
                                       ousac_error *error) {
    const ousac_model *model = g->session.model;
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1, .forecast = forecast != NULL};
    ousac_calibration *calibration = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &ranks,
                                                   ousac_factor_set_source, set, forecast, error);
    const ousac_gauge_arm arm = {.label = label, .schedule = schedule, .calibration = calibration};
    if (!status)
        status = ousac_gauge_measure(g, &arm, NULL, relative_error, error);
    ousac_calibration_free(calibration);
    return status;
}
