#include "tools/cli/print.h"
#include "tools/show/show.h"

#include "profile/record/ranges.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* How many sites take each path. */
static void count_paths(const ousac_arch *arch, const size_t *rank, size_t count[4]) {
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    memset(count, 0, 4 * sizeof *count);
    for (size_t s = 0; s < arch->site_count; s++)
        count[ousac_cost_path(arch, s, &ranks)]++;
}

void choice_print(const ousac_choice *choice, const ousac_arch *arch) {
    size_t paths[4], least = SIZE_MAX, most = 0;
    cli_printf("%-17s %12s %16s %14s %8s %12s\n", "method", "cached step", "modelled error", "dual bound",
               "gap", choice->validated ? "end to end" : "");
    for (int i = 0; i < OUSAC_CANDIDATES; i++) {
        const ousac_candidate *candidate = &choice->candidate[i];
        if (!candidate->present)
            continue;
        cli_printf("%-17s %10.3f %% %16.6g %14.6g %6.2f %%", ousac_candidate_name(i),
                   100 * candidate->cached_step, candidate->allocation.error, candidate->allocation.bound,
                   100 * candidate->allocation.gap);
        if (choice->validated)
            cli_printf(" %12.4g", candidate->measured);
        cli_printf("%s\n", i == choice->chosen ? "  <- chosen" : "");
    }
    count_paths(arch, choice->plan->rank, paths);
    for (size_t s = 0; s < arch->site_count; s++) {
        least = choice->plan->rank[s] < least ? choice->plan->rank[s] : least;
        most = choice->plan->rank[s] > most ? choice->plan->rank[s] : most;
    }
    cli_printf("error model: %s%s\n", choice->plan->error_model,
               choice->plan->exact ? "; the chosen plan is optimal under it at this granularity" : "");
    cli_printf(
        "ranks %zu to %zu; sites: %zu low rank, %zu exact products, %zu frozen, %zu in reused modules\n",
        least, most, paths[OUSAC_PATH_LOW_RANK], paths[OUSAC_PATH_DENSE], paths[OUSAC_PATH_FROZEN],
        paths[OUSAC_PATH_SKIPPED]);
    cli_printf("budget: %.3f %% of a full evaluation; the plan: %.3f %% of one, %.3f %% of constant guidance "
               "uncached\n",
               100 * choice->budget_step, 100 * choice->cost.cached_step, 100 * choice->cost.total);
    if (choice->cost.forwards_cached == 0)
        cli_printf("the schedule has no cached evaluation: there is nothing to correct\n");
    cli_printf("%s\n", choice->plan->note);
}

static void put_candidate(ousac_json_doc *doc, cJSON *item, const ousac_candidate *candidate, int validated) {
    ousac_json_put_real(doc, item, "cached_step", candidate->cached_step);
    ousac_json_put_real(doc, item, "modelled_error", candidate->allocation.error);
    ousac_json_put_real(doc, item, "bound", candidate->allocation.bound);
    ousac_json_put_real(doc, item, "gap", candidate->allocation.gap);
    ousac_json_put_bool(doc, item, "exact", candidate->allocation.exact);
    ousac_json_put_u64(doc, item, "nodes", candidate->allocation.nodes);
    if (validated)
        ousac_json_put_real(doc, item, "relative_error", candidate->measured);
    ousac_json_put_u64(doc, item, "evaluations", candidate->evaluations);
    ousac_json_put_real(doc, item, "wall_s", candidate->seconds);
}

void choice_put(ousac_json_doc *doc, cJSON *object, const ousac_choice *choice, const ousac_arch *arch) {
    static const char *const path_names[] = {"frozen", "low_rank", "dense", "skipped"};
    cJSON *list = NULL;
    size_t paths[4];

    ousac_json_put_text(doc, object, "plan", choice->plan->name);
    ousac_json_put_text(doc, object, "method", choice->plan->method);
    ousac_json_put_text(doc, object, "note", choice->plan->note);
    ousac_json_put_real(doc, object, "budget_step", choice->budget_step);
    ousac_json_put_real(doc, object, "cached_step", choice->cost.cached_step);
    ousac_json_put_real(doc, object, "total", choice->cost.total);
    ousac_json_put_text(doc, object, "error_model", choice->plan->error_model);
    if (choice->validated)
        ousac_range_put(doc, object, "validation", choice->validation.first, choice->validation.count);
    list = ousac_json_put_array(doc, object, "candidates");
    for (int i = 0; i < OUSAC_CANDIDATES; i++)
        if (choice->candidate[i].present) {
            cJSON *item = ousac_json_put_object(doc, list, NULL);
            ousac_json_put_text(doc, item, "method", ousac_candidate_name(i));
            ousac_json_put_bool(doc, item, "forecast", choice->candidate[i].forecast != NULL);
            put_candidate(doc, item, &choice->candidate[i], choice->validated);
        }
    count_paths(arch, choice->plan->rank, paths);
    list = ousac_json_put_object(doc, object, "sites");
    for (int i = 0; i < 4; i++)
        ousac_json_put_u64(doc, list, path_names[i], paths[i]);
}
