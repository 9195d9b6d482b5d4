#include "pipeline/timing.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "pipeline/machine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ousac_timing_part_name(ousac_timing_part part) {
    static const char *const names[OUSAC_TIMING_PARTS] = {"full",        "refresh", "reuse",
                                                          "extrapolate", "alone",   "step"};
    return names[part];
}

/* --- reduction --- */

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

ousac_timing_spread ousac_timing_spread_of(double *seconds, size_t count) {
    qsort(seconds, count, sizeof *seconds, ascending);
    return (ousac_timing_spread){(seconds[(count - 1) / 2] + seconds[count / 2]) / 2, seconds[0],
                                 seconds[count - 1], count};
}

void ousac_timing_reduce(ousac_timing *timing) {
    for (int forecast = 0; forecast < 2; forecast++) {
        ousac_timing_line *line = &timing->line[forecast];
        const double count = (double)timing->point_count;
        double rank = 0, seconds = 0, square = 0, product = 0;
        for (size_t i = 0; i < timing->point_count; i++) {
            rank += (double)timing->point[i].rank / count;
            seconds += timing->point[i].cached[forecast].median / count;
        }
        for (size_t i = 0; i < timing->point_count; i++) {
            const double dr = (double)timing->point[i].rank - rank;
            square += dr * dr;
            product += dr * (timing->point[i].cached[forecast].median - seconds);
        }
        line->per_rank = square > 0 && product > 0 ? product / square : 0;
        line->fixed = seconds - line->per_rank * rank;
        if (line->fixed < 0) { /* then the best line through 0 */
            square += count * rank * rank;
            product += count * rank * seconds;
            line->fixed = 0;
            line->per_rank = product / square;
        }
        line->residual = 0;
        for (size_t i = 0; i < timing->point_count; i++) {
            const double at = line->fixed + line->per_rank * (double)timing->point[i].rank;
            line->residual = fmax(line->residual, fabs(timing->point[i].cached[forecast].median - at) / at);
        }
    }
}

int ousac_timing_cache_saves(const ousac_timing *timing) {
    return timing->line[0].fixed + timing->line[0].per_rank < timing->part[OUSAC_TIMING_FULL].median;
}

/* --- as a price --- */

/* Saturating, and at least 1, so that nothing is free. */
static uint64_t picoseconds(double seconds) {
    return seconds >= 1e6 ? UINT64_MAX / 16 : seconds > 1e-12 ? (uint64_t)(1e12 * seconds + 0.5) : 1;
}

size_t ousac_timing_rank_most(const ousac_arch *arch) {
    return arch->site_count ? ousac_cost_smallest_rank(arch) - 1 : 0;
}

/* The uniform rank whose MACs are what evenly spaced refreshes should leave. */
static ousac_status wanted_rank(const ousac_arch *arch, size_t most, size_t *rank, ousac_error *error) {
    ousac_price macs;
    const ousac_status status = ousac_price_of_macs(&macs, arch, error);
    if (status)
        return status;
    *rank = 1;
    while (*rank < most && *rank < macs.rank_most && macs.cached[0][*rank + 1] <= macs.wanted)
        ++*rank;
    ousac_price_free(&macs);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_timing_price(ousac_price *price, const ousac_timing *timing, const ousac_arch *arch,
                                ousac_error *error) {
    const size_t corrected = ousac_timing_rank_most(arch);
    const size_t measured = timing->point[timing->point_count - 1].rank;
    const size_t most = corrected < measured ? corrected : measured;
    size_t wanted = 0;
    memset(price, 0, sizeof *price);
    if (most == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "no uniform rank corrects every layer of this model, so a cached evaluation's time "
                          "is not measured");
    ousac_status status = wanted_rank(arch, most, &wanted, error);
    if (!status)
        status = ousac_price_create(price, OUSAC_PRICE_PICOSECONDS, most, error);
    if (status)
        return status;
    price->exact = picoseconds(timing->part[OUSAC_TIMING_FULL].median);
    price->full = picoseconds(timing->part[OUSAC_TIMING_REFRESH].median);
    price->reuse = picoseconds(timing->part[OUSAC_TIMING_REUSE].median);
    price->extrapolate = picoseconds(timing->part[OUSAC_TIMING_EXTRAPOLATE].median);
    price->step = picoseconds(timing->part[OUSAC_TIMING_STEP].median);
    for (int forecast = 0; forecast < 2; forecast++) {
        price->cached[forecast][0] = price->reuse;
        for (size_t rank = 1; rank <= price->rank_most; rank++) {
            const uint64_t at =
                picoseconds(timing->line[forecast].fixed + timing->line[forecast].per_rank * (double)rank);
            const uint64_t below = price->cached[forecast][rank - 1];
            price->cached[forecast][rank] = at > below ? at : below;
        }
    }
    price->wanted = price->cached[1][wanted];
    return OUSAC_STATUS_OK;
}

/* --- where it was measured --- */

void ousac_timing_identify(ousac_timing *timing, const ousac_session *session, ousac_mode mode) {
    const ousac_model *model = session->model;
    ousac_processor_name(timing->processor, sizeof timing->processor);
    (void)snprintf(timing->backend, sizeof timing->backend, "%s", model->backend->detail);
    (void)snprintf(timing->device, sizeof timing->device, "%s", model->backend->name);
    (void)snprintf(timing->compute, sizeof timing->compute, "%s", model->backend->bf16 ? "bf16" : "f32");
    memcpy(timing->model_digest, model->digest, sizeof timing->model_digest);
    timing->processors = ousac_processors();
    timing->threads = ousac_session_threads(session);
    timing->micro_batch = session->micro_batch;
    timing->mode = mode;
    /* A host of its own may compute on other threads than the one that asks. */
    timing->processor_clock = model->backend->host && model->file != NULL;
}

ousac_status ousac_timing_check(const ousac_timing *timing, const ousac_timing *expected, const char *name,
                                ousac_error *error) {
    if (strcmp(timing->model_digest, expected->model_digest) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                          "%s: \"model\" is %.12s..., another model; expected %.12s...", name,
                          timing->model_digest, expected->model_digest);
    if (strcmp(timing->device, expected->device) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: \"machine.device\" is %s; expected %s", name,
                          timing->device, expected->device);
    if (strcmp(timing->compute, expected->compute) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: \"machine.compute\" is %s; expected %s", name,
                          timing->compute, expected->compute);
    if (timing->threads != expected->threads)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: \"machine.threads\" is %zu; expected %zu", name,
                          timing->threads, expected->threads);
    if (timing->micro_batch != expected->micro_batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: \"machine.micro_batch\" is %zu; expected %zu",
                          name, timing->micro_batch, expected->micro_batch);
    if (timing->mode != expected->mode)
        return OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s: \"mode\" is %s; expected %s, as the reference's",
                          name, ousac_mode_name(timing->mode), ousac_mode_name(expected->mode));
    return OUSAC_STATUS_OK;
}

void ousac_timing_describe(const ousac_timing *timing, char text[OUSAC_TIMING_LINE_BYTES]) {
    (void)snprintf(text, OUSAC_TIMING_LINE_BYTES, "%.100s, %.32s, %.16s, %zu thread%s, micro-batches of %zu",
                   timing->processor, timing->device, timing->compute, timing->threads,
                   timing->threads == 1 ? "" : "s", timing->micro_batch);
}

void ousac_timing_digest(const ousac_timing *timing, char digest[OUSAC_DIGEST_CHARS]) {
    char text[1024];
    ousac_sha256 state;
    const ousac_timing_line *line = timing->line;
    ousac_timing_describe(timing, text);
    const size_t used = strlen(text);
    (void)snprintf(text + used, sizeof text - used,
                   "; %.17g %.17g %.17g %.17g %.17g; %.17g %.17g %.17g %.17g",
                   timing->part[OUSAC_TIMING_FULL].median, timing->part[OUSAC_TIMING_REFRESH].median,
                   timing->part[OUSAC_TIMING_REUSE].median, timing->part[OUSAC_TIMING_EXTRAPOLATE].median,
                   timing->part[OUSAC_TIMING_STEP].median, line[0].fixed, line[0].per_rank, line[1].fixed,
                   line[1].per_rank);
    ousac_sha256_begin(&state);
    ousac_sha256_add_text(&state, text);
    ousac_sha256_end(&state, digest);
}
