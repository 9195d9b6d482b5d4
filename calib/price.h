/* The price of a trajectory in some unit: that of its evaluations, of its steps and of the branches that it evaluates.
 * A search under a budget (pipeline/place.h) speaks of prices alone, whether they are multiply-accumulates by the
 * formulas of calib/cost.h or time that was measured on a machine.
 *
 * Prices are whole numbers, so that a budget which is the price of some rank holds that rank; sums that do not fit are
 * UINT64_MAX.
 */
#ifndef OUSAC_PRICE_H
#define OUSAC_PRICE_H

#include "calib/arch.h"
#include "formats/schedule.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ousac_price_unit {
    OUSAC_PRICE_MACS = 0,       /* of one sample */
    OUSAC_PRICE_PICOSECONDS = 1 /* of a micro-batch on one thread */
} ousac_price_unit;

typedef struct ousac_price {
    ousac_price_unit unit;
    /* of an evaluation of one branch: */
    uint64_t exact;       /* in full, where no cache is kept */
    uint64_t full;        /* in full, and kept */
    uint64_t reuse;       /* of the last full one's outputs */
    uint64_t extrapolate; /* along the line through those of the last two */
    uint64_t
        *cached[2]; /* (rank_most + 1) each, owned: by uniform rank, rising; without and with a forecast */
    size_t rank_most;
    uint64_t wanted; /* what evenly spaced refreshes should leave a cached one, to place refreshes from */
    uint64_t step;   /* of a step, beside its evaluations */
    uint64_t branch; /* of a branch that is evaluated, once a trajectory */
} ousac_price;

/* Multiply-accumulates of an architecture, by calib/cost.h. Free with ousac_price_free. */
ousac_status ousac_price_of_macs(ousac_price *price, const ousac_arch *arch, ousac_error *error);
/* A price without its tables: room for ranks 0 to rank_most, all 0. */
ousac_status ousac_price_create(ousac_price *price, ousac_price_unit unit, size_t rank_most,
                                ousac_error *error);
void ousac_price_free(ousac_price *price);

/* What a trajectory consists of, its gates as they really run. */
typedef struct ousac_price_parts {
    size_t steps, branches;                  /* branches: evaluated anywhere */
    size_t full, cached, reuse, extrapolate; /* evaluations */
} ousac_price_parts;
/* USAGE where a gate is left to a plan. */
ousac_status ousac_price_count(ousac_price_parts *parts, const ousac_schedule *schedule, ousac_error *error);

/* At a uniform rank of at most rank_most. */
uint64_t ousac_price_trajectory(const ousac_price *price, const ousac_price_parts *parts, size_t rank,
                                int forecast);
/* With every evaluation exact and nothing kept. */
uint64_t ousac_price_exact(const ousac_price *price, const ousac_price_parts *parts);
/* The largest uniform rank with which the trajectory stays within the budget; 0 where none does. */
size_t ousac_price_rank(const ousac_price *price, const ousac_price_parts *parts, int forecast,
                        uint64_t budget);

/* "1234 MACs", "0.0123 s". */
enum { OUSAC_PRICE_TEXT_BYTES = 40 };
void ousac_price_text(const ousac_price *price, uint64_t amount, char text[OUSAC_PRICE_TEXT_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
