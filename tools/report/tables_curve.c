/* Tables of what is answered first: the error from what is run today against cost, and what each stage of a
 * search gained. From search.json, evaluations and qualities against a reference (formats/EVAL.md). */
#include "tools/report/tables.h"

#include "formats/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LABEL_BYTES = 160, POINTS_MAX = 4096 };

/* In the order of their curves. */
typedef enum cost_kind { COST_FEWER, COST_FITTED, COST_OURS, COST_BASELINE } cost_kind;
static const char *const kind_names[] = {"fewer", "fitted", "ours", "baseline"};
static const char *const axis_names[] = {"MACs", "seconds"};

typedef struct cost_point {
    char panel[LABEL_BYTES], label[LABEL_BYTES];
    size_t panel_at, axis, series; /* places in the table */
    cost_kind kind;
    int tested; /* 1: test samples, 0: validation */
    int taken;  /* 1: what ships */
    double steps, cost, error, low, high;
} cost_point;

typedef struct cost_points {
    cost_point *point;
    size_t count;
} cost_points;

/* Keeps a point of each axis of which the cost is known. */
static void add(cost_points *all, const cost_point *point, double macs, double seconds) {
    const double cost[] = {macs, seconds};
    for (size_t axis = 0; axis < 2; axis++) {
        if (all->count == POINTS_MAX || isnan(cost[axis]) || isnan(point->error) || !(point->error > 0))
            continue;
        cost_point *made = &all->point[all->count++];
        *made = *point;
        made->axis = axis;
        made->cost = cost[axis];
        if (isnan(made->low) || isnan(made->high))
            made->low = made->high = made->error;
    }
}

/* Samples of a range [first, end]; 0 where it is none. */
static double count_of(const cJSON *range) {
    return cJSON_GetArraySize(range) == 2
               ? cJSON_GetArrayItem(range, 1)->valuedouble - cJSON_GetArrayItem(range, 0)->valuedouble
               : 0;
}

static const char *called(cost_kind kind) {
    return kind == COST_FEWER ? "fewer steps" : kind == COST_FITTED ? "fitted fewer steps" : "calibrated";
}

static void name_series(cost_point *point, const char *name, double samples_count) {
    char count[32] = "";
    if (samples_count > 0)
        (void)snprintf(count, sizeof count, "%.0f ", samples_count);
    (void)snprintf(point->label, LABEL_BYTES, "%.80s, %s%s samples", name, count,
                   point->tested ? "test" : "validation");
}

static void name_panel(cost_point *point, const cJSON *root) {
    const char *name = plot_json_text(root, "reference/name");
    const double steps = plot_json_real(root, "reference/steps");
    char count[32] = "";
    if (!isnan(steps))
        (void)snprintf(count, sizeof count, ", %.0f steps", steps);
    (void)snprintf(point->panel, LABEL_BYTES, "against %.80s%s",
                   name != NULL && *name ? name : "the reference", count);
}

static int kind_of(const char *name, cost_kind *kind) {
    static const struct {
        const char *name;
        cost_kind kind;
    } known[] = {{"fewer steps", COST_FEWER},      {"fewer-steps", COST_FEWER},
                 {"fewer-steps-ddim", COST_FEWER}, {"fitted steps", COST_FITTED},
                 {"fitted-steps", COST_FITTED},    {"cached", COST_OURS},
                 {"some guided", COST_OURS},       {"extrapolated", COST_OURS},
                 {"calibrated", COST_OURS},        {"ousac", COST_OURS}};
    for (size_t i = 0; name != NULL && i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            *kind = known[i].kind;
            return 1;
        }
    return 0;
}

/* What a search compared, and the curves beside it: on its validation samples, without intervals. */
static void add_search(cost_points *all, const cJSON *root) {
    static const char *const lists[] = {"candidates", "points"};
    const cJSON *item = NULL;
    cost_point point = {.low = NAN, .high = NAN};
    name_panel(&point, root);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        cJSON_ArrayForEach(item, plot_json_item(root, lists[i])) {
            if (!kind_of(plot_json_text(item, "kind"), &point.kind))
                continue;
            name_series(&point, called(point.kind), count_of(plot_json_item(root, "validation")));
            point.steps = plot_json_real(item, "steps");
            point.error = plot_json_real(item, "error");
            point.taken = cJSON_IsTrue(plot_json_item(item, "taken"));
            add(all, &point, plot_json_real(item, "macs_share"), plot_json_real(item, "time_share"));
        }
}

/* What shipped and what stands beside it: on test samples, with intervals; seconds as run once. */
static void add_headline(cost_points *all, const cJSON *root, const char *range) {
    const cJSON *item = NULL;
    cost_point point = {.tested = 1};
    int first = 1;
    name_panel(&point, root);
    cJSON_ArrayForEach(item, plot_json_item(root, "headline")) {
        if (!kind_of(plot_json_text(item, "method"), &point.kind))
            continue;
        name_series(&point, called(point.kind), count_of(plot_json_item(root, range)));
        point.steps = plot_json_real(item, "steps");
        point.error = plot_json_real(item, "error");
        point.low = plot_json_real(item, "low");
        point.high = plot_json_real(item, "high");
        point.taken = first;
        first = 0;
        add(all, &point, plot_json_real(item, "macs_share"), plot_json_real(item, "seconds_share"));
    }
}

/* Methods against a reference, of `ousac compare --reference` and `make bench-quality`. */
static void add_cell(cost_points *all, const cJSON *cell) {
    const char *model = plot_json_text(cell, "model"), *reference = plot_json_text(cell, "reference");
    const cJSON *row = NULL;
    cost_point point = {.tested = 1};
    (void)snprintf(point.panel, LABEL_BYTES, "%.60s%sagainst %.80s", model != NULL ? model : "",
                   model != NULL ? ", " : "", reference != NULL ? reference : "the reference");
    cJSON_ArrayForEach(row, plot_json_item(cell, "rows")) {
        const char *method = plot_json_text(row, "method");
        if (method == NULL)
            continue;
        const int known = kind_of(method, &point.kind);
        if (!known)
            point.kind = COST_BASELINE;
        name_series(&point, known ? called(point.kind) : method, count_of(plot_json_item(cell, "test")));
        point.steps = plot_json_real(row, "steps");
        point.error = plot_json_real(row, "error");
        point.low = plot_json_real(row, "low");
        point.high = plot_json_real(row, "high");
        point.taken = point.kind == COST_OURS;
        add(all, &point, plot_json_real(row, "macs_share"), plot_json_real(row, "seconds_share"));
    }
}

/* Panels as they came, those in MACs first; in a panel, series as they came. */
static void place(cost_points *all) {
    for (size_t i = 0; i < all->count; i++) {
        cost_point *point = &all->point[i];
        size_t panels = 0, series = 0;
        int panel_known = 0, series_known = 0;
        for (size_t j = 0; j < i; j++) {
            const cost_point *other = &all->point[j];
            if (other->panel_at >= panels)
                panels = other->panel_at + 1;
            if (other->series >= series)
                series = other->series + 1;
            if (!panel_known && strcmp(other->panel, point->panel) == 0) {
                point->panel_at = other->panel_at;
                panel_known = 1;
            }
            if (!series_known && strcmp(other->label, point->label) == 0) {
                point->series = other->series;
                series_known = 1;
            }
        }
        if (!panel_known)
            point->panel_at = panels;
        if (!series_known)
            point->series = series;
    }
}

static int order(const void *a, const void *b) {
    const cost_point *x = a, *y = b;
    const size_t left[] = {x->axis, x->panel_at, x->series}, right[] = {y->axis, y->panel_at, y->series};
    for (int i = 0; i < 3; i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    return (x->error > y->error) - (x->error < y->error);
}

ousac_status tables_curve(table *t, const plot_inputs *inputs, ousac_error *error) {
    const cJSON *cell = NULL;
    cost_points all = {.point = ousac_calloc(POINTS_MAX, sizeof *all.point)};

    table_begin(t, "curve",
                "panel panel_label axis series label kind samples steps cost error low high taken");
    if (all.point == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the table curve");
    for (size_t i = 0; i < inputs->search_count; i++) {
        add_search(&all, inputs->search[i].root);
        add_headline(&all, inputs->search[i].root, "test"); /* of a result without a bundle */
    }
    for (size_t i = 0; i < inputs->evaluation_count; i++)
        add_headline(&all, inputs->evaluation[i].root, "samples");
    for (size_t i = 0; i < inputs->quality_count; i++)
        cJSON_ArrayForEach(cell, plot_json_item(inputs->quality[i].root, "cells")) add_cell(&all, cell);
    place(&all);
    qsort(all.point, all.count, sizeof *all.point, order);
    size_t panel = 0;
    for (size_t i = 0; i < all.count; i++) {
        const cost_point *p = &all.point[i];
        panel += i > 0 && (p->axis != p[-1].axis || p->panel_at != p[-1].panel_at);
        table_size(t, panel);
        table_text(t, p->panel);
        table_text(t, axis_names[p->axis]);
        table_size(t, p->series);
        table_text(t, p->label);
        table_text(t, kind_names[p->kind]);
        table_text(t, p->tested ? "test" : "validation");
        table_real(t, p->steps);
        table_real(t, p->cost);
        table_real(t, p->error);
        table_real(t, p->low);
        table_real(t, p->high);
        table_size(t, (size_t)p->taken);
        table_end_row(t);
    }
    if (t->rows == 0)
        t->nothing = "nothing given was measured against a reference";
    ousac_free(all.point);
    return table_check(t, error);
}

ousac_status tables_stages(table *t, const plot_inputs *inputs, ousac_error *error) {
    const cJSON *item = NULL;
    table_begin(t, "stages", "search place stage steps macs error ratio");
    for (size_t i = 0; i < inputs->search_count; i++) {
        double first = NAN;
        size_t place_at = 0;
        cJSON_ArrayForEach(item, plot_json_item(inputs->search[i].root, "stages")) {
            const char *stage = plot_json_text(item, "stage");
            const double relative = plot_json_real(item, "error");
            if (stage == NULL || isnan(relative))
                continue;
            if (place_at == 0)
                first = relative;
            table_size(t, i);
            table_size(t, place_at++);
            table_text(t, stage);
            table_real(t, plot_json_real(item, "steps"));
            table_real(t, plot_json_real(item, "macs_share"));
            table_real(t, relative);
            table_real(t, relative / first);
            table_end_row(t);
        }
    }
    if (t->rows == 0)
        t->nothing = "no search was given";
    return table_check(t, error);
}
