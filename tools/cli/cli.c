/* SIGXCPU and SIGXFSZ are of X/Open. */
#define _XOPEN_SOURCE 700

#include "tools/cli/cli.h"
#include "tools/cli/print.h"
#include "tools/cli/streams.h"

#include "calib/backend/reserve.h"
#include "formats/memory.h"
#include "tools/cli/files.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ousac_stop cli_stop;

int cli_exit_code(ousac_status status) {
    switch (status) {
    case OUSAC_STATUS_OK:
        return EXIT_OK;
    case OUSAC_STATUS_USAGE:
        return EXIT_USAGE;
    case OUSAC_STATUS_FORMAT:
        return EXIT_FORMAT;
    case OUSAC_STATUS_MISMATCH:
        return EXIT_MISMATCH;
    case OUSAC_STATUS_NUMBER:
        return EXIT_NUMBER;
    case OUSAC_STATUS_UNSUPPORTED:
        return EXIT_UNSUPPORTED;
    case OUSAC_STATUS_INTERRUPTED:
        return EXIT_INTERRUPTED;
    case OUSAC_STATUS_IO:
    case OUSAC_STATUS_MEMORY:
    case OUSAC_STATUS_INTERNAL:
        break;
    }
    return EXIT_FAILED;
}

/* --- the driver --- */

/* A command that runs a model multiplies matrices on all its threads. */
static ousac_status reserve(const cli_call *call, ousac_error *error) {
    for (const cli_option *option = call->command->options; option->kind != CLI_END; option++)
        if (strcmp(option->name, "compute") == 0)
            return ousac_blas_reserve(call->common.threads, error);
    return OUSAC_STATUS_OK;
}

int cli_run(const cli_command *command, int argc, char **argv) {
    cli_call call = {.command = command};
    ousac_error error = {0};
    /* One that is empty has room for a byte all the same. */
    void *request = ousac_calloc(command->request_size + 1, 1);
    ousac_status status = request ? cli_parse(&call, request, argc, argv, &error)
                                  : OUSAC_FAIL(&error, OUSAC_STATUS_MEMORY, "no memory for the options");
    if (!status && call.common.help) {
        cli_print_help(command);
        ousac_free(request);
        return EXIT_OK;
    }
    if (!status)
        status = cli_take_streams(&call, request, &error);
    if (!status)
        status = cli_files_check(&call, request, &error);
    if (!status)
        status = reserve(&call, &error);
    if (!status) {
        cli_catch_signals();
        status = command->run(&call, request, &error);
    }
    ousac_free(request);
    return status ? cli_report_error(&call, &error) : call.code;
}

/* --- messages --- */

/* 1 where the word, with underscores for dashes, is the name of an option that takes part in this command. */
static int is_field(const cli_command *command, const char *word, size_t length) {
    for (const cli_option *option = command->options; option->kind != CLI_END; option++) {
        size_t i = 0;
        while (i < length && option->name[i] != '\0' &&
               (word[i] == option->name[i] || (word[i] == '_' && option->name[i] == '-')))
            i++;
        if (i == length && option->name[i] == '\0')
            return 1;
    }
    return 0;
}

static size_t word_length(const char *text) {
    return strspn(text, "abcdefghijklmnopqrstuvwxyz_0123456789");
}

/* Copies a library's message, fields that are options here spelt as such. */
static void spell_fields(const cli_command *command, const char *message, char *out, size_t size) {
    size_t used = 0;
    for (const char *at = message; *at != '\0' && used + 2 < size;) {
        const int quoted = *at == '`';
        const size_t length = quoted ? word_length(at + 1) : 0;
        const char *after = at + 1 + length;
        if (length == 0 || *after != '`' || !is_field(command, at + 1, length)) {
            out[used++] = *at++;
            continue;
        }
        used += (size_t)snprintf(out + used, size - used, "--%.*s", (int)length, at + 1);
        used = used < size ? used : size - 1;
        for (size_t i = used - length; i < used; i++)
            out[i] = out[i] == '_' ? '-' : out[i];
        at = after + 1;
    }
    out[used] = '\0';
}

int cli_report_error(const cli_call *call, const ousac_error *error) {
    char message[2 * OUSAC_ERROR_MESSAGE_BYTES];
    spell_fields(call->command, error->message, message, sizeof message);
    cli_fprintf(stderr, "ousac %s: %s\n", call->command->name, message);
    if (call->common.json) {
        ousac_json_doc doc;
        ousac_json_begin(&doc);
        cJSON *object = ousac_json_put_object(&doc, doc.root, "error");
        ousac_json_put_text(&doc, object, "status", ousac_status_name(error->status));
        ousac_json_put_text(&doc, object, "message", message);
        (void)cli_json_print(&doc, NULL); /* the message is on standard error already where memory is short */
        ousac_json_end(&doc);
    }
    return cli_exit_code(error->status);
}

void cli_note(const cli_common *common, const char *format, ...) {
    va_list arguments;
    if (common->quiet)
        return;
    va_start(arguments, format);
    cli_vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
}

ousac_status cli_json_print(const ousac_json_doc *doc, ousac_error *error) {
    char *text = NULL;
    const ousac_status status = ousac_json_text(doc, 1, &text, error);
    if (!status)
        (void)puts(text);
    ousac_free(text);
    return status;
}

/* --- signals --- */

/* A second SIGINT or SIGTERM kills; the others are repeated by those who send them. */
static void on_signal(int number) {
    ousac_stop_ask(&cli_stop);
    if (number == SIGINT || number == SIGTERM) {
        (void)signal(SIGINT, SIG_DFL);
        (void)signal(SIGTERM, SIG_DFL);
    }
}

void cli_catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXCPU};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction old;
        /* A signal ignored by whoever started the program (a background job) stays ignored. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)sigaction(numbers[i], &action, NULL);
    }
    (void)signal(SIGXFSZ,
                 SIG_IGN); /* a file beyond its limit is a failed write, which leaves nothing behind */
}
