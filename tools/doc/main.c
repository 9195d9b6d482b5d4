/* Writes the man pages and the shell completions of the program from its own option tables, at build time:
 *
 *     ousac-doc man DIRECTORY     DIRECTORY/ousac.1, DIRECTORY/ousac-COMMAND.1
 *     ousac-doc bash|zsh|fish     the completion script, to standard output
 */
#include "tools/cmd/commands.h"

#include <ousac/version.h>
#include <stdio.h>
#include <string.h>

static const cli_option *const NO_OPTIONS = NULL;

/* --- man pages --- */

/* Text of a page: backslashes and hyphens escaped, and no line that roff would take for a request. */
static void roff(FILE *out, const char *text) {
    int at_start = 1;
    for (const char *c = text; *c; c++) {
        if (at_start && (*c == '.' || *c == '\''))
            (void)fputs("\\&", out);
        if (*c == '\\')
            (void)fputs("\\e", out);
        else if (*c == '-')
            (void)fputs("\\-", out);
        else
            (void)fputc(*c, out);
        at_start = *c == '\n';
    }
}

/* Paragraphs of `details`: an empty line separates them, lines that begin with a blank stay as they are. */
static void details(FILE *out, const char *text) {
    int verbatim = 0;
    while (*text) {
        const size_t length = strcspn(text, "\n");
        char line[1024];
        (void)snprintf(line, sizeof line, "%.*s", (int)(length < sizeof line ? length : sizeof line - 1),
                       text);
        const int blank = *line == ' ';
        if (blank != verbatim && *line) {
            (void)fputs(blank ? ".nf\n" : ".fi\n", out);
            verbatim = blank;
        }
        if (*line) {
            roff(out, line);
            (void)fputc('\n', out);
        } else {
            (void)fputs(verbatim ? ".fi\n.PP\n" : ".PP\n", out);
            verbatim = 0;
        }
        text += length + (text[length] == '\n');
    }
    if (verbatim)
        (void)fputs(".fi\n", out);
}

static void man_options(FILE *out, const cli_option *options) {
    for (const cli_option *o = options; o->kind != CLI_END; o++) {
        const int required = o->preset && *o->preset == *CLI_REQUIRED;
        (void)fputs(".TP\n", out);
        if (o->letter)
            (void)fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
        (void)fputs("\\fB\\-\\-", out);
        roff(out, o->name);
        (void)fputs("\\fR", out);
        if (o->meta) {
            (void)fputs(" \\fI", out);
            roff(out, o->meta);
            (void)fputs("\\fR", out);
        }
        (void)fputc('\n', out);
        roff(out, o->help);
        if (required)
            (void)fputs(" (required)", out);
        else if (o->preset) {
            (void)fputs(" (default ", out);
            roff(out, o->preset);
            (void)fputc(')', out);
        }
        (void)fputc('\n', out);
    }
}

static void head(FILE *out, const char *name, const char *summary) {
    (void)fprintf(out, ".TH \"");
    for (const char *c = name; *c; c++)
        (void)fputc(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c, out);
    (void)fprintf(out, "\" 1 \"\" \"ousac %s\" \"ousac\"\n.SH NAME\n", OUSAC_VERSION);
    roff(out, name);
    (void)fputs(" \\- ", out);
    roff(out, summary);
    (void)fputs("\n.SH SYNOPSIS\n", out);
}

static void man_command(FILE *out, const cli_command *command) {
    char name[64];
    (void)snprintf(name, sizeof name, "ousac-%s", command->name);
    head(out, name, command->summary);
    (void)fprintf(out, "\\fBousac %s\\fR [\\fIOPTION\\fR...] ", command->name);
    roff(out, command->arguments);
    (void)fputs("\n.SH DESCRIPTION\n", out);
    details(out, command->details);
    (void)fputs(".SH OPTIONS\n", out);
    man_options(out, command->options);
    (void)fputs(".SS Options of every command\n", out);
    man_options(out, cli_common_options);
    (void)fputs(".SH EXAMPLE\n.nf\n", out);
    roff(out, command->example);
    (void)fputs(
        "\n.fi\n.SH \"EXIT STATUS\"\nThose of \\fBousac\\fR(1).\n.SH \"SEE ALSO\"\n\\fBousac\\fR(1)\n", out);
}

static void man_program(FILE *out) {
    head(out, "ousac", "calibrate cached inference for diffusion transformers");
    (void)fputs(
        "\\fBousac\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR...] [\\fIARGUMENT\\fR...]\n.SH DESCRIPTION\n"
        "At most steps a linear layer of a diffusion transformer need not be computed: its last exact "
        "result plus a cheap low\\-rank correction is nearly as good. ousac measures the deltas that a "
        "schedule really makes, derives the corrections, chooses their ranks under a budget and writes "
        "them to one file.\n.SH COMMANDS\n",
        out);
    for (size_t i = 0; cli_commands[i]; i++) {
        (void)fprintf(out, ".TP\n\\fBousac\\-%s\\fR(1)\n", cli_commands[i]->name);
        roff(out, cli_commands[i]->summary);
        (void)fputc('\n', out);
    }
    (void)fputs(".SH \"EXIT STATUS\"\n", out);
    for (const char *line = cli_exit_codes; *line;) {
        const size_t length = strcspn(line, "\n");
        int code = 0, used = 0;
        if (sscanf(line, " %d %n", &code, &used) == 1) {
            char text[160];
            (void)snprintf(text, sizeof text, "%.*s", (int)length - used, line + used);
            (void)fprintf(out, ".TP\n%d\n", code);
            roff(out, text);
            (void)fputc('\n', out);
        }
        line += length + (line[length] == '\n');
    }
    (void)fputs(".SH \"SEE ALSO\"\n.BR minisign (1)\n", out);
}

static int man(const char *directory) {
    char path[4096];
    for (size_t i = 0;; i++) {
        const cli_command *command = i == 0 ? NULL : cli_commands[i - 1];
        if (i > 0 && !command)
            return 0;
        (void)snprintf(path, sizeof path, "%s/ousac%s%s.1", directory, command ? "-" : "",
                       command ? command->name : "");
        FILE *out = fopen(path, "w");
        if (!out) {
            perror(path);
            return 1;
        }
        if (command)
            man_command(out, command);
        else
            man_program(out);
        if (fclose(out) != 0) {
            perror(path);
            return 1;
        }
    }
}

/* --- completions --- */

static int takes_file(const cli_option *o) {
    return o->kind == CLI_INPUT || o->kind == CLI_OUTPUT || o->kind == CLI_INTO;
}

static void each(const char *words, const char *before, const char *after) {
    for (size_t i = 0;; i++) {
        size_t length = 0;
        const char *word = cli_choice_word(words, i, &length);
        (void)printf("%s%.*s%s", before, (int)length, word, after);
        if (word[length] == '\0')
            return;
    }
}

static void bash(void) {
    (void)puts("# bash completion for ousac; written from its option tables.\n"
               "_ousac() {\n"
               "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words\n"
               "    COMPREPLY=()\n"
               "    if [ \"$COMP_CWORD\" = 1 ]; then");
    (void)printf("        words=\"--help --version");
    for (size_t i = 0; cli_commands[i]; i++)
        (void)printf(" %s", cli_commands[i]->name);
    (void)puts(
        "\"\n        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n        return\n    fi\n"
        "    case ${COMP_WORDS[1]} in");
    for (size_t i = 0; cli_commands[i]; i++) {
        const cli_option *const tables[] = {cli_commands[i]->options, cli_common_options, NO_OPTIONS};
        (void)printf("    %s)\n        case $prev in\n", cli_commands[i]->name);
        for (const cli_option *o = cli_commands[i]->options; o->kind != CLI_END; o++)
            if (o->kind == CLI_CHOICE || o->kind == CLI_CHOICES) {
                (void)printf("        --%s) words=\"", o->name);
                each(o->meta, "", " ");
                (void)puts("\" ;;");
            } else if (takes_file(o))
                (void)printf("        --%s) mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;\n",
                             o->name);
        (void)printf("        *) words=\"");
        for (size_t t = 0; tables[t]; t++)
            for (const cli_option *o = tables[t]; o->kind != CLI_END; o++)
                (void)printf("--%s ", o->name);
        (void)puts("\" ;;\n        esac ;;");
    }
    (void)puts("    esac\n"
               "    if [[ $cur == -* || $prev == --* && -n $words && $words != --* ]]; then\n"
               "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
               "    else\n"
               "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
               "    fi\n"
               "}\n"
               "complete -o filenames -F _ousac ousac");
}

/* A text within single quotes and brackets of a zsh or fish argument. */
static void quoted(const char *text) {
    for (const char *c = text; *c; c++)
        if (*c == '\'')
            (void)fputs("'\\''", stdout);
        else if (*c == '[' || *c == ']' || *c == ':')
            (void)printf("\\%c", *c);
        else
            (void)putchar(*c);
}

static void zsh(void) {
    (void)puts("#compdef ousac\n# zsh completion for ousac; written from its option tables.\n_ousac() {\n"
               "  local -a commands\n  commands=(");
    for (size_t i = 0; cli_commands[i]; i++) {
        (void)printf("    '%s:", cli_commands[i]->name);
        quoted(cli_commands[i]->summary);
        (void)puts("'");
    }
    (void)puts("  )\n  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n  fi\n"
               "  case $words[2] in");
    for (size_t i = 0; cli_commands[i]; i++) {
        const cli_option *const tables[] = {cli_commands[i]->options, cli_common_options, NO_OPTIONS};
        (void)printf("  %s)\n    shift words; (( CURRENT-- ))\n    _arguments \\\n", cli_commands[i]->name);
        for (size_t t = 0; tables[t]; t++)
            for (const cli_option *o = tables[t]; o->kind != CLI_END; o++) {
                (void)printf("      '--%s[", o->name);
                quoted(o->help);
                (void)putchar(']');
                if (o->kind == CLI_CHOICE || o->kind == CLI_CHOICES) {
                    (void)printf(":value:(");
                    each(o->meta, "", " ");
                    (void)putchar(')');
                } else if (o->kind == CLI_INTO)
                    (void)printf(":directory:_files -/");
                else if (takes_file(o))
                    (void)printf(":file:_files");
                else if (o->meta)
                    (void)printf(":value:");
                (void)puts("' \\");
            }
        (void)puts("      '*:file:_files' ;;");
    }
    (void)puts("  esac\n}\n_ousac \"$@\"");
}

static void fish_option(const char *command, const cli_option *o) {
    (void)printf("complete -c ousac -n '__fish_seen_subcommand_from %s' -l %s", command, o->name);
    if (o->letter)
        (void)printf(" -s %c", o->letter);
    if (o->kind != CLI_FLAG)
        (void)printf(takes_file(o) ? " -r -F" : " -x");
    if (o->kind == CLI_CHOICE || o->kind == CLI_CHOICES) {
        (void)printf(" -a '");
        each(o->meta, "", " ");
        (void)putchar('\'');
    }
    (void)printf(" -d '");
    for (const char *c = o->help; *c; c++)
        (void)printf(*c == '\'' ? "\\'" : "%c", *c);
    (void)puts("'");
}

static void fish(void) {
    (void)puts("# fish completion for ousac; written from its option tables.\n"
               "complete -c ousac -n __fish_use_subcommand -f");
    for (size_t i = 0; cli_commands[i]; i++) {
        const cli_command *command = cli_commands[i];
        (void)printf("complete -c ousac -n __fish_use_subcommand -f -a %s -d '", command->name);
        for (const char *c = command->summary; *c; c++)
            (void)printf(*c == '\'' ? "\\'" : "%c", *c);
        (void)puts("'");
        for (const cli_option *o = command->options; o->kind != CLI_END; o++)
            fish_option(command->name, o);
        for (const cli_option *o = cli_common_options; o->kind != CLI_END; o++)
            fish_option(command->name, o);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "man") == 0)
        return man(argv[2]);
    if (argc == 2 && strcmp(argv[1], "bash") == 0)
        bash();
    else if (argc == 2 && strcmp(argv[1], "zsh") == 0)
        zsh();
    else if (argc == 2 && strcmp(argv[1], "fish") == 0)
        fish();
    else {
        (void)fputs("usage: ousac-doc man DIRECTORY | bash | zsh | fish\n", stderr);
        return 2;
    }
    return fflush(stdout) != 0;
}
