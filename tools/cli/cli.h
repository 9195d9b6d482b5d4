/* The terminal side of the program: options, help, messages, progress, signals. Only tools/ prints.
 *
 * Results go to standard output; messages, warnings and progress to standard error. With --json a command
 * prints one JSON object to standard output and nothing else there.
 */
#ifndef OUSAC_CLI_H
#define OUSAC_CLI_H

#include "formats/status.h"

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
    CLI_FLAG,         /* value: int *, set to 1 */
    CLI_TEXT,         /* const char **; points into argv */
    CLI_SIZE,         /* size_t *, decimal, within [low, high] */
    CLI_U64,          /* uint64_t * */
    CLI_REAL,         /* double *, finite, within [low, high] */
    CLI_RANGE,        /* cli_range *: FIRST:END (END excluded) or COUNT, meaning 0:COUNT */
    CLI_SIZE_OR_AUTO, /* as SIZE, with low above 0; the word auto gives 0 */
    CLI_RANGE_OR_AUTO /* as RANGE; the word auto gives a count of 0 */
} cli_kind;

typedef struct cli_range {
    uint64_t first, count;
} cli_range;

typedef struct cli_option {
    const char *name; /* "budget-step", without dashes */
    char letter;      /* 'o', or 0 */
    cli_kind kind;
    void *value;
    double low, high; /* bounds of SIZE and REAL, both 0 for none */
    int required;
    const char *meta; /* "X" in --help; NULL for a flag */
    const char *help; /* one line; states unit and default */
} cli_option;

typedef struct cli_command {
    const char *name;
    const char *summary;   /* one line, for `ousac --help` */
    const char *arguments; /* "FILE..." or "" */
    const char *details;   /* paragraphs; what it does, what it writes */
    const char *example;   /* commands that work in a clone after `make demo` */
    int (*run)(const struct cli_command *command, int argc, char **argv); /* argv[0] is the command's name */
} cli_command;

/* Parses `--name value`, `--name=value`, `-o value`, `--`; positional arguments are gathered at the front of
 * argv[1..] and counted in *positionals. --help prints and sets *done = 1 with EXIT_OK. Every error is USAGE,
 * names the option and says what was expected, for an unknown one also the nearest known. `options` ends with
 * a name of NULL. The options --help, --json, --quiet and --threads are every command's and are added by the
 * parser. */
typedef struct cli_common {
    int json, quiet;
    size_t threads;     /* default: the processors this process may use */
    int threads_chosen; /* 1: by --threads */
} cli_common;
ousac_status cli_parse(const cli_command *command, const cli_option *options, int argc, char **argv,
                       cli_common *common, size_t *positionals, int *done, ousac_error *error);

/* Prints "ousac COMMAND: MESSAGE" to standard error and returns the exit code for the status. Under --json
 * also prints
 * {"error": {"status": ..., "message": ...}} to standard output. */
int cli_report_error(const cli_command *command, const cli_common *common, const ousac_error *error);

/* Fewest insertions, deletions and replacements that turn one short name into the other. */
size_t cli_edit_distance(const char *a, const char *b);

/* Set by SIGINT and SIGTERM once cli_catch_signals was called; long work polls it. A second signal kills. */
extern volatile int cli_stop;
void cli_catch_signals(void);

/* One progress line on standard error with share done, rate and time left, redrawn at most ten times a
 * second; nothing where standard error is not a terminal or quiet is set. Thread-safe. cli_progress_update
 * has the signature that ousac_run wants, with the cli_progress as self. */
typedef struct cli_progress cli_progress;
cli_progress *cli_progress_start(const cli_common *common, const char *label); /* NULL is a silent progress */
void cli_progress_update(void *progress, uint64_t done, uint64_t total);
void cli_progress_end(cli_progress *progress);

/* A one-line note to standard error unless quiet. */
void cli_note(const cli_common *common, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Seconds of a monotonic clock, and peak resident memory of this process in bytes. */
double cli_seconds(void);
uint64_t cli_peak_bytes(void);

#endif
