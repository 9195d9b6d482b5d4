#include "pipeline/machine.h"
#include "tools/cli/cli.h"

#include "formats/memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cli_progress {
    pthread_mutex_t lock;
    char label[64];
    double started, drawn;
    int visible; /* something stands on the line */
};

static const double REDRAW_S = 0.1;

/* A line is drawn over itself by escape sequences, which not every terminal obeys. */
static int can_redraw(void) {
    const char *terminal = getenv("TERM");
    return isatty(STDERR_FILENO) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}

cli_progress *cli_progress_start(const char *label) {
    if (!can_redraw()) {
        return NULL;
    }
    cli_progress *progress = ousac_calloc(1, sizeof *progress);
    if (progress == NULL) {
        return NULL; /* work without a progress line is better than none */
    }
    if (pthread_mutex_init(&progress->lock, NULL) != 0) {
        ousac_free(progress);
        return NULL;
    }
    snprintf(progress->label, sizeof progress->label, "%s", label);
    progress->started = ousac_clock_s();
    progress->drawn = progress->started;
    return progress;
}

static void write_duration(char *text, size_t size, double seconds) {
    if (!(seconds < 360000)) {
        snprintf(text, size, "over 100 h");
        return;
    }
    unsigned long whole = (unsigned long)(seconds + 0.5);
    if (whole >= 3600) {
        snprintf(text, size, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60, whole % 60);
    } else {
        snprintf(text, size, "%lu:%02lu", whole / 60, whole % 60);
    }
}

void cli_progress_update(void *self, uint64_t done, uint64_t total) {
    cli_progress *progress = self;

    if (progress == NULL || total == 0) {
        return;
    }
    pthread_mutex_lock(&progress->lock);
    double now = ousac_clock_s();
    if (now - progress->drawn >= REDRAW_S) {
        double elapsed = now - progress->started;
        double rate = (double)done / elapsed;
        char left[32] = "?";
        if (done > 0) {
            write_duration(left, sizeof left, (double)(total - (done < total ? done : total)) / rate);
        }
        fprintf(stderr, "\r\033[K%s  %3.0f %%  %.3g/s  %s left", progress->label,
                100.0 * (double)done / (double)total, rate, left);
        fflush(stderr);
        progress->drawn = now;
        progress->visible = 1;
    }
    pthread_mutex_unlock(&progress->lock);
}

void cli_progress_end(cli_progress *progress) {
    if (progress == NULL) {
        return;
    }
    if (progress->visible) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    pthread_mutex_destroy(&progress->lock);
    ousac_free(progress);
}
