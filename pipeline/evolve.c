#include "pipeline/evolve.h"

#include "calib/stats/philox.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

enum { ELITES = 2 };
#define MOVE_SCALE 0.1

typedef struct evolution {
    ousac_gauge *gauge;
    const ousac_evolve_options *options;
    ousac_schedule *schedule; /* every candidate is run in it */
    double most;              /* w_max */
    uint32_t drawn;
    double *gene, *next;      /* (population, steps) */
    double *loss, *next_loss; /* (population) */
    ousac_evolve_report *report;
} evolution;

/* In (0, 1]. */
static double uniform(evolution *e) {
    uint32_t words[4];
    ousac_philox_draw(e->options->seed, OUSAC_STREAM_EVOLUTION, 0, e->drawn++, words);
    return ((double)words[0] + 1) / 4294967296.0;
}

static double normal(evolution *e) {
    static const double two_pi = 6.283185307179586;
    const double radius = sqrt(-2 * log(uniform(e)));
    return radius * cos(two_pi * uniform(e));
}

static size_t below(evolution *e, size_t bound) {
    const size_t drawn = (size_t)(uniform(e) * (double)bound);
    return drawn < bound ? drawn : bound - 1;
}

static size_t express(const evolution *e, const double *gene) {
    size_t guided = 0;
    for (size_t i = 0; i < e->schedule->step_count; i++) {
        ousac_step *step = &e->schedule->steps[i];
        const int guides = gene[i] >= OUSAC_EVOLVE_THRESHOLD;
        step->mode = guides ? OUSAC_MODE_CFG : OUSAC_MODE_COND;
        step->scale = guides ? gene[i] : 1;
        guided += (size_t)guides;
    }
    return guided;
}

static ousac_status measure(evolution *e, const double *gene, double *loss, ousac_error *error) {
    const size_t guided = express(e, gene), steps = e->schedule->step_count;
    const ousac_gauge_arm arm = {.label = "evolution", .schedule = e->schedule};
    double relative = 0;
    const ousac_status status = ousac_gauge_measure(e->gauge, &arm, NULL, &relative, error);
    *loss = relative * relative + OUSAC_EVOLVE_LAMBDA * (double)guided / (double)steps;
    e->report->runs++;
    if (!status && *loss < e->report->loss)
        *e->report = (ousac_evolve_report){*loss, relative, guided, e->report->runs};
    return status;
}

/* Share k of the population guided, evenly, at the scale whose excess over 1 adds up to that of all. */
static void begin_candidate(const evolution *e, size_t k, double *gene) {
    const size_t steps = e->schedule->step_count;
    const double share = (double)(k + 1) / (double)e->options->population;
    const double scale = fmin(1 + (e->options->scale - 1) / share, e->most);
    for (size_t i = 0; i < steps; i++)
        gene[i] = floor((double)(i + 1) * share + 1e-9) > floor((double)i * share + 1e-9) ? scale : 0;
}

static size_t tournament(evolution *e) {
    const size_t a = below(e, e->options->population), b = below(e, e->options->population);
    return e->loss[b] < e->loss[a] ? b : a;
}

static void breed(evolution *e, double *child) {
    const size_t steps = e->schedule->step_count;
    const double *a = e->gene + tournament(e) * steps, *b = e->gene + tournament(e) * steps;
    for (size_t i = 0; i < steps; i++) {
        double w = uniform(e) <= 0.5 ? a[i] : b[i];
        if (uniform(e) <= 2.0 / (double)steps) {
            if (uniform(e) <= 0.5)
                w += MOVE_SCALE * e->most * normal(e);
            else
                w = w >= OUSAC_EVOLVE_THRESHOLD
                        ? 0
                        : OUSAC_EVOLVE_THRESHOLD + uniform(e) * (e->most - OUSAC_EVOLVE_THRESHOLD);
        }
        child[i] = fmin(fmax(w, 0), e->most);
    }
}

/* The index of the rank-th least loss; of equal ones the first. */
static size_t ranked(const evolution *e, size_t rank) {
    for (size_t i = 0; i < e->options->population; i++) {
        size_t better = 0;
        for (size_t j = 0; j < e->options->population; j++)
            better += e->loss[j] < e->loss[i] || (e->loss[j] == e->loss[i] && j < i);
        if (better == rank)
            return i;
    }
    return 0;
}

static ousac_status next_generation(evolution *e, ousac_error *error) {
    const size_t steps = e->schedule->step_count, population = e->options->population;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t k = 0; k < population && !status; k++) {
        double *child = e->next + k * steps;
        if (k < ELITES) {
            const size_t elite = ranked(e, k);
            memcpy(child, e->gene + elite * steps, steps * sizeof *child);
            e->next_loss[k] = e->loss[elite];
        } else {
            breed(e, child);
            status = measure(e, child, &e->next_loss[k], error);
        }
    }
    double *gene = e->gene, *loss = e->loss;
    e->gene = e->next;
    e->loss = e->next_loss;
    e->next = gene;
    e->next_loss = loss;
    return status;
}

ousac_status ousac_evolve_guidance(ousac_gauge *gauge, const ousac_evolve_options *options,
                                   ousac_schedule *schedule, ousac_evolve_report *report,
                                   ousac_error *error) {
    const size_t steps = schedule->step_count, population = options->population;
    evolution e = {.gauge = gauge, .options = options, .schedule = schedule, .report = report};
    ousac_status status = OUSAC_STATUS_OK;
    *report = (ousac_evolve_report){.loss = INFINITY};
    if (population < 4 || options->generations < 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "evolution: population %zu, generations %zu: expected at least 4 and 1", population,
                          options->generations);
    e.most = OUSAC_EVOLVE_MOST * options->scale;
    if (!(e.most > OUSAC_EVOLVE_THRESHOLD))
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "evolution: scale %g: expected one above %g",
                          options->scale, OUSAC_EVOLVE_THRESHOLD / OUSAC_EVOLVE_MOST);
    e.gene = ousac_malloc(population * steps, sizeof *e.gene);
    e.next = ousac_malloc(population * steps, sizeof *e.next);
    e.loss = ousac_malloc(population, sizeof *e.loss);
    e.next_loss = ousac_malloc(population, sizeof *e.next_loss);
    if (!e.gene || !e.next || !e.loss || !e.next_loss) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "out of memory for %zu candidates of %zu steps",
                            population, steps);
        goto done;
    }
    for (size_t k = 0; k < population && !status; k++) {
        begin_candidate(&e, k, e.gene + k * steps);
        status = measure(&e, e.gene + k * steps, &e.loss[k], error);
    }
    for (size_t g = 0; g < options->generations && !status; g++)
        status = next_generation(&e, error);
    if (!status)
        report->guided = express(&e, e.gene + ranked(&e, 0) * steps);
done:
    ousac_free(e.gene);
    ousac_free(e.next);
    ousac_free(e.loss);
    ousac_free(e.next_loss);
    return status;
}
