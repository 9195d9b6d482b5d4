/* The terminal side of the program: options, help, messages, progress, signals. Only tools/ prints.
 *
 * Results go to standard output; messages, warnings and progress to standard error. With --json a command prints one
 * JSON object to standard output and nothing else there.
 *
 * A command is a table of options and a function. The driver, cli_run, does for all of them what is alike: it fills the
 * command's request from the table's defaults and the arguments, prints help, checks the files that the table says are
 * read and written, catches signals, and reports errors. Help, man pages and completions are printed from the same
 * tables.
 */
#ifndef OUSAC_CLI_H
#define OUSAC_CLI_H

#include "formats/json_build.h"
#include "formats/status.h"
#include "formats/stop.h"
#include "profile/record/profile.h"

#include <stddef.h>
#include <stdint.h>

/* Exit codes, documented in `ousac --help`. */
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,      /* io, memory, internal */
    EXIT_USAGE = 2,       /* wrong option or value */
    EXIT_FORMAT = 3,      /* a file is malformed, or does not verify */
    EXIT_MISMATCH = 4,    /* files were not made for one another */
    EXIT_NUMBER = 5,      /* a value is not finite */
    EXIT_UNSUPPORTED = 6, /* this build or machine cannot do it */
    EXIT_INTERRUPTED = 130
};

int cli_exit_code(ousac_status status);

typedef enum cli_kind {
    CLI_FLAG,    /* int, set to 1 */
    CLI_TEXT,    /* const char *; points into argv */
    CLI_INPUT,   /* the same: a file that is read */
    CLI_OUTPUT,  /* the same: a file that is written; its directory must be there */
    CLI_INTO,    /* the same: a directory to write into, made where missing */
    CLI_CHOICE,  /* int, an enumeration that counts from 0: the place of the word among those of `meta` */
    CLI_CHOICES, /* unsigned: bits, of words separated by commas; "auto" is the default */
    CLI_SIZE,    /* size_t, decimal, within [low, high] */
    CLI_U64,     /* uint64_t, within [low, high] */
    CLI_REAL,    /* double, finite, within [low, high]; NAN where there is no default */
    CLI_RANGE,   /* ousac_sample_range: FIRST:END (END excluded) or COUNT, meaning 0:COUNT */
    CLI_SIZE_OR_AUTO,  /* as SIZE, with low above 0; the word auto gives 0 */
    CLI_RANGE_OR_AUTO, /* as RANGE; the word auto gives a count of 0 */
    CLI_END            /* of a table */
} cli_kind;

/* In place of a default: the option must be given. */
#define CLI_REQUIRED "\1"

typedef struct cli_option {
    const char *name; /* "budget-step", without dashes */
    char letter;      /* 'o', or 0 */
    cli_kind kind;
    size_t at;          /* offset of its value in the command's request */
    const char *meta;   /* "X" in --help; of a choice its words, "off|on|auto"; NULL for a flag */
    const char *preset; /* the default as it would be typed; NULL for none; CLI_REQUIRED */
    const char *help;   /* one line; states the unit; the default is added */
    double low, high;   /* bounds of numbers, both 0 for none; high of an output: tools/cli/streams.h */
} cli_option;

/* A numeric constant as the text of a default. */
#define CLI_TEXT_OF(constant) CLI_TEXT_OF_(constant)
#define CLI_TEXT_OF_(constant) #constant

typedef struct cli_common {
    int json, quiet, help;
    size_t threads;     /* default: the processors this process may use */
    int threads_chosen; /* 1: by --threads */
} cli_common;

enum { CLI_OPTIONS_MAX = 64, CLI_STREAMS_MAX = 8, CLI_STREAM_BYTES = 32 };

/* One call of a command. */
typedef struct cli_call {
    const struct cli_command *command;
    cli_common common;
    char **files; /* the arguments that are no options; they point into argv */
    size_t file_count;
    unsigned char given[CLI_OPTIONS_MAX];           /* by the place in the table */
    char stream[CLI_STREAMS_MAX][CLI_STREAM_BYTES]; /* names that stand for pipes (tools/cli/streams.h) */
    size_t stream_count;
    int code; /* the exit code of a success; EXIT_OK unless the command says otherwise */
} cli_call;

typedef struct cli_files cli_files; /* tools/cli/files.h */

typedef struct cli_command {
    const char *name;
    const char *summary;                    /* one line, for `ousac --help` */
    const char *arguments;                  /* "FILE..." or ""; */
    const char *details;                    /* paragraphs; what it does, what it writes */
    const char *example;                    /* commands that work in a clone after `make demo` */
    const cli_option *options;              /* ends with CLI_END */
    size_t request_size;                    /* bytes of the request */
    size_t arguments_least, arguments_most; /* how many arguments are taken */
    const char *expects; /* "expects one file": said where there are others; NULL for none at all */
    /* Adds the files that the table does not show to those that are checked (tools/cli/files.h); may be NULL. */
    void (*files)(const cli_call *call, const void *request, cli_files *files);
    int replaces_arguments; /* 1: the output may be one of the arguments, which is then replaced */
    /* Does the work with a request of request_size bytes, zeroed but for what the options filled. */
    ousac_status (*run)(cli_call *call, void *request, ousac_error *error);
} cli_command;

/* Runs a command; argv[0] is its name. Returns the exit code. */
int cli_run(const cli_command *command, int argc, char **argv);

/* 1 where the option was given; `name` is in the table. */
int cli_given(const cli_call *call, const char *name);

/* The index-th word of a choice's `meta`, and its length: words[0, *length). */
const char *cli_choice_word(const char *words, size_t index, size_t *length);

/* --- parts of the driver --- */

/* The options of every command: --help, --json, --quiet, --threads; `at` counts within cli_common. */
extern const cli_option cli_common_options[];

/* Parses `--name value`, `--name=value`, `-o value`, `--`, and sets defaults first; what is no option is gathered in
 * call->files. Every error is USAGE, names the option and says what was expected, for an unknown one also the nearest
 * known. Where --help is among the arguments nothing else is looked at. */
ousac_status cli_parse(cli_call *call, void *request, int argc, char **argv, ousac_error *error);

void cli_print_help(const cli_command *command);

enum { CLI_THREADS_MAX = 1024 };

/* Prints "ousac COMMAND: MESSAGE" to standard error and returns the exit code for the status. Under --json also prints
 * {"error": {"status": ..., "message": ...}} to standard output. The library names a field
 * in backticks, with underscores; where that is an option of the command it is spelt as one: `budget_step` becomes
 * --budget-step. */
int cli_report_error(const cli_call *call, const ousac_error *error);

/* Fewest insertions, deletions and replacements that turn one short name into the other. */
size_t cli_edit_distance(const char *a, const char *b);

/* --- telling --- */

/* Set by SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGXCPU once cli_catch_signals was called; long work polls it. A second
 * SIGINT or SIGTERM kills. */
extern ousac_stop cli_stop;
void cli_catch_signals(void);

/* One progress line on standard error with share done, rate and time left, redrawn at most ten times a second; nothing
 * where standard error is not a terminal. Thread-safe. cli_progress_update has the signature that ousac_run wants, with
 * the cli_progress as self. */
typedef struct cli_progress cli_progress;
cli_progress *cli_progress_start(const char *label); /* NULL is a silent progress */
void cli_progress_update(void *progress, uint64_t done, uint64_t total);
void cli_progress_end(cli_progress *progress);

/* A one-line note to standard error unless quiet. */
void cli_note(const cli_common *common, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints the document, indented and with a final newline, to standard output; errors of the stream are found when the
 * program ends. */
ousac_status cli_json_print(const ousac_json_doc *doc, ousac_error *error);

#endif
