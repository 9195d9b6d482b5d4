#include <ousac/ousac.h>

#include "formats/memory.h"
#include "pipeline/context_parts.h"
#include "profile/model/hosted.h"

#include <stdio.h>
#include <stdlib.h>

/* What a caller's forward is called through: the public structure from the inner one. */
typedef struct bridge {
    void *self;
    int (*forward)(void *self, const ousac_host_evaluation *evaluation, ousac_host_call *call, char *message,
                   size_t bytes);
} bridge;

static int forward(void *self, const ousac_hosted_forward_args *args, ousac_hosted_call *call, char *message,
                   size_t size) {
    const bridge *b = self;
    const ousac_host_evaluation evaluation = {.branch = args->branch,
                                              .first = args->first,
                                              .count = args->count,
                                              .timestep = args->timestep,
                                              .guidance = args->guidance,
                                              .x = args->x,
                                              .out = args->out};
    return b->forward(b->self, &evaluation, (ousac_host_call *)call, message, size);
}

/* Of a model that is captured. */
static int no_forward(void *self, const ousac_host_evaluation *evaluation, ousac_host_call *call,
                      char *message, size_t bytes) {
    (void)self;
    (void)evaluation;
    (void)call;
    (void)snprintf(message, bytes, "it is captured, and none was given");
    return 1;
}

void ousac_host_model_init_sized(ousac_host_model *model, size_t size) {
    const ousac_host_model defaults = {.size = sizeof defaults};
    INIT_OPTIONS(model, size, defaults);
}

ousac_status ousac_context_open_host(ousac_context **context, const ousac_context_options *options,
                                     const ousac_host_model *model, ousac_error *error) {
    ousac_context_options o;
    ousac_host_model h;
    ousac_context *made = NULL;
    ousac_model *hosted = NULL;
    *context = NULL;
    TAKE_OPTIONS(ousac_context_options, o, options, error);
    TAKE_OPTIONS(ousac_host_model, h, model, error);
    if (!h.forward && !h.captured)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`forward` is missing");
    ousac_status status = ousac_context_begin(&made, &o, error);
    if (status)
        return status;
    bridge *b = ousac_calloc(1, sizeof *b);
    made->bridge = b;
    if (!b) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a context");
        goto done;
    }
    *b = (bridge){h.self, h.forward ? h.forward : no_forward};
    const ousac_hosted_options inner = {.name = h.name,
                                        .arch = h.arch,
                                        .levels = h.levels,
                                        .prediction = h.prediction,
                                        .constants = h.constants,
                                        .rest = h.rest,
                                        .inputs = o.inputs,
                                        .channels = h.channels,
                                        .height = h.height,
                                        .width = h.width,
                                        .guided_channels = h.guided_channels,
                                        .has_uncond = h.has_uncond,
                                        .rescaled = h.rescaled,
                                        .weight = h.weight,
                                        .bias = h.bias,
                                        .self = b,
                                        .forward = forward};
    status = ousac_hosted_create(&hosted, &inner, error);
    if (status)
        goto done;
    ousac_context_take_model(made, hosted);
    *context = made;
    made = NULL;
done:
    ousac_context_close(made);
    return status;
}

ousac_status ousac_host_module_begin(ousac_host_call *call, size_t module, float *const *out, int *live) {
    return ousac_hosted_module_begin((ousac_hosted_call *)call, module, out, live);
}

ousac_status ousac_host_linear(ousac_host_call *call, size_t group, const float *x, float *y) {
    return ousac_hosted_linear((ousac_hosted_call *)call, group, x, y);
}

ousac_status ousac_host_module_end(ousac_host_call *call, size_t module, const float *const *out) {
    return ousac_hosted_module_end((ousac_hosted_call *)call, module, out);
}
