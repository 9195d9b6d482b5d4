/* Sequences of the CUDA plug-in: the calls that a thread makes between begin and end are written down, and at
 * the end run as one CUDA graph where this very list of calls has been met before.
 *
 * Two lists are the same where they have the same operations with the same arguments, byte for byte:
 * pointers, shapes and scalars, such as a forecast's coefficients, which a graph holds as they were captured.
 * So nothing needs to know what a list depends on (gate, branch, which of two swapping slots, step), and a
 * graph is never launched for other arguments than its own. Uploads are the one exception: their contents are
 * taken to page-locked memory, which the graph reads when it runs.
 *
 * A list met for the first time runs call by call: it may be the only one of its kind, and what is made on
 * first use, scratch and kernels that are loaded late, is made outside a capture. The second time it is
 * captured, from then on only compared, which takes some microseconds, and launched. Capturing anew each time
 * and updating one graph would be as correct, but a capture calls the driver as often as the calls themselves
 * do, and it is these calls that a graph is to spare. The update serves where room is made: a graph that is
 * no longer used takes on the new list. Where all are in use, as with a forecast over many steps, whose lists
 * differ by their coefficients, those that find no room run call by call.
 *
 * A call that runs sees those behind it: it may leave its output rounded for a linear (round_ahead in context.h), or do
 * the next calls' work with its own (follows below), so that a list takes fewer kernels than its calls alone.
 *
 * A graph that is refused when it is launched is dropped, and its calls run one by one.
 *
 * Sums of squares, of which a recorded forward takes hundreds, leave their results in device memory; all are
 * fetched together when the list has run, and added where the calls said, in the order of the calls.
 *
 * Whatever cannot be captured (other results in host memory, allocations) first runs what was written down,
 * call by call; so does every list whose capture fails. The results are those of the calls without a
 * sequence.
 */
#ifndef OUSAC_CUDA_SEQUENCE_H
#define OUSAC_CUDA_SEQUENCE_H

#include "calib/backend/backend.h"
#include "calib/cuda/context.h"

#include <cstring>
#include <tuple>
#include <type_traits>

namespace ousac_cuda {

/* Runs the call whose arguments begin at `at`, or not where backend is NULL; the next one's place. */
typedef const unsigned char *(*Runner)(const unsigned char *at, const ousac_backend *backend,
                                       ousac_status *status, ousac_error *error);

/* The calling thread's sequence where it is being written down, else NULL. */
Sequence *recording(const ousac_backend *backend);
/* Room for a call; NULL where memory is short. */
unsigned char *append(Sequence *sequence, Runner runner, size_t bytes);
/* Where the call lies that comes `skip` calls after the next one, its runner first; NULL where there is none. */
const unsigned char *call_ahead(const Context *context, unsigned skip);
/* Runs what was written down; the rest of the sequence runs as it is called. A failure is reported at the end
 * too. */
ousac_status flush(const ousac_backend *backend, ousac_error *error);

/* --- the table's operations --- */

ousac_status sequence_begin(const ousac_backend *, ousac_error *error);
ousac_status sequence_end(const ousac_backend *, int run, ousac_error *error);
/* *done = 1 where the upload was written down. */
ousac_status sequence_upload(const ousac_backend *, void *target, const void *source, size_t bytes, int *done,
                             ousac_error *error);

/* Room for the sums of a call that is written down, `count` for each of `places`, out[0], out[1]..., to be
 * added there at the end; NULL where there is none left or nothing is written down. *offset: what
 * sequence_results takes. */
Sequence *reserve_results(const ousac_backend *backend, size_t count, double *const *out, size_t places,
                          size_t *offset);
/* Where they are left: device memory. */
double *sequence_results(const Context *context, size_t offset);

/* An operation that is written down within a sequence: Recorded<linear>::call. */
template <auto Operation> struct Recorded;
template <typename... Rest, ousac_status (*Operation)(const ousac_backend *, Rest...)>
struct Recorded<Operation> {
    static_assert((... && std::is_trivially_copyable<Rest>::value), "arguments are kept as bytes");
    enum { LAST = sizeof...(Rest) - 1 }; /* the error */

    static ousac_status call(const ousac_backend *backend, Rest... rest) {
        std::tuple<Rest...> all(rest...);
        ousac_error *error = std::get<LAST>(all);
        Sequence *sequence = recording(backend);
        if (sequence == nullptr)
            return Operation(backend, rest...);
        std::get<LAST>(all) = nullptr;
        unsigned char *at = append(sequence, run, (... + sizeof(Rest)));
        if (at == nullptr) {
            const ousac_status status = flush(backend, error);
            return status ? status : Operation(backend, rest...);
        }
        std::apply(
            [&at](const Rest &...each) { (..., (std::memcpy(at, &each, sizeof each), at += sizeof each)); },
            all);
        return OUSAC_STATUS_OK;
    }

    static const unsigned char *run(const unsigned char *at, const ousac_backend *backend,
                                    ousac_status *status, ousac_error *error) {
        std::tuple<Rest...> all;
        at = read(at, &all);
        if (backend == nullptr)
            return at;
        std::get<LAST>(all) = error;
        *status = std::apply([backend](Rest... each) { return Operation(backend, each...); }, all);
        return at;
    }

    /* Whether this is the call behind the one that runs and `skip` others, and with what arguments. Whoever does the work
     * of the next calls sets calls_done to how many these are. */
    static bool follows(const Context *c, std::tuple<Rest...> *all, unsigned skip = 0) {
        const unsigned char *at = call_ahead(c, skip);
        Runner runner;
        if (at == nullptr)
            return false;
        std::memcpy(&runner, at, sizeof runner);
        if (runner != run)
            return false;
        (void)read(at + sizeof runner, all);
        return true;
    }

  private:
    static const unsigned char *read(const unsigned char *at, std::tuple<Rest...> *all) {
        std::apply([&at](Rest &...each) { (..., (std::memcpy(&each, at, sizeof each), at += sizeof each)); },
                   *all);
        return at;
    }
};

/* An operation that cannot be written down: Direct<sum_squares>::call. */
template <auto Operation> struct Direct;
template <typename... Rest, ousac_status (*Operation)(const ousac_backend *, Rest...)>
struct Direct<Operation> {
    static ousac_status call(const ousac_backend *backend, Rest... rest) {
        if (recording(backend) != nullptr) {
            const ousac_status status =
                flush(backend, std::get<sizeof...(Rest) - 1>(std::tuple<Rest...>(rest...)));
            if (status)
                return status;
        }
        return Operation(backend, rest...);
    }
};

} // namespace ousac_cuda
#endif
