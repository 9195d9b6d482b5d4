#include "tools/cmd/commands.h"

#include "formats/json_build.h"
#include "formats/memory.h"
#include "profile/record/profile.h"
#include "tools/cli/describe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct input {
    const char *path;
    unsigned long long first; /* sample it begins at */
} input;

typedef struct merge_work {
    input *inputs;
    size_t count;
    json_doc runs; /* {"run": [...]}: what each part cost */
    ousac_profile *sum;
} merge_work;

/* Adds what the parts of `text` cost: an object of one run, or the array of a profile that was merged before.
 */
static void add_runs(json_doc *runs, cJSON *array, const char *text) {
    cJSON *parsed = cJSON_Parse(text);

    if (cJSON_IsArray(parsed)) {
        const cJSON *item = NULL;
        cJSON_ArrayForEach(item, parsed) {
            cJSON *copy = cJSON_Duplicate(item, 1);
            if (copy == NULL || !cJSON_AddItemToArray(array, copy)) {
                cJSON_Delete(copy);
                runs->failed = 1;
            }
        }
    } else {
        json_put_parsed(runs, array, NULL, text);
    }
    cJSON_Delete(parsed);
}

/* Sums of float64 depend on their order, so the parts are added by rising first sample, however they were
 * named. */
static ousac_status read_order(merge_work *work, char **argv, ousac_error *error) {
    oca_file *file = NULL;

    for (size_t i = 0; i < work->count; i++) {
        input next = {argv[i], 0};
        ousac_status status = archive_open_any(&file, next.path, error);
        if (status != OUSAC_STATUS_OK) {
            return status;
        }
        const char *ranges = oca_metadata(file, "ranges");
        next.first = ranges != NULL ? strtoull(ranges, NULL, 10) : 0;
        oca_close(file);
        file = NULL;

        size_t place = i;
        while (place > 0 && work->inputs[place - 1].first > next.first) {
            work->inputs[place] = work->inputs[place - 1];
            place--;
        }
        work->inputs[place] = next;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status read_run(merge_work *work, cJSON *array, const char *path, ousac_error *error) {
    oca_file *file = NULL;
    ousac_status status = archive_open_any(&file, path, error);

    if (status == OUSAC_STATUS_OK) {
        const char *run = oca_metadata(file, "run");
        if (run != NULL) {
            add_runs(&work->runs, array, run);
        }
    }
    oca_close(file);
    return status;
}

static ousac_status merge(merge_work *work, char **argv, const char *output, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_profile *part = NULL;
    char *run_text = NULL;

    json_begin(&work->runs);
    cJSON *array = json_put_array(&work->runs, work->runs.root, "run");
    work->inputs = ousac_calloc(work->count, sizeof *work->inputs);
    if (work->inputs == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu inputs", work->count);
        goto done;
    }
    status = read_order(work, argv, error);
    for (size_t i = 0; status == OUSAC_STATUS_OK && i < work->count; i++) {
        const char *path = work->inputs[i].path;
        if (cli_stop) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted before %s was added", path);
            break;
        }
        /* Into the first, whose moments are in memory, those of the others are read one at a time. */
        status = work->sum == NULL ? ousac_profile_load(&part, path, error)
                                   : ousac_profile_open(&part, path, error);
        if (status == OUSAC_STATUS_OK && work->sum == NULL) {
            work->sum = part;
            part = NULL;
        } else if (status == OUSAC_STATUS_OK) {
            status = ousac_profile_merge(work->sum, part, error);
            if (status != OUSAC_STATUS_OK) {
                ousac_error_prefix(error, "%s (against %s)", path, work->inputs[0].path);
            }
        }
        ousac_profile_free(part);
        part = NULL;
        if (status == OUSAC_STATUS_OK) {
            status = read_run(work, array, path, error);
        }
    }
    if (status != OUSAC_STATUS_OK) {
        goto done;
    }
    if (work->runs.failed || (run_text = cJSON_PrintUnformatted(array)) == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the costs of the runs");
        goto done;
    }
    status = ousac_profile_save(work->sum, output, run_text, error);
done:
    cJSON_free(run_text);
    return status;
}

static ousac_status report(const merge_work *work, const cli_common *common, const char *output,
                           ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char digest[OUSAC_DIGEST_CHARS], ranges[DESCRIBE_LINE_BYTES];
    json_doc doc = {NULL, 0};

    if (!common->json) {
        describe_ranges(ranges, work->sum->ranges, work->sum->range_count);
        printf("%s: %zu profiles, %" PRIu64 " samples (%s)\n", output, work->count,
               ousac_profile_samples(work->sum), ranges);
        return status;
    }
    json_begin(&doc);
    ousac_profile_digest(work->sum, digest);
    json_put_text(&doc, doc.root, "file", output);
    json_put_text(&doc, doc.root, "digest", digest);
    json_put_u64(&doc, doc.root, "profiles", work->count);
    json_put_u64(&doc, doc.root, "samples", ousac_profile_samples(work->sum));
    cJSON *array = json_put_array(&doc, doc.root, "ranges");
    for (size_t i = 0; i < work->sum->range_count; i++) {
        const ousac_sample_range *range = &work->sum->ranges[i];
        cJSON *pair = json_put_array(&doc, array, NULL);
        json_put_u64(&doc, pair, NULL, range->first);
        json_put_u64(&doc, pair, NULL, range->first + range->count);
    }
    status = json_print(&doc, error);
    json_end(&doc);
    return status;
}

static int run(const cli_command *command, int argc, char **argv) {
    const char *output = NULL;
    const cli_option options[] = {{"output", 'o', CLI_TEXT, &output, 0, 0, 1, "FILE", "profile to write"},
                                  {NULL, 0, CLI_FLAG, NULL, 0, 0, 0, NULL, NULL}};
    cli_common common;
    ousac_error error = {0};
    merge_work work = {0};
    int done = 0;

    ousac_status status = cli_parse(command, options, argc, argv, &common, &work.count, &done, &error);
    if (status == OUSAC_STATUS_OK && done) {
        return EXIT_OK;
    }
    if (status == OUSAC_STATUS_OK && work.count < 2) {
        status = OUSAC_FAIL(&error, OUSAC_STATUS_USAGE, "expects at least two profiles, not %zu", work.count);
    }
    if (status == OUSAC_STATUS_OK) {
        cli_catch_signals();
        status = merge(&work, argv + 1, output, &error);
    }
    if (status == OUSAC_STATUS_OK) {
        status = report(&work, &common, output, &error);
    }
    int code = status == OUSAC_STATUS_OK ? EXIT_OK : cli_report_error(command, &common, &error);
    ousac_profile_free(work.sum);
    ousac_free(work.inputs);
    json_end(&work.runs);
    return code;
}

const cli_command command_merge = {
    .name = "merge",
    .summary = "add profiles of disjoint sample ranges",
    .arguments = "PROFILE PROFILE...",
    .details =
        "Adds profiles that were recorded on disjoint sample ranges, by other processes or machines, into "
        "one. "
        "They must agree in model, schedule, seed, micro-batch, tokens, segments and step weights; what "
        "differs is named. The result does not depend on the order of the arguments.",
    .example = "for first in 0 4; do\n"
               "    build/ousac profile --model data/shapes-dit/model.safetensors \\\n"
               "        --schedule data/schedules/sparse.json --samples $first:$((first + 4)) \\\n"
               "        -o /tmp/part$first.oca\n"
               "done\n"
               "build/ousac merge -o /tmp/whole.oca /tmp/part0.oca /tmp/part4.oca",
    .run = run,
};
