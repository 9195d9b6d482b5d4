#include "tools/cli/print.h"
#include "tools/show/inspect.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/plan.h"
#include "profile/files/archive.h"
#include "profile/record/profile.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- tables over blocks and sites ---- */

enum { COLUMNS_MAX = 32 };

/* "blocks.3.attn.q" is row 3, column "attn.q"; a name of another form is a column of its own in row SIZE_MAX.
 */
static void split_site(const char *name, size_t *block, const char **column) {
    *block = SIZE_MAX;
    *column = name;
    for (const char *dot = strchr(name, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
        size_t digits = strspn(dot + 1, "0123456789"), number = 0;
        if (digits > 0 && digits < 10 && dot[1 + digits] == '.') {
            for (size_t i = 0; i < digits; i++)
                number = 10 * number + (size_t)(dot[1 + i] - '0');
            *block = number;
            *column = dot + 2 + digits;
            return;
        }
    }
}

typedef struct site_table {
    size_t count;
    const char *const *names; /* (count), the sites of a block one after another */
    const double *values;     /* (count); NAN is shown as "-" */
    int decimals;
} site_table;

static void print_row(size_t block, const double *row, size_t columns, int decimals) {
    if (block == SIZE_MAX)
        cli_printf("%7s", "-");
    else
        cli_printf("%7zu", block);
    for (size_t i = 0; i < columns; i++)
        if (isnan(row[i]))
            cli_printf(" %10s", "-");
        else
            cli_printf(" %10.*f", decimals, row[i]);
    putchar('\n');
}

static void print_site_table(const site_table *table) {
    const char *columns[COLUMNS_MAX];
    double row[COLUMNS_MAX];
    size_t count = 0, current = 0;
    int started = 0;

    for (size_t i = 0; i < table->count; i++) {
        size_t block = 0, place = 0;
        const char *column = NULL;
        split_site(table->names[i], &block, &column);
        while (place < count && strcmp(columns[place], column) != 0)
            place++;
        if (place == count && count < COLUMNS_MAX)
            columns[count++] = column;
    }
    cli_printf("%7s", "block");
    for (size_t i = 0; i < count; i++)
        cli_printf(" %10s", columns[i]);
    putchar('\n');
    for (size_t i = 0; i < table->count; i++) {
        size_t block = 0, place = 0;
        const char *column = NULL;
        split_site(table->names[i], &block, &column);
        if (!started || block != current) {
            if (started)
                print_row(current, row, count, table->decimals);
            for (size_t j = 0; j < count; j++)
                row[j] = NAN;
            current = block;
            started = 1;
        }
        while (place < count && strcmp(columns[place], column) != 0)
            place++;
        if (place < count)
            row[place] = table->values[i];
    }
    if (started)
        print_row(current, row, count, table->decimals);
}

/* ---- parts that several kinds share ---- */

static ousac_status show_schedule(inspection *in, const ousac_schedule *schedule, ousac_error *error) {
    schedule_counts counts;
    char line[DESCRIBE_LINE_BYTES];

    ousac_status status = describe_schedule(schedule, &counts, error);
    if (status)
        return status;
    if (in->common->json) {
        describe_schedule_json(&in->doc, ousac_json_put_object(&in->doc, in->doc.root, "schedule"), schedule,
                               &counts);
    } else {
        describe_schedule_line(line, schedule, &counts);
        cli_printf("schedule  %s%s%s\n          %s\n", schedule->name, schedule->name[0] != '\0' ? ": " : "",
                   line, counts.digest);
    }
    return status;
}

static void show_arch(inspection *in, const ousac_arch *arch, const char *model_digest) {
    char macs[DESCRIBE_BYTES];

    if (in->common->json) {
        cJSON *object = ousac_json_put_object(&in->doc, in->doc.root, "model");
        ousac_json_put_text(&in->doc, object, "digest", model_digest);
        ousac_json_put_text(&in->doc, object, "family", arch->family);
        ousac_json_put_u64(&in->doc, object, "blocks", arch->block_count);
        ousac_json_put_u64(&in->doc, object, "tokens", arch->stream[0].tokens);
        ousac_json_put_u64(&in->doc, object, "width", arch->width);
        ousac_json_put_u64(&in->doc, object, "sites", arch->site_count);
        ousac_json_put_u64(&in->doc, object, "forward_macs", ousac_cost_full(arch));
        return;
    }
    describe_macs(macs, (double)ousac_cost_full(arch));
    cli_printf("model     %s: %zu blocks, %zu tokens, width %zu, %zu sites, %s a forward\n          %s\n",
               arch->family, arch->block_count, arch->stream[0].tokens, arch->width, arch->site_count, macs,
               model_digest);
}

/* `cost` NULL: the shapes are not known. */
static void print_plan(const ousac_plan *plan, const ousac_cost_total *cost) {
    cli_printf("plan      %s, by %s\n", plan->name, plan->method);
    cli_printf("          a cached forward costs %.2f %% of a full one (budget %.2f %%)\n",
               100 * plan->cached_step, 100 * plan->budget);
    if (cost != NULL) {
        char total[DESCRIBE_BYTES], constant[DESCRIBE_BYTES];
        describe_macs(total, (double)cost->schedule_cached);
        describe_macs(constant, (double)cost->constant_guidance);
        cli_printf("          a trajectory costs %s, %.2f %% of constant guidance uncached (%s)\n", total,
                   100 * cost->total, constant);
    }
    if (plan->error_model[0] != '\0') {
        cli_printf("          modelled error %.6g, bound %.6g, gap %.3g%s (%s)\n", plan->modelled_error,
                   plan->bound, plan->gap, plan->exact ? ", proved optimal at this granularity" : "",
                   plan->error_model);
    }
    if (plan->note[0] != '\0')
        cli_printf("          %s\n", plan->note);
}

static ousac_status print_ranks(const ousac_plan *plan, ousac_error *error) {
    const char **names = ousac_calloc(plan->site_count, sizeof *names);
    double *values = ousac_calloc(plan->site_count, sizeof *values);
    ousac_status status = OUSAC_STATUS_OK;

    if (names == NULL || values == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu sites", plan->site_count);
    } else {
        for (size_t i = 0; i < plan->site_count; i++) {
            names[i] = plan->site[i];
            values[i] = (double)plan->rank[i];
        }
        site_table table = {plan->site_count, names, values, 0};
        cli_printf("\nRanks of plan %s:\n", plan->name);
        print_site_table(&table);
    }
    ousac_free(names);
    ousac_free(values);
    return status;
}

static void put_plan(ousac_json_doc *doc, cJSON *object, const ousac_plan *plan,
                     const ousac_cost_total *cost) {
    ousac_json_put_text(doc, object, "name", plan->name);
    ousac_json_put_text(doc, object, "method", plan->method);
    ousac_json_put_text(doc, object, "model_digest", plan->model_digest);
    ousac_json_put_text(doc, object, "profile_digest", plan->profile_digest);
    ousac_json_put_real(doc, object, "cached_step", plan->cached_step);
    ousac_json_put_real(doc, object, "budget", plan->budget);
    if (cost != NULL) {
        ousac_json_put_u64(doc, object, "trajectory_macs", cost->schedule_cached);
        ousac_json_put_u64(doc, object, "constant_guidance_macs", cost->constant_guidance);
        ousac_json_put_real(doc, object, "total", cost->total);
    }
    ousac_json_put_text(doc, object, "error_model", plan->error_model);
    ousac_json_put_real(doc, object, "modelled_error", plan->modelled_error);
    ousac_json_put_real(doc, object, "bound", plan->bound);
    ousac_json_put_real(doc, object, "gap", plan->gap);
    ousac_json_put_bool(doc, object, "exact", plan->exact);
    ousac_json_put_text(doc, object, "note", plan->note);
    cJSON *ranks = ousac_json_put_object(doc, object, "ranks");
    for (size_t i = 0; i < plan->site_count; i++)
        ousac_json_put_u64(doc, ranks, plan->site[i], plan->rank[i]);
}

/* ---- profile ---- */

/* Per site the root of ||y - y_c||^2 over ||y||^2, summed over the evaluations that the schedule leaves
 * cached. */
static ousac_status show_deltas(inspection *in, const ousac_profile *profile, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const ousac_arch *arch = &profile->arch;
    const char **names = ousac_calloc(arch->site_count, sizeof *names);
    double *values = ousac_calloc(arch->site_count, sizeof *values);

    if (names == NULL || values == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu sites", arch->site_count);
        goto done;
    }
    for (size_t site = 0; site < arch->site_count; site++) {
        double y2 = 0, dy2 = 0;
        for (size_t i = 0; i < profile->schedule.step_count * OUSAC_BRANCHES; i++) {
            if (profile->gate[i] > (int)OUSAC_GATE_FULL) {
                y2 += profile->scalar[OUSAC_SCALAR_Y2][i * arch->site_count + site];
                dy2 += profile->scalar[OUSAC_SCALAR_DY2][i * arch->site_count + site];
            }
        }
        names[site] = arch->sites[site].name;
        values[site] = y2 > 0 ? sqrt(dy2 / y2) : NAN;
    }
    if (in->common->json) {
        cJSON *object = ousac_json_put_object(&in->doc, in->doc.root, "relative_delta");
        for (size_t site = 0; site < arch->site_count; site++)
            ousac_json_put_real(&in->doc, object, names[site], values[site]);
    } else {
        site_table table = {arch->site_count, names, values, 4};
        puts("\nRelative delta of each site's output, ||y - y_c|| / ||y|| over cached steps:");
        print_site_table(&table);
    }
done:
    ousac_free(names);
    ousac_free(values);
    return status;
}

ousac_status inspect_profile(inspection *in, ousac_error *error) {
    ousac_profile *profile = NULL;
    oca_file *file = NULL;
    char digest[OUSAC_DIGEST_CHARS], ranges[DESCRIBE_LINE_BYTES];

    ousac_status status = ousac_profile_open(&profile, in->path, error);
    if (!status)
        status = ousac_archive_open_any(&file, in->path, error);
    if (status)
        goto done;
    const ousac_profile_identity *identity = &profile->identity;
    const char *run = oca_metadata(file, "run");
    ousac_profile_digest(profile, digest);
    show_arch(in, &profile->arch, identity->model_digest);
    status = show_schedule(in, &profile->schedule, error);
    if (status)
        goto done;
    if (in->common->json) {
        ousac_json_put_text(&in->doc, in->doc.root, "digest", digest);
        ousac_json_put_text(&in->doc, in->doc.root, "weights_digest", identity->weights_digest);
        ousac_json_put_u64(&in->doc, in->doc.root, "seed", identity->seed);
        ousac_json_put_u64(&in->doc, in->doc.root, "micro_batch", identity->micro_batch);
        ousac_json_put_u64(&in->doc, in->doc.root, "tokens_used", identity->tokens_used);
        ousac_json_put_u64(&in->doc, in->doc.root, "segments", identity->segments);
        ousac_json_put_bool(&in->doc, in->doc.root, "moments", profile->moment != NULL);
        ousac_json_put_u64(&in->doc, in->doc.root, "samples", ousac_profile_samples(profile));
        cJSON *array = ousac_json_put_array(&in->doc, in->doc.root, "ranges");
        for (size_t i = 0; i < profile->range_count; i++) {
            cJSON *pair = ousac_json_put_array(&in->doc, array, NULL);
            ousac_json_put_u64(&in->doc, pair, NULL, profile->ranges[i].first);
            ousac_json_put_u64(&in->doc, pair, NULL, profile->ranges[i].first + profile->ranges[i].count);
        }
        if (run != NULL)
            ousac_json_put_parsed(&in->doc, in->doc.root, "run", run);
    } else {
        describe_ranges(ranges, profile->ranges, profile->range_count);
        cli_printf("samples   %" PRIu64 " (%s), seed %" PRIu64 ", micro-batch %zu\n",
                   ousac_profile_samples(profile), ranges, identity->seed, identity->micro_batch);
        if (profile->moment != NULL) {
            cli_printf("moments   of %zu groups, %zu segment%s, %zu of %zu tokens\n",
                       profile->arch.group_count, identity->segments, identity->segments == 1 ? "" : "s",
                       identity->tokens_used, profile->arch.stream[0].tokens);
        } else {
            puts("moments   none: a pilot, recorded for step weights");
        }
        cli_printf("weights   %s\ndigest    %s\n", identity->weights_digest, digest);
        if (run != NULL)
            cli_printf("run       %s\n", run);
    }
    status = show_deltas(in, profile, error);
    if (!status && in->tensors)
        status = inspect_tensors(in, error);
done:
    oca_close(file);
    ousac_profile_free(profile);
    return status;
}

/* ---- plan and bundle ---- */

ousac_status inspect_plan(inspection *in, ousac_error *error) {
    ousac_plan *plan = NULL;
    ousac_status status = ousac_plan_load(&plan, in->path, error);

    if (status)
        return status;
    if (in->common->json) {
        put_plan(&in->doc, ousac_json_put_object(&in->doc, in->doc.root, "plan"), plan, NULL);
    } else {
        print_plan(plan, NULL);
        cli_printf("model     %s\nprofile   %s\n", plan->model_digest, plan->profile_digest);
        status = print_ranks(plan, error);
    }
    if (!status && in->tensors)
        status = inspect_tensors(in, error);
    ousac_plan_free(plan);
    return status;
}

static ousac_status show_plans(inspection *in, const ousac_bundle *bundle, const ousac_arch *arch,
                               ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    cJSON *array = in->common->json ? ousac_json_put_array(&in->doc, in->doc.root, "plans") : NULL;

    for (size_t i = 0; !status && i < ousac_bundle_plan_count(bundle); i++) {
        const ousac_plan *plan = ousac_bundle_plan(bundle, i);
        ousac_ranks ranks = ousac_plan_ranks(plan);
        ousac_cost_total cost;
        status = ousac_cost_trajectory(arch, ousac_bundle_schedule(bundle), &ranks, &cost, error);
        if (!status && in->common->json)
            put_plan(&in->doc, ousac_json_put_object(&in->doc, array, NULL), plan, &cost);
        else if (!status)
            print_plan(plan, &cost);
    }
    for (size_t i = 0; !status && !in->common->json && i < ousac_bundle_plan_count(bundle); i++)
        status = print_ranks(ousac_bundle_plan(bundle, i), error);
    return status;
}

ousac_status inspect_bundle(inspection *in, ousac_error *error) {
    ousac_bundle *bundle = NULL;
    oca_file *file = NULL;

    ousac_status status = ousac_bundle_open(&bundle, in->path, error);
    if (!status)
        status = ousac_archive_open_any(&file, in->path, error);
    if (status)
        goto done;
    const char *provenance = oca_metadata(file, "provenance");
    const ousac_arch *arch = ousac_bundle_arch(bundle);
    show_arch(in, arch, ousac_bundle_model_digest(bundle));
    status = show_schedule(in, ousac_bundle_schedule(bundle), error);
    if (!status && provenance != NULL) {
        if (in->common->json)
            ousac_json_put_parsed(&in->doc, in->doc.root, "provenance", provenance);
        else
            cli_printf("made      %s\n", provenance);
    }
    if (!status)
        status = inspect_storage(in, file, arch, error);
    if (!status)
        status = show_plans(in, bundle, arch, error);
    if (!status && in->tensors)
        status = inspect_tensors(in, error);
done:
    oca_close(file);
    ousac_bundle_close(bundle);
    return status;
}
