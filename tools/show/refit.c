#include "pipeline/refit.h"

#include "tools/cli/print.h"
#include "tools/show/show.h"

#include "profile/record/ranges.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static const char *verdict_name(const ousac_refit_row *row) {
    return row->verdict == OUSAC_PAIRED_ABOVE   ? "fit again"
           : row->verdict == OUSAC_PAIRED_BELOW ? "not needed"
                                                : "undecided";
}

static void describe(const ousac_refit_row *row, char text[64]) {
    const char *name = ousac_refit_setting_name(row->setting);
    if (row->setting == OUSAC_REFIT_OTHER_STEPS)
        (void)snprintf(text, 64, "reference of %.0f steps", row->value);
    else if (isnan(row->value))
        (void)snprintf(text, 64, "%s", name);
    else
        (void)snprintf(text, 64, "%s %.4g", name, row->value);
}

void refit_print(const ousac_refit *result) {
    char setting[64], moved[OUSAC_INTERVAL_BYTES], made[OUSAC_INTERVAL_BYTES], ratio[OUSAC_INTERVAL_BYTES];
    cli_printf("%zu fitted steps against a reference of %zu; fitted again on samples 0:%" PRIu64
               ", validation %" PRIu64 ":%" PRIu64 ", errors of test samples %" PRIu64 ":%" PRIu64 "\n",
               result->steps, result->reference_steps, result->fitting.count, result->validation.first,
               result->validation.first + result->validation.count, result->test.first,
               result->test.first + result->test.count);
    cli_printf("%-24s %9s %-27s %-27s %-22s\n", "setting", "textbook", " transferred, 95 %",
               " fitted again, 95 %", " ratio, 95 %");
    for (size_t i = 0; i < result->row_count; i++) {
        const ousac_refit_row *r = &result->row[i];
        describe(r, setting);
        cli_printf("%-24s %9.4f  %-7.4f %-18s  %-7.4f %-18s  %-6.3f %-16s %s", setting, r->textbook.mean,
                   r->transferred.mean, ousac_interval_text(&r->transferred, "%.4f", moved), r->refitted.mean,
                   ousac_interval_text(&r->refitted, "%.4f", made), r->ratio.mean,
                   ousac_interval_text(&r->ratio, "%.3f", ratio), verdict_name(r));
        if (r->verdict == OUSAC_PAIRED_UNDECIDED && r->more > 0)
            cli_printf("; about %zu more samples might decide", r->more);
        cli_printf("%s\n", r->diverged ? "; its fit diverged" : "");
    }
    cli_printf("ratio: transferred / fitted again, threshold %g\n\n%-24s %12s   %s\n", result->threshold,
               "fitting samples", "validation", "test, 95 %");
    for (size_t i = 0; i < result->point_count; i++) {
        const ousac_refit_point *p = &result->point[i];
        cli_printf("%-24zu %12.4f   %-7.4f %s\n", p->samples, p->validation, p->test.mean,
                   ousac_interval_text(&p->test, "%.4f", made));
    }
    cli_printf("%zu are enough; %.0f s\n", result->enough, result->seconds);
}

static void put_interval(ousac_json_doc *doc, cJSON *object, const char *key,
                         const ousac_interval *interval) {
    cJSON *item = ousac_json_put_object(doc, object, key);
    ousac_json_put_real(doc, item, "mean", interval->mean);
    ousac_json_put_real(doc, item, "low", interval->low);
    ousac_json_put_real(doc, item, "high", interval->high);
}

void refit_put(ousac_json_doc *doc, cJSON *object, const ousac_refit *result) {
    ousac_json_put_text(doc, object, "kind", "ousac refit");
    ousac_json_put_u64(doc, object, "version", 1);
    ousac_json_put_u64(doc, object, "steps", result->steps);
    ousac_json_put_u64(doc, object, "reference_steps", result->reference_steps);
    ousac_range_put(doc, object, "fitting", result->fitting.first, result->fitting.count);
    ousac_range_put(doc, object, "validation", result->validation.first, result->validation.count);
    ousac_range_put(doc, object, "test", result->test.first, result->test.count);
    ousac_json_put_real(doc, object, "threshold", result->threshold);
    cJSON *list = ousac_json_put_array(doc, object, "rows");
    for (size_t i = 0; i < result->row_count; i++) {
        const ousac_refit_row *r = &result->row[i];
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_text(doc, item, "setting", ousac_refit_setting_name(r->setting));
        if (!isnan(r->value))
            ousac_json_put_real(doc, item, "value", r->value);
        put_interval(doc, item, "textbook", &r->textbook);
        put_interval(doc, item, "transferred", &r->transferred);
        put_interval(doc, item, "refitted", &r->refitted);
        put_interval(doc, item, "ratio", &r->ratio);
        ousac_json_put_text(doc, item, "verdict", verdict_name(r));
        if (r->more > 0)
            ousac_json_put_u64(doc, item, "more_samples", r->more);
        else
            ousac_json_put_null(doc, item, "more_samples");
        ousac_json_put_bool(doc, item, "diverged", r->diverged);
        ousac_json_put_u64(doc, item, "evaluations", r->evaluations);
    }
    list = ousac_json_put_array(doc, object, "learning");
    for (size_t i = 0; i < result->point_count; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_u64(doc, item, "samples", result->point[i].samples);
        ousac_json_put_real(doc, item, "validation", result->point[i].validation);
        put_interval(doc, item, "test", &result->point[i].test);
    }
    ousac_json_put_u64(doc, object, "samples_enough", result->enough);
    ousac_json_put_real(doc, object, "wall_s", result->seconds);
}
