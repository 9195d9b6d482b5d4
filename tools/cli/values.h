/* The value of one option: from text into a request, and what it expects.
 */
#ifndef OUSAC_CLI_VALUES_H
#define OUSAC_CLI_VALUES_H

#include "tools/cli/cli.h"

/* Writes the value into `base` + option->at. USAGE, naming the option and what it expects. */
ousac_status cli_set_value(const cli_option *option, void *base, const char *text, ousac_error *error);

#endif
