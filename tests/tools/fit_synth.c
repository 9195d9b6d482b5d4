/* Prints the tables of profile/synth/synth_law.c, fitted on the shipped model and a profile of it.
 *
 *     fit_synth data/shapes-dit/model.safetensors data/schedules/sparse.json
 */
#include "calib/backend/backend.h"
#include "tests/support/synth_fit.h"

#include <stdio.h>

int main(int argc, char **argv) {
    ousac_synth_weight_law weights[OUSAC_SYNTH_KIND_COUNT];
    ousac_decay moments[OUSAC_SYNTH_GROUPS];
    ousac_synth_level levels[OUSAC_SYNTH_LEVELS];
    double worst[OUSAC_SYNTH_KIND_COUNT], modulation[OUSAC_SYNTH_MODULATIONS];
    ousac_schedule schedule = {0};
    ousac_model *model = NULL;
    ousac_error error = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: fit_synth MODEL SCHEDULE\n");
        return 2;
    }
    if (ousac_model_load(&model, argv[1], NULL, ousac_backend_cpu(), &error) ||
        ousac_schedule_load(&schedule, argv[2], &error)) {
        fprintf(stderr, "fit_synth: %s\n", error.message);
        ousac_model_free(model);
        return 1;
    }
    synth_fit_weights(model, weights, worst);
    printf("weights: {{a, b, c}, gain}\n");
    for (size_t i = 0; i < OUSAC_SYNTH_KIND_COUNT; i++)
        printf("    {{%.3f, %.3f, %.3f}, %.3f}, /* within %.2f */\n", weights[i].decay.a, weights[i].decay.b,
               weights[i].decay.c, weights[i].gain, worst[i]);
    synth_fit_modulation(model, modulation);
    printf("modulation:\n   ");
    for (size_t i = 0; i < OUSAC_SYNTH_MODULATIONS; i++)
        printf(" %.3f,", modulation[i]);
    printf("\n");
    ousac_profile *profile = synth_record(model, &schedule);
    synth_fit_moments(profile, moments, worst);
    printf("moments: {a, b, c}\n");
    for (size_t i = 0; i < OUSAC_SYNTH_GROUPS; i++)
        printf("    {%.3f, %.3f, %.3f}, /* within %.2f */\n", moments[i].a, moments[i].b, moments[i].c,
               worst[i]);
    synth_fit_levels(profile, levels);
    printf("levels: {rms, share, growth}\n");
    for (size_t i = 0; i < OUSAC_SYNTH_LEVELS; i++)
        printf("    {%.3f, %.5f, %.3f},\n", levels[i].rms, levels[i].share, levels[i].growth);
    ousac_profile_free(profile);
    ousac_schedule_free(&schedule);
    ousac_model_free(model);
    return 0;
}
