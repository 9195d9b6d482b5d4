#include "profile/run/scheduler.h"

#include "formats/json.h"
#include "formats/memory.h"
#include "profile/model/load.h"
#include "profile/run/solver.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CONFIG_VALUES_MAX = 10000, PIXELS_OF_A_TOKEN = 16, LOWER_ORDER_BELOW = 15 };

/* diffusers' defaults where the config has no betas. */
static const char DEFAULT_BETAS[] = "linear 1e-4 0.02 1000";

typedef struct reader {
    ousac_loader config;
    ousac_model model; /* its noise, for the loader's part */
    const ousac_scheduler_request *request;
    ousac_schedule *schedule;
    ousac_scheduler_terms *terms;
    size_t T, S; /* training timesteps, steps */
    ousac_error *error;
} reader;

/* --- options --- */

static ousac_status refuse(const reader *r, const char *key, const char *value, const char *known) {
    return OUSAC_FAIL(r->error, OUSAC_STATUS_UNSUPPORTED,
                      "%s: \"%s\" is %s: a schedule file cannot say that; expected %s", r->config.config_name,
                      key, value, known);
}

/* Each of the flags must be false, absent or null ones too where `on` is not their default. */
static ousac_status want_off(const reader *r, const char *const *keys, size_t count, int on) {
    for (size_t i = 0; i < count; i++) {
        int flag = on;
        if (ousac_loader_flag(&r->config, keys[i], &flag) < 0)
            return OUSAC_STATUS_FORMAT;
        if (flag)
            return refuse(r, keys[i], "true", "false");
    }
    return OUSAC_STATUS_OK;
}

static ousac_status want_text(const reader *r, const char *key, const char *wanted) {
    const char *text = wanted;
    char shown[64];
    if (ousac_loader_text(&r->config, key, &text) < 0)
        return OUSAC_STATUS_FORMAT;
    (void)snprintf(shown, sizeof shown, "\"%.40s\"", text);
    return strcmp(text, wanted) == 0 ? OUSAC_STATUS_OK : refuse(r, key, shown, wanted);
}

static ousac_status want_none(const reader *r, const char *key) {
    double value = 0;
    char shown[32];
    const int have = ousac_loader_real(&r->config, key, &value);
    (void)snprintf(shown, sizeof shown, "%g", value);
    return have < 0 ? OUSAC_STATUS_FORMAT : have ? refuse(r, key, shown, "null") : OUSAC_STATUS_OK;
}

/* One of the names: its index. */
static ousac_status read_choice(const reader *r, const char *key, const char *const *names, size_t count,
                                size_t *choice) {
    const char *text = names[*choice];
    char shown[64], known[96] = "";
    if (ousac_loader_text(&r->config, key, &text) < 0)
        return OUSAC_STATUS_FORMAT;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, names[i]) == 0) {
            *choice = i;
            return OUSAC_STATUS_OK;
        }
        const size_t at = strlen(known);
        (void)snprintf(known + at, sizeof known - at, "%s%s", i ? " or " : "", names[i]);
    }
    (void)snprintf(shown, sizeof shown, "\"%.40s\"", text);
    return refuse(r, key, shown, known);
}

static const char *const SPACINGS[] = {"linspace", "leading", "trailing"};
static ousac_status read_spacing(const reader *r, ousac_spacing *spacing) {
    size_t choice = (size_t)*spacing;
    const ousac_status status = read_choice(r, "timestep_spacing", SPACINGS, 3, &choice);
    *spacing = (ousac_spacing)choice;
    return status;
}

static const char *const FINALS[] = {"zero", "sigma_min"};

/* --- timesteps --- */

/* The first S of `points` points: DPM-Solver's are one more than its steps. */
static ousac_status fill_timesteps(reader *r, ousac_spacing spacing, size_t points, size_t offset,
                                   int whole) {
    for (size_t i = 0; i < r->S; i++) {
        ousac_noise_level level;
        ousac_step *step = &r->schedule->steps[i];
        step->timestep = ousac_spaced_timestep(spacing, spacing == OUSAC_SPACING_TRAILING ? r->S : points,
                                               r->T, i, whole) +
                         (double)offset;
        if (ousac_noise_at(&r->model.noise, step->timestep, &level) ||
            (i && step->timestep >= step[-1].timestep))
            return OUSAC_FAIL(
                r->error, OUSAC_STATUS_USAGE,
                "%s: %zu steps, spacing %s, \"steps_offset\" %zu: step %zu is at timestep %g; expected "
                "falling ones from 0 to %zu",
                r->config.config_name, r->S, SPACINGS[spacing], offset, i, step->timestep, r->T - 1);
    }
    return OUSAC_STATUS_OK;
}

static ousac_noise_level level_at(const reader *r, double timestep) {
    ousac_noise_level level = OUSAC_NOISE_NONE;
    (void)ousac_noise_at(&r->model.noise, timestep, &level);
    return level;
}

/* --- coefficients --- */

/* What a step of first order does in the scheduler: from one level to another, and the result times `factor`. */
typedef struct move {
    ousac_noise_level from, to;
    double factor;
} move;

/* Says in k and m what the moves of steps [first, S) are beside the solver's steps. */
static ousac_status express(reader *r, const move *moves, size_t first) {
    const ousac_prediction prediction = r->model.noise.prediction;
    ousac_noise_level *level = ousac_calloc(r->S + 1, sizeof *level);
    ousac_solver_step *own = ousac_calloc(r->S, sizeof *own);
    ousac_status status = OUSAC_STATUS_OK;
    if (!level || !own) {
        status = OUSAC_FAIL(r->error, OUSAC_STATUS_MEMORY, "no memory for %zu steps", r->S);
        goto done;
    }
    for (size_t i = 0; i < r->S; i++)
        level[i] = level_at(r, r->schedule->steps[i].timestep);
    level[r->S] = OUSAC_NOISE_NONE;
    status = ousac_solver_steps(r->schedule->solver, prediction, level, r->S, own, r->error);
    for (size_t i = first; i < r->S && !status; i++) {
        ousac_solver_step wanted;
        status =
            ousac_solver_steps(OUSAC_SOLVER_DDIM, prediction,
                               (const ousac_noise_level[]){moves[i].from, moves[i].to}, 1, &wanted, r->error);
        const double x = wanted.x * moves[i].factor, eps = wanted.eps * moves[i].factor;
        const double k = x == own[i].x ? 0 : x / own[i].x - 1,
                     m = eps == own[i].eps ? 0 : eps / own[i].eps - 1;
        if (status || (k == 0 && m == 0))
            continue;
        if (!isfinite(k) || !isfinite(m))
            status = OUSAC_FAIL(r->error, OUSAC_STATUS_UNSUPPORTED,
                                "%s: step %zu at timestep %g: a schedule file cannot say its step",
                                r->config.config_name, i, r->schedule->steps[i].timestep);
        else
            status = ousac_schedule_make_fitted(r->schedule, r->error);
        if (status)
            continue;
        r->schedule->fitted[i].value[OUSAC_COEFFICIENT_STATE] = k;
        r->schedule->fitted[i].value[OUSAC_COEFFICIENT_GAIN] = m;
    }
done:
    ousac_free(level);
    ousac_free(own);
    return status;
}

static move *new_moves(reader *r) {
    move *moves = ousac_calloc(r->S, sizeof *moves);
    if (!moves)
        (void)OUSAC_FAIL(r->error, OUSAC_STATUS_MEMORY, "no memory for %zu steps", r->S);
    return moves;
}

/* --- the schedulers --- */

static ousac_status read_betas(reader *r) {
    const ousac_status status = ousac_loader_noise(&r->config, DEFAULT_BETAS, OUSAC_PREDICTION_EPSILON);
    r->T = r->model.noise.train_steps;
    if (!status && r->S > r->T)
        return OUSAC_FAIL(r->error, OUSAC_STATUS_USAGE, "--steps %zu is above the %zu timesteps of %s", r->S,
                          r->T, r->config.config_name);
    return status;
}

static ousac_status read_offset(const reader *r, size_t *offset) {
    return ousac_loader_size(&r->config, "steps_offset", offset) < 0 ? OUSAC_STATUS_FORMAT : OUSAC_STATUS_OK;
}

static ousac_status ddim(reader *r) {
    static const char *const off[] = {"thresholding"}, *const clip[] = {"clip_sample"};
    ousac_spacing spacing = OUSAC_SPACING_LEADING;
    size_t offset = 0;
    int to_one = 1;
    move *moves = NULL;
    ousac_status status;
    if ((status = read_betas(r)) || (status = want_off(r, off, 1, 0)) || (status = want_off(r, clip, 1, 1)) ||
        (status = read_spacing(r, &spacing)) || (status = read_offset(r, &offset)))
        return status;
    if (ousac_loader_flag(&r->config, "set_alpha_to_one", &to_one) < 0)
        return OUSAC_STATUS_FORMAT;
    if ((status = fill_timesteps(r, spacing, r->S, spacing == OUSAC_SPACING_LEADING ? offset : 0, 1)))
        return status;
    if (!(moves = new_moves(r)))
        return OUSAC_STATUS_MEMORY;
    r->schedule->solver = OUSAC_SOLVER_DDIM;
    for (size_t i = 0; i < r->S; i++) {
        const double at = r->schedule->steps[i].timestep, to = at - (double)(r->T / r->S);
        moves[i] = (move){level_at(r, at),
                          to >= 0  ? level_at(r, to)
                          : to_one ? OUSAC_NOISE_NONE
                                   : level_at(r, 0),
                          1};
    }
    status = express(r, moves, 0);
    ousac_free(moves);
    return status;
}

static ousac_status dpm(reader *r) {
    static const char *const off[] = {"thresholding",        "use_karras_sigmas", "use_exponential_sigmas",
                                      "use_beta_sigmas",     "use_lu_lambdas",    "use_flow_sigmas",
                                      "use_dynamic_shifting"};
    static const char *const algorithms[] = {"dpmsolver++"}, *const types[] = {"midpoint"};
    ousac_spacing spacing = OUSAC_SPACING_LINSPACE;
    size_t order = 2, offset = 0, last = 0, only = 0;
    int lower = 1, euler = 0;
    move *moves = NULL;
    ousac_status status;
    if ((status = read_betas(r)) || (status = want_off(r, off, sizeof off / sizeof *off, 0)) ||
        (status = read_choice(r, "algorithm_type", algorithms, 1, &only)) ||
        (status = want_none(r, "lambda_min_clipped")) || (status = read_spacing(r, &spacing)) ||
        (status = read_offset(r, &offset)) ||
        (status = read_choice(r, "final_sigmas_type", FINALS, 2, &last)))
        return status;
    if (ousac_loader_size(&r->config, "solver_order", &order) < 0 ||
        ousac_loader_flag(&r->config, "lower_order_final", &lower) < 0 ||
        ousac_loader_flag(&r->config, "euler_at_final", &euler) < 0)
        return OUSAC_STATUS_FORMAT;
    if (order != 1 && order != 2)
        return refuse(r, "solver_order", order == 3 ? "3" : "another", "1 or 2");
    if (order == 2 && (status = read_choice(r, "solver_type", types, 1, &only)))
        return status;
    const int ends_first = order == 1 || r->S == 1 || !last || euler || (lower && r->S < LOWER_ORDER_BELOW);
    if (!ends_first)
        return refuse(r, "final_sigmas_type", "\"sigma_min\" with a last step of second order",
                      "zero, or \"euler_at_final\"");
    if ((status = fill_timesteps(r, spacing, r->S + 1, spacing == OUSAC_SPACING_LEADING ? offset : 0, 1)))
        return status;
    if (!(moves = new_moves(r)))
        return OUSAC_STATUS_MEMORY;
    r->schedule->solver = order == 1 ? OUSAC_SOLVER_DDIM : OUSAC_SOLVER_DPMPP_2M;
    moves[r->S - 1] = (move){level_at(r, r->schedule->steps[r->S - 1].timestep),
                             last ? level_at(r, 0) : OUSAC_NOISE_NONE, 1};
    status = express(r, moves, r->S - 1);
    ousac_free(moves);
    return status;
}

/* Of sigma = noise over data: alpha^2 + sigma^2 = 1. */
static ousac_noise_level level_of_ratio(double ratio) {
    return (ousac_noise_level){1 / (1 + ratio * ratio), ratio * ratio / (1 + ratio * ratio)};
}

/* Euler's sigma between whole timesteps is on the line through those of the two. */
static ousac_noise_level euler_level(const reader *r, double timestep) {
    const double down = floor(timestep), rest = timestep - down;
    const ousac_noise_level a = level_at(r, down);
    if (rest == 0)
        return a;
    const ousac_noise_level b = level_at(r, down + 1);
    return level_of_ratio((1 - rest) * sqrt(a.sigma2 / a.alpha2) + rest * sqrt(b.sigma2 / b.alpha2));
}

static ousac_status euler(reader *r) {
    static const char *const off[] = {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"};
    ousac_spacing spacing = OUSAC_SPACING_LINSPACE;
    size_t offset = 0, last = 0;
    move *moves = NULL;
    ousac_status status;
    if ((status = read_betas(r)) || (status = want_off(r, off, sizeof off / sizeof *off, 0)) ||
        (status = want_text(r, "timestep_type", "discrete")) ||
        (status = want_text(r, "interpolation_type", "linear")) || (status = want_none(r, "sigma_min")) ||
        (status = want_none(r, "sigma_max")) || (status = read_spacing(r, &spacing)) ||
        (status = read_offset(r, &offset)) ||
        (status = read_choice(r, "final_sigmas_type", FINALS, 2, &last)) ||
        (status = fill_timesteps(r, spacing, r->S, spacing == OUSAC_SPACING_LEADING ? offset : 0, 0)))
        return status;
    if (!(moves = new_moves(r)))
        return OUSAC_STATUS_MEMORY;
    r->schedule->solver = OUSAC_SOLVER_DDIM;
    for (size_t i = 0; i < r->S; i++) {
        const ousac_step *step = &r->schedule->steps[i];
        moves[i] = (move){euler_level(r, step->timestep), OUSAC_NOISE_NONE, 1};
        if (i + 1 < r->S)
            moves[i].to = euler_level(r, step[1].timestep);
        else if (last) { /* its state is the one over alpha, also at the end */
            moves[i].to = level_at(r, 0);
            moves[i].factor = 1 / sqrt(moves[i].to.alpha2);
        }
    }
    /* It begins with sigma times noise, or the root of sigma^2 + 1, over which the model's input is taken. */
    if (spacing != OUSAC_SPACING_LEADING)
        r->terms->start = sqrt(moves[0].from.sigma2);
    status = express(r, moves, 0);
    ousac_free(moves);
    return status;
}

static double shifted(double shift, double sigma) {
    return shift * sigma / (1 + (shift - 1) * sigma);
}

/* mu of the resolution: a line through two lengths of the sequence. */
static ousac_status read_mu(const reader *r, double *mu) {
    const ousac_scheduler_request *q = r->request;
    double base = 0.5, most = 1.15;
    size_t base_length = 256, most_length = 4096;
    if (ousac_loader_real(&r->config, "base_shift", &base) < 0 ||
        ousac_loader_real(&r->config, "max_shift", &most) < 0 ||
        ousac_loader_size(&r->config, "base_image_seq_len", &base_length) < 0 ||
        ousac_loader_size(&r->config, "max_image_seq_len", &most_length) < 0)
        return OUSAC_STATUS_FORMAT;
    if (base_length == most_length)
        return OUSAC_FAIL(r->error, OUSAC_STATUS_FORMAT,
                          "%s: \"base_image_seq_len\" and \"max_image_seq_len\" are equal",
                          r->config.config_name);
    if (!q->height)
        return OUSAC_FAIL(
            r->error, OUSAC_STATUS_USAGE,
            "%s: \"use_dynamic_shifting\": the shift goes by the picture's size: give --size HxW",
            r->config.config_name);
    if (q->height % PIXELS_OF_A_TOKEN || q->width % PIXELS_OF_A_TOKEN)
        return OUSAC_FAIL(r->error, OUSAC_STATUS_USAGE, "--size %zux%zu: expected multiples of %d pixels",
                          q->height, q->width, PIXELS_OF_A_TOKEN);
    const double tokens = (double)(q->height / PIXELS_OF_A_TOKEN) * (double)(q->width / PIXELS_OF_A_TOKEN);
    *mu = base + (tokens - (double)base_length) * (most - base) / ((double)most_length - (double)base_length);
    return OUSAC_STATUS_OK;
}

static ousac_status flow(reader *r) {
    static const char *const off[] = {"invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas",
                                      "use_beta_sigmas", "stochastic_sampling"};
    static const char *const kinds[] = {"exponential", "linear"};
    double shift = 1, mu = 0;
    size_t kind = 0;
    int dynamic = 0;
    ousac_status status;
    r->T = 1000;
    if (ousac_loader_size(&r->config, "num_train_timesteps", &r->T) < 0 ||
        ousac_loader_real(&r->config, "shift", &shift) < 0 ||
        ousac_loader_flag(&r->config, "use_dynamic_shifting", &dynamic) < 0)
        return OUSAC_STATUS_FORMAT;
    if (r->T < 1 || !(shift > 0))
        return OUSAC_FAIL(r->error, OUSAC_STATUS_FORMAT,
                          "%s: \"num_train_timesteps\" %zu, \"shift\" %g: expected numbers above 0",
                          r->config.config_name, r->T, shift);
    if ((status = want_off(r, off, sizeof off / sizeof *off, 0)) ||
        (status = want_none(r, "shift_terminal")) ||
        (status = read_choice(r, "time_shift_type", kinds, 2, &kind)) ||
        (dynamic && (status = read_mu(r, &mu))))
        return status;
    if (!dynamic && r->request->height)
        return OUSAC_FAIL(r->error, OUSAC_STATUS_USAGE,
                          "%s: the shift does not go by the picture's size: --size says nothing",
                          r->config.config_name);
    const double by_size = kind == 0 ? exp(mu) : mu, T = (double)r->T;
    /* set_timesteps(steps) goes from the largest to the smallest level of training, which are shifted already. */
    const double smallest = dynamic ? 1 / T : shifted(shift, 1 / T);
    for (size_t i = 0; i < r->S; i++) {
        const double even = r->request->own_sigmas
                                ? (r->S > 1 ? 1 - (1 - smallest) * (double)i / (double)(r->S - 1) : 1)
                                : 1 - (double)i / (double)r->S;
        r->schedule->steps[i].timestep =
            T * (dynamic ? by_size / (by_size + (1 / even - 1)) : shifted(shift, even));
    }
    r->schedule->solver = OUSAC_SOLVER_FLOW_EULER;
    r->model.noise =
        (ousac_noise){.kind = OUSAC_NOISE_FLOW, .prediction = OUSAC_PREDICTION_FLOW, .train_steps = r->T};
    return OUSAC_STATUS_OK;
}

/* --- all of it --- */

static const struct {
    const char *name;
    ousac_status (*read)(reader *r);
} CLASSES[] = {{"DDIMScheduler", ddim},
               {"DPMSolverMultistepScheduler", dpm},
               {"EulerDiscreteScheduler", euler},
               {"FlowMatchEulerDiscreteScheduler", flow}};

/* Python writes the default of this one as -Infinity, which is no JSON: null is the same. */
static void tame_infinity(char *text) {
    static const char key[] = "\"lambda_min_clipped\"", infinite[] = "-Infinity";
    char *at = strstr(text, key);
    if (!at)
        return;
    at += sizeof key - 1;
    at += strspn(at, " \t\r\n");
    at += *at == ':';
    at += strspn(at, " \t\r\n");
    if (strncmp(at, infinite, sizeof infinite - 1) == 0)
        memcpy(at, "null     ", sizeof infinite - 1);
}

static ousac_status read_class(reader *r) {
    const char *name = NULL;
    if (ousac_loader_text(&r->config, "_class_name", &name) < 0)
        return OUSAC_STATUS_FORMAT;
    if (!name)
        return OUSAC_FAIL(
            r->error, OUSAC_STATUS_FORMAT,
            "%s: no key \"_class_name\": expected the scheduler_config.json of a diffusers scheduler",
            r->config.config_name);
    for (size_t i = 0; i < sizeof CLASSES / sizeof *CLASSES; i++)
        if (strcmp(name, CLASSES[i].name) == 0) {
            (void)snprintf(r->terms->scheduler, sizeof r->terms->scheduler, "%s", name);
            return CLASSES[i].read(r);
        }
    return OUSAC_FAIL(
        r->error, OUSAC_STATUS_UNSUPPORTED,
        "%s: \"_class_name\" is \"%.60s\"; expected DDIMScheduler, DPMSolverMultistepScheduler, "
        "EulerDiscreteScheduler or FlowMatchEulerDiscreteScheduler",
        r->config.config_name, name);
}

ousac_status ousac_scheduler_schedule(ousac_schedule *schedule, ousac_scheduler_terms *terms,
                                      const char *text, size_t size, const char *name,
                                      const ousac_scheduler_request *request, ousac_error *error) {
    reader r = {
        .request = request, .schedule = schedule, .terms = terms, .S = request->steps, .error = error};
    ousac_status status = OUSAC_STATUS_OK;
    char *copy = ousac_malloc(size + 1, 1);
    *schedule = (ousac_schedule){.step_count = request->steps};
    *terms = (ousac_scheduler_terms){.start = 1};
    r.model.channels = 1;
    r.config = (ousac_loader){.model = &r.model, .what = "a scheduler", .config_name = name, .error = error};
    if (request->steps < 1 || request->steps > OUSAC_SCHEDULE_STEPS_MAX) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu steps: expected 1 to %d", request->steps,
                            OUSAC_SCHEDULE_STEPS_MAX);
        goto done;
    }
    schedule->steps = ousac_calloc(request->steps, sizeof *schedule->steps);
    if (!copy || !schedule->steps) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a schedule of %zu steps", request->steps);
        goto done;
    }
    for (size_t i = 0; i < request->steps; i++)
        schedule->steps[i] = (ousac_step){.mode = OUSAC_MODE_COND, .scale = 1}; /* gates: FULL */
    memcpy(copy, text, size);
    copy[size] = '\0';
    tame_infinity(copy);
    status = ousac_json_parse(&r.config.config, copy, size, CONFIG_VALUES_MAX, OUSAC_JSON_NUMBERS_ANY, name,
                              error);
    if (!status)
        status = ousac_json_check_unique(r.config.config, name, error);
    if (!status && !cJSON_IsObject(r.config.config))
        status = OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: not a JSON object", name);
    if (!status)
        status = read_class(&r);
    if (!status)
        status = ousac_schedule_validate(schedule, name, error);
    terms->kind = r.model.noise.kind;
    terms->train_steps = r.model.noise.train_steps;
    terms->prediction = r.model.noise.prediction;
done:
    if (status)
        ousac_schedule_free(schedule);
    ousac_noise_free(&r.model.noise);
    cJSON_Delete(r.config.config);
    ousac_free(copy);
    return status;
}
