#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include <errno.h>
#include <ousac/version.h>
#include <stdio.h>
#include <string.h>

static void print_help(FILE *stream) {
    fputs("usage: ousac COMMAND [OPTION...] [ARGUMENT...]\n"
          "\n"
          "Calibrates cached inference for diffusion transformers: at most steps a linear layer is corrected "
          "by\n"
          "y = y_cached + A B (x - x_cached) instead of being computed. ousac measures the deltas that a "
          "schedule\n"
          "really makes, derives A and B, chooses their ranks under a budget and writes them to one file.\n"
          "\n"
          "Commands:\n",
          stream);
    for (size_t i = 0; cli_commands[i]; i++) {
        cli_fprintf(stream, "  %-10s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    }
    fputs("\n"
          "  ousac COMMAND --help   options and an example of one command\n"
          "  ousac --version, -V    version\n"
          "\n"
          "Results go to standard output, messages and progress to standard error.\n"
          "\n"
          "Exit codes:\n",
          stream);
    (void)fputs(cli_exit_codes, stream);
}

static const cli_command *find_command(const char *name) {
    for (size_t i = 0; cli_commands[i]; i++) {
        if (strcmp(cli_commands[i]->name, name) == 0) {
            return cli_commands[i];
        }
    }
    return NULL;
}

static int unknown_command(const char *name) {
    const char *best = NULL;
    size_t distance = SIZE_MAX;

    for (size_t i = 0; cli_commands[i]; i++) {
        size_t d = cli_edit_distance(name, cli_commands[i]->name);
        if (d < distance) {
            distance = d;
            best = cli_commands[i]->name;
        }
    }
    if (distance <= strlen(name) / 2) {
        cli_fprintf(stderr, "ousac: unknown command '%s'; the nearest is '%s'\n", name, best);
    } else {
        cli_fprintf(stderr, "ousac: unknown command '%s'; `ousac --help` lists the commands\n", name);
    }
    return EXIT_USAGE;
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        const cli_command *command = argc > 2 ? find_command(argv[2]) : NULL;
        if (argc > 2 && command == NULL) {
            return unknown_command(argv[2]);
        }
        if (command != NULL) {
            char help[] = "--help";
            char *arguments[] = {argv[2], help, NULL};
            return cli_run(command, 2, arguments);
        }
        print_help(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0 || strcmp(argv[1], "version") == 0) {
        puts("ousac " OUSAC_VERSION);
        return EXIT_OK;
    }
    const cli_command *command = find_command(argv[1]);
    if (command == NULL) {
        return unknown_command(argv[1]);
    }
    return cli_run(command, argc - 1, argv + 1);
}

int ousac_main(int argc, char **argv) {
    int code = run(argc, argv);

    /* A full disk shows when the stream is flushed, or already showed while it was written. */
    errno = 0;
    int unwritten = fflush(stdout) != 0 || ferror(stdout);
    if (unwritten) {
        cli_fprintf(stderr, "ousac: cannot write to standard output: %s\n",
                    errno != 0 ? strerror(errno) : "a write failed");
        code = code == EXIT_OK ? EXIT_FAILED : code;
    }
    return code;
}
