#include "profile/model/hosted.h"

#include "formats/memory.h"
#include "profile/files/arch_text.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef struct hosted {
    void *self;
    int (*forward)(void *self, const ousac_hosted_forward_args *args, ousac_hosted_call *call, char *message,
                   size_t size);
    pthread_mutex_t lock; /* one evaluation at a time */
    unsigned char *seen;  /* (group_count) of the evaluation under way */
    unsigned char *state; /* (module_count) likewise: one of module_state */
} hosted;

typedef enum module_state { UNSEEN = 0, LIVE = 1, SKIPPED = 2, ENDED = 3 } module_state;

typedef struct workspace {
    size_t batch, count;
    uint64_t first;
} workspace;

struct ousac_hosted_call {
    const ousac_model *model;
    hosted *host;
    const ousac_linears *linears;
    size_t count;
    ousac_status status; /* the first failure */
    ousac_error error;
};

/* --- what the host calls --- */

static ousac_status failed(ousac_hosted_call *call, ousac_status status, const ousac_error *error) {
    if (status && !call->status) {
        call->status = status;
        call->error = *error;
    }
    return call->status;
}

static ousac_status misused(ousac_hosted_call *call, const char *name, const char *what) {
    ousac_error error = {0};
    return failed(call, OUSAC_FAIL(&error, OUSAC_STATUS_USAGE, "%s: %s %s", call->model->path, name, what),
                  &error);
}

static void rows_of(const ousac_hosted_call *call, size_t module, float *const *data,
                    ousac_rows out[OUSAC_OUTPUTS_MAX]) {
    const ousac_arch *arch = &call->model->arch;
    for (size_t o = 0; o < arch->modules[module].output_count; o++)
        out[o] = (ousac_rows){data[o], call->count * ousac_arch_output_tokens(arch, module, o),
                              arch->modules[module].output[o].width};
}

ousac_status ousac_hosted_module_begin(ousac_hosted_call *call, size_t module, float *const *out, int *live) {
    const ousac_arch *arch = &call->model->arch;
    ousac_rows rows[OUSAC_OUTPUTS_MAX];
    ousac_error error = {0};
    *live = 0;
    if (call->status)
        return call->status;
    if (module >= arch->module_count)
        return misused(call, "a module", "beyond the last");
    if (call->host->state[module] != UNSEEN)
        return misused(call, arch->modules[module].name, "began twice in one evaluation");
    rows_of(call, module, out, rows);
    *live = 1;
    const ousac_status status = call->linears->module_begin(call->linears->self, module, rows, live, &error);
    call->host->state[module] = *live ? LIVE : SKIPPED;
    return failed(call, status, &error);
}

ousac_status ousac_hosted_linear(ousac_hosted_call *call, size_t group, const float *x, float *y) {
    const ousac_arch *arch = &call->model->arch;
    ousac_error error = {0};
    size_t m = 0;
    if (call->status)
        return call->status;
    if (group >= arch->group_count)
        return misused(call, "a group", "beyond the last");
    const ousac_group *g = &arch->groups[group];
    if (call->host->seen[group]++)
        return misused(call, g->name, "came twice in one evaluation");
    if (call->host->state[arch->sites[g->first_site].module] != LIVE)
        return misused(call, g->name, "came outside of its module");
    for (size_t s = g->first_site; s < g->first_site + g->site_count; s++)
        m += arch->sites[s].m;
    const size_t n = arch->sites[g->first_site].n, rows = call->count * ousac_arch_group_tokens(arch, group);
    return failed(call, call->linears->linear(call->linears->self, group, rows, x, n, y, m, &error), &error);
}

ousac_status ousac_hosted_module_end(ousac_hosted_call *call, size_t module, const float *const *out) {
    const ousac_arch *arch = &call->model->arch;
    ousac_rows rows[OUSAC_OUTPUTS_MAX];
    float *data[OUSAC_OUTPUTS_MAX];
    ousac_error error = {0};
    if (call->status)
        return call->status;
    if (module >= arch->module_count)
        return misused(call, "a module", "beyond the last");
    if (call->host->state[module] != LIVE)
        return misused(call, arch->modules[module].name, "ended without having begun");
    memcpy(data, out, arch->modules[module].output_count * sizeof *data); /* they are read alone */
    rows_of(call, module, data, rows);
    call->host->state[module] = ENDED;
    return failed(call, call->linears->module_end(call->linears->self, module, rows, &error), &error);
}

/* --- the family --- */

static ousac_status workspace_create(const ousac_model *model, size_t batch, void **pointer,
                                     ousac_error *error) {
    workspace *ws = ousac_calloc(1, sizeof *ws);
    (void)model;
    if (!ws)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a workspace");
    ws->batch = batch;
    *pointer = ws;
    return OUSAC_STATUS_OK;
}

static void workspace_free(const ousac_model *model, void *pointer) {
    (void)model;
    ousac_free(pointer);
}

/* The host's own memory is not known here. */
static uint64_t workspace_bytes(const ousac_model *model, size_t batch) {
    (void)model;
    (void)batch;
    return sizeof(workspace);
}

/* What the host makes of them is its own affair. */
static ousac_status check_inputs(const ousac_model *model, const ousac_inputs *inputs, ousac_error *error) {
    (void)model;
    (void)inputs;
    (void)error;
    return OUSAC_STATUS_OK;
}

static ousac_status set_inputs(const ousac_model *model, void *pointer, uint64_t seed, uint64_t first,
                               size_t count, ousac_error *error) {
    workspace *ws = pointer;
    (void)seed;
    if (count > ws->batch)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: %zu samples in a workspace of %zu", model->path,
                          count, ws->batch);
    ws->first = first;
    ws->count = count;
    return OUSAC_STATUS_OK;
}

static void describe_input(const ousac_model *model, uint64_t seed, uint64_t sample, char *text,
                           size_t size) {
    (void)seed;
    if (model->inputs)
        (void)snprintf(text, size, "row %zu", (size_t)(sample % ousac_inputs_rows(model->inputs)));
    else
        (void)snprintf(text, size, "sample %llu", (unsigned long long)sample);
}

/* Every group and module of a live module came, and every module was asked for. */
static ousac_status check_complete(const ousac_model *model, const hosted *host, ousac_error *error) {
    const ousac_arch *arch = &model->arch;
    for (size_t i = 0; i < arch->module_count; i++)
        if (host->state[i] == UNSEEN || host->state[i] == LIVE)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: module %s %s", model->path,
                              arch->modules[i].name,
                              host->state[i] ? "did not end" : "did not come in an evaluation");
    for (size_t g = 0; g < arch->group_count; g++)
        if (!host->seen[g] && host->state[arch->sites[arch->groups[g].first_site].module] != SKIPPED)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: group %s did not come in an evaluation",
                              model->path, arch->groups[g].name);
    return OUSAC_STATUS_OK;
}

static ousac_status forward(const ousac_model *model, void *pointer, const ousac_evaluation *evaluation,
                            const float *x, const ousac_linears *linears, float *out, ousac_error *error) {
    hosted *host = model->state;
    const workspace *ws = pointer;
    char message[OUSAC_ERROR_MESSAGE_BYTES / 2] = "";
    ousac_hosted_call call = {model, host, linears, evaluation->count, OUSAC_STATUS_OK, {0}};
    const ousac_hosted_forward_args args = {
        evaluation->branch, ws->first, evaluation->count, evaluation->timestep, evaluation->guidance, x, out};
    ousac_status status = OUSAC_STATUS_OK;
    (void)pthread_mutex_lock(&host->lock);
    memset(host->seen, 0, model->arch.group_count);
    memset(host->state, 0, model->arch.module_count);
    const int refused = host->forward(host->self, &args, &call, message, sizeof message);
    if (call.status) {
        status = call.status;
        if (error)
            *error = call.error;
    } else if (refused) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: its forward failed: %s", model->path,
                            *message ? message : "no reason was given");
    } else {
        status = check_complete(model, host, error);
    }
    (void)pthread_mutex_unlock(&host->lock);
    return status;
}

static void unload(ousac_model *model) {
    hosted *host = model->state;
    if (!host)
        return;
    (void)pthread_mutex_destroy(&host->lock);
    ousac_free(host->seen);
    ousac_free(host->state);
    ousac_free(host);
    model->state = NULL;
}

static const ousac_family FAMILY = {.name = "hosted",
                                    .one_at_a_time = 1,
                                    .unload = unload,
                                    .workspace_create = workspace_create,
                                    .workspace_free = workspace_free,
                                    .workspace_bytes = workspace_bytes,
                                    .check_inputs = check_inputs,
                                    .set_inputs = set_inputs,
                                    .describe_input = describe_input,
                                    .forward = forward};

/* --- making it --- */

static ousac_status check(const ousac_hosted_options *o, ousac_error *error) {
    const struct {
        const char *name;
        int there;
    } needed[] = {
        {"arch", o->arch != NULL},     {"levels", o->levels != NULL},   {"prediction", o->prediction != NULL},
        {"weight", o->weight != NULL}, {"forward", o->forward != NULL}, {"channels", o->channels != 0},
        {"height", o->height != 0},    {"width", o->width != 0}};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].there)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s: `%s` is missing",
                              o->name ? o->name : "hosted model", needed[i].name);
    if (o->guided_channels > o->channels)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`guided_channels` is %zu; expected at most %zu",
                          o->guided_channels, o->channels);
    if (o->rescaled && o->guided_channels && o->guided_channels != o->channels)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`rescaled`: expected guidance on all channels");
    if (o->channels > SIZE_MAX / o->height / o->width / sizeof(float))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`channels`, `height`, `width`: too large");
    return OUSAC_STATUS_OK;
}

/* Weights of a site, checked, into the digest. */
static ousac_status add_values(ousac_sha256 *state, const float *values, size_t count, const char *site,
                               ousac_error *error) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "%s: weight %zu is not finite", site, i);
    ousac_sha256_add(state, values, count * sizeof *values);
    return OUSAC_STATUS_OK;
}

static ousac_status take_weights(ousac_model *model, const ousac_hosted_options *o, ousac_error *error) {
    const ousac_arch *arch = &model->arch;
    ousac_status status = OUSAC_STATUS_OK;
    ousac_sha256 state;
    model->weight = ousac_calloc(arch->site_count, sizeof *model->weight);
    model->bias = ousac_calloc(arch->site_count, sizeof *model->bias);
    if (!model->weight || !model->bias)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", model->path);
    ousac_sha256_begin(&state);
    ousac_arch_digest_add(arch, 2, &state);
    for (size_t s = 0; s < arch->site_count && !status; s++) {
        const ousac_site *site = &arch->sites[s];
        const float *bias = o->bias ? o->bias[s] : NULL;
        if (!o->weight[s])
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`weight`: none of site %s", site->name);
        status = add_values(&state, o->weight[s], site->m * site->n, site->name, error);
        if (!status && bias)
            status = add_values(&state, bias, site->m, site->name, error);
        model->weight[s] = o->weight[s];
        model->bias[s] = bias;
        model->weight_bytes += (site->m * site->n + (bias ? site->m : 0)) * sizeof(float);
    }
    ousac_sha256_add(&state, model->constants, strlen(model->constants) + 1);
    if (o->rest)
        ousac_sha256_add(&state, o->rest, strlen(o->rest));
    ousac_sha256_end(&state, model->digest);
    return status;
}

ousac_status ousac_hosted_create(ousac_model **made, const ousac_hosted_options *o, ousac_error *error) {
    ousac_status status = check(o, error);
    *made = NULL;
    if (status)
        return status;
    ousac_model *model = ousac_calloc(1, sizeof *model);
    hosted *host = ousac_calloc(1, sizeof *host);
    if (!model || !host) {
        ousac_free(model);
        ousac_free(host);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a hosted model");
    }
    (void)pthread_mutex_init(&host->lock, NULL);
    host->self = o->self;
    host->forward = o->forward;
    model->family = &FAMILY;
    model->state = host;
    model->backend = ousac_backend_cpu();
    model->channels = o->channels;
    model->height = o->height;
    model->width = o->width;
    model->guided_channels = o->guided_channels ? o->guided_channels : o->channels;
    model->has_uncond = o->has_uncond;
    model->rescaled = o->rescaled != 0;
    model->path = ousac_strdup(o->name ? o->name : "hosted model");
    status = model->path ? ousac_arch_parse(&model->arch, o->arch, 2, "`arch`", error)
                         : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a hosted model");
    if (status)
        goto done;
    if (o->constants && strlen(o->constants) >= sizeof model->constants) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`constants`: expected at most %zu bytes",
                            sizeof model->constants - 1);
        goto done;
    }
    (void)snprintf(model->constants, sizeof model->constants, "%s", o->constants ? o->constants : "");
    host->seen = ousac_calloc(model->arch.group_count, sizeof *host->seen);
    host->state = ousac_calloc(model->arch.module_count, sizeof *host->state);
    if (!host->seen || !host->state) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a hosted model");
        goto done;
    }
    status = ousac_noise_parse(o->levels, "`levels`", &model->noise, error);
    if (!status && ousac_prediction_parse(&model->noise.prediction, o->prediction))
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "`prediction` is \"%s\"; expected epsilon, v, flow or sample", o->prediction);
    if (!status)
        status = ousac_noise_check(&model->noise, model->path, error);
    if (!status)
        status = take_weights(model, o, error);
    if (status)
        goto done;
    ousac_model_describe_process(model);
    if (o->inputs)
        status = ousac_inputs_open(&model->inputs, o->inputs, error);
    if (!status && o->inputs)
        status = ousac_inputs_expect(model->inputs, OUSAC_INPUT_NOISE, 0, 3,
                                     (size_t[]){o->channels, o->height, o->width}, error);
    if (status)
        goto done;
    *made = model;
    model = NULL;
done:
    ousac_model_free(model);
    return status;
}
