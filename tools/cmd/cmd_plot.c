#include "tools/cli/files.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "tools/report/plot_set.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

typedef struct plot_request {
    const char *output, *site, *plan;
    int term, tables;
    size_t columns;
    char *const *files;
    size_t file_count;
    int wanted[PLOT_COUNT];
    int all;
} plot_request;

/* Width of the terminal, or 100. */
static size_t terminal_columns(void) {
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 60)
        return size.ws_col < 240 ? size.ws_col : 240;
    return 100;
}

static ousac_status choose_plots(plot_request *request, const char *name, ousac_error *error) {
    char names[256] = "";
    const plot_id id = plot_find(name);
    if (strcmp(name, "all") == 0) {
        request->all = 1;
        for (int i = 0; i < PLOT_COUNT; i++)
            request->wanted[i] = 1;
        return OUSAC_STATUS_OK;
    }
    if (id < PLOT_COUNT) {
        request->wanted[id] = 1;
        return OUSAC_STATUS_OK;
    }
    for (size_t i = 0, used = 0; i < PLOT_COUNT; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s, ", plot_info_of((plot_id)i)->name);
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "no plot named %.64s; expected one of %sall", name, names);
}

/* A named plot must have its inputs; of all, those without are left out. */
static ousac_status check_given(plot_request *request, const plot_set *set, const cli_common *common,
                                ousac_error *error) {
    int left = 0;
    for (int i = 0; i < PLOT_COUNT; i++) {
        if (!request->wanted[i] || set->given[i]) {
            left |= request->wanted[i];
            continue;
        }
        const plot_info *info = plot_info_of((plot_id)i);
        if (!request->all)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "plot %s needs %s among the files", info->name,
                              info->needs);
        request->wanted[i] = 0;
        cli_note(common, "plot %s left out: it needs %s", info->name, info->needs);
    }
    return left ? OUSAC_STATUS_OK
                : OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "the files hold nothing that can be plotted");
}

static ousac_status write_plot(const plot_set *set, plot_id id, const char *directory, const char *ending,
                               gnuplot_terminal terminal, ousac_json_doc *doc, cJSON *files,
                               ousac_error *error) {
    char *image = NULL, *path = join_texts(directory, plot_info_of(id)->name, ending);
    size_t size = 0;
    ousac_status status = path == NULL
                              ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of a plot")
                              : plot_set_draw(set, id, directory, terminal, 0, &image, &size, error);
    if (!status)
        status = ousac_file_replace(path, image, size, error);
    if (!status)
        ousac_json_put_text(doc, files, NULL, path);
    ousac_free(image);
    ousac_free(path);
    return status;
}

/* The lines of a text plot, without the form feed before it, trailing blanks, and empty lines at either end.
 */
static void print_lines(const char *text) {
    size_t empty = 0;
    int begun = 0;
    for (text += strspn(text, "\f"); *text != '\0';) {
        const size_t length = strcspn(text, "\n");
        size_t used = length;
        while (used > 0 && (text[used - 1] == ' ' || text[used - 1] == '\f'))
            used--;
        if (used > 0) {
            for (; begun && empty > 0; empty--)
                putchar('\n');
            cli_printf("%.*s\n", (int)used, text);
            begun = 1;
        }
        empty = used > 0 ? 0 : empty + 1;
        text += length + (text[length] == '\n');
    }
    putchar('\n');
}

static ousac_status print_plot(const plot_set *set, plot_id id, const char *directory, size_t columns,
                               ousac_error *error) {
    char *image = NULL;
    size_t size = 0;
    const ousac_status status =
        plot_set_draw(set, id, directory, GNUPLOT_TEXT, columns, &image, &size, error);
    if (!status) {
        const plot_info *info = plot_info_of(id);
        cli_printf("%s (%s)\n", info->title, info->name);
        print_lines(image);
    }
    ousac_free(image);
    return status;
}

static ousac_status make_plots(const plot_request *request, plot_set *set, const char *directory,
                               ousac_json_doc *doc, ousac_error *error) {
    cJSON *files = ousac_json_put_array(doc, doc->root, "files");
    ousac_status status = OUSAC_STATUS_OK;
    /* All tables first: they are there whatever becomes of gnuplot. */
    for (int i = 0; !status && i < PLOT_COUNT; i++)
        if (request->wanted[i]) {
            status = plot_set_save(set, (plot_id)i, directory, error);
            if (!status && request->output != NULL) {
                char *path = join_texts(directory, plot_info_of((plot_id)i)->name, ".tsv");
                if (path != NULL)
                    ousac_json_put_text(doc, files, NULL, path);
                ousac_free(path);
            }
        }
    if (!status && !request->tables)
        status = gnuplot_check(error);
    for (int i = 0; !status && !request->tables && i < PLOT_COUNT; i++) {
        if (!request->wanted[i])
            continue;
        if (request->term)
            status = print_plot(set, (plot_id)i, directory, request->columns, error);
        if (!status && request->output != NULL)
            status = write_plot(set, (plot_id)i, directory, ".svg", GNUPLOT_SVG, doc, files, error);
        if (!status && request->output != NULL)
            status = write_plot(set, (plot_id)i, directory, ".png", GNUPLOT_PNG, doc, files, error);
    }
    return status;
}

/* Tables of a run that prints and writes nothing lie in a directory of their own meanwhile. */
static ousac_status make_scratch(char **directory, ousac_error *error) {
    const char *base = getenv("TMPDIR");
    *directory = join_texts(base != NULL && *base != '\0' ? base : "/tmp", "/ousac-plot-XXXXXX", "");
    if (*directory == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of a directory");
    if (mkdtemp(*directory) == NULL) {
        const ousac_status status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot make the directory: %s",
                                               *directory, strerror(errno));
        ousac_free(*directory);
        *directory = NULL;
        return status;
    }
    return OUSAC_STATUS_OK;
}

static void remove_scratch(const char *directory) {
    for (int i = 0; i <= PLOT_COUNT; i++) {
        char *path = join_texts(directory, i < PLOT_COUNT ? "/" : "/samples.grid.png",
                                i < PLOT_COUNT ? plot_info_of((plot_id)i)->name : "");
        char *file = path != NULL ? join_texts(path, i < PLOT_COUNT ? ".tsv" : "", "") : NULL;
        if (file != NULL)
            (void)unlink(file);
        ousac_free(file);
        ousac_free(path);
    }
    (void)rmdir(directory);
}

static ousac_status execute(const cli_common *common, plot_request *request, ousac_error *error) {
    plot_inputs inputs = {0};
    plot_set set = {0};
    char *scratch = NULL, *directory = NULL;
    ousac_json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    ousac_json_begin(&doc);
    status = plot_inputs_load(&inputs, request->files, request->file_count, request->plan, error);
    inputs.site = request->site;
    if (!status)
        status = plot_set_create(&set, &inputs, error);
    if (!status)
        status = check_given(request, &set, common, error);
    if (!status)
        status = request->output != NULL ? ousac_file_make_directory(request->output, error)
                                         : make_scratch(&scratch, error);
    if (status)
        goto done;
    directory = join_texts(request->output != NULL ? request->output : scratch, "/", "");
    status = directory == NULL
                 ? OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of a directory")
                 : make_plots(request, &set, directory, &doc, error);
    if (status || request->output == NULL)
        goto done;
    if (common->json) {
        status = cli_json_print(&doc, error);
    } else {
        const cJSON *file = NULL;
        cJSON_ArrayForEach(file, cJSON_GetObjectItemCaseSensitive(doc.root, "files"))
            cli_printf("%s\n", cJSON_GetStringValue(file));
    }
done:
    if (scratch != NULL)
        remove_scratch(scratch);
    ousac_free(scratch);
    ousac_free(directory);
    ousac_json_end(&doc);
    plot_set_free(&set);
    plot_inputs_free(&inputs);
    return status;
}

#define AT(member) offsetof(plot_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"output", 'o', CLI_INTO, AT(output), "DIR", NULL,
     "write NAME.svg, NAME.png and NAME.tsv there; made where missing", 0, 0},
    {"term", 0, CLI_FLAG, AT(term), NULL, NULL,
     "print as text", 0, 0},
    {"columns", 0, CLI_SIZE, AT(columns), "N", NULL,
     "width of the text (default: the terminal's, else 100)", 60, 1000},
    {"tables", 0, CLI_FLAG, AT(tables), NULL, NULL,
     "write the tables only, without gnuplot", 0, 0},
    {"plan", 0, CLI_TEXT, AT(plan), "NAME", NULL,
     "plan in the bundle (default \"default\", or the only one)", 0, 0},
    {"site", 0, CLI_TEXT, AT(site), "NAME", NULL,
     "of the plot spectrum (default: the site with the largest share left)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    plot_request *request = values;
    if (!request->output && (!request->term || request->tables))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expects --output DIR%s",
                          request->tables ? " for the tables" : ", or --term");
    const ousac_status status = choose_plots(request, call->files[0], error);
    if (status)
        return status;
    if (request->columns == 0)
        request->columns = terminal_columns();
    request->files = call->files + 1;
    request->file_count = call->file_count - 1;
    return execute(&call->common, request, error);
}

static void list_files(const cli_call *call, const void *values, cli_files *files) {
    const plot_request *request = values;
    for (size_t i = 1; i < call->file_count; i++)
        plot_inputs_list(files, call->files[i]);
    plot_set_list(files, request->output);
}

const cli_command command_plot = {
    .name = "plot",
    .summary = "plots of schedules, profiles, bundles and evaluations, as SVG, PNG or text",
    .arguments = "PLOT FILE...",
    .details =
        "Draws with gnuplot, from tables that it writes beside the plots (plots/TABLES.md says what "
        "is in them). A "
        "directory stands for the files that `ousac calibrate` writes there.\n"
        "\n"
        "  curve     error from what is run today against cost: fewer steps, fitted ones, ours; of several "
        "directories too\n"
        "  stages    what each stage of a search gained\n"
        "  schedule  scale per step, branches evaluated, gates, fitted coefficients\n"
        "  delta     relative change of every block and step, a panel for each branch\n"
        "  error     error of every block as reuse leaves it and at the chosen ranks; several bundles "
        "side by side\n"
        "  ranks     rank of every site, beside the uniform plan\n"
        "  spectra   error spectra of all sites\n"
        "  spectrum  error spectrum of one site (--site)\n"
        "  pareto    cost against end-to-end error of caching, from evaluations and tables of qualities\n"
        "  macs      where the multiply-accumulates go\n"
        "  samples   exact, calibrated, reuse, and the differences\n"
        "  all       whatever the files allow",
    .example = "build/ousac plot delta build/demo/profile.oca --term\n"
               "build/ousac plot spectrum build/demo --site blocks.3.mlp.fc1 -o build/demo/plots\n"
               "build/ousac plot all build/demo -o build/demo/plots",
    .options = options,
    .request_size = sizeof(plot_request),
    .files = list_files,
    .arguments_least = 2,
    .arguments_most = SIZE_MAX,
    .expects = "expects the name of a plot, or all, and at least one file",
    .run = run,
};
