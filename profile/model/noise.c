#include "profile/model/noise.h"

#include "formats/memory.h"
#include "formats/sha256.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_MAX = 1000000 };

static const char *const NAMES[] = {"epsilon", "v", "flow", "sample"};
enum { PREDICTIONS = sizeof NAMES / sizeof *NAMES };

const char *ousac_prediction_name(ousac_prediction prediction) {
    return (unsigned)prediction < PREDICTIONS ? NAMES[prediction] : "?";
}

int ousac_prediction_parse(ousac_prediction *prediction, const char *name) {
    static const char end[] = "_prediction";
    for (int i = 0; i < PREDICTIONS; i++) {
        const size_t length = strlen(NAMES[i]);
        if (strcmp(name, NAMES[i]) == 0 ||
            ((i == OUSAC_PREDICTION_V || i == OUSAC_PREDICTION_FLOW) &&
             strncmp(name, NAMES[i], length) == 0 && strcmp(name + length, end) == 0)) {
            *prediction = (ousac_prediction)i;
            return 0;
        }
    }
    return -1;
}

/* Products of 1 - beta, beta from `first` to `last`, evenly in itself or in its root. */
static double *alpha_bars(double first, double last, size_t count, int in_root) {
    double *products = ousac_malloc(count, sizeof *products);
    const double from = in_root ? sqrt(first) : first, to = in_root ? sqrt(last) : last;
    double product = 1;
    for (size_t t = 0; products && t < count; t++) {
        const double beta = count > 1 ? from + (to - from) * (double)t / (double)(count - 1) : from;
        product *= 1 - (in_root ? beta * beta : beta);
        products[t] = product;
    }
    return products;
}

/* Each takes what it is about from the text and moves on; 0 where something else stands there. */

static int take_word(const char **at, const char *word) {
    const size_t length = strlen(word);
    if (strncmp(*at, word, length) != 0)
        return 0;
    *at += length;
    return 1;
}

/* A decimal number and one blank behind it: neither what a C library reads besides, nor a number in two. */
static int take_number(const char **at, double *value) {
    const size_t length = strspn(*at, "0123456789.eE+-");
    char *end = NULL;
    if (**at < '0' || **at > '9' || (*at)[length] != ' ')
        return 0;
    *value = strtod(*at, &end);
    if (end != *at + length)
        return 0;
    *at = end + 1;
    return 1;
}

/* A whole number that ends the text; one too large is larger than any bound. */
static int take_count(const char **at, unsigned long *value) {
    const size_t length = strspn(*at, "0123456789");
    if (length == 0 || (*at)[length] != '\0')
        return 0;
    *value = strtoul(*at, NULL, 10);
    *at += length;
    return 1;
}

ousac_status ousac_noise_parse(const char *text, const char *where, ousac_noise *noise, ousac_error *error) {
    const char *at = text;
    double first = 0.5, last = 0.5;
    unsigned long count = 0;
    const int flows = take_word(&at, "flow "), linear = !flows && take_word(&at, "linear ");
    const int scaled = !flows && !linear && take_word(&at, "scaled_linear ");
    if (!(flows || ((linear || scaled) && take_number(&at, &first) && take_number(&at, &last))) ||
        !take_count(&at, &count))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_FORMAT,
            "%s: betas \"%s\": expected \"linear FIRST LAST STEPS\", \"scaled_linear FIRST LAST "
            "STEPS\" or \"flow STEPS\"",
            where, text);
    if (!(first > 0 && last > 0 && first < 1 && last < 1) || count < 1 || count > STEPS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: betas \"%s\": expected betas within (0, 1) and 1 to %d steps", where, text,
                          STEPS_MAX);
    double *products = flows ? NULL : alpha_bars(first, last, count, scaled);
    if (!flows && !products)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %lu noise levels", where, count);
    noise->kind = flows ? OUSAC_NOISE_FLOW : OUSAC_NOISE_DIFFUSION;
    noise->train_steps = count;
    noise->alpha_bar = products;
    return OUSAC_STATUS_OK;
}

void ousac_noise_free(ousac_noise *noise) {
    ousac_free(noise->alpha_bar);
    noise->alpha_bar = NULL;
}

ousac_status ousac_noise_check(const ousac_noise *noise, const char *where, ousac_error *error) {
    const int flows = noise->kind == OUSAC_NOISE_FLOW;
    if ((noise->prediction == OUSAC_PREDICTION_V && flows) ||
        (noise->prediction == OUSAC_PREDICTION_FLOW && !flows))
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                          "%s: a model that predicts %s is not defined under the noise levels of %s", where,
                          ousac_prediction_name(noise->prediction), flows ? "a flow" : "betas");
    return OUSAC_STATUS_OK;
}

double ousac_noise_last(const ousac_noise *noise) {
    return (double)noise->train_steps - (noise->kind == OUSAC_NOISE_FLOW ? 0 : 1);
}

int ousac_noise_at(const ousac_noise *noise, double timestep, ousac_noise_level *level) {
    if (!(timestep >= 0 && timestep <= ousac_noise_last(noise)))
        return -1;
    if (noise->kind == OUSAC_NOISE_FLOW) {
        const double sigma = timestep / (double)noise->train_steps;
        *level = (ousac_noise_level){(1 - sigma) * (1 - sigma), sigma * sigma};
        return 0;
    }
    const size_t whole = (size_t)timestep;
    const double part = timestep - (double)whole;
    double bar = noise->alpha_bar[whole];
    if (part > 0)
        bar = exp((1 - part) * log(bar) + part * log(noise->alpha_bar[whole + 1]));
    *level = (ousac_noise_level){bar, 1 - bar};
    return 0;
}

void ousac_noise_word(const ousac_noise *noise, char word[OUSAC_NOISE_WORD_BYTES]) {
    char digest[OUSAC_DIGEST_CHARS];
    ousac_sha256 state;
    if (noise->kind == OUSAC_NOISE_FLOW) {
        (void)snprintf(word, OUSAC_NOISE_WORD_BYTES, "flow/%zu", noise->train_steps);
        return;
    }
    ousac_sha256_begin(&state);
    ousac_sha256_add(&state, noise->alpha_bar, noise->train_steps * sizeof *noise->alpha_bar);
    ousac_sha256_end(&state, digest);
    (void)snprintf(word, OUSAC_NOISE_WORD_BYTES, "diffusion/%zu/%.16s", noise->train_steps, digest);
}
