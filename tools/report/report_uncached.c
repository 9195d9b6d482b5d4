/* The page of a calibration whose result is without factors: fewer steps, plain or with fitted numbers, or ones that
 * extrapolate. */
#include "tools/report/report_head.h"
#include "tools/report/report_parts.h"

#include "tools/cli/describe.h"

#include <math.h>
#include <ousac/version.h>
#include <stdio.h>
#include <string.h>

/* What such a search has; the other plots are of bundles and profiles. */
static const plot_id shown[] = {PLOT_CURVE, PLOT_STAGES, PLOT_SAMPLES, PLOT_SCHEDULE};
enum { SHOWN = sizeof shown / sizeof *shown };

int report_is_uncached(const plot_inputs *inputs) {
    return inputs->bundle_count == 0 && inputs->profile_count == 0 && inputs->search_count == 1 &&
           inputs->given.step_count > 0 &&
           cJSON_GetArraySize(plot_json_item(inputs->search[0].root, "headline")) > 0;
}

static int is_of(const cJSON *row, const char *wanted) {
    const char *method = plot_json_text(row, "method");
    return method != NULL && strcmp(method, wanted) == 0;
}

/* Behind the number of steps. */
static const char *what_of(const cJSON *row) {
    const int one = plot_json_real(row, "steps") == 1;
    if (is_of(row, "extrapolated"))
        return "steps, most of them extrapolated,";
    if (is_of(row, "fitted-steps"))
        return one ? "step with fitted numbers" : "steps with fitted numbers";
    return "of its steps";
}

/* The same sentence as over a bundle. */
static void add_answer(html *h, const cJSON *search) {
    const cJSON *rows = plot_json_item(search, "headline"), *ours = cJSON_GetArrayItem(rows, 0);
    const cJSON *range = plot_json_item(search, "test");
    html_raw(h, "<p class=\"lead\" id=\"answer\">");
    html_format(h, "For %.3g&nbsp;%% of the MACs", 100 * plot_json_real(ours, "macs_share"));
    if (!isnan(plot_json_real(ours, "seconds_share")))
        html_format(h, " and %.3g&nbsp;%% of the time, in one run,",
                    100 * plot_json_real(ours, "seconds_share"));
    html_format(h, " of the %.0f-step reference, ", plot_json_real(search, "reference/steps"));
    html_format(h, "the samples of %.0f %s are <b>", plot_json_real(ours, "steps"), what_of(ours));
    report_add_error(h, ours);
    html_raw(h, "</b> away from its own");
    for (int i = 1; i < cJSON_GetArraySize(rows); i++)
        report_add_rival(h, cJSON_GetArrayItem(rows, i),
                         is_of(cJSON_GetArrayItem(rows, i), "fitted-steps")
                             ? "fewer steps with fitted numbers"
                             : "fewer steps of it as they are");
    html_raw(h, " (relative error with its 95&nbsp;% interval");
    if (cJSON_GetArraySize(range) == 2)
        html_format(h, "; %.0f test samples",
                    cJSON_GetArrayItem(range, 1)->valuedouble - cJSON_GetArrayItem(range, 0)->valuedouble);
    html_format(h, "). No %s better at this budget: the schedule is all, to be run as it is.</p>\n",
                is_of(ours, "extrapolated") ? "factors are" : "cache is");
}

static void add_head(html *h, const plot_inputs *inputs) {
    const cJSON *search = inputs->search[0].root;
    schedule_counts counts;
    char line[DESCRIBE_LINE_BYTES];
    html_raw(h, "<header>\n<p class=\"soft\">ousac " OUSAC_VERSION ", calibration report</p>\n<h1>");
    html_text(h, inputs->given.name[0] != '\0' ? inputs->given.name : "A schedule without a cache");
    html_raw(h, "</h1>\n");
    add_answer(h, search);
    report_add_fine(h, search);
    if (describe_schedule(&inputs->given, &counts, NULL) == OUSAC_STATUS_OK) {
        describe_schedule_line(line, &inputs->given, &counts);
        html_raw(h, "<p class=\"lead\">The schedule: ");
        html_text(h, line);
        html_raw(h, ".</p>\n");
    }
    html_raw(h, "</header>\n");
}

static void add_row(html *h, const cJSON *row) {
    static const char *const errors[] = {"median", "worst"};
    const char *method = plot_json_text(row, "method");
    const double steps = plot_json_real(row, "steps");
    html_raw(h, "<tr><td>");
    html_text(h, method != NULL ? method : "?");
    html_format(
        h,
        "</td><td class=\"n\">%.0f</td><td class=\"n\">%.2f</td><td class=\"n\">%.1f</td><td class=\"n ci\">",
        isnan(steps) ? 0 : steps, 100 * plot_json_real(row, "macs_share"),
        100 * plot_json_real(row, "seconds_share"));
    report_add_error(h, row);
    html_raw(h, "</td>");
    for (int i = 0; i < 2; i++)
        html_format(h, "<td class=\"n\">%.4g</td>", plot_json_real(row, errors[i]));
    html_raw(h, "</tr>\n");
}

static void add_rows(html *h, const char *from, const cJSON *rows) {
    const cJSON *row = NULL;
    html_raw(h, "<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">distance from ");
    html_text(h, from);
    html_raw(
        h,
        "</th><th class=\"n\" scope=\"col\">steps</th><th class=\"n\" scope=\"col\">MACs (% of the "
        "reference's)</th>"
        "<th class=\"n\" scope=\"col\">wall time (% of the reference's)</th><th class=\"n\" "
        "scope=\"col\">relative error (no unit)</th><th class=\"n\" scope=\"col\">median</th><th class=\"n\" "
        "scope=\"col\">worst</th></tr></thead>\n<tbody>");
    cJSON_ArrayForEach(row, rows) add_row(h, row);
    html_raw(h, "</tbody></table></div>\n");
}

static void add_evaluation(html *h, const cJSON *search) {
    html_raw(
        h,
        "<section>\n<h2 id=\"evaluation\">Evaluation</h2>\n<p>Of the final samples of test samples that "
        "nothing "
        "was chosen on, the same noise and conditioning in every run. Relative error: root of the mean over "
        "samples of ||x - y||&sup2; / ||y||&sup2;. In brackets: 95&nbsp;% bootstrap intervals over samples; "
        "median and worst are of single samples.</p>\n");
    add_rows(h, "the reference", plot_json_item(search, "headline"));
    if (plot_json_item(search, "fine") != NULL)
        add_rows(h, "a fine run", plot_json_item(search, "fine/rows"));
    html_raw(h, "</section>\n");
}

static void add_cost(report_work *work) {
    html *h = &work->page;
    const cJSON *search = work->inputs.search[0].root;
    html_raw(h, "<section>\n<h2 id=\"cost\">Cost of the calibration</h2>\n<table class=\"pairs\">\n");
    report_add_real(h, "evaluations of the fits", plot_json_real(search, "fit_evaluations"),
                    "of one branch and one sample");
    report_add_real(h, "wall time: search", plot_json_real(search, "wall_s"), "s");
    report_add_times(work);
    html_raw(h, "</table>\n</section>\n");
}

static void add_text(html *h, const char *name, const char *value) {
    if (value != NULL)
        html_pair(h, name, value);
}

static void add_range(html *h, const char *name, const cJSON *range) {
    char text[64];
    if (cJSON_GetArraySize(range) != 2)
        return;
    (void)snprintf(text, sizeof text, "%.0f:%.0f", cJSON_GetArrayItem(range, 0)->valuedouble,
                   cJSON_GetArrayItem(range, 1)->valuedouble);
    html_pair(h, name, text);
}

static void add_provenance(html *h, const plot_inputs *inputs) {
    const cJSON *search = inputs->search[0].root;
    char digest[OUSAC_DIGEST_CHARS];
    html_raw(h, "<section>\n<h2 id=\"provenance\">Provenance and digests</h2>\n<p>Digests are SHA-256, as "
                "the formats' "
                "specifications define them.</p>\n<table class=\"pairs\">\n");
    add_text(h, "model", plot_json_text(search, "model_digest"));
    ousac_schedule_digest(&inputs->given, digest);
    html_pair(h, "schedule", digest);
    html_pair(h, "solver", ousac_solver_name(inputs->given.solver));
    add_text(h, "reference", plot_json_text(search, "reference/name"));
    add_text(h, "reference schedule", plot_json_text(search, "reference/digest"));
    report_add_real(h, "budget, of the reference's cost", plot_json_real(search, "budget"), "");
    add_text(h, "counted in", plot_json_text(search, "counted"));
    add_text(h, "machine", plot_json_text(search, "machine"));
    add_text(h, "effort", plot_json_text(search, "effort"));
    report_add_real(h, "seed", plot_json_real(search, "seed"), "");
    add_range(h, "samples fitted", plot_json_item(search, "fitting"));
    add_range(h, "samples chosen on", plot_json_item(search, "validation"));
    add_range(h, "test samples", plot_json_item(search, "test"));
    html_pair(h, "report by ousac", OUSAC_VERSION);
    html_raw(h, "</table>\n</section>\n");
}

void report_add_uncached(report_work *work, const char *plots, ousac_error *error) {
    html *h = &work->page;
    const cJSON *search = work->inputs.search[0].root;
    html_begin(h, "A schedule without a cache: calibration report");
    add_head(h, &work->inputs);
    html_raw(h, "<nav><a href=\"#evaluation\">Evaluation</a>");
    for (int i = 0; i < SHOWN; i++) {
        html_format(h, "<a href=\"#%s\">", plot_info_of(shown[i])->name);
        html_text(h, plot_info_of(shown[i])->title);
        html_raw(h, "</a>");
    }
    html_raw(h, "<a href=\"#cost\">Cost of the calibration</a><a href=\"#provenance\">Provenance and "
                "digests</a></nav>\n");
    add_evaluation(h, search);
    for (int i = 0; i < SHOWN; i++)
        report_add_plot(work, shown[i], plots, error);
    add_cost(work);
    add_provenance(h, &work->inputs);
    html_end(h);
}
