/* The multiple-choice knapsack behind rank allocation: from every class exactly one choice, least total error
 * within a cost. Internal to calib/; knows nothing of ranks or models.
 *
 * Method: Lagrangian relaxation of the budget, a greedy plan, then dynamic programming over Pareto lists in
 * which every partial plan must stay within the Lagrangian bound of a target (Pisinger, "A minimal algorithm
 * for the multiple-choice knapsack problem", EJOR 1995, uses the same reductions).
 */
#ifndef OUSAC_KNAPSACK_H
#define OUSAC_KNAPSACK_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A partial plan: what it costs, what it leaves, and the step that made it from a shorter one. */
typedef struct ousac_state {
    uint64_t cost;
    double error;
    uint32_t parent, choice;
} ousac_state;

/* States with rising cost and strictly falling error: the undominated ones. Zero-initialise. */
typedef struct ousac_pareto {
    ousac_state *states;
    size_t count;
    size_t capacity;    /* of both arrays */
    ousac_state *spare; /* for merging */
} ousac_pareto;

/* Which states may live: cost_least <= cost <= cost_most and error + price * cost <= value_most. */
typedef struct ousac_window {
    uint64_t cost_least, cost_most;
    double price, value_most;
} ousac_window;

/* Adds every base state, moved by (cost, error), with its place in `base` plus `first_parent` as parent;
 * drops what is dominated or outside the window (NULL: none). *nodes, where not NULL, counts what was inside
 * the window. Errors: MEMORY. `base` must not be part of the list. */
ousac_status ousac_pareto_add(ousac_pareto *list, const ousac_state *base, size_t count,
                              uint32_t first_parent, uint64_t cost, double error_value, uint32_t choice,
                              const ousac_window *window, uint64_t *nodes, ousac_error *error);
void ousac_pareto_free(ousac_pareto *list);

/* The choices of a class: cost rising, error strictly falling, at least one. */
typedef struct ousac_choices {
    const ousac_state *states; /* parent and choice are not looked at */
    size_t count;
} ousac_choices;

typedef struct ousac_knapsack_solution {
    size_t *chosen; /* the caller's, one index per class */
    uint64_t cost;
    double error;
    int exact;
    uint64_t nodes;
} ousac_knapsack_solution;

/* Least total error with total cost <= budget. USAGE where the cheapest choices exceed the budget. After
 * `node_limit` states the best plan found stands, with exact 0. */
ousac_status ousac_knapsack_solve(const ousac_choices *classes, size_t class_count, uint64_t budget,
                                  uint64_t node_limit, ousac_knapsack_solution *solution, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
