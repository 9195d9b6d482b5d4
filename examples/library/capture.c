/* Captures a profile from a sampling loop that is this program's own, and packs a bundle of it, through the installed library
 * alone:
 *
 *     cc capture.c $(pkg-config --cflags --libs ousac) -lm -o capture
 *     ./capture DIRECTORY
 *
 * The model is that of host.c, but here nothing of it is run by the library: products, guidance and solver are below. The loop
 * hands over the input and the output of every linear as it passes. What the library is told beforehand: names and shapes, the
 * weights of the sites, the noise levels, and the schedule, which says at which steps which branches are evaluated and where
 * their caches are to be refreshed.
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
    BATCH = 4,
    SAMPLES = 16,
    STEPS = 12,
    PERIOD = 3, /* a refresh every third step */
    VALUES = BATCH * C * TOKENS
};

static const double SCALE = 3; /* of the guidance */

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

/* y (rows, m) = x (rows, n) w^T, and both to the capture: site `site` is alone in its group, which has its number. */
static ousac_status linear(ousac_capture *capture, int branch, size_t site, size_t rows, size_t m, size_t n,
                           const float *w, const float *x, float *y, ousac_error *error) {
    const ousac_capture_matrix input = {.data = x, .dtype = OUSAC_CAPTURE_F32, .rows = rows, .columns = n};
    const ousac_capture_matrix output = {.data = y, .dtype = OUSAC_CAPTURE_F32, .rows = rows, .columns = m};
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < m; i++) {
            float sum = 0;
            for (size_t j = 0; j < n; j++)
                sum += w[i * n + j] * x[r * n + j];
            y[r * m + i] = sum;
        }
    const ousac_status status = ousac_capture_input(capture, branch, site, &input, error);
    return status ? status : ousac_capture_output(capture, branch, site, &output, error);
}

/* One evaluation of a branch: x -> e, both (BATCH, C, SIDE, SIDE). */
static ousac_status predict(network *net, ousac_capture *capture, unsigned long long first, size_t step,
                            double timestep, int branch, const float *x, float *e, ousac_error *error) {
    const size_t rows = BATCH * TOKENS;
    const float condition = branch == 0 ? 0.5F : 0; /* the conditional branch differs by a constant */
    ousac_status status = ousac_capture_begin(capture, first, BATCH, step, branch, error);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < D; j++) {
            float sum = condition + sinf((float)timestep / 1000 * (float)(j + 1));
            for (size_t c = 0; c < C; c++)
                sum += net->embed[j * C + c] * x[(r / TOKENS * C + c) * TOKENS + r % TOKENS];
            net->h[r * D + j] = sum;
        }
    for (size_t b = 0; b < BLOCKS && !status; b++) {
        status = linear(capture, branch, 2 * b, rows, HIDDEN, D, net->fc1[b], net->h, net->wide, error);
        for (size_t i = 0; i < rows * HIDDEN; i++)
            net->wide[i] = tanhf(net->wide[i]);
        if (!status)
            status =
                linear(capture, branch, 2 * b + 1, rows, D, HIDDEN, net->fc2[b], net->wide, net->y, error);
        for (size_t i = 0; i < rows * D; i++) /* the module's output is that of its last linear */
            net->h[i] += net->y[i] / 4;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < C; c++) {
            float sum = 0;
            for (size_t j = 0; j < D; j++)
                sum += net->out[c * D + j] * net->h[r * D + j];
            e[(r / TOKENS * C + c) * TOKENS + r % TOKENS] = sum;
        }
    return status ? status : ousac_capture_end(capture, branch, error);
}

/* The loop: DDIM under constant guidance, a micro-batch of samples from its first step to its last. */
static ousac_status sample(network *net, ousac_capture *capture, unsigned long long first,
                           const double *timestep, ousac_error *error) {
    static float x[VALUES], cond[VALUES], uncond[VALUES];
    double bar[1000], product = 1;
    for (int t = 0; t < 1000; t++)
        bar[t] = product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999);
    fill(x, VALUES, 1.732F); /* of variance 1 */
    for (size_t i = 0; i < STEPS; i++) {
        const double now = bar[(int)timestep[i]], next = i + 1 < STEPS ? bar[(int)timestep[i + 1]] : 1;
        ousac_status status = predict(net, capture, first, i, timestep[i], 1, x, uncond, error);
        if (!status)
            status = predict(net, capture, first, i, timestep[i], 0, x, cond, error);
        if (status)
            return status;
        for (size_t k = 0; k < VALUES; k++) {
            const double e = uncond[k] + SCALE * (cond[k] - uncond[k]);
            x[k] = (float)(sqrt(next) * (x[k] - sqrt(1 - now) * e) / sqrt(now) + sqrt(1 - next) * e);
        }
    }
    return OUSAC_STATUS_OK;
}

/* What the loop does, as formats/SCHEDULE.md has it. */
static int write_schedule(const char *path, double timestep[STEPS]) {
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    fprintf(file,
            "{\"format\": \"ousac-schedule\", \"version\": 1, \"name\": \"captured\", \"solver\": \"ddim\", "
            "\"step_count\": %d, \"steps\": [",
            STEPS);
    for (int i = 0; i < STEPS; i++) {
        timestep[i] = (STEPS - 1 - i) * (1000 / STEPS);
        fprintf(file, "%s\n {\"timestep\": %g, \"mode\": \"cfg\", \"scale\": %g, \"gate\": \"%s\"}",
                i ? "," : "", timestep[i], SCALE, i % PERIOD ? "cached" : "full");
    }
    fprintf(file, "]}\n");
    return fclose(file);
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

/* The loop over all samples, and what comes of it: DIRECTORY/profile.oca, plan.oca, bundle.oca. */
static ousac_status capture_all(ousac_context *context, network *net, const char *directory,
                                ousac_error *error) {
    char schedule[4096], profile[4096], plan[4096], bundle[4096];
    double timestep[STEPS];
    ousac_capture *capture = NULL;
    ousac_capture_options options;
    ousac_context_plan_options budget;

    snprintf(schedule, sizeof schedule, "%s/schedule.json", directory);
    snprintf(profile, sizeof profile, "%s/profile.oca", directory);
    snprintf(plan, sizeof plan, "%s/plan.oca", directory);
    snprintf(bundle, sizeof bundle, "%s/bundle.oca", directory);
    if (write_schedule(schedule, timestep)) {
        snprintf(error->message, sizeof error->message, "%.400s: cannot be written", schedule);
        return OUSAC_STATUS_IO;
    }
    ousac_capture_options_init(&options);
    options.count = SAMPLES;
    options.outputs = 1;
    ousac_status status = ousac_capture_open(&capture, context, schedule, &options, error);
    for (unsigned long long first = 0; first < SAMPLES && !status; first += BATCH)
        status = sample(net, capture, first, timestep, error);
    if (!status)
        status = ousac_capture_write(capture, profile, error);
    ousac_capture_close(capture);

    ousac_context_plan_options_init(&budget);
    budget.budget_step = 0.3;
    budget.compare = budget.forecast = 0; /* what was captured is not run */
    if (!status)
        status = ousac_context_plan(context, profile, &budget, plan, error);
    if (!status)
        status = ousac_context_pack(context, profile, plan, bundle, error);
    if (!status)
        printf("%s: from %d samples of %d steps\n", bundle, SAMPLES, STEPS);
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

    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
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
    model.captured = 1; /* no function that runs it */
    ousac_context_options_init(&options);
    options.micro_batch = BATCH;
    ousac_status status = ousac_context_open_host(&context, &options, &model, &error);
    if (!status)
        status = capture_all(context, &net, argv[1], &error);
    ousac_context_close(context);
    if (status)
        fprintf(stderr, "%s\n", error.message);
    return status ? 1 : 0;
}
