#include "tools/cmd/commands.h"

#include "tools/show/inspect.h"

#include <stdio.h>

static ousac_status inspect(inspection *in, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    file_kind kind = FILE_KIND_UNKNOWN;
    char size[DESCRIBE_BYTES];

    status = file_kind_detect(&kind, &in->bytes, in->path, error);
    if (status != OUSAC_STATUS_OK) {
        return status;
    }
    if (in->common->json) {
        json_put_text(&in->doc, in->doc.root, "file", in->path);
        json_put_text(&in->doc, in->doc.root, "kind", file_kind_name(kind));
        json_put_u64(&in->doc, in->doc.root, "bytes", in->bytes);
    } else if (kind != FILE_KIND_UNKNOWN) {
        describe_bytes(size, in->bytes);
        printf("%s: %s, %s\n", in->path, file_kind_name(kind), size);
    }
    switch (kind) {
    case FILE_KIND_PROFILE:
        return inspect_profile(in, error);
    case FILE_KIND_PLAN:
        return inspect_plan(in, error);
    case FILE_KIND_BUNDLE:
        return inspect_bundle(in, error);
    case FILE_KIND_ARCHIVE:
        return inspect_archive(in, error);
    case FILE_KIND_SAFETENSORS:
        return inspect_safetensors(in, error);
    case FILE_KIND_SCHEDULE:
        return inspect_schedule(in, error);
    case FILE_KIND_UNKNOWN:
        break;
    }
    return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                      "%s: neither an .oca archive, nor a safetensors file, nor a schedule", in->path);
}

static int run(const cli_command *command, int argc, char **argv) {
    cli_common common;
    inspection in = {.common = &common};
    const cli_option options[] = {{"tensors", 0, CLI_FLAG, &in.tensors, 0, 0, 0, NULL,
                                   "list every tensor: dtype, shape, codec, size, compression ratio"},
                                  {"heads", 0, CLI_SIZE, &in.heads, 1, 4096, 0, "N",
                                   "of a checkpoint: attention heads, where config.json lacks them"},
                                  {"config", 0, CLI_TEXT, &in.config, 0, 0, 0, "FILE",
                                   "of a checkpoint: its config.json (default: beside it)"},
                                  {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    ousac_error error = {0};
    size_t positionals = 0;
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (status == OUSAC_STATUS_OK && done) {
        return EXIT_OK;
    }
    json_begin(&in.doc);
    if (status == OUSAC_STATUS_OK && positionals != 1) {
        status = OUSAC_FAIL(&error, OUSAC_STATUS_USAGE, "expects one file, not %zu", positionals);
    }
    if (status == OUSAC_STATUS_OK) {
        in.path = argv[1];
        status = inspect(&in, &error);
    }
    if (status == OUSAC_STATUS_OK && common.json) {
        status = json_print(&in.doc, &error);
    }
    int code = status == OUSAC_STATUS_OK ? EXIT_OK : cli_report_error(command, &common, &error);
    json_end(&in.doc);
    return code;
}

const cli_command command_inspect = {
    .name = "inspect",
    .summary = "show what is in a file: bundle, plan, profile, schedule, checkpoint",
    .arguments = "FILE",
    .details =
        "Shows what a file holds. The kind is told from the content, not from the name: an .oca archive (a "
        "profile with the deltas it saw, a plan with its ranks, a bundle with its plans, or any other with "
        "its "
        "metadata and tensors), a safetensors checkpoint with the model that ousac makes of it, or a "
        "schedule "
        "with the gates that really run.",
    .example = "build/ousac inspect data/schedules/sparse.json\n"
               "build/ousac inspect build/demo/bundle.oca\n"
               "build/ousac inspect --tensors --json data/shapes-dit/model.safetensors",
    .run = run,
};
