/* sched_getaffinity is of no standard. */
#define _GNU_SOURCE

#include "tools/cli/cli.h"

#include "formats/json_build.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { HELP_COLUMNS = 100, HELP_INDENT = 26, THREADS_MAX = 1024, NAME_BYTES_MAX = 48, CPUS_MAX = 4096 };

volatile int cli_stop;

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

/* ---- values ---- */

static int is_unsigned(const char *text) {
    return *text != '\0' && text[strspn(text, "0123456789")] == '\0';
}

static int parse_u64(const char *text, uint64_t *value) {
    char *end = NULL;

    if (!is_unsigned(text)) {
        return -1;
    }
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0') {
        return -1;
    }
    *value = number;
    return 0;
}

static int parse_real(const char *text, double *value) {
    char *end = NULL;

    if (*text == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0') {
        return -1; /* neither blanks nor "inf", "nan" and hexadecimal, which strtod takes */
    }
    double number = strtod(text, &end);
    if (*end != '\0' || !isfinite(number)) {
        return -1;
    }
    *value = number;
    return 0;
}

static int parse_range(const char *text, cli_range *range) {
    const char *colon = strchr(text, ':');
    char first_text[24];
    uint64_t first = 0, end = 0;

    if (colon != NULL) {
        size_t length = (size_t)(colon - text);
        if (length >= sizeof first_text) {
            return -1;
        }
        memcpy(first_text, text, length);
        first_text[length] = '\0';
        if (parse_u64(first_text, &first) != 0) {
            return -1;
        }
        text = colon + 1;
    }
    if (parse_u64(text, &end) != 0 || end <= first) {
        return -1;
    }
    range->first = first;
    range->count = end - first;
    return 0;
}

static int within(const cli_option *option, double value) {
    return (option->low == 0 && option->high == 0) || (value >= option->low && value <= option->high);
}

static ousac_status bad_number(const cli_option *option, const char *kind, const char *text,
                               ousac_error *error) {
    if (option->low == 0 && option->high == 0) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s, not '%s'", option->name, kind, text);
    }
    if (isinf(option->high)) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s of at least %.10g, not '%s'",
                          option->name, kind, option->low, text);
    }
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s from %.10g to %.10g, not '%s'",
                      option->name, kind, option->low, option->high, text);
}

static ousac_status set_value(const cli_option *option, const char *text, ousac_error *error) {
    uint64_t whole = 0;
    double real = 0;

    switch (option->kind) {
    case CLI_FLAG:
        *(int *)option->value = 1;
        return OUSAC_STATUS_OK;
    case CLI_TEXT:
        if (*text == '\0') {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s, not an empty text", option->name,
                              option->meta);
        }
        *(const char **)option->value = text;
        return OUSAC_STATUS_OK;
    case CLI_SIZE_OR_AUTO:
        if (strcmp(text, "auto") == 0) {
            *(size_t *)option->value = 0;
            return OUSAC_STATUS_OK;
        }
        /* fall through */
    case CLI_SIZE:
    case CLI_U64:
        if (parse_u64(text, &whole) != 0 || !within(option, (double)whole) ||
            (option->kind != CLI_U64 && whole > SIZE_MAX)) {
            return bad_number(option, "a whole number", text, error);
        }
        if (option->kind == CLI_U64) {
            *(uint64_t *)option->value = whole;
        } else {
            *(size_t *)option->value = (size_t)whole;
        }
        return OUSAC_STATUS_OK;
    case CLI_REAL:
        if (parse_real(text, &real) != 0 || !within(option, real)) {
            return bad_number(option, "a number", text, error);
        }
        *(double *)option->value = real;
        return OUSAC_STATUS_OK;
    case CLI_RANGE_OR_AUTO:
        if (strcmp(text, "auto") == 0) {
            *(cli_range *)option->value = (cli_range){0, 0};
            return OUSAC_STATUS_OK;
        }
        /* fall through */
    case CLI_RANGE:
        if (parse_range(text, option->value) != 0) {
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "--%s expects FIRST:END with END above FIRST, or a COUNT of at least 1%s, not '%s'",
                option->name, option->kind == CLI_RANGE_OR_AUTO ? ", or auto" : "", text);
        }
        return OUSAC_STATUS_OK;
    }
    return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "--%s has no known kind", option->name);
}

/* ---- names ---- */

size_t cli_edit_distance(const char *a, const char *b) {
    size_t row[NAME_BYTES_MAX + 1];
    size_t length = strlen(b);

    if (length > NAME_BYTES_MAX) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= length; j++) {
        row[j] = j;
    }
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
    size_t length = strlen(typed);
    return length >= 2 && strncmp(typed, known, length) == 0 ? 1 : cli_edit_distance(typed, known);
}

static const cli_option *find_option(const cli_option *options, const char *name, size_t length) {
    for (const cli_option *option = options; option->name != NULL; option++) {
        if (strlen(option->name) == length && strncmp(option->name, name, length) == 0) {
            return option;
        }
    }
    return NULL;
}

static const cli_option *find_letter(const cli_option *options, char letter) {
    for (const cli_option *option = options; option->name != NULL; option++) {
        if (option->letter != 0 && option->letter == letter) {
            return option;
        }
    }
    return NULL;
}

/* ---- help ---- */

/* Breaks `text` at blanks so that no line passes HELP_COLUMNS; lines after the first start at `indent`. A
 * line of the text that begins with a blank is kept as it is. `column` is where the cursor stands. */
static void print_wrapped(const char *text, size_t indent, size_t column) {
    int keep = *text == ' ';

    while (*text != '\0') {
        if (*text == '\n') {
            putchar('\n');
            text++;
            column = 0;
            keep = *text == ' ';
            continue;
        }
        size_t blanks = strspn(text, " "), word = strcspn(text + blanks, " \n");
        if (!keep && column > indent && column + blanks + word > HELP_COLUMNS) {
            putchar('\n');
            column = 0;
        }
        if (column == 0) {
            size_t lead = keep ? indent + blanks : indent;
            printf("%*s", (int)lead, "");
            column = lead;
        } else {
            printf("%*s", (int)blanks, "");
            column += blanks;
        }
        printf("%.*s", (int)word, text + blanks);
        column += word;
        text += blanks + word;
    }
    putchar('\n');
}

static void print_option(const cli_option *option) {
    char left[96];
    int used = snprintf(left, sizeof left, "  %c%c --%s%s%s", option->letter != 0 ? '-' : ' ',
                        option->letter != 0 ? option->letter : ' ', option->name,
                        option->meta != NULL ? " " : "", option->meta != NULL ? option->meta : "");
    size_t column = used > 0 && (size_t)used < sizeof left ? (size_t)used : sizeof left - 1;

    fputs(left, stdout);
    if (column + 2 > HELP_INDENT) {
        putchar('\n');
        column = 0;
    }
    printf("%*s", (int)(HELP_INDENT - column), "");
    print_wrapped(option->help, HELP_INDENT, HELP_INDENT);
}

static void print_help(const cli_command *command, const cli_option *options, const cli_option *common) {
    printf("usage: ousac %s [OPTION...]%s%s\n\n", command->name, *command->arguments != '\0' ? " " : "",
           command->arguments);
    print_wrapped(command->details, 0, 0);
    fputs("\nOptions (those marked * are required):\n", stdout);
    for (const cli_option *option = options; option->name != NULL; option++) {
        char help[1024];
        snprintf(help, sizeof help, "%s%s", option->required ? "* " : "", option->help);
        cli_option shown = *option;
        shown.help = help;
        print_option(&shown);
    }
    fputs("\nOptions of every command:\n", stdout);
    for (const cli_option *option = common; option->name != NULL; option++) {
        print_option(option);
    }
    fputs("\nExample (in a clone, after `make demo`):\n", stdout);
    for (const char *line = command->example; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        printf("  %.*s\n", (int)length, line); /* never wrapped: it is there to be copied */
        line += length + (line[length] == '\n');
    }
    fputs("\nExit codes: see `ousac --help`.\n", stdout);
}

/* ---- parsing ---- */

static size_t usable_processors(void) {
    size_t bytes = CPU_ALLOC_SIZE(CPUS_MAX), count = 0;
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX); /* a fixed cpu_set_t is too small for the largest machines */

    if (set != NULL && sched_getaffinity(0, bytes, set) == 0) {
        count = (size_t)CPU_COUNT_S(bytes, set);
    }
    CPU_FREE(set);
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 ? (size_t)online : 1;
    }
    return count < THREADS_MAX ? count : THREADS_MAX;
}

enum { OPTIONS_MAX = 64 };

typedef struct parser {
    cli_option options[OPTIONS_MAX + 1]; /* the command's, then the common ones, then a name of NULL */
    int given[OPTIONS_MAX];
    size_t count;
} parser;

static ousac_status add_options(parser *p, const cli_option *options, ousac_error *error) {
    for (const cli_option *option = options; option->name != NULL; option++) {
        if (p->count == OPTIONS_MAX) {
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "more than %d options", OPTIONS_MAX);
        }
        p->options[p->count++] = *option;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status unknown_option(const parser *p, const char *typed, size_t length, ousac_error *error) {
    char name[NAME_BYTES_MAX];
    const char *best = NULL;
    size_t distance = SIZE_MAX;

    snprintf(name, sizeof name, "%.*s", (int)(length < NAME_BYTES_MAX ? length : NAME_BYTES_MAX), typed);
    for (const cli_option *option = p->options; option->name != NULL; option++) {
        size_t d = name_distance(name, option->name);
        if (d < distance) {
            distance = d;
            best = option->name;
        }
    }
    if (best != NULL && distance <= strlen(name) / 2) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "unknown option '--%s'; the nearest is '--%s'", name,
                          best);
    }
    return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "unknown option '--%s'; --help lists the options", name);
}

/* Takes the option at argv[*index], and its value, moving *index to the last argument used. */
static ousac_status take_option(parser *p, int argc, char **argv, int *index, ousac_error *error) {
    const char *argument = argv[*index], *value = NULL;
    const cli_option *option = NULL;

    if (argument[1] == '-') {
        size_t length = strcspn(argument + 2, "=");
        option = find_option(p->options, argument + 2, length);
        if (option == NULL) {
            return unknown_option(p, argument + 2, length, error);
        }
        value = argument[2 + length] == '=' ? argument + 3 + length : NULL;
    } else {
        option = argument[2] == '\0' ? find_letter(p->options, argument[1]) : NULL;
        if (option == NULL) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "unknown option '%s'; --help lists the options",
                              argument);
        }
    }

    size_t place = (size_t)(option - p->options);
    if (p->given[place] && option->kind != CLI_FLAG) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s is given twice", option->name);
    }
    p->given[place] = 1;

    if (option->kind == CLI_FLAG) {
        if (value != NULL) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s takes no value", option->name);
        }
    } else if (value == NULL) {
        /* A forgotten value must not swallow the next option; --name=value takes a value that looks like one.
         */
        if (*index + 1 >= argc || strncmp(argv[*index + 1], "--", 2) == 0) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s", option->name, option->meta);
        }
        *index += 1;
        value = argv[*index];
    }
    return set_value(option, value, error);
}

static int is_given(const parser *p, const char *name) {
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->options[i].name, name) == 0)
            return p->given[i];
    return 0;
}

ousac_status cli_parse(const cli_command *command, const cli_option *options, int argc, char **argv,
                       cli_common *common, size_t *positionals, int *done, ousac_error *error) {
    int help = 0, only_positionals = 0;
    const cli_option common_options[] = {
        {"help", 'h', CLI_FLAG, &help, 0, 0, 0, NULL, "print this text and exit"},
        {"json", 0, CLI_FLAG, &common->json, 0, 0, 0, NULL,
         "print the result, or the error, as one JSON object on standard output"},
        {"quiet", 'q', CLI_FLAG, &common->quiet, 0, 0, 0, NULL, "no progress and no notes on standard error"},
        {"threads", 0, CLI_SIZE, &common->threads, 1, THREADS_MAX, 0, "N",
         "threads to use (default: the processors this process may use)"},
        {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    parser p = {.count = 0};
    size_t count = 0;
    ousac_status status = OUSAC_STATUS_OK;

    *done = 0;
    *positionals = 0;
    memset(common, 0, sizeof *common);
    common->threads = usable_processors();
    status = add_options(&p, options, error);
    if (status == OUSAC_STATUS_OK) {
        status = add_options(&p, common_options, error);
    }
    if (status != OUSAC_STATUS_OK) {
        return status;
    }
    /* Known before anything can fail: failures are reported as asked, and help is given whatever else is
     * there. */
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        common->json |= strcmp(argv[i], "--json") == 0;
        help |= strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
    }
    if (help) {
        print_help(command, options, common_options);
        *done = 1;
        return OUSAC_STATUS_OK;
    }

    for (int i = 1; i < argc; i++) {
        char *argument = argv[i];
        if (!only_positionals && strcmp(argument, "--") == 0) {
            only_positionals = 1;
        } else if (!only_positionals && argument[0] == '-' && argument[1] != '\0') {
            status = take_option(&p, argc, argv, &i, error);
            if (status != OUSAC_STATUS_OK) {
                return status;
            }
        } else {
            argv[1 + count] = argument; /* at or before i: already read */
            count++;
        }
    }
    if (count > 0 && *command->arguments == '\0') {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "unexpected argument '%s'; the command takes options only", argv[1]);
    }
    for (size_t i = 0; i < p.count; i++) {
        if (p.options[i].required && !p.given[i]) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s %s is required", p.options[i].name,
                              p.options[i].meta);
        }
    }
    common->threads_chosen = is_given(&p, "threads");
    *positionals = count;
    return OUSAC_STATUS_OK;
}

/* ---- messages ---- */

int cli_report_error(const cli_command *command, const cli_common *common, const ousac_error *error) {
    fprintf(stderr, "ousac %s: %s\n", command->name, error->message);
    if (common->json) {
        json_doc doc;
        json_begin(&doc);
        cJSON *object = json_put_object(&doc, doc.root, "error");
        json_put_text(&doc, object, "status", ousac_status_name(error->status));
        json_put_text(&doc, object, "message", error->message);
        json_print(&doc, NULL); /* the message is on standard error already where memory is short */
        json_end(&doc);
    }
    return cli_exit_code(error->status);
}

void cli_note(const cli_common *common, const char *format, ...) {
    if (common->quiet) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* ---- signals, clock, memory ---- */

static void on_signal(int number) {
    (void)number;
    cli_stop = 1;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}

void cli_catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM};
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction old;
        /* A signal ignored by whoever started the program (a background job) stays ignored. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(numbers[i], &action, NULL);
        }
    }
}

double cli_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

uint64_t cli_peak_bytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0 || usage.ru_maxrss < 0) {
        return 0;
    }
    return (uint64_t)usage.ru_maxrss * 1024; /* Linux counts kilobytes */
}
