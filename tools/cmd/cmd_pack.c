#include "calib/cost.h"
#include "formats/exchange.h"
#include "pipeline/memory_stages.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cmd/commands.h"
#include "tools/show/show.h"

#include "formats/memory.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct pack_request {
    ousac_session_model model;
    const char *profile, *output;
    const char *plan;
    char **more; /* further plans */
    size_t more_count;
    options_storage storage;
    ousac_method made_of;
    int keep_all, force;
    ousac_memory_options memory;
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
                           size_t count, ousac_json_doc *doc, ousac_error *error) {
    struct stat info;
    cJSON *list = NULL;

    if (stat(request->output, &info) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: written, but cannot be read", request->output);
    if (!common->json) {
        cli_printf("%s: %zu plan%s, factors in %s (%s), %.1f kB, verified\n", request->output, count,
                   count == 1 ? "" : "s", options_dtype_name(&request->storage),
                   ousac_oca_codec_name(request->storage.codec), 1e-3 * (double)info.st_size);
        for (size_t i = 0; i < count; i++)
            cli_printf("  %-16s %-10s cached step %.3f %%; %s\n", plans[i]->name, plans[i]->method,
                       100 * plans[i]->cached_step, plans[i]->note);
        return OUSAC_STATUS_OK;
    }
    ousac_json_put_text(doc, doc->root, "file", request->output);
    ousac_json_put_u64(doc, doc->root, "bytes", (uint64_t)info.st_size);
    ousac_json_put_text(doc, doc->root, "dtype", options_dtype_name(&request->storage));
    ousac_json_put_text(doc, doc->root, "codec", ousac_oca_codec_name(request->storage.codec));
    ousac_json_put_text(doc, doc->root, "factors", ousac_method_name(request->made_of));
    ousac_json_put_bool(doc, doc->root, "verified", 1);
    list = ousac_json_put_array(doc, doc->root, "plans");
    for (size_t i = 0; i < count; i++) {
        cJSON *item = ousac_json_put_object(doc, list, NULL);
        ousac_json_put_text(doc, item, "name", plans[i]->name);
        ousac_json_put_text(doc, item, "method", plans[i]->method);
        ousac_json_put_real(doc, item, "cached_step", plans[i]->cached_step);
        ousac_json_put_text(doc, item, "note", plans[i]->note);
    }
    return cli_json_print(doc, error);
}

/* An ousac_memory_list; self is an ousac_memory_packing. */
static void list_phases(const void *self, ousac_memory_plan *plan) {
    ousac_memory_list_packing(plan, self);
}

/* How much memory it will take, and with how many threads; *done is 1 where that was all that was asked. */
static ousac_status plan_memory(cli_common *common, const pack_request *request, const ousac_profile *profile,
                                ousac_plan *const *plans, size_t count, int *done, ousac_error *error) {
    const ousac_arch *arch = &profile->arch;
    ousac_session_model shapes = request->model;
    ousac_memory_allocating from = {.schedule = &profile->schedule, .made_of = request->made_of};
    ousac_memory_packing packing = {.from = &from};
    ousac_memory_plan plan;
    ousac_model *model = NULL;
    size_t *rank_max = NULL;
    int wanted = 0;
    ousac_status status = ousac_memory_parse(&request->memory, &plan, &wanted, error);
    if (status || !wanted)
        return status;
    shapes.use = OUSAC_MODEL_SHAPES;
    status = cli_load_model(&model, &shapes, error);
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
    status = ousac_memory_fit(&plan, common->threads, 0, 0, list_phases, &packing, error);
    if (status)
        goto done;
    common->threads = plan.threads;
    *done = request->memory.dry_run;
    ousac_memory_file(&plan, request->output);
    if (*done)
        status = memory_print(&plan, common, "pack", NULL, error);
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
    ousac_used_ranges pilots;
    ousac_json_doc doc;
    ousac_status status = OUSAC_STATUS_OK;

    ousac_json_begin(&doc);
    plans = ousac_calloc(count, sizeof *plans);
    if (!plans) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu plans", count);
        goto done;
    }
    status = ousac_profile_open(&profile, request->profile, error);
    if (!status)
        status = ousac_run_text_read_pilots(request->profile, &pilots, error);
    if (!status)
        status = load_plans(common, request, profile, &profile->arch, plans, count, error);
    if (!status)
        status = plan_memory(common, request, profile, plans, count, &done, error);
    if (status || done)
        goto done;
    status = cli_load_model(&model, &request->model, error);
    if (status)
        goto done;
    const ousac_session session =
        cli_session(common, model, profile->identity.seed, profile->identity.micro_batch);
    const ousac_pack_storage storage = options_pack_storage(&request->storage);
    status = ousac_pack_stream(request->output, &session, profile, &pilots, request->made_of,
                               (const ousac_plan *const *)plans, count, &storage, request->keep_all, error);
    if (!status)
        status = report(common, request, plans, count, &doc, error);
done:
    ousac_json_end(&doc);
    for (size_t i = 0; plans && i < count; i++)
        ousac_plan_free(plans[i]);
    ousac_free(plans);
    ousac_profile_free(profile);
    ousac_model_free(model);
    return status;
}

#define AT(member) offsetof(pack_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"profile", 'p', CLI_INPUT, AT(profile), "FILE", CLI_REQUIRED,
     "profile that the plans were made from (.oca)", 0, 0},
    {"plan", 0, CLI_INPUT, AT(plan), "FILE", NULL,
     "plan (.oca); further plans as arguments", 0, 0},
    OPTIONS_STORAGE(AT(storage)),
    OPTIONS_FACTORS(AT(made_of)),
    {"keep-all", 0, CLI_FLAG, AT(keep_all), NULL, NULL,
     "store every direction below the dense rank, for plans to come", 0, 0},
    {"force", 0, CLI_FLAG, AT(force), NULL, NULL,
     "take plans of another profile of the same sites", 0, 0},
    OPTIONS_MEMORY(AT(memory)),
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "bundle to write (.oca)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    pack_request *request = values;
    request->more = call->files;
    request->more_count = call->file_count;
    request->model.use = OUSAC_MODEL_FACTORS;
    if (call->file_count == 0 && !request->plan)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "expected at least one plan, by --plan or as an argument");
    return execute(&call->common, request, error);
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
    .options = options,
    .request_size = sizeof(pack_request),
    .arguments_least = 0,
    .arguments_most = SIZE_MAX,
    .expects = "expects plans",
    .run = run,
};
