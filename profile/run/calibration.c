#include "profile/run/calibration.h"

#include "formats/memory.h"
#include "formats/schedule.h"

#include <stdint.h>

#include <string.h>

ousac_status ousac_forecast_create(ousac_forecast **forecast, size_t step_count, size_t group_count,
                                   ousac_error *error) {
    ousac_forecast *f = ousac_calloc(1, sizeof *f);
    *forecast = NULL;
    if (f && step_count <= SIZE_MAX / OUSAC_BRANCHES / (group_count ? group_count : 1))
        f->coefficient = ousac_calloc(step_count * OUSAC_BRANCHES * group_count, sizeof *f->coefficient);
    if (!f || !f->coefficient) {
        ousac_forecast_free(f);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the forecasts of %zu steps", step_count);
    }
    f->step_count = step_count;
    f->group_count = group_count;
    *forecast = f;
    return OUSAC_STATUS_OK;
}

ousac_status ousac_forecast_copy(ousac_forecast **copy, const ousac_forecast *forecast, ousac_error *error) {
    ousac_status status = ousac_forecast_create(copy, forecast->step_count, forecast->group_count, error);
    if (!status)
        memcpy((*copy)->coefficient, forecast->coefficient,
               forecast->step_count * OUSAC_BRANCHES * forecast->group_count * sizeof *forecast->coefficient);
    return status;
}

void ousac_forecast_free(ousac_forecast *forecast) {
    if (!forecast)
        return;
    ousac_free(forecast->coefficient);
    ousac_free(forecast);
}

float ousac_forecast_at(const ousac_forecast *f, size_t step, int branch, size_t group) {
    return f->coefficient[(step * OUSAC_BRANCHES + (size_t)branch) * f->group_count + group];
}

void ousac_calibration_free(ousac_calibration *calibration) {
    if (!calibration)
        return;
    if (calibration->backend)
        calibration->backend->release(calibration->backend, calibration->storage);
    ousac_forecast_free(calibration->forecast);
    ousac_free(calibration->rank);
    ousac_free(calibration->path);
    ousac_free(calibration->live);
    ousac_free(calibration->a);
    ousac_free(calibration->b);
    ousac_free(calibration->group_rank);
    ousac_free(calibration);
}

/* Paths and group ranks; returns the floats that A and B need together. */
static size_t lay_out(ousac_calibration *c, const ousac_arch *arch, const ousac_ranks *ranks) {
    size_t floats = 0;
    for (size_t i = 0; i < arch->module_count; i++)
        c->live[i] = ousac_cost_module_live(arch, i, ranks);
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        c->rank[s] = ranks->rank[s];
        c->path[s] = ousac_cost_path(arch, s, ranks);
        if (c->path[s] == OUSAC_PATH_LOW_RANK) {
            floats += c->rank[s] * (site->m + site->n);
            c->group_rank[site->group] += c->rank[s];
        }
    }
    for (size_t g = 0; g < arch->group_count; g++)
        c->rank_max = c->group_rank[g] > c->rank_max ? c->group_rank[g] : c->rank_max;
    return floats;
}

ousac_status ousac_calibration_create(ousac_calibration **calibration, const ousac_backend *backend,
                                      const ousac_arch *arch, const ousac_ranks *ranks,
                                      ousac_factor_source source, void *source_self,
                                      const ousac_forecast *forecast, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    float *host = NULL;
    *calibration = NULL;
    if (!ranks->forecast != !forecast || (forecast && forecast->group_count != arch->group_count))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "a plan with a forecast needs its coefficients, and only such a plan");
    ousac_calibration *c = ousac_calloc(1, sizeof *c);
    if (!c)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a calibration");
    c->backend = backend;
    c->site_count = arch->site_count;
    c->group_count = arch->group_count;
    c->dense_fallback = ranks->dense_fallback;
    c->rank = ousac_calloc(arch->site_count, sizeof *c->rank);
    c->path = ousac_calloc(arch->site_count, sizeof *c->path);
    c->live = ousac_calloc(arch->module_count, sizeof *c->live);
    c->a = ousac_calloc(arch->site_count, sizeof *c->a);
    c->b = ousac_calloc(arch->group_count, sizeof *c->b);
    c->group_rank = ousac_calloc(arch->group_count, sizeof *c->group_rank);
    if (!c->rank || !c->path || !c->live || !c->a || !c->b || !c->group_rank) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a calibration");
        goto done;
    }
    if (forecast && (status = ousac_forecast_copy(&c->forecast, forecast, error)))
        goto done;
    for (size_t s = 0; s < arch->site_count; s++) {
        size_t full = arch->sites[s].m < arch->sites[s].n ? arch->sites[s].m : arch->sites[s].n;
        if (ranks->rank[s] > full && !ranks->dense_fallback) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: rank %zu, expected at most %zu",
                                arch->sites[s].name, ranks->rank[s], full);
            goto done;
        }
    }
    size_t floats = lay_out(c, arch, ranks), used = 0;
    c->storage = backend->alloc(backend, floats, sizeof(float));
    host = ousac_malloc(floats, sizeof *host);
    if (!c->storage || !host) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu factor values", floats);
        goto done;
    }
    for (size_t g = 0; g < arch->group_count; g++) {
        const ousac_group *group = &arch->groups[g];
        size_t n = arch->sites[group->first_site].n, b = used;
        used += c->group_rank[g] * n;
        if (c->group_rank[g])
            c->b[g] = c->storage + b;
        for (size_t s = group->first_site; s < group->first_site + group->site_count; s++) {
            if (c->path[s] != OUSAC_PATH_LOW_RANK)
                continue;
            c->a[s] = c->storage + used;
            if ((status = source(source_self, s, c->rank[s], host + used, host + b, error)))
                goto done;
            used += c->rank[s] * arch->sites[s].m;
            b += c->rank[s] * n;
        }
    }
    if ((status = backend->upload(backend, c->storage, host, floats * sizeof *host, error)))
        goto done;
    *calibration = c;
    c = NULL;
done:
    ousac_free(host);
    ousac_calibration_free(c);
    return status;
}

ousac_status ousac_calibration_zero_site(ousac_calibration *calibration, const ousac_arch *arch, size_t site,
                                         ousac_error *error) {
    const ousac_backend *be = calibration->backend;
    size_t count = calibration->rank[site] * arch->sites[site].m;
    if (!calibration->a[site])
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: has no low-rank correction",
                          arch->sites[site].name);
    float *zeros = ousac_calloc(count, sizeof *zeros);
    if (!zeros)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu zeros", count);
    float *target = calibration->storage + (calibration->a[site] - calibration->storage);
    ousac_status status = be->upload(be, target, zeros, count * sizeof *zeros, error);
    ousac_free(zeros);
    return status;
}
