/* Streams where a command names files: `-` and /dev/stdout for an output, a pipe (`<(...)`, /dev/stdin) for an input.
 */
#ifndef OUSAC_CLI_STREAMS_H
#define OUSAC_CLI_STREAMS_H

#include "tools/cli/cli.h"

/* In the `high` of a CLI_OUTPUT row: what standard output then takes. Otherwise it takes nothing, and cli_files_check
 * refuses the name. */
enum {
    CLI_STDOUT_JSON = 1, /* what --json prints, which the file would hold: --json is set */
    CLI_STDOUT_TEXT = 2  /* the file itself; the command writes it there where the option is not given */
};

/* Whether a name means standard output: - or /dev/stdout, or a spelling of that. */
int cli_is_stdout(const char *path);

/* Outputs that name standard output become NULL where it takes them, as above. Inputs that are pipes are read to their
 * end into memory, and the request names that: a reader may then seek and begin again. */
ousac_status cli_take_streams(cli_call *call, void *request, ousac_error *error);

#endif
