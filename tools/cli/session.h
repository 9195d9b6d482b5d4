/* The session of a command: progress on standard error, signals as its stop, the workers that the program has.
 */
#ifndef OUSAC_CLI_SESSION_H
#define OUSAC_CLI_SESSION_H

#include "pipeline/session.h"
#include "tools/cli/cli.h"

/* `model` is the command's; the session points to it. */
ousac_session cli_session(const cli_common *common, const ousac_model *model, uint64_t seed,
                          size_t micro_batch);

/* As ousac_session_load_model, by the program's workers too. */
ousac_status cli_load_model(ousac_model **model, const ousac_session_model *options, ousac_error *error);

/* Who shares the work of commands, said once before any runs; NULL, as at the start: nobody. */
void cli_set_workers(const ousac_workers *workers);

#endif
