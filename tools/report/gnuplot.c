#include "tools/report/gnuplot.h"

#include "formats/memory.h"
#include "plots.h"
#include "profile/files/text.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { OUTPUT_BYTES_MAX = 256 << 20, MESSAGE_BYTES = 300 };

static const char *script_text(const char *name) {
    for (size_t i = 0; i < sizeof PLOT_SCRIPTS / sizeof *PLOT_SCRIPTS; i++)
        if (strcmp(PLOT_SCRIPTS[i].name, name) == 0)
            return PLOT_SCRIPTS[i].text;
    return NULL;
}

/* A file without a name: what a child reads and writes through it cannot block or outlive this process. */
static ousac_status open_scratch(FILE **file, ousac_error *error) {
    *file = tmpfile();
    return *file != NULL
               ? OUSAC_STATUS_OK
               : OUSAC_FAIL(error, OUSAC_STATUS_IO, "cannot make a temporary file: %s", strerror(errno));
}

static ousac_status read_scratch(FILE *file, char **text, size_t *size, ousac_error *error) {
    long end = 0;
    if (fseek(file, 0, SEEK_END) != 0 || (end = ftell(file)) < 0 || end > OUTPUT_BYTES_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "cannot read what gnuplot wrote");
    rewind(file);
    *text = ousac_malloc((size_t)end + 1, 1);
    if (*text == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a plot of %ld bytes", end);
    *size = fread(*text, 1, (size_t)end, file);
    (*text)[*size] = '\0';
    return *size == (size_t)end ? OUSAC_STATUS_OK
                                : OUSAC_FAIL(error, OUSAC_STATUS_IO, "cannot read what gnuplot wrote");
}

/* Starts `gnuplot` with the three standard streams given, and waits. *code is its exit status, or -1. */
static ousac_status run_gnuplot(char *const argv[], FILE *in, FILE *out, FILE *err, int *code,
                                ousac_error *error) {
    posix_spawn_file_actions_t actions;
    pid_t child = 0;
    int state = 0;
    int failed = posix_spawn_file_actions_init(&actions);
    if (failed)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cannot prepare to start gnuplot: %s",
                          strerror(failed));
    failed = posix_spawn_file_actions_adddup2(&actions, fileno(in), STDIN_FILENO);
    if (!failed)
        failed = posix_spawn_file_actions_adddup2(&actions, fileno(out), STDOUT_FILENO);
    if (!failed)
        failed = posix_spawn_file_actions_adddup2(&actions, fileno(err), STDERR_FILENO);
    if (!failed)
        failed = posix_spawnp(&child, argv[0], &actions, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    if (failed == ENOENT || failed == EACCES)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "gnuplot was not found on the PATH; plots need it (Debian: apt-get install gnuplot-nox)");
    if (failed)
        return OUSAC_FAIL(error, OUSAC_STATUS_IO, "cannot start gnuplot: %s", strerror(failed));
    while (waitpid(child, &state, 0) < 0)
        if (errno != EINTR)
            return OUSAC_FAIL(error, OUSAC_STATUS_IO, "cannot wait for gnuplot: %s", strerror(errno));
    *code = WIFEXITED(state) ? WEXITSTATUS(state) : -1;
    return OUSAC_STATUS_OK;
}

ousac_status gnuplot_check(ousac_error *error) {
    char name[] = "gnuplot", version[] = "--version";
    char *const argv[] = {name, version, NULL};
    FILE *in = NULL, *out = NULL;
    int code = 0;
    ousac_status status = open_scratch(&in, error);
    if (!status)
        status = open_scratch(&out, error);
    if (!status)
        status = run_gnuplot(argv, in, out, out, &code, error);
    if (!status && code != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "gnuplot --version fails with status %d", code);
    if (out != NULL)
        (void)fclose(out);
    if (in != NULL)
        (void)fclose(in);
    return status;
}

/* NAME='PREFIXVALUE'; in gnuplot's single quotes nothing but the quote itself is special. */
static void add_variable(ousac_text *text, const char *name, const char *prefix, const char *value) {
    ousac_text_add(text, "%s='%s", name, prefix);
    for (; *value != '\0'; value++)
        if (*value == '\'')
            ousac_text_add(text, "''");
        else
            ousac_text_add(text, "%c", *value);
    ousac_text_add(text, "';");
}

static int has_control_bytes(const char *path) {
    for (; *path != '\0'; path++)
        if ((unsigned char)*path < 0x20 || *path == 0x7f)
            return 1;
    return 0;
}

/* Whether the output is whole: an SVG that ends, a PNG that begins, any text. */
static int is_complete(gnuplot_terminal terminal, const char *image, size_t size) {
    static const char png[] = "\x89PNG\r\n\x1a\n";
    if (terminal == GNUPLOT_PNG)
        return size > 64 && memcmp(image, png, sizeof png - 1) == 0;
    if (terminal == GNUPLOT_SVG)
        return strstr(image, "<svg") != NULL && strstr(image, "</svg>") != NULL;
    return size > 0;
}

/* The first line that places an error; gnuplot echoes the command before it. */
static void first_message(const char *text, char message[MESSAGE_BYTES]) {
    const char *found = strstr(text, "line ");
    found = found != NULL ? found : text + strspn(text, " \n^");
    (void)snprintf(message, MESSAGE_BYTES, "%.*s", (int)strcspn(found, "\n"), found);
}

ousac_status gnuplot_draw(const gnuplot_job *job, char **image, size_t *size, ousac_error *error) {
    static const char *const terminals[] = {"svg", "png", "dumb"};
    /* By its name as a file: gnuplot reads blocks from "-" line by line and does not find their ends. */
    char program[] = "gnuplot", defaults[] = "-d", expression[] = "-e", standard_input[] = "/dev/stdin";
    const char *common = script_text("common"), *script = script_text(job->script);
    FILE *in = NULL, *out = NULL, *err = NULL;
    ousac_text variables = {0};
    char *messages = NULL, message[MESSAGE_BYTES];
    size_t message_size = 0;
    int code = 0;
    ousac_status status = OUSAC_STATUS_OK;

    *image = NULL;
    *size = 0;
    if (common == NULL || script == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "no plot script named %s", job->script);
    if (has_control_bytes(job->tables))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "plots cannot be made from a directory whose name holds control characters");
    ousac_text_add(&variables, "ousac_common=1;columns=%zu;", job->columns > 0 ? job->columns : 100);
    add_variable(&variables, "grid", "", job->grid != NULL ? job->grid : "");
    add_variable(&variables, "terminal", "", terminals[job->terminal]);
    add_variable(&variables, "nothing", "", job->nothing != NULL ? job->nothing : "");
    add_variable(&variables, "name", "", job->script);
    /* A name that begins with '<' or '|' would be a command to gnuplot. */
    add_variable(&variables, "tables", *job->tables == '/' ? "" : "./", job->tables);
    if (variables.failed) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for gnuplot's variables");
        goto done;
    }
    status = open_scratch(&in, error);
    if (!status)
        status = open_scratch(&out, error);
    if (!status)
        status = open_scratch(&err, error);
    if (status)
        goto done;
    if (fputs(common, in) < 0 || fputs(script, in) < 0 || fflush(in) != 0 || fseek(in, 0, SEEK_SET) != 0 ||
        lseek(fileno(in), 0, SEEK_SET) != 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_IO, "cannot write a temporary file: %s", strerror(errno));
        goto done;
    }
    char *const argv[] = {program, defaults, expression, variables.data, standard_input, NULL};
    status = run_gnuplot(argv, in, out, err, &code, error);
    if (!status)
        status = read_scratch(err, &messages, &message_size, error);
    if (!status)
        status = read_scratch(out, image, size, error);
    if (!status && (code != 0 || !is_complete(job->terminal, *image, *size))) {
        first_message(messages, message);
        status =
            OUSAC_FAIL(error,
                       strstr(messages, "unknown or ambiguous terminal") != NULL ? OUSAC_STATUS_UNSUPPORTED
                                                                                 : OUSAC_STATUS_INTERNAL,
                       "plot %s: gnuplot failed: %s", job->script, message);
    }
done:
    if (status) {
        ousac_free(*image);
        *image = NULL;
    }
    if (in != NULL)
        (void)fclose(in);
    if (out != NULL)
        (void)fclose(out);
    if (err != NULL)
        (void)fclose(err);
    ousac_free(messages);
    ousac_free(variables.data);
    return status;
}
