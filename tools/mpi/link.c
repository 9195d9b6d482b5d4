#include "tools/mpi/link.h"

#include "pipeline/machine.h"
#include "profile/record/run_text.h"
#include "tools/cli/cli.h"

#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TAG_MESSAGE = 1, TAG_STOP = 2, PIECE_BYTES = 1 << 30 };

static const double POLL_S = 0.05;

static struct {
    int rank, ranks;
    uint64_t job;         /* number of the present one: a stop of an earlier one comes too late */
    int told;             /* 1: the others know that this job stops */
    double polled;        /* last time */
    pthread_mutex_t lock; /* over MPI, which is called by one thread at a time */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

ousac_status link_start(int *argc, char ***argv, ousac_error *error) {
    int provided = 0;
    (void)MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided);
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &state.rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &state.ranks);
    return provided < MPI_THREAD_SERIALIZED
               ? OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "this MPI library cannot be used with threads")
               : OUSAC_STATUS_OK;
}

void link_end(void) {
    (void)MPI_Finalize();
}

size_t link_rank(void) {
    return (size_t)state.rank;
}

size_t link_ranks(void) {
    return (size_t)state.ranks;
}

/* --- stopping --- */

static void send_stop(int rank) {
    (void)MPI_Send(&state.job, 1, MPI_UINT64_T, rank, TAG_STOP, MPI_COMM_WORLD);
}

static void tell_others(void) {
    state.told = 1;
    if (state.rank != 0)
        send_stop(0); /* who tells the rest */
    for (int rank = 1; state.rank == 0 && rank < state.ranks; rank++)
        send_stop(rank);
}

/* Under the lock. */
static void look(void) {
    for (;;) {
        int there = 0;
        uint64_t job = 0;
        MPI_Status status;
        (void)MPI_Iprobe(MPI_ANY_SOURCE, TAG_STOP, MPI_COMM_WORLD, &there, &status);
        if (!there)
            break;
        (void)MPI_Recv(&job, 1, MPI_UINT64_T, status.MPI_SOURCE, TAG_STOP, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (job == state.job)
            ousac_stop_ask(&cli_stop);
    }
    if (ousac_stop_asked(&cli_stop) && !state.told && state.job)
        tell_others();
}

void link_poll(void) {
    if (pthread_mutex_trylock(&state.lock))
        return; /* another thread is at it */
    const double now = ousac_clock_s();
    if (now - state.polled >= POLL_S) {
        state.polled = now;
        look();
    }
    (void)pthread_mutex_unlock(&state.lock);
}

void link_stop_others(void) {
    (void)pthread_mutex_lock(&state.lock);
    if (!state.told)
        tell_others();
    (void)pthread_mutex_unlock(&state.lock);
}

/* --- messages --- */

/* Spins for a moment, in which most messages come, and then sleeps. */
static void finish(MPI_Request *request) {
    const struct timespec nap = {0, 50000};
    for (unsigned turn = 0;; turn++) {
        int done = 0;
        (void)pthread_mutex_lock(&state.lock);
        (void)MPI_Test(request, &done, MPI_STATUS_IGNORE);
        (void)pthread_mutex_unlock(&state.lock);
        if (done)
            return;
        if (turn < 100)
            continue;
        link_poll();
        (void)nanosleep(&nap, NULL);
    }
}

static void send_bytes(size_t rank, const void *data, size_t size) {
    const unsigned char *at = data;
    for (size_t sent = 0; sent < size;) {
        const size_t piece = size - sent < PIECE_BYTES ? size - sent : PIECE_BYTES;
        MPI_Request request;
        (void)pthread_mutex_lock(&state.lock);
        (void)MPI_Isend(at + sent, (int)piece, MPI_BYTE, (int)rank, TAG_MESSAGE, MPI_COMM_WORLD, &request);
        (void)pthread_mutex_unlock(&state.lock);
        finish(&request);
        sent += piece;
    }
}

static void receive_bytes(size_t rank, void *data, size_t size) {
    unsigned char *at = data;
    for (size_t got = 0; got < size;) {
        const size_t piece = size - got < PIECE_BYTES ? size - got : PIECE_BYTES;
        MPI_Request request;
        (void)pthread_mutex_lock(&state.lock);
        (void)MPI_Irecv(at + got, (int)piece, MPI_BYTE, (int)rank, TAG_MESSAGE, MPI_COMM_WORLD, &request);
        (void)pthread_mutex_unlock(&state.lock);
        finish(&request);
        got += piece;
    }
}

void link_abort(const char *why) {
    (void)fprintf(stderr, "ousac-mpi: rank %d: %s\n", state.rank, why);
    (void)MPI_Abort(MPI_COMM_WORLD, EXIT_FAILED);
}

void link_send(size_t rank, const wire *message) {
    const uint64_t size = message->size;
    if (message->failed)
        link_abort("no memory for a message to another rank");
    send_bytes(rank, &size, sizeof size);
    send_bytes(rank, message->data, message->size);
}

void link_receive(size_t rank, wire *message) {
    uint64_t size = 0;
    receive_bytes(rank, &size, sizeof size);
    if (size > SIZE_MAX || !wire_room(message, (size_t)size))
        link_abort("no memory for a message of another rank");
    receive_bytes(rank, message->data, message->size);
}

void link_send_array(size_t rank, const double *values, size_t count) {
    send_bytes(rank, values, count * sizeof *values);
}

void link_receive_array(size_t rank, double *values, size_t count) {
    receive_bytes(rank, values, count * sizeof *values);
}

/* --- jobs --- */

/* The tree's edges: rank r hears from r without its lowest bit, and tells r + 2^k for every lower bit. */
static void pass_on(const wire *job) {
    const size_t rank = link_rank(), ranks = link_ranks();
    size_t bit = 1;
    while (bit < ranks && !(rank & bit))
        bit *= 2;
    for (bit /= 2; bit > 0; bit /= 2)
        if (rank + bit < ranks)
            link_send(rank + bit, job);
}

static void begin_job(void) {
    (void)pthread_mutex_lock(&state.lock);
    state.job++;
    state.told = 0;
    (void)pthread_mutex_unlock(&state.lock);
}

void link_announce(const wire *job) {
    begin_job();
    pass_on(job);
}

void link_next_job(wire *job) {
    const size_t rank = link_rank();
    link_receive(rank & (rank - 1), job);
    begin_job();
    pass_on(job);
}
