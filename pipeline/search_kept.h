/* What a search keeps of its candidates, so that an interrupted one goes on; for pipeline/search.c alone.
 */
#ifndef OUSAC_SEARCH_KEPT_H
#define OUSAC_SEARCH_KEPT_H

#include "pipeline/search.h"

/* Writes the candidates so far into options->kept. */
ousac_status ousac_search_keep(const ousac_search_options *options, const ousac_session *session,
                               const ousac_search_result *result, ousac_error *error);

/* Adds the candidates that are kept there, where they are of this very search; a file that is of another one or
 * cannot be read adds none. */
void ousac_search_take_up(const ousac_search_options *options, const ousac_session *session,
                          ousac_search_result *result);

#endif
