/* The engine's side of the comparison with PyTorch: reads raw inputs, writes the predicted noise.
 *
 *     dit_forward CHECKPOINT HEADS X.f32 T.f32 LABELS.i32 OUT.f32
 *
 * Files as in tests/interop/dit_torch.py; HEADS 0 takes the config's. The label after the last class is the
 * unconditional one.
 */
#include "profile/model/dit.h"
#include "profile/run/executor.h"

#include "formats/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const ousac_error *error) {
    (void)fprintf(stderr, "dit_forward: %s\n", error->message);
    return 1;
}

/* A label has to be drawn from a seed: looks for the sample index that draws it. */
static uint64_t sample_with_label(const ousac_model *model, size_t label) {
    char want[64], have[64];
    (void)snprintf(want, sizeof want, "class %zu", label);
    for (uint64_t sample = 0;; sample++) {
        model->family->describe_input(model, 0, sample, have, sizeof have);
        have[strcspn(have, ",")] = '\0';
        if (strcmp(want, have) == 0)
            return sample;
    }
}

int main(int argc, char **argv) {
    ousac_error error = {0};
    ousac_file_view x = {0}, t = {0}, labels = {0};
    ousac_model *model = NULL;
    ousac_executor *executor = NULL;
    void *workspace = NULL;
    if (argc != 7) {
        (void)fprintf(stderr, "usage: dit_forward CHECKPOINT HEADS X.f32 T.f32 LABELS.i32 OUT.f32\n");
        return 2;
    }
    ousac_model_options options = {.heads = strtoul(argv[2], NULL, 10)};
    if (ousac_model_load(&model, argv[1], &options, ousac_backend_cpu(), &error) ||
        ousac_file_map(&x, argv[3], &error) || ousac_file_map(&t, argv[4], &error) ||
        ousac_file_map(&labels, argv[5], &error) ||
        ousac_executor_create(&executor, model, &(ousac_executor_options){.batch = 1}, &error) ||
        model->family->workspace_create(model, 1, &workspace, &error))
        return fail(&error);
    const size_t size = ousac_model_sample_size(model), count = t.size / sizeof(float);
    const size_t classes = ((const ousac_dit *)model->state)->classes;
    float *out = malloc(count * size * sizeof *out);
    if (!out || x.size != count * size * sizeof(float) || labels.size != count * sizeof(int32_t)) {
        (void)fprintf(stderr, "dit_forward: inputs of unequal counts\n");
        return 1;
    }
    for (size_t i = 0; i < count; i++) {
        ousac_gate effective;
        const size_t label = (size_t)((const int32_t *)(const void *)labels.data)[i];
        const int branch = label == classes ? OUSAC_BRANCH_UNCOND : OUSAC_BRANCH_COND;
        const uint64_t sample = branch == OUSAC_BRANCH_COND ? sample_with_label(model, label) : 0;
        if (model->family->set_inputs(model, workspace, 0, sample, 1, &error) ||
            ousac_executor_begin(executor, 0, branch, OUSAC_GATE_FULL, 1, NULL, &effective, &error) ||
            ousac_executor_forward(
                executor, workspace, (const float *)(const void *)x.data + i * size,
                &(ousac_step){.timestep = (double)((const float *)(const void *)t.data)[i]}, out + i * size,
                &error))
            return fail(&error);
        ousac_executor_end(executor);
    }
    if (ousac_file_replace(argv[6], out, count * size * sizeof *out, &error))
        return fail(&error);
    free(out);
    model->family->workspace_free(model, workspace);
    ousac_executor_free(executor);
    ousac_file_unmap(&x);
    ousac_file_unmap(&t);
    ousac_file_unmap(&labels);
    ousac_model_free(model);
    return 0;
}
