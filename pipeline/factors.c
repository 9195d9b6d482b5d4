#include "pipeline/factors.h"

#include "pipeline/workers.h"

ousac_status ousac_session_factors(const ousac_session *session, const ousac_profile *profile,
                                   ousac_method method, ousac_factor_set **set, ousac_error *error) {
    return session->workers ? session->workers->factors(session, profile, method, set, error)
                            : ousac_session_factors_here(session, profile, method, NULL, NULL, set, error);
}

ousac_status ousac_session_factors_within(const ousac_session *session, const ousac_profile *profile,
                                          ousac_method method, const size_t *rank_max, ousac_factor_set **set,
                                          ousac_error *error) {
    return ousac_session_factors_here(session, profile, method, rank_max, NULL, set, error);
}

ousac_status ousac_session_factors_here(const ousac_session *session, const ousac_profile *profile,
                                        ousac_method method, const size_t *rank_max,
                                        const unsigned char *groups, ousac_factor_set **set,
                                        ousac_error *error) {
    ousac_progress progress = ousac_session_progress(session, "factors");
    const ousac_factorise_options options = {
        .method = method,
        .rank_max = rank_max,
        .groups = groups,
        .whole_spectra = 1,
        .threads = ousac_session_threads(session),
        .progress = ousac_progress_update,
        .progress_self = &progress,
        .stop = session->stop,
    };
    const ousac_status status = ousac_factor_set_create(set, session->model, profile, &options, error);
    ousac_progress_end(&progress);
    return status;
}

ousac_status ousac_session_fit_forecast(const ousac_session *session, const ousac_schedule *schedule,
                                        const ousac_sample_range *range, ousac_factor_set *set,
                                        const size_t *rank, const char *label, ousac_forecast **forecast,
                                        ousac_error *error) {
    const ousac_model *model = session->model;
    const ousac_ranks plain = {.rank = rank, .dense_fallback = 1};
    ousac_calibration *calibration = NULL;
    ousac_forecast_fit *fit = NULL;
    ousac_status status = ousac_calibration_create(&calibration, model->backend, &model->arch, &plain,
                                                   ousac_factor_set_source, set, NULL, error);
    if (!status)
        status = ousac_forecast_fit_create(&fit, model, schedule, calibration, ousac_session_threads(session),
                                           session->micro_batch, error);
    if (status)
        goto done;
    const ousac_session_run run = {.label = label,
                                   .schedule = schedule,
                                   .range = *range,
                                   .exact = 1,
                                   .observers = ousac_forecast_fit_observers(fit)};
    status = session->workers ? session->workers->fit(session, &run, calibration, fit, error)
                              : ousac_session_run_samples(session, &run, error);
    if (!status)
        status = ousac_forecast_fit_solve(fit, OUSAC_FORECAST_LEAST_GAIN, forecast, error);
done:
    ousac_forecast_fit_free(fit);
    ousac_calibration_free(calibration);
    return status;
}
