/* Packs a bundle whose one plan gives every site the same rank, whatever that costs: bundles that no budget
 * asks for, such as one of ranks 0, or one for a schedule without a cached evaluation.
 *
 *     make_bundle MODEL PROFILE RANK OUTPUT
 */
#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/bundle/bundle.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    const ousac_model_options model_options = {0};
    const ousac_factorise_options factor_options = {.threads = 1};
    const ousac_bundle_options options = {.dtype = OUSAC_DTYPE_F32, .keep_all = 1};
    ousac_model *model = NULL;
    ousac_profile *profile = NULL;
    ousac_factor_set *set = NULL;
    ousac_plan *plan = NULL;
    ousac_allocation allocation = {0};
    ousac_error error = {0};

    if (argc != 5) {
        fprintf(stderr, "usage: make_bundle MODEL PROFILE RANK OUTPUT\n");
        return 2;
    }
    ousac_status status = ousac_model_load(&model, argv[1], &model_options, ousac_backend_cpu(), &error);
    if (!status)
        status = ousac_profile_load(&profile, argv[2], &error);
    if (!status)
        status = ousac_factor_set_create(&set, model, profile, &factor_options, &error);
    if (!status) {
        const size_t sites = model->arch.site_count;
        allocation.rank = ousac_calloc(sites, sizeof *allocation.rank);
        if (allocation.rank == NULL)
            status = OUSAC_FAIL(&error, OUSAC_STATUS_MEMORY, "no memory for %zu ranks", sites);
        for (size_t s = 0; !status && s < sites; s++)
            allocation.rank[s] = strtoull(argv[3], NULL, 10);
    }
    if (!status) {
        const ousac_ranks ranks = {.rank = allocation.rank, .dense_fallback = 1};
        ousac_factor_set_clip(set, &model->arch, allocation.rank);
        allocation.cost = allocation.budget = ousac_cost_cached(&model->arch, &ranks);
        status = ousac_plan_create(&plan, &model->arch, "default", "fixed", &allocation, &error);
    }
    if (!status)
        status = ousac_bundle_save(argv[4], model, profile, set, (const ousac_plan *const *)&plan, 1,
                                   &options, &error);
    if (status)
        fprintf(stderr, "make_bundle: %s\n", error.message);
    ousac_plan_free(plan);
    ousac_allocation_free(&allocation);
    ousac_factor_set_free(set);
    ousac_profile_free(profile);
    ousac_model_free(model);
    return status ? 1 : 0;
}
