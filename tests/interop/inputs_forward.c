/* The engine's side of comparisons with PyTorch, of a model that an inputs file conditions: what it predicts, of row
 * i of the inputs at timestep i, for both branches.
 *
 *     inputs_forward CHECKPOINT INPUTS X.f32 T.f32 OUT.f32
 *
 * Files are raw, little-endian: X (B, C, H, W), T (B), OUT (2, B, C, H, W), the conditional branch first; B is the
 * length of T. Where the inputs have no unconditional branch, OUT ends with the conditional one.
 */
#include "formats/file.h"
#include "formats/schedule.h"
#include "profile/run/executor.h"

#include <stdio.h>
#include <stdlib.h>

static int fail(const ousac_error *error) {
    (void)fprintf(stderr, "inputs_forward: %s\n", error->message);
    return 1;
}

int main(int argc, char **argv) {
    ousac_error error = {0};
    ousac_file_view x = {0}, t = {0};
    ousac_model *model = NULL;
    ousac_executor *executor = NULL;
    void *workspace = NULL;
    if (argc != 6) {
        (void)fprintf(stderr, "usage: inputs_forward CHECKPOINT INPUTS X.f32 T.f32 OUT.f32\n");
        return 2;
    }
    ousac_model_options options = {.inputs_path = argv[2]};
    if (ousac_model_load(&model, argv[1], &options, ousac_backend_cpu(), &error) ||
        ousac_file_map(&x, argv[3], &error) || ousac_file_map(&t, argv[4], &error) ||
        ousac_executor_create(&executor, model, &(ousac_executor_options){.batch = 1}, &error) ||
        model->family->workspace_create(model, 1, &workspace, &error))
        return fail(&error);
    const size_t size = ousac_model_sample_size(model), count = t.size / sizeof(float),
                 branches = model->has_uncond ? OUSAC_BRANCHES : 1;
    float *out = malloc(branches * count * size * sizeof *out);
    if (!out || x.size != count * size * sizeof(float)) {
        (void)fprintf(stderr, "inputs_forward: inputs of unequal counts\n");
        return 1;
    }
    for (size_t i = 0; i < branches * count; i++) {
        const size_t row = i % count;
        const int branch = i < count ? OUSAC_BRANCH_COND : OUSAC_BRANCH_UNCOND;
        ousac_gate effective;
        if (model->family->set_inputs(model, workspace, 0, row, 1, &error) ||
            ousac_executor_begin(executor, 0, branch, OUSAC_GATE_FULL, 1, NULL, &effective, &error) ||
            ousac_executor_forward(
                executor, workspace, (const float *)(const void *)x.data + row * size,
                &(ousac_step){.timestep = (double)((const float *)(const void *)t.data)[row]}, out + i * size,
                &error))
            return fail(&error);
        ousac_executor_end(executor);
    }
    if (ousac_file_replace(argv[5], out, branches * count * size * sizeof *out, &error))
        return fail(&error);
    free(out);
    model->family->workspace_free(model, workspace);
    ousac_executor_free(executor);
    ousac_file_unmap(&x);
    ousac_file_unmap(&t);
    ousac_model_free(model);
    return 0;
}
