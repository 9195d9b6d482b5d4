#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "tools/show/inspect.h"

#include <stddef.h>
#include <stdio.h>

static ousac_status inspect(inspection *in, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    file_kind kind = FILE_KIND_UNKNOWN;
    char size[DESCRIBE_BYTES];

    if (inspect_is_model(in->path))
        return inspect_model(in, error);
    status = file_kind_detect(&kind, &in->bytes, in->path, error);
    if (status)
        return status;
    if (in->common->json) {
        ousac_json_put_text(&in->doc, in->doc.root, "file", in->path);
        ousac_json_put_text(&in->doc, in->doc.root, "kind", file_kind_name(kind));
        ousac_json_put_u64(&in->doc, in->doc.root, "bytes", in->bytes);
    } else if (kind != FILE_KIND_UNKNOWN) {
        describe_bytes(size, in->bytes);
        cli_printf("%s: %s, %s\n", in->path, file_kind_name(kind), size);
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
    case FILE_KIND_TIME:
        return inspect_time(in, error);
    case FILE_KIND_EVALUATION:
    case FILE_KIND_COST:
    case FILE_KIND_SEARCH:
    case FILE_KIND_REFIT:
    case FILE_KIND_COMPARISON:
    case FILE_KIND_CONFIG:
        return inspect_json(in, error);
    case FILE_KIND_UNKNOWN:
        break;
    }
    return file_kind_refuse(in->path, error);
}

#define AT(member) offsetof(inspection, member)
/* clang-format off */
static const cli_option options[] = {
    {"tensors", 0, CLI_FLAG, AT(tensors), NULL, NULL,
     "list every tensor: dtype, shape, codec, size, compression ratio", 0, 0},
    {"heads", 0, CLI_SIZE, AT(heads), "N", NULL,
     "of a checkpoint: attention heads, where config.json lacks them", 1, 4096},
    {"config", 0, CLI_INPUT, AT(config), "FILE", NULL,
     "of a checkpoint: its config.json (default: beside it)", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    inspection *in = values;
    in->common = &call->common;
    in->path = call->files[0];
    ousac_json_begin(&in->doc);
    ousac_status status = inspect(in, error);
    if (!status && call->common.json)
        status = cli_json_print(&in->doc, error);
    ousac_json_end(&in->doc);
    return status;
}

const cli_command command_inspect = {
    .name = "inspect",
    .summary = "show what is in a file: bundle, plan, profile, schedule, checkpoint",
    .arguments = "FILE",
    .details =
        "Shows what a file holds. The kind is told from the content, not from the name: an .oca archive (a "
        "profile with the deltas it saw, a plan with its ranks, a bundle with its plans, or any other with "
        "its "
        "metadata and tensors), a safetensors checkpoint, an index of shards or a folder of diffusers with "
        "the model that ousac makes of it, an inputs file, what evaluations take on a machine "
        "(`ousac time`), or a schedule with the gates that really run.",
    .example = "build/ousac inspect data/schedules/sparse.json\n"
               "build/ousac inspect build/demo/bundle.oca\n"
               "build/ousac inspect --tensors --json data/shapes-dit/model.safetensors",
    .options = options,
    .request_size = sizeof(inspection),
    .arguments_least = 1,
    .arguments_most = 1,
    .expects = "expects one file",
    .run = run,
};
