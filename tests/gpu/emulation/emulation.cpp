/* Fibers for the threads of a block, and the parts of CUDA, cuBLAS and cuSOLVER that the plug-in calls. */
#include <cublasLt.h>
#include <cusolverDn.h>

#include <cblas.h>
#include <lapacke.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <utility>
#include <vector>

/* --- threads --- */

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace ousac_emulation {
namespace {

enum { WARP = 32, STACK_BYTES = 64 << 10, THREADS_MAX = 1024 };

/* A fiber lives as long as its thread of the host and runs one thread of a block after another. It is started
 * through its context and changes over by jumps. They are the compiler's own: no system call, and none of the
 * looks at the stack that a sanitizer takes at the library's, several per change. No frame is left by them for good,
 * so there is nothing to look at. */
struct Jump {
    void *word[5];
};

struct Fiber {
    ucontext_t context;
    Jump here;
    dim3 index;
    bool started, done;
};

/* A barrier: whoever comes last opens it. */
struct Barrier {
    unsigned arrived, generation;
};

/* The block that runs on this thread of the host. */
struct Block {
    Jump scheduler;
    Fiber fibers[THREADS_MAX];
    std::vector<char> stacks;
    unsigned current, count, finished;
    bool progressed, backward;
    Barrier all;
    Barrier warp[THREADS_MAX / WARP];
    Exchange exchange[2][THREADS_MAX]; /* by turns: one is written while the other is still read */
    const std::function<void()> *kernel;
    void *dynamic;
};

thread_local std::unique_ptr<Block> state;

__attribute__((noinline, noreturn, no_sanitize("address"))) void leap(Jump &to) {
    __builtin_longjmp(to.word, 1);
}

__attribute__((noinline, no_sanitize("address"))) void yield() {
    Block &b = *state;
    if (__builtin_setjmp(b.fibers[b.current].here.word) == 0)
        leap(b.scheduler);
}

void wait(Barrier &barrier, unsigned expected) {
    const unsigned generation = barrier.generation;
    state->progressed = true;
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    while (barrier.generation == generation)
        yield();
    state->progressed = true;
}

void live() {
    for (;;) {
        Block &b = *state;
        (*b.kernel)();
        b.fibers[b.current].done = true;
        b.finished++;
        b.progressed = true;
        yield();
    }
}

void fail(const char *what) {
    std::fprintf(stderr, "emulation: %s\n", what);
    std::abort();
}

/* Runs fiber `b.current` until it yields. */
__attribute__((noinline, no_sanitize("address"))) void resume(Block &b) {
    Fiber &f = b.fibers[b.current];
    threadIdx = f.index;
    if (__builtin_setjmp(b.scheduler.word) != 0)
        return;
    if (f.started)
        leap(f.here);
    f.started = true;
    (void)getcontext(&f.context);
    f.context.uc_stack.ss_sp = &b.stacks[static_cast<size_t>(b.current) * STACK_BYTES];
    f.context.uc_stack.ss_size = STACK_BYTES;
    f.context.uc_link = nullptr;
    makecontext(&f.context, live, 0);
    (void)setcontext(&f.context);
}

/* Every second block runs its threads from the last to the first: what depends on their order between
 * barriers gives one result or the other. */
void run_block(Block &b) {
    b.finished = 0;
    b.backward = !b.backward;
    b.all = {};
    std::memset(b.warp, 0, sizeof b.warp);
    for (unsigned t = 0; t < b.count; t++) {
        b.fibers[t].done = false;
        b.fibers[t].index = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
    }
    while (b.finished < b.count) {
        b.progressed = false;
        for (unsigned i = 0; i < b.count; i++) {
            const unsigned t = b.backward ? b.count - 1 - i : i;
            if (!b.fibers[t].done) {
                b.current = t;
                resume(b);
            }
        }
        if (!b.progressed)
            fail("a barrier or shuffle that not every thread reaches");
    }
    if (b.all.arrived != 0)
        fail("a block ended while threads waited");
}

} // namespace

void run(const std::function<void()> &kernel, dim3 grid, dim3 block, size_t shared_bytes) {
    if (!state) {
        state = std::make_unique<Block>();
        state->stacks.resize(static_cast<size_t>(THREADS_MAX) * STACK_BYTES);
    }
    Block &b = *state;
    b.count = block.x * block.y * block.z;
    if (b.count == 0 || b.count > THREADS_MAX || b.count % WARP != 0 || grid.x == 0 || grid.y == 0 ||
        grid.x > 2147483647U || grid.y > 65535 || grid.z != 1)
        fail("a launch that a device refuses");
    b.kernel = &kernel;
    /* Of its own size, so that a sanitizer sees what lies beyond; NaN, so that what was not written shows. */
    if (posix_memalign(&b.dynamic, 16, shared_bytes > 0 ? shared_bytes : 1) != 0)
        fail("no memory");
    std::memset(b.dynamic, 0xff, shared_bytes);
    gridDim = grid;
    blockDim = block;
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = dim3(x, y, 0);
            run_block(b);
        }
    std::free(b.dynamic);
    b.dynamic = nullptr;
}

void *shared() {
    return state->dynamic;
}

const Exchange *share(const void *mine, size_t bytes) {
    Block &b = *state;
    const unsigned warp = b.current / WARP, turn = b.warp[warp].generation % 2;
    if (bytes > EXCHANGE_BYTES)
        fail("an exchange of too much");
    std::memcpy(b.exchange[turn][b.current], mine, bytes);
    wait(b.warp[warp], WARP);
    return &b.exchange[turn][static_cast<size_t>(warp) * WARP];
}

} // namespace ousac_emulation

void __syncthreads() {
    using ousac_emulation::state;
    ousac_emulation::wait(state->all, state->count);
}

void __syncwarp() {
    using namespace ousac_emulation;
    wait(state->warp[state->current / WARP], WARP);
}

float __shfl_xor_sync(unsigned mask, float value, int lane_mask) {
    using namespace ousac_emulation;
    if (mask != 0xffffffffU || lane_mask < 0 || lane_mask >= WARP)
        fail("a shuffle of part of a warp");
    float result;
    std::memcpy(&result,
                share(&value, sizeof value)[state->current % WARP ^ static_cast<unsigned>(lane_mask)],
                sizeof result);
    return result;
}

/* --- devices, their memory, and what is made to fail: see README.md --- */

using namespace ousac_emulation;

static std::mutex lock;                         /* over what follows */
static std::map<void *, size_t> blocks, locked; /* of the device, page-locked; bytes */
static std::map<void *, uint64_t> births;       /* of the device's blocks: which allocation, counted from 1 */
static uint64_t births_so_far;
/* The block released last, where the next one is to have its address. */
static std::pair<void *, size_t> withheld;
static size_t device_bytes, device_limit;
enum { BUILT_FOR = 70 }; /* the least capability */
static int devices = 1, capability = 90;
static bool captures_fail, launches_fail;
static std::atomic<long> submissions_left; /* before the device is lost; below 0: for ever */
static std::atomic<cudaError_t> lost;      /* what every call fails with from then on; success: it is there */
static thread_local cudaError_t last_error;
static thread_local ousac_emulated_stream *captured_here;

struct ousac_emulated_node {
    size_t kind;
    std::function<void()> work;
    /* What a transfer or a memset was captured with, and which allocation that is; NULL of a kernel, which knows but
     * addresses. */
    const void *held;
    uint64_t birth;
};
struct ousac_emulated_stream {
    bool capturing, invalid;
    std::vector<ousac_emulated_node> nodes;
};
struct ousac_emulated_graph {
    std::vector<ousac_emulated_node> nodes;
};
struct ousac_emulated_exec {
    std::vector<ousac_emulated_node> nodes;
};

/* What tests count: work run as it was submitted, nodes run by graphs, captures, graphs made, updated and
 * launched; bytes of the device in use; and choices of an algorithm. */
struct ousac_emulated_counts {
    std::atomic<long> eager, nodes, captures, instantiated, updated, launched, choices;
};
static ousac_emulated_counts counts;
extern "C" __attribute__((visibility("default"))) void ousac_emulated_count(long out[8]) {
    const std::atomic<long> *all[6] = {&counts.eager,        &counts.nodes,   &counts.captures,
                                       &counts.instantiated, &counts.updated, &counts.launched};
    for (int i = 0; i < 6; i++)
        out[i] = *all[i];
    const std::lock_guard<std::mutex> guard(lock);
    out[6] = static_cast<long>(device_bytes);
    out[7] = counts.choices;
}

static long setting(const char *name, long otherwise) {
    const char *text = std::getenv(name);
    return text != nullptr && *text != '\0' ? std::strtol(text, nullptr, 10) : otherwise;
}

/* As a process meets the device: when a backend is opened. */
static void read_settings() {
    const std::lock_guard<std::mutex> guard(lock);
    devices = static_cast<int>(setting("OUSAC_EMULATED_DEVICES", 1));
    capability = static_cast<int>(setting("OUSAC_EMULATED_CAPABILITY", 90));
    device_limit = static_cast<size_t>(setting("OUSAC_EMULATED_BYTES", std::numeric_limits<long>::max()));
    captures_fail = setting("OUSAC_EMULATED_CAPTURES_FAIL", 0) != 0;
    launches_fail = setting("OUSAC_EMULATED_LAUNCHES_FAIL", 0) != 0;
    submissions_left = setting("OUSAC_EMULATED_LOST_AFTER", -1);
    last_error = lost = cudaSuccess;
}

static cudaError_t fails(cudaError_t error) {
    last_error = error;
    return error;
}
/* A lost device fails every call from then on. */
static bool is_lost() {
    return lost != cudaSuccess;
}
#define UNLESS_LOST                                                                                          \
    if (is_lost())                                                                                           \
    return fails(lost)
/* What a capture in mode thread-local forbids its thread. */
#define UNLESS_CAPTURING                                                                                     \
    if (captured_here != nullptr) {                                                                          \
        captured_here->invalid = true;                                                                       \
        return fails(cudaErrorStreamCaptureUnsupported);                                                     \
    }

/* Of the block of the device that an address lies in; 0 for none. */
static uint64_t birth_of(const void *address) {
    const std::lock_guard<std::mutex> guard(lock);
    auto block = blocks.upper_bound(const_cast<void *>(address));
    if (block == blocks.begin())
        return 0;
    --block;
    const bool inside =
        static_cast<const char *>(address) < static_cast<const char *>(block->first) + block->second;
    return inside ? births.at(block->first) : 0;
}

static cudaError_t submit_held(cudaStream_t stream, size_t kind, const void *held,
                               std::function<void()> work) {
    UNLESS_LOST;
    if (stream->capturing) {
        stream->nodes.push_back({kind, std::move(work), held, held == nullptr ? 0 : birth_of(held)});
        return cudaSuccess;
    }
    if (submissions_left >= 0 && submissions_left-- == 0) {
        lost = cudaErrorLaunchFailure;
        return fails(cudaErrorLaunchFailure);
    }
    counts.eager++;
    work();
    return cudaSuccess;
}
cudaError_t ousac_emulation::submit(cudaStream_t stream, size_t kind, std::function<void()> work) {
    return submit_held(stream, kind, nullptr, std::move(work));
}

/* --- whose memory an address is of --- */

/* Of a live block of the device, with `bytes` bytes of it behind; one past the end too for 0 of them. */
static bool within_device(const void *address, size_t bytes) {
    const std::lock_guard<std::mutex> guard(lock);
    auto block = blocks.upper_bound(const_cast<void *>(address));
    if (block == blocks.begin())
        return false;
    --block;
    const size_t offset =
        static_cast<size_t>(static_cast<const char *>(address) - static_cast<const char *>(block->first));
    return offset <= block->second && bytes <= block->second - offset;
}

bool ousac_emulation::on_device(const void *address) {
    return address == nullptr || within_device(address, 0);
}

/* What could be an address is asked of the system: sizes, indices and numbers hardly ever are one. Programs, heaps and
 * stacks lie above AddressSanitizer's shadow memory, which begins at 2^31 - 2^15 and is the low addresses that two small
 * integers side by side look like. */
constexpr uintptr_t SHADOW_END = UINT64_C(0x10007fff8000);
bool ousac_emulation::of_the_host(const void *address) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    if (at < SHADOW_END || at >> 47 != 0 || at % alignof(uint16_t) != 0)
        return false;
    return msync(reinterpret_cast<void *>(at / page * page), page, MS_ASYNC) == 0;
}

void ousac_emulation::illegal_address(const char *who, const char *what, size_t index, const void *address) {
    std::fprintf(stderr, "emulation: %s: %s %zu is %p, which is no memory of the device\n", who, what, index,
                 address);
    lost = cudaErrorIllegalAddress;
}

/* What a library is given must be the device's, each or NULL. */
static bool all_on_device(const char *who, std::initializer_list<const void *> matrices) {
    size_t index = 0;
    for (const void *matrix : matrices) {
        index++;
        if (!on_device(matrix)) {
            illegal_address(who, "matrix", index, matrix);
            return false;
        }
    }
    return true;
}

/* --- memory --- */

/* As of a device: bytes that nobody has written are NaN. */
static cudaError_t allocate(std::map<void *, size_t> *list, void **block, size_t bytes) {
    *block = nullptr;
    UNLESS_LOST;
    UNLESS_CAPTURING
    const std::lock_guard<std::mutex> guard(lock);
    if (list == &blocks && bytes > device_limit - device_bytes)
        return fails(cudaErrorMemoryAllocation);
    /* Exactly as long as asked for, so that a sanitizer sees what lies beyond. */
    if (list == &blocks && withheld.first != nullptr && withheld.second == bytes)
        *block = std::exchange(withheld.first, nullptr);
    else if (bytes > std::numeric_limits<size_t>::max() / 64 || posix_memalign(block, 256, bytes) != 0)
        *block = nullptr;
    if (*block == nullptr)
        return fails(cudaErrorMemoryAllocation);
    std::memset(*block, 0xff, bytes);
    (*list)[*block] = bytes;
    if (list == &blocks) {
        device_bytes += bytes;
        births[*block] = ++births_so_far;
    }
    return cudaSuccess;
}

static cudaError_t release(std::map<void *, size_t> *list, void *block) {
    UNLESS_CAPTURING
    const std::lock_guard<std::mutex> guard(lock);
    const auto found = list->find(block);
    if (block == nullptr)
        return cudaSuccess;
    if (found == list->end())
        return fails(cudaErrorInvalidValue);
    if (list == &blocks) {
        device_bytes -= found->second;
        births.erase(block);
    }
    const size_t bytes = found->second;
    list->erase(found);
    if (list == &blocks && setting("OUSAC_EMULATED_SAME_ADDRESS", 0) != 0)
        std::swap(block, withheld.first), withheld.second = bytes;
    std::free(block);
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    const cudaError_t result = is_lost() ? lost.load() : last_error;
    last_error = cudaSuccess;
    return result;
}
const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorNoKernelImageForDevice:
        return "no kernel image is available for execution on the device";
    default:
        return "emulated error";
    }
}
const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    default:
        return "cudaErrorInvalidValue";
    }
}
cudaError_t cudaGetDeviceCount(int *count) {
    read_settings();
    *count = devices;
    return devices > 0 ? cudaSuccess : fails(cudaErrorNoDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    *properties = {"emulated on the processor", capability / 10, capability % 10, 0};
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = 0;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    UNLESS_LOST;
    return device < devices ? cudaSuccess : fails(cudaErrorInvalidValue);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    UNLESS_LOST;
    *stream = new ousac_emulated_stream();
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    UNLESS_LOST;
    if (stream->capturing) {
        stream->invalid = true;
        return fails(cudaErrorStreamCaptureUnsupported);
    }
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **block, size_t bytes) {
    return allocate(&blocks, block, bytes);
}
cudaError_t cudaFree(void *block) {
    return release(&blocks, block);
}
cudaError_t cudaMallocHost(void **block, size_t bytes) {
    return allocate(&locked, block, bytes);
}
cudaError_t cudaFreeHost(void *block) {
    return release(&locked, block);
}

/* Page-locked, all of it. */
static bool is_locked(const void *at, size_t bytes) {
    const std::lock_guard<std::mutex> guard(lock);
    for (const auto &block : locked)
        if (at >= block.first &&
            static_cast<const char *>(at) + bytes <= static_cast<const char *>(block.first) + block.second)
            return true;
    return false;
}

enum { KIND_COPY, KIND_SET, KIND_PRODUCT };

cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    /* What a graph reads when it runs must be there then. */
    if (stream->capturing && !is_locked(kind == cudaMemcpyHostToDevice ? source : target, bytes)) {
        stream->invalid = true;
        return fails(cudaErrorStreamCaptureUnsupported);
    }
    const bool from_host = kind == cudaMemcpyHostToDevice, to_host = kind == cudaMemcpyDeviceToHost;
    return submit_held(stream, KIND_COPY, kind == cudaMemcpyHostToDevice ? target : source, [=] {
        if (bytes > 0 && within_device(source, bytes) == from_host)
            illegal_address("a copy", "its source, direction", kind, source);
        else if (bytes > 0 && within_device(target, bytes) == to_host)
            illegal_address("a copy", "its target, direction", kind, target);
        else
            std::memcpy(target, source, bytes);
    });
}
cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t stream) {
    return submit_held(stream, KIND_SET, target, [=] {
        if (bytes > 0 && !within_device(target, bytes))
            illegal_address("a memset", "target", 1, target);
        else
            std::memset(target, value, bytes);
    });
}
cudaError_t ousac_set_shared_limit(int bytes) {
    if (capability < BUILT_FOR)
        return fails(cudaErrorNoKernelImageForDevice);
    return bytes <= 99 * 1024 ? cudaSuccess : fails(cudaErrorInvalidValue);
}

/* --- graphs --- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    UNLESS_LOST;
    if (stream->capturing || captured_here != nullptr)
        return fails(cudaErrorInvalidValue);
    counts.captures++;
    stream->capturing = true;
    stream->invalid = false;
    captured_here = stream;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = nullptr;
    if (!stream->capturing || captured_here != stream)
        return fails(cudaErrorStreamCaptureUnmatched);
    captured_here = nullptr;
    stream->capturing = false;
    std::vector<ousac_emulated_node> nodes = std::move(stream->nodes);
    stream->nodes.clear();
    UNLESS_LOST;
    if (stream->invalid)
        return fails(cudaErrorStreamCaptureInvalidated);
    *graph = new ousac_emulated_graph{std::move(nodes)};
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    UNLESS_LOST;
    counts.instantiated++;
    *exec = new ousac_emulated_exec{graph->nodes};
    return cudaSuccess;
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *info) {
    UNLESS_LOST;
    bool alike = exec->nodes.size() == graph->nodes.size();
    for (size_t i = 0; alike && i < graph->nodes.size(); i++)
        alike = exec->nodes[i].kind == graph->nodes[i].kind;
    info->result = !alike;
    if (!alike)
        return fails(cudaErrorGraphExecUpdateFailure);
    counts.updated++;
    exec->nodes = graph->nodes;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    UNLESS_LOST;
    if (stream->capturing || launches_fail)
        return fails(cudaErrorInvalidValue);
    for (const ousac_emulated_node &node : exec->nodes)
        if (node.held != nullptr && birth_of(node.held) != node.birth)
            return fails(cudaErrorInvalidValue);
    counts.launched++;
    for (const ousac_emulated_node &node : exec->nodes) {
        if (submissions_left >= 0 && submissions_left-- == 0) {
            lost = cudaErrorLaunchFailure;
            return fails(cudaErrorLaunchFailure);
        }
        counts.nodes++;
        node.work();
    }
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

/* --- cuBLAS: column-major, as the real one --- */

static CBLAS_TRANSPOSE transposed(cublasOperation_t operation) {
    return operation == CUBLAS_OP_T ? CblasTrans : CblasNoTrans;
}

/* The checks of the reference BLAS, which cuBLAS makes too. */
static bool refuses(bool ta, bool tb, int m, int n, int k, int lda, int ldb, int ldc) {
    const int rows_a = ta ? k : m, rows_b = tb ? n : k;
    return m < 0 || n < 0 || k < 0 || lda < (rows_a > 1 ? rows_a : 1) || ldb < (rows_b > 1 ? rows_b : 1) ||
           ldc < (m > 1 ? m : 1);
}

struct ousac_emulated_blas {
    cudaStream_t stream;
};

/* Scalars are those of the call, in host pointer mode; matrices are what they hold when the product runs. */
template <typename Work>
static cublasStatus_t product_on(cudaStream_t stream, const char *who, const void *a, const void *b,
                                 const void *c, const Work &work) {
    if (stream->capturing && captures_fail)
        stream->invalid = true;
    const cudaError_t error = submit(stream, KIND_PRODUCT, [=] {
        if (all_on_device(who, {a, b, c}))
            work();
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

const char *cublasGetStatusName(cublasStatus_t) {
    return "emulated";
}
cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    openblas_set_num_threads(1);
    *handle = new ousac_emulated_blas();
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *workspace, size_t) {
    return on_device(workspace) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasSetPointerMode(cublasHandle_t, cublasPointerMode_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                           int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
                           const float *beta, float *c, int ldc) {
    if (refuses(ta == CUBLAS_OP_T, tb == CUBLAS_OP_T, m, n, k, lda, ldb, ldc))
        return CUBLAS_STATUS_INVALID_VALUE;
    const float by = *alpha, onto = *beta;
    return product_on(handle->stream, "cublasSgemm", a, b, c, [=] {
        cblas_sgemm(CblasColMajor, transposed(ta), transposed(tb), m, n, k, by, a, lda, b, ldb, onto, c, ldc);
    });
}
cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                           int k, const double *alpha, const double *a, int lda, const double *b, int ldb,
                           const double *beta, double *c, int ldc) {
    if (refuses(ta == CUBLAS_OP_T, tb == CUBLAS_OP_T, m, n, k, lda, ldb, ldc))
        return CUBLAS_STATUS_INVALID_VALUE;
    const double by = *alpha, onto = *beta;
    return product_on(handle->stream, "cublasDgemm", a, b, c, [=] {
        cblas_dgemm(CblasColMajor, transposed(ta), transposed(tb), m, n, k, by, a, lda, b, ldb, onto, c, ldc);
    });
}
cublasStatus_t cublasSsyrk(cublasHandle_t handle, cublasFillMode_t fill, cublasOperation_t trans, int n,
                           int k, const float *alpha, const float *a, int lda, const float *beta, float *c,
                           int ldc) {
    const int rows_a = trans == CUBLAS_OP_T ? k : n;
    if (n < 0 || k < 0 || lda < (rows_a > 1 ? rows_a : 1) || ldc < (n > 1 ? n : 1))
        return CUBLAS_STATUS_INVALID_VALUE;
    const float by = *alpha, onto = *beta;
    return product_on(handle->stream, "cublasSsyrk", a, nullptr, c, [=] {
        cblas_ssyrk(CblasColMajor, fill == CUBLAS_FILL_MODE_UPPER ? CblasUpper : CblasLower,
                    transposed(trans), n, k, by, a, lda, onto, c, ldc);
    });
}

/* The values of a column-major matrix of bfloat16, which float32 holds. */
static std::vector<float> widened(const void *matrix, int rows, int cols, int ld) {
    const uint16_t *source = static_cast<const uint16_t *>(matrix);
    std::vector<float> wide(static_cast<size_t>(ld) * static_cast<size_t>(cols));
    for (int j = 0; j < cols; j++)
        for (int i = 0; i < rows; i++) {
            const size_t at = static_cast<size_t>(j) * static_cast<size_t>(ld) + static_cast<size_t>(i);
            const uint32_t bits = static_cast<uint32_t>(source[at]) << 16;
            std::memcpy(&wide[at], &bits, sizeof bits);
        }
    return wide;
}

/* bfloat16 times bfloat16, summed in float32, and nothing else. */
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                            int k, const void *alpha, const void *a, cudaDataType type_a, int lda,
                            const void *b, cudaDataType type_b, int ldb, const void *beta, void *c,
                            cudaDataType type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    const bool flip_a = ta == CUBLAS_OP_T, flip_b = tb == CUBLAS_OP_T;
    if (type_a != CUDA_R_16BF || type_b != CUDA_R_16BF || type_c != CUDA_R_32F ||
        compute != CUBLAS_COMPUTE_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (refuses(flip_a, flip_b, m, n, k, lda, ldb, ldc))
        return CUBLAS_STATUS_INVALID_VALUE;
    const float by = *static_cast<const float *>(alpha), onto = *static_cast<const float *>(beta);
    return product_on(handle->stream, "cublasGemmEx", a, b, c, [=] {
        const std::vector<float> wide_a = widened(a, flip_a ? k : m, flip_a ? m : k, lda);
        const std::vector<float> wide_b = widened(b, flip_b ? n : k, flip_b ? k : n, ldb);
        cblas_sgemm(CblasColMajor, transposed(ta), transposed(tb), m, n, k, by, wide_a.data(), lda,
                    wide_b.data(), ldb, onto, static_cast<float *>(c), ldc);
    });
}

/* --- cuBLASLt: bfloat16 times bfloat16, summed in float32, with a bias or without --- */

struct ousac_emulated_matmul {
    cublasOperation_t transposed_a;
    cublasLtEpilogue_t epilogue;
    const float *bias;
};
struct ousac_emulated_layout {
    cudaDataType type;
    int rows, cols, ld;
};
struct ousac_emulated_wish {
    uint64_t workspace;
    uint32_t reduction, align_a, align_c, align_d;
};

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *product, cublasComputeType_t compute,
                                        cudaDataType scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *product = new ousac_emulated_matmul{CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) {
    delete product;
    return CUBLAS_STATUS_SUCCESS;
}
template <typename T> static cublasStatus_t take(T *field, const void *value, size_t bytes) {
    if (bytes != sizeof *field)
        return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t name, const void *value,
                                              size_t bytes) {
    switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&product->transposed_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&product->epilogue, value, bytes);
    default:
        return take(&product->bias, value, bytes);
    }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    *layout =
        new ousac_emulated_layout{type, static_cast<int>(rows), static_cast<int>(cols), static_cast<int>(ld)};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}
/* The defaults are the library's. */
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *wish) {
    *wish = new ousac_emulated_wish{0, 7, 256, 256, 256};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t wish) {
    delete wish;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t bytes) {
    switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return take(&wish->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return take(&wish->reduction, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return take(&wish->align_a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return take(&wish->align_c, value, bytes);
    default:
        return take(&wish->align_d, value, bytes);
    }
}

/* What an algorithm was chosen for, and may be used for alone. */
enum { ALGO_SIZES, ALGO_LD, ALGO_ALIGN_A, ALGO_ALIGN_B, ALGO_ALIGN_D, ALGO_ALIGN_BIAS, ALGO_WORKSPACE };
static uint64_t aligned_to(const void *p) {
    const uint64_t address = reinterpret_cast<uintptr_t>(p) | 256U;
    return address & (~address + 1);
}
static uint64_t mixed(int a, int b, int c) {
    return (static_cast<uint64_t>(a) * 1000003U + static_cast<uint64_t>(b)) * 1000003U +
           static_cast<uint64_t>(c);
}

/* Nothing is found for odd inner sizes, so that tests meet that too. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wish, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found) {
    counts.choices++;
    *found = 0;
    if (product->transposed_a != CUBLAS_OP_T || a->type != CUDA_R_16BF || b->type != CUDA_R_16BF ||
        c->type != CUDA_R_32F || d->type != CUDA_R_32F || a->rows % 2 != 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (wanted < 1 || a->rows != b->rows || d->rows != a->cols || d->cols != b->cols || c->ld != d->ld ||
        wish->reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE ||
        refuses(true, false, a->cols, b->cols, a->rows, a->ld, b->ld, d->ld))
        return CUBLAS_STATUS_INVALID_VALUE;
    *results = {};
    results->algo.data[ALGO_SIZES] = mixed(a->rows, a->cols, b->cols);
    results->algo.data[ALGO_LD] = mixed(a->ld, b->ld, d->ld);
    results->algo.data[ALGO_ALIGN_A] = wish->align_a;
    results->algo.data[ALGO_ALIGN_B] = 256;
    results->algo.data[ALGO_ALIGN_D] = wish->align_c < wish->align_d ? wish->align_c : wish->align_d;
    results->algo.data[ALGO_ALIGN_BIAS] = product->bias != nullptr ? aligned_to(product->bias) : 1;
    results->algo.data[ALGO_WORKSPACE] = results->workspaceSize = wish->workspace;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t layout_a, const void *b,
                              cublasLtMatrixLayout_t layout_b, const void *beta, const void *c,
                              cublasLtMatrixLayout_t, void *d, cublasLtMatrixLayout_t layout_d,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    const int m = layout_d->rows, n = layout_d->cols, k = layout_a->rows;
    const int lda = layout_a->ld, ldb = layout_b->ld, ldd = layout_d->ld;
    const uint64_t *chosen = algorithm->data;
    const bool biased = product->epilogue == CUBLASLT_EPILOGUE_BIAS;
    const float *bias = biased ? product->bias : nullptr;
    if (chosen[ALGO_SIZES] != mixed(k, m, n) || chosen[ALGO_LD] != mixed(lda, ldb, ldd) ||
        aligned_to(a) < chosen[ALGO_ALIGN_A] || aligned_to(b) < chosen[ALGO_ALIGN_B] ||
        aligned_to(d) < chosen[ALGO_ALIGN_D] || workspace == nullptr ||
        workspace_bytes < chosen[ALGO_WORKSPACE] || c != d || biased != (bias != nullptr) ||
        (biased && aligned_to(bias) < chosen[ALGO_ALIGN_BIAS]))
        return CUBLAS_STATUS_INVALID_VALUE;
    const float by = *static_cast<const float *>(alpha), onto = *static_cast<const float *>(beta);
    return product_on(stream, "cublasLtMatmul", a, b, d, [=] {
        if (!all_on_device("cublasLtMatmul, bias and workspace", {bias, workspace}))
            return;
        const std::vector<float> wide_a = widened(a, k, m, lda), wide_b = widened(b, k, n, ldb);
        float *target = static_cast<float *>(d);
        cblas_sgemm(CblasColMajor, CblasTrans, CblasNoTrans, m, n, k, by, wide_a.data(), lda, wide_b.data(),
                    ldb, onto, target, ldd);
        for (int j = 0; bias != nullptr && j < n; j++)
            cblas_saxpy(m, 1.0F, bias, 1, target + static_cast<size_t>(j) * static_cast<size_t>(ldd), 1);
    });
}

/* --- cuSOLVER --- */

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) {
    *handle = reinterpret_cast<cusolverDnHandle_t>(std::malloc(1));
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
    std::free(handle);
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params) {
    *params = reinterpret_cast<cusolverDnParams_t>(std::malloc(1));
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
    std::free(params);
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t, cudaStream_t) {
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t,
                                             cublasFillMode_t, int64_t n, cudaDataType, const void *, int64_t,
                                             cudaDataType, const void *, cudaDataType, size_t *device_bytes,
                                             size_t *host_bytes) {
    const size_t order = static_cast<size_t>(n);
    *device_bytes = (1 + 6 * order + 2 * order * order) * sizeof(double);
    *host_bytes = (3 + 5 * order) * sizeof(lapack_int);
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t mode,
                                  cublasFillMode_t fill, int64_t n, cudaDataType, void *a, int64_t lda,
                                  cudaDataType, void *w, cudaDataType, void *device_buffer,
                                  size_t device_bytes, void *host_buffer, size_t host_bytes, int *info) {
    if (n < 1 || lda < n)
        return CUSOLVER_STATUS_INVALID_VALUE;
    if (is_lost())
        return CUSOLVER_STATUS_EXECUTION_FAILED;
    if (!all_on_device("cusolverDnXsyevd", {a, w, device_buffer, info}))
        return CUSOLVER_STATUS_SUCCESS; /* as of a device, which says so later */
    if (host_bytes > 0 && on_device(host_buffer))
        return CUSOLVER_STATUS_INVALID_VALUE;
    *info = LAPACKE_dsyevd_work(
        LAPACK_COL_MAJOR, mode == CUSOLVER_EIG_MODE_VECTOR ? 'V' : 'N',
        fill == CUBLAS_FILL_MODE_UPPER ? 'U' : 'L', static_cast<int>(n), static_cast<double *>(a),
        static_cast<int>(lda), static_cast<double *>(w), static_cast<double *>(device_buffer),
        static_cast<int>(device_bytes / sizeof(double)), static_cast<lapack_int *>(host_buffer),
        static_cast<int>(host_bytes / sizeof(lapack_int)));
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevBatched_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                                   cusolverEigMode_t mode, cublasFillMode_t fill, int64_t n,
                                                   cudaDataType type_a, const void *a, int64_t lda,
                                                   cudaDataType type_w, const void *w, cudaDataType compute,
                                                   size_t *device_bytes, size_t *host_bytes, int64_t) {
    return cusolverDnXsyevd_bufferSize(handle, params, mode, fill, n, type_a, a, lda, type_w, w, compute,
                                       device_bytes, host_bytes);
}
cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                        cusolverEigMode_t mode, cublasFillMode_t fill, int64_t n,
                                        cudaDataType type_a, void *a, int64_t lda, cudaDataType type_w,
                                        void *w, cudaDataType compute, void *device_buffer,
                                        size_t device_bytes, void *host_buffer, size_t host_bytes, int *info,
                                        int64_t batch) {
    cusolverStatus_t result = CUSOLVER_STATUS_SUCCESS;
    for (int64_t i = 0; i < batch && !result; i++)
        result =
            cusolverDnXsyevd(handle, params, mode, fill, n, type_a, static_cast<double *>(a) + i * n * lda,
                             lda, type_w, static_cast<double *>(w) + i * n, compute, device_buffer,
                             device_bytes, host_buffer, host_bytes, info + i);
    return result;
}
