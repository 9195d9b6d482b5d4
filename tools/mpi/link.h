/* The only place that calls MPI: this process among the ranks of its job, and messages between them.
 *
 * Rank 0 leads: it announces one job after another to all others, who answer each. Waiting sleeps rather than
 * spins. Whoever fails or is interrupted has the others stop (cli_stop), so that a job ends soon and every
 * rank keeps what it has. Errors of MPI itself, among them the death of a rank, end the whole MPI job.
 *
 * MPI is one per process, and so is the state here. Sending and receiving is for the main thread; link_poll
 * for any.
 */
#ifndef OUSAC_MPI_LINK_H
#define OUSAC_MPI_LINK_H

#include "formats/status.h"
#include "tools/mpi/wire.h"

#include <stddef.h>

/* UNSUPPORTED where the MPI library cannot be called from several threads in turn. */
ousac_status link_start(int *argc, char ***argv, ousac_error *error);
void link_end(void);
size_t link_rank(void);
size_t link_ranks(void);

/* Says why on standard error and ends the whole MPI job: for what would leave other ranks waiting for ever.
 */
void link_abort(const char *why);

/* A message to one rank, and the next one from it. Where there is no memory for it, the job is aborted. */
void link_send(size_t rank, const wire *message);
void link_receive(size_t rank, wire *message);
/* Arrays of a size known to both. */
void link_send_array(size_t rank, const double *values, size_t count);
void link_receive_array(size_t rank, double *values, size_t count);

/* The leader's: gives the job to all other ranks, along a binomial tree. The others': the next job. */
void link_announce(const wire *job);
void link_next_job(wire *job);

/* During a job: takes note of a stop, and passes one on. */
void link_poll(void);
/* This rank failed: the others of this job are to stop. */
void link_stop_others(void);

#endif
