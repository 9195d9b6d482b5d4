/* Calibrates a model that this program runs itself, through the installed library alone:
 *
 *     cc host.c $(pkg-config --cflags --libs ousac) -lm -o host
 *     ./host SCHEDULE.json DIRECTORY
 *
 * The model is a small residual network over the pixels of an 8 x 8 sample, its weights random: a token a pixel,
 *
 *     h = E x + f(t);   h += F2 tanh(F1 h) / 4, twice;   prediction = O h
 *
 * F1 and F2 are its sites. All that the library is told of it: names and shapes, the weights of the sites, the noise levels,
 * and a function that runs it and multiplies by F1 and F2 through the library.
 */
#include <ousac/ousac.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    C = 3,
    SIDE = 8,
    TOKENS = SIDE * SIDE,
    D = 32,
    HIDDEN = 128,
    BLOCKS = 2,
    SITES = 2 * BLOCKS,
    BATCH = 4
};

typedef struct network {
    float embed[D * C], out[C * D];
    float fc1[BLOCKS][HIDDEN * D], fc2[BLOCKS][D * HIDDEN];
    float h[BATCH * TOKENS * D], wide[BATCH * TOKENS * HIDDEN], y[BATCH * TOKENS * D];
} network;

static void fill(float *values, size_t count, float scale) {
    static unsigned long long state = 42;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        values[i] = scale * ((float)(state >> 40) / 8388608.0F - 1);
    }
}

/* One module: x (rows, D) -> net->y, unless the library has written that already. */
static ousac_status run_block(network *net, size_t block, size_t rows, ousac_host_call *call) {
    float *outputs[1] = {net->y};
    const float *made[1] = {net->y};
    int live = 0;
    ousac_status status = ousac_host_module_begin(call, block, outputs, &live);
    if (status || !live)
        return status;
    status = ousac_host_linear(call, 2 * block, net->h, net->wide);
    for (size_t i = 0; i < rows * HIDDEN; i++)
        net->wide[i] = tanhf(net->wide[i]);
    if (!status)
        status = ousac_host_linear(call, 2 * block + 1, net->wide, net->y);
    return status ? status : ousac_host_module_end(call, block, made);
}

static int forward(void *self, const ousac_host_evaluation *e, ousac_host_call *call, char *message,
                   size_t bytes) {
    network *net = self;
    const size_t rows = (size_t)e->count * TOKENS;
    const float condition = e->branch == 0 ? 0.5F : 0; /* the conditional branch differs by a constant */
    if (e->count > BATCH) {
        snprintf(message, bytes, "%llu samples at once, expected at most %d", (unsigned long long)e->count,
                 BATCH);
        return 1;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < D; j++) {
            float sum = condition + sinf((float)e->timestep / 1000 * (float)(j + 1));
            for (size_t c = 0; c < C; c++)
                sum += net->embed[j * C + c] * e->x[(r / TOKENS * C + c) * TOKENS + r % TOKENS];
            net->h[r * D + j] = sum;
        }
    for (size_t b = 0; b < BLOCKS; b++) {
        if (run_block(net, b, rows, call))
            return 1; /* the library knows why */
        for (size_t i = 0; i < rows * D; i++)
            net->h[i] += net->y[i] / 4;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < C; c++) {
            float sum = 0;
            for (size_t j = 0; j < D; j++)
                sum += net->out[c * D + j] * net->h[r * D + j];
            e->out[(r / TOKENS * C + c) * TOKENS + r % TOKENS] = sum;
        }
    return 0;
}

/* Its sites, groups and modules, as formats/PROFILE.md has them. */
static void describe(char *text, size_t bytes) {
    size_t n = (size_t)snprintf(text, bytes,
                                "{\"family\":\"example\",\"width\":%d,\"blocks\":%d,\"other_macs\":\"0\","
                                "\"streams\":[{\"name\":\"image\",\"tokens\":%d}],\"sites\":[",
                                D, BLOCKS, TOKENS);
    for (int s = 0; s < SITES; s++)
        n += (size_t)snprintf(text + n, bytes - n,
                              "%s{\"name\":\"blocks.%d.%s\",\"block\":%d,\"module\":%d,\"group\":%d,"
                              "\"stage\":%d,\"m\":%d,\"n\":%d}",
                              s ? "," : "", s / 2, s % 2 ? "fc2" : "fc1", s / 2, s / 2, s, s % 2,
                              s % 2 ? D : HIDDEN, s % 2 ? HIDDEN : D);
    n += (size_t)snprintf(text + n, bytes - n, "],\"groups\":[");
    for (int s = 0; s < SITES; s++) /* the moment on the narrower side */
        n += (size_t)snprintf(text + n, bytes - n,
                              "%s{\"name\":\"blocks.%d.%s\",\"first_site\":%d,\"sites\":1,\"stream\":0,"
                              "\"side\":\"%s\",\"dim\":%d}",
                              s ? "," : "", s / 2, s % 2 ? "fc2" : "fc1", s, s % 2 ? "output" : "input", D);
    n += (size_t)snprintf(text + n, bytes - n, "],\"modules\":[");
    for (int b = 0; b < BLOCKS; b++)
        n += (size_t)snprintf(text + n, bytes - n,
                              "%s{\"name\":\"blocks.%d\",\"block\":%d,\"stages\":2,\"first_site\":%d,"
                              "\"sites\":2,\"fixed_macs\":\"0\",\"outputs\":[{\"stream\":0,\"width\":%d}]}",
                              b ? "," : "", b, b, 2 * b, D);
    (void)snprintf(text + n, bytes - n, "],\"constants\":[]}");
}

static ousac_status calibrate(ousac_context *context, const char *schedule, const char *directory,
                              ousac_error *error) {
    char bundle[4096];
    ousac_context_calibrate_options options;
    ousac_context_calibration made;
    ousac_context_evaluate_options test;
    ousac_context_evaluation found;

    ousac_context_calibrate_options_init(&options);
    ousac_context_calibration_init(&made);
    ousac_context_evaluate_options_init(&test);
    ousac_context_evaluation_init(&found);
    options.schedule = schedule;
    options.budget_total = 0.5;
    options.samples = 16;
    ousac_status status = ousac_context_calibrate(context, &options, directory, &made, error);
    if (status)
        return status;
    snprintf(bundle, sizeof bundle, "%s/bundle.oca", directory);
    test.first = made.next_sample;
    test.count = 8;
    status = ousac_context_evaluate(context, bundle, &test, &found, error);
    if (!status)
        printf("%s: relative error %.4f against the exact run, %.4f of plain reuse\n", bundle,
               found.calibrated.mean, found.reuse.mean);
    return status;
}

int main(int argc, char **argv) {
    static network net;
    static char arch[8192];
    const float *weight[SITES];
    ousac_context_options options;
    ousac_host_model model;
    ousac_context *context = NULL;
    ousac_error error = {0};

    if (argc != 3) {
        fprintf(stderr, "usage: %s SCHEDULE DIRECTORY\n", argv[0]);
        return 2;
    }
    fill(net.embed, D * C, 0.6F);
    fill(net.out, C * D, 0.3F);
    for (int b = 0; b < BLOCKS; b++) {
        fill(net.fc1[b], HIDDEN * D, 0.3F);
        fill(net.fc2[b], D * HIDDEN, 0.15F);
        weight[2 * b] = net.fc1[b];
        weight[2 * b + 1] = net.fc2[b];
    }
    describe(arch, sizeof arch);
    ousac_host_model_init(&model);
    model.name = "example";
    model.arch = arch;
    model.levels = "linear 1e-4 0.02 1000";
    model.prediction = "epsilon";
    model.channels = C;
    model.height = model.width = SIDE;
    model.has_uncond = 1;
    model.weight = weight;
    model.self = &net;
    model.forward = forward;
    ousac_context_options_init(&options);
    options.micro_batch = BATCH;
    ousac_status status = ousac_context_open_host(&context, &options, &model, &error);
    if (!status)
        status = calibrate(context, argv[1], argv[2], &error);
    ousac_context_close(context);
    if (status)
        fprintf(stderr, "%s\n", error.message);
    return status ? 1 : 0;
}
