#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/exchange.h"
#include "formats/json_build.h"
#include "tools/cli/describe.h"

#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>

static ousac_status import(const cli_common *common, const char *input, const char *output,
                           ousac_oca_codec codec, ousac_json_doc *doc, ousac_error *error) {
    char size[DESCRIBE_BYTES];
    struct stat info;
    ousac_exchange_counts counts = {0};
    ousac_status status = ousac_import_safetensors(input, output, codec, &counts, error);
    if (status)
        return status;
    if (stat(output, &info) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: written, but cannot be read", output);
    if (!common->json) {
        describe_bytes(size, (uint64_t)info.st_size);
        cli_printf("%s: %zu tensor%s, %zu metadata, %s\n", output, counts.tensors,
                   counts.tensors == 1 ? "" : "s", counts.metadata, size);
        return OUSAC_STATUS_OK;
    }
    ousac_json_put_text(doc, doc->root, "file", output);
    ousac_json_put_u64(doc, doc->root, "bytes", (uint64_t)info.st_size);
    ousac_json_put_u64(doc, doc->root, "tensors", counts.tensors);
    ousac_json_put_u64(doc, doc->root, "metadata", counts.metadata);
    return cli_json_print(doc, error);
}

typedef struct import_request {
    const char *output;
    ousac_oca_codec codec;
} import_request;

#define AT(member) offsetof(import_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "archive to write (.oca)", 0, 0},
    {"codec", 0, CLI_CHOICE, AT(codec), "raw|zstd|shuffle+zstd", "raw",
     "where the file does not say how it was stored", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    const import_request *request = values;
    ousac_json_doc doc;
    ousac_json_begin(&doc);
    const ousac_status status =
        import(&call->common, call->files[0], request->output, request->codec, &doc, error);
    ousac_json_end(&doc);
    return status;
}

const cli_command command_import = {
    .name = "import",
    .summary = "make an .oca archive of a safetensors file",
    .arguments = "FILE",
    .details =
        "Carries every tensor and all metadata of a safetensors file into an .oca archive, bit for bit: F64, "
        "F32, F16, BF16, I8, U8, I32 and I64, up to 4 dimensions. What an archive cannot hold is an error "
        "that "
        "names it. Of a file that `ousac export --safetensors` wrote, the result is the archive that it was "
        "made from, byte for byte.",
    .example = "build/ousac export --safetensors build/demo/bundle.oca -o build/demo/bundle.safetensors\n"
               "build/ousac import build/demo/bundle.safetensors -o build/demo/again.oca\n"
               "build/ousac diff build/demo/bundle.oca build/demo/again.oca",
    .options = options,
    .request_size = sizeof(import_request),
    .arguments_least = 1,
    .arguments_most = 1,
    .expects = "expects one file",
    .run = run,
};
