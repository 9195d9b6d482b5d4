#include "pipeline/inflection.h"

#include "formats/memory.h"

#include <string.h>

/* Averages at the last evaluations of a branch: the present one's, and the two before. */
enum { NOW, LAST, BEFORE, KEPT };

typedef struct branch_means {
    size_t evaluations;
    double *mean[KEPT]; /* (all outputs of a sample, one after another) */
} branch_means;

typedef struct watch {
    const ousac_model *model;
    size_t samples;
    size_t *first; /* (module_count * OUSAC_OUTPUTS_MAX): where an output begins in the means */
    float *host;   /* (the largest width of an output) */
    branch_means branch[OUSAC_BRANCHES];
    double *turn; /* (step_count): the inner products */
    size_t step;
    branch_means *now;
    double product;
} watch;

static ousac_status begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first_sample,
                          size_t count, ousac_error *error) {
    watch *w = self;
    (void)gate, (void)first_sample, (void)error;
    (void)count;
    w->step = step;
    w->now = &w->branch[branch];
    double *oldest = w->now->mean[BEFORE];
    w->now->mean[BEFORE] = w->now->mean[LAST];
    w->now->mean[LAST] = w->now->mean[NOW];
    w->now->mean[NOW] = oldest;
    w->now->evaluations++;
    w->product = 0;
    return OUSAC_STATUS_OK;
}

static ousac_status module(void *self, size_t index, const ousac_rows *out, ousac_error *error) {
    watch *w = self;
    const ousac_module *m = &w->model->arch.modules[index];
    const ousac_backend *be = w->model->backend;
    for (size_t o = 0; o < m->output_count; o++) {
        const size_t width = m->output[o].width, rows = out[o].rows / w->samples,
                     at = index * OUSAC_OUTPUTS_MAX + o;
        double *now = w->now->mean[NOW] + w->first[at];
        const double *last = w->now->mean[LAST] + w->first[at], *before = w->now->mean[BEFORE] + w->first[at];
        memset(now, 0, rows * width * sizeof *now);
        for (size_t j = 0; j < w->samples; j++)
            for (size_t i = 0; i < rows; i++) {
                const ousac_status status = be->download(
                    be, w->host, out[o].data + (j * rows + i) * out[o].ld, width * sizeof(float), error);
                if (status)
                    return status;
                for (size_t k = 0; k < width; k++)
                    now[i * width + k] += (double)w->host[k] / (double)w->samples;
            }
        for (size_t i = 0; i < rows * width && w->now->evaluations >= KEPT; i++)
            w->product += (now[i] - last[i]) * (last[i] - before[i]);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status end(void *self, ousac_error *error) {
    watch *w = self;
    (void)error;
    w->turn[w->step] += w->product;
    return OUSAC_STATUS_OK;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    (void)worker, (void)error;
    *observer = (ousac_observer){.self = self, .begin = begin, .module = module, .end = end};
    return OUSAC_STATUS_OK;
}

ousac_status ousac_inflection_find(const ousac_session *session, const ousac_schedule *schedule,
                                   size_t samples, unsigned char *inflection, ousac_error *error) {
    const ousac_arch *arch = &session->model->arch;
    watch w = {.model = session->model, .samples = samples};
    size_t values = 0, widest = 0;
    ousac_status status = OUSAC_STATUS_OK;
    w.first = ousac_calloc(arch->module_count, OUSAC_OUTPUTS_MAX * sizeof *w.first);
    w.turn = ousac_calloc(schedule->step_count, sizeof *w.turn);
    for (size_t m = 0; w.first && m < arch->module_count; m++)
        for (size_t o = 0; o < arch->modules[m].output_count; o++) {
            const size_t width = arch->modules[m].output[o].width;
            w.first[m * OUSAC_OUTPUTS_MAX + o] = values;
            values += ousac_arch_output_tokens(arch, m, o) * width;
            widest = width > widest ? width : widest;
        }
    w.host = ousac_malloc(widest, sizeof *w.host);
    int room = w.first && w.turn && w.host;
    for (int b = 0; b < OUSAC_BRANCHES && room; b++)
        for (int k = 0; k < KEPT && room; k++)
            room = (w.branch[b].mean[k] = ousac_calloc(values, sizeof(double))) != NULL;
    if (!room) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the mean outputs of %zu modules",
                            arch->module_count);
        goto done;
    }
    ousac_session alone = *session;
    alone.micro_batch = samples;
    alone.threads = 1;
    const ousac_run_observers observers = {.self = &w, .attach = attach};
    const ousac_session_run run = {.label = "inflections",
                                   .schedule = schedule,
                                   .range = {0, samples},
                                   .exact = 1,
                                   .observers = &observers};
    status = ousac_session_run_here(&alone, &run, error);
    for (size_t i = 0; i < schedule->step_count && !status; i++)
        inflection[i] = w.turn[i] < 0;
done:
    for (int b = 0; b < OUSAC_BRANCHES; b++)
        for (int k = 0; k < KEPT; k++)
            ousac_free(w.branch[b].mean[k]);
    ousac_free(w.host);
    ousac_free(w.turn);
    ousac_free(w.first);
    return status;
}
