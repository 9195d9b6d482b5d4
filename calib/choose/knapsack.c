#include "calib/choose/knapsack.h"

#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- Pareto lists --- */

static ousac_status reserve(ousac_pareto *list, size_t count, ousac_error *error) {
    if (count <= list->capacity)
        return OUSAC_STATUS_OK;
    const size_t capacity = count > SIZE_MAX / 2 ? count : 2 * count;
    ousac_state *spare = ousac_malloc(capacity, sizeof *spare);
    ousac_state *states =
        spare == NULL ? NULL : ousac_regrow(list->states, list->capacity, capacity, sizeof *states);
    if (states == NULL) {
        ousac_free(spare);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu partial plans", capacity);
    }
    ousac_free(list->spare);
    list->spare = spare;
    list->states = states;
    list->capacity = capacity;
    return OUSAC_STATUS_OK;
}

void ousac_pareto_free(ousac_pareto *list) {
    if (list == NULL)
        return;
    ousac_free(list->states);
    ousac_free(list->spare);
    memset(list, 0, sizeof *list);
}

static int is_inside(const ousac_window *window, uint64_t cost, double value) {
    return cost >= window->cost_least && cost <= window->cost_most &&
           value + window->price * (double)cost <= window->value_most;
}

/* Before: cheaper, or as cheap and better. */
static int comes_first(const ousac_state *a, const ousac_state *b) {
    return a->cost < b->cost || (a->cost == b->cost && a->error <= b->error);
}

ousac_status ousac_pareto_add(ousac_pareto *list, const ousac_state *base, size_t count,
                              uint32_t first_parent, uint64_t cost, double error_value, uint32_t choice,
                              const ousac_window *window, uint64_t *nodes, ousac_error *error) {
    const size_t old = list->count;
    const ousac_status status = reserve(list, old + count, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    ousac_state *out = list->spare;
    size_t kept = 0, i = 0, j = 0;
    uint64_t inside = 0;
    while (i < old || j < count) {
        ousac_state next = {0};
        if (j < count) {
            next.cost = base[j].cost + cost;
            next.error = base[j].error + error_value;
            next.parent = first_parent + (uint32_t)j;
            next.choice = choice;
            if (window != NULL && !is_inside(window, next.cost, next.error)) {
                j++;
                continue;
            }
        }
        if (i < old && (j == count || comes_first(&list->states[i], &next))) {
            next = list->states[i++];
        } else {
            j++;
            inside++;
        }
        if (kept == 0 || next.error < out[kept - 1].error)
            out[kept++] = next;
    }
    list->spare = list->states;
    list->states = out;
    list->count = kept;
    if (nodes != NULL)
        *nodes += inside;
    return OUSAC_STATUS_OK;
}

/* --- Lagrangian relaxation --- */

/* Best choice of every class at a price per cost, the cheapest of equals; returns the cost. */
static uint64_t choose(const ousac_choices *classes, size_t class_count, double price, size_t *chosen) {
    uint64_t cost = 0;
    for (size_t k = 0; k < class_count; k++) {
        const ousac_state *states = classes[k].states;
        double least = states[0].error + price * (double)states[0].cost;
        chosen[k] = 0;
        for (size_t j = 1; j < classes[k].count; j++) {
            const double value = states[j].error + price * (double)states[j].cost;
            if (value < least) {
                least = value;
                chosen[k] = j;
            }
        }
        cost += states[chosen[k]].cost;
    }
    return cost;
}

/* Smallest price (to rounding) at which the choices fit the budget, and those choices; 0 where price is no
 * matter. */
static double find_price(const ousac_choices *classes, size_t class_count, uint64_t budget, size_t *chosen) {
    double low = 0, high = 0;
    if (choose(classes, class_count, 0.0, chosen) <= budget)
        return 0.0;
    /* Costs are integers, so no step saves more error per unit of cost than the whole error. */
    for (size_t k = 0; k < class_count; k++)
        high += classes[k].states[0].error - classes[k].states[classes[k].count - 1].error;
    high *= 2.0;
    for (int i = 0; i < 400 && high - low > 4 * DBL_EPSILON * high; i++) {
        /* Geometric while the bounds are far apart: prices span many decades. */
        const double middle = low > 0.25 * high ? 0.5 * (low + high)
                              : low > 0         ? sqrt(low) * sqrt(high)
                                                : high * 1e-6;
        if (choose(classes, class_count, middle, chosen) <= budget)
            high = middle;
        else
            low = middle;
    }
    if (choose(classes, class_count, high, chosen) > budget)
        for (size_t k = 0; k < class_count; k++)
            chosen[k] = 0;
    return high;
}

static void measure(const ousac_choices *classes, size_t class_count, ousac_knapsack_solution *solution) {
    solution->cost = 0;
    solution->error = 0;
    for (size_t k = 0; k < class_count; k++) {
        solution->cost += classes[k].states[solution->chosen[k]].cost;
        solution->error += classes[k].states[solution->chosen[k]].error;
    }
}

/* Spends what is left of the budget on the largest single gain that fits, until none does. */
static void spend_rest(const ousac_choices *classes, size_t class_count, uint64_t budget,
                       ousac_knapsack_solution *solution) {
    for (;;) {
        size_t best_class = SIZE_MAX, best = 0;
        double most = 0;
        measure(classes, class_count, solution);
        for (size_t k = 0; k < class_count; k++) {
            const ousac_state *states = classes[k].states;
            const size_t now = solution->chosen[k];
            for (size_t j = now + 1; j < classes[k].count; j++) {
                if (states[j].cost - states[now].cost > budget - solution->cost)
                    break;
                if (states[now].error - states[j].error > most) {
                    most = states[now].error - states[j].error;
                    best_class = k;
                    best = j;
                }
            }
        }
        if (best_class == SIZE_MAX)
            return;
        solution->chosen[best_class] = best;
    }
}

/* --- exact finish --- */

/* One class seen through the price: its least value, and what remains of it under a target. */
typedef struct reduced {
    size_t class;
    double least;                   /* min of error + price cost */
    size_t survivors;               /* choices with value - least within the slack */
    uint64_t cost_least, cost_most; /* among the survivors */
} reduced;

static double value_at(const ousac_state *state, double price) {
    return state->error + price * (double)state->cost;
}

static int compare_reduced(const void *a, const void *b) {
    const reduced *x = a, *y = b;
    if (x->survivors != y->survivors)
        return x->survivors < y->survivors ? -1 : 1;
    return x->class < y->class ? -1 : x->class > y->class;
}

typedef struct search {
    const ousac_choices *classes;
    size_t class_count;
    uint64_t budget, node_limit;
    double price;
    double bound;        /* sum of least values - price budget */
    reduced *order;      /* class_count */
    ousac_state *layers; /* all states kept, layer after layer */
    size_t state_count, state_capacity;
    size_t *first; /* class_count + 2: where each layer begins */
    size_t *trial; /* class_count */
} search;

static void reduce(search *s, double slack) {
    for (size_t i = 0; i < s->class_count; i++) {
        const ousac_choices *class = &s->classes[i];
        reduced *r = &s->order[i];
        r->class = i;
        r->least = value_at(&class->states[0], s->price);
        for (size_t j = 1; j < class->count; j++)
            r->least = fmin(r->least, value_at(&class->states[j], s->price));
        r->survivors = 0;
        for (size_t j = 0; j < class->count; j++)
            if (value_at(&class->states[j], s->price) - r->least <= slack) {
                r->cost_most = class->states[j].cost;
                if (r->survivors++ == 0)
                    r->cost_least = class->states[j].cost;
            }
    }
    qsort(s->order, s->class_count, sizeof *s->order, compare_reduced);
}

static ousac_status keep_layer(search *s, const ousac_pareto *list, ousac_error *error) {
    if (list->count > s->state_capacity - s->state_count) {
        const size_t capacity = 2 * s->state_capacity + list->count;
        ousac_state *grown = ousac_regrow(s->layers, s->state_capacity, capacity, sizeof *grown);
        if (grown == NULL)
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu partial plans", capacity);
        s->layers = grown;
        s->state_capacity = capacity;
    }
    memcpy(s->layers + s->state_count, list->states, list->count * sizeof *list->states);
    s->state_count += list->count;
    return OUSAC_STATUS_OK;
}

/* What a partial plan may look like before the classes order[layer..] are decided, given error <= target at
 * the end: error_final >= error + price cost + (least values of the rest) - price budget. */
static ousac_window window_before(const search *s, size_t layer, double target, double slack) {
    uint64_t least = 0, most = 0;
    double rest = 0;
    for (size_t i = layer; i < s->class_count; i++) {
        least += s->order[i].cost_least;
        most += s->order[i].cost_most;
        rest += s->order[i].least;
    }
    ousac_window window = {.cost_least = 0, .cost_most = 0, .price = s->price};
    window.value_most = target + s->price * (double)s->budget - rest;
    window.value_most += 1e-12 * (fabs(target) + s->price * (double)s->budget);
    /* The cheapest rest must fit; and even the dearest rest may not leave more unspent than the slack is
     * worth. */
    window.cost_most = least > s->budget ? 0 : s->budget - least;
    const double unspent = s->price > 0 ? slack / s->price : INFINITY;
    const double floor_cost = (double)s->budget - (double)most - unspent * (1 + 1e-9) - 1.0;
    window.cost_least = floor_cost > 0 ? (uint64_t)floor_cost : 0;
    return window;
}

/* Walks all plans with error <= target; the best becomes the solution where it beats it. *complete = 0 where
 * the node limit stopped the walk. */
static ousac_status sweep(search *s, double target, ousac_knapsack_solution *solution, int *complete,
                          ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_pareto list = {0};
    const double slack = target - s->bound;
    const double tolerance = 1e-12 * (fabs(target) + s->price * (double)s->budget);
    *complete = 1;
    reduce(s, slack + tolerance);
    s->state_count = 0;
    s->first[0] = 0;
    const ousac_state origin = {0, 0.0, 0, 0};
    status = ousac_pareto_add(&list, &origin, 1, 0, 0, 0.0, 0, NULL, NULL, error);
    if (status == OUSAC_STATUS_OK)
        status = keep_layer(s, &list, error);
    if (status != OUSAC_STATUS_OK)
        goto done;
    for (size_t layer = 0; layer < s->class_count; layer++) {
        const reduced *r = &s->order[layer];
        const ousac_choices *class = &s->classes[r->class];
        const ousac_window window = window_before(s, layer + 1, target, slack);
        const size_t begin = s->first[layer], count = s->state_count - begin;
        list.count = 0;
        for (size_t j = 0; j < class->count; j++) {
            if (value_at(&class->states[j], s->price) - r->least > slack + tolerance)
                continue;
            status = ousac_pareto_add(&list, s->layers + begin, count, 0, class->states[j].cost,
                                      class->states[j].error, (uint32_t)j, &window, &solution->nodes, error);
            if (status != OUSAC_STATUS_OK)
                goto done;
            if (solution->nodes > s->node_limit) {
                *complete = 0;
                goto done;
            }
        }
        s->first[layer + 1] = s->state_count;
        status = keep_layer(s, &list, error);
        if (status != OUSAC_STATUS_OK)
            goto done;
    }
    if (list.count == 0)
        goto done;
    /* Errors fall along a list, so the last state is the best. */
    size_t place = list.count - 1;
    for (size_t layer = s->class_count; layer > 0; layer--) {
        const ousac_state *state = &s->layers[s->first[layer] + place];
        s->trial[s->order[layer - 1].class] = state->choice;
        place = state->parent;
    }
    ousac_knapsack_solution other = {.chosen = s->trial};
    measure(s->classes, s->class_count, &other);
    if (other.cost <= s->budget && other.error < solution->error) {
        memcpy(solution->chosen, s->trial, s->class_count * sizeof *s->trial);
        solution->cost = other.cost;
        solution->error = other.error;
    }
done:
    ousac_pareto_free(&list);
    return status;
}

static ousac_status finish(search *s, ousac_knapsack_solution *solution, ousac_error *error) {
    /* Narrow targets first: the optimum is usually far nearer to the bound than the greedy plan, and a plan
     * within its target is proved best at once. */
    static const double share[] = {1.0 / 512, 1.0 / 64, 1.0 / 8, 1.0};
    const double gap = solution->error - s->bound;
    for (size_t i = 0; i < sizeof share / sizeof *share; i++) {
        int complete = 0;
        const double target = fmin(s->bound + gap * share[i], solution->error);
        const ousac_status status = sweep(s, target, solution, &complete, error);
        if (status != OUSAC_STATUS_OK)
            return status;
        if (!complete)
            return OUSAC_STATUS_OK;
        if (solution->error <= target)
            break;
    }
    solution->exact = 1; /* the last target is the error itself */
    return OUSAC_STATUS_OK;
}

ousac_status ousac_knapsack_solve(const ousac_choices *classes, size_t class_count, uint64_t budget,
                                  uint64_t node_limit, ousac_knapsack_solution *solution,
                                  ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    search s = {.classes = classes, .class_count = class_count, .budget = budget};
    uint64_t cheapest = 0;
    for (size_t k = 0; k < class_count; k++)
        cheapest += classes[k].states[0].cost;
    solution->exact = 0;
    solution->nodes = 0;
    if (cheapest > budget)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "budget %llu: expected at least %llu",
                          (unsigned long long)budget, (unsigned long long)cheapest);
    s.node_limit = node_limit < UINT32_MAX ? node_limit : UINT32_MAX - 1; /* parents are 32 bits wide */
    s.price = find_price(classes, class_count, budget, solution->chosen);
    measure(classes, class_count, solution);
    if (s.price == 0) {
        solution->exact = 1;
        return OUSAC_STATUS_OK;
    }
    spend_rest(classes, class_count, budget, solution);
    s.order = ousac_calloc(class_count, sizeof *s.order);
    s.first = ousac_calloc(class_count + 2, sizeof *s.first);
    s.trial = ousac_calloc(class_count, sizeof *s.trial);
    if (s.order == NULL || s.first == NULL || s.trial == NULL) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a knapsack of %zu classes", class_count);
        goto done;
    }
    reduce(&s, 0.0);
    s.bound = -s.price * (double)budget;
    for (size_t k = 0; k < class_count; k++)
        s.bound += s.order[k].least;
    if (solution->error <= s.bound * (1 + 1e-14)) {
        solution->exact = 1;
        goto done;
    }
    status = finish(&s, solution, error);
done:
    ousac_free(s.trial);
    ousac_free(s.first);
    ousac_free(s.order);
    ousac_free(s.layers);
    return status;
}
