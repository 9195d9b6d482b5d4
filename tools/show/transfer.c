#include "tools/cli/print.h"
#include "tools/show/show.h"

#include "profile/record/ranges.h"

#include <inttypes.h>
#include <stdio.h>

static const char *verdict_name(const ousac_transfer *t) {
    return !t->corrects                       ? "not needed"
           : t->calibration.count == 0        ? "not measured"
           : t->verdict == OUSAC_PAIRED_ABOVE ? "recalibrate"
           : t->verdict == OUSAC_PAIRED_BELOW ? "not needed"
                                              : "undecided";
}

static void print_row(const char *label, const ousac_difference *d) {
    char relative[OUSAC_INTERVAL_BYTES], psnr[OUSAC_INTERVAL_BYTES];
    cli_printf("%-14s %8.4f %s  %8.2f %s\n", label, d->relative_error.mean,
               ousac_interval_text(&d->relative_error, "%.4f", relative), d->psnr_db.mean,
               ousac_interval_text(&d->psnr_db, "%.2f", psnr));
}

/* The pair of the evaluation that compares a run with the exact one. */
static const ousac_difference *against_exact(const ousac_eval *result, ousac_eval_arm arm) {
    for (size_t i = 0; i < OUSAC_EVAL_PAIRS; i++)
        if (result->pair[i].arm == arm && result->pair[i].against == OUSAC_EVAL_EXACT)
            return &result->pair[i].difference;
    return NULL;
}

void transfer_print(const ousac_transfer *t, const ousac_eval *result) {
    cli_printf("\ntransfer: the bundle was made for schedule \"%s\"; its factors are used as they are%s\n",
               t->from_name, t->forecast ? ", its forecast is mapped by timestep" : "");
    if (!t->corrects) {
        cli_printf("under this schedule nothing is corrected, so recalibration is not needed\n");
        return;
    }
    cli_printf("%-14s %-26s  %s\n", "against exact", "relative error [95 %]", "PSNR, dB [95 %]");
    print_row("reuse", against_exact(result, OUSAC_EVAL_REUSE));
    print_row("transferred", against_exact(result, OUSAC_EVAL_CALIBRATED));
    if (t->calibration.count == 0) {
        cli_printf("not recalibrated, so there is no verdict\n");
        return;
    }
    print_row("recalibrated", &t->difference);
    cli_printf("recalibrated at the same ranks on samples 0:%" PRIu64 ": %" PRIu64
               " forwards recorded, %.1f s\n",
               t->calibration.count, t->cost.forwards, t->seconds);
    char interval[OUSAC_INTERVAL_BYTES];
    cli_printf("transferred / recalibrated: %.3f %s, threshold %g: ", t->ratio.mean,
               ousac_interval_text(&t->ratio, "%.3f", interval), t->threshold);
    if (t->verdict == OUSAC_PAIRED_ABOVE)
        cli_printf("recalibrate\n");
    else if (t->verdict == OUSAC_PAIRED_BELOW)
        cli_printf("recalibration is not needed\n");
    else if (!ousac_interval_known(&t->ratio))
        cli_printf("undecided; one sample, or samples of one ratio, give no interval\n");
    else if (t->more > 0)
        cli_printf("undecided; about %zu more samples might decide\n", t->more);
    else
        cli_printf("undecided; the two are too close to the threshold for more samples to decide\n");
}

static void put_interval(ousac_json_doc *doc, cJSON *object, const char *key,
                         const ousac_interval *interval) {
    cJSON *item = ousac_json_put_object(doc, object, key);
    ousac_json_put_real(doc, item, "mean", interval->mean);
    ousac_json_put_real(doc, item, "low", interval->low);
    ousac_json_put_real(doc, item, "high", interval->high);
}

static void put_run(ousac_json_doc *doc, cJSON *object, const char *key, const ousac_difference *difference) {
    cJSON *item = ousac_json_put_object(doc, object, key);
    put_interval(doc, item, "relative_error", &difference->relative_error);
    put_interval(doc, item, "psnr_db", &difference->psnr_db);
}

void transfer_put(ousac_json_doc *doc, cJSON *root, const ousac_transfer *t, const ousac_eval *result) {
    cJSON *object = ousac_json_put_object(doc, root, "transfer"), *from = NULL, *runs = NULL;

    from = ousac_json_put_object(doc, object, "from");
    ousac_json_put_text(doc, from, "name", t->from_name);
    ousac_json_put_text(doc, from, "digest", t->from_digest);
    ousac_json_put_text(doc, object, "forecast", t->forecast ? "mapped" : "none");
    runs = ousac_json_put_object(doc, object, "runs");
    put_run(doc, runs, "reuse", against_exact(result, OUSAC_EVAL_REUSE));
    put_run(doc, runs, "transferred", against_exact(result, OUSAC_EVAL_CALIBRATED));
    ousac_json_put_real(doc, object, "threshold", t->threshold);
    ousac_json_put_text(doc, object, "verdict", verdict_name(t));
    if (!t->corrects || t->calibration.count == 0)
        return;
    put_run(doc, runs, "recalibrated", &t->difference);
    ousac_range_put(doc, object, "calibration", t->calibration.first, t->calibration.count);
    ousac_json_put_u64(doc, object, "forwards", t->cost.forwards);
    ousac_json_put_real(doc, object, "wall_s", t->seconds);
    put_interval(doc, object, "ratio", &t->ratio);
    if (t->more > 0)
        ousac_json_put_u64(doc, object, "more_samples", t->more);
    else
        ousac_json_put_null(doc, object, "more_samples");
}
