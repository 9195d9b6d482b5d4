#include "tools/cmd/commands.h"

#include <stddef.h>

const cli_command *const cli_commands[] = {
    &command_calibrate,
    &command_schedule,
    &command_place,
    &command_fit,
    &command_refit,
    &command_profile,
    &command_merge,
    &command_allocate,
    &command_pack,
    &command_eval,
    &command_compare,
    &command_sample,
    &command_time,
    &command_inspect,
    &command_verify,
    &command_diff,
    &command_export,
    &command_import,
    &command_sign,
    &command_plot,
    &command_report,
    &command_synth,
    NULL,
};

const char *const cli_exit_codes =
    "    0  done\n"
    "    1  the system refused: input or output, memory; or `diff` found differences\n"
    "    2  a wrong option, value or argument\n"
    "    3  a file is malformed, or does not verify\n"
    "    4  files were not made for one another\n"
    "    5  a value is not finite, or a numerical routine did not converge\n"
    "    6  this build or this machine cannot do it\n"
    "  130  interrupted (SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXCPU); no file is left half written\n";
