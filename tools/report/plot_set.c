#include "tools/report/plot_set.h"

#include "formats/memory.h"
#include "tools/report/tables.h"

#include <stdio.h>
#include <string.h>

enum { IMAGE_COLUMNS = 8 };

static const plot_info PLOTS[PLOT_COUNT] = {
    [PLOT_CURVE] =
        {"curve", "Error against cost", "a search, an evaluation or a table of qualities against a reference",
         "Relative error of the final sample from the reference's own, same noise and conditioning, against "
         "the "
         "cost of the trajectory: of fewer steps of the reference, of the same with fitted numbers, and "
         "calibrated. Open marks: the search's validation samples, and the candidates that it compared. "
         "Filled "
         "marks: test samples, with 95 % bootstrap intervals. MACs by the cost model. Time: of open marks by "
         "the "
         "cost model that was measured on the machine, of filled ones the wall time of one run."},
    [PLOT_STAGES] =
        {"stages", "What each stage gained", "a search (search.json of ousac calibrate)",
         "Relative error from the reference on the search's validation samples, from as many plain steps as "
         "the "
         "budget pays for to what ships: their numbers fitted; more steps that are cached, refreshes placed; "
         "their "
         "numbers fitted with the cache at work; ranks and factors chosen from the whole profile; the "
         "numbers "
         "fitted once more with those. All at most at the budget's cost."},
    [PLOT_SAMPLES] = {"samples", "Samples", "samples (ousac sample --raw, or a directory of ousac calibrate)",
                      "The same noise and conditioning in every column, each row made as its label says: "
                      "exactly, calibrated and "
                      "with plain reuse, or, after a search, as today, calibrated or with fitted numbers, "
                      "and by fewer steps. The rows "
                      "below are the signed differences from the first row around middle gray, all amplified "
                      "by the factor that their "
                      "labels state. Below, each sample's relative error."},
    [PLOT_PARETO] =
        {"pareto", "Cost against the error of caching", "an evaluation or a table of qualities",
         "MACs of a whole trajectory, as a share of the reference run (constant guidance, uncached), against "
         "the relative error of the final sample from the exact run of the same schedule. Bars: 95 % "
         "bootstrap "
         "intervals over samples. Ends: the exact run, whose error is 0 by definition and is drawn at the "
         "lower "
         "edge, and plain reuse."},
    [PLOT_MACS] =
        {"macs", "Where the MACs go", "a bundle or a profile",
         "Multiply-accumulates of one sample in the blocks, by the cost model. Guidance saving: evaluations "
         "that "
         "the schedule leaves out. Caching saving: cached evaluations at the cost of reuse. Calibration "
         "overhead: "
         "what the corrections add back. The lower bars split the calibrated run: the floor of its cached "
         "evaluations (modulation, attention between tokens) does not depend on ranks."},
    [PLOT_SCHEDULE] =
        {"schedule", "The schedule", "a schedule, a profile or a bundle",
         "Guidance scale of every step; below, the branches that are evaluated and their effective gates. A "
         "branch that is not evaluated at a step has no mark there."},
    [PLOT_DELTA] = {"delta", "How much each block changes", "a profile",
                    "||out - cached|| / ||out|| of every module, where cached is the module's output at its "
                    "branch's last "
                    "full evaluation; on the exact trajectory, over all samples and tokens of the profile. "
                    "Of each block the "
                    "rows are its modules from bottom to top (attention, MLP). Triangles: refreshes, whose "
                    "own delta is what "
                    "they remove. Dashed lines: changes between guided and unguided steps. Blank: not "
                    "evaluated, or nothing "
                    "cached yet. Colours are logarithmic over at most three decades."},
    [PLOT_ERROR] =
        {"error", "Error of each block", "a bundle with a plan",
         "Local error of the linear layers of a module, ||error|| / ||y||, over cached evaluations on the "
         "exact "
         "trajectory, step-weighted as the factors are. Before: y - y_cached, what reuse leaves, from the "
         "profile. After: the same times the root of the share of the weighted delta energy that the chosen "
         "rank "
         "leaves by the site's error spectrum; what a residual forecast takes off besides is not in it, and "
         "neither is "
         "how these errors spread through the network: see the evaluation. Without the profile, the share "
         "left alone is shown (reuse is 1)."},
    [PLOT_RANKS] = {"ranks", "Ranks", "a plan and its bundle or profile",
                    "Rank of every site under the plan, and under the largest uniform plan that costs no "
                    "more. A rank at "
                    "which the exact product is cheaper stands for that product."},
    [PLOT_SPECTRA] = {"spectra", "Error spectra", "a bundle",
                      "Root of the share of a site's step-weighted delta energy that a correction of that "
                      "rank leaves; a line "
                      "for each block, coloured from the first to the last. Dots: kept ranks. Dashed: where "
                      "the exact product "
                      "becomes cheaper. (Of factors made from weights, as svd and "
                      "ca-svd do, the spectrum is that of the scaled weights.)"},
    [PLOT_SPECTRUM] = {"spectrum", "Error spectrum of one site", "a bundle",
                       "Share of the site's step-weighted delta energy: of each direction, and left after a "
                       "correction of that "
                       "rank. `ousac plot spectrum --site NAME` draws any other site."},
};

const plot_info *plot_info_of(plot_id id) {
    return &PLOTS[id];
}

void plot_set_list(cli_files *files, const char *directory) {
    static const char *const endings[] = {".svg", ".png", ".tsv"};
    char name[64];
    for (int i = 0; i < PLOT_COUNT; i++)
        for (size_t k = 0; k < sizeof endings / sizeof *endings; k++) {
            (void)snprintf(name, sizeof name, "%s%s", plot_info_of((plot_id)i)->name, endings[k]);
            cli_files_written_in(files, "the plot", directory, name);
        }
    cli_files_written_in(files, "the plot", directory, "samples.grid.png");
}

plot_id plot_find(const char *name) {
    int id = 0;
    while (id < PLOT_COUNT && strcmp(PLOTS[id].name, name) != 0)
        id++;
    return (plot_id)id;
}

ousac_status plot_set_create(plot_set *set, const plot_inputs *inputs, ousac_error *error) {
    const plot_bundle *bundle = inputs->bundle_count > 0 ? &inputs->bundle[0] : NULL;
    const plot_profile *profile = bundle != NULL && bundle->profile != NULL ? bundle->profile
                                  : inputs->profile_count > 0               ? &inputs->profile[0]
                                                                            : NULL;
    const samples *shown = NULL;
    size_t site = 0;
    ousac_status status = OUSAC_STATUS_OK;

    memset(set, 0, sizeof *set);
    set->given[PLOT_SCHEDULE] = plot_inputs_schedule(inputs) != NULL;
    set->given[PLOT_DELTA] = profile != NULL;
    for (size_t i = 0; i < inputs->bundle_count; i++)
        set->given[PLOT_ERROR] |= inputs->bundle[i].plan != NULL;
    set->given[PLOT_RANKS] = plot_inputs_arch(inputs) != NULL && plot_inputs_plan(inputs) != NULL;
    set->given[PLOT_SPECTRA] = set->given[PLOT_SPECTRUM] = bundle != NULL;
    set->given[PLOT_MACS] = plot_inputs_arch(inputs) != NULL;
    set->given[PLOT_SAMPLES] = inputs->samples != NULL;
    if (inputs->samples != NULL) {
        status = samples_load(&set->pictures, inputs->samples, error);
        shown = &set->pictures;
    }
    set->image_columns = set->pictures.count < IMAGE_COLUMNS ? set->pictures.count : IMAGE_COLUMNS;
    if (!status)
        status = tables_curve(&set->tables[PLOT_CURVE], inputs, error);
    if (!status)
        status = tables_stages(&set->tables[PLOT_STAGES], inputs, error);
    if (!status)
        status = tables_schedule(&set->tables[PLOT_SCHEDULE], plot_inputs_schedule(inputs), error);
    if (!status)
        status = tables_delta(&set->tables[PLOT_DELTA], profile, error);
    if (!status)
        status = tables_error(&set->tables[PLOT_ERROR], inputs, error);
    if (!status)
        status = tables_ranks(&set->tables[PLOT_RANKS], inputs, error);
    if (!status)
        status = tables_spectra(&set->tables[PLOT_SPECTRA], bundle, error);
    if (!status && bundle != NULL)
        status = tables_choose_site(bundle, inputs->site, &site, error);
    if (!status)
        status = tables_spectrum(&set->tables[PLOT_SPECTRUM], bundle, site, error);
    if (!status)
        status = tables_pareto(&set->tables[PLOT_PARETO], inputs, error);
    if (!status)
        status = tables_macs(&set->tables[PLOT_MACS], inputs, error);
    if (!status)
        status = tables_samples(&set->tables[PLOT_SAMPLES], shown, error);
    /* JSON of a kind may hold nothing for a plot. */
    set->given[PLOT_CURVE] = set->tables[PLOT_CURVE].rows > 0;
    set->given[PLOT_STAGES] = set->tables[PLOT_STAGES].rows > 0;
    set->given[PLOT_PARETO] = set->tables[PLOT_PARETO].rows > 0;
    return status;
}

void plot_set_free(plot_set *set) {
    for (int id = 0; id < PLOT_COUNT; id++)
        table_free(&set->tables[id]);
    samples_free(&set->pictures);
    memset(set, 0, sizeof *set);
}

static ousac_status draw_grid(plot_set *set, const char *directory, ousac_error *error) {
    char *path = join_texts(directory, "samples.grid.png", "");
    if (path == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of an image");
    const ousac_status status = samples_draw(&set->pictures, set->image_columns, 0, path, &set->grid, error);
    ousac_free(path);
    return status;
}

ousac_status plot_set_save(plot_set *set, plot_id id, const char *directory, ousac_error *error) {
    ousac_status status = table_save(&set->tables[id], directory, error);
    if (!status && id == PLOT_DELTA)
        status = table_save(&set->tables[PLOT_SCHEDULE], directory, error);
    if (!status && id == PLOT_SAMPLES && set->pictures.count > 0)
        status = draw_grid(set, directory, error);
    return status;
}

ousac_status plot_set_draw(const plot_set *set, plot_id id, const char *directory, gnuplot_terminal terminal,
                           size_t columns, char **image, size_t *size, ousac_error *error) {
    char labels[SAMPLES_ROWS_MAX * (SAMPLES_LABEL_BYTES + 1)] = "";
    const gnuplot_job job = {
        .script = PLOTS[id].name,
        .tables = directory,
        .terminal = terminal,
        .columns = columns,
        .nothing = set->tables[id].nothing,
        .grid = labels,
    };
    for (size_t row = 0, used = 0; row < set->grid.rows; row++)
        used += (size_t)snprintf(labels + used, sizeof labels - used, "%s%s", row > 0 ? "|" : "",
                                 set->grid.label[row]);
    return gnuplot_draw(&job, image, size, error);
}
