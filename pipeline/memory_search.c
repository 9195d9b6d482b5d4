#include "pipeline/memory_search.h"

#include "calib/cost.h"
#include "pipeline/fit.h"
#include "pipeline/footprint.h"
#include "pipeline/guide.h"
#include "pipeline/place.h"
#include "pipeline/search_bill.h"

enum { CACHED_DEPTH = 2 }; /* of a forecast */

/* A target: states at every step, what a sample is worth, and what the steps' levels are. */
static uint64_t target_bytes(const ousac_memory_searching *s, const ousac_sample_range *range) {
    const uint64_t steps = s->reference->step_count, sample = ousac_model_sample_size(s->session->model);
    return (steps + 1) * range->count * sample * sizeof(float) + (3 * steps + range->count) * sizeof(double);
}

static uint64_t walk_bytes(const ousac_memory_searching *s, const ousac_sample_range *range, size_t depth) {
    const ousac_model *model = s->session->model;
    return ousac_footprint_walk(model, range->count, ousac_session_batch(s->session, range->count), depth,
                                ousac_cost_largest_rank(&model->arch) - 1);
}

/* The fitted samples walk together; those that it is measured on are run a micro-batch a thread, which takes less than the
 * walk unless there are few of them. */
static uint64_t fit_bytes(const ousac_memory_plan *plan, const ousac_memory_searching *s, size_t depth) {
    const ousac_search_outline *o = s->outline;
    const uint64_t sample = ousac_model_sample_size(s->session->model) * sizeof(float);
    const ousac_sample_range running = {0,
                                        plan->threads * ousac_session_batch(s->session, o->validation.count)};
    const uint64_t fitting = walk_bytes(s, &o->fitting, depth) + o->fitting.count * sample,
                   measuring = walk_bytes(s, &running, depth) + o->validation.count * sample;
    return fitting > measuring ? fitting : measuring;
}

/* Two walks, and what the differences and the ends of every step take. */
static void list_guidance(ousac_memory_plan *plan, const ousac_memory_searching *s) {
    const ousac_search_outline *o = s->outline;
    const ousac_sample_range range = {0, OUSAC_GUIDE_SAMPLES};
    const ousac_search_cached *longest = ousac_search_longest(o);
    size_t steps = o->sparse[o->sparse_count - 1].steps;
    if (o->both && longest && longest->steps > steps)
        steps = longest->steps;
    ousac_memory_phase(plan, "placing guidance");
    ousac_memory_add(plan, "weights", s->session->model->weight_bytes);
    ousac_memory_add(plan, "samples walking, and again from every step", 2 * walk_bytes(s, &range, 0));
    ousac_memory_add(plan, "differences and ends",
                     2 * steps * range.count * ousac_model_sample_size(s->session->model) * sizeof(float));
    ousac_memory_phase_end(plan);
}

static void list_fits(ousac_memory_plan *plan, const ousac_memory_searching *s) {
    const ousac_model *model = s->session->model;
    ousac_memory_phase(plan, "fitting steps");
    ousac_memory_add(plan, "weights", model->weight_bytes);
    ousac_memory_add(plan, "samples walking together", fit_bytes(plan, s, 0));
    ousac_memory_phase_end(plan);
    if (s->outline->pattern_count) {
        ousac_memory_phase(plan, "fitting steps that are extrapolated");
        ousac_memory_add(plan, "weights", model->weight_bytes);
        ousac_memory_add(plan, "samples walking together, and their caches",
                         fit_bytes(plan, s, CACHED_DEPTH));
        ousac_memory_phase_end(plan);
    }
    if (!s->outline->cached_count)
        return;
    ousac_memory_phase(plan, "fitting steps with a cache");
    ousac_memory_add(plan, "weights", model->weight_bytes);
    ousac_memory_add(plan, "factors of a candidate", ousac_footprint_factor_set(&model->arch, NULL));
    ousac_memory_add(plan, "samples walking together, and their caches", fit_bytes(plan, s, CACHED_DEPTH));
    ousac_memory_phase_end(plan);
}

static void list_placement(ousac_memory_plan *plan, const ousac_memory_searching *s,
                           const ousac_search_cached *cached) {
    const ousac_search_outline *o = s->outline;
    ousac_schedule even = {0};
    ousac_error ignored;
    const ousac_memory_placing placing = {.model = s->session->model,
                                          .schedule = &even,
                                          .micro_batch = s->session->micro_batch,
                                          .evaluations = o->place_evaluations,
                                          .probe_samples = o->probe_samples,
                                          .horizon = o->horizon};
    if (ousac_fit_fewer_steps(&even, s->reference, cached->steps, &ignored) == OUSAC_STATUS_OK) {
        ousac_place_evenly(&even, cached->period);
        ousac_memory_list_placing(plan, &placing);
    }
    ousac_schedule_free(&even);
}

void ousac_memory_list_searching(ousac_memory_plan *plan, const ousac_memory_searching *s) {
    const ousac_search_outline *o = s->outline;
    const uint64_t macs = plan->macs; /* a search's are in its bill, pipeline/search_bill.h */
    const ousac_search_cached *longest = ousac_search_longest(o);
    ousac_memory_hold(plan, "states of the reference",
                      2 * target_bytes(s, &o->fitting) + target_bytes(s, &o->validation) +
                          target_bytes(s, &o->deciding) + target_bytes(s, &o->again));
    list_fits(plan, s);
    if (o->sparse_count)
        list_guidance(plan, s);
    if (longest)
        list_placement(plan, s, longest);
    plan->macs = macs;
}

void ousac_memory_list_shipping(ousac_memory_plan *plan, const ousac_memory_searching *s,
                                const ousac_memory_allocating *held) {
    const ousac_arch *arch = &held->model->arch;
    ousac_memory_phase(plan, "fitting what ships");
    ousac_memory_add(plan, "weights", held->model->weight_bytes);
    ousac_memory_add(plan, "the profile", ousac_memory_profile_bytes(plan, held));
    ousac_memory_add(plan, "factors", ousac_footprint_factor_set(arch, held->rank_max));
    ousac_memory_add(plan, "factors of the plan", ousac_footprint_factor_set(arch, held->rank_max));
    ousac_memory_add(plan, "samples walking together, and their caches", fit_bytes(plan, s, CACHED_DEPTH));
    ousac_memory_phase_end(plan);
}
