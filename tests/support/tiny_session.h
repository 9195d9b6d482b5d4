/* A session over a small random DiT in a scratch directory, and schedules for it: what tests of pipeline/ begin with.
 * Every function fails the running cmocka test where anything goes wrong.
 */
#ifndef OUSAC_TESTS_TINY_SESSION_H
#define OUSAC_TESTS_TINY_SESSION_H

#include "pipeline/session.h"
#include "tests/support/random_dit.h"
#include "tests/support/scratch.h"

#include <stddef.h>

typedef struct tiny_session {
    scratch directory;
    char model_path[SCRATCH_PATH_BYTES];
    ousac_model *model;
    ousac_session session; /* seed 3, micro-batches of 2, two threads */
} tiny_session;

/* `options` NULL: random_dit_defaults. */
void tiny_session_open(tiny_session *tiny, const random_dit_options *options);
void tiny_session_close(tiny_session *tiny);

/* `count` DDIM steps from 999 down, guided by `scale` at every `guided`-th, the others conditional; full at every
 * `period`-th evaluation, else cached. Free with ousac_schedule_free. */
void tiny_schedule(ousac_schedule *schedule, size_t count, double scale, size_t guided, size_t period);

#endif
