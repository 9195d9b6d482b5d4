/* The guidance of a schedule as arguments of stable-diffusion.cpp's program, which caches by its own means: the steps and the
 * scales alone.
 *
 *     --steps 4 --extra-sample-args guidance_schedule=1x1+2.5x1+3x3
 *
 * Its option takes VALUExCOUNT+... from the last step to the first. Its samplers of one evaluation a step number steps from 1
 * and count that number back from the value before the last (commit 97d2990 of 19 August 2026): so one value more stands at
 * the end, which none reads and which is that of the first step.
 */
#ifndef OUSAC_EXPORT_SDCPP_H
#define OUSAC_EXPORT_SDCPP_H

#include "formats/status.h"

#include <stddef.h>

typedef struct ousac_export_sdcpp_result {
    size_t steps;
    size_t skipped; /* steps without an unconditional pass: scale 1 there, and the pass is run all the same */
    int fitted;     /* 1: the solver's steps are fitted, which those arguments cannot say */
} ousac_export_sdcpp_result;

/* One line into the file `output`. `input`: a schedule (.json), or a bundle, whose schedule it is. Errors: those of reading
 * either; IO; UNSUPPORTED, naming the step, for one that evaluates the unconditional branch alone. */
ousac_status ousac_export_sdcpp(const char *input, const char *output, ousac_export_sdcpp_result *result,
                                ousac_error *error);

#endif
