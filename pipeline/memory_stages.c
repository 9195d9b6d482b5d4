#include "pipeline/memory_stages.h"

#include "calib/choose/regions.h"
#include "calib/cost.h"
#include "pipeline/evaluation.h"
#include "pipeline/footprint.h"
#include "pipeline/place.h"
#include "pipeline/record.h"

/* The writer's index, a chunk in every form, and zstd's context. */
#define WRITER_BYTES ((uint64_t)16 << 20)

static size_t largest_rank(const ousac_arch *arch, const size_t *rank_max) {
    size_t largest = 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        const size_t dense = ousac_cost_dense_rank(&arch->sites[s]) - 1;
        const size_t rank = rank_max && rank_max[s] < dense ? rank_max[s] : dense;
        largest = rank > largest ? rank : largest;
    }
    return largest;
}

uint64_t ousac_memory_profile_bytes(const ousac_memory_plan *plan, const ousac_memory_allocating *a) {
    const ousac_arch *arch = &a->model->arch;
    return 2 * ousac_footprint_profile(arch, a->schedule->step_count, 0) +
           (a->whole_profile && !plan->spilled ? ousac_footprint_moments(arch, a->segments)
                                               : 2 * ousac_footprint_largest_moment(arch));
}

/* What a command that allocates holds all the while. */
static void add_held(ousac_memory_plan *plan, const ousac_memory_allocating *a, int weights) {
    if (weights)
        ousac_memory_add(plan, "weights", a->model->weight_bytes);
    ousac_memory_add(plan, "the profile", ousac_memory_profile_bytes(plan, a));
}

static void add_running(ousac_memory_plan *plan, const ousac_memory_allocating *a, uint64_t samples,
                        size_t arms) {
    const ousac_arch *arch = &a->model->arch;
    const size_t workers = ousac_memory_workers(plan, samples, a->micro_batch);
    const size_t batch = samples < a->micro_batch ? (size_t)samples : a->micro_batch;
    const size_t rank = largest_rank(arch, a->rank_max), depth = a->forecasts ? 2 : 1;
    ousac_memory_add(plan, "activations of the threads", workers * ousac_footprint_forward(a->model, batch));
    ousac_memory_add(plan, "caches of the threads",
                     workers * ousac_footprint_executor(a->model, batch, depth, rank));
    ousac_memory_add(plan, "samples", samples * ousac_model_sample_size(a->model) * sizeof(float) * arms);
}

/* What the search holds all the while: factors of three contenders, and of one as it is run, twice. */
static void add_contenders(ousac_memory_plan *plan, const ousac_memory_placing *p) {
    ousac_memory_add(plan, "weights", p->model->weight_bytes);
    ousac_memory_add(plan, "factors of contenders", 5 * ousac_footprint_factor_set(&p->model->arch, NULL));
}

static void list_probing(ousac_memory_plan *plan, const ousac_memory_placing *p) {
    const ousac_arch *arch = &p->model->arch;
    const size_t samples = p->probe_samples ? p->probe_samples : OUSAC_PLACE_PROBE_SAMPLES;
    const size_t horizon = p->horizon ? p->horizon : OUSAC_PLACE_HORIZON;
    const size_t workers = ousac_memory_workers(plan, samples, p->micro_batch);
    const size_t batch = samples < p->micro_batch ? samples : p->micro_batch;
    const size_t rank = largest_rank(arch, NULL), steps = p->schedule->step_count + 1;
    ousac_memory_phase(plan, "placing refreshes: probing");
    add_contenders(plan, p);
    ousac_memory_add(plan, "activations of the threads", workers * ousac_footprint_forward(p->model, batch));
    ousac_memory_add(plan, "caches of every age",
                     workers * (horizon + 1) * ousac_footprint_executor(p->model, batch, 1, rank));
    ousac_memory_add(plan, "trajectories of the threads",
                     workers * steps * batch * ousac_model_sample_size(p->model) *
                         (2 * sizeof(float) + sizeof(double)));
    ousac_memory_phase_end(plan);
}

static void list_contenders(ousac_memory_plan *plan, const ousac_memory_placing *p) {
    const ousac_arch *arch = &p->model->arch;
    const ousac_memory_allocating running = {
        .model = p->model, .schedule = p->schedule, .forecasts = 1, .micro_batch = p->micro_batch};
    const size_t workers = ousac_memory_workers(plan, OUSAC_PLACE_SAMPLES, p->micro_batch);
    const size_t batch = OUSAC_PLACE_SAMPLES < p->micro_batch ? OUSAC_PLACE_SAMPLES : p->micro_batch;
    const size_t most = ousac_arch_most_tokens(arch);
    const size_t tokens = most < OUSAC_DEFAULT_TOKENS ? most : OUSAC_DEFAULT_TOKENS;
    ousac_memory_phase(plan, "placing refreshes: recording");
    add_contenders(plan, p);
    ousac_memory_add(plan, "activations of the threads", workers * ousac_footprint_forward(p->model, batch));
    ousac_memory_add(plan, "references and moments of the threads",
                     workers * ousac_footprint_witness(arch, p->schedule, batch, tokens, 1, 0, 0));
    ousac_memory_add(plan, "a contender's profile",
                     2 * ousac_footprint_profile(arch, p->schedule->step_count, 0) +
                         ousac_footprint_moments(arch, 1) + ousac_footprint_largest_moment(arch));
    ousac_memory_phase_end(plan);
    ousac_memory_phase(plan, "placing refreshes: making factors");
    add_contenders(plan, p);
    ousac_memory_add(plan, "a contender's profile",
                     2 * ousac_footprint_profile(arch, p->schedule->step_count, 0) +
                         ousac_footprint_moments(arch, 1) + ousac_footprint_largest_moment(arch));
    ousac_memory_add(plan, "eigenproblems of the threads",
                     plan->threads * ousac_footprint_factorise(arch, OUSAC_METHOD_DELTA_COV, NULL, 0));
    ousac_memory_phase_end(plan);
    ousac_memory_phase(plan, "placing refreshes: fitting a forecast");
    add_contenders(plan, p);
    ousac_memory_add(plan, "references of the threads",
                     workers * (ousac_footprint_history(arch, batch, SIZE_MAX, 2) *
                                ousac_footprint_branches(p->schedule) / 4 * 5));
    ousac_memory_add(plan, "activations of the threads", workers * ousac_footprint_forward(p->model, batch));
    ousac_memory_phase_end(plan);
    ousac_memory_phase(plan, "placing refreshes: running");
    add_contenders(plan, p);
    add_running(plan, &running, OUSAC_DEFAULT_SEARCH_SAMPLES, 2);
    ousac_memory_phase_end(plan);
}

void ousac_memory_list_placing(ousac_memory_plan *plan, const ousac_memory_placing *p) {
    const ousac_arch *arch = &p->model->arch;
    const uint64_t steps = p->schedule->step_count;
    const uint64_t exact = ousac_memory_run_macs(arch, p->schedule, 1, 0),
                   cached = ousac_memory_run_macs(arch, p->schedule, 1, p->cached_macs);
    list_contenders(plan, p);
    list_probing(plan, p);
    /* every contender: pilot, profile, forecast and, along the corrected trajectory, the search samples */
    plan->macs += p->evaluations * (3 * OUSAC_PLACE_SAMPLES * exact + OUSAC_DEFAULT_SEARCH_SAMPLES * cached +
                                    ousac_footprint_factorise_macs(arch, OUSAC_METHOD_DELTA_COV, NULL)) +
                  OUSAC_DEFAULT_SEARCH_SAMPLES * exact;
    /* two probes: every evaluation at every age, and from every stride-th step on to the end */
    plan->macs += 2 * OUSAC_PLACE_PROBE_SAMPLES *
                  (exact * (1 + steps / OUSAC_PLACE_STRIDE / 2) +
                   (OUSAC_PLACE_HORIZON - 1) * OUSAC_BRANCHES * steps * p->cached_macs);
}

void ousac_memory_take_options(ousac_memory_allocating *a, const ousac_choice_options *options) {
    const size_t variants = options->forecast == OUSAC_FORECAST_AUTO ? 2 : 1;
    const uint64_t evaluations = options->evaluations ? options->evaluations : OUSAC_REGIONS_EVALUATIONS;
    size_t methods = 0, searches = 0;
    for (int method = 0; method < OUSAC_ALLOCATORS; method++)
        if (options->methods & 1U << method) {
            methods++;
            searches += method == OUSAC_ALLOCATOR_REGIONS || method == OUSAC_ALLOCATOR_DESCENT;
        }
    methods +=
        searches > 0 && !(options->methods & 1U << OUSAC_ALLOCATOR_UNIFORM); /* where a search begins */
    a->runs = ousac_choice_runs(options);
    a->candidates = methods * variants;
    a->forecasts = options->forecast == OUSAC_FORECAST_OFF ? 0 : methods;
    a->fitting = a->forecasts ? OUSAC_DEFAULT_FORECAST_SAMPLES : 0;
    a->validation = options->validation.count ? options->validation.count
                    : a->candidates > 1       ? OUSAC_DEFAULT_VALIDATION_SAMPLES
                                              : 0;
    a->searched = searches ? OUSAC_DEFAULT_SEARCH_SAMPLES : 0;
    a->evaluations = searches * variants * evaluations;
}

void ousac_memory_list_allocating(ousac_memory_plan *plan, const ousac_memory_allocating *a) {
    const ousac_arch *arch = &a->model->arch;
    const uint64_t set = ousac_footprint_factor_set(arch, a->rank_max);
    ousac_memory_phase(plan, "making factors");
    add_held(plan, a, a->runs);
    ousac_memory_add(plan, "factors", set);
    ousac_memory_add(plan, "eigenproblems of the threads",
                     plan->threads * ousac_footprint_factorise(arch, a->made_of, a->rank_max, 0));
    ousac_memory_phase_end(plan);
    plan->macs += ousac_footprint_factorise_macs(arch, a->made_of, a->rank_max);
    if (!a->runs)
        return;
    if (a->forecasts) { /* two evaluations of everything, and temporaries below a fourth of that */
        const size_t workers = ousac_memory_workers(plan, a->fitting, a->micro_batch);
        const size_t batch = a->fitting < a->micro_batch ? (size_t)a->fitting : a->micro_batch;
        const uint64_t kept =
            ousac_footprint_history(arch, batch, SIZE_MAX, 2) * ousac_footprint_branches(a->schedule);
        ousac_memory_phase(plan, "fitting a forecast");
        add_held(plan, a, 1);
        ousac_memory_add(plan, "factors", set);
        ousac_memory_add(plan, "factors of a candidate, twice", 2 * set);
        ousac_memory_add(plan, "references of the threads", workers * (kept + kept / 4));
        ousac_memory_add(plan, "activations of the threads",
                         workers * ousac_footprint_forward(a->model, batch));
        ousac_memory_phase_end(plan);
    }
    ousac_memory_phase(plan, "running candidates");
    add_held(plan, a, 1);
    ousac_memory_add(plan, "factors", set);
    ousac_memory_add(plan, "factors of a candidate, twice", 2 * set);
    add_running(plan, a, a->validation > a->searched ? a->validation : a->searched, 2);
    ousac_memory_phase_end(plan);
    plan->macs += ousac_memory_run_macs(arch, a->schedule, a->validation + a->searched, 0) +
                  a->evaluations * ousac_memory_run_macs(arch, a->schedule, a->searched, a->cached_macs) +
                  a->candidates * ousac_memory_run_macs(arch, a->schedule, a->validation, a->cached_macs) +
                  a->forecasts * ousac_memory_run_macs(arch, a->schedule, a->fitting, 0);
}

void ousac_memory_list_packing(ousac_memory_plan *plan, const ousac_memory_packing *p) {
    const ousac_memory_allocating *a = p->from;
    const ousac_arch *arch = &a->model->arch;
    ousac_memory_phase(plan, "packing");
    add_held(plan, a, a->runs);
    if (p->whole_set)
        ousac_memory_add(plan, "factors, and as they will be stored",
                         2 * ousac_footprint_factor_set(arch, a->rank_max));
    ousac_memory_add(plan, p->whole_set ? "measuring what rounding adds" : "eigenproblems of the threads",
                     (p->whole_set ? 1 : plan->threads) *
                         ousac_footprint_factorise(arch, a->made_of, p->rank_max, 1));
    ousac_memory_add(plan, "writing", WRITER_BYTES);
    ousac_memory_phase_end(plan);
    if (!p->whole_set)
        plan->macs += ousac_footprint_factorise_macs(arch, a->made_of, p->rank_max);
}

void ousac_memory_list_evaluating(ousac_memory_plan *plan, const ousac_memory_allocating *a,
                                  uint64_t samples) {
    const ousac_arch *arch = &a->model->arch;
    const uint64_t set = ousac_footprint_factor_set(arch, a->rank_max);
    ousac_memory_phase(plan, "evaluating");
    add_held(plan, a, 1);
    ousac_memory_add(plan, "factors", set);
    ousac_memory_add(plan, "factors of the plan, twice", 2 * set);
    add_running(plan, a, samples, OUSAC_EVAL_ARMS + 3); /* fewer steps, fitted ones, a fine run */
    ousac_memory_phase_end(plan);
    plan->macs += 2 * ousac_memory_run_macs(arch, a->schedule, samples, 0) +
                  ousac_memory_run_macs(arch, a->schedule, samples, a->cached_macs);
}
