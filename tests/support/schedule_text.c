#include "tests/support/schedule_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

ousac_status schedule_parse(ousac_schedule *schedule, const char *text, ousac_error *error) {
    size_t size = strlen(text);
    char *copy = malloc(size ? size : 1);
    ousac_status status;
    assert_non_null(copy);
    memcpy(copy, text, size);
    status = ousac_schedule_parse(schedule, copy, size, "s.json", error);
    free(copy);
    return status;
}
