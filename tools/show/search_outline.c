/* What a search will do and compute, before it does it. */
#include "tools/cli/print.h"
#include "tools/show/show.h"

#include "profile/record/ranges.h"

#include <inttypes.h>

static const char *effort_name(ousac_effort effort) {
    return effort == OUSAC_EFFORT_QUICK ? "quick" : "full";
}

void dry_search_print(const dry_search *search) {
    const ousac_search_outline *o = search->outline;
    const ousac_search_bill *bill = search->bill;
    const size_t steps = search->options->reference->step_count;
    cli_printf("\nsearch, effort %s: %.4g %% of the reference's %zu steps' %s, fitted on samples %" PRIu64
               ":%" PRIu64 ", chosen on %" PRIu64 ":%" PRIu64 "\n",
               effort_name(search->options->effort), 100 * search->options->budget, steps,
               search->options->timing ? "time" : "multiply-accumulates", o->fitting.first,
               o->fitting.first + o->fitting.count, o->validation.first,
               o->validation.first + o->validation.count);
    cli_printf("  fewer steps  %zu, plain and fitted in %zu ways", o->fewer, o->ways);
    for (size_t i = 0; i < o->curve_count; i++)
        cli_printf("%s%zu", i ? ", " : "; at other costs ", o->curve[i]);
    if (o->sparse_count)
        cli_printf("\n  some guided  ");
    for (size_t i = 0; i < o->sparse_count; i++)
        cli_printf("%s%zu steps, %zu guided", i ? "; " : "", o->sparse[i].steps, o->sparse[i].guided);
    if (o->pattern_count)
        cli_printf("\n  extrapolated ");
    for (size_t i = 0; i < o->pattern_count; i++)
        cli_printf("%s%zu steps, refreshed every %zu steps %zu times, then closer", i ? "; " : "", steps,
                   o->pattern[i].period, o->pattern[i].before[OUSAC_BRANCH_COND]);
    cli_printf("\n  cached       ");
    for (size_t i = 0; i < o->cached_count; i++)
        cli_printf("%s%zu steps (refreshed every %zu, rank %zu)", i ? ", " : "", o->cached[i].steps,
                   o->cached[i].period, o->cached[i].rank);
    if (o->cached_count > o->cached_most)
        cli_printf("; at most %zu of them, from the first to where the error is least", o->cached_most);
    cli_printf("%s\n\n%-32s %14s %12s\n", o->cached_count ? "" : "none: the budget holds no cache", "at most",
               "evaluations", "MACs");
    for (size_t i = 0; i < bill->count; i++)
        cli_printf("  %-30s %14" PRIu64 " %12.4g%s\n", bill->charge[i].what, bill->charge[i].evaluations,
                   (double)bill->charge[i].macs,
                   i < bill->searching   ? ""
                   : i + 1 < bill->count ? "  (of a cached result)"
                                         : "");
    cli_printf("  %-30s %14" PRIu64 " %12.4g\n", "in all", bill->evaluations, (double)bill->macs);
    cli_printf("evaluations: of one branch for one sample; `ousac time` measures what one takes\n\n");
}

void dry_search_put(ousac_json_doc *doc, cJSON *object, const dry_search *search) {
    const ousac_search_outline *o = search->outline;
    const ousac_search_bill *bill = search->bill;
    ousac_json_put_text(doc, object, "effort", effort_name(search->options->effort));
    ousac_json_put_u64(doc, object, "reference_steps", search->options->reference->step_count);
    ousac_json_put_real(doc, object, search->options->timing ? "budget_time" : "budget_total",
                        search->options->budget);
    ousac_range_put(doc, object, "fitting", o->fitting.first, o->fitting.count);
    ousac_range_put(doc, object, "validation", o->validation.first, o->validation.count);
    ousac_json_put_u64(doc, object, "fewer_steps", o->fewer);
    cJSON *list = ousac_json_put_array(doc, object, "other_steps");
    for (size_t i = 0; i < o->curve_count; i++)
        ousac_json_put_u64(doc, list, NULL, o->curve[i]);
    list = ousac_json_put_array(doc, object, "some_guided");
    for (size_t i = 0; i < o->sparse_count; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_u64(doc, item, "steps", o->sparse[i].steps);
        ousac_json_put_u64(doc, item, "guided", o->sparse[i].guided);
    }
    list = ousac_json_put_array(doc, object, "extrapolated");
    for (size_t i = 0; i < o->pattern_count; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_u64(doc, item, "full", o->pattern[i].full[0] + o->pattern[i].full[1]);
        ousac_json_put_u64(doc, item, "period", o->pattern[i].period);
        ousac_json_put_u64(doc, item, "before_the_turn", o->pattern[i].before[OUSAC_BRANCH_COND]);
    }
    list = ousac_json_put_array(doc, object, "cached");
    for (size_t i = 0; i < o->cached_count; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_u64(doc, item, "steps", o->cached[i].steps);
        ousac_json_put_u64(doc, item, "period", o->cached[i].period);
        ousac_json_put_u64(doc, item, "rank", o->cached[i].rank);
    }
    ousac_json_put_u64(doc, object, "cached_most", o->cached_most);
    list = ousac_json_put_array(doc, object, "stages");
    for (size_t i = 0; i < bill->count; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_text(doc, item, "stage", bill->charge[i].what);
        ousac_json_put_bool(doc, item, "search", i < bill->searching);
        ousac_json_put_u64(doc, item, "evaluations", bill->charge[i].evaluations);
        ousac_json_put_u64(doc, item, "macs", bill->charge[i].macs);
    }
    ousac_json_put_u64(doc, object, "evaluations", bill->evaluations);
    ousac_json_put_u64(doc, object, "macs", bill->macs);
}
