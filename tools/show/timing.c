/* What evaluations take, and what a budget in time came to. */
#include "pipeline/timing.h"
#include "tools/cli/print.h"
#include "tools/show/inspect.h"
#include "tools/show/show.h"

#include <math.h>

static void print_spread(const char *label, const ousac_timing_spread *spread, double full) {
    cli_printf("%-26s %12.4f %12.4f %12.4f %8zu %12.1f\n", label, 1e3 * spread->median, 1e3 * spread->least,
               1e3 * spread->most, spread->count, 100 * spread->median / full);
}

void timing_print(const ousac_timing *timing) {
    static const char *const labels[OUSAC_TIMING_PARTS] = {
        "in full, no cache kept", "in full, refreshed",  "reuse", "extrapolate",
        "in full, cond alone",    "a step, beside these"};
    static const char *const kinds[2] = {"cached", "cached with forecast"};
    const double full = timing->part[OUSAC_TIMING_FULL].median;
    char machine[OUSAC_TIMING_LINE_BYTES], label[64];
    ousac_timing_describe(timing, machine);
    cli_printf("%s\nmode %s, model %.12s...; %zu repeats, seconds of %s\n\n", machine,
               ousac_mode_name(timing->mode), timing->model_digest, timing->repeats,
               timing->processor_clock ? "processor time" : "the wall clock");
    cli_printf("%-26s %12s %12s %12s %8s %12s\n", "an evaluation, micro-batch", "median, ms", "least", "most",
               "count", "of full, %");
    for (int part = 0; part < OUSAC_TIMING_PARTS; part++)
        print_spread(labels[part], &timing->part[part], full);
    for (int f = 0; f < 2; f++)
        for (size_t i = 0; i < timing->point_count; i++) {
            (void)snprintf(label, sizeof label, "%s, %zu", f ? "forecast, rank" : "cached, rank",
                           timing->point[i].rank);
            print_spread(label, &timing->point[i].cached[f], full);
        }
    cli_printf("\n");
    for (int f = 0; f < 2; f++)
        cli_printf("%-20s %.4f ms + %.5f ms a rank; at most %.1f %% from the medians\n", kinds[f],
                   1e3 * timing->line[f].fixed, 1e3 * timing->line[f].per_rank,
                   100 * timing->line[f].residual);
    if (!ousac_timing_cache_saves(timing))
        cli_printf("caching saves no time here\n");
}

ousac_status inspect_time(inspection *in, ousac_error *error) {
    ousac_timing timing;
    const ousac_status status = ousac_timing_load(&timing, in->path, error);
    if (status)
        return status;
    if (in->common->json)
        ousac_timing_put(&in->doc, ousac_json_put_object(&in->doc, in->doc.root, "content"), &timing);
    else
        timing_print(&timing);
    return OUSAC_STATUS_OK;
}

/* --- a result under a budget in time --- */

void timed_print(const timed_result *timed) {
    const ousac_stopwatch_share *m = &timed->measured;
    char machine[OUSAC_TIMING_LINE_BYTES];
    ousac_timing_describe(timed->timing, machine);
    cli_printf(
        "budget: %.1f %% of the reference's time, on %s\nby the cost model %.1f %%; measured %.1f %% of its "
        "wall time",
        100 * timed->budget, machine, 100 * timed->modelled, 100 * m->wall);
    if (isfinite(m->processor))
        cli_printf(", %.1f %% of its processor time", 100 * m->processor);
    cli_printf(" (medians of %zu runs in turn, wall %.1f to %.1f %%)\n", m->repeats, 100 * m->wall_least,
               100 * m->wall_most);
    if (!ousac_timing_cache_saves(timed->timing))
        cli_printf("caching saves no time here: a cached evaluation takes as long as one in full\n");
}

void timed_put(ousac_json_doc *doc, cJSON *object, const timed_result *timed) {
    char machine[OUSAC_TIMING_LINE_BYTES];
    ousac_timing_describe(timed->timing, machine);
    ousac_json_put_text(doc, object, "machine", machine);
    ousac_json_put_real(doc, object, "budget", timed->budget);
    ousac_json_put_real(doc, object, "modelled_share", timed->modelled);
    ousac_json_put_real(doc, object, "wall_share", timed->measured.wall);
    ousac_json_put_real(doc, object, "wall_share_least", timed->measured.wall_least);
    ousac_json_put_real(doc, object, "wall_share_most", timed->measured.wall_most);
    ousac_json_put_real(doc, object, "processor_share", timed->measured.processor);
    ousac_json_put_u64(doc, object, "repeats", timed->measured.repeats);
    ousac_json_put_bool(doc, object, "caching_saves_time", ousac_timing_cache_saves(timed->timing));
}
