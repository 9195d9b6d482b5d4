#include "tools/cli/print.h"
#include "tools/show/show.h"

#include "profile/record/ranges.h"

#include <math.h>
#include <stdio.h>

void yardstick_print(const ousac_yardstick *result) {
    cli_printf("against %s (%s), %zu steps, at most %.4g %% of its multiply-accumulates\n",
               result->reference_name, result->solver, result->reference_steps, 100 * result->budget);
    cli_printf("%-26s %7s %8s  %-18s %8s %8s  %s\n", "method", "MACs, %", "error", "95 %", "median", "worst",
               "settings");
    for (size_t i = 0; i < result->row_count; i++) {
        const ousac_yardstick_row *r = &result->row[i];
        char interval[OUSAC_INTERVAL_BYTES];
        if (r->left_out) {
            cli_printf("%-26s left out: %s\n", r->method, r->left_out);
            continue;
        }
        (void)ousac_interval_text(&r->error, "%.4g", interval);
        cli_printf("%-26s %7.2f %8.4f  %-18s %8.4f %8.4f  %s\n", r->method, 100 * r->macs_share,
                   r->error.mean, interval, r->median, r->worst, r->settings);
    }
}

void yardstick_put(ousac_json_doc *doc, cJSON *root, const char *model, const ousac_yardstick *result) {
    ousac_json_put_text(doc, root, "kind", "ousac quality against a reference");
    ousac_json_put_u64(doc, root, "version", 1);
    cJSON *object = ousac_json_put_object(doc, ousac_json_put_array(doc, root, "cells"), NULL);
    ousac_json_put_text(doc, object, "model", model);
    ousac_json_put_text(doc, object, "reference", result->reference_name);
    ousac_json_put_text(doc, object, "solver", result->solver);
    ousac_json_put_u64(doc, object, "reference_steps", result->reference_steps);
    ousac_json_put_real(doc, object, "budget", result->budget);
    ousac_range_put(doc, object, "calibration", result->calibration.first, result->calibration.count);
    ousac_range_put(doc, object, "validation", result->validation.first, result->validation.count);
    ousac_range_put(doc, object, "test", result->test.first, result->test.count);
    cJSON *rows = ousac_json_put_array(doc, object, "rows");
    for (size_t i = 0; i < result->row_count; i++) {
        const ousac_yardstick_row *r = &result->row[i];
        cJSON *item = ousac_json_put_object(doc, rows, NULL);
        ousac_json_put_text(doc, item, "method", r->method);
        ousac_json_put_bool(doc, item, "ours", 0);
        if (r->left_out) {
            ousac_json_put_text(doc, item, "left_out", r->left_out);
            continue;
        }
        ousac_json_put_text(doc, item, "settings", r->settings);
        ousac_json_put_u64(doc, item, "steps", r->steps);
        ousac_json_put_real(doc, item, "macs_share", r->macs_share);
        ousac_json_put_real(doc, item, "seconds_share", r->seconds_share);
        ousac_json_put_real(doc, item, "error", r->error.mean);
        ousac_json_put_real(doc, item, "low", r->error.low);
        ousac_json_put_real(doc, item, "high", r->error.high);
        ousac_json_put_real(doc, item, "median", r->median);
        ousac_json_put_real(doc, item, "worst", r->worst);
        if (!isnan(r->validation))
            ousac_json_put_real(doc, item, "validation", r->validation);
        ousac_json_put_u64(doc, item, "evaluations", r->evaluations);
        ousac_json_put_real(doc, item, "seconds", r->seconds);
    }
}
