#include "tools/cli/cli.h"

#include "formats/memory.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

ousac_status cli_check_output(const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const char *slash = strrchr(path, '/');
    const size_t length = slash ? (size_t)(slash - path) : 0;
    struct stat info;
    char *directory = ousac_malloc(length + 2, 1);
    if (!directory)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: out of memory", path);
    memcpy(directory, slash ? path : ".", slash ? length : 1);
    directory[slash ? length : 1] = '\0';
    if (slash == path)
        memcpy(directory, "/", 2);
    if (*path == '\0' || (stat(path, &info) == 0 && S_ISDIR(info.st_mode)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write: expected the name of a file",
                            *path ? path : "\"\"");
    else if (stat(directory, &info) != 0 || access(directory, W_OK | X_OK) != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: cannot write into %s: %s", path, directory,
                            strerror(errno));
    else if (!S_ISDIR(info.st_mode))
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "%s: %s is not a directory", path, directory);
    ousac_free(directory);
    return status;
}

/* Outputs that could not be written are told before any work. */
static ousac_status check_files(const cli_command *command, void *request, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (const cli_option *option = command->options; !status && option->kind != CLI_END; option++) {
        const char *path = option->kind == CLI_OUTPUT ? *(const char **)((char *)request + option->at) : NULL;
        if (path)
            status = cli_check_output(path, error);
    }
    return status;
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
        status = check_files(command, request, &error);
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
    (void)fprintf(stderr, "ousac %s: %s\n", call->command->name, message);
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
    (void)vfprintf(stderr, format, arguments);
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

static void on_signal(int number) {
    (void)number;
    ousac_stop_ask(&cli_stop);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
}

void cli_catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM};
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
}
