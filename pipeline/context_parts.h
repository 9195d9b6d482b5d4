/* What the files of the public interface (include/ousac/ousac.h) share: the context, and options that a caller fills. */
#ifndef OUSAC_CONTEXT_PARTS_H
#define OUSAC_CONTEXT_PARTS_H

#include <ousac/ousac.h>

#include "formats/stop.h"
#include "pipeline/session.h"

#include <string.h>

struct ousac_context {
    ousac_model *model;
    void *bridge; /* to a caller's forward; NULL for a model that was loaded */
    ousac_stop stop;
    ousac_session_hooks hooks;
    ousac_session session;
    void *self;
    void (*progress)(void *self, const char *label, uint64_t done, uint64_t total);
    void (*note)(void *self, const char *line);
};

/* Defaults into a caller's structure of `size` bytes, which may be shorter than ours; what is longer is zero, and refused
 * when it is taken. */
#define INIT_OPTIONS(theirs, bytes, defaults)                                                                \
    do {                                                                                                     \
        memset((theirs), 0, (bytes));                                                                        \
        memcpy((theirs), &(defaults), (bytes) < sizeof(defaults) ? (bytes) : sizeof(defaults));              \
        if ((bytes) >= sizeof(size_t))                                                                       \
            (theirs)->size = (bytes);                                                                        \
    } while (0)

/* Copies a caller's structure, which may be shorter than ours: what it lacks keeps its default. */
#define TAKE_OPTIONS(type, mine, theirs, error)                                                              \
    do {                                                                                                     \
        type##_init(&(mine));                                                                                \
        if ((theirs) && ((theirs)->size < sizeof(size_t) || (theirs)->size > sizeof(mine)))                  \
            return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,                                                     \
                              #type ": `size` is %zu; expected at most %zu, as " #type "_init sets it",      \
                              (theirs)->size, sizeof(mine));                                                 \
        if (theirs)                                                                                          \
            memcpy(&(mine), (theirs), (theirs)->size);                                                       \
    } while (0)

/* The session of a context that has a model, and what ousac_context_open does beside loading it. */
ousac_status ousac_context_begin(ousac_context **context, const ousac_context_options *options,
                                 ousac_error *error);
void ousac_context_take_model(ousac_context *context, ousac_model *model);

#endif
