#include "pipeline/evaluation.h"

#include "profile/record/ranges.h"
#include "tools/cli/print.h"
#include "tools/show/show.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* Signed difference of two costs over the reference. */
static double saving(const ousac_eval *result, uint64_t from, uint64_t to) {
    return ((double)from - (double)to) / (double)result->reference_macs;
}

static uint64_t forwards(const ousac_counters *counters) {
    uint64_t sum = 0;
    for (int gate = 0; gate < OUSAC_GATES_RUN; gate++)
        sum += counters->forwards[gate];
    return sum;
}

/* Branch evaluations that did not run full. */
static double evaluation_reuse(const ousac_counters *counters) {
    const uint64_t all = forwards(counters);
    return all ? (double)(all - counters->forwards[OUSAC_GATE_FULL]) / (double)all : 0.0;
}

/* Site evaluations that were not exact products. */
static double site_reuse(const ousac_counters *counters) {
    const uint64_t cheap = counters->site_low_rank + counters->site_frozen + counters->site_skipped;
    const uint64_t all = cheap + counters->site_full + counters->site_dense;
    return all ? (double)cheap / (double)all : 0.0;
}

/* --- text --- */

static void print_interval(const ousac_interval *interval, int digits) {
    char text[OUSAC_INTERVAL_BYTES];
    cli_printf("  %8.*f %s", digits, interval->mean,
               ousac_interval_text(interval, digits == 4 ? "%.4f" : "%.2f", text));
}

static void print_errors(const ousac_eval *result) {
    cli_printf("\n%-30s  %-26s  %s\n", "final sample", "relative error [95 %]", "PSNR, dB [95 %]");
    for (size_t i = 0; i < OUSAC_EVAL_PAIRS; i++) {
        const ousac_eval_pair *pair = &result->pair[i];
        char label[64];
        /* Where both are the same run, comparing with it again says nothing. */
        if (pair->against == OUSAC_EVAL_REFERENCE && result->reference_same)
            continue;
        (void)snprintf(label, sizeof label, "%s against %s", ousac_eval_arm_name(pair->arm),
                       ousac_eval_arm_name(pair->against));
        cli_printf("%-30s", label);
        print_interval(&pair->difference.relative_error, 4);
        cli_printf("  ");
        print_interval(&pair->difference.psnr_db, 2);
        cli_printf("\n");
    }
}

static void print_cost(const ousac_eval *result, const char *label, double macs, int is_change) {
    cli_printf(is_change ? "%-40s %+12.3f %+8.2f %%\n" : "%-40s %12.3f %8.2f %%\n", label, 1e-9 * macs,
               100 * macs / (double)result->reference_macs);
}

static void print_costs(const ousac_eval *result) {
    const ousac_cost_total *cost = &result->cost;
    const double reference = (double)result->reference_macs, full = (double)cost->schedule_full;
    const double reuse = (double)cost->schedule_reuse, cached = (double)cost->schedule_cached;
    cli_printf("\n%-40s %12s %10s\n", "cost of a sample, blocks only", "GMAC", "share");
    print_cost(result, "reference, uncached", reference, 0);
    print_cost(result, "  guidance and steps", full - reference, 1);
    print_cost(result, "  caching", reuse - full, 1);
    print_cost(result, "  calibration", cached - reuse, 1);
    print_cost(result, "calibrated", cached, 0);
    cli_printf("a cached evaluation costs %.2f %% of a full one; executed and modelled MACs agree\n",
               100 * cost->cached_step);
}

static void print_times(const ousac_eval *result) {
    const double count = (double)result->range.count;
    const double reference = result->run[OUSAC_EVAL_REFERENCE].seconds;
    cli_printf("\n%-12s %10s %12s %14s %14s %14s %14s\n", "run", "wall, s", "ms a sample", "of reference",
               "MACs of it", "cached evals", "cached sites");
    for (int arm = OUSAC_EVAL_ARMS - 1; arm >= 0; arm--) {
        const ousac_eval_run *run = &result->run[arm];
        if (arm == OUSAC_EVAL_REFERENCE && result->reference_same)
            continue;
        cli_printf("%-12s %10.3f %12.2f %12.1f %% %12.1f %% %12.1f %% %12.1f %%\n",
                   ousac_eval_arm_name((ousac_eval_arm)arm), run->seconds, 1e3 * run->seconds / count,
                   100 * run->seconds / reference,
                   100 * (double)run->counters.macs / ((double)result->reference_macs * count),
                   100 * evaluation_reuse(&run->counters), 100 * site_reuse(&run->counters));
    }
    cli_printf("(one run each, %zu thread%s)\n", result->threads, result->threads == 1 ? "" : "s");
}

/* What a user asks first. */
void headline_print(const ousac_headline *headline) {
    cli_printf("\n%-14s %6s %9s %9s   %-31s %10s %10s\n", "against it", "steps", "MACs, %", "time, %",
               "relative error, 95 % interval", "median", "worst");
    for (size_t i = 0; i < headline->count; i++) {
        const ousac_headline_row *row = &headline->row[i];
        cli_printf("%-14s %6zu %9.2f %9.1f   %-10.4g [%.4g, %.4g] %10.4g %10.4g\n", row->method, row->steps,
                   100 * row->macs_share, 100 * row->seconds_share, row->error.mean, row->error.low,
                   row->error.high, row->median, row->worst);
    }
}

void fine_print(const ousac_fine *fine) {
    const ousac_headline *headline = &fine->headline;
    if (!fine->steps)
        return;
    cli_printf("\n%-14s %6s %9s   %-31s %10s %10s\n", "against", "steps", "MACs, %",
               "relative error, 95 % interval", "median", "worst");
    cli_printf("%-14s %6zu %9.2f   (the reference's solver and guidance)\n", "a fine run", fine->steps,
               100 * fine->macs_share);
    for (size_t i = 0; i < headline->count; i++) {
        const ousac_headline_row *row = &headline->row[i];
        cli_printf("%-14s %6zu %9.2f   %-10.4g [%.4g, %.4g] %10.4g %10.4g\n", row->method, row->steps,
                   100 * row->macs_share, row->error.mean, row->error.low, row->error.high, row->median,
                   row->worst);
    }
}

void evaluation_print(const ousac_eval *result) {
    cli_printf("samples %" PRIu64 ":%" PRIu64 ", seed %" PRIu64 "%s; %zu steps of \"%s\"; plan \"%s\" (%s)\n",
               result->range.first, result->range.first + result->range.count, result->seed,
               result->held_out ? ", held out" : ", NOT known to be held out", result->steps,
               result->schedule_name, result->plan_name, result->plan_method);
    cli_printf("reference: %s%s\n", result->reference_name,
               result->reference_same ? " (the schedule itself, uncached: the exact run)" : ", uncached");
    headline_print(&result->headline);
    fine_print(&result->fine);
    print_errors(result);
    print_costs(result);
    print_times(result);
}

/* --- JSON --- */

static void put_interval(ousac_json_doc *doc, cJSON *object, const char *key,
                         const ousac_interval *interval) {
    cJSON *item = ousac_json_put_object(doc, object, key);
    ousac_json_put_real(doc, item, "mean", interval->mean);
    ousac_json_put_real(doc, item, "low", interval->low);
    ousac_json_put_real(doc, item, "high", interval->high);
}

static void put_run(ousac_json_doc *doc, cJSON *runs, const ousac_eval *result, ousac_eval_arm arm) {
    const ousac_eval_run *run = &result->run[arm];
    const ousac_counters *counters = &run->counters;
    cJSON *item = ousac_json_put_object(doc, runs, ousac_eval_arm_name(arm));
    cJSON *sites = NULL, *evaluations = NULL;

    ousac_json_put_real(doc, item, "wall_s", run->seconds);
    ousac_json_put_real(doc, item, "wall_ratio", run->seconds / result->run[OUSAC_EVAL_REFERENCE].seconds);
    ousac_json_put_u64(doc, item, "macs", counters->macs);
    ousac_json_put_u64(doc, item, "macs_modelled", run->model_macs);
    ousac_json_put_real(doc, item, "macs_ratio",
                        (double)counters->macs /
                            ((double)result->reference_macs * (double)result->range.count));
    evaluations = ousac_json_put_object(doc, item, "evaluations");
    ousac_json_put_u64(doc, evaluations, "full", counters->forwards[OUSAC_GATE_FULL]);
    ousac_json_put_u64(doc, evaluations, "cached", counters->forwards[OUSAC_GATE_CACHED]);
    ousac_json_put_u64(doc, evaluations, "reuse", counters->forwards[OUSAC_GATE_REUSE]);
    ousac_json_put_u64(doc, evaluations, "extrapolate", counters->forwards[OUSAC_GATE_EXTRAPOLATE]);
    sites = ousac_json_put_object(doc, item, "sites");
    ousac_json_put_u64(doc, sites, "full", counters->site_full);
    ousac_json_put_u64(doc, sites, "low_rank", counters->site_low_rank);
    ousac_json_put_u64(doc, sites, "dense", counters->site_dense);
    ousac_json_put_u64(doc, sites, "frozen", counters->site_frozen);
    ousac_json_put_u64(doc, sites, "skipped", counters->site_skipped);
    ousac_json_put_real(doc, item, "evaluation_reuse_rate", evaluation_reuse(counters));
    ousac_json_put_real(doc, item, "site_reuse_rate", site_reuse(counters));
}

static void put_costs(ousac_json_doc *doc, cJSON *root, const ousac_eval *result) {
    const ousac_cost_total *cost = &result->cost;
    cJSON *macs = ousac_json_put_object(doc, root, "macs_per_sample");
    cJSON *shares = ousac_json_put_object(doc, root, "shares");

    ousac_json_put_u64(doc, macs, "reference", result->reference_macs);
    ousac_json_put_u64(doc, macs, "constant_guidance", cost->constant_guidance);
    ousac_json_put_u64(doc, macs, "schedule_full", cost->schedule_full);
    ousac_json_put_u64(doc, macs, "schedule_reuse", cost->schedule_reuse);
    ousac_json_put_u64(doc, macs, "schedule_cached", cost->schedule_cached);
    ousac_json_put_real(doc, shares, "reference", 1.0);
    ousac_json_put_real(doc, shares, "guidance_saving",
                        saving(result, result->reference_macs, cost->schedule_full));
    ousac_json_put_real(doc, shares, "caching_saving",
                        saving(result, cost->schedule_full, cost->schedule_reuse));
    ousac_json_put_real(doc, shares, "calibration_overhead",
                        saving(result, cost->schedule_cached, cost->schedule_reuse));
    ousac_json_put_real(doc, shares, "total", (double)cost->schedule_cached / (double)result->reference_macs);
    ousac_json_put_real(doc, root, "cached_step", cost->cached_step);
}

static void put_rows(ousac_json_doc *doc, cJSON *list, const ousac_headline *headline) {
    for (size_t i = 0; i < headline->count; i++) {
        const ousac_headline_row *row = &headline->row[i];
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_text(doc, item, "method", row->method);
        ousac_json_put_u64(doc, item, "steps", row->steps);
        ousac_json_put_real(doc, item, "macs_share", row->macs_share);
        ousac_json_put_real(doc, item, "seconds_share", row->seconds_share);
        ousac_json_put_real(doc, item, "error", row->error.mean);
        ousac_json_put_real(doc, item, "low", row->error.low);
        ousac_json_put_real(doc, item, "high", row->error.high);
        ousac_json_put_real(doc, item, "median", row->median);
        ousac_json_put_real(doc, item, "worst", row->worst);
        if (!isnan(row->ratio.mean))
            put_interval(doc, item, "ratio", &row->ratio);
    }
}

void headline_put(ousac_json_doc *doc, cJSON *root, const ousac_headline *headline) {
    put_rows(doc, ousac_json_put_array(doc, root, "headline"), headline);
}

void fine_put(ousac_json_doc *doc, cJSON *root, const ousac_fine *fine) {
    if (!fine->steps)
        return;
    cJSON *object = ousac_json_put_object(doc, root, "fine");
    ousac_json_put_u64(doc, object, "steps", fine->steps);
    ousac_json_put_real(doc, object, "macs_share", fine->macs_share);
    ousac_json_put_real(doc, object, "wall_s", fine->seconds);
    put_rows(doc, ousac_json_put_array(doc, object, "rows"), &fine->headline);
}

void evaluation_put(ousac_json_doc *doc, cJSON *root, const ousac_eval *result) {
    cJSON *schedule = NULL, *reference = NULL, *plan = NULL, *list = NULL;

    ousac_json_put_text(doc, root, "kind", "ousac evaluation");
    ousac_json_put_real(doc, root, "version", 1);
    ousac_range_put(doc, root, "samples", result->range.first, result->range.count);
    ousac_json_put_u64(doc, root, "seed", result->seed);
    ousac_json_put_bool(doc, root, "held_out", result->held_out);
    ousac_json_put_u64(doc, root, "micro_batch", result->micro_batch);
    ousac_json_put_u64(doc, root, "threads", result->threads);
    ousac_json_put_text(doc, root, "model_digest", result->model_digest);
    schedule = ousac_json_put_object(doc, root, "schedule");
    ousac_json_put_text(doc, schedule, "name", result->schedule_name);
    ousac_json_put_text(doc, schedule, "digest", result->schedule_digest);
    ousac_json_put_u64(doc, schedule, "steps", result->steps);
    reference = ousac_json_put_object(doc, root, "reference");
    ousac_json_put_text(doc, reference, "name", result->reference_name);
    ousac_json_put_text(doc, reference, "digest", result->reference_digest);
    ousac_json_put_u64(doc, reference, "steps", result->reference_steps);
    ousac_json_put_bool(doc, reference, "same_as_exact", result->reference_same);
    if (result->reference_scale != 0)
        ousac_json_put_real(doc, reference, "scale", result->reference_scale);
    plan = ousac_json_put_object(doc, root, "plan");
    ousac_json_put_text(doc, plan, "name", result->plan_name);
    ousac_json_put_text(doc, plan, "method", result->plan_method);
    ousac_json_put_text(doc, plan, "note", result->note);

    headline_put(doc, root, &result->headline);
    fine_put(doc, root, &result->fine);
    list = ousac_json_put_array(doc, root, "errors");
    for (size_t i = 0; i < OUSAC_EVAL_PAIRS; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_text(doc, item, "run", ousac_eval_arm_name(result->pair[i].arm));
        ousac_json_put_text(doc, item, "against", ousac_eval_arm_name(result->pair[i].against));
        put_interval(doc, item, "relative_error", &result->pair[i].difference.relative_error);
        put_interval(doc, item, "psnr_db", &result->pair[i].difference.psnr_db);
    }
    put_costs(doc, root, result);
    list = ousac_json_put_object(doc, root, "runs");
    for (int arm = 0; arm < OUSAC_EVAL_ARMS; arm++)
        put_run(doc, list, result, (ousac_eval_arm)arm);
}

ousac_status evaluation_save(const ousac_eval *result, const char *path, ousac_error *error) {
    ousac_json_doc doc;
    ousac_json_begin(&doc);
    evaluation_put(&doc, doc.root, result);
    const ousac_status status = ousac_json_save(&doc, path, error);
    ousac_json_end(&doc);
    return status;
}
