/* Texts of schedules for the tests of their reader. */
#ifndef OUSAC_TEST_SCHEDULE_TEXT_H
#define OUSAC_TEST_SCHEDULE_TEXT_H

#include "formats/schedule.h"

/* Reads a text as s.json, without a NUL behind it, so that reading on is caught. */
ousac_status schedule_parse(ousac_schedule *schedule, const char *text, ousac_error *error);

/* Files of version 1, 2 and 3, the latter two of one step from its mode on, and a step. */
#define HEAD "{\"format\":\"ousac-schedule\",\"version\":1,\"name\":\"n\",\"solver\":\"ddim\","
#define FILE_OF(count, steps) HEAD "\"step_count\":" count ",\"steps\":[" steps "]}"
#define FITTED_OF(step)                                                                                      \
    "{\"format\":\"ousac-schedule\",\"version\":2,\"name\":\"n\",\"solver\":\"ddim\",\"step_count\":1,"      \
    "\"steps\":[{\"timestep\":9,\"gate\":\"full\",\"mode\":" step "}]}"
#define TELLING_OF(step)                                                                                     \
    "{\"format\":\"ousac-schedule\",\"version\":3,\"name\":\"three "                                         \
    "steps\",\"solver\":\"ddim\",\"step_count\":1,"                                                          \
    "\"steps\":[{\"timestep\":9,\"gate\":\"full\",\"mode\":" step "}]}"
#define STEP9 "{\"timestep\":9,\"mode\":\"cond\",\"gate\":\"full\"}"
#define SECOND(step) FILE_OF("2", STEP9 "," step)

#endif
