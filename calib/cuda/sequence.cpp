#include "calib/cuda/sequence.h"

#include "formats/memory.h"

#include <cstdlib>

namespace ousac_cuda {
namespace {

enum {
    GRAPHS_MAX = 128, /* of one thread: gates, branches and swapped slots, and a forecast's steps */
    SEEN_MAX = 512,   /* lists that ran once, by their hashes */
    UNUSED_MAX = 512, /* sequences after which a graph that none of them was makes room */
    FAILURES_MAX = 4, /* captures that fail, or launches in a row: this thread then captures no more */
    STAGING_BYTES = 64 << 10,
    STAGING_ALIGNMENT = 256,
    CALLS_BYTES = 64 << 10, /* room to begin with */
    CALL_BYTES_MAX = 256,   /* of one that leaves results */
    RESULTS_MAX = 2048      /* of a forward of 57 blocks, 1368 */
};

/* A list of calls, as bytes. */
struct Calls {
    unsigned char *bytes;
    size_t used, room;
};

/* Sums that wait for the end. */
struct Delivery {
    double *out;
    size_t offset, count;
};

struct Graph {
    cudaGraphExec_t exec; /* NULL: free */
    Calls calls;
    uint64_t hash;
    uint64_t used_at;          /* clock */
    uint64_t released;         /* at that time, of State: blocks may be gone that it works on */
    uint64_t weights_released; /* when it was made: the rounded form of a W may have moved since */
};

} // namespace

struct Sequence {
    bool begun, recording;
    ousac_status failed; /* what was written down and had to run before the end */
    ousac_error failure;
    Calls calls;
    Graph graphs[GRAPHS_MAX];
    uint64_t seen[SEEN_MAX];
    size_t seen_next;
    uint64_t clock;                        /* sequences so far */
    int failures, refused;                 /* captures; launches without a good one between them */
    unsigned char *staging, *staged_there; /* page-locked; device memory */
    size_t staged;
    bool staging_busy;         /* by what was launched */
    double *results, *fetched; /* (RESULTS_MAX): of the device, page-locked */
    size_t result_count, delivery_count;
    Delivery deliveries[RESULTS_MAX];
};

namespace {

uint64_t hash_of(const Calls *calls) {
    uint64_t hash = 0x9e3779b97f4a7c15U ^ calls->used;
    for (size_t i = 0; i < calls->used; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        const size_t left = calls->used - i;
        std::memcpy(&word, calls->bytes + i, left < sizeof word ? left : sizeof word);
        hash = (hash ^ word) * 0xff51afd7ed558ccdU;
        hash ^= hash >> 32;
    }
    return hash;
}

bool same(const Calls *a, const Calls *b) {
    return a->used == b->used && std::memcmp(a->bytes, b->bytes, a->used) == 0;
}

Runner runner_at(const unsigned char *at) {
    Runner runner;
    std::memcpy(&runner, at, sizeof runner);
    return runner;
}

/* Where the call behind this one begins. */
const unsigned char *behind(const unsigned char *at) {
    ousac_status status = OUSAC_STATUS_OK;
    return runner_at(at)(at + sizeof(Runner), nullptr, &status, nullptr);
}

/* Every call sees the next ones: it may leave what it writes rounded for a linear, or do their work with its own. */
ousac_status run_calls(const ousac_backend *backend, Context *c, const Calls *calls, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const unsigned char *at = calls->bytes, *end = at + calls->used;
    c->ahead_of = nullptr;
    while (at < end && !status) {
        const unsigned char *next = behind(at);
        c->next_call = next < end ? next : nullptr;
        c->calls_end = end;
        c->calls_done = 0;
        c->linear_next = next < end && runner_at(next) == Recorded<linear>::run;
        (void)runner_at(at)(at + sizeof(Runner), backend, &status, error);
        for (at = next; c->calls_done > 0; c->calls_done--)
            at = behind(at);
        if (!c->linear_next)
            c->ahead_of = nullptr;
    }
    c->next_call = nullptr;
    c->linear_next = false;
    c->ahead_of = nullptr;
    return status;
}

void drop(Graph *graph) {
    if (graph->exec != nullptr)
        (void)cudaGraphExecDestroy(graph->exec);
    ousac_free(graph->calls.bytes);
    std::memset(graph, 0, sizeof *graph);
}

Graph *find(Sequence *s, uint64_t hash, uint64_t weights_released) {
    for (Graph &graph : s->graphs)
        if (graph.exec != nullptr && graph.hash == hash && graph.weights_released == weights_released &&
            same(&graph.calls, &s->calls))
            return &graph;
    return nullptr;
}

bool met(Sequence *s, uint64_t hash) {
    for (const uint64_t other : s->seen)
        if (other == hash)
            return true;
    s->seen[s->seen_next] = hash;
    s->seen_next = (s->seen_next + 1) % SEEN_MAX;
    return false;
}

/* A free place, or that of the graph unused for longest where it seems to be of no more use; NULL for none.
 */
Graph *choose_place(Sequence *s, uint64_t released) {
    Graph *oldest = &s->graphs[0];
    for (Graph &graph : s->graphs) {
        if (graph.exec == nullptr)
            return &graph;
        if (graph.used_at < oldest->used_at)
            oldest = &graph;
    }
    return oldest->released != released || s->clock - oldest->used_at > UNUSED_MAX ? oldest : nullptr;
}

/* The calls as a graph; nothing runs. NULL where that fails: all is then as before. */
cudaGraph_t capture(const ousac_backend *backend, Context *c) {
    cudaGraph_t graph = nullptr;
    /* Other threads may allocate and wait meanwhile. */
    if (cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        (void)cudaGetLastError();
        return nullptr;
    }
    c->capturing = true;
    const ousac_status status = run_calls(backend, c, &c->sequence->calls, nullptr);
    c->capturing = false;
    const cudaError_t ended = cudaStreamEndCapture(c->stream, &graph);
    if (status == OUSAC_STATUS_OK && ended == cudaSuccess && graph != nullptr)
        return graph;
    (void)cudaGetLastError();
    if (graph != nullptr)
        (void)cudaGraphDestroy(graph);
    return nullptr;
}

/* The list, captured, in a place of the cache; NULL where that fails. */
Graph *keep(const ousac_backend *backend, Context *c, Graph *place, uint64_t hash,
            uint64_t weights_released) {
    Sequence *s = c->sequence;
    cudaGraph_t graph = capture(backend, c);
    if (graph == nullptr)
        return nullptr;
    cudaGraphExecUpdateResultInfo info;
    if (place->exec != nullptr && cudaGraphExecUpdate(place->exec, graph, &info) != cudaSuccess) {
        (void)cudaGetLastError(); /* of another shape */
        (void)cudaGraphExecDestroy(place->exec);
        place->exec = nullptr;
    }
    if (place->exec == nullptr && cudaGraphInstantiate(&place->exec, graph, 0) != cudaSuccess) {
        (void)cudaGetLastError();
        place->exec = nullptr;
    }
    (void)cudaGraphDestroy(graph);
    if (place->exec == nullptr) {
        drop(place);
        return nullptr;
    }
    /* The list goes with the graph, and its old room serves the next one. */
    const Calls room = place->calls;
    place->calls = s->calls;
    s->calls = room;
    s->calls.used = 0;
    place->hash = hash;
    place->weights_released = weights_released;
    return place;
}

ousac_status fetch_results(const ousac_backend *backend, size_t count, ousac_error *error) {
    Context *c = nullptr;
    const ousac_status status = enter(backend, "sum_squares", &c, error);
    return status ? status
                  : check(cudaMemcpyAsync(c->sequence->fetched, c->sequence->results, count * sizeof(double),
                                          cudaMemcpyDeviceToHost, c->stream),
                          "sum_squares", error);
}

/* Waits for the results and hands them out. */
ousac_status deliver(Context *c, ousac_error *error) {
    Sequence *s = c->sequence;
    if (s->delivery_count == 0)
        return OUSAC_STATUS_OK;
    const ousac_status status = check(cudaStreamSynchronize(c->stream), "sum_squares", error);
    for (size_t i = 0; i < s->delivery_count && !status; i++)
        for (size_t j = 0; j < s->deliveries[i].count; j++)
            s->deliveries[i].out[j] += s->fetched[s->deliveries[i].offset + j];
    s->delivery_count = s->result_count = 0;
    return status;
}

ousac_status play(const ousac_backend *backend, Context *c, ousac_error *error) {
    Sequence *s = c->sequence;
    State *state = c->state;
    if (s->calls.used == 0)
        return OUSAC_STATUS_OK;
    s->staging_busy = s->staged > 0;
    const uint64_t hash = hash_of(&s->calls);
    (void)pthread_mutex_lock(&state->mutex);
    const uint64_t released = state->released, weights_released = state->weights_released;
    (void)pthread_mutex_unlock(&state->mutex);
    Graph *graph = find(s, hash, weights_released), *place = nullptr;
    s->clock++;
    if (graph == nullptr && s->failures < FAILURES_MAX && met(s, hash) &&
        (place = choose_place(s, released)) != nullptr &&
        (graph = keep(backend, c, place, hash, weights_released)) == nullptr)
        s->failures++;
    if (graph == nullptr)
        return run_calls(backend, c, &s->calls, error);
    graph->used_at = s->clock;
    graph->released = released;
    const cudaError_t launched = cudaGraphLaunch(graph->exec, c->stream);
    if (launched != cudaErrorInvalidValue) {
        s->refused = 0;
        return check(launched, "sequence_end", error);
    }
    /* No cause of it is known to be left; the calls are as good. */
    (void)cudaGetLastError();
    if (++s->refused == FAILURES_MAX)
        s->failures = FAILURES_MAX;
    const Calls calls = graph->calls; /* growing scratch drops graphs */
    graph->calls = {};
    drop(graph);
    const ousac_status status = run_calls(backend, c, &calls, error);
    ousac_free(calls.bytes);
    return status;
}

/* What an upload within a sequence becomes: its contents lie in the staging memory. They take the way over device
 * memory of the sequence's own, since a graph is held to the very allocations that its transfers were captured
 * with: one is refused once its target was released, even where another block has the same address since. Of what
 * a kernel is given it knows no more than the address. */
ousac_status staged_upload(const ousac_backend *backend, void *target, size_t offset, size_t bytes,
                           ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = enter(backend, "upload", &c, error);
    if (status)
        return status;
    const Sequence *s = c->sequence;
    unsigned char *there = s->staged_there + offset;
    if ((status = check(cudaMemcpyAsync(there, s->staging + offset, bytes, cudaMemcpyHostToDevice, c->stream),
                        "upload", error)))
        return status;
    const size_t words = bytes / sizeof(float);
    return copy(backend, 1, words, reinterpret_cast<const float *>(there), words,
                static_cast<float *>(target), words, error);
}

} // namespace

Sequence *recording(const ousac_backend *backend) {
    const Context *c = present(backend);
    return c != nullptr && c->sequence != nullptr && c->sequence->recording ? c->sequence : nullptr;
}

const unsigned char *call_ahead(const Context *c, unsigned skip) {
    const unsigned char *at = c->next_call;
    for (; at != nullptr && skip > 0; skip--) {
        at = behind(at);
        at = at < c->calls_end ? at : nullptr;
    }
    return at;
}

static bool make_room(Calls *calls, size_t needed) {
    if (needed <= calls->room)
        return true;
    size_t room = calls->room > 0 ? calls->room : static_cast<size_t>(CALLS_BYTES);
    while (room < needed)
        room *= 2;
    unsigned char *grown = static_cast<unsigned char *>(ousac_malloc(room, 1));
    if (grown == nullptr)
        return false;
    if (calls->used > 0)
        std::memcpy(grown, calls->bytes, calls->used);
    ousac_free(calls->bytes);
    calls->bytes = grown;
    calls->room = room;
    return true;
}

unsigned char *append(Sequence *s, Runner runner, size_t bytes) {
    Calls *calls = &s->calls;
    const size_t needed = calls->used + sizeof runner + bytes;
    if (!make_room(calls, needed))
        return nullptr;
    unsigned char *at = calls->bytes + calls->used;
    std::memcpy(at, &runner, sizeof runner);
    calls->used = needed;
    return at + sizeof runner;
}

ousac_status flush(const ousac_backend *backend, ousac_error *error) {
    Sequence *s = recording(backend);
    if (s == nullptr)
        return OUSAC_STATUS_OK;
    Context *c = present(backend);
    s->recording = false;
    s->staging_busy = s->staged > 0;
    s->failed = run_calls(backend, c, &s->calls, &s->failure);
    if (!s->failed && s->result_count > 0)
        s->failed = fetch_results(backend, s->result_count, &s->failure);
    if (!s->failed)
        s->failed = deliver(c, &s->failure);
    s->calls.used = 0;
    if (s->failed && error != nullptr)
        *error = s->failure;
    return s->failed;
}

ousac_status sequence_begin(const ousac_backend *backend, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = enter(backend, "sequence_begin", &c, error);
    if (status)
        return status;
    if (c->sequence == nullptr) {
        c->sequence = static_cast<Sequence *>(ousac_calloc(1, sizeof *c->sequence));
        if (c->sequence == nullptr)
            return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "cuda: sequence_begin: no memory for a sequence");
    }
    if (c->sequence->begun)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "sequence_begin: expected the end of the one begun");
    c->sequence->begun = c->sequence->recording = true;
    c->sequence->failed = OUSAC_STATUS_OK;
    c->sequence->calls.used = 0;
    c->sequence->staged = 0;
    c->sequence->delivery_count = c->sequence->result_count = 0;
    return OUSAC_STATUS_OK;
}

ousac_status sequence_end(const ousac_backend *backend, int run, ousac_error *error) {
    Context *c = nullptr;
    ousac_status status = enter(backend, "sequence_end", &c, error);
    if (status)
        return status;
    Sequence *s = c->sequence;
    if (s == nullptr || !s->begun)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "sequence_end: expected a sequence that was begun");
    bool whole = s->recording;
    if (whole && run && s->result_count > 0) {
        status = Recorded<fetch_results>::call(backend, s->result_count, error);
        whole = s->recording; /* short of memory, it ran already */
    }
    s->begun = s->recording = false;
    if (run && s->failed) {
        status = s->failed;
        if (error != nullptr)
            *error = s->failure;
    } else if (run && whole && !status) {
        status = play(backend, c, error);
        if (!status)
            status = deliver(c, error);
    }
    s->calls.used = 0;
    return status;
}

ousac_status sequence_upload(const ousac_backend *backend, void *target, const void *source, size_t bytes,
                             int *done, ousac_error *error) {
    Sequence *s = recording(backend);
    Context *c = nullptr;
    ousac_status status;
    *done = 0;
    if (s == nullptr)
        return OUSAC_STATUS_OK;
    if (bytes > STAGING_BYTES - s->staged || bytes % sizeof(float) != 0 ||
        reinterpret_cast<uintptr_t>(target) % sizeof(float) != 0)
        return flush(backend, error);
    if ((status = enter(backend, "upload", &c, error)))
        return status;
    if (s->staging == nullptr) {
        void *block = nullptr;
        if ((status = check(cudaMallocHost(&block, STAGING_BYTES), "upload", error)))
            return status;
        s->staging = static_cast<unsigned char *>(block);
    }
    if (s->staged_there == nullptr) {
        void *block = nullptr;
        if ((status = check(cudaMalloc(&block, STAGING_BYTES), "upload", error)))
            return status;
        s->staged_there = static_cast<unsigned char *>(block);
    }
    if (s->staging_busy) {
        if ((status = check(cudaStreamSynchronize(c->stream), "upload", error)))
            return status;
        s->staging_busy = false;
    }
    const size_t offset = s->staged;
    std::memcpy(s->staging + offset, source, bytes);
    s->staged += (bytes + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
    if (s->staged > STAGING_BYTES)
        s->staged = STAGING_BYTES;
    *done = 1;
    return Recorded<staged_upload>::call(backend, target, offset, bytes, error);
}

Sequence *reserve_results(const ousac_backend *backend, size_t count, double *const *out, size_t places,
                          size_t *offset) {
    Sequence *s = recording(backend);
    void *block = nullptr;
    /* The call itself must find room: its results are waited for from now on. */
    if (s == nullptr || count > (RESULTS_MAX - s->result_count) / places ||
        places > RESULTS_MAX - s->delivery_count || !make_room(&s->calls, s->calls.used + CALL_BYTES_MAX))
        return nullptr;
    if (s->results == nullptr && cudaMalloc(&block, RESULTS_MAX * sizeof(double)) == cudaSuccess)
        s->results = static_cast<double *>(block);
    if (s->results != nullptr && s->fetched == nullptr &&
        cudaMallocHost(&block, RESULTS_MAX * sizeof(double)) == cudaSuccess)
        s->fetched = static_cast<double *>(block);
    if (s->fetched == nullptr) {
        (void)cudaGetLastError();
        return nullptr;
    }
    *offset = s->result_count;
    for (size_t i = 0; i < places; i++) {
        s->deliveries[s->delivery_count++] = {out[i], s->result_count, count};
        s->result_count += count;
    }
    return s;
}

double *sequence_results(const Context *c, size_t offset) {
    return c->sequence->results + offset;
}

void forget_graphs(Sequence *s) {
    for (size_t i = 0; s != nullptr && i < GRAPHS_MAX; i++)
        drop(&s->graphs[i]);
}

void sequence_abandon(Sequence *s) {
    if (s != nullptr)
        s->begun = s->recording = false;
}

void sequence_free(Sequence *s) {
    if (s == nullptr)
        return;
    forget_graphs(s);
    ousac_free(s->calls.bytes);
    if (s->staging != nullptr)
        (void)cudaFreeHost(s->staging);
    (void)cudaFree(s->staged_there);
    (void)cudaFree(s->results);
    if (s->fetched != nullptr)
        (void)cudaFreeHost(s->fetched);
    ousac_free(s);
}

} // namespace ousac_cuda
