#include "tools/cmd/commands.h"

#include "formats/json_build.h"
#include "formats/memory.h"
#include "pipeline/pipeline.h"
#include "tools/report/report.h"
#include "tools/report/table.h"

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
    ousac_status status = plots == NULL ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory")
                                        : pipeline_check_output(request->output, error);
    json_doc doc;

    request->plots = plots;
    if (!status)
        status = report_write(common, request, &plotted, error);
    if (!status && common->json) {
        json_begin(&doc);
        json_put_text(&doc, doc.root, "report", request->output);
        json_put_text(&doc, doc.root, "plots", plots);
        json_put_u64(&doc, doc.root, "plotted", plotted);
        status = json_print(&doc, error);
        json_end(&doc);
    } else if (!status) {
        printf("%s\n", request->output);
    }
    ousac_free(plots);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    report_request request = {0};
    const cli_option options[] = {
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 1, "FILE", "HTML file to write"},
        {"plots", 0, CLI_TEXT, &request.plots, 0, 0, 0, "DIR",
         "for the plots and tables, made where missing (default: plots beside the report)"},
        {"plan", 0, CLI_TEXT, &request.plan, 0, 0, 0, "NAME",
         "plan in the bundle (default: the one evaluated, or \"default\")"},
        {"site", 0, CLI_TEXT, &request.site, 0, 0, 0, "NAME",
         "of the single spectrum (default: the site with the largest share left)"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (!status && !done && positionals == 0)
        status =
            OUSAC_FAIL(&error, OUSAC_STATUS_USAGE, "expects a bundle, or a directory of `ousac calibrate`");
    if (!status && !done) {
        request.files = argv + 1;
        request.file_count = positionals;
        status = execute(&common, &request, &error);
    }
    return status ? cli_report_error(command, &common, &error) : EXIT_OK;
}

const cli_command command_report = {
    .name = "report",
    .summary = "one self-contained HTML page about a bundle",
    .arguments = "FILE...",
    .details = "Writes one HTML file that needs neither network nor scripts: the plots, the tables behind "
               "them (also as data "
               "to download from the page), the evaluation with its intervals, what the calibration cost, "
               "provenance and "
               "digests. The files: a bundle, and what belongs to it of a profile, an evaluation, samples "
               "(ousac sample --raw) "
               "and tables of qualities, told apart by their content; a directory stands for the files that "
               "`ousac calibrate` "
               "writes there. What is not given is left out, and the page says so. The same files give the "
               "same bytes.\n"
               "\n"
               "Also writes every plot as SVG and PNG, and every table, into the directory for plots. "
               "Without gnuplot the page "
               "has the tables only.",
    .example = "build/ousac report build/demo -o build/demo/report.html\n"
               "build/ousac report build/demo/bundle.oca build/demo/eval.json -o build/demo/short.html",
    .run = run,
};
