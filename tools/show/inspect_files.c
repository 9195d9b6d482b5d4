#include "tools/cli/print.h"
#include "tools/show/inspect.h"

#include "calib/cost.h"
#include "formats/memory.h"
#include "formats/safetensors.h"
#include "profile/files/archive.h"
#include "profile/model/folder.h"
#include "profile/model/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- schedule ---- */

static const char *gate_text(const int *effective, const ousac_schedule *schedule, size_t step, int branch,
                             char text[32]) {
    const ousac_step *s = &schedule->steps[step];
    const char *gate = ousac_gate_name(s->gate[branch]);

    if (!ousac_mode_evaluates(s->mode, branch))
        return "-";
    if (effective == NULL || effective[step * OUSAC_BRANCHES + (size_t)branch] == (int)s->gate[branch])
        return gate;
    ousac_gate runs = (ousac_gate)effective[step * OUSAC_BRANCHES + (size_t)branch];
    snprintf(text, 32, "%s (%s)", ousac_gate_name(runs), gate);
    return text;
}

static void put_steps(inspection *in, const ousac_schedule *schedule, const int *effective) {
    cJSON *steps = ousac_json_put_array(&in->doc, in->doc.root, "steps");
    const int fitted = ousac_schedule_is_fitted(schedule);

    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *s = &schedule->steps[i];
        cJSON *object = ousac_json_put_object(&in->doc, steps, NULL);
        ousac_json_put_real(&in->doc, object, "timestep", s->timestep);
        ousac_json_put_text(&in->doc, object, "mode", ousac_mode_name(s->mode));
        if (s->mode == OUSAC_MODE_CFG)
            ousac_json_put_real(&in->doc, object, "scale", s->scale);
        if (s->tells)
            ousac_json_put_real(&in->doc, object, "guidance", s->guidance);
        for (int k = 0; fitted && k < OUSAC_COEFFICIENTS; k++)
            ousac_json_put_real(&in->doc, object, ousac_coefficient_name((ousac_coefficient)k),
                                schedule->fitted[i].value[k]);
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++) {
            if (!ousac_mode_evaluates(s->mode, branch))
                continue;
            cJSON *gate = ousac_json_put_object(&in->doc, object, ousac_branch_name(branch));
            ousac_json_put_text(&in->doc, gate, "gate", ousac_gate_name(s->gate[branch]));
            if (effective != NULL) {
                int runs = effective[i * OUSAC_BRANCHES + (size_t)branch];
                ousac_json_put_text(&in->doc, gate, "effective", ousac_gate_name((ousac_gate)runs));
            }
        }
    }
}

static void print_steps(const ousac_schedule *schedule, const int *effective) {
    const int fitted = ousac_schedule_is_fitted(schedule), tells = ousac_schedule_tells(schedule);
    char cond[32], uncond[32];

    cli_printf("\n%5s %9s  %-6s %7s %*s %-16s %s", "step", "timestep", "mode", "scale", tells ? 9 : 0,
               tells ? "guidance" : "", "cond", fitted ? "uncond          " : "uncond");
    for (int k = 0; fitted && k < OUSAC_COEFFICIENTS; k++)
        cli_printf(" %9s", ousac_coefficient_name((ousac_coefficient)k));
    putchar('\n');
    for (size_t i = 0; i < schedule->step_count; i++) {
        const ousac_step *s = &schedule->steps[i];
        char scale[32] = "-", told[32] = "";
        if (s->tells)
            snprintf(told, sizeof told, "%.6g", s->guidance);
        else if (tells)
            snprintf(told, sizeof told, "-");
        if (s->mode == OUSAC_MODE_CFG)
            snprintf(scale, sizeof scale, "%.6g", s->scale);
        cli_printf("%5zu %9.6g  %-6s %7s %*s %-16s %-*s", i, s->timestep, ousac_mode_name(s->mode), scale,
                   tells ? 9 : 0, told, gate_text(effective, schedule, i, OUSAC_BRANCH_COND, cond),
                   fitted ? 16 : 0, gate_text(effective, schedule, i, OUSAC_BRANCH_UNCOND, uncond));
        for (int k = 0; fitted && k < OUSAC_COEFFICIENTS; k++)
            cli_printf(" %9.5f", schedule->fitted[i].value[k]);
        (void)putchar('\n');
    }
    if (effective != NULL) {
        puts("\nA gate in parentheses is what the schedule says where the branch has no cache yet and runs "
             "in full, or has too little behind it to extrapolate from.");
    }
}

ousac_status inspect_schedule(inspection *in, ousac_error *error) {
    ousac_schedule schedule = {0};
    schedule_counts counts;
    int *effective = NULL;
    char line[DESCRIBE_LINE_BYTES];

    ousac_status status = ousac_schedule_load(&schedule, in->path, error);
    if (status)
        goto done;
    status = describe_schedule(&schedule, &counts, error);
    if (status)
        goto done;
    if (!counts.undecided) {
        effective = ousac_calloc(schedule.step_count, OUSAC_BRANCHES * sizeof *effective);
        if (effective == NULL) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for the gates of %zu steps",
                                schedule.step_count);
            goto done;
        }
        status = ousac_schedule_effective_gates(&schedule, effective, error);
        if (status)
            goto done;
    }
    if (in->common->json) {
        describe_schedule_json(&in->doc, in->doc.root, &schedule, &counts);
        put_steps(in, &schedule, effective);
    } else {
        describe_schedule_line(line, &schedule, &counts);
        cli_printf("name      %s\nsummary   %s\ndigest    %s\n",
                   schedule.name[0] != '\0' ? schedule.name : "(none)", line, counts.digest);
        print_steps(&schedule, effective);
    }
done:
    ousac_free(effective);
    ousac_schedule_free(&schedule);
    return status;
}

/* ---- archives ---- */

static const char *codec_name(oca_codec codec) {
    switch (codec) {
    case OCA_CODEC_RAW:
        return "raw";
    case OCA_CODEC_ZSTD:
        return "zstd";
    case OCA_CODEC_SHUFFLE_ZSTD:
        return "shuffle+zstd";
    }
    return "?";
}

static void put_shape(ousac_json_doc *doc, cJSON *object, const uint64_t *shape, size_t dims) {
    cJSON *array = ousac_json_put_array(doc, object, "shape");
    for (size_t i = 0; i < dims; i++)
        ousac_json_put_u64(doc, array, NULL, shape[i]);
}

static ousac_status list_tensors(inspection *in, const oca_file *file, ousac_error *error) {
    size_t count = oca_tensor_count(file);
    uint64_t bytes = 0, stored = 0;
    char shape[DESCRIBE_LINE_BYTES], size[DESCRIBE_BYTES];
    cJSON *array = in->common->json ? ousac_json_put_array(&in->doc, in->doc.root, "tensors") : NULL;

    if (!in->common->json) {
        cli_printf("\n%-44s %-5s %-20s %-13s %10s %7s\n", "tensor", "dtype", "shape", "codec", "size",
                   "ratio");
    }
    for (size_t i = 0; i < count; i++) {
        oca_tensor tensor;
        oca_status got = oca_tensor_at(file, i, &tensor);
        if (got != OCA_OK)
            return ousac_archive_fail(in->path, "?", got, error);
        double ratio = tensor.stored_bytes > 0 ? (double)tensor.bytes / (double)tensor.stored_bytes : 1;
        const char *dtype = ousac_dtype_name((ousac_dtype)tensor.dtype);
        bytes += tensor.bytes;
        stored += tensor.stored_bytes;
        if (in->common->json) {
            cJSON *object = ousac_json_put_object(&in->doc, array, NULL);
            ousac_json_put_text(&in->doc, object, "name", tensor.name);
            ousac_json_put_text(&in->doc, object, "dtype", dtype);
            put_shape(&in->doc, object, tensor.shape, tensor.dims);
            ousac_json_put_text(&in->doc, object, "codec", codec_name(tensor.codec));
            ousac_json_put_u64(&in->doc, object, "bytes", tensor.bytes);
            ousac_json_put_u64(&in->doc, object, "stored_bytes", tensor.stored_bytes);
        } else {
            describe_shape(shape, tensor.shape, tensor.dims);
            describe_bytes(size, tensor.bytes);
            cli_printf("%-44s %-5s %-20s %-13s %10s %7.2f\n", tensor.name, dtype, shape,
                       codec_name(tensor.codec), size, ratio);
        }
    }
    if (!in->common->json) {
        describe_bytes(size, bytes);
        cli_printf("%zu tensor%s, %s, stored in ", count, count == 1 ? "" : "s", size);
        describe_bytes(size, stored);
        cli_printf("%s\n", size);
    }
    return OUSAC_STATUS_OK;
}

ousac_status inspect_tensors(inspection *in, ousac_error *error) {
    oca_file *file = NULL;
    ousac_status status = ousac_archive_open_any(&file, in->path, error);

    if (!status)
        status = list_tensors(in, file, error);
    oca_close(file);
    return status;
}

/* Text of a stranger: control bytes must not reach the terminal. */
static void print_clean(const char *text, size_t limit) {
    size_t length = strlen(text);
    for (size_t i = 0; i < length && i < limit; i++) {
        unsigned char byte = (unsigned char)text[i];
        (void)putchar(byte < 0x20 || byte == 0x7f ? '?' : byte);
    }
    fputs(length > limit ? "...\n" : "\n", stdout);
}

ousac_status inspect_archive(inspection *in, ousac_error *error) {
    oca_file *file = NULL;
    ousac_status status = ousac_archive_open_any(&file, in->path, error);

    if (status)
        goto done;
    cJSON *object = in->common->json ? ousac_json_put_object(&in->doc, in->doc.root, "metadata") : NULL;
    for (size_t i = 0; i < oca_metadata_count(file); i++) {
        const char *key = NULL, *value = NULL;
        if (oca_metadata_at(file, i, &key, &value) != OCA_OK) {
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: metadata %zu cannot be read", in->path, i);
            goto done;
        }
        if (in->common->json) {
            ousac_json_put_text(&in->doc, object, key, value);
        } else {
            cli_printf("%-24s ", key);
            print_clean(value, 200);
        }
    }
    status = list_tensors(in, file, error);
done:
    oca_close(file);
    return status;
}

/* ---- safetensors ---- */

static void list_safetensors(inspection *in, const ousac_safetensors *file) {
    char shape[DESCRIBE_LINE_BYTES], size[DESCRIBE_BYTES];
    uint64_t bytes = 0;
    cJSON *array = in->common->json ? ousac_json_put_array(&in->doc, in->doc.root, "tensors") : NULL;

    if (!in->common->json)
        cli_printf("\n%-52s %-5s %-20s %10s\n", "tensor", "dtype", "shape", "size");
    for (size_t i = 0; i < ousac_safetensors_count(file); i++) {
        const ousac_safetensors_tensor *tensor = ousac_safetensors_at(file, i);
        bytes += tensor->bytes;
        if (in->common->json) {
            cJSON *object = ousac_json_put_object(&in->doc, array, NULL);
            ousac_json_put_text(&in->doc, object, "name", tensor->name);
            ousac_json_put_text(&in->doc, object, "dtype", tensor->dtype_name);
            put_shape(&in->doc, object, tensor->shape, tensor->dims);
            ousac_json_put_u64(&in->doc, object, "bytes", tensor->bytes);
        } else {
            describe_shape(shape, tensor->shape, tensor->dims);
            describe_bytes(size, tensor->bytes);
            cli_printf("%-52s %-5s %-20s %10s\n", tensor->name, tensor->dtype_name, shape, size);
        }
    }
    if (!in->common->json) {
        describe_bytes(size, bytes);
        cli_printf("%zu tensors, %s\n", ousac_safetensors_count(file), size);
    }
}

/* What a model takes beside its own tokens: streams and constant groups. */
static void show_conditioning(inspection *in, const ousac_arch *arch, cJSON *object) {
    const uint64_t constant = ousac_cost_constant(arch);
    char macs[DESCRIBE_BYTES];
    if (in->common->json) {
        cJSON *array = ousac_json_put_array(&in->doc, object, "streams");
        for (size_t i = 0; i < arch->stream_count; i++) {
            cJSON *stream = ousac_json_put_object(&in->doc, array, NULL);
            ousac_json_put_text(&in->doc, stream, "name", arch->stream[i].name);
            ousac_json_put_u64(&in->doc, stream, "tokens", arch->stream[i].tokens);
        }
        ousac_json_put_u64(&in->doc, object, "constant_macs", constant);
        return;
    }
    for (size_t i = 1; i < arch->stream_count; i++)
        cli_printf("stream    %s: %zu tokens\n", arch->stream[i].name, arch->stream[i].tokens);
    if (arch->constant_count) {
        describe_macs(macs, (double)constant);
        cli_printf("constant  %zu linears, %s once a sample and branch\n", arch->constant_count, macs);
    }
}

static void show_model(inspection *in, const ousac_model *model) {
    const ousac_arch *arch = &model->arch;
    uint64_t full = ousac_cost_full(arch), reuse = ousac_cost_reuse(arch);
    char macs[DESCRIBE_BYTES], floor_macs[DESCRIBE_BYTES];

    if (!in->common->json) {
        describe_macs(macs, (double)full);
        describe_macs(floor_macs, (double)reuse);
        cli_printf("model     %s: %zu blocks, %zu tokens, width %zu, %zu sites\n", arch->family,
                   arch->block_count, arch->stream[0].tokens, arch->width, arch->site_count);
        cli_printf("sample    %zu x %zu x %zu, %zu training steps, %s unconditional branch\n",
                   model->channels, model->height, model->width, model->noise.train_steps,
                   model->has_uncond ? "with" : "no");
        cli_printf("forward   %s in full, %s at plain reuse (blocks only, one branch, one sample)\n", macs,
                   floor_macs);
        show_conditioning(in, arch, NULL);
        cli_printf("process   %s\ndigest    %s\n", model->process, model->digest);
        return;
    }
    cJSON *object = ousac_json_put_object(&in->doc, in->doc.root, "model");
    ousac_json_put_text(&in->doc, object, "family", arch->family);
    ousac_json_put_text(&in->doc, object, "digest", model->digest);
    ousac_json_put_text(&in->doc, object, "constants", model->constants);
    ousac_json_put_text(&in->doc, object, "process", model->process);
    ousac_json_put_u64(&in->doc, object, "blocks", arch->block_count);
    ousac_json_put_u64(&in->doc, object, "tokens", arch->stream[0].tokens);
    ousac_json_put_u64(&in->doc, object, "width", arch->width);
    ousac_json_put_u64(&in->doc, object, "sites", arch->site_count);
    ousac_json_put_u64(&in->doc, object, "channels", model->channels);
    ousac_json_put_u64(&in->doc, object, "height", model->height);
    ousac_json_put_u64(&in->doc, object, "sample_width", model->width);
    ousac_json_put_u64(&in->doc, object, "train_steps", model->noise.train_steps);
    ousac_json_put_bool(&in->doc, object, "unconditional_branch", model->has_uncond);
    ousac_json_put_u64(&in->doc, object, "forward_macs", full);
    ousac_json_put_u64(&in->doc, object, "reuse_macs", reuse);
    show_conditioning(in, arch, object);
}

/* 1 where every tensor has the name of an input. */
static int holds_inputs(const ousac_safetensors *file) {
    size_t named = 0;
    for (size_t i = 0; i < ousac_safetensors_count(file); i++)
        for (int input = 0; input < OUSAC_INPUT_COUNT; input++)
            named += strcmp(ousac_safetensors_at(file, i)->name, ousac_input_name((ousac_input)input)) == 0;
    return named > 0 && named == ousac_safetensors_count(file);
}

/* The least and the most tokens that a mask says are there. */
static ousac_status count_tokens(const ousac_inputs *inputs, ousac_input mask, size_t length, size_t *least,
                                 size_t *most, ousac_error *error) {
    float *row = ousac_malloc(length, sizeof *row);
    if (!row)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a mask of %zu tokens", length);
    *least = SIZE_MAX, *most = 0;
    for (size_t i = 0; i < ousac_inputs_rows(inputs); i++) {
        size_t tokens = 0;
        ousac_inputs_read(inputs, mask, i, row);
        for (size_t j = 0; j < length; j++)
            tokens += row[j] != 0;
        *least = tokens < *least ? tokens : *least;
        *most = tokens > *most ? tokens : *most;
    }
    ousac_free(row);
    return OUSAC_STATUS_OK;
}

static ousac_status show_inputs(inspection *in, const ousac_safetensors *file, ousac_error *error) {
    static const ousac_input masks[] = {OUSAC_INPUT_PROMPT_MASK, OUSAC_INPUT_NEGATIVE_PROMPT_MASK};
    ousac_inputs *inputs = NULL;
    ousac_status status = ousac_inputs_open(&inputs, in->path, error);
    if (status)
        return status;
    cJSON *object = in->common->json ? ousac_json_put_object(&in->doc, in->doc.root, "inputs") : NULL;
    if (object) {
        ousac_json_put_u64(&in->doc, object, "rows", ousac_inputs_rows(inputs));
        ousac_json_put_text(&in->doc, object, "digest", ousac_inputs_digest(inputs));
    } else {
        cli_printf("inputs    of %zu samples; sample j takes row j mod %zu\ndigest    %s\n",
                   ousac_inputs_rows(inputs), ousac_inputs_rows(inputs), ousac_inputs_digest(inputs));
    }
    for (size_t i = 0; i < sizeof masks / sizeof *masks && !status; i++) {
        const ousac_safetensors_tensor *t = ousac_safetensors_find(file, ousac_input_name(masks[i]));
        size_t least = 0, most = 0;
        if (!t)
            continue;
        status = count_tokens(inputs, masks[i], (size_t)(t->count / t->shape[0]), &least, &most, error);
        if (object) {
            cJSON *mask = ousac_json_put_object(&in->doc, object, t->name);
            ousac_json_put_u64(&in->doc, mask, "tokens_least", least);
            ousac_json_put_u64(&in->doc, mask, "tokens_most", most);
        } else if (!status) {
            cli_printf("%s: %zu to %zu of %llu tokens\n", t->name, least, most,
                       (unsigned long long)(t->count / t->shape[0]));
        }
    }
    ousac_inputs_close(inputs);
    return status;
}

static ousac_status show_checkpoint(inspection *in, const ousac_safetensors *file, ousac_error *error) {
    ousac_model *model = NULL;
    ousac_model_options options = {.config_path = in->config, .heads = in->heads, .use = OUSAC_MODEL_FACTORS};
    ousac_error refused = {0};
    ousac_status status = OUSAC_STATUS_OK;
    if (holds_inputs(file)) {
        status = show_inputs(in, file, error);
    } else if (ousac_model_load(&model, in->path, &options, ousac_backend_cpu(), &refused) ==
               OUSAC_STATUS_OK) {
        show_model(in, model);
    } else if (in->common->json) {
        ousac_json_put_null(&in->doc, in->doc.root, "model");
        ousac_json_put_text(&in->doc, in->doc.root, "model_error", refused.message);
    } else {
        cli_printf("model     cannot be run as it is: %s\n", refused.message);
    }
    if (!status && (in->tensors || model == NULL))
        list_safetensors(in, file);
    ousac_model_free(model);
    return status;
}

ousac_status inspect_safetensors(inspection *in, ousac_error *error) {
    ousac_safetensors *file = NULL;
    ousac_status status = ousac_safetensors_open(&file, in->path, error);
    if (!status)
        status = show_checkpoint(in, file, error);
    ousac_safetensors_close(file);
    return status;
}

int inspect_is_model(const char *path) {
    static const char ending[] = ".safetensors.index.json";
    const size_t length = strlen(path);
    struct stat info;
    return (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) ||
           (length >= sizeof ending - 1 && strcmp(path + length - (sizeof ending - 1), ending) == 0);
}

ousac_status inspect_model(inspection *in, ousac_error *error) {
    ousac_model_folder folder = {NULL, NULL, NULL, 0};
    ousac_safetensors *file = NULL;
    char size[DESCRIBE_BYTES];
    ousac_status status = ousac_model_folder_find(&folder, in->path, error);
    if (!status)
        status = folder.sharded ? ousac_safetensors_open_index(&file, folder.weights, error)
                                : ousac_safetensors_open(&file, folder.weights, error);
    if (status)
        goto done;
    for (size_t i = 0; i < ousac_safetensors_count(file); i++)
        in->bytes += ousac_safetensors_at(file, i)->bytes;
    if (in->common->json) {
        ousac_json_put_text(&in->doc, in->doc.root, "file", in->path);
        ousac_json_put_text(&in->doc, in->doc.root, "kind", "model");
        ousac_json_put_u64(&in->doc, in->doc.root, "bytes", in->bytes);
        ousac_json_put_text(&in->doc, in->doc.root, "weights", folder.weights);
        if (folder.scheduler)
            ousac_json_put_text(&in->doc, in->doc.root, "scheduler", folder.scheduler);
    } else {
        describe_bytes(size, in->bytes);
        cli_printf("%s: model, %s of tensors\n", in->path, size);
        cli_printf("weights   %s%s\n", folder.weights, folder.sharded ? ", in shards" : "");
        if (folder.scheduler)
            cli_printf("scheduler %s\n", folder.scheduler);
    }
    status = show_checkpoint(in, file, error);
done:
    ousac_safetensors_close(file);
    ousac_model_folder_free(&folder);
    return status;
}
