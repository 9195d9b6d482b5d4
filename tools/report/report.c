#include "tools/report/report.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "tools/cli/describe.h"
#include "tools/report/report_head.h"
#include "tools/report/report_parts.h"
#include "tools/report/tables.h"

#include <inttypes.h>
#include <math.h>
#include <ousac/version.h>
#include <stdio.h>
#include <string.h>

/* ---- plots ---- */

static void add_image(report_work *work, const char *plots, ousac_error *error) {
    ousac_file_view view = {NULL, 0};
    char *path = join_texts(plots, "samples.grid.png", "");
    if (path != NULL && ousac_file_map(&view, path, error) == OUSAC_STATUS_OK) {
        html_raw(&work->page,
                 "<img alt=\"Samples made in several ways, and their differences from the first row\" "
                 "src=\"data:image/png;base64,");
        html_base64(&work->page, view.data, view.size);
        html_raw(&work->page, "\">");
        ousac_file_unmap(&view);
    }
    ousac_free(path);
}

/* What stands between backticks is code. */
static void add_caption(html *h, const char *caption) {
    int code = 0;
    for (; *caption != '\0'; caption++)
        if (*caption == '`') {
            html_raw(h, code ? "</code>" : "<code>");
            code = !code;
        } else {
            const char one[2] = {*caption, '\0'};
            html_text(h, one);
        }
}

void report_add_plot(report_work *work, plot_id id, const char *plots, ousac_error *error) {
    html *h = &work->page;
    const plot_info *info = plot_info_of(id);

    html_format(h, "<section>\n<h2 id=\"%s\">", info->name);
    html_text(h, info->title);
    html_format(h, "</h2>\n<figure id=\"plot-%s\">\n<div class=\"plot\">", info->name);
    if (!work->set.given[id]) {
        html_raw(h, "<p class=\"none\">Not in this report: it needs ");
        html_text(h, info->needs);
        html_raw(h, ".</p>");
    } else if (work->svg[id] != NULL) {
        html_svg(h, info->name, info->title, work->svg[id]);
    } else {
        if (id == PLOT_SAMPLES)
            add_image(work, plots, error);
        html_raw(h, "<p class=\"none\">");
        html_text(h, work->missing[id] != NULL ? work->missing[id] : "not drawn");
        html_raw(h, "</p>");
    }
    html_raw(h, "</div>\n<figcaption>");
    add_caption(h, info->caption);
    html_raw(h, "</figcaption>\n");
    if (work->set.given[id])
        html_table(h, &work->set.tables[id]);
    html_raw(h, "</figure>\n</section>\n");
}

/* ---- the evaluation ---- */

static void add_interval(html *h, const cJSON *item, const char *key, const char *format) {
    char path[64], text[128], one[32];
    static const char *const ends[] = {"mean", "low", "high"};
    const char *const frames[] = {"<span>%s</span> ", "<span class=\"soft\">[%s", ", %s]</span>"};
    html_raw(h, "<td class=\"n ci\">");
    (void)snprintf(path, sizeof path, "%s/low", key);
    const int bare = isnan(plot_json_real(item, path)); /* of one sample, or equal ones */
    for (int i = 0; i < (bare ? 1 : 3); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", key, ends[i]);
        const double value = plot_json_real(item, path);
        if (isnan(value))
            (void)snprintf(one, sizeof one, "?");
        else if (format[1] == '4')
            (void)snprintf(one, sizeof one, "%.4g", value);
        else
            (void)snprintf(one, sizeof one, "%.2f", value);
        const char *percent = strstr(frames[i], "%s");
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(percent - frames[i]), frames[i], one,
                       percent + 2);
        html_raw(h, text);
    }
    html_raw(h, bare ? "<span class=\"soft\">[no interval]</span></td>" : "</td>");
}

static void add_evaluation(report_work *work) {
    html *h = &work->page;
    const cJSON *item = NULL;
    html_raw(h, "<section>\n<h2 id=\"evaluation\">Evaluation</h2>\n");
    if (work->inputs.evaluation_count == 0) {
        html_raw(h, "<p class=\"none\">Not in this report: it needs an evaluation (ousac eval -o FILE).</p>\n"
                    "</section>\n");
        return;
    }
    const cJSON *root = work->inputs.evaluation[0].root;
    html_raw(h, "<p>Of the final samples, the same noise and conditioning in every run. Relative error: root "
                "of the mean "
                "over samples of ||x - y||&sup2; / ||y||&sup2;. In brackets: 95&nbsp;% bootstrap intervals "
                "over samples.");
    const cJSON *range = plot_json_item(root, "samples");
    if (cJSON_GetArraySize(range) == 2)
        html_format(h, " Samples %.0f to %.0f of seed %.0f, %s.", cJSON_GetArrayItem(range, 0)->valuedouble,
                    cJSON_GetArrayItem(range, 1)->valuedouble - 1, plot_json_real(root, "seed"),
                    cJSON_IsTrue(plot_json_item(root, "held_out")) ? "held out"
                                                                   : "<b>not known to be held out</b>");
    html_raw(h, "</p>\n<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">run</th><th "
                "scope=\"col\">against</th>"
                "<th class=\"n\" scope=\"col\">relative error (no unit)</th><th class=\"n\" "
                "scope=\"col\">PSNR (dB)</th>"
                "</tr></thead>\n<tbody>");
    cJSON_ArrayForEach(item, plot_json_item(root, "errors")) {
        const char *run = plot_json_text(item, "run"), *against = plot_json_text(item, "against");
        html_raw(h, "<tr><td>");
        html_text(h, run != NULL ? run : "?");
        html_raw(h, "</td><td>");
        html_text(h, against != NULL ? against : "?");
        html_raw(h, "</td>");
        add_interval(h, item, "relative_error", "%4");
        add_interval(h, item, "psnr_db", "%2");
        html_raw(h, "</tr>\n");
    }
    html_raw(h, "</tbody></table></div>\n");
    html_table(h, &work->evaluation);
    html_raw(
        h,
        "<p>Cost of the runs of all samples: MACs counted where the work was done, equal to the cost "
        "model's; one "
        "measurement of wall time each.</p>\n<div class=\"wide\"><table>\n<thead><tr><th "
        "scope=\"col\">run</th>"
        "<th class=\"n\" scope=\"col\">wall time (s)</th><th class=\"n\" scope=\"col\">of the reference "
        "(%)</th>"
        "<th class=\"n\" scope=\"col\">MACs (G)</th><th class=\"n\" scope=\"col\">of the reference (%)</th>"
        "<th class=\"n\" scope=\"col\">evaluations full / cached / reuse</th></tr></thead>\n<tbody>");
    cJSON_ArrayForEach(item, plot_json_item(root, "runs")) {
        html_raw(h, "<tr><td>");
        html_text(h, item->string != NULL ? item->string : "?");
        html_format(h,
                    "</td><td class=\"n\">%.2f</td><td class=\"n\">%.1f</td><td class=\"n\">%.1f</td>"
                    "<td class=\"n\">%.2f</td><td class=\"n\">%.0f / %.0f / %.0f</td></tr>\n",
                    plot_json_real(item, "wall_s"), 100 * plot_json_real(item, "wall_ratio"),
                    plot_json_real(item, "macs") / 1e9, 100 * plot_json_real(item, "macs_ratio"),
                    plot_json_real(item, "evaluations/full"), plot_json_real(item, "evaluations/cached"),
                    plot_json_real(item, "evaluations/reuse"));
    }
    html_raw(h, "</tbody></table></div>\n");
    html_table(h, &work->runs);
    html_raw(h, "</section>\n");
}

/* ---- what it cost, and where it came from ---- */

void report_add_real(html *h, const char *name, double value, const char *unit) {
    char text[96];
    if (isnan(value))
        return;
    (void)snprintf(text, sizeof text, value < 1e15 && value == floor(value) ? "%.0f%s%s" : "%.4g%s%s", value,
                   *unit != '\0' ? " " : "", unit);
    html_pair(h, name, text);
}

static void add_run(html *h, const cJSON *run, const char *before) {
    char name[96], text[DESCRIBE_BYTES];
    const double bytes = plot_json_real(run, "peak_bytes");
    (void)snprintf(name, sizeof name, "%swall time", before);
    report_add_real(h, name, plot_json_real(run, "wall_s"), "s");
    (void)snprintf(name, sizeof name, "%sevaluations", before);
    report_add_real(h, name, plot_json_real(run, "forwards"), "of one branch and one sample");
    if (bytes >= 0 && bytes < 1e18) {
        (void)snprintf(name, sizeof name, "%speak memory", before);
        describe_bytes(text, (uint64_t)bytes);
        html_pair(h, name, text);
    }
    (void)snprintf(name, sizeof name, "%sthreads", before);
    report_add_real(h, name, plot_json_real(run, "threads"), "");
    if (plot_json_text(run, "backend") != NULL) {
        (void)snprintf(name, sizeof name, "%sbackend", before);
        html_pair(h, name, plot_json_text(run, "backend"));
    }
}

void report_add_times(report_work *work) {
    html *h = &work->page;
    const cJSON *item = NULL;
    char bytes[DESCRIBE_BYTES];
    if (work->inputs.cost_count == 0)
        return;
    cJSON_ArrayForEach(item, plot_json_item(work->inputs.cost[0].root, "wall_s")) {
        char name[96];
        (void)snprintf(name, sizeof name, "wall time: %.64s", item->string != NULL ? item->string : "?");
        for (char *at = name; *at != '\0'; at++)
            *at = *at == '_' ? ' ' : *at;
        report_add_real(h, name, cJSON_IsNumber(item) ? item->valuedouble : NAN, "s");
    }
    const double peak = plot_json_real(work->inputs.cost[0].root, "peak_bytes");
    if (peak >= 0 && peak < 1e18) {
        describe_bytes(bytes, (uint64_t)peak);
        html_pair(h, "peak memory of all", bytes);
    }
}

static void add_cost(report_work *work) {
    html *h = &work->page;
    const plot_bundle *bundle = &work->inputs.bundle[0];
    const char *text = bundle->profile != NULL ? bundle->profile->run : NULL;
    cJSON *run = text != NULL ? cJSON_Parse(text) : NULL;
    const cJSON *item = NULL;
    char bytes[DESCRIBE_BYTES], macs[DESCRIBE_BYTES];

    html_raw(h, "<section>\n<h2 id=\"cost\">Cost of the calibration</h2>\n<table class=\"pairs\">\n");
    if (cJSON_IsArray(run)) {
        cJSON_ArrayForEach(item, run) add_run(h, item, "profiling a part: ");
    } else if (run != NULL) {
        const double forwards = plot_json_real(run, "forwards");
        add_run(h, run, "profiling: ");
        if (forwards > 0) {
            describe_macs(macs, forwards * (double)ousac_cost_full(&bundle->arch));
            html_pair(h, "profiling: MACs of the model", macs);
        }
    } else {
        html_pair(h, "profiling",
                  bundle->profile != NULL ? "the profile does not say" : "no profile was given");
    }
    report_add_times(work);
    describe_bytes(bytes, bundle->bytes);
    html_pair(h, "size of the bundle", bytes);
    if (bundle->profile != NULL) {
        describe_bytes(bytes, bundle->profile->bytes);
        html_pair(h, "size of the profile", bytes);
    }
    html_raw(h, "</table>\n</section>\n");
    cJSON_Delete(run);
}

static void add_whole(html *h, const char *name, uint64_t value) {
    char text[32];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    html_pair(h, name, text);
}

/* A range of samples [first, end] or a list of them. */
static void add_ranges(html *h, const char *name, const ousac_used_ranges *ranges, const char *use) {
    char text[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < ranges->count && used < sizeof text; i++)
        if (strcmp(ranges->use[i], use) == 0)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%" PRIu64 ":%" PRIu64,
                                     used > 0 ? ", " : "", ranges->range[i].first,
                                     ranges->range[i].first + ranges->range[i].count);
    html_pair(h, name, used > 0 ? text : "none");
}

static void add_plan(html *h, const ousac_plan *plan) {
    char text[160];
    html_pair(h, "plan", plan->name);
    html_pair(h, "chosen by", plan->method);
    (void)snprintf(text, sizeof text, "%.2f %% of a full evaluation (budget %.2f %%)",
                   100 * plan->cached_step, 100 * plan->budget);
    html_pair(h, "cached evaluation", text);
    if (plan->error_model[0] != '\0') {
        (void)snprintf(text, sizeof text, "%.6g; no plan within the budget is below %.6g (gap %.2g)%s",
                       plan->modelled_error, plan->bound, plan->gap,
                       plan->exact ? "; proved optimal at its granularity" : "");
        html_pair(h, "modelled error", text);
        html_pair(h, "error model", plan->error_model);
    }
}

static void add_provenance(report_work *work) {
    html *h = &work->page;
    const plot_bundle *bundle = &work->inputs.bundle[0];
    const plot_profile *profile = bundle->profile;
    const ousac_provenance *made = &bundle->provenance;
    const char *version = oca_metadata(bundle->archive.file, "ousac_version");
    char digest[OUSAC_DIGEST_CHARS];

    html_raw(
        h, "<section>\n<h2 id=\"provenance\">Provenance and digests</h2>\n<p>Digests are SHA-256. That of "
           "the file is "
           "what <code>sha256sum</code> prints; the others are defined in the formats' specifications.</p>\n"
           "<table class=\"pairs\">\n");
    html_pair(h, "bundle", bundle->path);
    html_pair(h, "bundle file", bundle->file_digest);
    html_pair(h, "model", ousac_bundle_model_digest(bundle->bundle));
    html_pair(h, "profile", bundle->profile_digest);
    ousac_schedule_digest(&bundle->schedule, digest);
    html_pair(h, "schedule", digest);
    html_pair(h, "solver", ousac_solver_name(bundle->schedule.solver));
    if (work->inputs.evaluation_count > 0) {
        const char *reference = plot_json_text(work->inputs.evaluation[0].root, "reference/digest");
        if (reference != NULL)
            html_pair(h, "reference schedule", reference);
    }
    if (profile != NULL) {
        html_pair(h, "step weights", profile->weights_digest);
        add_whole(h, "seed", profile->seed);
        html_pair(h, "samples of the profile (first+count)", profile->ranges);
        add_whole(h, "micro-batch", profile->micro_batch);
        add_whole(h, "tokens used per sample and step", profile->tokens_used);
        add_whole(h, "segments", profile->segments);
    }
    if (made->known) {
        if (profile == NULL)
            add_whole(h, "seed", made->seed);
        add_ranges(h, "calibration samples", &made->used, "calibration");
        add_ranges(h, "pilot samples", &made->used, "pilot");
        add_ranges(h, "validation samples", &made->used, "validation");
        add_ranges(h, "samples of a placement", &made->used, "placement");
        add_ranges(h, "samples of a search", &made->used, "search");
    } else {
        html_pair(h, "samples that made it", "the bundle does not say");
    }
    if (bundle->plan != NULL)
        add_plan(h, bundle->plan);
    if (version != NULL)
        html_pair(h, "written by ousac", version);
    html_pair(h, "report by ousac", OUSAC_VERSION);
    html_raw(h, "</table>\n</section>\n");
}

static void add_page(report_work *work, const char *plots, ousac_error *error) {
    html *h = &work->page;
    char title[PLOT_LABEL_BYTES + 32];
    (void)snprintf(title, sizeof title, "%s: calibration report", work->inputs.bundle[0].label);
    html_begin(h, title);
    report_add_head(h, &work->inputs);
    html_raw(h, "<nav><a href=\"#evaluation\">Evaluation</a>");
    for (int id = 0; id < PLOT_COUNT; id++) {
        html_format(h, "<a href=\"#%s\">", plot_info_of((plot_id)id)->name);
        html_text(h, plot_info_of((plot_id)id)->title);
        html_raw(h, "</a>");
    }
    html_raw(h, "<a href=\"#cost\">Cost of the calibration</a><a href=\"#provenance\">Provenance and "
                "digests</a></nav>\n");
    add_evaluation(work);
    for (int id = 0; id < PLOT_COUNT; id++)
        report_add_plot(work, (plot_id)id, plots, error);
    add_cost(work);
    add_provenance(work);
    html_end(h);
}

/* ---- making it ---- */

/* A plot that fails is left out of the page, which says why; the rest goes on. */
static ousac_status draw_one(report_work *work, const cli_common *common, plot_id id, const char *plots,
                             size_t *plotted, ousac_error *error) {
    char *png = NULL, *path = NULL;
    size_t svg_size = 0, png_size = 0;
    ousac_error own = {0};
    ousac_status status = OUSAC_STATUS_OK;

    if (plot_set_draw(&work->set, id, plots, GNUPLOT_SVG, 0, &work->svg[id], &svg_size, &own)) {
        cli_note(common, "warning: %s", own.message);
        work->missing[id] = "gnuplot could not draw this plot; its table is below.";
        goto done;
    }
    ++*plotted;
    path = join_texts(plots, plot_info_of(id)->name, ".svg");
    status = path == NULL ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of a plot")
                          : ousac_file_replace(path, work->svg[id], svg_size, error);
    if (status)
        goto done;
    if (plot_set_draw(&work->set, id, plots, GNUPLOT_PNG, 0, &png, &png_size, &own)) {
        cli_note(common, "warning: %s", own.message);
        goto done;
    }
    ousac_free(path);
    path = join_texts(plots, plot_info_of(id)->name, ".png");
    status = path == NULL ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of a plot")
                          : ousac_file_replace(path, png, png_size, error);
done:
    ousac_free(path);
    ousac_free(png);
    return status;
}

static ousac_status draw_all(report_work *work, const cli_common *common, const char *plots, size_t *plotted,
                             ousac_error *error) {
    ousac_error own = {0};
    ousac_status status = OUSAC_STATUS_OK;
    for (int id = 0; !status && id < PLOT_COUNT; id++)
        if (work->set.given[id])
            status = plot_set_save(&work->set, (plot_id)id, plots, error);
    if (!status)
        status = table_save(&work->evaluation, plots, error);
    if (!status)
        status = table_save(&work->runs, plots, error);
    if (status)
        return status;
    if (gnuplot_check(&own)) {
        cli_note(common, "warning: %s; the report has tables only", own.message);
        (void)snprintf(work->why, sizeof work->why, "No plot: %s. The table is below.", own.message);
        for (int id = 0; id < PLOT_COUNT; id++)
            work->missing[id] = work->why;
        return OUSAC_STATUS_OK;
    }
    for (int id = 0; !status && id < PLOT_COUNT; id++)
        if (work->set.given[id])
            status = draw_one(work, common, (plot_id)id, plots, plotted, error);
    return status;
}

ousac_status report_write(const cli_common *common, const report_request *request, size_t *plotted,
                          ousac_error *error) {
    report_work *work = ousac_calloc(1, sizeof *work);
    char *plots = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    *plotted = 0;
    if (work == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a report");
    status = plot_inputs_load(&work->inputs, request->files, request->file_count, request->plan, error);
    const int uncached = !status && report_is_uncached(&work->inputs);
    if (!status && work->inputs.bundle_count != 1 && !uncached)
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                       "a report is of one bundle; the files hold %zu, and no search that ended without one "
                       "with its schedule",
                       work->inputs.bundle_count);
    if (status)
        goto done;
    work->inputs.site = request->site;
    status = plot_set_create(&work->set, &work->inputs, error);
    if (!status)
        status = tables_evaluation(&work->evaluation, &work->inputs, error);
    if (!status)
        status = tables_runs(&work->runs, &work->inputs, error);
    if (!status)
        status = ousac_file_make_directory(request->plots, error);
    if (status)
        goto done;
    plots = join_texts(request->plots, "/", "");
    status = plots == NULL ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of a directory")
                           : draw_all(work, common, plots, plotted, error);
    if (status)
        goto done;
    if (uncached)
        report_add_uncached(work, plots, error);
    else
        add_page(work, plots, error);
    status = work->page.failed
                 ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for the report", request->output)
                 : ousac_file_replace(request->output, work->page.data, work->page.size, error);
done:
    for (int id = 0; id < PLOT_COUNT; id++)
        ousac_free(work->svg[id]);
    table_free(&work->evaluation);
    table_free(&work->runs);
    plot_set_free(&work->set);
    plot_inputs_free(&work->inputs);
    ousac_free(work->page.data);
    ousac_free(work);
    ousac_free(plots);
    return status;
}
