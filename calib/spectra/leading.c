#include "calib/spectra/leading.h"

#include "calib/spectra/spectral.h"
#include "calib/spectra/triangular.h"
#include "calib/stats/philox.h"
#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    STREAM = 0x1ead, /* of the random start, apart from those of samples */
    SMALLEST = 256,  /* order below which a full solver is a matter of milliseconds */
    SWEEPS = 2, /* before the first look; each multiplies what is missed by about (lambda_b / lambda_r)^2 */
    SWEEPS_MORE = 2, /* after a look that was not good enough */
    LOOKS = 3,
    PANELS = 4,
    DOMINANT = 16 /* directions of the moment whose share of the trace is computed in float64 */
};

/* What is left is computed in float32 where it is at least this share of the root of the sum of the squared
 * eigenvalues. Rounding spoils each of them for itself, worst where few channels carry it: what is left was
 * at most 1.4e-6 of that root off in the spectra of the tests, and 8e-8 on the synthetic DiT-XL/2. */
#define FLOAT_SUFFICES 0.025

/* The eigenproblem C S x = lambda x of order n: S = W^T W and C the moment on the input side, where u = W x
 * is the eigenvector of K = W C W^T; S = 1 and C = D on the output side, where u = x. Vectors are rows. */
typedef struct iteration {
    const ousac_backend *backend;
    size_t n, b, r;      /* order, vectors iterated, vectors wanted */
    float *c, *s;        /* backend (n, n); s NULL for 1 */
    float *x, *y, *z;    /* backend (b, n): X, X S, X S C; without S: X, X C, none */
    float *small;        /* backend (b, b) */
    float *tall;         /* host (b, n) */
    double *gram, *more; /* host (b, b) */
    double *wide;        /* host (b, n) */
    double *values;      /* host (b): of the last look */
} iteration;

int ousac_leading_pays(size_t order, size_t rank) {
    return rank > 0 && order >= SMALLEST && 2 * (rank + rank / 4 + 16) <= order;
}

/* --- sums and conversions on the host --- */

/* In float64, eight sums side by side, whose additions need not wait for one another. */
enum { LANES = 8 };
static double add_lanes(const double *lanes) {
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}
static double dot(size_t count, const float *a, const float *b) {
    double lanes[LANES] = {0}, rest = 0;
    size_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] += (double)a[j + l] * (double)b[j + l];
    for (; j < count; j++)
        rest += (double)a[j] * (double)b[j];
    return add_lanes(lanes) + rest;
}
static double dot_mixed(size_t count, const double *a, const float *b) {
    double lanes[LANES] = {0}, rest = 0;
    size_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] += a[j + l] * (double)b[j + l];
    for (; j < count; j++)
        rest += a[j] * (double)b[j];
    return add_lanes(lanes) + rest;
}

static void to_float(size_t count, const double *from, float *to) {
    for (size_t i = 0; i < count; i++)
        to[i] = (float)from[i];
}

/* --- the iteration --- */

static float *floats(const iteration *it, size_t rows, size_t cols) {
    return it->backend->alloc(it->backend, rows * cols, sizeof(float));
}

static void iteration_free(iteration *it) {
    const ousac_backend *be = it->backend;
    float *blocks[] = {it->c, it->s, it->x, it->y, it->z, it->small};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        be->release(be, blocks[i]);
    ousac_free(it->tall);
    ousac_free(it->gram);
    ousac_free(it->more);
    ousac_free(it->wide);
    ousac_free(it->values);
}

/* Floats of the backend for the host to read: `block` itself where memory is the same, else a copy in `room`.
 */
static ousac_status read_floats(const ousac_backend *be, size_t count, const float *block, float *room,
                                const float **values, ousac_error *error) {
    *values = be->host ? block : room;
    return be->host ? OUSAC_STATUS_OK : be->download(be, room, block, count * sizeof *block, error);
}

static ousac_status upload_floats(const iteration *it, float *target, size_t count, const double *values,
                                  ousac_error *error) {
    to_float(count, values, it->tall);
    return it->backend->upload(it->backend, target, it->tall, count * sizeof(float), error);
}

/* (b, b) products of rows, P Q^T, to the host. */
static ousac_status inner_products(const iteration *it, const float *p, const float *q, double *out,
                                   ousac_error *error) {
    const ousac_backend *be = it->backend;
    const size_t b = it->b;
    ousac_status status = be->linear(be, b, b, it->n, p, it->n, q, it->n, NULL, 0, it->small, b, error);
    if (!status)
        status = be->download(be, it->tall, it->small, b * b * sizeof(float), error);
    for (size_t i = 0; !status && i < b; i++)
        for (size_t j = 0; j < b; j++)
            out[i * b + j] = ((double)it->tall[i * b + j] + (double)it->tall[j * b + i]) / 2;
    return status;
}

/* Y = X S, Z = Y C; Y = X C without S. */
static ousac_status apply(const iteration *it, ousac_error *error) {
    const ousac_backend *be = it->backend;
    const size_t n = it->n, b = it->b;
    ousac_status status =
        be->linear(be, b, n, n, it->x, n, it->s ? it->s : it->c, n, NULL, 0, it->y, n, error);
    if (!status && it->s)
        status = be->linear(be, b, n, n, it->y, n, it->c, n, NULL, 0, it->z, n, error);
    return status;
}

/* Where the p-th of PANELS ranges of rows begins: triangles are worked in so many panels. */
static size_t panel(size_t rows, size_t p) {
    return rows * p / PANELS;
}

/* G = V V^T, V (rows, cols) and G (rows, rows) in float64 on the backend: the upper triangle, which is all
 * that `ousac_cholesky` reads, and some of the lower. */
static ousac_status gram64(const ousac_backend *be, size_t rows, size_t cols, const double *v, double *g,
                           ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t p = 0; p < PANELS && !status; p++) {
        const size_t first = panel(rows, p);
        status = be->gemm64(be, 0, 1, panel(rows, p + 1) - first, rows - first, cols, 1, v + first * cols,
                            cols, v + first * cols, cols, 0, g + first * rows + first, rows, error);
    }
    return status;
}

/* Y (rows, cols) = L X in float64 on the backend, L (rows, rows) lower: most of its zeros are skipped. */
static ousac_status lower64(const ousac_backend *be, size_t rows, size_t cols, const double *l,
                            const double *x, double *y, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t p = 0; p < PANELS && !status; p++) {
        const size_t first = panel(rows, p), last = panel(rows, p + 1);
        status = be->gemm64(be, 0, 0, last - first, cols, last, 1, l + first * rows, rows, x, cols, 0,
                            y + first * cols, cols, error);
    }
    return status;
}

/* X = the rows of Y or Z, made orthonormal. Their Gram matrix is needed in float64: its condition is the
 * square of the spectrum's range. *good = 0 where even that does not suffice. */
static ousac_status orthonormalise(const iteration *it, int *good, ousac_error *error) {
    const ousac_backend *be = it->backend;
    const size_t n = it->n, b = it->b;
    const float *rows = it->s ? it->z : it->y, *narrow = NULL;
    double *placed = NULL, *gram = NULL;
    const double *wide = NULL;
    ousac_status status = read_floats(be, b * n, rows, it->tall, &narrow, error);
    for (size_t i = 0; !status && i < b * n; i++)
        it->wide[i] = (double)narrow[i];
    if (!status)
        status = ousac_spectral_lend(be, b, n, it->wide, &placed, &wide, error);
    if (!status)
        status = ousac_spectral_place(&gram, be, b, b, NULL, error);
    if (!status)
        status = gram64(be, b, n, wide, gram, error);
    if (!status)
        status = be->download(be, it->gram, gram, b * b * sizeof(double), error);
    if (!status && (*good = ousac_cholesky(b, it->gram)) != 0) {
        ousac_invert_lower(b, it->gram, it->more);
        status = upload_floats(it, it->small, b * b, it->more, error);
        for (size_t p = 0; p < PANELS && !status; p++) {
            const size_t first = panel(b, p), last = panel(b, p + 1);
            status = be->expand(be, last - first, n, last, it->small + first * b, b, rows, n, 0,
                                it->x + first * n, n, error);
        }
    }
    be->release(be, placed);
    be->release(be, gram);
    return status;
}

/* Rayleigh-Ritz on the span of U = W X: A v = theta B v with B = U U^T = X S X^T, A = U K U^T = X S C S X^T
 * (output side: B = X X^T, A = X D X^T). y: backend (r, n), the combinations of X that belong to the r
 * largest. Expects Y and Z to be those of X. The range of A is that of the spectrum and not its square, which
 * float32 would not hold. */
static ousac_status ritz(const iteration *it, float *y, int *good, ousac_error *error) {
    const ousac_backend *be = it->backend;
    const size_t n = it->n, b = it->b, r = it->r;
    double *a = NULL, *inverse = NULL, *product = NULL;
    ousac_status status = inner_products(it, it->s ? it->y : it->x, it->x, it->gram, error);
    if (!status && !(*good = ousac_cholesky(b, it->gram)))
        return OUSAC_STATUS_OK;
    if (!status) {
        ousac_invert_lower(b, it->gram, it->more);
        status = ousac_spectral_place(&inverse, be, b, b, it->more, error);
    }
    if (!status)
        status = inner_products(it, it->s ? it->z : it->y, it->s ? it->y : it->x, it->gram, error);
    if (!status)
        status = ousac_spectral_place(&a, be, b, b, it->gram, error);
    if (!status)
        status = ousac_spectral_place(&product, be, b, b, NULL, error);
    if (!status)
        status = lower64(be, b, b, inverse, a, product, error);
    if (!status)
        status = be->gemm64(be, 0, 1, b, b, b, 1, product, b, inverse, b, 0, a, b, error);
    if (!status)
        status = ousac_spectral_decompose(be, b, a, it->values, error);
    if (!status)
        status = be->gemm64(be, 0, 0, r, b, b, 1, a, b, inverse, b, 0, product, b, error);
    if (!status)
        status = be->download(be, it->gram, product, r * b * sizeof(double), error);
    if (!status)
        status = upload_floats(it, it->small, r * b, it->gram, error);
    if (!status)
        status = be->expand(be, r, n, b, it->small, b, it->x, n, 0, y, n, error);
    be->release(be, a);
    be->release(be, inverse);
    be->release(be, product);
    return status;
}

/* --- from directions to factors --- */

/* One site: what the iteration is about. */
typedef struct site {
    const ousac_backend *backend;
    ousac_side side;
    size_t m, n, order;
    const double *packed;
    const float *weights;  /* host (m, n) */
    float *w;              /* backend (m, n); `weights` themselves where the backend's memory is the host's */
    double *moment, *wide; /* backend: (order, order), (m, n); NULL until float32 does not do */
    double trace;          /* of K */
} site;

/* What is known of r directions, host. u, b and lambda become the factors; they are allocated before all
 * else, or they would stand between the blocks that come and go and keep the heap from shrinking. */
typedef struct found {
    float *u, *b;             /* (r, m), (r, n) */
    double *lambda;           /* (min(m, n)) */
    double *theta, *residual; /* (r) */
} found;

static int found_create(found *f, size_t m, size_t n, size_t r) {
    f->u = ousac_malloc(r * m, sizeof *f->u);
    f->b = ousac_malloc(r * n, sizeof *f->b);
    f->lambda = ousac_calloc(m < n ? m : n, sizeof *f->lambda);
    f->theta = ousac_malloc(r, sizeof *f->theta);
    f->residual = ousac_malloc(r, sizeof *f->residual);
    return f->u && f->b && f->lambda && f->theta && f->residual;
}

static void found_free(found *f) {
    ousac_free(f->u);
    ousac_free(f->b);
    ousac_free(f->lambda);
    ousac_free(f->theta);
    ousac_free(f->residual);
}

/* U (r, m), orthonormal, float64 on the backend, from rows y of the order. */
static ousac_status directions(const site *st, iteration *it, const float *y, double *u, int *good,
                               ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = it->r, m = st->m;
    const int input = st->side == OUSAC_SIDE_INPUT;
    float *image = NULL, *room = NULL;
    const float *rows = NULL;
    double *wide = ousac_malloc(r * m, sizeof *wide), *placed = NULL, *gram = NULL;
    const double *rough = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (!wide || (!be->host && !(room = ousac_malloc(r * m, sizeof *room))) ||
        (input && !(image = floats(it, r, m))))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    if (!status && input)
        status = be->linear(be, r, m, st->n, y, st->n, st->w, st->n, NULL, 0, image, m, error);
    if (!status)
        status = read_floats(be, r * m, input ? image : y, room, &rows, error);
    /* Rows at unit length first: their sizes follow the spectrum. */
    for (size_t i = 0; !status && i < r; i++) {
        const double length = sqrt(dot(m, rows + i * m, rows + i * m));
        for (size_t j = 0; j < m; j++)
            wide[i * m + j] = length > 0 ? (double)rows[i * m + j] / length : 0;
    }
    if (!status)
        status = ousac_spectral_lend(be, r, m, wide, &placed, &rough, error);
    if (!status)
        status = ousac_spectral_place(&gram, be, r, r, NULL, error);
    if (!status)
        status = gram64(be, r, m, rough, gram, error);
    if (!status)
        status = be->download(be, it->gram, gram, r * r * sizeof(double), error);
    if (!status && (*good = ousac_cholesky(r, it->gram)) != 0) {
        ousac_invert_lower(r, it->gram, it->more);
        status = be->upload(be, gram, it->more, r * r * sizeof(double), error);
        if (!status)
            status = lower64(be, r, m, gram, rough, u, error);
    }
    be->release(be, image);
    be->release(be, gram);
    be->release(be, placed);
    ousac_free(room);
    ousac_free(wide);
    return status;
}

/* b_i = W^T u_i of the directions rounded to float32: the factors. */
static ousac_status project(const site *st, const iteration *it, const double *u, found *f,
                            ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = it->r, m = st->m, n = st->n;
    if (be->host) {
        to_float(r * m, u, f->u);
        return be->expand(be, r, n, m, f->u, m, st->w, n, 0, f->b, n, error);
    }
    float *narrow = NULL, *b = NULL;
    double *host = ousac_malloc(r * m, sizeof *host);
    ousac_status status = OUSAC_STATUS_OK;
    if (!host || !(narrow = floats(it, r, m)) || !(b = floats(it, r, n)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    if (!status)
        status = be->download(be, host, u, r * m * sizeof *host, error);
    if (!status) {
        to_float(r * m, host, f->u);
        status = be->upload(be, narrow, f->u, r * m * sizeof *f->u, error);
    }
    if (!status)
        status = be->expand(be, r, n, m, narrow, m, st->w, n, 0, b, n, error);
    if (!status)
        status = be->download(be, f->b, b, r * n * sizeof *f->b, error);
    be->release(be, narrow);
    be->release(be, b);
    ousac_free(host);
    return status;
}

/* theta_i = u_i^T K u_i and residual_i = |K u_i|^2 - theta_i^2. With v_i = b_i, on the output side u_i:
 * theta_i = v_i^T C v_i and |K u_i|^2 = (C v_i)^T S (C v_i). In float32, whose rounding is 1e-7 of the trace
 * at most. */
static ousac_status rayleigh(const site *st, const iteration *it, found *f, ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = it->r, k = st->order;
    const float *v = it->s ? f->b : f->u, *image = NULL, *again = NULL;
    float *room = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (!be->host && !(room = ousac_malloc(r * k, sizeof *room)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    if (!status)
        status = be->upload(be, it->x, v, r * k * sizeof *v, error);
    if (!status)
        status = be->linear(be, r, k, k, it->x, k, it->c, k, NULL, 0, it->y, k, error);
    if (!status)
        status = read_floats(be, r * k, it->y, room, &image, error);
    again = image;
    if (!status && it->s)
        status = be->linear(be, r, k, k, it->y, k, it->s, k, NULL, 0, it->z, k, error);
    if (!status && it->s)
        status = read_floats(be, r * k, it->z, it->tall, &again, error);
    if (!status) /* further on than what was there, should the iteration have to go on */
        status = be->copy(be, r, k, it->y, k, it->x, k, error);
    for (size_t i = 0; !status && i < r; i++) {
        const double theta = dot(k, v + i * k, image + i * k);
        f->theta[i] = theta;
        f->residual[i] = fmax(0, dot(k, image + i * k, again + i * k) - theta * theta);
    }
    ousac_free(room);
    return status;
}

/* theta in float64, for U in float64. */
static ousac_status rayleigh64(const site *st, const iteration *it, const double *u, double *theta,
                               ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = it->r, k = st->order;
    double *b = NULL, *cb = NULL, *host = ousac_malloc(2 * r * k, sizeof *host);
    ousac_status status = host ? ousac_spectral_place(&cb, be, r, k, NULL, error)
                               : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    if (!status && st->side == OUSAC_SIDE_INPUT) {
        status = ousac_spectral_place(&b, be, r, k, NULL, error);
        if (!status)
            status = be->gemm64(be, 0, 0, r, k, st->m, 1, u, st->m, st->wide, k, 0, b, k, error);
    }
    if (!status)
        status = be->gemm64(be, 0, 0, r, k, k, 1, b ? b : u, k, st->moment, k, 0, cb, k, error);
    if (!status)
        status = be->download(be, host, b ? b : u, r * k * sizeof *host, error);
    if (!status)
        status = be->download(be, host + r * k, cb, r * k * sizeof *host, error);
    for (size_t i = 0; !status && i < r; i++) {
        theta[i] = 0;
        for (size_t j = 0; j < k; j++)
            theta[i] += host[i * k + j] * host[(r + i) * k + j];
    }
    be->release(be, b);
    be->release(be, cb);
    ousac_free(host);
    return status;
}

/* What the r largest eigenvalues exceed the theta by, at most, where nothing above `outside` lies in the
 * complement of the iterated space: residual over gap (Temple and Kato), direction by direction. */
static double excess(size_t r, const double *theta, const double *residual, double outside) {
    double sum = 0;
    for (size_t i = 0; i < r; i++)
        sum += theta[i] > outside ? residual[i] / (theta[i] - outside) : INFINITY;
    return sum;
}

/* Falling order of lambda, rows of a and b with it: neighbours may have changed places by a rounding. */
static void sort_rows(ousac_factors *f) {
    for (size_t i = 1; i < f->rank; i++)
        for (size_t j = i; j > 0 && f->lambda[j] > f->lambda[j - 1]; j--) {
            const double value = f->lambda[j];
            f->lambda[j] = f->lambda[j - 1];
            f->lambda[j - 1] = value;
            for (size_t k = 0; k < f->m; k++) {
                const float a = f->a[j * f->m + k];
                f->a[j * f->m + k] = f->a[(j - 1) * f->m + k];
                f->a[(j - 1) * f->m + k] = a;
            }
            for (size_t k = 0; k < f->n; k++) {
                const float b = f->b[j * f->n + k];
                f->b[j * f->n + k] = f->b[(j - 1) * f->n + k];
                f->b[(j - 1) * f->n + k] = b;
            }
        }
}

/* The first of the components of largest magnitude. Magnitudes order as their bits do, which are compared
 * side by side. */
static size_t largest_of(size_t count, const float *x) {
    int32_t peak = 0;
    size_t at = 0;
    for (size_t j = 0; j < count; j++) {
        int32_t bits;
        memcpy(&bits, x + j, sizeof bits);
        bits &= INT32_MAX;
        peak = bits > peak ? bits : peak;
    }
    float magnitude;
    memcpy(&magnitude, &peak, sizeof magnitude);
    while (at + 1 < count && fabsf(x[at]) != magnitude)
        at++;
    return at;
}

/* Signs by convention: the largest component of u positive. */
static ousac_status fix_signs(const site *st, size_t r, found *f, ousac_error *error) {
    for (size_t i = 0; i < r; i++) {
        float *u = f->u + i * st->m, *b = f->b + i * st->n;
        const float sign = u[largest_of(st->m, u)] < 0 ? -1.0F : 1.0F;
        int finite = 1;
        for (size_t j = 0; j < st->m; j++)
            u[j] *= sign;
        for (size_t j = 0; j < st->n; j++) {
            b[j] *= sign;
            finite &= fabsf(b[j]) <= FLT_MAX;
        }
        if (!finite)
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "direction %zu of a factor does not fit float32",
                              i);
    }
    return OUSAC_STATUS_OK;
}

static double left_of(const site *st, size_t r, const double *theta) {
    double held = 0;
    for (size_t i = 0; i < r; i++)
        held += theta[i];
    return st->trace - held;
}

static double root_of_squares(size_t r, const double *theta) {
    double sum = 0;
    for (size_t i = 0; i < r; i++)
        sum += theta[i] * theta[i];
    return sqrt(sum);
}

/* The factors of U, where theta and residual say that U is good enough. */
static ousac_status accept(ousac_factors *factors, const site *st, const iteration *it, found *f, int *done,
                           ousac_error *error) {
    const size_t r = it->r, count = st->m < st->n ? st->m : st->n;
    double least = f->theta[0];
    for (size_t i = 0; i < r; i++)
        least = fmin(least, f->theta[i]);
    const double left = left_of(st, r, f->theta), mean = left / (double)(count - r);
    /* Beyond rounding of the trace nothing is known of what is left. */
    if (!(left > 1e-6 * st->trace) || mean > least ||
        !(excess(r, f->theta, f->residual, it->values[it->b - 1]) <= OUSAC_LEADING_EXCESS * left))
        return OUSAC_STATUS_OK;
    if (ousac_spectral_significant(f->theta, r, 0) < r)
        return OUSAC_STATUS_OK;
    const ousac_status status = fix_signs(st, r, f, error);
    if (status)
        return status;
    *factors = (ousac_factors){.m = st->m,
                               .n = st->n,
                               .rank = r,
                               .directions = count,
                               .lambda_count = count,
                               .lambda = f->lambda,
                               .a = f->u,
                               .b = f->b};
    f->lambda = NULL;
    f->u = f->b = NULL;
    memcpy(factors->lambda, f->theta, r * sizeof *f->theta);
    sort_rows(factors);
    for (size_t i = r; i < count; i++)
        factors->lambda[i] = mean;
    *done = 1;
    return OUSAC_STATUS_OK;
}

/* A start as good as a normal one and two orders cheaper: the 128 bits of a draw are as many signs. */
static void draw_signs(size_t count, float *x) {
    uint32_t words[4] = {0};
    for (size_t i = 0; i < count; i++) {
        if (i % 128 == 0)
            ousac_philox_draw(0, STREAM, 0, (uint32_t)(i / 128), words);
        x[i] = (words[i % 128 / 32] >> (i % 32) & 1U) != 0 ? 1.0F : -1.0F;
    }
}

/* P (DOMINANT, k), orthonormal rows on the backend, near the dominant eigenvectors of the moment. */
static ousac_status dominate(const site *st, const iteration *it, double *p, double *image, int *good,
                             ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t k = st->order, q = DOMINANT;
    double *gram = NULL;
    draw_signs(q * k, it->tall);
    for (size_t i = 0; i < q * k; i++)
        it->wide[i] = (double)it->tall[i];
    ousac_status status = ousac_spectral_place(&gram, be, q, q, NULL, error);
    if (!status)
        status = be->upload(be, p, it->wide, q * k * sizeof *p, error);
    for (int sweep = 0; sweep < 2 && !status && *good; sweep++) {
        status = be->gemm64(be, 0, 0, q, k, k, 1, p, k, st->moment, k, 0, image, k, error);
        if (!status)
            status = be->gemm64(be, 0, 1, q, q, k, 1, image, k, image, k, 0, gram, q, error);
        if (!status)
            status = be->download(be, it->gram, gram, q * q * sizeof *gram, error);
        if (status || !(*good = ousac_cholesky(q, it->gram)))
            break;
        ousac_invert_lower(q, it->gram, it->more);
        status = be->upload(be, gram, it->more, q * q * sizeof *gram, error);
        if (!status)
            status = be->gemm64(be, 0, 0, q, k, q, 1, gram, q, image, k, 0, p, k, error);
    }
    be->release(be, gram);
    return status;
}

/* trace(W C W^T). With Pi = P^T P, T = P C P^T and C' = (1 - Pi) C (1 - Pi):
 *
 *     trace(S C) = sum of S o C' + 2 sum of (W P^T) o (W C P^T) - sum of (W P^T) o (W P^T T)
 *
 * The first sum takes S from float32, whose rounding would otherwise be multiplied by the largest eigenvalues
 * of C and show in the small difference between the trace and what the directions hold. `s`: host. */
static ousac_status trace_input(site *st, const iteration *it, const float *s, int *good,
                                ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t k = st->order, m = st->m, q = DOMINANT;
    double *p = NULL, *pc = NULL, *t = NULL, *tp = NULL, *wp = NULL, *wpc = NULL, *wpt = NULL, *rest = NULL;
    double *host = ousac_malloc(k * k > 3 * m * q ? k * k : 3 * m * q, sizeof *host);
    ousac_status status =
        host ? OUSAC_STATUS_OK : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for order %zu", k);
    struct {
        double **block;
        size_t rows, cols;
    } const blocks[] = {{&p, q, k},  {&pc, q, k},  {&t, q, q},   {&tp, q, k},
                        {&wp, m, q}, {&wpc, m, q}, {&wpt, m, q}, {&rest, k, k}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks && !status; i++)
        status = ousac_spectral_place(blocks[i].block, be, blocks[i].rows, blocks[i].cols, NULL, error);
    if (!status)
        status = dominate(st, it, p, pc, good, error);
    if (status || !*good)
        goto done;
    if ((status = be->gemm64(be, 0, 0, q, k, k, 1, p, k, st->moment, k, 0, pc, k, error)) ||
        (status = be->gemm64(be, 0, 1, q, q, k, 1, pc, k, p, k, 0, t, q, error)) ||
        (status = be->gemm64(be, 0, 0, q, k, q, 1, t, q, p, k, 0, tp, k, error)) ||
        (status = be->gemm64(be, 0, 1, m, q, k, 1, st->wide, k, p, k, 0, wp, q, error)) ||
        (status = be->gemm64(be, 0, 1, m, q, k, 1, st->wide, k, pc, k, 0, wpc, q, error)) ||
        (status = be->gemm64(be, 0, 0, m, q, q, 1, wp, q, t, q, 0, wpt, q, error)) ||
        (status = be->download(be, host, st->moment, k * k * sizeof *host, error)) ||
        (status = be->upload(be, rest, host, k * k * sizeof *host, error)) ||
        (status = be->gemm64(be, 1, 0, k, k, q, -1, p, k, pc, k, 1, rest, k, error)) ||
        (status = be->gemm64(be, 1, 0, k, k, q, -1, pc, k, p, k, 1, rest, k, error)) ||
        (status = be->gemm64(be, 1, 0, k, k, q, 1, p, k, tp, k, 1, rest, k, error)) ||
        (status = be->download(be, host, rest, k * k * sizeof *host, error)))
        goto done;
    for (size_t i = 0; i < k * k; i++)
        st->trace += host[i] * (double)s[i];
    if ((status = be->download(be, host, wp, m * q * sizeof *host, error)) ||
        (status = be->download(be, host + m * q, wpc, m * q * sizeof *host, error)) ||
        (status = be->download(be, host + 2 * m * q, wpt, m * q * sizeof *host, error)))
        goto done;
    for (size_t i = 0; i < m * q; i++)
        st->trace += host[i] * (2 * host[m * q + i] - host[2 * m * q + i]);
done:
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        be->release(be, *blocks[i].block);
    ousac_free(host);
    return status;
}

/* The trace of K, the moment and W in float64: what is left is so small a share of the trace that float32
 * does not resolve it. Once. */
static ousac_status make_precise(site *st, const iteration *it, int *good, ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t k = st->order;
    double *full = NULL;
    float *s = NULL;
    if (st->moment)
        return OUSAC_STATUS_OK;
    ousac_status status = ousac_spectral_reserve(&full, k, k, error);
    for (size_t i = 0; !status && i < k; i++)
        for (size_t j = 0; j <= i; j++)
            full[i * k + j] = full[j * k + i] = st->packed[i * (i + 1) / 2 + j];
    if (!status)
        status = ousac_spectral_place(&st->moment, be, k, k, full, error);
    if (!status && it->s) {
        s = ousac_malloc(k * k, sizeof *s);
        status = s ? be->download(be, s, it->s, k * k * sizeof *s, error)
                   : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a matrix of order %zu", k);
        if (!status)
            status =
                ousac_spectral_place_weights(&st->wide, be, st->m, st->n, st->weights, NULL, NULL, error);
        st->trace = 0;
        if (!status)
            status = trace_input(st, it, s, good, error);
    }
    ousac_free(full);
    ousac_free(s);
    return status;
}

enum { SQUARE = 32 };

/* The square at (top, left), wholly below the diagonal, to where it belongs above: turned in memory of its own,
 * since rows of a matrix often fall on the same lines of a cache. */
static void mirror_square(size_t n, size_t top, size_t left, float *a) {
    float turned[SQUARE][SQUARE];
    for (size_t i = 0; i < SQUARE; i++)
        for (size_t j = 0; j < SQUARE; j++)
            turned[j][i] = a[(top + i) * n + left + j];
    for (size_t j = 0; j < SQUARE; j++)
        memcpy(a + (left + j) * n + top, turned[j], sizeof turned[j]);
}

/* The other triangle of a symmetric matrix whose lower one is given, in squares that stay in cache. */
static void mirror(size_t n, float *a) {
    for (size_t top = 0; top < n; top += SQUARE)
        for (size_t left = 0; left <= top; left += SQUARE) {
            if (left < top && top + SQUARE <= n) {
                mirror_square(n, top, left, a);
                continue;
            }
            for (size_t i = top; i < n && i < top + SQUARE; i++)
                for (size_t j = left; j < i && j < left + SQUARE; j++)
                    a[j * n + i] = a[i * n + j];
        }
}

static ousac_status check_weights(const site *st, ousac_error *error) {
    int finite = 0;
    const ousac_status status =
        st->backend->all_finite(st->backend, st->m, st->n, st->w, st->n, &finite, error);
    if (status || finite)
        return status;
    for (size_t i = 0; i < st->m; i++)
        for (size_t j = 0; j < st->n; j++)
            if (!isfinite(st->weights[i * st->n + j]))
                return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "weight (%zu, %zu) is not finite", i, j);
    return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "weights are not finite, but each of them is");
}

/* The moment, once in float32. */
static ousac_status check_moment(const site *st, const iteration *it, ousac_error *error) {
    const size_t k = st->order;
    int finite = 0;
    const ousac_status status = st->backend->all_finite(st->backend, k, k, it->c, k, &finite, error);
    if (status || finite)
        return status;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j <= i; j++) {
            const double value = st->packed[i * (i + 1) / 2 + j];
            if (!isfinite((float)value))
                return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                                  "moment of order %zu holds %g at (%zu, %zu): expected a float32 number", k,
                                  value, i, j);
        }
    return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "a moment is not finite, but each of its elements is");
}

static int allocate(site *st, iteration *it) {
    const ousac_backend *be = st->backend;
    const size_t k = st->order, b = it->b;
    const int input = st->side == OUSAC_SIDE_INPUT;
    it->c = floats(it, k, k);
    it->x = floats(it, b, k);
    it->y = floats(it, b, k);
    it->small = floats(it, b, b);
    it->tall = ousac_malloc(b * (k > b ? k : b), sizeof *it->tall);
    it->wide = ousac_malloc(b * k, sizeof *it->wide);
    it->gram = ousac_malloc(b * b, sizeof *it->gram);
    it->more = ousac_malloc(b * b, sizeof *it->more);
    it->values = ousac_malloc(b, sizeof *it->values);
    if (input) {
        it->s = floats(it, k, k);
        it->z = floats(it, b, k);
    }
    /* The host's own weights are only read. */
    st->w = be->host ? (float *)(uintptr_t)st->weights : floats(it, st->m, st->n);
    return it->c && it->x && it->y && it->small && it->tall && it->wide && it->gram && it->more &&
           it->values && (!input || (it->s && it->z)) && st->w;
}

/* A start that has been multiplied once for nearly nothing: X = R C, R (b, n) with four random signs in every
 * column, so that each row of C is in it (a sparse embedding; Nelson and Nguyen, arXiv 1211.1002). */
enum { ENTRIES = 4 };

/* Row and sign of entry t of a column whose draw is `words`. */
static size_t entry(const iteration *it, const uint32_t words[ENTRIES], size_t t, float *sign) {
    *sign = (words[t] & 1U) != 0 ? 1.0F : -1.0F;
    return (size_t)((uint64_t)(words[t] >> 1) * it->b >> 31);
}

/* X from c, the moment on the host: only what R holds is added. */
static void draw_start(const iteration *it, const float *c, float *x) {
    const size_t n = it->n;
    memset(x, 0, it->b * n * sizeof *x);
    for (size_t j = 0; j < n; j++) {
        uint32_t words[ENTRIES];
        ousac_philox_draw(0, STREAM, 0, (uint32_t)j, words);
        for (size_t t = 0; t < ENTRIES; t++) {
            float sign;
            const float *restrict row = c + j * n;
            float *restrict target = x + entry(it, words, t, &sign) * n;
            for (size_t k = 0; k < n; k++)
                target[k] += sign * row[k];
        }
    }
}

/* X by a product with the moment on a device, to which that costs less than the sums cost the host. */
static ousac_status multiply_start(const iteration *it, ousac_error *error) {
    const ousac_backend *be = it->backend;
    const size_t n = it->n, b = it->b;
    memset(it->tall, 0, b * n * sizeof *it->tall);
    for (size_t j = 0; j < n; j++) {
        uint32_t words[ENTRIES];
        ousac_philox_draw(0, STREAM, 0, (uint32_t)j, words);
        for (size_t t = 0; t < ENTRIES; t++) {
            float sign;
            const size_t row = entry(it, words, t, &sign);
            it->tall[row * n + j] += sign;
        }
    }
    const ousac_status status = be->upload(be, it->y, it->tall, b * n * sizeof *it->tall, error);
    return status ? status : be->expand(be, b, n, n, it->y, n, it->c, n, 0, it->x, n, error);
}

/* The moment, W and S in float32, and the trace of K. */
static ousac_status prepare(site *st, iteration *it, ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t k = st->order, bytes = k * k * sizeof(float);
    float *room = NULL; /* for what a device has to be sent */
    ousac_status status = OUSAC_STATUS_OK;
    if (!allocate(st, it) || (!be->host && !(room = ousac_malloc(k * k, sizeof *room))))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an iteration of order %zu", k);
    if (!status && !be->host)
        status = be->upload(be, st->w, st->weights, st->m * st->n * sizeof *st->w, error);
    if (!status)
        status = check_weights(st, error);
    float *c = be->host ? it->c : room, *s = be->host ? it->s : room;
    if (!status) {
        for (size_t i = 0; i < k; i++)
            to_float(i + 1, st->packed + i * (i + 1) / 2, c + i * k);
        mirror(k, c);
        status = be->host ? OUSAC_STATUS_OK : be->upload(be, it->c, c, bytes, error);
    }
    if (!status)
        status = check_moment(st, it, error);
    if (!status && be->host)
        draw_start(it, c, it->x);
    else if (!status)
        status = multiply_start(it, error);
    if (!status && it->s) {
        status = be->gram(be, st->m, st->n, st->w, st->n, it->s, st->n, error);
        if (!status && !be->host)
            status = be->download(be, s, it->s, bytes, error);
        for (size_t i = 0; !status && i < k; i++) { /* trace(S C) */
            const double *row = st->packed + i * (i + 1) / 2;
            st->trace += row[i] * (double)s[i * k + i] + 2 * dot_mixed(i, row, s + i * k);
        }
        if (!status) {
            mirror(k, s);
            status = be->host ? OUSAC_STATUS_OK : be->upload(be, it->s, s, bytes, error);
        }
    }
    for (size_t i = 0; !it->s && !status && i < k; i++)
        st->trace += st->packed[i * (i + 1) / 2 + i];
    ousac_free(room);
    return status;
}

static ousac_status look(ousac_factors *factors, site *st, iteration *it, found *f, int *good, int *done,
                         ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = it->r;
    float *y = floats(it, r, it->n);
    double *u = NULL;
    ousac_status status =
        y ? OUSAC_STATUS_OK : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    if (!status)
        status = ritz(it, y, good, error);
    if (!status && *good)
        status = ousac_spectral_place(&u, be, r, st->m, NULL, error);
    if (!status && *good)
        status = directions(st, it, y, u, good, error);
    if (!status && *good)
        status = project(st, it, u, f, error);
    if (!status && *good)
        status = rayleigh(st, it, f, error);
    if (!status && *good && left_of(st, r, f->theta) < FLOAT_SUFFICES * root_of_squares(r, f->theta)) {
        status = make_precise(st, it, good, error);
        if (!status && *good)
            status = rayleigh64(st, it, u, f->theta, error);
    }
    be->release(be, y); /* before the factors, which stay, are allocated among them */
    be->release(be, u);
    if (!status && *good)
        status = accept(factors, st, it, f, done, error);
    return status;
}

ousac_status ousac_leading_create(ousac_factors *factors, const ousac_backend *backend, ousac_side side,
                                  size_t m, size_t n, const double *packed, const float *w, size_t rank,
                                  int *done, ousac_error *error) {
    const size_t order = side == OUSAC_SIDE_INPUT ? n : m;
    site st = {
        .backend = backend, .side = side, .m = m, .n = n, .order = order, .packed = packed, .weights = w};
    iteration it = {.backend = backend, .n = order, .b = rank + rank / 4 + 16, .r = rank};
    int good = 1;
    *done = 0;
    memset(factors, 0, sizeof *factors);
    /* U has m components, of which `order` are independent. */
    if (!ousac_leading_pays(order, rank) || m < order || n < order)
        return OUSAC_STATUS_OK;
    found f = {0};
    ousac_status status = found_create(&f, m, n, rank)
                              ? prepare(&st, &it, error)
                              : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", rank);
    int sweeps = SWEEPS, restarted = 0;
    for (int i = 0; i < LOOKS && !status && good && !*done; i++) {
        for (; sweeps > 0 && !status && good; sweeps--) {
            status = apply(&it, error);
            if (!status)
                status = orthonormalise(&it, &good, error);
            if (!status && !good && !restarted) { /* a spectrum too steep for a start multiplied already */
                restarted = good = 1;
                sweeps = SWEEPS + 2;
                draw_signs(it.b * it.n, it.tall);
                status = backend->upload(backend, it.x, it.tall, it.b * it.n * sizeof *it.tall, error);
            }
        }
        sweeps = SWEEPS_MORE;
        if (!status && good)
            status = apply(&it, error);
        if (!status && good)
            status = look(factors, &st, &it, &f, &good, done, error);
    }
    iteration_free(&it);
    found_free(&f);
    if (!backend->host)
        backend->release(backend, st.w);
    backend->release(backend, st.moment);
    backend->release(backend, st.wide);
    return status;
}
