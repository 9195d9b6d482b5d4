#include "calib/backend/backend_bf16.h"

#include "calib/backend/kernels.h"
#include "formats/memory.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Fewer rows, of the modulation: the product is as fast in float32, whose weights are exact. */
enum { ROWS_LEAST = 32 };

/* dnnl_gemm_bf16bf16f32 of oneDNN (extern "C", row-major): C (m, n) = alpha op(A) op(B) + beta C. */
typedef int gemm_function(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                          const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, float beta,
                          float *c, int64_t ldc);

/* Prepared weights: the floats [base, base + count), rounded. */
typedef struct prepared {
    const float *base;
    size_t count;
    uint16_t *rounded;
    struct prepared *next;
} prepared;

typedef struct scratch {
    size_t count;
    uint16_t *x;
} scratch;

static struct {
    ousac_backend table; /* first: the operations get its address */
    char detail[320];
    gemm_function *gemm;
    void (*set_threads)(
        int);              /* of OpenMP, for the calling thread; NULL where the library was built without */
    pthread_key_t scratch; /* of each thread */
    pthread_rwlock_t lock; /* over `first` */
    prepared *first;
    const char *missing; /* NULL where all is there */
} bf16 = {.lock = PTHREAD_RWLOCK_INITIALIZER};
static pthread_once_t bf16_once = PTHREAD_ONCE_INIT;

static void round_all(size_t count, const float *x, uint16_t *y) {
    ((const ousac_kernels *)bf16.table.state)->round_bf16(count, x, y);
}

static void scratch_free(void *pointer) {
    scratch *s = pointer;
    ousac_free(s->x);
    ousac_free(s);
}

/* Room for `count` values of the calling thread; NULL where memory is short. */
static uint16_t *scratch_of(size_t count) {
    scratch *s = pthread_getspecific(bf16.scratch);
    if (!s) {
        s = ousac_calloc(1, sizeof *s);
        if (!s || pthread_setspecific(bf16.scratch, s)) {
            ousac_free(s);
            return NULL;
        }
    }
    if (s->count < count) {
        ousac_free(s->x);
        s->x = ousac_malloc(count, sizeof *s->x);
        s->count = s->x ? count : 0;
    }
    return s->x;
}

/* The rounded form of W (m, n) where all of it was prepared. */
static const uint16_t *find(const float *w, size_t m, size_t n, size_t ldw) {
    const uint16_t *found = NULL;
    const size_t span = (m - 1) * ldw + n;
    (void)pthread_rwlock_rdlock(&bf16.lock);
    for (const prepared *p = bf16.first; p && !found; p = p->next) {
        const uintptr_t base = (uintptr_t)p->base, at = (uintptr_t)w;
        if (at >= base && at - base < p->count * sizeof(float) &&
            span <= p->count - (at - base) / sizeof(float))
            found = p->rounded + (at - base) / sizeof(float);
    }
    (void)pthread_rwlock_unlock(&bf16.lock);
    return found;
}

static ousac_status bf16_linear(const ousac_backend *backend, size_t rows, size_t m, size_t n, const float *x,
                                size_t ldx, const float *w, size_t ldw, const float *bias, float beta,
                                float *y, size_t ldy, ousac_error *error) {
    const ousac_backend *cpu = ousac_backend_cpu();
    const int small = rows < ROWS_LEAST || m == 0 || n == 0 || n > ldx || n > ldw || m > ldy ||
                      ldw > INT_MAX || ldy > INT_MAX || rows > INT_MAX || rows > SIZE_MAX / sizeof(float) / n;
    const uint16_t *weights = small || beta != 0.0F ? NULL : find(w, m, n, ldw);
    (void)backend;
    if (!weights)
        return cpu->linear(cpu, rows, m, n, x, ldx, w, ldw, bias, beta, y, ldy, error);
    uint16_t *rounded = scratch_of(rows * n);
    if (!rounded)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu x %zu inputs in bfloat16", rows, n);
    for (size_t i = 0; i < rows; i++)
        round_all(n, x + i * ldx, rounded + i * n);
    for (size_t i = 0; bias && i < rows; i++)
        memcpy(y + i * ldy, bias, m * sizeof *bias);
    /* OpenMP keeps this setting per calling thread. */
    if (bf16.set_threads)
        bf16.set_threads(1);
    const int failed = bf16.gemm('N', 'T', (int64_t)rows, (int64_t)m, (int64_t)n, 1.0F, rounded, (int64_t)n,
                                 weights, (int64_t)ldw, bias ? 1.0F : 0.0F, y, (int64_t)ldy);
    if (failed)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                          "linear: oneDNN refuses a product of %zu x %zu x %zu: %d", rows, m, n, failed);
    return OUSAC_STATUS_OK;
}

static ousac_status bf16_prepare(const ousac_backend *backend, size_t count, const float *w,
                                 ousac_error *error) {
    prepared *made = ousac_calloc(1, sizeof *made);
    (void)backend;
    if (made)
        made->rounded = ousac_malloc(count, sizeof *made->rounded);
    if (!made || !made->rounded) {
        ousac_free(made);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu weights in bfloat16", count);
    }
    round_all(count, w, made->rounded);
    made->base = w;
    made->count = count;
    (void)pthread_rwlock_wrlock(&bf16.lock);
    made->next = bf16.first;
    bf16.first = made;
    (void)pthread_rwlock_unlock(&bf16.lock);
    return OUSAC_STATUS_OK;
}

static void bf16_release(const ousac_backend *backend, void *block) {
    prepared *gone = NULL;
    const ousac_backend *cpu = ousac_backend_cpu();
    (void)backend;
    (void)pthread_rwlock_wrlock(&bf16.lock);
    for (prepared **p = &bf16.first; block && *p; p = &(*p)->next)
        if ((*p)->base == block) {
            gone = *p;
            *p = gone->next;
            break;
        }
    (void)pthread_rwlock_unlock(&bf16.lock);
    if (gone) {
        ousac_free(gone->rounded);
        ousac_free(gone);
    }
    cpu->release(cpu, block);
}

/* --- what there is --- */

const char *ousac_backend_bf16_units(unsigned edx, unsigned eax) {
    if (edx >> 22 & 1U && edx >> 24 & 1U) /* AMX-BF16, AMX-TILE */
        return "AMX-BF16";
    return eax >> 5 & 1U ? "AVX512_BF16" : NULL;
}

/* Those of this processor. */
static const char *processor_units(void) {
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, edx = 0, eax = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &edx))
        return NULL;
    if (a < 1 || !__get_cpuid_count(7, 1, &eax, &b, &c, &d))
        eax = 0;
    return ousac_backend_bf16_units(edx, eax);
#else
    return NULL;
#endif
}

/* Whether the library multiplies here: the system may keep the units to itself. 2 x 3 = 6. */
static int multiplies(void) {
    const uint16_t two = 0x4000, three = 0x4040;
    float product = 0;
    return bf16.gemm('N', 'T', 1, 1, 1, 1.0F, &two, 1, &three, 1, 0.0F, &product, 1) == 0 && product == 6.0F;
}

/* POSIX lets a function's address through a data pointer; ISO C has no cast for it. */
static void look_up(void *library, const char *name, void *function, size_t size) {
    void *address = dlsym(library, name);
    memcpy(function, &address, size);
}

static void bf16_start(void) {
    const ousac_backend *cpu = ousac_backend_cpu();
    const char *units = processor_units();
    if (!units) {
        bf16.missing = "this processor has no bfloat16 units (AMX-BF16 or AVX512_BF16)";
        return;
    }
    void *library = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        library = dlopen("libdnnl.so.3", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        bf16.missing = "oneDNN is not installed (libdnnl.so.2; Debian: libdnnl2)";
        return;
    }
    look_up(library, "dnnl_gemm_bf16bf16f32", &bf16.gemm, sizeof bf16.gemm);
    look_up(library, "omp_set_num_threads", &bf16.set_threads, sizeof bf16.set_threads);
    if (!bf16.gemm || pthread_key_create(&bf16.scratch, scratch_free)) {
        bf16.missing = "this oneDNN has no dnnl_gemm_bf16bf16f32";
        return;
    }
    if (!multiplies()) {
        bf16.missing = "oneDNN does not multiply in bfloat16 on this processor";
        return;
    }
    /* The library stays open: its threads may outlive any moment to close it. */
    bf16.table = *cpu;
    bf16.table.bf16 = 1;
    bf16.table.linear = bf16_linear;
    bf16.table.prepare = bf16_prepare;
    bf16.table.release = bf16_release;
    (void)snprintf(bf16.detail, sizeof bf16.detail, "%.250s; linears in bfloat16 by oneDNN, %s", cpu->detail,
                   units);
    bf16.table.detail = bf16.detail;
}

ousac_status ousac_backend_bf16(const ousac_backend **backend, ousac_error *error) {
    *backend = NULL;
    (void)pthread_once(&bf16_once, bf16_start);
    if (bf16.missing)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "compute bf16: %s", bf16.missing);
    *backend = &bf16.table;
    return OUSAC_STATUS_OK;
}

int ousac_backend_is_bf16(const ousac_backend *backend) {
    return backend->bf16;
}
