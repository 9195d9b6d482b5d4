#include "tools/cli/files.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/exchange.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "pipeline/export_config.h"
#include "pipeline/export_icc.h"
#include "pipeline/export_sdcpp.h"
#include "tools/cli/describe.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The name under which ICC's generator saves, and its sampler expects, a file of factors. */
static const char ICC_NAME[] = "0000000.pt";

typedef struct export_request {
    int safetensors, icc, sdcpp;
    const char *input, *output;
    ousac_export_icc_request factors;
} export_request;

static ousac_status report_size(const char *path, char text[DESCRIBE_BYTES], uint64_t *bytes,
                                ousac_error *error) {
    struct stat info;
    if (stat(path, &info) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: written, but cannot be read", path);
    *bytes = (uint64_t)info.st_size;
    describe_bytes(text, *bytes);
    return OUSAC_STATUS_OK;
}

static ousac_status run_safetensors(const cli_common *common, const export_request *request,
                                    ousac_json_doc *doc, ousac_error *error) {
    char size[DESCRIBE_BYTES];
    uint64_t bytes = 0;
    char *config = NULL;
    ousac_exchange_counts counts = {0};
    ousac_status status = ousac_export_config(request->input, &config, error);
    if (!status)
        status = ousac_export_safetensors(request->input, request->output, config, &counts, error);
    ousac_free(config);
    if (!status)
        status = report_size(request->output, size, &bytes, error);
    if (status)
        return status;
    if (!common->json) {
        cli_printf("%s: %zu tensor%s, %zu metadata, %s\n", request->output, counts.tensors,
                   counts.tensors == 1 ? "" : "s", counts.metadata, size);
        return OUSAC_STATUS_OK;
    }
    ousac_json_put_text(doc, doc->root, "file", request->output);
    ousac_json_put_text(doc, doc->root, "format", "safetensors");
    ousac_json_put_u64(doc, doc->root, "bytes", bytes);
    ousac_json_put_u64(doc, doc->root, "tensors", counts.tensors);
    ousac_json_put_u64(doc, doc->root, "metadata", counts.metadata);
    return cli_json_print(doc, error);
}

static ousac_status print_icc(const cli_common *common, const char *output,
                              const ousac_export_icc_result *result, ousac_json_doc *doc,
                              ousac_error *error) {
    char size[DESCRIBE_BYTES];
    uint64_t bytes = 0;
    ousac_status status = report_size(output, size, &bytes, error);
    if (status)
        return status;
    if (result->forecast)
        cli_note(common,
                 "note: the plan's forecast is not part of what ICC's code computes; the factors are");
    if (!common->json) {
        cli_printf("%s: %zu blocks, ranks %zu to %zu, %zu layers exact, %zu frozen, %s\n", output,
                   result->blocks, result->rank_low, result->rank_high, result->exact, result->frozen, size);
        return OUSAC_STATUS_OK;
    }
    ousac_json_put_text(doc, doc->root, "file", output);
    ousac_json_put_text(doc, doc->root, "format", "icc");
    ousac_json_put_u64(doc, doc->root, "bytes", bytes);
    ousac_json_put_u64(doc, doc->root, "blocks", result->blocks);
    ousac_json_put_u64(doc, doc->root, "rank_low", result->rank_low);
    ousac_json_put_u64(doc, doc->root, "rank_high", result->rank_high);
    ousac_json_put_u64(doc, doc->root, "exact", result->exact);
    ousac_json_put_u64(doc, doc->root, "frozen", result->frozen);
    return cli_json_print(doc, error);
}

/* The output, or the usual name inside it where it is a directory. */
static ousac_status icc_path(const char *output, char **path, ousac_error *error) {
    struct stat info;
    const int inside = stat(output, &info) == 0 && S_ISDIR(info.st_mode);
    const size_t bytes = strlen(output) + sizeof ICC_NAME + 1;
    *path = ousac_malloc(bytes, 1);
    if (!*path)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", output);
    (void)snprintf(*path, bytes, "%s%s%s", output, inside ? "/" : "", inside ? ICC_NAME : "");
    return OUSAC_STATUS_OK;
}

static ousac_status run_icc(const cli_common *common, export_request *request, ousac_json_doc *doc,
                            ousac_error *error) {
    ousac_export_icc_result result = {0};
    char *path = NULL;
    ousac_status status = icc_path(request->output, &path, error);
    request->factors.bundle = request->input;
    request->factors.output = path;
    if (!status)
        status = ousac_export_icc(&request->factors, &result, error);
    if (!status)
        status = print_icc(common, path, &result, doc, error);
    ousac_free(path);
    return status;
}

static ousac_status run_sdcpp(const cli_common *common, const export_request *request, ousac_json_doc *doc,
                              ousac_error *error) {
    ousac_export_sdcpp_result result = {0};
    const ousac_status status = ousac_export_sdcpp(request->input, request->output, &result, error);
    if (status)
        return status;
    if (result.skipped)
        cli_note(common, "note: %zu step%s skip the unconditional pass; there it is run, with scale 1",
                 result.skipped, result.skipped == 1 ? "" : "s");
    if (result.fitted)
        cli_note(common, "note: the solver's steps are fitted; its own are other ones");
    if (!common->json) {
        cli_printf("%s: %zu steps\n", request->output, result.steps);
        return OUSAC_STATUS_OK;
    }
    ousac_json_put_text(doc, doc->root, "file", request->output);
    ousac_json_put_text(doc, doc->root, "format", "sd-cpp");
    ousac_json_put_u64(doc, doc->root, "steps", result.steps);
    ousac_json_put_u64(doc, doc->root, "skipped", result.skipped);
    return cli_json_print(doc, error);
}

static ousac_status check(const export_request *request, size_t positionals, ousac_error *error) {
    const ousac_export_icc_request *icc = &request->factors;
    if (request->safetensors + request->icc + request->sdcpp != 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expects one of --safetensors, --icc and --sd-cpp");
    if (positionals != 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expects one file, not %zu", positionals);
    if (!request->icc && (icc->plan || icc->rank || icc->model.path))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--plan, --rank and --model belong to --icc");
    if (icc->plan && icc->rank)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--plan and --rank: expected one of them");
    return OUSAC_STATUS_OK;
}

#define AT(member) offsetof(export_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"safetensors", 0, CLI_FLAG, AT(safetensors), NULL, NULL,
     "all tensors and metadata of an .oca archive as a safetensors file", 0, 0},
    {"icc", 0, CLI_FLAG, AT(icc), NULL, NULL,
     "the factors of a bundle as the code of ICC loads them (.pt)", 0, 0},
    {"sd-cpp", 0, CLI_FLAG, AT(sdcpp), NULL, NULL,
     "steps and scales of a schedule, or a bundle's, as arguments of stable-diffusion.cpp", 0, 0},
    {"output", 'o', CLI_TEXT, AT(output), "FILE", CLI_REQUIRED,
     "file to write; with --icc also a directory", 0, 0},
    {"plan", 0, CLI_TEXT, AT(factors.plan), "NAME", NULL,
     "of --icc: whose ranks (default: the bundle's default plan)", 0, 0},
    {"rank", 0, CLI_SIZE, AT(factors.rank), "R", NULL,
     "of --icc: this rank in every layer, instead of a plan", 1, 1 << 20},
    {"model", 'm', CLI_INPUT, AT(factors.model.path), "FILE", NULL,
     "of --icc: checkpoint, for layers that the plan computes exactly", 0, 0},
    {"config", 0, CLI_INPUT, AT(factors.model.config), "FILE", NULL,
     "of --model: its config.json (default: beside the checkpoint)", 0, 0},
    {"heads", 0, CLI_SIZE, AT(factors.model.heads), "N", NULL,
     "of --model: attention heads (default: from the config)", 1, 4096},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    export_request *request = values;
    ousac_json_doc doc;
    request->factors.model.use = OUSAC_MODEL_FACTORS;
    ousac_json_begin(&doc);
    ousac_status status = check(request, call->file_count, error);
    if (!status) {
        request->input = call->files[0];
        request->factors.uniform = request->factors.rank > 0;
        status = request->icc     ? run_icc(&call->common, request, &doc, error)
                 : request->sdcpp ? run_sdcpp(&call->common, request, &doc, error)
                                  : run_safetensors(&call->common, request, &doc, error);
    }
    ousac_json_end(&doc);
    return status;
}

/* The output is a file, or under --icc a directory for a file of a fixed name. */
static void list_files(const cli_call *call, const void *values, cli_files *files) {
    const export_request *request = values;
    struct stat info;
    (void)call;
    if (request->icc && stat(request->output, &info) == 0 && S_ISDIR(info.st_mode))
        cli_files_written_in(files, "--output", request->output, ICC_NAME);
    else
        cli_files_written(files, "--output", request->output);
}

const cli_command command_export = {
    .name = "export",
    .summary = "write an archive as safetensors, a bundle's factors for ICC's code, or a schedule's scales",
    .arguments = "FILE",
    .details =
        "--safetensors carries every tensor and all metadata of an .oca archive into a safetensors "
        "file; `ousac "
        "import` makes the same archive of it again, byte for byte. Of a bundle the metadata `config` says "
        "in one JSON text "
        "what a loader has to know (formats/BUNDLE.md, \"As safetensors\").\n"
        "--icc writes the lists q_wa, q_wb, k_wa, ... fc2_wb, one float32 tensor a block, that the "
        "public code of "
        "Increment-Calibrated Caching loads with torch.load. The ranks are a plan's: a layer without "
        "a correction has "
        "rank 0, and one that the plan computes exactly is written as its weight times the identity, "
        "which needs "
        "--model.\n"
        "--sd-cpp writes one line, `--steps N --extra-sample-args guidance_schedule=...`, for the program of "
        "stable-diffusion.cpp as its commit 97d2990 of 19 August 2026 reads it: from the last step to the "
        "first, with a "
        "value more at the end that none reads. It is for its samplers of one evaluation a step. Gates, "
        "factors and "
        "fitted steps have no place there.",
    .example = "build/ousac export --safetensors build/demo/bundle.oca -o build/demo/bundle.safetensors\n"
               "build/ousac export --icc build/demo/bundle.oca --model data/shapes-dit/model.safetensors \\\n"
               "    -o build/demo/0000000.pt",
    .options = options,
    .files = list_files,
    .request_size = sizeof(export_request),
    .arguments_least = 1,
    .arguments_most = 1,
    .expects = "expects one file",
    .run = run,
};
