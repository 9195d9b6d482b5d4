#include "profile/model/noise.h"

#include "formats/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { STEPS_MAX = 1000000 };

ousac_status ousac_noise_parse(const char *text, const char *where, double **alpha_bar, size_t *steps,
                               ousac_error *error) {
    char kind[32];
    double first, last;
    unsigned long count;
    char rest;
    if (sscanf(text, "%31s %lf %lf %lu %c", kind, &first, &last, &count, &rest) != 4 ||
        (strcmp(kind, "linear") != 0 && strcmp(kind, "scaled_linear") != 0))
        return OUSAC_FAIL(
            error, OUSAC_STATUS_FORMAT,
            "%s: betas \"%s\": expected \"linear FIRST LAST STEPS\" or \"scaled_linear FIRST LAST STEPS\"",
            where, text);
    if (!(first > 0 && last > 0 && first < 1 && last < 1) || count < 1 || count > STEPS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT,
                          "%s: betas \"%s\": expected betas within (0, 1) and 1 to %d steps", where, text,
                          STEPS_MAX);
    double *products = ousac_malloc(count, sizeof *products);
    if (!products)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %lu noise levels", where, count);
    int scaled = strcmp(kind, "scaled_linear") == 0;
    double from = scaled ? sqrt(first) : first, to = scaled ? sqrt(last) : last, product = 1;
    for (unsigned long t = 0; t < count; t++) {
        double beta = count > 1 ? from + (to - from) * (double)t / (double)(count - 1) : from;
        product *= 1 - (scaled ? beta * beta : beta);
        products[t] = product;
    }
    *alpha_bar = products;
    *steps = count;
    return OUSAC_STATUS_OK;
}
