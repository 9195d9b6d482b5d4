#include "tools/cli/cli.h"

#include <stdio.h>
#include <string.h>

enum { HELP_COLUMNS = 100, HELP_INDENT = 26 };

/* Breaks `text` at blanks so that no line passes HELP_COLUMNS; lines after the first start at `indent`. A line of the
 * text that begins with a blank is kept as it is. `column` is where the cursor stands. */
static void print_wrapped(const char *text, size_t indent, size_t column) {
    int keep = *text == ' ';
    while (*text != '\0') {
        if (*text == '\n') {
            (void)putchar('\n');
            text++;
            column = 0;
            keep = *text == ' ';
            continue;
        }
        const size_t blanks = strspn(text, " "), word = strcspn(text + blanks, " \n");
        if (!keep && column > indent && column + blanks + word > HELP_COLUMNS) {
            (void)putchar('\n');
            column = 0;
        }
        const size_t lead = column > 0 ? blanks : keep ? indent + blanks : indent;
        (void)printf("%*s%.*s", (int)lead, "", (int)word, text + blanks);
        column += lead + word;
        text += blanks + word;
    }
    (void)putchar('\n');
}

static void print_option(const cli_option *option) {
    char left[96], help[1024];
    const int required = option->preset && *option->preset == *CLI_REQUIRED;
    const int used = snprintf(left, sizeof left, "  %c%c --%s%s%s", option->letter != 0 ? '-' : ' ',
                              option->letter != 0 ? option->letter : ' ', option->name,
                              option->meta ? " " : "", option->meta ? option->meta : "");
    size_t column = used > 0 && (size_t)used < sizeof left ? (size_t)used : sizeof left - 1;
    (void)snprintf(help, sizeof help, "%s%s%s%s%s", required ? "* " : "", option->help,
                   option->preset && !required ? " (default " : "",
                   option->preset && !required ? option->preset : "", option->preset && !required ? ")" : "");
    (void)fputs(left, stdout);
    if (column + 2 > HELP_INDENT) {
        (void)putchar('\n');
        column = 0;
    }
    (void)printf("%*s", (int)(HELP_INDENT - column), "");
    print_wrapped(help, HELP_INDENT, HELP_INDENT);
}

void cli_print_help(const cli_command *command) {
    (void)printf("usage: ousac %s [OPTION...]%s%s\n\n", command->name, *command->arguments ? " " : "",
                 command->arguments);
    print_wrapped(command->details, 0, 0);
    (void)fputs("\nOptions (those marked * are required):\n", stdout);
    for (const cli_option *option = command->options; option->kind != CLI_END; option++)
        print_option(option);
    (void)fputs("\nOptions of every command:\n", stdout);
    for (const cli_option *option = cli_common_options; option->kind != CLI_END; option++)
        print_option(option);
    (void)fputs("\nExample (in a clone, after `make demo`):\n", stdout);
    for (const char *line = command->example; *line != '\0';) {
        const size_t length = strcspn(line, "\n");
        (void)printf("  %.*s\n", (int)length, line); /* never wrapped: it is there to be copied */
        line += length + (line[length] == '\n');
    }
    (void)fputs("\nExit codes: see `ousac --help`.\n", stdout);
}
