#include "tools/cli/files.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/json_build.h"
#include "formats/memory.h"
#include "tools/report/plot_inputs.h"
#include "tools/report/plot_set.h"
#include "tools/report/report.h"
#include "tools/report/table.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* "plots" beside the report. */
static char *default_plots(const char *output) {
    const char *slash = strrchr(output, '/');
    char *directory = ousac_strdup(output), *plots = NULL;
    if (directory == NULL)
        return NULL;
    directory[slash == NULL ? 0 : slash - output + 1] = '\0';
    plots = join_texts(directory, "plots", "");
    ousac_free(directory);
    return plots;
}

static ousac_status execute(const cli_common *common, report_request *request, ousac_error *error) {
    size_t plotted = 0;
    char *plots = request->plots == NULL ? default_plots(request->output) : ousac_strdup(request->plots);
    ousac_status status = plots ? OUSAC_STATUS_OK : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory");
    ousac_json_doc doc;

    request->plots = plots;
    if (!status)
        status = report_write(common, request, &plotted, error);
    if (!status && common->json) {
        ousac_json_begin(&doc);
        ousac_json_put_text(&doc, doc.root, "report", request->output);
        ousac_json_put_text(&doc, doc.root, "plots", plots);
        ousac_json_put_u64(&doc, doc.root, "plotted", plotted);
        status = cli_json_print(&doc, error);
        ousac_json_end(&doc);
    } else if (!status) {
        cli_printf("%s\n", request->output);
    }
    ousac_free(plots);
    return status;
}

#define AT(member) offsetof(report_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "HTML file to write", 0, 0},
    {"plots", 0, CLI_INTO, AT(plots), "DIR", NULL,
     "for the plots and tables, made where missing (default: plots beside the report)", 0, 0},
    {"plan", 0, CLI_TEXT, AT(plan), "NAME", NULL,
     "plan in the bundle (default: the one evaluated, or \"default\")", 0, 0},
    {"site", 0, CLI_TEXT, AT(site), "NAME", NULL,
     "of the single spectrum (default: the site with the largest share left)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    report_request *request = values;
    request->files = call->files;
    request->file_count = call->file_count;
    return execute(&call->common, request, error);
}

static void list_files(const cli_call *call, const void *values, cli_files *files) {
    const report_request *request = values;
    char *plots = request->plots ? ousac_strdup(request->plots) : default_plots(request->output);
    for (size_t i = 0; i < call->file_count; i++)
        plot_inputs_list(files, call->files[i]);
    plot_set_list(files, plots);
    ousac_free(plots);
}

const cli_command command_report = {
    .name = "report",
    .summary = "one self-contained HTML page about a bundle, or a result without one",
    .arguments = "FILE...",
    .details = "Writes one HTML file that needs neither network nor scripts: the plots, the tables behind "
               "them (also as data "
               "to download from the page), the evaluation with its intervals, what the calibration cost, "
               "provenance and "
               "digests. The files: a bundle, and what belongs to it of a profile, an evaluation, samples "
               "(ousac sample --raw) "
               "and tables of qualities, told apart by their content; a directory stands for the files that "
               "`ousac calibrate` "
               "writes there. Where its search ended without a bundle, the page is of the schedule that it "
               "found. What is not given is left out, and the page says so. The same files give the "
               "same bytes.\n"
               "\n"
               "Also writes every plot as SVG and PNG, and every table, into the directory for plots. "
               "Without gnuplot the page "
               "has the tables only.",
    .example = "build/ousac report build/demo -o build/demo/report.html\n"
               "build/ousac report build/demo/bundle.oca build/demo/eval.json -o build/demo/short.html",
    .options = options,
    .request_size = sizeof(report_request),
    .files = list_files,
    .arguments_least = 1,
    .arguments_most = SIZE_MAX,
    .expects = "expects a bundle, or a directory of `ousac calibrate`",
    .run = run,
};
