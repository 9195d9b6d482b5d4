#include "pipeline/stopwatch.h"

#include "formats/memory.h"
#include "pipeline/fit.h"
#include "pipeline/machine.h"
#include "pipeline/stopwatch_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Ranks that are measured where none are given, over the largest. */
static const double spread_ranks[] = {1.0 / 12, 1.0 / 6, 1.0 / 3, 2.0 / 3};

/* A run's gates, f full, c cached, r reuse, e extrapolate; and what of each evaluation is taken, by step: what touches memory for the first
 * time is not. With one full evaluation behind it a branch has no forecast yet. */
typedef struct course {
    const char *gates, *taken;
} course;
static const course exact_course = {"fff", "-XX"}, reuse_course = {"frrf", "-uu-"},
                    extrapolate_course = {"ffeef", "--ee-"}, cached_course = {"fccfccf", "--p-ppR"},
                    check_course = {"fcfc", "----"};
enum { STEPS_MAX = 7 };

/* Values of one kind, over all repeats. */
typedef struct series {
    double *value;
    size_t count, room;
} series;

typedef struct moment {
    size_t step;
    int branch;
    double evaluation, gap; /* seconds; gap: since the evaluation before it in the trajectory */
} moment;

/* Looks on from one thread. */
typedef struct watch {
    const struct stopwatch *of;
    float *probe; /* backend memory: reading it waits for the evaluation */
    moment *moment;
    size_t count, room;
    size_t step;
    double began, ended;
} watch;

typedef struct stopwatch {
    const ousac_session *session;
    ousac_timing *timing;
    ousac_schedule schedule, alone; /* STEPS_MAX steps; alone: of the conditional branch */
    watch *watch;                   /* (threads) */
    series part[OUSAC_TIMING_PARTS], point[OUSAC_TIMING_RANKS_MAX][2];
} stopwatch;

/* --- one run --- */

static double now(const stopwatch *s) {
    return s->timing->processor_clock ? ousac_thread_s() : ousac_clock_s();
}

static ousac_status watch_begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first,
                                size_t count, ousac_error *error) {
    watch *w = self;
    (void)gate, (void)first, (void)count;
    if (w->count == w->room)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "more than %zu evaluations were timed", w->room);
    w->began = now(w->of);
    w->moment[w->count++] =
        (moment){.step = step, .branch = branch, .gap = step > 0 ? w->began - w->ended : 0};
    return OUSAC_STATUS_OK;
}

static ousac_status watch_end(void *self, ousac_error *error) {
    watch *w = self;
    const ousac_backend *be = w->of->session->model->backend;
    float ignored;
    const ousac_status status =
        be->host ? OUSAC_STATUS_OK : be->download(be, &ignored, w->probe, sizeof ignored, error);
    w->ended = now(w->of);
    w->moment[w->count - 1].evaluation = w->ended - w->began;
    return status;
}

static ousac_status attach(void *self, size_t worker, ousac_observer *observer, ousac_error *error) {
    stopwatch *s = self;
    (void)error;
    s->watch[worker].count = 0;
    *observer = (ousac_observer){.self = &s->watch[worker], .begin = watch_begin, .end = watch_end};
    return OUSAC_STATUS_OK;
}

static void set_gates(ousac_schedule *schedule, const course *c) {
    schedule->step_count = strlen(c->gates);
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            schedule->steps[i].gate[b] = c->gates[i] == 'f'   ? OUSAC_GATE_FULL
                                         : c->gates[i] == 'c' ? OUSAC_GATE_CACHED
                                         : c->gates[i] == 'r' ? OUSAC_GATE_REUSE
                                                              : OUSAC_GATE_EXTRAPOLATE;
}

static ousac_status add(series *to, double value, ousac_error *error) {
    if (to->count == to->room) {
        const size_t room = to->room ? 2 * to->room : 64;
        double *grown = ousac_regrow(to->value, to->room, room, sizeof *grown);
        if (!grown)
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the times");
        to->value = grown;
        to->room = room;
    }
    to->value[to->count++] = value;
    return OUSAC_STATUS_OK;
}

/* One micro-batch on every thread. */
static ousac_status run(stopwatch *s, const char *label, ousac_schedule *schedule, const course *c,
                        const ousac_calibration *calibration, ousac_error *error) {
    const ousac_run_observers observers = {.self = s, .attach = attach};
    for (size_t t = 0; t < s->timing->threads; t++)
        s->watch[t].count = 0;
    set_gates(schedule, c);
    const ousac_session_run inner = {
        .label = label,
        .schedule = schedule,
        .range = {0, (uint64_t)s->timing->threads * s->session->micro_batch},
        .exact = strpbrk(c->gates, "cre") == NULL,
        .calibration = calibration,
        .observers = &observers,
    };
    return ousac_session_run_here(s->session, &inner, error);
}

/* Whether the step evaluates both branches, and this is the second of them. */
static int is_second(const moment *m, const moment *first) {
    return m > first && m[-1].step == m->step;
}

/* Sorts a run's times: `whole` takes the full evaluations, `step`, where it is not NULL, what steps take beside. */
static ousac_status take(stopwatch *s, const course *c, series *whole, series *step, series *cached,
                         ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t t = 0; t < s->timing->threads; t++)
        for (size_t i = 0; i < s->watch[t].count && !status; i++) {
            const moment *m = &s->watch[t].moment[i];
            const char what = c->taken[m->step];
            if (what == 'X' || what == 'R')
                status = add(whole, m->evaluation, error);
            else if (what == 'u')
                status = add(&s->part[OUSAC_TIMING_REUSE], m->evaluation, error);
            else if (what == 'e')
                status = add(&s->part[OUSAC_TIMING_EXTRAPOLATE], m->evaluation, error);
            else if (what == 'p')
                status = add(&cached[m->step > 3], m->evaluation, error);
            if (!status && step && what == 'X') {
                if (is_second(m, s->watch[t].moment))
                    step->value[step->count - 1] += m->gap;
                else
                    status = add(step, m->gap, error);
            }
        }
    return status;
}

/* --- the whole --- */

static ousac_status one_mode(const ousac_schedule *schedule, ousac_error *error) {
    for (size_t i = 1; i < schedule->step_count; i++)
        if (schedule->steps[i].mode != schedule->steps[0].mode)
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "schedule %s, step %zu: mode %s after %s; expected one mode at all steps",
                              ousac_schedule_called(schedule), i, ousac_mode_name(schedule->steps[i].mode),
                              ousac_mode_name(schedule->steps[0].mode));
    return OUSAC_STATUS_OK;
}

/* Steps from the model's last level down, as `like` evaluates and guides them. */
static ousac_status make_steps(ousac_schedule *schedule, const ousac_model *model, const ousac_schedule *like,
                               ousac_error *error) {
    const double last = ousac_noise_last(&model->noise);
    const ousac_step usual = {.mode = model->has_uncond ? OUSAC_MODE_CFG : OUSAC_MODE_COND,
                              .scale = model->has_uncond ? 2 : 1};
    (void)snprintf(schedule->name, sizeof schedule->name, "steps to be timed");
    schedule->solver =
        model->noise.prediction == OUSAC_PREDICTION_FLOW ? OUSAC_SOLVER_FLOW_EULER : OUSAC_SOLVER_DDIM;
    schedule->step_count = STEPS_MAX;
    schedule->steps = ousac_calloc(STEPS_MAX, sizeof *schedule->steps);
    if (!schedule->steps)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the steps");
    for (size_t i = 0; i < STEPS_MAX; i++) {
        schedule->steps[i] = like ? like->steps[0] : usual;
        schedule->steps[i].timestep = floor(last * (double)(STEPS_MAX - i) / STEPS_MAX);
        for (int b = 0; b < OUSAC_BRANCHES; b++)
            schedule->steps[i].gate[b] = OUSAC_GATE_FULL;
    }
    return ousac_schedule_validate(schedule, schedule->name, error);
}

static ousac_status choose_steps(stopwatch *s, const ousac_schedule *like, ousac_error *error) {
    ousac_status status = like ? one_mode(like, error) : OUSAC_STATUS_OK;
    if (!status && like && like->step_count >= STEPS_MAX)
        status = ousac_fit_fewer_steps(&s->schedule, like, STEPS_MAX, error);
    else if (!status)
        status = make_steps(&s->schedule, s->session->model, like, error);
    if (!status)
        status = ousac_run_check_schedule(s->session->model, &s->schedule, error);
    if (!status)
        status = ousac_schedule_copy(&s->alone, &s->schedule, error);
    for (size_t i = 0; i < STEPS_MAX && !status; i++) {
        s->alone.steps[i].mode = OUSAC_MODE_COND;
        s->alone.steps[i].scale = 1;
    }
    return status;
}

static ousac_status choose_ranks(stopwatch *s, const ousac_stopwatch_options *options, ousac_error *error) {
    const size_t most = ousac_timing_rank_most(&s->session->model->arch);
    const size_t count =
        options->rank_count ? options->rank_count : sizeof spread_ranks / sizeof *spread_ranks;
    ousac_timing *timing = s->timing;
    if (most < 2)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: its smallest layers take no rank above %zu; expected two ranks to measure",
                          s->session->model->path, most);
    if (count > OUSAC_TIMING_RANKS_MAX || (options->rank_count && count < 2))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "`ranks`: %zu of them; expected 2 to %d", count,
                          OUSAC_TIMING_RANKS_MAX);
    for (size_t i = 0; i < count; i++) {
        size_t rank = options->rank_count ? options->rank[i] : (size_t)(spread_ranks[i] * (double)most + 0.5);
        const size_t before = timing->point_count ? timing->point[timing->point_count - 1].rank : 0;
        if (options->rank_count && (rank <= before || rank > most))
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                              "`ranks`: %zu after %zu; expected ranks that rise, from 1 to %zu", rank, before,
                              most);
        if (rank > before)
            timing->point[timing->point_count++].rank = rank;
    }
    if (timing->point_count < 2) { /* spread over very few */
        timing->point_count = 2;
        timing->point[0].rank = 1;
        timing->point[1].rank = most;
    }
    return OUSAC_STATUS_OK;
}

static ousac_status make_watches(stopwatch *s, ousac_error *error) {
    const ousac_backend *be = s->session->model->backend;
    const size_t threads = s->timing->threads, most = threads * STEPS_MAX * OUSAC_BRANCHES;
    s->watch = ousac_calloc(threads, sizeof *s->watch);
    for (size_t t = 0; s->watch && t < threads; t++) {
        watch *w = &s->watch[t];
        w->of = s;
        w->room = most; /* any thread may do all the work */
        w->moment = ousac_malloc(most, sizeof *w->moment);
        w->probe = be->host ? NULL : be->alloc(be, 1, sizeof *w->probe);
        if (!w->moment || (!be->host && !w->probe))
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the times");
    }
    return s->watch ? OUSAC_STATUS_OK : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the times");
}

static ousac_status run_rank(stopwatch *s, size_t i, int check, ousac_error *error) {
    ousac_calibration *calibration = NULL;
    char label[48];
    const size_t rank = s->timing->point[i].rank;
    (void)snprintf(label, sizeof label, "cached, rank %zu", rank);
    ousac_status status =
        ousac_stopwatch_calibration(&calibration, s->session->model, rank, STEPS_MAX, error);
    if (!status && check) {
        set_gates(&s->schedule, &check_course);
        status = ousac_stopwatch_check(s->session, &s->schedule, calibration, rank, error);
    }
    if (!status)
        status = run(s, label, &s->schedule, &cached_course, calibration, error);
    if (!status)
        status = take(s, &cached_course, &s->part[OUSAC_TIMING_REFRESH], NULL, s->point[i], error);
    ousac_calibration_free(calibration);
    return status;
}

/* Everything once. */
static ousac_status run_round(stopwatch *s, int check, ousac_error *error) {
    series *part = s->part;
    ousac_status status = run(s, "full", &s->schedule, &exact_course, NULL, error);
    if (!status)
        status = take(s, &exact_course, &part[OUSAC_TIMING_FULL], &part[OUSAC_TIMING_STEP], NULL, error);
    if (!status)
        status = run(s, "alone", &s->alone, &exact_course, NULL, error);
    if (!status)
        status = take(s, &exact_course, &part[OUSAC_TIMING_ALONE], NULL, NULL, error);
    if (!status)
        status = run(s, "reuse", &s->schedule, &reuse_course, NULL, error);
    if (!status)
        status = take(s, &reuse_course, NULL, NULL, NULL, error);
    if (!status)
        status = run(s, "extrapolate", &s->schedule, &extrapolate_course, NULL, error);
    if (!status)
        status = take(s, &extrapolate_course, NULL, NULL, NULL, error);
    for (size_t i = 0; i < s->timing->point_count && !status; i++)
        status = run_rank(s, i, check, error);
    return status;
}

static void stopwatch_free(stopwatch *s) {
    const ousac_backend *be = s->session->model->backend;
    for (size_t t = 0; s->watch && t < s->timing->threads; t++) {
        ousac_free(s->watch[t].moment);
        if (s->watch[t].probe)
            be->release(be, s->watch[t].probe);
    }
    ousac_free(s->watch);
    for (int p = 0; p < OUSAC_TIMING_PARTS; p++)
        ousac_free(s->part[p].value);
    for (size_t i = 0; i < OUSAC_TIMING_RANKS_MAX; i++)
        for (int f = 0; f < 2; f++)
            ousac_free(s->point[i][f].value);
    ousac_schedule_free(&s->schedule);
    ousac_schedule_free(&s->alone);
}

ousac_status ousac_stopwatch_measure(ousac_timing *timing, const ousac_session *session,
                                     const ousac_stopwatch_options *options, ousac_error *error) {
    stopwatch s = {.session = session, .timing = timing};
    memset(timing, 0, sizeof *timing);
    ousac_status status = choose_steps(&s, options->like, error);
    if (!status)
        ousac_timing_identify(timing, session, s.schedule.steps[0].mode);
    timing->repeats = options->repeats ? options->repeats : OUSAC_DEFAULT_REPEATS;
    if (!status)
        status = choose_ranks(&s, options, error);
    if (!status)
        status = make_watches(&s, error);
    for (size_t r = 0; r < timing->repeats && !status; r++)
        status = run_round(&s, r == 0, error);
    if (status)
        goto done;
    for (int p = 0; p < OUSAC_TIMING_PARTS; p++)
        timing->part[p] = ousac_timing_spread_of(s.part[p].value, s.part[p].count);
    for (size_t i = 0; i < timing->point_count; i++)
        for (int f = 0; f < 2; f++)
            timing->point[i].cached[f] = ousac_timing_spread_of(s.point[i][f].value, s.point[i][f].count);
    ousac_timing_reduce(timing);
done:
    stopwatch_free(&s);
    return status;
}

/* --- whole runs --- */

/* Gates at work, or `exact`. */
static ousac_status time_run(const ousac_session *session, const char *label, const ousac_schedule *schedule,
                             int exact, const ousac_calibration *calibration, double *wall, double *processor,
                             ousac_error *error) {
    const ousac_session_run inner = {
        .label = label,
        .schedule = schedule,
        .range = {0, (uint64_t)ousac_session_threads(session) * session->micro_batch},
        .exact = exact,
        .calibration = calibration,
        .seconds = wall,
    };
    const double before = ousac_process_s();
    const ousac_status status = ousac_session_run_here(session, &inner, error);
    *processor = ousac_process_s() - before;
    return status;
}

ousac_status ousac_stopwatch_compare(ousac_stopwatch_share *share, const ousac_session *session,
                                     const ousac_schedule *reference, const ousac_schedule *schedule,
                                     const ousac_calibration *calibration, size_t repeats,
                                     ousac_error *error) {
    double *wall = ousac_malloc(repeats, sizeof *wall), *processor = ousac_malloc(repeats, sizeof *processor);
    ousac_status status = wall && processor
                              ? OUSAC_STATUS_OK
                              : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for the times");
    *share = (ousac_stopwatch_share){.repeats = repeats, .processor = NAN};
    for (size_t i = 0; i < repeats && !status; i++) {
        double of[2][2] = {{0}};
        status = time_run(session, "reference", reference, 1, NULL, &of[0][0], &of[0][1], error);
        if (!status)
            status = time_run(session, "result", schedule, 0, calibration, &of[1][0], &of[1][1], error);
        wall[i] = of[1][0] / of[0][0];
        processor[i] = of[1][1] / of[0][1];
    }
    if (!status) {
        const ousac_timing_spread spread = ousac_timing_spread_of(wall, repeats);
        share->wall = spread.median;
        share->wall_least = spread.least;
        share->wall_most = spread.most;
        if (session->model->backend->host)
            share->processor = ousac_timing_spread_of(processor, repeats).median;
    }
    ousac_free(wall);
    ousac_free(processor);
    return status;
}
