#include "pipeline/search.h"

#include "tools/cli/print.h"
#include "tools/show/show.h"

#include <inttypes.h>
#include <math.h>

void search_print(const ousac_search_result *found, int timed) {
    cli_printf("%-14s %6s %6s %6s %6s %10s%s %16s %14s %14s%s\n", "", "steps", "guided", "full", "rank",
               "MACs, %", timed ? "    time, %" : "", "error, unfitted", "error, fitted", "deciding",
               found->looked_again ? "       and again" : "");
    for (size_t i = 0; i < found->count; i++) {
        const ousac_search_candidate *c = &found->candidate[i];
        cli_printf("%-14s %6zu %6zu %6zu %6zu %10.2f", ousac_search_kind_name(c->kind),
                   c->schedule.step_count, c->guided, c->full, c->rank, 100 * c->share);
        if (timed)
            cli_printf(" %10.2f", 100 * c->spent);
        cli_printf(" %16.4g %14.4g %14.4g", c->unfitted, c->error, c->decided);
        if (found->looked_again && isnan(c->again))
            cli_printf(" %15s", "");
        else if (found->looked_again)
            cli_printf(" %15.4g", ousac_search_error(found, c));
        cli_printf("%s\n", i == found->best ? "  <- taken" : "");
    }
    for (size_t i = 0; i < found->point_count; i++) {
        const ousac_search_point *p = &found->point[i];
        cli_printf("%-14s %6zu %6s %6s %6s %10.2f", ousac_search_kind_name(p->kind), p->steps, "", "", "",
                   100 * p->share);
        if (timed)
            cli_printf(" %10.2f", 100 * p->spent);
        cli_printf(" %16s %14.4g  (at another cost)\n", "", p->error);
    }
    const uint64_t deciding = found->validation.count + found->deciding.count;
    cli_printf("on %" PRIu64 " validation samples, deciding on %" PRIu64, found->validation.count, deciding);
    if (found->looked_again)
        cli_printf(", of two that are near on %" PRIu64, deciding + found->again.count);
    cli_printf("; %.0f s\n\n", found->seconds);
}

void search_put(ousac_json_doc *doc, cJSON *object, const ousac_search_result *found, int timed) {
    cJSON *list = ousac_json_put_array(doc, object, "candidates");
    for (size_t i = 0; i < found->count; i++) {
        const ousac_search_candidate *c = &found->candidate[i];
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_text(doc, item, "kind", ousac_search_kind_name(c->kind));
        ousac_json_put_bool(doc, item, "taken", i == found->best);
        ousac_json_put_u64(doc, item, "steps", c->schedule.step_count);
        ousac_json_put_u64(doc, item, "guided", c->guided);
        ousac_json_put_u64(doc, item, "full", c->full);
        ousac_json_put_u64(doc, item, "rank", c->rank);
        ousac_json_put_real(doc, item, "macs_share", c->share);
        if (timed)
            ousac_json_put_real(doc, item, "time_share", c->spent);
        ousac_json_put_real(doc, item, "unfitted", c->unfitted);
        ousac_json_put_real(doc, item, "error", c->error);
        ousac_json_put_real(doc, item, "decided", c->decided);
        if (!isnan(c->again))
            ousac_json_put_real(doc, item, "decided_again", ousac_search_error(found, c));
        ousac_json_put_real(doc, item, "wall_s", c->seconds);
    }
    list = ousac_json_put_array(doc, object, "points");
    for (size_t i = 0; i < found->point_count; i++) {
        const ousac_search_point *p = &found->point[i];
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_text(doc, item, "kind", ousac_search_kind_name(p->kind));
        ousac_json_put_u64(doc, item, "steps", p->steps);
        ousac_json_put_real(doc, item, "macs_share", p->share);
        if (timed)
            ousac_json_put_real(doc, item, "time_share", p->spent);
        ousac_json_put_real(doc, item, "error", p->error);
    }
    ousac_json_put_u64(doc, object, "fit_evaluations", found->evaluations);
    ousac_json_put_real(doc, object, "wall_s", found->seconds);
}
