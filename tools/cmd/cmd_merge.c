#include "profile/files/archive.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/json_build.h"
#include "formats/memory.h"
#include "profile/record/profile.h"
#include "profile/record/run_text.h"
#include "tools/cli/describe.h"

#include <inttypes.h>
#include <stddef.h>
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
    ousac_json_doc runs; /* {"run": [...]}: what each part cost */
    ousac_profile *sum;
} merge_work;

/* Sums of float64 depend on their order, so the parts are added by rising first sample, however they were
 * named. */
static ousac_status read_order(merge_work *work, char **argv, ousac_error *error) {
    oca_file *file = NULL;

    for (size_t i = 0; i < work->count; i++) {
        input next = {argv[i], 0};
        ousac_status status = ousac_archive_open_any(&file, next.path, error);
        if (status)
            return status;
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

static ousac_status merge(merge_work *work, char **argv, const char *output, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_profile *part = NULL;
    char *run_text = NULL;

    ousac_json_begin(&work->runs);
    cJSON *array = ousac_json_put_array(&work->runs, work->runs.root, "run");
    work->inputs = ousac_calloc(work->count, sizeof *work->inputs);
    if (work->inputs == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu inputs", work->count);
        goto done;
    }
    status = read_order(work, argv, error);
    for (size_t i = 0; !status && i < work->count; i++) {
        const char *path = work->inputs[i].path;
        if (ousac_stop_asked(&cli_stop)) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted before %s was added", path);
            break;
        }
        /* Into the first, whose moments are in memory, those of the others are read one at a time. */
        status = work->sum == NULL ? ousac_profile_load(&part, path, error)
                                   : ousac_profile_open(&part, path, error);
        if (!status && work->sum == NULL) {
            work->sum = part;
            part = NULL;
        } else if (!status) {
            status = ousac_profile_merge(work->sum, part, error);
            if (status)
                ousac_error_prefix(error, "%s (against %s)", path, work->inputs[0].path);
        }
        ousac_profile_free(part);
        part = NULL;
        if (!status)
            status = ousac_run_text_gather(&work->runs, array, path, error);
    }
    if (status)
        goto done;
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
    ousac_json_doc doc = {NULL, 0};

    if (!common->json) {
        describe_ranges(ranges, work->sum->ranges, work->sum->range_count);
        cli_printf("%s: %zu profiles, %" PRIu64 " samples (%s)\n", output, work->count,
                   ousac_profile_samples(work->sum), ranges);
        return status;
    }
    ousac_json_begin(&doc);
    ousac_profile_digest(work->sum, digest);
    ousac_json_put_text(&doc, doc.root, "file", output);
    ousac_json_put_text(&doc, doc.root, "digest", digest);
    ousac_json_put_u64(&doc, doc.root, "profiles", work->count);
    ousac_json_put_u64(&doc, doc.root, "samples", ousac_profile_samples(work->sum));
    cJSON *array = ousac_json_put_array(&doc, doc.root, "ranges");
    for (size_t i = 0; i < work->sum->range_count; i++) {
        const ousac_sample_range *range = &work->sum->ranges[i];
        cJSON *pair = ousac_json_put_array(&doc, array, NULL);
        ousac_json_put_u64(&doc, pair, NULL, range->first);
        ousac_json_put_u64(&doc, pair, NULL, range->first + range->count);
    }
    status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

typedef struct merge_request {
    const char *output;
} merge_request;

#define AT(member) offsetof(merge_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", CLI_REQUIRED,
     "profile to write", 0, 0},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    const merge_request *request = values;
    merge_work work = {.count = call->file_count};
    ousac_status status = merge(&work, call->files, request->output, error);
    if (!status)
        status = report(&work, &call->common, request->output, error);
    ousac_profile_free(work.sum);
    ousac_free(work.inputs);
    ousac_json_end(&work.runs);
    return status;
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
    .options = options,
    .request_size = sizeof(merge_request),
    .arguments_least = 2,
    .arguments_most = SIZE_MAX,
    .expects = "expects at least two profiles",
    .replaces_arguments = 1,
    .run = run,
};
