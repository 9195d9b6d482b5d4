#include "tools/cli/options.h"
#include "tools/cli/streams.h"
#include "tools/cmd/commands.h"

#include "formats/file.h"
#include "formats/json_build.h"
#include "formats/memory.h"
#include "formats/schedule.h"
#include "profile/run/scheduler.h"
#include "tools/cli/describe.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIN_STEPS_DEFAULT = 1000, STEPS_DEFAULT = 50 };

typedef struct schedule_request {
    size_t steps, train_steps, period, refreshes;
    const char *from, *size, *sigmas, *spacing, *solver, *cfg, *scales, *other, *guidance, *full, *gates,
        *gate, *name, *output;
    double scale, power;
    int uncached;
} schedule_request;

/* ---- lists of steps ---- */

/* A whole number at *text, moving it behind the last digit; -1 where there is none or it is above `most`. */
static int take_number(const char **text, size_t most, size_t *value) {
    size_t number = 0;
    const char *at = *text;

    while (*at >= '0' && *at <= '9') {
        size_t digit = (size_t)(*at - '0');
        if (number > (most - (digit < most ? digit : most)) / 10 || digit > most)
            return -1;
        number = 10 * number + digit;
        at++;
    }
    if (at == *text)
        return -1;
    *text = at;
    *value = number;
    return 0;
}

/* One item at *text: a step, FIRST:END or FIRST:END:STRIDE. */
static ousac_status take_steps(const char **text, size_t steps, const char *option, size_t *first,
                               size_t *end, size_t *stride, ousac_error *error) {
    const char *start = *text;
    int bad = take_number(text, steps, first);

    *end = *first + 1;
    *stride = 1;
    if (!bad && **text == ':') {
        *text += 1;
        bad = take_number(text, steps, end);
        if (!bad && **text == ':') {
            *text += 1;
            bad = take_number(text, SIZE_MAX / 16, stride);
        }
    }
    if (bad || (**text != '\0' && **text != ',') || *end <= *first || *end > steps || *stride == 0) {
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "--%s expects steps from 0 to %zu as STEP, FIRST:END or FIRST:END:STRIDE, not '%.*s'", option,
            steps - 1, (int)strcspn(start, ","), start);
    }
    return OUSAC_STATUS_OK;
}

/* Moves behind the comma between two items; USAGE where nothing follows it. */
static ousac_status take_comma(const char **text, const char *option, ousac_error *error) {
    if (**text == ',') {
        *text += 1;
        if (**text == '\0')
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s ends with a comma", option);
    }
    return OUSAC_STATUS_OK;
}

/* Sets scales[i] for every step i of the list. */
static ousac_status set_scale(const char *list, size_t steps, double scale, double *scales,
                              ousac_error *error) {
    while (*list != '\0') {
        size_t first = 0, end = 0, stride = 1;
        ousac_status status = take_steps(&list, steps, "cfg", &first, &end, &stride, error);
        if (status)
            return status;
        for (size_t i = first; i < end; i += stride)
            scales[i] = scale;
        status = take_comma(&list, "cfg", error);
        if (status)
            return status;
    }
    return OUSAC_STATUS_OK;
}

/* A finite number of `length` bytes; -1 where it is none. */
static int read_number(const char *text, size_t length, double *value) {
    char number[32];
    char *stop = NULL;
    snprintf(number, sizeof number, "%.*s", (int)(length < sizeof number ? length : 0), text);
    *value = strtod(number, &stop);
    return length == 0 || *stop != '\0' || number[strspn(number, "0123456789+-.eE")] != '\0' ||
                   !isfinite(*value)
               ? -1
               : 0;
}

/* "5@0:20:5,3@20:40:5": an item without a value of its own takes the one before. */
static ousac_status set_values(const char *text, size_t steps, const char *option, double *scales,
                               ousac_error *error) {
    double scale = NAN;

    while (*text != '\0') {
        size_t first = 0, end = 0, stride = 1, item = strcspn(text, ",");
        const char *at = memchr(text, '@', item);
        if (at != NULL) {
            size_t length = (size_t)(at - text);
            if (read_number(text, length, &scale)) {
                return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects a number before '@', not '%.*s'",
                                  option, (int)length, text);
            }
            text = at + 1;
        } else if (isnan(scale)) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s expects %s@STEPS, not '%.*s'", option,
                              strcmp(option, "scales") == 0 ? "SCALE" : "G or G", (int)item, text);
        }
        ousac_status status = take_steps(&text, steps, option, &first, &end, &stride, error);
        if (status)
            return status;
        for (size_t i = first; i < end; i += stride)
            scales[i] = scale;
        status = take_comma(&text, option, error);
        if (status)
            return status;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status fill_scales(const schedule_request *request, double *scales, ousac_error *error) {
    size_t steps = request->steps;
    int scaled = !isnan(request->scale);

    for (size_t i = 0; i < steps; i++)
        scales[i] = NAN;
    if (request->scales != NULL) {
        if (scaled || request->cfg != NULL) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--scales says which steps are guided: it excludes --%s",
                              scaled ? "scale" : "cfg");
        }
        return set_values(request->scales, steps, "scales", scales, error);
    }
    if (request->cfg != NULL && strcmp(request->cfg, "none") == 0) {
        if (scaled) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--cfg none has no guided step: it excludes --scale");
        }
        return OUSAC_STATUS_OK;
    }
    if (!scaled && request->cfg == NULL && request->guidance != NULL)
        return OUSAC_STATUS_OK;
    if (!scaled) {
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "no guidance named: give --scale W (with --cfg LIST for some steps only), --scales LIST, "
            "or --cfg none");
    }
    if (request->cfg == NULL || strcmp(request->cfg, "all") == 0) {
        for (size_t i = 0; i < steps; i++)
            scales[i] = request->scale;
        return OUSAC_STATUS_OK;
    }
    return set_scale(request->cfg, steps, request->scale, scales, error);
}

/* What the model is told: one number, or a list as that of --scales. */
static ousac_status tell(const schedule_request *request, ousac_schedule *schedule, ousac_error *error) {
    const size_t steps = schedule->step_count;
    const char *text = request->guidance;
    double one = NAN;
    if (text == NULL)
        return OUSAC_STATUS_OK;
    double *told = ousac_malloc(steps, sizeof *told);
    if (told == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu steps", steps);
    ousac_status status = OUSAC_STATUS_OK;
    const int constant = read_number(text, strlen(text), &one) == 0;
    for (size_t i = 0; i < steps; i++)
        told[i] = constant ? one : NAN;
    if (!constant)
        status = set_values(text, steps, "guidance", told, error);
    for (size_t i = 0; i < steps && !status; i++) {
        schedule->steps[i].tells = !isnan(told[i]);
        schedule->steps[i].guidance = schedule->steps[i].tells ? told[i] : 0;
    }
    ousac_free(told);
    return status;
}

/* ---- gates ---- */

/* Refresh k of n at round((S-1)(1-(1-u)^p)), u = k/(n-1): p = 1 is even, p > 1 denser late. A place already
 * taken moves to the next free one, and back where that would run past the last step. `place` is scratch of n
 * entries. */
static void place_refreshes(size_t steps, size_t n, double power, size_t *place, ousac_gate *gates) {
    for (size_t k = 0; k < n; k++) {
        double u = n > 1 ? (double)k / (double)(n - 1) : 0;
        double at = floor((double)(steps - 1) * (1 - pow(1 - u, power)) + 0.5);
        place[k] = at < 0 ? 0 : (size_t)at;
        if (k > 0 && place[k] <= place[k - 1])
            place[k] = place[k - 1] + 1;
    }
    for (size_t k = n; k-- > 0;) {
        size_t last = steps - (n - k); /* leaves room for those behind it */
        place[k] = place[k] < last ? place[k] : last;
        gates[place[k]] = OUSAC_GATE_FULL;
    }
}

static ousac_status set_full(const char *list, size_t steps, ousac_gate *gates, ousac_error *error) {
    while (*list != '\0') {
        size_t first = 0, end = 0, stride = 1;
        ousac_status status = take_steps(&list, steps, "full", &first, &end, &stride, error);
        if (status)
            return status;
        for (size_t i = first; i < end; i += stride)
            gates[i] = OUSAC_GATE_FULL;
        status = take_comma(&list, "full", error);
        if (status)
            return status;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status fill_gates(const schedule_request *request, ousac_gate *gates, ousac_error *error) {
    size_t steps = request->steps;
    ousac_gate other = OUSAC_GATE_CACHED;
    int ways = (request->period > 0) + (request->refreshes > 0) + (request->full != NULL) +
               (request->gates != NULL) + request->uncached;

    if (ways != 1) {
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "%s: give exactly one of --period, --refreshes, --full, --gates auto and --uncached",
            ways == 0 ? "nothing says where the cache is refreshed" : "conflicting gates");
    }
    if (!isnan(request->power) && request->refreshes == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--power places --refreshes N, which is not given");
    if (request->gates != NULL && strcmp(request->gates, "auto") != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--gates expects auto, not '%s'", request->gates);
    if (request->gate != NULL) {
        if (request->gates != NULL || request->uncached) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "--gate is for steps between refreshes: it excludes --%s",
                              request->uncached ? "uncached" : "gates");
        }
        if (ousac_gate_parse(&other, request->gate) != 0 ||
            (other != OUSAC_GATE_CACHED && other != OUSAC_GATE_REUSE)) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--gate expects cached or reuse, not '%s'",
                              request->gate);
        }
    }
    for (size_t i = 0; i < steps; i++)
        gates[i] = request->gates != NULL ? OUSAC_GATE_AUTO : request->uncached ? OUSAC_GATE_FULL : other;
    if (request->full != NULL)
        return set_full(request->full, steps, gates, error);
    if (request->period > 0)
        for (size_t i = 0; i < steps; i += request->period)
            gates[i] = OUSAC_GATE_FULL;
    if (request->refreshes > 0) {
        if (request->refreshes > steps) {
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--refreshes %zu do not fit into %zu steps",
                              request->refreshes, steps);
        }
        size_t *place = ousac_calloc(request->refreshes, sizeof *place);
        if (place == NULL)
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu refreshes", request->refreshes);
        place_refreshes(steps, request->refreshes, isnan(request->power) ? 1 : request->power, place, gates);
        ousac_free(place);
    }
    return OUSAC_STATUS_OK;
}

/* ---- steps of another's scheduler ---- */

enum { CONFIG_BYTES_MAX = 1 << 20, PIXELS_MAX = 1 << 20 };

static ousac_status read_size(const char *text, size_t *height, size_t *width, ousac_error *error) {
    const char *at = text;
    if (take_number(&at, PIXELS_MAX, height) || *at++ != 'x' || take_number(&at, PIXELS_MAX, width) || *at ||
        !*height || !*width)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--size expects HEIGHTxWIDTH in pixels, such as 1024x768, not '%s'", text);
    return OUSAC_STATUS_OK;
}

static ousac_status take_scheduler(const schedule_request *request, ousac_schedule *schedule,
                                   ousac_scheduler_terms *terms, ousac_error *error) {
    ousac_scheduler_request wanted = {.steps = request->steps};
    char *text = NULL;
    size_t size = 0;
    const char *own = request->spacing       ? "spacing"
                      : request->solver      ? "solver"
                      : request->train_steps ? "train-steps"
                                             : NULL;
    if (own)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--from takes the scheduler's own: it excludes --%s",
                          own);
    ousac_status status =
        request->size ? read_size(request->size, &wanted.height, &wanted.width, error) : OUSAC_STATUS_OK;
    if (!status && request->sigmas && strcmp(request->sigmas, "flux") != 0 &&
        strcmp(request->sigmas, "scheduler") != 0)
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--sigmas expects flux or scheduler, not '%s'",
                            request->sigmas);
    wanted.own_sigmas = request->sigmas && strcmp(request->sigmas, "scheduler") == 0;
    if (!status)
        status = ousac_file_read_text(&text, &size, request->from, CONFIG_BYTES_MAX, error);
    if (!status)
        status = ousac_scheduler_schedule(schedule, terms, text, size, request->from, &wanted, error);
    ousac_free(text);
    return status;
}

/* Puts modes, scales, gates and the name into a schedule whose steps are there. */
static void dress(ousac_schedule *schedule, const ousac_schedule_options *options) {
    (void)snprintf(schedule->name, sizeof schedule->name, "%s", options->name);
    for (size_t i = 0; i < schedule->step_count; i++) {
        ousac_step *step = &schedule->steps[i];
        const int guided = !isnan(options->scales[i]);
        step->mode = guided ? OUSAC_MODE_CFG : options->other_mode;
        step->scale = guided ? options->scales[i] : 1;
        step->gate[OUSAC_BRANCH_COND] = step->gate[OUSAC_BRANCH_UNCOND] = options->gates[i];
    }
}

/* ---- the command ---- */

static ousac_status build(const schedule_request *request, ousac_schedule *schedule,
                          ousac_scheduler_terms *terms, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    ousac_schedule_options options = {.name = request->name != NULL ? request->name : "",
                                      .steps = request->steps,
                                      .train_steps =
                                          request->train_steps ? request->train_steps : TRAIN_STEPS_DEFAULT};
    const char *spacing = request->spacing ? request->spacing : "linspace";
    double *scales = ousac_calloc(request->steps, sizeof *scales);
    ousac_gate *gates = ousac_calloc(request->steps, sizeof *gates);

    if (scales == NULL || gates == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu steps", request->steps);
        goto done;
    }
    if (strcmp(spacing, "linspace") == 0) {
        options.spacing = OUSAC_SPACING_LINSPACE;
    } else if (strcmp(spacing, "leading") == 0) {
        options.spacing = OUSAC_SPACING_LEADING;
    } else if (strcmp(spacing, "trailing") == 0) {
        options.spacing = OUSAC_SPACING_TRAILING;
    } else {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "--spacing expects linspace, leading or trailing, not '%s'", spacing);
        goto done;
    }
    if (ousac_mode_parse(&options.other_mode, request->other) != 0 || options.other_mode == OUSAC_MODE_CFG) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--other expects cond or uncond, not '%s'", request->other);
        goto done;
    }
    if (request->solver && ousac_solver_parse(&options.solver, request->solver) != 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "--solver expects ddim, dpmpp-2m or flow-euler, not '%s'", request->solver);
        goto done;
    }
    if (!request->from && (request->size || request->sigmas)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--%s is for --from, which is not given",
                            request->size ? "size" : "sigmas");
        goto done;
    }
    if (!request->from && request->steps > options.train_steps) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--steps %zu is above --train-steps %zu",
                            request->steps, options.train_steps);
        goto done;
    }
    status = fill_scales(request, scales, error);
    if (!status)
        status = fill_gates(request, gates, error);
    if (status)
        goto done;
    options.scales = scales;
    options.gates = gates;
    if (!request->from) {
        status = ousac_schedule_build(schedule, &options, error);
    } else if (!(status = take_scheduler(request, schedule, terms, error))) {
        dress(schedule, &options);
        status = ousac_schedule_validate(schedule, request->from, error);
    }
    if (!status)
        status = tell(request, schedule, error);
done:
    ousac_free(scales);
    ousac_free(gates);
    return status;
}

/* What a model must be for a scheduler's steps. */
static void tell_terms(const schedule_request *request, const cli_common *common,
                       const ousac_scheduler_terms *terms) {
    if (!request->from)
        return;
    cli_note(common, "%s: %s, for a model that predicts %s, over %zu timesteps of %s", request->from,
             terms->scheduler, ousac_prediction_name(terms->prediction), terms->train_steps,
             terms->kind == OUSAC_NOISE_FLOW ? "a flow" : "the betas that it states");
    if (terms->start != 1)
        cli_note(
            common,
            "%s: it begins with normal noise times %.9g, which no schedule says: to begin there too, give "
            "such a `noise` by --inputs",
            request->from, terms->start);
}

static ousac_status deliver(const schedule_request *request, const cli_common *common,
                            const ousac_schedule *schedule, const ousac_scheduler_terms *terms,
                            ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    schedule_counts counts;
    char *text = NULL, line[DESCRIBE_LINE_BYTES];
    ousac_json_doc doc = {NULL, 0};

    status = describe_schedule(schedule, &counts, error);
    if (status)
        goto done;
    if (request->output != NULL) {
        status = ousac_schedule_save(schedule, request->output, error);
    } else {
        status = ousac_schedule_print(schedule, &text, error);
        if (!status)
            fputs(text, stdout);
    }
    if (status)
        goto done;
    if (common->json) {
        ousac_json_begin(&doc);
        ousac_json_put_text(&doc, doc.root, "file", request->output);
        describe_schedule_json(&doc, doc.root, schedule, &counts);
        if (request->from) {
            cJSON *from = ousac_json_put_object(&doc, doc.root, "from");
            ousac_json_put_text(&doc, from, "scheduler", terms->scheduler);
            ousac_json_put_text(&doc, from, "prediction", ousac_prediction_name(terms->prediction));
            ousac_json_put_text(&doc, from, "levels", terms->kind == OUSAC_NOISE_FLOW ? "flow" : "diffusion");
            ousac_json_put_u64(&doc, from, "train_steps", terms->train_steps);
            ousac_json_put_real(&doc, from, "start", terms->start);
        }
        status = cli_json_print(&doc, error);
    } else {
        describe_schedule_line(line, schedule, &counts);
        cli_note(common, "%s: %s", request->output != NULL ? request->output : "schedule", line);
        tell_terms(request, common, terms);
    }
done:
    ousac_json_end(&doc);
    ousac_free(text);
    return status;
}

#define AT(member) offsetof(schedule_request, member)
/* clang-format off */
static const cli_option options[] = {
    {"steps", 0, CLI_SIZE, AT(steps), "S", "50",
     "denoising steps", 1, OUSAC_SCHEDULE_STEPS_MAX},
    {"from", 0, CLI_INPUT, AT(from), "FILE", NULL,
     "scheduler_config.json of a diffusers DDIM, DPMSolverMultistep, EulerDiscrete or FlowMatchEulerDiscrete scheduler: "
     "its timesteps and its updates", 0, 0},
    {"size", 0, CLI_TEXT, AT(size), "HxW", NULL,
     "of the picture, pixels, where the shift of --from goes by it", 0, 0},
    {"sigmas", 0, CLI_TEXT, AT(sigmas), "NAME", NULL,
     "levels of a flow before the shift of --from: flux, from 1 to 1/S as FLUX's pipelines hand them over, or scheduler, "
     "its own, as SD3's do (default flux)", 0, 0},
    {"train-steps", 0, CLI_SIZE, AT(train_steps), "T", NULL,
     "timesteps the model was trained with (default 1000)", 1, 1e9},
    {"spacing", 0, CLI_TEXT, AT(spacing), "NAME", NULL,
     "as diffusers' schedulers of the solver have it. ddim: linspace, even from T-1 to 0; leading, multiples of "
     "floor(T/S) from 0; trailing, even, T-1 first. dpmpp-2m: the first S of S+1 of these, trailing as before. "
     "flow-euler: linspace alone, T (1 - i/S) (default linspace)", 0, 0},
    {"solver", 0, CLI_TEXT, AT(solver), "NAME", NULL,
     "ddim; dpmpp-2m: DPM-Solver++, multistep, second order; flow-euler, for models that predict a flow (default ddim)",
     0, 0},
    {"scale", 0, CLI_REAL, AT(scale), "W", NULL,
     "guidance scale of the guided steps", 0, 0},
    {"cfg", 0, CLI_TEXT, AT(cfg), "LIST", NULL,
     "guided steps: all, none, or a list such as 0,5,10 or 0:45:5, which is FIRST:END:STRIDE, END excluded "
     "(default all, where --scale is given)", 0, 0},
    {"scales", 0, CLI_TEXT, AT(scales), "LIST", NULL,
     "guided steps with a scale each, such as 5@0:20:5,3@20:40:5; a later item overrides an earlier one", 0, 0},
    {"other", 0, CLI_TEXT, AT(other), "BRANCH", "cond",
     "branch evaluated at unguided steps: cond or uncond", 0, 0},
    {"guidance", 0, CLI_TEXT, AT(guidance), "G|LIST", NULL,
     "guidance that a model with a guidance embedder (FLUX.1 dev) is told, before what its inputs say: one number, or by "
     "step, such as 3.5@0:10,5@10:20; without --scale, --scales and --cfg no step is guided", 0, 0},
    {"period", 0, CLI_SIZE, AT(period), "P", NULL,
     "refresh the cache at steps 0, P, 2P, ...", 1, OUSAC_SCHEDULE_STEPS_MAX},
    {"refreshes", 0, CLI_SIZE, AT(refreshes), "N", NULL,
     "refresh at N steps, placed by --power", 1, OUSAC_SCHEDULE_STEPS_MAX},
    {"power", 0, CLI_REAL, AT(power), "P", NULL,
     "refresh k at round((S-1)(1-(1-k/(N-1))^P)): 1 is even, above 1 denser at the end (default 1)", 0.01, 100},
    {"full", 0, CLI_TEXT, AT(full), "LIST", NULL,
     "refresh at these steps", 0, 0},
    {"gates", 0, CLI_TEXT, AT(gates), "auto", NULL,
     "leave the refreshes to the plan", 0, 0},
    {"uncached", 0, CLI_FLAG, AT(uncached), NULL, NULL,
     "compute every step in full", 0, 0},
    {"gate", 0, CLI_TEXT, AT(gate), "GATE", NULL,
     "between refreshes: cached (increment-calibrated) or reuse (default cached)", 0, 0},
    {"name", 0, CLI_TEXT, AT(name), "TEXT", NULL,
     "name kept in the file", 0, 0},
    {"output", 'o', CLI_OUTPUT, AT(output), "FILE", NULL,
     "file to write (default: -, standard output; required with --json)", 0, CLI_STDOUT_TEXT},
    OPTIONS_END};
/* clang-format on */
#undef AT

static ousac_status run(cli_call *call, void *values, ousac_error *error) {
    const schedule_request *request = values;
    ousac_schedule schedule = {0};
    ousac_scheduler_terms terms = {0};
    if (call->common.json && !request->output)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "--json needs --output FILE: without it the schedule goes to standard output");
    ousac_status status = build(request, &schedule, &terms, error);
    if (!status)
        status = deliver(request, &call->common, &schedule, &terms, error);
    ousac_schedule_free(&schedule);
    return status;
}

const cli_command command_schedule = {
    .name = "schedule",
    .summary = "write a schedule: steps, guided steps and scales, refreshes",
    .arguments = "",
    .details =
        "Writes a schedule file: for every denoising step its timestep, the branches it evaluates, the "
        "guidance "
        "scale and whether the cache is refreshed. Say which steps are guided (--scale, --cfg, --scales) "
        "and, in "
        "exactly one way, where the cache is refreshed (--period, --refreshes, --full, --gates auto or "
        "--uncached). --guidance is for models that are told a guidance in place of a second branch. A "
        "branch "
        "evaluated for the first time runs in full whatever its gate. With --from the "
        "timesteps and updates are those of a diffusers scheduler; what a schedule file cannot say of it is "
        "refused.",
    .example = "build/ousac schedule --scale 5 --cfg 0:45:5 --period 3 --name sparse -o /tmp/sparse.json\n"
               "build/ousac inspect /tmp/sparse.json",
    .options = options,
    .request_size = sizeof(schedule_request),
    .run = run,
};
