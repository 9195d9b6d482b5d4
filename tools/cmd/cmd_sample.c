#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cli/session.h"
#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "formats/oca_write.h"
#include "pipeline/place.h"
#include "profile/bundle/bundle.h"
#include "profile/files/archive.h"
#include "profile/run/evaluate.h"
#include "profile/run/runner.h"
#include "tools/report/png_grid.h"
#include "tools/report/samples.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { ROWS_MAX = 3, CELL_PIXELS = 64, INPUT_BYTES = 96 };

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
    ousac_session_model model;
    const char *schedule, *bundle, *plan, *rows, *output, *raw;
    size_t micro_batch, zoom;
    uint64_t seed;
    ousac_sample_range samples;
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
    const char *labels[ROWS_MAX]; /* of the rows */
    size_t row_count;
    size_t sample_size;
} sample_work;

static void add_row(sample_work *work, row_kind kind) {
    work->labels[work->row_count] = ROW_NAMES[kind];
    work->rows[work->row_count++].kind = kind;
}

static ousac_status parse_rows(const sample_request *request, sample_work *work, ousac_error *error) {
    const char *text = request->rows;
    int seen[ROWS_MAX] = {0};

    if (text == NULL)
        text = request->bundle != NULL ? "exact,calibrated,reuse" : "exact";
    while (1) {
        size_t length = strcspn(text, ","), kind = 0;
        while (kind < ROWS_MAX &&
               (strlen(ROW_NAMES[kind]) != length || strncmp(text, ROW_NAMES[kind], length)))
            kind++;
        if (kind == ROWS_MAX || seen[kind]) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--rows expects some of exact,calibrated,reuse, each once, not '%s'",
                              request->rows);
        }
        if (kind == ROW_CALIBRATED && request->bundle == NULL)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--rows calibrated needs --bundle FILE");
        seen[kind] = 1;
        add_row(work, (row_kind)kind);
        if (text[length] == '\0')
            return OUSAC_STATUS_OK;
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
    if (status)
        return status;
    work->plan = ousac_bundle_find_plan(work->bundle, request->plan);
    if (work->plan == NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%s: no plan named '%s'; `ousac inspect` lists its plans", request->bundle,
                          request->plan != NULL ? request->plan : "default");
    }
    status = judge(ousac_bundle_check_model(work->bundle, work->model, note, error), request, common, error);
    if (*note != '\0')
        cli_note(common, "note: %s", note);
    if (status)
        return status;
    if (request->schedule == NULL) {
        work->schedule = ousac_bundle_schedule(work->bundle);
    } else {
        status =
            judge(ousac_bundle_check_schedule(work->bundle, work->schedule, error), request, common, error);
        if (status)
            return status;
    }
    return ousac_bundle_calibration(work->bundle, work->plan, &work->model->arch, work->model->backend,
                                    &work->calibration, error);
}

/* Only the exact row needs no gates. */
static ousac_status check_rows(const sample_request *request, const sample_work *work, ousac_error *error) {
    for (size_t i = 0; i < work->row_count; i++)
        if (work->rows[i].kind != ROW_EXACT && ousac_place_undecided(work->schedule))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--rows %s: %s leaves its gates to a plan; `ousac place` decides them",
                              ROW_NAMES[work->rows[i].kind], request->schedule);
    return OUSAC_STATUS_OK;
}

/* The grid without its images. */
static png_grid lay_out(const sample_request *request, const sample_work *work) {
    size_t zoom = request->zoom;
    while (zoom == 0 || (request->zoom == 0 && zoom * work->model->height < CELL_PIXELS))
        zoom++;
    return (png_grid){.rows = work->row_count,
                      .columns = (size_t)request->samples.count,
                      .channels = work->model->channels,
                      .height = work->model->height,
                      .width = work->model->width,
                      .zoom = zoom,
                      .labels = work->labels};
}

static ousac_status open_inputs(const sample_request *request, const cli_common *common, sample_work *work,
                                ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;

    if (request->schedule != NULL) {
        status = ousac_schedule_load(&work->loaded, request->schedule, error);
        work->schedule = &work->loaded;
        if (!status && !request->rows && !request->bundle &&
            ousac_schedule_has_gate(&work->loaded, OUSAC_GATE_EXTRAPOLATE))
            add_row(work, ROW_REUSE);
    }
    if (!status)
        status = cli_load_model(&work->model, &request->model, error);
    if (!status && request->bundle != NULL)
        status = open_bundle(request, common, work, error);
    if (!status)
        status = check_rows(request, work, error);
    if (!status)
        status = ousac_run_check_schedule(work->model, work->schedule, error);
    if (!status) {
        const png_grid grid = lay_out(request, work);
        work->sample_size = ousac_model_sample_size(work->model);
        status = png_grid_check(&grid, request->output, error);
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
    const ousac_session session = cli_session(common, work->model, request->seed, request->micro_batch);
    const ousac_session_run run = {.label = name,
                                   .schedule = work->schedule,
                                   .range = request->samples,
                                   .exact = r->kind == ROW_EXACT,
                                   .calibration = r->kind == ROW_CALIBRATED ? work->calibration : NULL,
                                   .samples = r->samples,
                                   .counters = &r->counters,
                                   .seconds = &r->seconds};
    ousac_status status = ousac_session_run_samples(&session, &run, error);
    if (status)
        ousac_error_prefix(error, "row %s", name);
    return status;
}

static ousac_status compare_rows(const sample_request *request, sample_work *work, ousac_error *error) {
    const row *exact = NULL;

    for (size_t i = 0; i < work->row_count; i++)
        exact = work->rows[i].kind == ROW_EXACT ? &work->rows[i] : exact;
    for (size_t i = 0; exact != NULL && i < work->row_count; i++) {
        row *r = &work->rows[i];
        if (r->kind != ROW_EXACT) {
            ousac_status status = ousac_evaluate_difference(
                r->samples, exact->samples, (size_t)request->samples.count, work->sample_size,
                ousac_model_range(work->model), request->seed, &r->difference, error);
            if (status)
                return status;
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
    if (!status) {
        ousac_schedule_digest(work->schedule, digest);
        status = ousac_oca_writer_metadata(writer, "schedule_digest", digest, error);
    }
    if (!status)
        status = ousac_oca_writer_metadata(writer, "model_digest", work->model->digest, error);
    if (!status && work->plan != NULL)
        status = ousac_oca_writer_metadata(writer, "plan", work->plan->name, error);
    if (!status)
        status = ousac_archive_put_u64(writer, "seed", request->seed, error);
    if (!status)
        status = ousac_archive_put_u64(writer, "first_sample", request->samples.first, error);
    if (!status)
        status = samples_put_range(writer, ousac_model_range(work->model), error);
    for (size_t i = 0; !status && i < work->row_count; i++) {
        snprintf(name, sizeof name, "samples/%s", ROW_NAMES[work->rows[i].kind]);
        status = ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F32, 4, shape,
                                         OUSAC_OCA_CODEC_SHUFFLE_ZSTD, work->rows[i].samples, error);
    }
    if (!status)
        status = ousac_oca_writer_save(writer, request->raw, error);
    ousac_oca_writer_free(writer);
    return status;
}

static ousac_status write_png(const sample_request *request, const sample_work *work, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const size_t columns = (size_t)request->samples.count;
    png_grid grid = lay_out(request, work);
    const float **images = ousac_calloc(work->row_count * columns, sizeof *images);

    if (images == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a grid of %zu columns", columns);
    for (size_t i = 0; i < work->row_count; i++)
        for (size_t column = 0; column < columns; column++)
            images[i * columns + column] = work->rows[i].samples + column * work->sample_size;
    grid.images = images;
    status = png_grid_write(&grid, request->output, error);
    ousac_free(images);
    return status;
}

static ousac_status report_json(const sample_request *request, const sample_work *work, ousac_error *error) {
    ousac_json_doc doc;
    char text[INPUT_BYTES], digest[OUSAC_DIGEST_CHARS];
    double count = (double)request->samples.count;

    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "file", request->output);
    if (request->raw != NULL)
        ousac_json_put_text(&doc, doc.root, "raw", request->raw);
    ousac_schedule_digest(work->schedule, digest);
    ousac_json_put_text(&doc, doc.root, "model_digest", work->model->digest);
    ousac_json_put_text(&doc, doc.root, "schedule_digest", digest);
    ousac_json_put_u64(&doc, doc.root, "seed", request->seed);
    ousac_json_put_u64(&doc, doc.root, "first_sample", request->samples.first);
    cJSON *inputs = ousac_json_put_array(&doc, doc.root, "inputs");
    for (uint64_t i = 0; i < request->samples.count; i++) {
        work->model->family->describe_input(work->model, request->seed, request->samples.first + i, text,
                                            sizeof text);
        ousac_json_put_text(&doc, inputs, NULL, text);
    }
    cJSON *rows = ousac_json_put_array(&doc, doc.root, "rows");
    for (size_t i = 0; i < work->row_count; i++) {
        const row *r = &work->rows[i];
        cJSON *object = ousac_json_put_object(&doc, rows, NULL);
        ousac_json_put_text(&doc, object, "row", ROW_NAMES[r->kind]);
        ousac_json_put_real(&doc, object, "seconds", r->seconds);
        ousac_json_put_real(&doc, object, "macs_per_sample", (double)r->counters.macs / count);
        cJSON *forwards = ousac_json_put_object(&doc, object, "forwards");
        ousac_json_put_u64(&doc, forwards, "full", r->counters.forwards[OUSAC_GATE_FULL]);
        ousac_json_put_u64(&doc, forwards, "cached", r->counters.forwards[OUSAC_GATE_CACHED]);
        ousac_json_put_u64(&doc, forwards, "reuse", r->counters.forwards[OUSAC_GATE_REUSE]);
        ousac_json_put_u64(&doc, forwards, "extrapolate", r->counters.forwards[OUSAC_GATE_EXTRAPOLATE]);
        if (r->compared) {
            const ousac_interval *relative = &r->difference.relative_error, *psnr = &r->difference.psnr_db;
            cJSON *item = ousac_json_put_object(&doc, object, "relative_error");
            ousac_json_put_real(&doc, item, "mean", relative->mean);
            ousac_json_put_real(&doc, item, "low", relative->low);
            ousac_json_put_real(&doc, item, "high", relative->high);
            item = ousac_json_put_object(&doc, object, "psnr_db");
            ousac_json_put_real(&doc, item, "mean", psnr->mean);
            ousac_json_put_real(&doc, item, "low", psnr->low);
            ousac_json_put_real(&doc, item, "high", psnr->high);
        }
    }
    ousac_status status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

static void report_text(const sample_request *request, const sample_work *work) {
    double count = (double)request->samples.count;

    cli_printf("%s: %" PRIu64 " samples, %zu row%s\n", request->output, request->samples.count,
               work->row_count, work->row_count == 1 ? "" : "s");
    cli_printf("%-11s %10s %15s   %s\n", "row", "seconds", "GMAC a sample",
               "error against exact, 95 % interval");
    for (size_t i = 0; i < work->row_count; i++) {
        const row *r = &work->rows[i];
        cli_printf("%-11s %10.2f %15.3f", ROW_NAMES[r->kind], r->seconds,
                   1e-9 * (double)r->counters.macs / count);
        if (r->compared) {
            const ousac_interval *relative = &r->difference.relative_error, *psnr = &r->difference.psnr_db;
            char of_relative[OUSAC_INTERVAL_BYTES], of_psnr[OUSAC_INTERVAL_BYTES];
            cli_printf("   %.4f %s, PSNR %.2f dB %s", relative->mean,
                       ousac_interval_text(relative, "%.4f", of_relative), psnr->mean,
                       ousac_interval_text(psnr, "%.2f", of_psnr));
        }
        putchar('\n');
    }
}

static ousac_status sample(const sample_request *request, const cli_common *common, sample_work *work,
                           ousac_error *error) {
    ousac_status status = check_request(request, error);

    if (!status)
        status = parse_rows(request, work, error);
    if (!status)
        status = open_inputs(request, common, work, error);
    for (size_t i = 0; !status && i < work->row_count; i++)
        status = run_row(request, common, work, &work->rows[i], error);
    if (!status)
        status = compare_rows(request, work, error);
    if (!status && request->raw != NULL)
        status = write_raw(request, work, error);
    if (!status)
        status = write_png(request, work, error);
    if (!status && common->json)
        status = report_json(request, work, error);
    else if (!status)
        report_text(request, work);
    return status;
}

#define AT(member) offsetof(sample_request, member)
/* clang-format off */
static const cli_option options[] = {
    OPTIONS_MODEL(AT(model)),
    OPTIONS_DEVICE(AT(model)),
    {"schedule", 's', CLI_INPUT, AT(schedule), "FILE", NULL,
     "schedule (default: the bundle's)", 0, 0},
    {"bundle", 'b', CLI_INPUT, AT(bundle), "FILE", NULL,
     "calibration to run the row 'calibrated' with", 0, 0},
    {"plan", 0, CLI_TEXT, AT(plan), "NAME", NULL,
     "plan of the bundle (default: 'default', or the only one)", 0, 0},
    {"samples", 0, CLI_RANGE, AT(samples), "FIRST:END", "0:8",
     "samples, END excluded, or a count from 0; FIRST a multiple of the micro-batch", 0, 0},
    OPTIONS_SEED(AT(seed)),
    OPTIONS_MICRO_BATCH(AT(micro_batch)),
    {"rows", 0, CLI_TEXT, AT(rows), "LIST", NULL,
     "rows of the grid, some of exact,calibrated,reuse (default: all with a bundle; else exact, and reuse where the schedule extrapolates)", 0, 0},
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "PNG file to write", 0, 0},
    {"zoom", 0, CLI_SIZE, AT(zoom), "N", NULL,
     "pixels along the edge of a sample's pixel (default: enough for cells of 64 pixels)", 1, 64},
    {"raw", 0, CLI_OUTPUT, AT(raw), "FILE", NULL,
     "also write the samples as float32 tensors samples/ROW (count, channels, height, width), .oca", 0, 0},
    {"force", 0, CLI_FLAG, AT(force), NULL, NULL,
     "use a bundle made for another model or schedule, with a warning", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    sample_work *work = ousac_calloc(1, sizeof *work);
    if (!work)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the rows");
    const ousac_status status = sample(values, &call->common, work, error);
    for (size_t i = 0; i < work->row_count; i++)
        ousac_free(work->rows[i].samples);
    ousac_calibration_free(work->calibration);
    ousac_bundle_close(work->bundle);
    ousac_model_free(work->model);
    ousac_schedule_free(&work->loaded);
    ousac_free(work);
    return status;
}

const cli_command command_sample = {
    .name = "sample",
    .summary = "draw images: exact, calibrated and with plain reuse, in rows",
    .arguments = "",
    .details =
        "Denoises samples under a schedule and writes them as a PNG grid: one column a sample, one row a way "
        "of running. 'exact' computes every step in full, 'calibrated' uses a bundle's corrections at the "
        "schedule's cached steps, 'reuse' repeats module outputs there, and both extrapolate them where the "
        "schedule says so. Prints for each row the time, the "
        "multiply-accumulates and, where 'exact' is among the rows, the error against it. A bundle made for "
        "another model or schedule is refused unless --force is given.",
    .example =
        "build/ousac sample --model data/shapes-dit/model.safetensors --bundle build/demo/bundle.oca \\\n"
        "    --samples 0:8 --seed 9 -o /tmp/samples.png",
    .options = options,
    .request_size = sizeof(sample_request),
    .run = run,
};
