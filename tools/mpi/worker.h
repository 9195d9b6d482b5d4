/* A rank that does not run the command: does one job after another until rank 0 ends them.
 */
#ifndef OUSAC_MPI_WORKER_H
#define OUSAC_MPI_WORKER_H

/* Returns an exit code. */
int worker_serve(void);

#endif
