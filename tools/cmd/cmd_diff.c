#include "profile/files/archive.h"
#include "tools/cli/options.h"
#include "tools/cli/print.h"
#include "tools/cmd/commands.h"

#include "formats/json_build.h"
#include "formats/memory.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/plan.h"
#include "tools/cli/describe.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_DIFFERENT = 1, SHOWN_MAX = 20, VALUE_BYTES = 160, LABEL_BYTES = 256 };

/* What the run cost, and how the file was made, is not what the file says. */
static const char *const IGNORED_KEYS[] = {"run", "provenance"};
/* Follow from the tensors, so that they differ wherever a tensor does, however little. */
static const char *const DERIVED_KEYS[] = {"digest", "weights_digest", "profile_digest"};

typedef struct comparison {
    const cli_common *common;
    const char *path[2];
    double tolerance; /* relative, of tensors */
    size_t differences;
    ousac_json_doc doc;
    cJSON *fields, *steps, *ranks, *tensors; /* arrays, under --json */
    size_t shown_steps, shown_ranks;
} comparison;

/* ---- reporting ---- */

static void add_field(comparison *c, const char *name, const char *a, const char *b) {
    c->differences++;
    if (c->common->json) {
        cJSON *object = ousac_json_put_object(&c->doc, c->fields, NULL);
        ousac_json_put_text(&c->doc, object, "field", name);
        ousac_json_put_text(&c->doc, object, "a", a);
        ousac_json_put_text(&c->doc, object, "b", b);
    } else {
        int cut = strlen(a) > 64 || strlen(b) > 64;
        cli_printf("%-10s %s: %.64s | %.64s%s\n", "identity", name, a, b, cut ? " ..." : "");
    }
}

static void add_step(comparison *c, size_t step, const char *a, const char *b) {
    c->differences++;
    if (c->common->json) {
        cJSON *object = ousac_json_put_object(&c->doc, c->steps, NULL);
        ousac_json_put_u64(&c->doc, object, "step", step);
        ousac_json_put_text(&c->doc, object, "a", a);
        ousac_json_put_text(&c->doc, object, "b", b);
    } else if (++c->shown_steps <= SHOWN_MAX) {
        cli_printf("%-10s %zu: %s | %s\n", "step", step, a, b);
    }
}

static void add_rank(comparison *c, const char *plan, const char *site, size_t a, size_t b) {
    c->differences++;
    if (c->common->json) {
        cJSON *object = ousac_json_put_object(&c->doc, c->ranks, NULL);
        ousac_json_put_text(&c->doc, object, "plan", plan);
        ousac_json_put_text(&c->doc, object, "site", site);
        ousac_json_put_u64(&c->doc, object, "a", a);
        ousac_json_put_u64(&c->doc, object, "b", b);
    } else if (++c->shown_ranks <= SHOWN_MAX) {
        cli_printf("%-10s plan %s, %s: %zu | %zu\n", "rank", plan, site, a, b);
    }
}

/* `problem` NULL: the values differ, by `most` at most and `relative` in all. */
static void add_tensor(comparison *c, const char *name, const char *problem, double most, double relative) {
    c->differences++;
    if (c->common->json) {
        cJSON *object = ousac_json_put_object(&c->doc, c->tensors, NULL);
        ousac_json_put_text(&c->doc, object, "tensor", name);
        if (problem != NULL) {
            ousac_json_put_text(&c->doc, object, "problem", problem);
        } else {
            ousac_json_put_real(&c->doc, object, "max_abs", most);
            ousac_json_put_real(&c->doc, object, "relative", relative);
        }
    } else if (problem != NULL) {
        cli_printf("%-10s %s: %s\n", "tensor", name, problem);
    } else {
        cli_printf("%-10s %s: at most %.6g apart, %.3g relative\n", "tensor", name, most, relative);
    }
}

/* ---- schedules ---- */

static double coefficient(const ousac_schedule *schedule, size_t step, int k) {
    return schedule->fitted ? schedule->fitted[step].value[k] : 0;
}

static void step_text(const ousac_schedule *schedule, size_t index, char text[VALUE_BYTES]) {
    const ousac_step *step = &schedule->steps[index];
    int used = snprintf(text, VALUE_BYTES, "timestep %.10g %s scale %.6g gates %s, %s", step->timestep,
                        ousac_mode_name(step->mode), step->scale, ousac_gate_name(step->gate[0]),
                        ousac_gate_name(step->gate[1]));
    if (step->tells && used > 0 && used < VALUE_BYTES)
        used += snprintf(text + used, VALUE_BYTES - (size_t)used, " guidance %.6g", step->guidance);
    for (int k = 0; k < OUSAC_COEFFICIENTS && used > 0 && used < VALUE_BYTES; k++)
        if (coefficient(schedule, index, k) != 0)
            used += snprintf(text + used, VALUE_BYTES - (size_t)used, " %s %.6g",
                             ousac_coefficient_name((ousac_coefficient)k), coefficient(schedule, index, k));
}

static int same_step(const ousac_schedule *first, const ousac_schedule *second, size_t index) {
    const ousac_step *a = &first->steps[index], *b = &second->steps[index];
    int same = a->timestep == b->timestep && a->mode == b->mode && a->scale == b->scale &&
               a->gate[0] == b->gate[0] && a->gate[1] == b->gate[1] && ousac_step_tells_alike(a, b);
    for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
        same &= coefficient(first, index, k) == coefficient(second, index, k);
    return same;
}

static void diff_schedules(comparison *c, const ousac_schedule *a, const ousac_schedule *b) {
    char text_a[VALUE_BYTES], text_b[VALUE_BYTES];
    size_t steps = a->step_count > b->step_count ? a->step_count : b->step_count;

    if (strcmp(a->name, b->name) != 0)
        add_field(c, "schedule name", a->name, b->name);
    if (a->solver != b->solver)
        add_field(c, "solver", ousac_solver_name(a->solver), ousac_solver_name(b->solver));
    for (size_t i = 0; i < steps; i++) {
        if (i < a->step_count && i < b->step_count && same_step(a, b, i))
            continue;
        strcpy(text_a, "none");
        strcpy(text_b, "none");
        if (i < a->step_count)
            step_text(a, i, text_a);
        if (i < b->step_count)
            step_text(b, i, text_b);
        add_step(c, i, text_a, text_b);
    }
}

static ousac_status diff_schedule_texts(comparison *c, const char *a, const char *b, ousac_error *error) {
    ousac_schedule first = {0}, second = {0};
    ousac_status status = ousac_schedule_parse(&first, a, strlen(a), c->path[0], error);

    if (!status)
        status = ousac_schedule_parse(&second, b, strlen(b), c->path[1], error);
    if (!status)
        diff_schedules(c, &first, &second);
    ousac_schedule_free(&first);
    ousac_schedule_free(&second);
    return status;
}

static ousac_status diff_schedule_files(comparison *c, ousac_error *error) {
    ousac_schedule first = {0}, second = {0};
    ousac_status status = ousac_schedule_load(&first, c->path[0], error);

    if (!status)
        status = ousac_schedule_load(&second, c->path[1], error);
    if (!status)
        diff_schedules(c, &first, &second);
    ousac_schedule_free(&first);
    ousac_schedule_free(&second);
    return status;
}

/* ---- metadata ---- */

static int listed(const char *key, const char *const *keys, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(key, keys[i]) == 0)
            return 1;
    return 0;
}

static ousac_status diff_key(comparison *c, const char *key, const char *a, const char *b,
                             ousac_error *error) {
    if (a != NULL && b != NULL && strcmp(a, b) == 0)
        return OUSAC_STATUS_OK;
    if (listed(key, IGNORED_KEYS, sizeof IGNORED_KEYS / sizeof *IGNORED_KEYS) ||
        (c->tolerance > 0 && listed(key, DERIVED_KEYS, sizeof DERIVED_KEYS / sizeof *DERIVED_KEYS)))
        return OUSAC_STATUS_OK;
    if (strcmp(key, "schedule") == 0 && a != NULL && b != NULL)
        return diff_schedule_texts(c, a, b, error);
    add_field(c, key, a != NULL ? a : "none", b != NULL ? b : "none");
    return OUSAC_STATUS_OK;
}

/* Both lists are sorted by key: a merge visits every key of either once. */
static ousac_status diff_metadata(comparison *c, const oca_file *a, const oca_file *b, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    size_t i = 0, j = 0, count_a = oca_metadata_count(a), count_b = oca_metadata_count(b);

    while (!status && (i < count_a || j < count_b)) {
        const char *key_a = NULL, *key_b = NULL, *value_a = NULL, *value_b = NULL;
        if ((i < count_a && oca_metadata_at(a, i, &key_a, &value_a) != OCA_OK) ||
            (j < count_b && oca_metadata_at(b, j, &key_b, &value_b) != OCA_OK))
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: metadata cannot be read", c->path[0]);
        int order = key_a == NULL ? 1 : key_b == NULL ? -1 : strcmp(key_a, key_b);
        status = diff_key(c, order <= 0 ? key_a : key_b, order <= 0 ? value_a : NULL,
                          order >= 0 ? value_b : NULL, error);
        i += order <= 0;
        j += order >= 0;
    }
    return status;
}

/* ---- tensors ---- */

/* Element i as a double; the values that oca_read gave as they are stored. */
static double integer_at(const void *data, oca_dtype dtype, uint64_t i) {
    switch (dtype) {
    case OCA_I8:
        return ((const int8_t *)data)[i];
    case OCA_U8:
        return ((const uint8_t *)data)[i];
    case OCA_I32:
        return ((const int32_t *)data)[i];
    case OCA_I64:
        return (double)((const int64_t *)data)[i];
    case OCA_F64:
        return ((const double *)data)[i];
    default:
        return NAN;
    }
}

/* The whole tensor: floating dtypes as f64, the others as they are. */
static ousac_status read_tensor(const char *path, const oca_file *file, const oca_tensor *tensor,
                                oca_dtype *as, void **data, ousac_error *error) {
    int floating = tensor->dtype == OCA_F64 || tensor->dtype == OCA_F32 || tensor->dtype == OCA_F16 ||
                   tensor->dtype == OCA_BF16;
    *as = floating ? OCA_F64 : tensor->dtype;
    size_t width = oca_dtype_bytes(*as);

    *data = tensor->count <= SIZE_MAX ? ousac_malloc((size_t)tensor->count, width) : NULL;
    if (*data == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for tensor %s", path, tensor->name);
    oca_status got =
        oca_read(file, tensor->index, 0, tensor->shape[0], *as, *data, (size_t)tensor->count * width);
    return got == OCA_OK ? OUSAC_STATUS_OK : ousac_archive_fail(path, tensor->name, got, error);
}

static ousac_status diff_values(comparison *c, const oca_file *const file[2], const oca_tensor tensor[2],
                                ousac_error *error) {
    void *data[2] = {NULL, NULL};
    oca_dtype as = OCA_F64;
    double most = 0, apart2 = 0, size2 = 0;
    ousac_status status = OUSAC_STATUS_OK;

    for (size_t k = 0; !status && k < 2; k++)
        status = read_tensor(c->path[k], file[k], &tensor[k], &as, &data[k], error);
    if (status)
        goto done;
    if (memcmp(data[0], data[1], (size_t)tensor[0].count * oca_dtype_bytes(as)) == 0)
        goto done; /* bit by bit, which also settles NaN */
    for (uint64_t i = 0; i < tensor[0].count; i++) {
        double a = integer_at(data[0], as, i), b = integer_at(data[1], as, i), apart = fabs(a - b);
        most = apart > most || isnan(apart) ? apart : most;
        apart2 += apart * apart;
        size2 += a * a;
    }
    double relative = apart2 == 0 ? 0 : sqrt(apart2 / size2);
    if (!(relative <= c->tolerance))
        add_tensor(c, tensor[0].name, NULL, most, relative);
done:
    ousac_free(data[0]);
    ousac_free(data[1]);
    return status;
}

static ousac_status diff_tensor(comparison *c, const oca_file *const file[2], const oca_tensor tensor[2],
                                ousac_error *error) {
    char problem[2 * DESCRIBE_LINE_BYTES + 64], shape[2][DESCRIBE_LINE_BYTES];

    for (size_t k = 0; k < 2; k++)
        describe_shape(shape[k], tensor[k].shape, tensor[k].dims);
    if (tensor[0].dtype != tensor[1].dtype || strcmp(shape[0], shape[1]) != 0) {
        snprintf(problem, sizeof problem, "%s %s | %s %s", ousac_dtype_name((ousac_dtype)tensor[0].dtype),
                 shape[0], ousac_dtype_name((ousac_dtype)tensor[1].dtype), shape[1]);
        add_tensor(c, tensor[0].name, problem, 0, 0);
        return OUSAC_STATUS_OK;
    }
    return diff_values(c, file, tensor, error);
}

/* Tensors are sorted by name, as metadata is by key. */
static ousac_status diff_tensors(comparison *c, const oca_file *const file[2], ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    size_t at[2] = {0, 0}, count[2] = {oca_tensor_count(file[0]), oca_tensor_count(file[1])};

    while (!status && (at[0] < count[0] || at[1] < count[1])) {
        oca_tensor tensor[2];
        memset(tensor, 0, sizeof tensor);
        for (size_t k = 0; k < 2; k++) {
            oca_status got = at[k] < count[k] ? oca_tensor_at(file[k], at[k], &tensor[k]) : OCA_OK;
            if (got != OCA_OK)
                return ousac_archive_fail(c->path[k], "?", got, error);
        }
        int order = tensor[0].name == NULL   ? 1
                    : tensor[1].name == NULL ? -1
                                             : strcmp(tensor[0].name, tensor[1].name);
        if (order < 0)
            add_tensor(c, tensor[0].name, "only in the first", 0, 0);
        else if (order > 0)
            add_tensor(c, tensor[1].name, "only in the second", 0, 0);
        else
            status = diff_tensor(c, file, tensor, error);
        at[0] += order <= 0;
        at[1] += order >= 0;
        if (!status && ousac_stop_asked(&cli_stop))
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted");
    }
    return status;
}

static ousac_status diff_archives(comparison *c, ousac_error *error) {
    oca_file *file[2] = {NULL, NULL};
    ousac_status status = ousac_archive_open_any(&file[0], c->path[0], error);

    if (!status)
        status = ousac_archive_open_any(&file[1], c->path[1], error);
    if (!status)
        status = diff_metadata(c, file[0], file[1], error);
    if (!status) {
        const oca_file *const both[2] = {file[0], file[1]};
        status = diff_tensors(c, both, error);
    }
    oca_close(file[0]);
    oca_close(file[1]);
    return status;
}

/* ---- ranks ---- */

static void diff_ranks(comparison *c, const ousac_plan *a, const ousac_plan *b) {
    for (size_t i = 0; i < a->site_count; i++) {
        for (size_t j = 0; j < b->site_count; j++) {
            /* Sites of the same model stand at the same place; of another model, anywhere. */
            size_t place = (i + j) % b->site_count;
            if (strcmp(a->site[i], b->site[place]) == 0) {
                if (a->rank[i] != b->rank[place])
                    add_rank(c, a->name, a->site[i], a->rank[i], b->rank[place]);
                break;
            }
        }
    }
}

static ousac_status diff_plan_files(comparison *c, ousac_error *error) {
    ousac_plan *plan[2] = {NULL, NULL};
    ousac_status status = ousac_plan_load(&plan[0], c->path[0], error);

    if (!status)
        status = ousac_plan_load(&plan[1], c->path[1], error);
    if (!status)
        diff_ranks(c, plan[0], plan[1]);
    ousac_plan_free(plan[0]);
    ousac_plan_free(plan[1]);
    return status;
}

static ousac_status diff_bundle_plans(comparison *c, ousac_error *error) {
    ousac_bundle *bundle[2] = {NULL, NULL};
    ousac_status status = ousac_bundle_open(&bundle[0], c->path[0], error);

    if (!status)
        status = ousac_bundle_open(&bundle[1], c->path[1], error);
    for (size_t i = 0; !status && i < ousac_bundle_plan_count(bundle[0]); i++) {
        const ousac_plan *plan = ousac_bundle_plan(bundle[0], i);
        const ousac_plan *other = ousac_bundle_find_plan(bundle[1], plan->name);
        if (other != NULL) /* a plan that only one of them has is a tensor that only one of them has */
            diff_ranks(c, plan, other);
    }
    ousac_bundle_close(bundle[0]);
    ousac_bundle_close(bundle[1]);
    return status;
}

/* ---- the command ---- */

static ousac_status diff(comparison *c, ousac_error *error) {
    file_kind kind[2] = {FILE_KIND_UNKNOWN, FILE_KIND_UNKNOWN};
    ousac_status status = OUSAC_STATUS_OK;

    for (size_t k = 0; !status && k < 2; k++) {
        status = file_kind_detect(&kind[k], NULL, c->path[k], error);
        if (!status && (kind[k] == FILE_KIND_UNKNOWN || kind[k] == FILE_KIND_SAFETENSORS ||
                        kind[k] >= FILE_KIND_EVALUATION)) {
            status =
                OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                           "%s: neither a profile, nor a plan, nor a bundle, nor a schedule", c->path[k]);
        }
    }
    if (!status && kind[0] != kind[1]) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MISMATCH, "%s is a %s and %s a %s: only files of one kind compare",
                       c->path[0], file_kind_name(kind[0]), c->path[1], file_kind_name(kind[1]));
    }
    if (status)
        return status;
    if (c->common->json) {
        ousac_json_put_text(&c->doc, c->doc.root, "kind", file_kind_name(kind[0]));
        c->fields = ousac_json_put_array(&c->doc, c->doc.root, "identity");
        c->steps = ousac_json_put_array(&c->doc, c->doc.root, "steps");
        c->ranks = ousac_json_put_array(&c->doc, c->doc.root, "ranks");
        c->tensors = ousac_json_put_array(&c->doc, c->doc.root, "tensors");
    }
    if (kind[0] == FILE_KIND_SCHEDULE)
        return diff_schedule_files(c, error);
    status = diff_archives(c, error);
    if (!status && kind[0] == FILE_KIND_PLAN)
        status = diff_plan_files(c, error);
    else if (!status && kind[0] == FILE_KIND_BUNDLE)
        status = diff_bundle_plans(c, error);
    return status;
}

static ousac_status report(comparison *c, ousac_error *error) {
    if (c->common->json) {
        ousac_json_put_bool(&c->doc, c->doc.root, "equal", c->differences == 0);
        return cli_json_print(&c->doc, error);
    }
    if (c->shown_steps > SHOWN_MAX)
        cli_printf("%-10s ... and %zu more\n", "step", c->shown_steps - SHOWN_MAX);
    if (c->shown_ranks > SHOWN_MAX)
        cli_printf("%-10s ... and %zu more\n", "rank", c->shown_ranks - SHOWN_MAX);
    puts(c->differences == 0 ? "equal" : "different");
    return OUSAC_STATUS_OK;
}

#define AT(member) offsetof(comparison, member)
/* clang-format off */
static const cli_option options[] = {
    {"tolerance", 0, CLI_REAL, AT(tolerance), "R", "0",
     "tensors whose relative difference ||a - b|| / ||a|| is at most R count as equal, and digests of "
     "their values are not compared", 0, 1},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    comparison *c = values;
    c->common = &call->common;
    c->path[0] = call->files[0];
    c->path[1] = call->files[1];
    ousac_json_begin(&c->doc);
    ousac_status status = diff(c, error);
    if (!status)
        status = report(c, error);
    call->code = c->differences > 0 ? EXIT_DIFFERENT : EXIT_OK;
    ousac_json_end(&c->doc);
    return status;
}

const cli_command command_diff = {
    .name = "diff",
    .summary = "compare two profiles, plans, bundles or schedules",
    .arguments = "A B",
    .details =
        "Compares two files of one kind and prints what differs: fields of their identity, steps of their "
        "schedules, ranks of their plans, and for each tensor the largest difference and the relative one. "
        "What "
        "a run cost and how a file was made (the metadata 'run' and 'provenance') are not compared. Exit "
        "code "
        "0 where the files are equal, 1 where they differ.",
    .example = "build/ousac diff data/schedules/sparse.json data/schedules/constant.json || echo different\n"
               "build/ousac diff build/demo/bundle.oca build/demo/bundle.oca",
    .options = options,
    .request_size = sizeof(comparison),
    .arguments_least = 2,
    .arguments_most = 2,
    .expects = "expects two files",
    .run = run,
};
