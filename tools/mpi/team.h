/* The other ranks of this job as the workers of a session (pipeline/workers.h).
 */
#ifndef OUSAC_MPI_TEAM_H
#define OUSAC_MPI_TEAM_H

#include "pipeline/workers.h"

/* NULL where this process is alone, or is not rank 0. */
const ousac_workers *team_workers(void);

#endif
