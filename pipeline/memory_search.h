/* What a search (pipeline/search.h) takes of memory, and the fit of what ships behind it (pipeline/memory_plan.h).
 */
#ifndef OUSAC_MEMORY_SEARCH_H
#define OUSAC_MEMORY_SEARCH_H

#include "pipeline/memory_stages.h"
#include "pipeline/search_outline.h"

typedef struct ousac_memory_searching {
    const ousac_session *session; /* its model may be one of shapes */
    const ousac_schedule *reference;
    const ousac_search_outline *outline;
} ousac_memory_searching;

/* Lists the search. The reference's states are held in every phase that follows it. */
void ousac_memory_list_searching(ousac_memory_plan *plan, const ousac_memory_searching *s);

/* The last fit, with what allocating holds. */
void ousac_memory_list_shipping(ousac_memory_plan *plan, const ousac_memory_searching *s,
                                const ousac_memory_allocating *held);

#endif
