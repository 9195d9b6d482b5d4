#include "pipeline/machine.h"
#include "tools/cli/files.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/memory.h"
#include "profile/synth/synth.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SAMPLES_DEFAULT = 48, CONFIG_BYTES_MAX = 1 << 20, DEPTH_MAX = 4096 };

typedef struct synth_request {
    int dtype; /* 0 bf16, 1 f32 */
    const char *preset, *output, *config_output, *inputs_output, *profile, *schedule;
    size_t tokens, input_size, depth, samples, prompts;
    uint64_t seed;
} synth_request;

/* config.json beside the checkpoint; ousac_free. */
static char *default_config(const char *output) {
    static const char name[] = "config.json";
    const char *slash = strrchr(output, '/');
    const size_t directory = slash ? (size_t)(slash - output) + 1 : 0;
    char *path = ousac_malloc(directory + sizeof name, 1);
    if (path) {
        memcpy(path, output, directory);
        memcpy(path + directory, name, sizeof name);
    }
    return path;
}

/* Another model's config beside the output must not be lost. */
static ousac_status check_config(const char *path, const char *text, ousac_error *error) {
    struct stat info;
    char *present = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (stat(path, &info) != 0)
        return OUSAC_STATUS_OK;
    status = ousac_file_read_text(&present, NULL, path, CONFIG_BYTES_MAX, error);
    if (!status && strcmp(present, text) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "%s exists and is of another model: write elsewhere, or name the config with "
                            "--config-output",
                            path);
    ousac_free(present);
    return status;
}

static ousac_status shape_of(const synth_request *request, ousac_synth_shape *shape, ousac_error *error) {
    ousac_status status = ousac_synth_preset(shape, request->preset, error);
    if (status)
        return ousac_error_prefix(error, "--preset");
    if (request->tokens && request->input_size)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--tokens and --input-size exclude each other");
    if (request->tokens && ousac_synth_set_tokens(shape, request->tokens, error))
        return ousac_error_prefix(error, "--tokens");
    if (request->input_size && ousac_synth_set_input_size(shape, request->input_size, error))
        return ousac_error_prefix(error, "--input-size");
    if (request->depth)
        shape->depth = request->depth;
    return OUSAC_STATUS_OK;
}

static uint64_t bytes_of(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

static ousac_status report(const cli_common *common, const synth_request *request,
                           const ousac_synth_options *options, const char *config, double seconds,
                           ousac_error *error) {
    const ousac_synth_shape *shape = &options->shape;
    const uint64_t parameters = ousac_synth_parameters(shape), bytes = bytes_of(request->output),
                   profile = request->profile ? bytes_of(request->profile) : 0, peak = ousac_peak_bytes();
    ousac_status status = OUSAC_STATUS_OK;
    ousac_json_doc doc;
    if (!common->json) {
        cli_printf("%s: synthetic %s, %zu blocks, %zu tokens, %.1f M parameters in %s, %.1f MB\n",
                   request->output, shape->preset, shape->depth, ousac_synth_tokens(shape),
                   1e-6 * (double)parameters, ousac_dtype_name(options->dtype), 1e-6 * (double)bytes);
        if (request->inputs_output)
            cli_printf("%s: %zu random captions for it, %.1f MB\n", request->inputs_output, request->prompts,
                       1e-6 * (double)bytes_of(request->inputs_output));
        if (request->profile)
            cli_printf("%s: a profile of %zu samples to go with it, %.1f MB\n", request->profile,
                       request->samples, 1e-6 * (double)profile);
        cli_printf("%.1f s on %zu threads, at most %.0f MB\n", seconds, options->threads,
                   1e-6 * (double)peak);
        return OUSAC_STATUS_OK;
    }
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "file", request->output);
    ousac_json_put_text(&doc, doc.root, "config", config);
    ousac_json_put_text(&doc, doc.root, "preset", shape->preset);
    ousac_json_put_u64(&doc, doc.root, "depth", shape->depth);
    ousac_json_put_u64(&doc, doc.root, "tokens", ousac_synth_tokens(shape));
    ousac_json_put_u64(&doc, doc.root, "parameters", parameters);
    ousac_json_put_u64(&doc, doc.root, "bytes", bytes);
    if (request->inputs_output) {
        ousac_json_put_text(&doc, doc.root, "inputs", request->inputs_output);
        ousac_json_put_u64(&doc, doc.root, "prompts", request->prompts);
    }
    if (request->profile) {
        ousac_json_put_text(&doc, doc.root, "profile", request->profile);
        ousac_json_put_u64(&doc, doc.root, "profile_bytes", profile);
    }
    ousac_json_put_real(&doc, doc.root, "seconds", seconds);
    ousac_json_put_u64(&doc, doc.root, "peak_bytes", peak);
    status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

/* One file with a progress line. */
static ousac_status save(const cli_common *common, ousac_synth_options *options, const char *path,
                         const ousac_schedule *schedule, uint64_t samples, ousac_error *error) {
    cli_progress *progress = common->quiet ? NULL : cli_progress_start(schedule ? "profile" : "weights");
    options->progress = progress ? cli_progress_update : NULL;
    options->progress_self = progress;
    const ousac_status status = schedule ? ousac_synth_save_profile(options, schedule, samples, path, error)
                                         : ousac_synth_save_model(options, path, error);
    cli_progress_end(progress);
    return status;
}

static ousac_status execute(const cli_common *common, const synth_request *request, ousac_error *error) {
    ousac_synth_options options = {.seed = request->seed, .threads = common->threads, .stop = &cli_stop};
    ousac_schedule schedule = {0};
    char *text = NULL, *config = NULL;
    const double start = ousac_clock_s();
    ousac_status status = shape_of(request, &options.shape, error);
    if (status)
        goto done;
    options.dtype = request->dtype ? OUSAC_DTYPE_F32 : OUSAC_DTYPE_BF16;
    if (!request->profile != !request->schedule) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--profile and --schedule belong together: give %s too",
                       request->profile ? "--schedule" : "--profile");
        goto done;
    }
    if (request->inputs_output && !ousac_synth_needs_inputs(&options.shape)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--inputs-output: a %s takes no captions",
                            options.shape.preset);
        goto done;
    }
    config = request->config_output ? ousac_strdup(request->config_output) : default_config(request->output);
    if (!config) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the name of the config");
        goto done;
    }
    status = ousac_synth_config(&options, &text, error);
    if (!status && request->schedule)
        status = ousac_session_load_schedule(&schedule, request->schedule, error);
    if (!status && !request->config_output)
        status = check_config(config, text, error);
    if (!status)
        status = save(common, &options, request->output, NULL, 0, error);
    if (status)
        goto done;
    status = ousac_file_replace(config, text, strlen(text), error);
    if (status) {
        (void)unlink(request->output); /* a model that cannot be loaded is half a result */
        goto done;
    }
    options.progress = NULL;
    if (request->inputs_output)
        status = ousac_synth_save_inputs(&options, request->prompts, request->inputs_output, error);
    if (!status && request->profile)
        status = save(common, &options, request->profile, &schedule, request->samples, error);
    if (!status)
        status = report(common, request, &options, config, ousac_clock_s() - start, error);
done:
    ousac_schedule_free(&schedule);
    ousac_free(config);
    ousac_free(text);
    return status;
}

#define AT(member) offsetof(synth_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"preset", 0, CLI_TEXT, AT(preset), "NAME", CLI_REQUIRED,
     "DiT-XL/2, DiT-L/2, DiT-B/2, DiT-S/2, FLUX-shape, PixArt-XL/2-256, PixArt-XL/2-512, PixArt-XL/2-1024, FLUX.1-dev or "
     "FLUX.1-schnell", 0, 0},
    {"tokens", 0, CLI_SIZE, AT(tokens), "N", NULL,
     "tokens of a sample, a square (default 256; FLUX-shape and FLUX.1 4096; PixArt 256, 1024 or 4096)", 1, 1 << 24},
    {"input-size", 0, CLI_SIZE, AT(input_size), "N", NULL,
     "instead: height and width of the latents (default 32; FLUX-shape and FLUX.1 128; PixArt 32, 64 or 128)", 1, 1 << 13},
    {"depth", 0, CLI_SIZE, AT(depth), "N", NULL,
     "blocks (default: the preset's); of a FLUX.1 a third of them are double", 1, DEPTH_MAX},
    {"dtype", 0, CLI_CHOICE, AT(dtype), "bf16|f32", "bf16", "of the weights", 0, 0},
    OPTIONS_SEED(AT(seed)),
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "checkpoint to write (.safetensors)", 0, 0},
    {"config-output", 0, CLI_OUTPUT, AT(config_output), "FILE", NULL,
     "its config (default: config.json beside it, unless that is of another model)", 0, 0},
    {"inputs-output", 0, CLI_OUTPUT, AT(inputs_output), "FILE", NULL,
     "of a PixArt or FLUX.1: random captions to run it on (.safetensors)", 0, 0},
    {"prompts", 0, CLI_SIZE, AT(prompts), "N", "8",
     "how many", 1, 1 << 20},
    {"profile", 0, CLI_OUTPUT, AT(profile), "FILE", NULL,
     "profile to write as well (.oca); needs --schedule", 0, 0},
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "schedule of the profile", 0, 0},
    {"samples", 0, CLI_SIZE, AT(samples), "N", "48",
     "samples that the profile claims", 1, 1 << 30},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    return execute(&call->common, values, error);
}

static void list_files(const cli_call *call, const void *values, cli_files *files) {
    const synth_request *request = values;
    (void)call;
    if (!request->config_output)
        cli_files_written_beside(files, "the config", request->output, "config.json");
}

const cli_command command_synth = {
    .name = "synth",
    .summary = "write a synthetic model of a published shape, and a profile",
    .arguments = "",
    .details =
        "Writes a checkpoint with the names and shapes of a public DiT, PixArt or FLUX.1, or of a DiT as "
        "large as a "
        "FLUX.1, without any training: seeded weights whose singular values decay like those of the shipped "
        "model, "
        "layer by layer, with modulation and gates alive. Such a model runs and calibrates like a real one "
        "but draws nothing. It serves measurements of time and memory at full size.\n"
        "\n"
        "With --profile also a profile for the schedule, as if the model had been run: its delta moments "
        "have the decay of real ones. Everything is made and written one tensor at a time, so memory stays "
        "small whatever the size; the same options give the same bytes.",
    .example = "build/ousac synth --preset DiT-S/2 --depth 2 -o /tmp/ousac-synth.safetensors \\\n"
               "    --config-output /tmp/ousac-synth.json \\\n"
               "    --profile /tmp/ousac-synth.oca --schedule data/schedules/sparse.json\n"
               "build/ousac allocate --model /tmp/ousac-synth.safetensors --config /tmp/ousac-synth.json \\\n"
               "    --profile /tmp/ousac-synth.oca --method uniform -o /tmp/ousac-synth-plan.oca",
    .options = options,
    .request_size = sizeof(synth_request),
    .files = list_files,
    .run = run,
};
