#include "tools/cmd/commands.h"

#include "formats/exchange.h"
#include "formats/json_build.h"
#include "tools/cli/describe.h"

#include <stdio.h>
#include <sys/stat.h>

static ousac_status import(const cli_common *common, const char *input, const char *output,
                           const char *codec_name, json_doc *doc, ousac_error *error) {
    char size[DESCRIBE_BYTES];
    struct stat info;
    ousac_exchange_counts counts = {0};
    ousac_oca_codec codec = OUSAC_OCA_CODEC_RAW;
    if (ousac_oca_codec_parse(&codec, codec_name))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--codec: \"%s\"; expected raw, zstd or shuffle+zstd",
                          codec_name);
    ousac_status status = ousac_import_safetensors(input, output, codec, &counts, error);
    if (status)
        return status;
    if (stat(output, &info) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: written, but cannot be read", output);
    if (!common->json) {
        describe_bytes(size, (uint64_t)info.st_size);
        printf("%s: %zu tensor%s, %zu metadata, %s\n", output, counts.tensors, counts.tensors == 1 ? "" : "s",
               counts.metadata, size);
        return OUSAC_STATUS_OK;
    }
    json_put_text(doc, doc->root, "file", output);
    json_put_u64(doc, doc->root, "bytes", (uint64_t)info.st_size);
    json_put_u64(doc, doc->root, "tensors", counts.tensors);
    json_put_u64(doc, doc->root, "metadata", counts.metadata);
    return json_print(doc, error);
}

static int run(const cli_command *command, int argc, char **argv) {
    const char *output = NULL, *codec = "raw";
    const cli_option options[] = {
        {"output", 'o', CLI_TEXT, &output, 0, 0, 1, "FILE", "archive to write (.oca)"},
        {"codec", 0, CLI_TEXT, &codec, 0, 0, 0, "NAME",
         "raw, zstd or shuffle+zstd, where the file does not say how it was stored (default raw)"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;
    json_doc doc;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (!status && done)
        return EXIT_OK;
    json_begin(&doc);
    if (!status && positionals != 1)
        status = OUSAC_FAIL(&error, OUSAC_STATUS_USAGE, "expects one file, not %zu", positionals);
    if (!status) {
        cli_catch_signals();
        status = import(&common, argv[1], output, codec, &doc, &error);
    }
    int code = status ? cli_report_error(command, &common, &error) : EXIT_OK;
    json_end(&doc);
    return code;
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
    .run = run,
};
