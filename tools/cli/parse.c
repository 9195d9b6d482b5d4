#include "tools/cli/cli.h"

#include "pipeline/machine.h"
#include "tools/cli/values.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES_MAX = 48 };

#define AT(member) offsetof(cli_common, member)
/* clang-format off */
const cli_option cli_common_options[] = {
    {"help", 'h', CLI_FLAG, AT(help), NULL, NULL, "print this text and exit", 0, 0},
    {"json", 0, CLI_FLAG, AT(json), NULL, NULL,
     "print the result, or the error, as one JSON object on standard output", 0, 0},
    {"quiet", 'q', CLI_FLAG, AT(quiet), NULL, NULL, "no progress and no notes on standard error", 0, 0},
    {"threads", 0, CLI_SIZE, AT(threads), "N", NULL,
     "threads to use (default: the processors this process may use, within its control group's quota)", 1, CLI_THREADS_MAX},
    {NULL, 0, CLI_END, 0, NULL, NULL, NULL, 0, 0}};
/* clang-format on */
#undef AT

/* --- names --- */

size_t cli_edit_distance(const char *a, const char *b) {
    size_t row[NAME_BYTES_MAX + 1];
    const size_t length = strlen(b);
    if (length > NAME_BYTES_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < length; j++) {
            size_t best = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            best = best < row[j] + 1 ? best : row[j] + 1;
            best = best < row[j + 1] + 1 ? best : row[j + 1] + 1;
            row[j + 1] = best;
        }
    }
    return row[length];
}

/* How far a known name is from what was typed; a known name that it abbreviates counts as very near. */
static size_t name_distance(const char *typed, const char *known) {
    const size_t length = strlen(typed);
    return length >= 2 && strncmp(typed, known, length) == 0 ? 1 : cli_edit_distance(typed, known);
}

static void nearest(const cli_option *options, const char *name, const char **best, size_t *distance) {
    for (const cli_option *option = options; option->kind != CLI_END; option++) {
        const size_t d = name_distance(name, option->name);
        if (d < *distance) {
            *distance = d;
            *best = option->name;
        }
    }
}

static ousac_status unknown_option(const cli_command *command, const char *typed, size_t length,
                                   ousac_error *error) {
    char name[NAME_BYTES_MAX];
    const char *best = NULL;
    size_t distance = SIZE_MAX;
    (void)snprintf(name, sizeof name, "%.*s", (int)(length < NAME_BYTES_MAX ? length : NAME_BYTES_MAX),
                   typed);
    nearest(command->options, name, &best, &distance);
    nearest(cli_common_options, name, &best, &distance);
    if (best && distance <= strlen(name) / 2)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "unknown option '--%s'; the nearest is '--%s'", name,
                          best);
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "unknown option '--%s'; --help lists the options", name);
}

static const cli_option *find(const cli_option *options, const char *name, size_t length, char letter) {
    for (const cli_option *option = options; option->kind != CLI_END; option++)
        if (name ? strlen(option->name) == length && strncmp(option->name, name, length) == 0
                 : option->letter != 0 && option->letter == letter)
            return option;
    return NULL;
}

int cli_given(const cli_call *call, const char *name) {
    const cli_option *option = find(call->command->options, name, strlen(name), 0);
    return option && call->given[option - call->command->options];
}

/* --- parsing --- */

typedef struct parser {
    cli_call *call;
    void *request;
    unsigned char common_given[8];
} parser;

/* "-" alone and numbers are values. */
static int looks_like_option(const char *text) {
    return text[0] == '-' && text[1] != '\0' && !(text[1] >= '0' && text[1] <= '9') && text[1] != '.';
}

/* Takes the option at argv[*index], and its value, moving *index to the last argument used. */
static ousac_status take_option(parser *p, int argc, char **argv, int *index, ousac_error *error) {
    const cli_command *command = p->call->command;
    const char *argument = argv[*index], *value = NULL;
    const int long_name = argument[1] == '-';
    const char *name = long_name ? argument + 2 : NULL;
    const size_t length = long_name ? strcspn(name, "=") : 0;
    const cli_option *own = NULL, *common = NULL;
    if (long_name || argument[2] == '\0') {
        own = find(command->options, name, length, argument[1]);
        common = own ? NULL : find(cli_common_options, name, length, argument[1]);
    }
    const cli_option *option = own ? own : common;
    if (!option)
        return long_name ? unknown_option(command, name, length, error)
                         : OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                                      "unknown option '%s'; --help lists the options", argument);
    if (long_name && name[length] == '=')
        value = name + length + 1;
    unsigned char *given =
        own ? &p->call->given[own - command->options] : &p->common_given[common - cli_common_options];
    if (*given && option->kind != CLI_FLAG)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s is given twice", option->name);
    *given = 1;
    if (option->kind == CLI_FLAG) {
        if (value)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s takes no value", option->name);
    } else if (!value) {
        /* A forgotten value must not swallow the next option; --name=value takes a value that looks like one. */
        if (*index + 1 >= argc)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s", option->name, option->meta);
        if (looks_like_option(argv[*index + 1]))
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--%s expects %s, not the option '%s'; a value that begins so is written --%s=%s",
                option->name, option->meta, argv[*index + 1], option->name, argv[*index + 1]);
        *index += 1;
        value = argv[*index];
    }
    return cli_set_value(option, own ? p->request : (void *)&p->call->common, value, error);
}

static ousac_status set_presets(const cli_command *command, void *request, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (const cli_option *option = command->options; !status && option->kind != CLI_END; option++)
        if (option->preset && *option->preset != *CLI_REQUIRED)
            status = cli_set_value(option, request, option->preset, error);
        else if (option->kind == CLI_REAL)
            *(double *)((char *)request + option->at) = NAN;
    return status;
}

static ousac_status check_arguments(const cli_call *call, ousac_error *error) {
    const cli_command *command = call->command;
    if (call->file_count > 0 && command->arguments_most == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "unexpected argument '%s'; the command takes options only", call->files[0]);
    if (call->file_count < command->arguments_least || call->file_count > command->arguments_most)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%s, not %zu", command->expects, call->file_count);
    for (const cli_option *option = command->options; option->kind != CLI_END; option++)
        if (option->preset && *option->preset == *CLI_REQUIRED && !call->given[option - command->options])
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s %s is required", option->name, option->meta);
    return OUSAC_STATUS_OK;
}

ousac_status cli_parse(cli_call *call, void *request, int argc, char **argv, ousac_error *error) {
    parser p = {.call = call, .request = request};
    int only_arguments = 0;
    call->files = argv + 1;
    const size_t processors = ousac_processors();
    call->common.threads = processors < CLI_THREADS_MAX ? processors : CLI_THREADS_MAX;
    /* Known before anything can fail: failures are reported as asked, and help is given whatever else is there. */
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        call->common.json |= strcmp(argv[i], "--json") == 0;
        call->common.help |= strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
    }
    if (call->common.help)
        return OUSAC_STATUS_OK;
    ousac_status status = set_presets(call->command, request, error);
    for (int i = 1; !status && i < argc; i++) {
        char *argument = argv[i];
        if (!only_arguments && strcmp(argument, "--") == 0)
            only_arguments = 1;
        else if (!only_arguments && argument[0] == '-' && argument[1] != '\0')
            status = take_option(&p, argc, argv, &i, error);
        else
            call->files[call->file_count++] = argument; /* at or before i: already read */
    }
    call->common.threads_chosen =
        p.common_given[find(cli_common_options, "threads", 7, 0) - cli_common_options];
    return status ? status : check_arguments(call, error);
}
