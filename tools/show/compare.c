#include "tools/cli/print.h"
#include "tools/show/show.h"

#include "profile/record/ranges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void compare_print(const ousac_compare_cell *cell) {
    cli_printf(
        "schedule %s (%s), refresh every %zu, cached step %.1f %%: rank %zu, %.3f %% of constant guidance\n",
        cell->schedule_name, cell->solver, cell->period, 100 * cell->budget_step, cell->rank,
        100 * cell->budget_total);
    cli_printf("%-14s %-18s %-7s %12s %10s  %-20s %5s %8s\n", "method", "ranks", "gates", "of const., %",
               "error", "95 %", "runs", "seconds");
    for (size_t i = 0; i < cell->row_count; i++) {
        const ousac_compare_row *r = &cell->row[i];
        char interval[OUSAC_INTERVAL_BYTES];
        (void)ousac_interval_text(&r->error, "%.4g", interval);
        cli_printf("%-14s %-18s %-7s %12.3f %10.4g  %-20s %5zu %8.0f%s%s\n", r->method, r->allocator,
                   r->placed ? "placed" : "even", 100 * r->macs_total, r->error.mean, interval,
                   r->evaluations, r->seconds, strcmp(r->asked, r->allocator) != 0 ? "  instead of " : "",
                   strcmp(r->asked, r->allocator) != 0 ? r->asked : "");
        if (r->shipped)
            cli_printf("%-14s ^ ours, by the validation samples\n", "");
    }
}

void compare_put(ousac_json_doc *doc, cJSON *object, const ousac_compare_cell *cell) {
    ousac_json_put_text(doc, object, "schedule", cell->schedule_name);
    ousac_json_put_text(doc, object, "solver", cell->solver);
    ousac_json_put_u64(doc, object, "period", cell->period);
    ousac_json_put_real(doc, object, "budget", cell->budget_step);
    ousac_json_put_real(doc, object, "budget_total", cell->budget_total);
    ousac_json_put_u64(doc, object, "rank", cell->rank);
    ousac_range_put(doc, object, "calibration", cell->calibration.first, cell->calibration.count);
    ousac_range_put(doc, object, "validation", cell->validation.first, cell->validation.count);
    ousac_range_put(doc, object, "test", cell->test.first, cell->test.count);
    cJSON *rows = ousac_json_put_array(doc, object, "rows");
    for (size_t i = 0; i < cell->row_count; i++) {
        const ousac_compare_row *r = &cell->row[i];
        cJSON *item = ousac_json_put_object(doc, rows, NULL);
        ousac_json_put_text(doc, item, "method", r->method);
        ousac_json_put_text(doc, item, "allocator", r->allocator);
        ousac_json_put_text(doc, item, "asked", r->asked);
        ousac_json_put_bool(doc, item, "ours", r->ours);
        ousac_json_put_bool(doc, item, "placed", r->placed);
        ousac_json_put_bool(doc, item, "shipped", r->shipped);
        ousac_json_put_real(doc, item, "macs_total", r->macs_total);
        ousac_json_put_real(doc, item, "error", r->error.mean);
        ousac_json_put_real(doc, item, "low", r->error.low);
        ousac_json_put_real(doc, item, "high", r->error.high);
        if (!isnan(r->validation))
            ousac_json_put_real(doc, item, "validation", r->validation);
        ousac_json_put_real(doc, item, "seconds", r->seconds);
        ousac_json_put_u64(doc, item, "evaluations", r->evaluations);
    }
}
