/* The commands of the program: one per file tools/cmd/cmd_*.c, listed by list.c.
 */
#ifndef OUSAC_COMMANDS_H
#define OUSAC_COMMANDS_H

#include "tools/cli/cli.h"

/* The program: parses, runs a command, returns its exit code (tools/main.c). */
int ousac_main(int argc, char **argv);

/* All of them in the order of --help; ends with NULL. */
extern const cli_command *const cli_commands[];
/* What the exit codes mean, a line each: "    0  done". */
extern const char *const cli_exit_codes;

extern const cli_command command_calibrate;
extern const cli_command command_schedule;
extern const cli_command command_place;
extern const cli_command command_fit;
extern const cli_command command_refit;
extern const cli_command command_profile;
extern const cli_command command_merge;
extern const cli_command command_allocate;
extern const cli_command command_pack;
extern const cli_command command_eval;
extern const cli_command command_compare;
extern const cli_command command_sample;
extern const cli_command command_time;
extern const cli_command command_inspect;
extern const cli_command command_verify;
extern const cli_command command_diff;
extern const cli_command command_export;
extern const cli_command command_import;
extern const cli_command command_sign;
extern const cli_command command_synth;
extern const cli_command command_plot;
extern const cli_command command_report;

#endif
