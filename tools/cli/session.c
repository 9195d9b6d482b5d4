#include "tools/cli/session.h"
#include "tools/cli/print.h"

#include <stdio.h>

static const ousac_workers *present_workers;

static void *start(void *self, const char *label) {
    (void)self;
    return cli_progress_start(label);
}

static void end(void *handle) {
    cli_progress_end(handle);
}

static void note(void *self, const char *line) {
    (void)self;
    cli_fprintf(stderr, "%s\n", line);
}

ousac_session cli_session(const cli_common *common, const ousac_model *model, uint64_t seed,
                          size_t micro_batch) {
    static const ousac_session_hooks loud = {NULL, start, cli_progress_update, end, note};
    return (ousac_session){
        .model = model,
        .seed = seed,
        .micro_batch = micro_batch,
        .threads = common->threads,
        .threads_chosen = common->threads_chosen,
        .stop = &cli_stop,
        .hooks = common->quiet ? NULL : &loud,
        .workers = present_workers,
    };
}

ousac_status cli_load_model(ousac_model **model, const ousac_session_model *options, ousac_error *error) {
    return ousac_session_load_model(model, options, present_workers, error);
}

void cli_set_workers(const ousac_workers *workers) {
    present_workers = workers;
}
