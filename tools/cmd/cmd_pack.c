#include "calib/cost.h"
#include "pipeline/memory_stages.h"
#include "pipeline/pipeline.h"
#include "tools/cmd/commands.h"

#include "formats/memory.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct pack_request {
    pipeline_model_options model;
    const char *profile, *factors, *output;
    const char *plan;
    char **more; /* further plans */
    size_t more_count;
    pipeline_storage storage;
    ousac_method made_of;
    int keep_all, force;
    memory_options memory;
} pack_request;

/* The plans of a bundle, checked to be of the profile. */
static ousac_status load_plans(const cli_common *common, const pack_request *request,
                               const ousac_profile *profile, const ousac_arch *arch, ousac_plan **plans,
                               size_t count, ousac_error *error) {
    const size_t named = request->plan != NULL;
    char digest[OUSAC_DIGEST_CHARS];
    ousac_status status = OUSAC_STATUS_OK;

    ousac_profile_digest(profile, digest);
    for (size_t i = 0; !status && i < count; i++) {
        const char *path = i < named ? request->plan : request->more[i - named];
        status = ousac_plan_load(&plans[i], path, error);
        if (!status)
            status = ousac_plan_check(plans[i], arch, path, error);
        if (!status && strcmp(plans[i]->profile_digest, digest) != 0) {
            if (request->force)
                cli_note(common, "warning: %s was not allocated from %s", path, request->profile);
            else
                status = OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH,
                                    "%s: not allocated from %s; expected a plan of this profile, or --force",
                                    path, request->profile);
        }
    }
    return status;
}

static ousac_status report(const cli_common *common, const pack_request *request, ousac_plan *const *plans,
                           size_t count, json_doc *doc, ousac_error *error) {
    struct stat info;
    cJSON *list = NULL;

    if (stat(request->output, &info) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: written, but cannot be read", request->output);
    if (!common->json) {
        printf("%s: %zu plan%s, factors in %s (%s), %.1f kB, verified\n", request->output, count,
               count == 1 ? "" : "s", request->storage.dtype_name, request->storage.codec_name,
               1e-3 * (double)info.st_size);
        for (size_t i = 0; i < count; i++)
            printf("  %-16s %-10s cached step %.3f %%; %s\n", plans[i]->name, plans[i]->method,
                   100 * plans[i]->cached_step, plans[i]->note);
        return OUSAC_STATUS_OK;
    }
    json_put_text(doc, doc->root, "file", request->output);
    json_put_u64(doc, doc->root, "bytes", (uint64_t)info.st_size);
    json_put_text(doc, doc->root, "dtype", request->storage.dtype_name);
    json_put_text(doc, doc->root, "codec", request->storage.codec_name);
    json_put_text(doc, doc->root, "factors", ousac_method_name(request->made_of));
    json_put_bool(doc, doc->root, "verified", 1);
    list = json_put_array(doc, doc->root, "plans");
    for (size_t i = 0; i < count; i++) {
        cJSON *item = json_put_object(doc, list, NULL);
        json_put_text(doc, item, "name", plans[i]->name);
        json_put_text(doc, item, "method", plans[i]->method);
        json_put_real(doc, item, "cached_step", plans[i]->cached_step);
        json_put_text(doc, item, "note", plans[i]->note);
    }
    return json_print(doc, error);
}

/* A memory_list; self is a memory_packing. */
static void list_phases(const void *self, memory_plan *plan) {
    memory_list_packing(plan, self);
}

/* How much memory it will take, and with how many threads; *done is 1 where that was all that was asked. */
static ousac_status plan_memory(cli_common *common, const pack_request *request, const ousac_profile *profile,
                                ousac_plan *const *plans, size_t count, int *done, ousac_error *error) {
    const ousac_arch *arch = &profile->arch;
    pipeline_model_options shapes = request->model;
    memory_allocating from = {.schedule = &profile->schedule, .made_of = request->made_of};
    memory_packing packing = {.from = &from};
    memory_plan plan;
    ousac_model *model = NULL;
    size_t *rank_max = NULL;
    int wanted = 0;
    ousac_status status = memory_parse(&request->memory, &plan, &wanted, error);
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = pipeline_load_model(&model, &shapes, error);
    if (status)
        goto done;
    rank_max = ousac_calloc(arch->site_count, sizeof *rank_max);
    if (!rank_max) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the ranks of %zu sites",
                            arch->site_count);
        goto done;
    }
    for (size_t i = 0; i < count; i++)
        for (size_t s = 0; s < arch->site_count; s++)
            if (plans[i]->rank[s] > rank_max[s] && plans[i]->rank[s] < ousac_cost_dense_rank(&arch->sites[s]))
                rank_max[s] = plans[i]->rank[s];
    from.model = model;
    packing.rank_max = request->keep_all ? NULL : rank_max;
    status = memory_fit(&plan, common, 0, 0, list_phases, &packing, error);
    if (status)
        goto done;
    common->threads = plan.threads;
    *done = request->memory.dry_run;
    memory_file(&plan, request->output);
    if (*done)
        status = memory_print(&plan, common, "pack", error);
done:
    ousac_free(rank_max);
    ousac_model_free(model);
    return status;
}

static ousac_status execute(cli_common *common, const pack_request *request, ousac_error *error) {
    int done = 0;
    const size_t count = request->more_count + (request->plan != NULL);
    ousac_model *model = NULL;
    ousac_profile *profile = NULL;
    ousac_plan **plans = NULL;
    pipeline_ranges pilots;
    json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    json_begin(&doc);
    plans = ousac_calloc(count, sizeof *plans);
    if (!plans) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu plans", count);
        goto done;
    }
    status = ousac_profile_open(&profile, request->profile, error);
    if (!status)
        status = pipeline_read_pilots(request->profile, &pilots, error);
    if (!status)
        status = load_plans(common, request, profile, &profile->arch, plans, count, error);
    if (!status)
        status = plan_memory(common, request, profile, plans, count, &done, error);
    if (status || done)
        goto done;
    status = pipeline_load_model(&model, &request->model, error);
    if (status)
        goto done;
    const pipeline_runs runs = {common, model, profile->identity.seed, profile->identity.micro_batch};
    status = pipeline_pack_stream(request->output, &runs, profile, &pilots, request->made_of,
                                  (const ousac_plan *const *)plans, count, &request->storage,
                                  request->keep_all, error);
    if (!status)
        status = report(common, request, plans, count, &doc, error);
done:
    json_end(&doc);
    for (size_t i = 0; plans && i < count; i++)
        ousac_plan_free(plans[i]);
    ousac_free(plans);
    ousac_profile_free(profile);
    ousac_model_free(model);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    pack_request request = {.model = {.use = OUSAC_MODEL_FACTORS}, .factors = "delta-cov"};
    const cli_option options[] = {
        PIPELINE_MODEL_OPTIONS(&request.model),
        PIPELINE_DEVICE_OPTION(&request.model.device),
        {"profile", 'p', CLI_TEXT, &request.profile, 0, 0, 1, "FILE",
         "profile that the plans were made from (.oca)"},
        {"plan", 0, CLI_TEXT, &request.plan, 0, 0, 0, "FILE", "plan (.oca); further plans as arguments"},
        PIPELINE_STORAGE_OPTIONS(&request.storage),
        PIPELINE_FACTORS_OPTION(&request.factors),
        {"keep-all", 0, CLI_FLAG, &request.keep_all, 0, 0, 0, NULL,
         "store every direction below the dense rank, for plans to come"},
        {"force", 0, CLI_FLAG, &request.force, 0, 0, 0, NULL,
         "take plans of another profile of the same sites"},
        MEMORY_OPTIONS(&request.memory),
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 1, "FILE", "bundle to write (.oca)"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (!status && !done) {
        request.more = argv + 1;
        request.more_count = positionals;
        if (positionals == 0 && !request.plan)
            status = OUSAC_FAIL(&error, OUSAC_STATUS_USAGE,
                                "expected at least one plan, by --plan or as an argument");
    }
    if (!status && !done)
        status = pipeline_storage_parse(&request.storage, &error);
    if (!status && !done)
        status = pipeline_factors_parse(&request.made_of, request.factors, &error);
    if (!status && !done)
        status = pipeline_check_output(request.output, &error);
    if (!status && !done) {
        cli_catch_signals();
        status = execute(&common, &request, &error);
    }
    return status ? cli_report_error(command, &common, &error) : EXIT_OK;
}

const cli_command command_pack = {
    .name = "pack",
    .summary = "write the bundle: factors, plans, schedule, identity",
    .arguments = "[PLAN...]",
    .details =
        "Makes the factors of every layer from the profile and writes them with the plans into one file, "
        "together "
        "with the schedule, the identity of the model and the samples that were used. Factors are nested: "
        "one "
        "bundle serves every plan in it. The file is opened again and all of it verified before it gets its "
        "name.",
    .example = "build/ousac pack --model data/shapes-dit/model.safetensors \\\n"
               "    --profile build/demo/profile.oca --plan build/demo/plan.oca \\\n"
               "    --dtype bf16 -o build/demo/bundle-bf16.oca\n"
               "build/ousac verify build/demo/bundle-bf16.oca",
    .run = run,
};
