/* Calibrates a model through the installed library alone:
 *
 *     cc calibrate.c $(pkg-config --cflags --libs ousac) -o calibrate
 *     ./calibrate MODEL.safetensors SCHEDULE.json DIRECTORY
 *
 * It records 16 samples, allocates ranks at a quarter of a full evaluation, packs the bundle into DIRECTORY and tells
 * what that is worth on 8 samples that were not used before.
 */
#include <ousac/ousac.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>

static ousac_context *running;

/* The first SIGINT ends the work at its next step; nothing is left half written. */
static void interrupt(int number) {
    (void)number;
    ousac_context_interrupt(running);
}

static void note(void *self, const char *line) {
    (void)self;
    fprintf(stderr, "%s\n", line);
}

static ousac_status calibrate(ousac_context *context, const char *schedule, const char *directory,
                              ousac_error *error) {
    enum { PATH_BYTES = 4096, SAMPLES = 16, TEST_FIRST = 32, TEST_SAMPLES = 8 };
    char profile[PATH_BYTES], plan[PATH_BYTES], bundle[PATH_BYTES];
    ousac_context_profile_options record;
    ousac_context_plan_options budget;
    ousac_context_evaluate_options test;
    ousac_context_evaluation found;
    ousac_status status;

    snprintf(profile, sizeof profile, "%s/profile.oca", directory);
    snprintf(plan, sizeof plan, "%s/plan.oca", directory);
    snprintf(bundle, sizeof bundle, "%s/bundle.oca", directory);
    ousac_context_profile_options_init(&record);
    record.count = SAMPLES;
    ousac_context_plan_options_init(&budget);
    budget.budget_step = 0.25;
    budget.compare = 0;
    ousac_context_evaluate_options_init(&test);
    test.first = TEST_FIRST;
    test.count = TEST_SAMPLES;
    ousac_context_evaluation_init(&found);

    status = ousac_context_profile(context, schedule, &record, profile, error);
    if (!status)
        status = ousac_context_plan(context, profile, &budget, plan, error);
    if (!status)
        status = ousac_context_pack(context, profile, plan, bundle, error);
    if (!status)
        status = ousac_context_evaluate(context, bundle, &test, &found, error);
    if (!status)
        printf("%s: relative error %.4f [%.4f, %.4f] against the exact run, %.4f of plain reuse; %.1f %% of the "
               "reference's multiply-accumulates\n",
               bundle, found.calibrated.mean, found.calibrated.low, found.calibrated.high,
               found.reuse.mean > 0 ? found.calibrated.mean / found.reuse.mean : NAN, 100 * found.macs_share);
    return status;
}

int main(int argc, char **argv) {
    ousac_context_options options;
    ousac_error error = {0};
    ousac_status status;
    if (argc != 4) {
        fprintf(stderr, "usage: calibrate MODEL SCHEDULE DIRECTORY\n");
        return 2;
    }
    if (ousac_version_number() < OUSAC_VERSION_NUMBER) {
        fprintf(stderr, "calibrate: made for ousac %s, found %s\n", OUSAC_VERSION, ousac_version());
        return 1;
    }
    ousac_context_options_init(&options);
    options.model = argv[1];
    options.note = note;
    status = ousac_context_open(&running, &options, &error);
    if (!status) {
        signal(SIGINT, interrupt);
        status = calibrate(running, argv[2], argv[3], &error);
    }
    ousac_context_close(running);
    if (status)
        fprintf(stderr, "calibrate: %s: %s\n", ousac_status_name(status), error.message);
    return status != OUSAC_STATUS_OK;
}
