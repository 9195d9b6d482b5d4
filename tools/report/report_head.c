#include "tools/report/report_head.h"

#include "tools/cli/describe.h"

#include <math.h>
#include <ousac/version.h>
#include <stdio.h>
#include <string.h>

static const cJSON *error_of(const cJSON *evaluation, const char *run) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, plot_json_item(evaluation, "errors")) {
        const char *a = plot_json_text(item, "run"), *b = plot_json_text(item, "against");
        if (a != NULL && b != NULL && strcmp(a, run) == 0 && strcmp(b, "exact") == 0)
            return item;
    }
    return NULL;
}

static void add_tile(html *h, const char *value, const char *what) {
    html_raw(h, "<div class=\"tile\"><b>");
    html_text(h, value);
    html_raw(h, "</b><span>");
    html_text(h, what);
    html_raw(h, "</span></div>\n");
}

static void add_tiles(html *h, const cJSON *evaluation) {
    char value[64], what[160];
    const cJSON *calibrated = error_of(evaluation, "calibrated"), *reuse = error_of(evaluation, "reuse");
    const double total = plot_json_real(evaluation, "shares/total");
    const double ours = plot_json_real(calibrated, "relative_error/mean");
    const double plain = plot_json_real(reuse, "relative_error/mean");

    html_raw(h, "<div class=\"tiles\">\n");
    if (!isnan(total)) {
        (void)snprintf(value, sizeof value, "%.1f %%", 100 * total);
        add_tile(h, value, "of the MACs of the reference, uncached");
    }
    if (!isnan(ours)) {
        (void)snprintf(value, sizeof value, "%.4g", ours);
        (void)snprintf(what, sizeof what, "relative error against the exact run; 95 %% interval %.4g to %.4g",
                       plot_json_real(calibrated, "relative_error/low"),
                       plot_json_real(calibrated, "relative_error/high"));
        add_tile(h, value, what);
    }
    if (!isnan(plain)) {
        (void)snprintf(value, sizeof value, "%.4g", plain);
        (void)snprintf(what, sizeof what, "the same with plain reuse, at %.1f %% of the MACs; %.4g to %.4g",
                       100 * plot_json_real(evaluation, "runs/reuse/macs_ratio"),
                       plot_json_real(reuse, "relative_error/low"),
                       plot_json_real(reuse, "relative_error/high"));
        add_tile(h, value, what);
    }
    const double wall = plot_json_real(evaluation, "runs/calibrated/wall_ratio");
    if (!isnan(wall)) {
        (void)snprintf(value, sizeof value, "%.1f %%", 100 * wall);
        add_tile(h, value, "of the reference's wall time, as run on this machine");
    }
    html_raw(h, "</div>\n");
}

/* A row of the headline by its method; NULL where there is none. */
static const cJSON *headline_row(const cJSON *evaluation, const char *method) {
    const cJSON *row = NULL;
    cJSON_ArrayForEach(row, plot_json_item(evaluation, "headline")) {
        const char *name = plot_json_text(row, "method");
        if (name != NULL && strcmp(name, method) == 0)
            return row;
    }
    return NULL;
}

/* "0.0147 [0.0115, 0.0181]". */
void report_add_error(html *h, const cJSON *row) {
    const double low = plot_json_real(row, "low"), high = plot_json_real(row, "high");
    html_format(h, "%.3g", plot_json_real(row, "error"));
    if (!isnan(low) && !isnan(high))
        html_format(h, " [%.3g, %.3g]", low, high);
}

void report_add_rival(html *h, const cJSON *row, const char *name) {
    const double ratio = plot_json_real(row, "ratio/mean"), low = plot_json_real(row, "ratio/low"),
                 high = plot_json_real(row, "ratio/high");
    if (isnan(plot_json_real(row, "error")))
        return;
    html_format(h, "; %s, %.3g&nbsp;%% of its MACs: ", name, 100 * plot_json_real(row, "macs_share"));
    report_add_error(h, row);
    if (isnan(ratio) || isnan(low) || isnan(high))
        return;
    html_format(h, ", ours %.2g [%.2g, %.2g] of that%s", ratio, low, high,
                high < 1  ? ""
                : low > 1 ? ": <b>worse</b>"
                          : ": <b>not surely better</b>");
}

/* Against a fine run: how far the reference itself is from it, and the others. */
void report_add_fine(html *h, const cJSON *root) {
    const cJSON *row = NULL;
    int count = 0;
    if (isnan(plot_json_real(root, "fine/steps")))
        return;
    html_format(
        h,
        "<p class=\"lead\" id=\"fine\">From a fine run, %.0f steps of the reference's solver and guidance, ",
        plot_json_real(root, "fine/steps"));
    cJSON_ArrayForEach(row, plot_json_item(root, "fine/rows")) {
        const char *method = plot_json_text(row, "method");
        if (method == NULL || isnan(plot_json_real(row, "error")))
            continue;
        html_raw(h, count++ == 0 ? "" : "; ");
        html_text(h, strcmp(method, "reference") == 0      ? "the reference itself is "
                     : strcmp(method, "calibrated") == 0   ? "the calibrated samples "
                     : strcmp(method, "extrapolated") == 0 ? "the extrapolated samples "
                     : strcmp(method, "exact") == 0        ? "the same schedule without a cache "
                     : strcmp(method, "fewer-steps") == 0  ? "fewer steps "
                     : strcmp(method, "fitted-steps") == 0 ? "fewer steps with fitted numbers "
                                                           : method);
        report_add_error(h, row);
        html_raw(h, count == 1 ? " away" : "");
    }
    html_raw(h, ".</p>\n");
}

/* The question in one sentence: what is had for that part of the cost, and is it better than fewer steps? */
static void add_answer(html *h, const cJSON *evaluation) {
    const cJSON *ours = headline_row(evaluation, "calibrated"),
                *range = plot_json_item(evaluation, "samples");
    const double steps = plot_json_real(evaluation, "reference/steps");
    const double seconds = plot_json_real(ours, "seconds_share");
    if (isnan(plot_json_real(ours, "error")) || isnan(plot_json_real(ours, "macs_share")))
        return;
    html_raw(h, "<p class=\"lead\" id=\"answer\">");
    html_format(h, "For %.3g&nbsp;%% of the MACs", 100 * plot_json_real(ours, "macs_share"));
    if (!isnan(seconds))
        html_format(h, " and %.3g&nbsp;%% of the time, in one run,", 100 * seconds);
    html_raw(h, " of the ");
    if (!isnan(steps))
        html_format(h, "%.0f-step ", steps);
    html_raw(h, "reference, samples are <b>");
    report_add_error(h, ours);
    html_raw(h, "</b> away from its own");
    report_add_rival(h, headline_row(evaluation, "fewer-steps"), "fewer steps of it");
    report_add_rival(h, headline_row(evaluation, "fitted-steps"), "fewer steps with fitted numbers");
    html_raw(h, " (relative error with its 95&nbsp;% interval");
    if (cJSON_GetArraySize(range) == 2)
        html_format(h, "; %.0f test samples",
                    cJSON_GetArrayItem(range, 1)->valuedouble - cJSON_GetArrayItem(range, 0)->valuedouble);
    html_raw(h, ").</p>\n");
}

void report_add_head(html *h, const plot_inputs *inputs) {
    const plot_bundle *bundle = &inputs->bundle[0];
    const cJSON *evaluation = inputs->evaluation_count > 0 ? inputs->evaluation[0].root : NULL;
    schedule_counts counts;
    char line[DESCRIBE_LINE_BYTES], macs[DESCRIBE_BYTES];

    html_raw(h, "<header>\n<p class=\"soft\">ousac " OUSAC_VERSION ", calibration report</p>\n<h1>");
    html_text(h, bundle->label);
    html_raw(h, "</h1>\n");
    if (evaluation != NULL) {
        add_answer(h, evaluation);
        report_add_fine(h, evaluation);
    }
    html_raw(h, "<p class=\"lead\">");
    describe_macs(macs, (double)ousac_cost_full(&bundle->arch));
    html_raw(h, "A calibration of a model of family ");
    html_text(h, bundle->arch.family[0] != '\0' ? bundle->arch.family : "without a name");
    html_format(h, " (%zu block%s, %zu tokens, width %zu, %s a forward)", bundle->arch.block_count,
                bundle->arch.block_count == 1 ? "" : "s", bundle->arch.stream[0].tokens, bundle->arch.width,
                macs);
    if (describe_schedule(&bundle->schedule, &counts, NULL) == OUSAC_STATUS_OK) {
        describe_schedule_line(line, &bundle->schedule, &counts);
        html_raw(h, " for the schedule ");
        html_text(h, bundle->schedule.name[0] != '\0' ? bundle->schedule.name : "without a name");
        html_raw(h, ": ");
        html_text(h, line);
    }
    html_raw(h, ".</p>\n");
    if (evaluation == NULL)
        html_raw(h,
                 "<p class=\"warn\">No evaluation was given: what this bundle is worth end to end is not in "
                 "this report.</p>\n");
    else {
        add_tiles(h, evaluation);
        if (!cJSON_IsTrue(plot_json_item(evaluation, "held_out")))
            html_raw(h, "<p class=\"warn\">The test samples are not known to be held out: the errors may be "
                        "too good.</p>\n");
    }
    if (bundle->plan != NULL && bundle->plan->note[0] != '\0') {
        html_raw(h, "<p>Plan ");
        html_text(h, bundle->plan->name);
        html_raw(h, ": ");
        html_text(h, bundle->plan->note);
        html_raw(h, ".</p>\n");
    }
    html_raw(h, "</header>\n");
}
