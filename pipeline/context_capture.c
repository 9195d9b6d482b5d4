#include <ousac/ousac.h>

#include "formats/memory.h"
#include "pipeline/context_parts.h"
#include "pipeline/machine.h"
#include "pipeline/record.h"
#include "pipeline/shard.h"
#include "profile/record/capture.h"

struct ousac_capture {
    const ousac_context *context;
    ousac_captured *captured;
    ousac_profile *profile;
    ousac_record_cost cost;
    int pilot;
    double start; /* of the first evaluation; 0 before it */
};

void ousac_capture_options_init_sized(ousac_capture_options *options, size_t size) {
    const ousac_capture_options defaults = {.size = sizeof defaults,
                                            .count = OUSAC_DEFAULT_CALIBRATION_SAMPLES};
    INIT_OPTIONS(options, size, defaults);
}

void ousac_capture_close(ousac_capture *capture) {
    if (!capture)
        return;
    ousac_captured_free(capture->captured);
    ousac_profile_free(capture->profile);
    ousac_free(capture);
}

/* Linears and attention both ran in the numbers of the caller. */
static int compute_of(ousac_capture_dtype dtype, ousac_compute *compute) {
    switch (dtype) {
    case OUSAC_CAPTURE_F32:
        *compute = OUSAC_COMPUTE_F32;
        return 0;
    case OUSAC_CAPTURE_F16:
        *compute = OUSAC_COMPUTE_F16_ATTENTION;
        return 0;
    case OUSAC_CAPTURE_BF16:
        *compute = OUSAC_COMPUTE_BF16_ATTENTION;
        return 0;
    }
    return -1;
}

static ousac_status check(const ousac_context *context, const ousac_capture_options *o,
                          const ousac_schedule *schedule, const ousac_sample_range *range,
                          ousac_error *error) {
    ousac_status status = ousac_range_check("first", range, context->session.micro_batch, error);
    if (!status && (o->count > OUSAC_SAMPLES_MAX || o->first > UINT64_MAX - o->count))
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`count`: expected at most %d", OUSAC_SAMPLES_MAX);
    if (!status && o->at_once > OUSAC_SAMPLES_MAX)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`at_once`: expected at most %d", OUSAC_SAMPLES_MAX);
    if (!status && o->pilot && o->weights)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "expected one of `pilot` and `weights`");
    /* Weights that a device has, or that are packed for its products, are not for reading. */
    if (!status && !o->outputs && (context->model->sealed || !context->model->backend->host))
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`outputs` is 0; expected 1 beside `device` and `bf16`");
    if (!status)
        status = ousac_record_check_tokens(context->model, o->tokens, error);
    return status ? status : ousac_run_check_schedule(context->model, schedule, error);
}

ousac_status ousac_capture_open(ousac_capture **capture, ousac_context *context, const char *schedule,
                                const ousac_capture_options *options, ousac_error *error) {
    const ousac_model *model = context->model;
    const ousac_session *session = &context->session;
    ousac_capture_options o;
    ousac_schedule loaded = {0};
    ousac_profile *weights = NULL;
    ousac_capture *made = NULL;
    ousac_compute compute = OUSAC_COMPUTE_F32;
    *capture = NULL;
    TAKE_OPTIONS(ousac_capture_options, o, options, error);
    const ousac_sample_range range = {o.first, o.count};
    if (compute_of(o.dtype, &compute))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`dtype` is %d; expected 0, 1 or 2", (int)o.dtype);
    ousac_status status = ousac_session_load_schedule(&loaded, schedule, error);
    if (!status)
        status = check(context, &o, &loaded, &range, error);
    if (status)
        goto done;
    made = ousac_calloc(1, sizeof *made);
    if (!made) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a capture");
        goto done;
    }
    made->context = context;
    made->pilot = o.pilot;
    if (o.weights)
        status =
            ousac_record_load_weights_of(session, &loaded, compute, o.weights, &weights, &made->cost, error);
    const ousac_record_options record = {.range = range, .tokens = o.tokens, .segments = 1};
    ousac_profile_identity identity = ousac_record_identity(session, &record);
    identity.compute = compute;
    if (!status)
        status = ousac_profile_create(&made->profile, &model->arch, &loaded, &identity,
                                      weights ? weights->weight : NULL, !o.pilot, error);
    const ousac_captured_options inner = {.name = model->path,
                                          .range = range,
                                          .micro_batch = session->micro_batch,
                                          .at_once = o.at_once ? o.at_once : 1,
                                          .weight = o.outputs ? NULL : (const float *const *)model->weight,
                                          .bias = (const float *const *)model->bias};
    if (!status)
        status = ousac_captured_create(&made->captured, made->profile, &inner, error);
    if (status)
        goto done;
    *capture = made;
    made = NULL;
done:
    ousac_profile_free(weights);
    ousac_schedule_free(&loaded);
    ousac_capture_close(made);
    return status;
}

ousac_status ousac_capture_begin(ousac_capture *capture, uint64_t first, uint64_t count, size_t step,
                                 int branch, ousac_error *error) {
    if (capture->start == 0)
        capture->start = ousac_clock_s();
    return ousac_captured_begin(capture->captured, first, count, step, branch, error);
}

ousac_status ousac_capture_rows(ousac_capture *capture, int branch, size_t stream, const uint32_t **rows,
                                size_t *count, ousac_error *error) {
    return ousac_captured_rows(capture->captured, branch, stream, rows, count, error);
}

static ousac_captured_matrix inner_of(const ousac_capture_matrix *x) {
    static const ousac_dtype dtypes[] = {OUSAC_DTYPE_F32, OUSAC_DTYPE_F16, OUSAC_DTYPE_BF16};
    const int known = (unsigned)x->dtype < sizeof dtypes / sizeof *dtypes;
    return (ousac_captured_matrix){.data = x->data,
                                   .dtype = known ? dtypes[x->dtype] : OUSAC_DTYPE_U8, /* refused there */
                                   .rows = x->rows,
                                   .columns = x->columns,
                                   .taken = x->taken != 0};
}

ousac_status ousac_capture_input(ousac_capture *capture, int branch, size_t group,
                                 const ousac_capture_matrix *x, ousac_error *error) {
    const ousac_captured_matrix inner = inner_of(x);
    return ousac_captured_input(capture->captured, branch, group, &inner, error);
}

ousac_status ousac_capture_output(ousac_capture *capture, int branch, size_t site,
                                  const ousac_capture_matrix *y, ousac_error *error) {
    const ousac_captured_matrix inner = inner_of(y);
    return ousac_captured_output(capture->captured, branch, site, &inner, error);
}

ousac_status ousac_capture_module(ousac_capture *capture, int branch, size_t module, size_t output,
                                  const ousac_capture_matrix *out, ousac_error *error) {
    const ousac_captured_matrix inner = inner_of(out);
    return ousac_captured_module(capture->captured, branch, module, output, &inner, error);
}

ousac_status ousac_capture_end(ousac_capture *capture, int branch, ousac_error *error) {
    const ousac_status status = ousac_captured_end(capture->captured, branch, error);
    capture->cost.seconds = ousac_clock_s() - capture->start;
    return status;
}

void ousac_capture_forget(ousac_capture *capture) {
    ousac_captured_forget(capture->captured);
}

ousac_status ousac_capture_write(ousac_capture *capture, const char *output, ousac_error *error) {
    ousac_status status = ousac_captured_check_complete(capture->captured, error);
    if (status)
        return status;
    capture->cost.forwards = ousac_captured_forwards(capture->captured);
    if (capture->pilot) {
        capture->cost.pilot = capture->profile->ranges[0];
        status = ousac_record_weigh(capture->profile, error);
    }
    return status ? status
                  : ousac_record_save(&capture->context->session, capture->profile, output, &capture->cost, 0,
                                      error);
}
