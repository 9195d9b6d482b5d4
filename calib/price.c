#include "calib/price.h"

#include "calib/cost.h"
#include "formats/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Of a full evaluation's MACs: about what the best placements leave a cached one. */
#define WANTED_SHARE 0.3

static uint64_t multiply(uint64_t a, uint64_t b) {
    return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static uint64_t add(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

ousac_status ousac_price_create(ousac_price *price, ousac_price_unit unit, size_t rank_most,
                                ousac_error *error) {
    *price = (ousac_price){.unit = unit, .rank_most = rank_most};
    for (int forecast = 0; forecast < 2; forecast++)
        if (!(price->cached[forecast] = ousac_calloc(rank_most + 1, sizeof(uint64_t)))) {
            ousac_price_free(price);
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the prices of %zu ranks",
                              rank_most);
        }
    return OUSAC_STATUS_OK;
}

void ousac_price_free(ousac_price *price) {
    ousac_free(price->cached[0]);
    ousac_free(price->cached[1]);
    memset(price, 0, sizeof *price);
}

ousac_status ousac_price_of_macs(ousac_price *price, const ousac_arch *arch, ousac_error *error) {
    size_t *rank = ousac_malloc(arch->site_count, sizeof *rank);
    ousac_status status = OUSAC_STATUS_OK;
    if (!rank)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks");
    status = ousac_price_create(price, OUSAC_PRICE_MACS, ousac_cost_largest_rank(arch), error);
    if (status)
        goto done;
    price->exact = price->full = ousac_cost_full(arch);
    price->reuse = ousac_cost_reuse(arch);
    price->extrapolate = add(price->reuse, ousac_cost_extrapolation(arch));
    price->branch = ousac_cost_constant(arch);
    price->wanted = (uint64_t)(WANTED_SHARE * (double)price->full);
    for (int forecast = 0; forecast < 2; forecast++)
        for (size_t uniform = 0; uniform <= price->rank_most; uniform++) {
            const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1, .forecast = forecast};
            ousac_cost_uniform(arch, uniform, rank);
            price->cached[forecast][uniform] = ousac_cost_cached(arch, &ranks);
        }
done:
    ousac_free(rank);
    return status;
}

ousac_status ousac_price_count(ousac_price_parts *parts, const ousac_schedule *schedule, ousac_error *error) {
    int *effective = ousac_malloc(schedule->step_count, OUSAC_BRANCHES * sizeof *effective);
    int evaluated[OUSAC_BRANCHES] = {0};
    *parts = (ousac_price_parts){.steps = schedule->step_count};
    if (!effective)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the gates of %zu steps",
                          schedule->step_count);
    const ousac_status status = ousac_schedule_effective_gates(schedule, effective, error);
    for (size_t i = 0; !status && i < schedule->step_count * OUSAC_BRANCHES; i++) {
        parts->full += effective[i] == OUSAC_GATE_FULL;
        parts->cached += effective[i] == OUSAC_GATE_CACHED;
        parts->reuse += effective[i] == OUSAC_GATE_REUSE;
        parts->extrapolate += effective[i] == OUSAC_GATE_EXTRAPOLATE;
        evaluated[i % OUSAC_BRANCHES] |= effective[i] >= 0;
    }
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        parts->branches += (size_t)evaluated[b];
    ousac_free(effective);
    return status;
}

/* Of what does not depend on the gates. */
static uint64_t beside(const ousac_price *price, const ousac_price_parts *parts) {
    return add(multiply(parts->branches, price->branch), multiply(parts->steps, price->step));
}

uint64_t ousac_price_trajectory(const ousac_price *price, const ousac_price_parts *parts, size_t rank,
                                int forecast) {
    uint64_t sum = add(beside(price, parts), multiply(parts->full, price->full));
    sum = add(sum, multiply(parts->reuse, price->reuse));
    sum = add(sum, multiply(parts->extrapolate, price->extrapolate));
    return add(sum, multiply(parts->cached, price->cached[forecast][rank]));
}

uint64_t ousac_price_exact(const ousac_price *price, const ousac_price_parts *parts) {
    const size_t evaluations = parts->full + parts->cached + parts->reuse + parts->extrapolate;
    return add(beside(price, parts), multiply(evaluations, price->exact));
}

size_t ousac_price_rank(const ousac_price *price, const ousac_price_parts *parts, int forecast,
                        uint64_t budget) {
    size_t low = 0, high = price->rank_most;
    while (low < high) {
        const size_t middle = high - (high - low) / 2;
        if (ousac_price_trajectory(price, parts, middle, forecast) <= budget)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

void ousac_price_text(const ousac_price *price, uint64_t amount, char text[OUSAC_PRICE_TEXT_BYTES]) {
    if (price->unit == OUSAC_PRICE_MACS)
        (void)snprintf(text, OUSAC_PRICE_TEXT_BYTES, "%" PRIu64 " MACs", amount);
    else
        (void)snprintf(text, OUSAC_PRICE_TEXT_BYTES, "%.4g s", 1e-12 * (double)amount);
}
