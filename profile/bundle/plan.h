/* A plan: the rank of every site under a budget, how it was chosen, and its file form (.oca,
 * formats/PLAN.md).
 */
#ifndef OUSAC_PLAN_H
#define OUSAC_PLAN_H

#include "calib/arch.h"
#include "calib/choose/allocate.h"
#include "calib/cost.h"
#include "formats/sha256.h"
#include "formats/status.h"
#include "profile/files/identity.h"
#include "profile/record/profile.h"
#include "profile/run/calibration.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_plan {
    char name[OUSAC_NAME_BYTES];   /* "default" */
    char method[OUSAC_NAME_BYTES]; /* allocator that chose the ranks: "uniform", "knapsack" */
    char model_digest[OUSAC_DIGEST_CHARS];
    char model_constants[OUSAC_CONSTANTS_BYTES], model_process[OUSAC_PROCESS_BYTES];
    char profile_digest[OUSAC_DIGEST_CHARS];
    size_t site_count;
    char (*site)[OUSAC_NAME_BYTES];    /* (site_count) names, in the order of the architecture */
    size_t *rank;                      /* (site_count) */
    ousac_forecast *forecast;          /* owned; NULL for a plan without one */
    double cached_step;                /* MACs of a cached evaluation over a full one */
    double budget;                     /* as asked, the same unit */
    double modelled_error, bound, gap; /* the certificate, under the error model named */
    int exact;
    char error_model[OUSAC_NAME_BYTES];
    ousac_sample_range validation;        /* samples that accepted it; count 0: none, or not known */
    char note[OUSAC_ERROR_MESSAGE_BYTES]; /* one line for people: what validation said */
} ousac_plan;

/* USAGE where the name cannot be a plan's. */
ousac_status ousac_plan_check_name(const char *name, ousac_error *error);

ousac_status ousac_plan_create(ousac_plan **plan, const ousac_arch *arch, const char *name,
                               const char *method, const ousac_allocation *allocation, ousac_error *error);
void ousac_plan_free(ousac_plan *plan);
ousac_status ousac_plan_copy(ousac_plan **copy, const ousac_plan *plan, ousac_error *error);

/* Borrows the plan's texts of its model, whose digest may be "". */
ousac_identity ousac_plan_model(const ousac_plan *plan);

/* How the plan's ranks are run and what they cost: with the dense fallback, and the forecast where it has
 * one. Borrows the ranks. */
ousac_ranks ousac_plan_ranks(const ousac_plan *plan);

ousac_status ousac_plan_save(const ousac_plan *plan, const char *path, ousac_error *error);
ousac_status ousac_plan_load(ousac_plan **plan, const char *path, ousac_error *error);

/* MISMATCH where the plan's sites are not the architecture's. `name` stands for the plan's file in the
 * message. */
ousac_status ousac_plan_check(const ousac_plan *plan, const ousac_arch *arch, const char *name,
                              ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
