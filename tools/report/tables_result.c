/* Tables of what a calibration costs and is worth, from the cost model and from evaluations
 * (formats/EVAL.md). */
#include "tools/report/tables.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/run/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- MACs ---- */

static void add_part(table *t, const char *group, const char *part, double from, double to,
                     double reference) {
    table_text(t, group);
    table_text(t, part);
    table_real(t, reference > 0 ? from / reference : NAN);
    table_real(t, reference > 0 ? to / reference : NAN);
    table_real(t, to - from);
    table_end_row(t);
}

/* What a cached evaluation of one branch costs whatever the ranks: modulation, and the attention of live
 * modules. */
static double cached_floor(const ousac_arch *arch, const ousac_ranks *ranks) {
    double macs = (double)arch->other_macs;
    for (size_t m = 0; m < arch->module_count; m++)
        if (ousac_cost_module_live(arch, m, ranks))
            macs += (double)arch->modules[m].fixed_macs;
    return macs;
}

ousac_status tables_macs(table *t, const plot_inputs *inputs, ousac_error *error) {
    const ousac_arch *arch = plot_inputs_arch(inputs);
    const ousac_schedule *schedule = plot_inputs_schedule(inputs);
    const ousac_plan *plan = plot_inputs_plan(inputs);
    ousac_cost_total cost = {0};

    table_begin(t, "macs", "group part from to macs_per_sample");
    if (arch == NULL || schedule == NULL) {
        t->nothing = "no bundle or profile was given";
        return table_check(t, error);
    }
    const ousac_ranks ranks = plan != NULL ? ousac_plan_ranks(plan) : (ousac_ranks){0};
    const ousac_status status =
        ousac_cost_trajectory(arch, schedule, plan != NULL ? &ranks : NULL, &cost, error);
    if (status)
        return status;
    const double measured = inputs->evaluation_count == 1
                                ? plot_json_real(inputs->evaluation[0].root, "macs_per_sample/reference")
                                : NAN;
    const double reference = measured > 0 ? measured : (double)cost.constant_guidance;
    const double full = (double)cost.schedule_full, reuse = (double)cost.schedule_reuse;
    const double cached = (double)cost.schedule_cached;
    add_part(t, "saving", "reference", 0, reference, reference);
    add_part(t, "saving", "guidance saving", full, reference, reference);
    add_part(t, "saving", "caching saving", reuse, full, reference);
    if (plan == NULL) {
        add_part(t, "saving", "reuse", 0, reuse, reference);
        return table_check(t, error);
    }
    add_part(t, "saving", "calibration overhead", reuse, cached, reference);
    add_part(t, "saving", "calibrated run", 0, cached, reference);
    const double exact = (double)cost.forwards_full * (double)ousac_cost_full(arch);
    const double reused =
        (double)(cost.forwards_reuse + cost.forwards_extrapolate) * (double)ousac_cost_reuse(arch) +
        (double)cost.forwards_extrapolate * (double)ousac_cost_extrapolation(arch);
    const double floor = (double)cost.forwards_cached * cached_floor(arch, &ranks);
    add_part(t, "made of", "full evaluations", 0, exact, reference);
    add_part(t, "made of", "rank-independent floor of cached evaluations", exact, exact + reused + floor,
             reference);
    add_part(t, "made of", "corrections at the chosen ranks", exact + reused + floor, cached, reference);
    return table_check(t, error);
}

/* ---- budget against error ---- */

enum { NAMES_MAX = 64, LABEL_BYTES = 160 };

/* Distinct labels, in the order in which they came. */
typedef struct name_list {
    char name[NAMES_MAX][LABEL_BYTES];
    size_t count;
} name_list;

static size_t name_index(name_list *list, const char *name) {
    size_t i = 0;
    while (i < list->count && strcmp(list->name[i], name) != 0)
        i++;
    if (i < NAMES_MAX && i == list->count)
        (void)snprintf(list->name[list->count++], LABEL_BYTES, "%s", name);
    return i < NAMES_MAX ? i : NAMES_MAX - 1; /* more series than anybody can tell apart share the last */
}

typedef struct pareto {
    table *t;
    name_list panels, series;
} pareto;

typedef struct pareto_point {
    const char *panel, *series, *role;
    double budget, macs, error, low, high;
} pareto_point;

static void add_point(pareto *p, const pareto_point *point) {
    char panel[LABEL_BYTES], series[LABEL_BYTES];
    /* cut as the lists cut them, so that equal names stay equal */
    (void)snprintf(panel, sizeof panel, "%s", point->panel);
    (void)snprintf(series, sizeof series, "%s", point->series);
    if (isnan(point->macs) || isnan(point->error))
        return;
    table_size(p->t, name_index(&p->panels, panel));
    table_text(p->t, panel);
    table_size(p->t, name_index(&p->series, series));
    table_text(p->t, series);
    table_text(p->t, point->role);
    table_real(p->t, point->budget);
    table_real(p->t, point->macs);
    table_real(p->t, point->error);
    table_real(p->t, isnan(point->low) ? point->error : point->low);
    table_real(p->t, isnan(point->high) ? point->error : point->high);
    table_end_row(p->t);
}

static const cJSON *find_error(const cJSON *root, const char *run, const char *against) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, plot_json_item(root, "errors")) {
        const char *a = plot_json_text(item, "run"), *b = plot_json_text(item, "against");
        if (a != NULL && b != NULL && strcmp(a, run) == 0 && strcmp(b, against) == 0)
            return item;
    }
    return NULL;
}

static void add_evaluation(pareto *p, const plot_json *evaluation) {
    const cJSON *root = evaluation->root;
    const char *name = plot_json_text(root, "schedule/name");
    const char *method = plot_json_text(root, "plan/method");
    const double reference = plot_json_real(root, "macs_per_sample/reference");
    const cJSON *calibrated = find_error(root, "calibrated", "exact");
    const cJSON *reuse = find_error(root, "reuse", "exact");
    char panel[LABEL_BYTES], series[LABEL_BYTES];

    (void)snprintf(panel, sizeof panel, "schedule %s",
                   name != NULL && *name != '\0' ? name : "without a name");
    (void)snprintf(series, sizeof series, "calibrated, %s ranks", method != NULL ? method : "unknown");
    add_point(p, &(pareto_point){panel, "exact", "exact", NAN,
                                 plot_json_real(root, "macs_per_sample/schedule_full") / reference, 0, 0, 0});
    add_point(p, &(pareto_point){panel, "reuse", "reuse", NAN,
                                 plot_json_real(root, "macs_per_sample/schedule_reuse") / reference,
                                 plot_json_real(reuse, "relative_error/mean"),
                                 plot_json_real(reuse, "relative_error/low"),
                                 plot_json_real(reuse, "relative_error/high")});
    add_point(p, &(pareto_point){panel, series, "ours", plot_json_real(root, "cached_step"),
                                 plot_json_real(root, "shares/total"),
                                 plot_json_real(calibrated, "relative_error/mean"),
                                 plot_json_real(calibrated, "relative_error/low"),
                                 plot_json_real(calibrated, "relative_error/high")});
}

static void add_cell(pareto *p, const cJSON *cell) {
    const char *schedule = plot_json_text(cell, "schedule");
    const double period = plot_json_real(cell, "period");
    const cJSON *row = NULL;
    char panel[LABEL_BYTES], series[LABEL_BYTES];

    if (isnan(period))
        (void)snprintf(panel, sizeof panel, "schedule %s", schedule != NULL ? schedule : "?");
    else
        (void)snprintf(panel, sizeof panel, "schedule %s, period %g", schedule != NULL ? schedule : "?",
                       period);
    cJSON_ArrayForEach(row, plot_json_item(cell, "rows")) {
        const char *method = plot_json_text(row, "method"), *allocator = plot_json_text(row, "allocator");
        const char *role = cJSON_IsTrue(plot_json_item(row, "ours")) ? "ours" : "baseline";
        if (method == NULL)
            continue;
        if (strcmp(method, "exact") == 0 || strcmp(method, "reuse") == 0)
            role = method;
        if (allocator == NULL || *allocator == '\0' || role == method)
            (void)snprintf(series, sizeof series, "%s", method);
        else
            (void)snprintf(series, sizeof series, "%s, %s%s", method, allocator,
                           cJSON_IsTrue(plot_json_item(row, "placed")) ? ", placed" : "");
        add_point(p, &(pareto_point){panel, series, role, plot_json_real(cell, "budget"),
                                     plot_json_real(row, "macs_total"), plot_json_real(row, "error"),
                                     plot_json_real(row, "low"), plot_json_real(row, "high")});
    }
}

ousac_status tables_pareto(table *t, const plot_inputs *inputs, ousac_error *error) {
    pareto *p = ousac_calloc(1, sizeof *p);
    const cJSON *cell = NULL;

    table_begin(t, "pareto", "panel panel_label series label role budget macs error low high");
    if (p == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the table pareto");
    p->t = t;
    for (size_t i = 0; i < inputs->quality_count; i++)
        cJSON_ArrayForEach(cell, plot_json_item(inputs->quality[i].root, "cells")) add_cell(p, cell);
    for (size_t i = 0; i < inputs->evaluation_count; i++)
        add_evaluation(p, &inputs->evaluation[i]);
    if (t->rows == 0)
        t->nothing = "no evaluation was given";
    ousac_free(p);
    return table_check(t, error);
}

/* ---- samples ---- */

ousac_status tables_samples(table *t, const samples *s, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    double *relative2 = NULL, *psnr = NULL;

    table_begin(t, "samples", "sample run relative_error psnr_db");
    const int base = s == NULL ? -1 : samples_base(s);
    if (base < 0) {
        t->nothing = s == NULL ? "no samples were given" : "no exact samples were given to compare with";
        return table_check(t, error);
    }
    relative2 = ousac_malloc(s->count, sizeof *relative2);
    psnr = ousac_malloc(s->count, sizeof *psnr);
    if (relative2 == NULL || psnr == NULL)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu samples", s->count);
    for (int run = 0; !status && run < SAMPLES_RUNS; run++) {
        if (s->run[run] == NULL || run == base)
            continue;
        status =
            ousac_evaluate_samples(s->run[run], s->run[base], s->count, s->channels * s->height * s->width,
                                   samples_range(s), relative2, psnr, error);
        for (size_t i = 0; !status && i < s->count; i++) {
            table_size(t, (size_t)s->first + i);
            table_text(t, samples_run_name(run));
            table_real(t, sqrt(relative2[i]));
            table_real(t, psnr[i]);
            table_end_row(t);
        }
    }
    if (t->rows == 0)
        t->nothing = "there is no other run to compare these samples with";
    ousac_free(relative2);
    ousac_free(psnr);
    return status ? status : table_check(t, error);
}

/* ---- evaluation ---- */

ousac_status tables_evaluation(table *t, const plot_inputs *inputs, ousac_error *error) {
    const cJSON *item = NULL;
    table_begin(t, "evaluation",
                "run against relative_error error_low error_high psnr_db psnr_low psnr_high");
    if (inputs->evaluation_count > 0)
        cJSON_ArrayForEach(item, plot_json_item(inputs->evaluation[0].root, "errors")) {
            const char *run = plot_json_text(item, "run"), *against = plot_json_text(item, "against");
            table_text(t, run != NULL ? run : "?");
            table_text(t, against != NULL ? against : "?");
            table_real(t, plot_json_real(item, "relative_error/mean"));
            table_real(t, plot_json_real(item, "relative_error/low"));
            table_real(t, plot_json_real(item, "relative_error/high"));
            table_real(t, plot_json_real(item, "psnr_db/mean"));
            table_real(t, plot_json_real(item, "psnr_db/low"));
            table_real(t, plot_json_real(item, "psnr_db/high"));
            table_end_row(t);
        }
    if (t->rows == 0)
        t->nothing = "no evaluation was given";
    return table_check(t, error);
}

ousac_status tables_runs(table *t, const plot_inputs *inputs, ousac_error *error) {
    const cJSON *item = NULL;
    table_begin(
        t, "runs",
        "run wall_s wall_ratio macs macs_ratio full cached reuse evaluation_reuse_rate site_reuse_rate");
    if (inputs->evaluation_count > 0)
        cJSON_ArrayForEach(item, plot_json_item(inputs->evaluation[0].root, "runs")) {
            table_text(t, item->string != NULL ? item->string : "?");
            table_real(t, plot_json_real(item, "wall_s"));
            table_real(t, plot_json_real(item, "wall_ratio"));
            table_real(t, plot_json_real(item, "macs"));
            table_real(t, plot_json_real(item, "macs_ratio"));
            table_real(t, plot_json_real(item, "evaluations/full"));
            table_real(t, plot_json_real(item, "evaluations/cached"));
            table_real(t, plot_json_real(item, "evaluations/reuse"));
            table_real(t, plot_json_real(item, "evaluation_reuse_rate"));
            table_real(t, plot_json_real(item, "site_reuse_rate"));
            table_end_row(t);
        }
    if (t->rows == 0)
        t->nothing = "no evaluation was given";
    return table_check(t, error);
}
