#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "formats/oca_write.h"
#include "pipeline/pipeline.h"
#include "profile/bundle/bundle.h"
#include "profile/files/archive.h"
#include "profile/run/evaluate.h"
#include "profile/run/runner.h"
#include "tools/report/png_grid.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { ROWS_MAX = 3, MICRO_BATCH_DEFAULT = 4, SAMPLES_DEFAULT = 8, CELL_PIXELS = 64, INPUT_BYTES = 96 };

typedef enum row_kind { ROW_EXACT = 0, ROW_CALIBRATED = 1, ROW_REUSE = 2 } row_kind;
static const char *const ROW_NAMES[ROWS_MAX] = {"exact", "calibrated", "reuse"};

typedef struct row {
    row_kind kind;
    float *samples; /* (count, channels, height, width) */
    ousac_counters counters;
    double seconds;
    int compared; /* 1: difference holds how far it is from the exact row */
    ousac_difference difference;
} row;

typedef struct sample_request {
    const char *model, *schedule, *bundle, *plan, *rows, *output, *raw, *config, *compute, *device, *inputs;
    size_t heads, micro_batch, zoom;
    uint64_t seed;
    cli_range samples;
    int force;
} sample_request;

typedef struct sample_work {
    ousac_model *model;
    ousac_bundle *bundle;
    ousac_calibration *calibration;
    const ousac_plan *plan;         /* the bundle's, or NULL */
    ousac_schedule loaded;          /* of --schedule */
    const ousac_schedule *schedule; /* in use */
    row rows[ROWS_MAX];
    size_t row_count;
    size_t sample_size;
} sample_work;

static ousac_status parse_rows(const sample_request *request, sample_work *work, ousac_error *error) {
    const char *text = request->rows;
    int seen[ROWS_MAX] = {0};

    if (text == NULL) {
        text = request->bundle != NULL ? "exact,calibrated,reuse" : "exact";
    }
    while (1) {
        size_t length = strcspn(text, ","), kind = 0;
        while (kind < ROWS_MAX &&
               (strlen(ROW_NAMES[kind]) != length || strncmp(text, ROW_NAMES[kind], length))) {
            kind++;
        }
        if (kind == ROWS_MAX || seen[kind]) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--rows expects some of exact,calibrated,reuse, each once, not '%s'",
                              request->rows);
        }
        if (kind == ROW_CALIBRATED && request->bundle == NULL) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--rows calibrated needs --bundle FILE");
        }
        seen[kind] = 1;
        work->rows[work->row_count++].kind = (row_kind)kind;
        if (text[length] == '\0') {
            return OUSAC_STATUS_OK;
        }
        text += length + 1;
    }
}

static ousac_status check_request(const sample_request *request, ousac_error *error) {
    if (request->schedule == NULL && request->bundle == NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "give --schedule FILE, or --bundle FILE, which holds one");
    }
    if (request->bundle == NULL && request->plan != NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--plan names a plan of --bundle FILE, which is not given");
    }
    if (request->samples.first % request->micro_batch != 0) {
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "--samples expects a first sample that is a multiple of --micro-batch %zu, not %" PRIu64,
            request->micro_batch, request->samples.first);
    }
    return OUSAC_STATUS_OK;
}

/* Fails now rather than after minutes of sampling where nothing could be written under `path`. */
static ousac_status check_writable(const char *path, ousac_error *error) {
    ousac_file_writer *writer = NULL;
    ousac_status status = path != NULL ? ousac_file_create(&writer, path, error) : OUSAC_STATUS_OK;
    ousac_file_discard(writer);
    return status;
}

/* A mismatch is fatal unless forced, and then a warning. */
static ousac_status judge(ousac_status status, const sample_request *request, const cli_common *common,
                          ousac_error *error) {
    if (status == OUSAC_STATUS_MISMATCH && request->force) {
        cli_note(common, "warning: %s", error->message);
        memset(error, 0, sizeof *error);
        return OUSAC_STATUS_OK;
    }
    return status;
}

static ousac_status open_bundle(const sample_request *request, const cli_common *common, sample_work *work,
                                ousac_error *error) {
    char note[OUSAC_ERROR_MESSAGE_BYTES] = "";
    ousac_status status = ousac_bundle_open(&work->bundle, request->bundle, error);
    if (status != OUSAC_STATUS_OK) {
        return status;
    }
    work->plan = ousac_bundle_find_plan(work->bundle, request->plan);
    if (work->plan == NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: no plan named '%s'; `ousac inspect` lists its plans", request->bundle,
                          request->plan != NULL ? request->plan : "default");
    }
    status = judge(ousac_bundle_check_model(work->bundle, work->model, note, error), request, common, error);
    if (*note != '\0') {
        cli_note(common, "note: %s", note);
    }
    if (status != OUSAC_STATUS_OK) {
        return status;
    }
    if (request->schedule == NULL) {
        work->schedule = ousac_bundle_schedule(work->bundle);
    } else {
        status =
            judge(ousac_bundle_check_schedule(work->bundle, work->schedule, error), request, common, error);
        if (status != OUSAC_STATUS_OK) {
            return status;
        }
    }
    return ousac_bundle_calibration(work->bundle, work->plan, &work->model->arch, work->model->backend,
                                    &work->calibration, error);
}

static ousac_status open_inputs(const sample_request *request, const cli_common *common, sample_work *work,
                                ousac_error *error) {
    ousac_model_options options = {.config_path = request->config,
                                   .inputs_path = request->inputs,
                                   .heads = request->heads,
                                   .device = request->device,
                                   .bf16 = pipeline_is_bf16(request->compute)};
    ousac_status status = OUSAC_STATUS_OK;

    if (request->schedule != NULL) {
        status = ousac_schedule_load(&work->loaded, request->schedule, error);
        work->schedule = &work->loaded;
    }
    if (status == OUSAC_STATUS_OK) {
        const ousac_backend *backend = NULL;
        status = pipeline_backend(&backend, request->compute, request->device, error);
        if (status == OUSAC_STATUS_OK) {
            status = ousac_model_load(&work->model, request->model, &options, backend, error);
        }
    }
    if (status == OUSAC_STATUS_OK && request->bundle != NULL) {
        status = open_bundle(request, common, work, error);
    }
    if (status == OUSAC_STATUS_OK) {
        work->sample_size = ousac_model_sample_size(work->model);
    }
    return status;
}

static ousac_status run_row(const sample_request *request, const cli_common *common, const sample_work *work,
                            row *r, ousac_error *error) {
    const char *name = ROW_NAMES[r->kind];
    size_t count = (size_t)request->samples.count;

    if (request->samples.count > SIZE_MAX / work->sample_size) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--samples: %" PRIu64 " samples do not fit into memory",
                          request->samples.count);
    }
    r->samples = ousac_malloc(count * work->sample_size, sizeof *r->samples);
    if (r->samples == NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu samples of %zu values", count,
                          work->sample_size);
    }
    cli_progress *progress = cli_progress_start(common, name);
    ousac_run run = {.model = work->model,
                     .schedule = work->schedule,
                     .seed = request->seed,
                     .first = request->samples.first,
                     .count = request->samples.count,
                     .micro_batch = request->micro_batch,
                     .threads = pipeline_threads(&(pipeline_runs){.common = common, .model = work->model}),
                     .exact = r->kind == ROW_EXACT,
                     .calibration = r->kind == ROW_CALIBRATED ? work->calibration : NULL,
                     .samples = r->samples,
                     .counters = &r->counters,
                     .seconds = &r->seconds,
                     .progress = cli_progress_update,
                     .progress_self = progress,
                     .stop = &cli_stop};
    ousac_status status = ousac_run_samples(&run, error);
    cli_progress_end(progress);
    if (status != OUSAC_STATUS_OK) {
        ousac_error_prefix(error, "row %s", name);
    }
    return status;
}

static ousac_status compare_rows(const sample_request *request, sample_work *work, ousac_error *error) {
    const row *exact = NULL;

    for (size_t i = 0; i < work->row_count; i++) {
        exact = work->rows[i].kind == ROW_EXACT ? &work->rows[i] : exact;
    }
    for (size_t i = 0; exact != NULL && i < work->row_count; i++) {
        row *r = &work->rows[i];
        if (r->kind != ROW_EXACT) {
            ousac_status status =
                ousac_evaluate_difference(r->samples, exact->samples, (size_t)request->samples.count,
                                          work->sample_size, request->seed, &r->difference, error);
            if (status != OUSAC_STATUS_OK) {
                return status;
            }
            r->compared = 1;
        }
    }
    return OUSAC_STATUS_OK;
}

static ousac_status write_raw(const sample_request *request, const sample_work *work, ousac_error *error) {
    ousac_oca_writer *writer = NULL;
    char digest[OUSAC_DIGEST_CHARS], name[64];
    const uint64_t shape[4] = {request->samples.count, work->model->channels, work->model->height,
                               work->model->width};

    ousac_status status = ousac_archive_begin(&writer, "ousac-samples", error);
    if (status == OUSAC_STATUS_OK) {
        ousac_schedule_digest(work->schedule, digest);
        status = ousac_oca_writer_metadata(writer, "schedule_digest", digest, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = ousac_oca_writer_metadata(writer, "model_digest", work->model->digest, error);
    }
    if (status == OUSAC_STATUS_OK && work->plan != NULL) {
        status = ousac_oca_writer_metadata(writer, "plan", work->plan->name, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = ousac_archive_put_u64(writer, "seed", request->seed, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = ousac_archive_put_u64(writer, "first_sample", request->samples.first, error);
    }
    for (size_t i = 0; status == OUSAC_STATUS_OK && i < work->row_count; i++) {
        snprintf(name, sizeof name, "samples/%s", ROW_NAMES[work->rows[i].kind]);
        status = ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F32, 4, shape,
                                         OUSAC_OCA_CODEC_SHUFFLE_ZSTD, work->rows[i].samples, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = ousac_oca_writer_save(writer, request->raw, error);
    }
    ousac_oca_writer_free(writer);
    return status;
}

static ousac_status write_png(const sample_request *request, const sample_work *work, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const ousac_model *model = work->model;
    size_t columns = (size_t)request->samples.count, zoom = request->zoom;
    const char *labels[ROWS_MAX] = {NULL};
    const float **images = ousac_calloc(work->row_count * columns, sizeof *images);

    if (images == NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a grid of %zu columns", columns);
    }
    for (size_t i = 0; i < work->row_count; i++) {
        labels[i] = ROW_NAMES[work->rows[i].kind];
        for (size_t column = 0; column < columns; column++) {
            images[i * columns + column] = work->rows[i].samples + column * work->sample_size;
        }
    }
    while (zoom == 0 || (request->zoom == 0 && zoom * model->height < CELL_PIXELS)) {
        zoom++;
    }
    png_grid grid = {.images = images,
                     .rows = work->row_count,
                     .columns = columns,
                     .channels = model->channels,
                     .height = model->height,
                     .width = model->width,
                     .zoom = zoom,
                     .labels = labels};
    status = png_grid_write(&grid, request->output, error);
    ousac_free(images);
    return status;
}

static ousac_status report_json(const sample_request *request, const sample_work *work, ousac_error *error) {
    json_doc doc;
    char text[INPUT_BYTES], digest[OUSAC_DIGEST_CHARS];
    double count = (double)request->samples.count;

    json_begin(&doc);
    json_put_text(&doc, doc.root, "file", request->output);
    if (request->raw != NULL) {
        json_put_text(&doc, doc.root, "raw", request->raw);
    }
    ousac_schedule_digest(work->schedule, digest);
    json_put_text(&doc, doc.root, "model_digest", work->model->digest);
    json_put_text(&doc, doc.root, "schedule_digest", digest);
    json_put_u64(&doc, doc.root, "seed", request->seed);
    json_put_u64(&doc, doc.root, "first_sample", request->samples.first);
    cJSON *inputs = json_put_array(&doc, doc.root, "inputs");
    for (uint64_t i = 0; i < request->samples.count; i++) {
        work->model->family->describe_input(work->model, request->seed, request->samples.first + i, text,
                                            sizeof text);
        json_put_text(&doc, inputs, NULL, text);
    }
    cJSON *rows = json_put_array(&doc, doc.root, "rows");
    for (size_t i = 0; i < work->row_count; i++) {
        const row *r = &work->rows[i];
        cJSON *object = json_put_object(&doc, rows, NULL);
        json_put_text(&doc, object, "row", ROW_NAMES[r->kind]);
        json_put_real(&doc, object, "seconds", r->seconds);
        json_put_real(&doc, object, "macs_per_sample", (double)r->counters.macs / count);
        cJSON *forwards = json_put_object(&doc, object, "forwards");
        json_put_u64(&doc, forwards, "full", r->counters.forwards[OUSAC_GATE_FULL]);
        json_put_u64(&doc, forwards, "cached", r->counters.forwards[OUSAC_GATE_CACHED]);
        json_put_u64(&doc, forwards, "reuse", r->counters.forwards[OUSAC_GATE_REUSE]);
        if (r->compared) {
            const ousac_interval *relative = &r->difference.relative_error, *psnr = &r->difference.psnr_db;
            cJSON *item = json_put_object(&doc, object, "relative_error");
            json_put_real(&doc, item, "mean", relative->mean);
            json_put_real(&doc, item, "low", relative->low);
            json_put_real(&doc, item, "high", relative->high);
            item = json_put_object(&doc, object, "psnr_db");
            json_put_real(&doc, item, "mean", psnr->mean);
            json_put_real(&doc, item, "low", psnr->low);
            json_put_real(&doc, item, "high", psnr->high);
        }
    }
    ousac_status status = json_print(&doc, error);
    json_end(&doc);
    return status;
}

static void report_text(const sample_request *request, const sample_work *work) {
    double count = (double)request->samples.count;

    printf("%s: %" PRIu64 " samples, %zu row%s\n", request->output, request->samples.count, work->row_count,
           work->row_count == 1 ? "" : "s");
    printf("%-11s %10s %15s   %s\n", "row", "seconds", "GMAC a sample", "error against exact, 95 % interval");
    for (size_t i = 0; i < work->row_count; i++) {
        const row *r = &work->rows[i];
        printf("%-11s %10.2f %15.3f", ROW_NAMES[r->kind], r->seconds,
               1e-9 * (double)r->counters.macs / count);
        if (r->compared) {
            const ousac_interval *relative = &r->difference.relative_error, *psnr = &r->difference.psnr_db;
            printf("   %.4f [%.4f, %.4f], PSNR %.2f dB [%.2f, %.2f]", relative->mean, relative->low,
                   relative->high, psnr->mean, psnr->low, psnr->high);
        }
        putchar('\n');
    }
}

static ousac_status sample(const sample_request *request, const cli_common *common, sample_work *work,
                           ousac_error *error) {
    ousac_status status = check_request(request, error);

    if (status == OUSAC_STATUS_OK) {
        status = parse_rows(request, work, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = check_writable(request->output, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = check_writable(request->raw, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = open_inputs(request, common, work, error);
    }
    for (size_t i = 0; status == OUSAC_STATUS_OK && i < work->row_count; i++) {
        status = run_row(request, common, work, &work->rows[i], error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = compare_rows(request, work, error);
    }
    if (status == OUSAC_STATUS_OK && request->raw != NULL) {
        status = write_raw(request, work, error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = write_png(request, work, error);
    }
    if (status == OUSAC_STATUS_OK && common->json) {
        status = report_json(request, work, error);
    } else if (status == OUSAC_STATUS_OK) {
        report_text(request, work);
    }
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    sample_request request = {.micro_batch = MICRO_BATCH_DEFAULT, .samples = {0, SAMPLES_DEFAULT}};
    const cli_option options[] = {
        {"model", 'm', CLI_TEXT, &request.model, 0, 0, 1, "FILE", "checkpoint, .safetensors"},
        {"schedule", 's', CLI_TEXT, &request.schedule, 0, 0, 0, "FILE", "schedule (default: the bundle's)"},
        {"bundle", 'b', CLI_TEXT, &request.bundle, 0, 0, 0, "FILE",
         "calibration to run the row 'calibrated' with"},
        {"plan", 0, CLI_TEXT, &request.plan, 0, 0, 0, "NAME",
         "plan of the bundle (default: 'default', or the only one)"},
        {"samples", 0, CLI_RANGE, &request.samples, 0, 0, 0, "FIRST:END",
         "samples, END excluded, or a count from 0; FIRST a multiple of the micro-batch (default 0:8)"},
        {"seed", 0, CLI_U64, &request.seed, 0, 0, 0, "N", "seed of noise and labels (default 0)"},
        {"micro-batch", 0, CLI_SIZE, &request.micro_batch, 1, 4096, 0, "N",
         "samples computed together (default 4)"},
        {"rows", 0, CLI_TEXT, &request.rows, 0, 0, 0, "LIST",
         "rows of the grid, some of exact,calibrated,reuse (default: all with a bundle, else exact)"},
        {"output", 'o', CLI_TEXT, &request.output, 0, 0, 1, "FILE", "PNG file to write"},
        {"zoom", 0, CLI_SIZE, &request.zoom, 1, 64, 0, "N",
         "pixels along the edge of a sample's pixel (default: enough for cells of 64 pixels)"},
        {"raw", 0, CLI_TEXT, &request.raw, 0, 0, 0, "FILE",
         "also write the samples as float32 tensors samples/ROW (count, channels, height, width), .oca"},
        {"heads", 0, CLI_SIZE, &request.heads, 1, 4096, 0, "N",
         "attention heads, where config.json lacks them"},
        {"config", 0, CLI_TEXT, &request.config, 0, 0, 0, "FILE",
         "the model's config.json (default: beside the checkpoint)"},
        {"compute", 0, CLI_TEXT, &request.compute, 0, 0, 0, "f32|bf16",
         "how the model's linears run, on a GPU attention too; bf16 needs matrix units, on a CPU oneDNN "
         "(default f32)"},
        {"inputs", 0, CLI_TEXT, &request.inputs, 0, 0, 0, "FILE",
         "what the samples are conditioned on, and their noise, .safetensors; sample j takes row j mod P "
         "(default: drawn by the seed)"},
        PIPELINE_DEVICE_OPTION(&request.device),
        {"force", 0, CLI_FLAG, &request.force, 0, 0, 0, NULL,
         "use a bundle made for another model or schedule, with a warning"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    sample_work *work = NULL;
    size_t positionals = 0;
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &positionals, &done, &error);
    if (status == OUSAC_STATUS_OK && done) {
        return EXIT_OK;
    }
    if (status == OUSAC_STATUS_OK) {
        cli_catch_signals();
        work = ousac_calloc(1, sizeof *work);
        status = work != NULL ? sample(&request, &common, work, &error)
                              : OUSAC_FAIL(&error, OUSAC_STATUS_MEMORY, "no memory");
    }
    int code = status == OUSAC_STATUS_OK ? EXIT_OK : cli_report_error(command, &common, &error);
    if (work != NULL) {
        for (size_t i = 0; i < work->row_count; i++) {
            ousac_free(work->rows[i].samples);
        }
        ousac_calibration_free(work->calibration);
        ousac_bundle_close(work->bundle);
        ousac_model_free(work->model);
        ousac_schedule_free(&work->loaded);
    }
    ousac_free(work);
    return code;
}

const cli_command command_sample = {
    .name = "sample",
    .summary = "draw images: exact, calibrated and with plain reuse, in rows",
    .arguments = "",
    .details =
        "Denoises samples under a schedule and writes them as a PNG grid: one column a sample, one row a way "
        "of running. 'exact' computes every step in full, 'calibrated' uses a bundle's corrections at the "
        "schedule's cached steps, 'reuse' repeats module outputs there. Prints for each row the time, the "
        "multiply-accumulates and, where 'exact' is among the rows, the error against it. A bundle made for "
        "another model or schedule is refused unless --force is given.",
    .example =
        "build/ousac sample --model data/shapes-dit/model.safetensors --bundle build/demo/bundle.oca \\\n"
        "    --samples 0:8 --seed 9 -o /tmp/samples.png",
    .run = run,
};
