/* Deciding the gates that a schedule leaves open as one step of a longer run: the search of pipeline/place.h
 * within the cost of even spacing. What it decided is kept beside the run's other files until the run is
 * complete, so that one that was interrupted later does not search again.
 */
#ifndef OUSAC_GATES_H
#define OUSAC_GATES_H

#include "pipeline/budget.h"
#include "pipeline/session.h"

#include <stddef.h>

typedef struct ousac_gates_request {
    const ousac_schedule *even; /* the schedule with a refresh at every period-th step */
    size_t evaluations;         /* end-to-end runs, at most; 0: OUSAC_PLACE_EVALUATIONS */
    ousac_budget budget;        /* of the even schedule */
    const char *kept;           /* the file in which the decision is kept; the caller removes it */
    int restart;                /* 1: what is kept there is not looked at */
} ousac_gates_request;

typedef struct ousac_gates_decision {
    ousac_schedule schedule;     /* owned */
    ousac_budget budget;         /* of the trajectory: what the even schedule would have cost */
    ousac_sample_range searched; /* the samples that the search used */
    int resumed;                 /* 1: decided by an earlier run */
} ousac_gates_decision;

/* A decision that is kept for other samples, another model or other options is not taken up, nor one that
 * cannot be read. Free with ousac_gates_free. */
ousac_status ousac_gates_decide(const ousac_session *session, const ousac_gates_request *request,
                                ousac_gates_decision *decision, ousac_error *error);
void ousac_gates_free(ousac_gates_decision *decision);

#endif
