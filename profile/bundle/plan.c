#include "profile/bundle/plan.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/bundle/plan_file.h"

#include <stdio.h>
#include <string.h>

int ousac_plan_name_is_valid(const char *name) {
    const size_t length = strlen(name);
    return length > 0 && length < OUSAC_NAME_BYTES &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") == length;
}

ousac_status ousac_plan_allocate(ousac_plan **plan, size_t sites, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_plan *made = ousac_calloc(1, sizeof *made);
    *plan = NULL;
    if (made) {
        made->site_count = sites;
        made->site = ousac_calloc(sites, sizeof *made->site);
        made->rank = ousac_calloc(sites, sizeof *made->rank);
    }
    if (!made || !made->site || !made->rank) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for a plan of %zu sites", sites);
        goto done;
    }
    *plan = made;
    made = NULL;
done:
    ousac_plan_free(made);
    return status;
}

ousac_status ousac_plan_check_name(const char *name, ousac_error *error) {
    if (!ousac_plan_name_is_valid(name))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "\"%.120s\" cannot name a plan; expected 1 to %d letters, digits, '-', '_' or '.'",
                          name, OUSAC_NAME_BYTES - 1);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_plan_create(ousac_plan **plan, const ousac_arch *arch, const char *name,
                               const char *method, const ousac_allocation *allocation, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_plan *made = NULL;
    *plan = NULL;
    status = ousac_plan_check_name(name, error);
    if (status)
        return status;
    if (strlen(method) == 0 || strlen(method) >= OUSAC_NAME_BYTES)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "\"%.120s\" cannot name a method; expected 1 to %d bytes", method,
                          OUSAC_NAME_BYTES - 1);
    status = ousac_plan_allocate(&made, arch->site_count, error);
    if (status)
        goto done;
    (void)snprintf(made->name, sizeof made->name, "%s", name);
    (void)snprintf(made->method, sizeof made->method, "%s", method);
    for (size_t s = 0; s < arch->site_count; s++) {
        memcpy(made->site[s], arch->sites[s].name, sizeof made->site[s]);
        made->rank[s] = allocation->rank[s];
    }
    const double full = (double)ousac_cost_full(arch);
    made->cached_step = (double)allocation->cost / full;
    made->budget = (double)allocation->budget / full;
    made->modelled_error = allocation->error;
    made->bound = allocation->bound;
    made->gap = allocation->gap;
    made->exact = allocation->exact != 0;
    status = ousac_plan_check(made, arch, name, error);
    if (status)
        goto done;
    *plan = made;
    made = NULL;
done:
    ousac_plan_free(made);
    return status;
}

void ousac_plan_free(ousac_plan *plan) {
    if (!plan)
        return;
    ousac_forecast_free(plan->forecast);
    ousac_free(plan->site);
    ousac_free(plan->rank);
    ousac_free(plan);
}

ousac_status ousac_plan_copy(ousac_plan **copy, const ousac_plan *plan, ousac_error *error) {
    ousac_status status = ousac_plan_allocate(copy, plan->site_count, error);
    if (status)
        return status;
    ousac_plan arrays = **copy;
    **copy = *plan;
    (*copy)->site = arrays.site;
    (*copy)->rank = arrays.rank;
    (*copy)->forecast = NULL;
    memcpy(arrays.site, plan->site, plan->site_count * sizeof *plan->site);
    memcpy(arrays.rank, plan->rank, plan->site_count * sizeof *plan->rank);
    if (plan->forecast)
        status = ousac_forecast_copy(&(*copy)->forecast, plan->forecast, error);
    if (status) {
        ousac_plan_free(*copy);
        *copy = NULL;
    }
    return status;
}

ousac_identity ousac_plan_model(const ousac_plan *plan) {
    return (ousac_identity){plan->model_digest, plan->model_constants, plan->model_process};
}

ousac_ranks ousac_plan_ranks(const ousac_plan *plan) {
    return (ousac_ranks){.rank = plan->rank, .dense_fallback = 1, .forecast = plan->forecast != NULL};
}

ousac_status ousac_plan_check(const ousac_plan *plan, const ousac_arch *arch, const char *name,
                              ousac_error *error) {
    if (plan->site_count != arch->site_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: a plan of %zu sites for a model of %zu", name,
                          plan->site_count, arch->site_count);
    if (plan->forecast && plan->forecast->group_count != arch->group_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: a forecast of %zu groups for a model of %zu",
                          name, plan->forecast->group_count, arch->group_count);
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        const size_t most = site->m < site->n ? site->m : site->n;
        if (strcmp(plan->site[s], site->name) != 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: site %zu of the plan is %s, of the model %s",
                              name, s, plan->site[s], site->name);
        if (plan->rank[s] > most)
            return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                              "%s: rank %zu for site %s, whose weight is (%zu, %zu); at most %zu expected",
                              name, plan->rank[s], site->name, site->m, site->n, most);
    }
    return OUSAC_STATUS_OK;
}
