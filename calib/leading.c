#include "calib/leading.h"

#include "calib/philox.h"
#include "calib/spectral.h"
#include "formats/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    STREAM = 0x1ead, /* of the random start, apart from those of samples */
    SMALLEST = 256,  /* order below which a full solver is a matter of milliseconds */
    SWEEPS = 3, /* before the first look; each multiplies what is missed by about (lambda_b / lambda_r)^2 */
    SWEEPS_MORE = 2, /* after a look that was not good enough */
    LOOKS = 3,
    DOMINANT = 16 /* directions of the moment whose share of the trace is computed in float64 */
};

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

/* --- small matrices on the host --- */

/* G = L L^T in place, lower; 0 where G is not positive definite to rounding. Worked in the upper triangle,
 * whose rows are contiguous. */
static int cholesky(size_t n, double *g) {
    for (size_t k = 0; k < n; k++) {
        double *row = g + k * n;
        if (!(row[k] > 0))
            return 0;
        const double root = sqrt(row[k]);
        for (size_t j = k; j < n; j++)
            row[j] /= root;
        for (size_t i = k + 1; i < n; i++) {
            const double factor = row[i];
            double *below = g + i * n;
            for (size_t j = i; j < n; j++)
                below[j] -= factor * row[j];
        }
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            g[i * n + j] = g[j * n + i];
    return 1;
}

/* inverse = L^-1, lower, zeros above; row by row from L^-1 L = 1. */
static void invert_lower(size_t n, const double *l, double *inverse) {
    memset(inverse, 0, n * n * sizeof *inverse);
    for (size_t i = 0; i < n; i++) {
        double *row = inverse + i * n;
        for (size_t k = 0; k < i; k++)
            for (size_t j = 0; j <= k; j++)
                row[j] -= l[i * n + k] * inverse[k * n + j];
        for (size_t j = 0; j < i; j++)
            row[j] /= l[i * n + i];
        row[i] = 1 / l[i * n + i];
    }
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

/* X = the rows of Y or Z, made orthonormal. Their Gram matrix is needed in float64: its condition is the
 * square of the spectrum's range. *good = 0 where even that does not suffice. */
static ousac_status orthonormalise(const iteration *it, int *good, ousac_error *error) {
    const ousac_backend *be = it->backend;
    const size_t n = it->n, b = it->b;
    double *wide = NULL, *gram = NULL;
    ousac_status status = be->download(be, it->tall, it->s ? it->z : it->y, b * n * sizeof(float), error);
    for (size_t i = 0; i < b * n; i++)
        it->wide[i] = (double)it->tall[i];
    if (!status)
        status = ousac_spectral_place(&wide, be, b, n, it->wide, error);
    if (!status)
        status = ousac_spectral_place(&gram, be, b, b, NULL, error);
    if (!status)
        status = be->gemm64(be, 0, 1, b, b, n, 1, wide, n, wide, n, 0, gram, b, error);
    if (!status)
        status = be->download(be, it->gram, gram, b * b * sizeof(double), error);
    if (!status && (*good = cholesky(b, it->gram)) != 0) {
        invert_lower(b, it->gram, it->more);
        status = upload_floats(it, it->small, b * b, it->more, error);
        if (!status)
            status = be->expand(be, b, n, b, it->small, b, it->s ? it->z : it->y, n, 0, it->x, n, error);
    }
    be->release(be, wide);
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
    if (!status && !(*good = cholesky(b, it->gram)))
        return OUSAC_STATUS_OK;
    if (!status) {
        invert_lower(b, it->gram, it->more);
        status = ousac_spectral_place(&inverse, be, b, b, it->more, error);
    }
    if (!status)
        status = inner_products(it, it->s ? it->z : it->y, it->s ? it->y : it->x, it->gram, error);
    if (!status)
        status = ousac_spectral_place(&a, be, b, b, it->gram, error);
    if (!status)
        status = ousac_spectral_place(&product, be, b, b, NULL, error);
    if (!status)
        status = be->gemm64(be, 0, 0, b, b, b, 1, inverse, b, a, b, 0, product, b, error);
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
    float *w;              /* backend (m, n) */
    double *moment, *wide; /* backend: (order, order), (m, n) */
    double trace;          /* of K */
} site;

/* U (r, m), orthonormal, float64 on the backend, from rows y of the order. */
static ousac_status directions(const site *st, iteration *it, const float *y, double *u, int *good,
                               ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = it->r, m = st->m;
    float *narrow = NULL, *host = ousac_malloc(r * m, sizeof *host);
    double *wide = ousac_malloc(r * m, sizeof *wide), *gram = NULL, *rough = NULL;
    ousac_status status = OUSAC_STATUS_OK;
    if (!host || !wide || !(narrow = be->alloc(be, r * m, sizeof *narrow)))
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    if (!status)
        status = st->side == OUSAC_SIDE_INPUT
                     ? be->linear(be, r, m, st->n, y, st->n, st->w, st->n, NULL, 0, narrow, m, error)
                     : be->copy(be, r, m, y, m, narrow, m, error);
    if (!status)
        status = be->download(be, host, narrow, r * m * sizeof *host, error);
    /* Rows at unit length first: their sizes follow the spectrum. */
    for (size_t i = 0; !status && i < r; i++) {
        double square = 0;
        for (size_t j = 0; j < m; j++)
            square += (double)host[i * m + j] * (double)host[i * m + j];
        for (size_t j = 0; j < m; j++)
            wide[i * m + j] = square > 0 ? (double)host[i * m + j] / sqrt(square) : 0;
    }
    if (!status)
        status = ousac_spectral_place(&rough, be, r, m, wide, error);
    if (!status)
        status = ousac_spectral_place(&gram, be, r, r, NULL, error);
    if (!status)
        status = be->gemm64(be, 0, 1, r, r, m, 1, rough, m, rough, m, 0, gram, r, error);
    if (!status)
        status = be->download(be, it->gram, gram, r * r * sizeof(double), error);
    if (!status && (*good = cholesky(r, it->gram)) != 0) {
        invert_lower(r, it->gram, it->more);
        status = be->upload(be, gram, it->more, r * r * sizeof(double), error);
        if (!status)
            status = be->gemm64(be, 0, 0, r, m, r, 1, gram, r, rough, m, 0, u, m, error);
    }
    be->release(be, narrow);
    be->release(be, gram);
    be->release(be, rough);
    ousac_free(host);
    ousac_free(wide);
    return status;
}

/* theta_i = u_i^T K u_i and residual_i = |K u_i|^2 - theta_i^2, host. With b_i = W^T u_i: theta_i = b_i^T C
 * b_i and |K u_i|^2 = (C b_i)^T S (C b_i). host_b (r, order): b_i, on the output side u_i. */
static ousac_status rayleigh(const site *st, const iteration *it, const double *u, double *host_b,
                             double *theta, double *residual, ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = it->r, k = st->order;
    double *b = NULL, *cb = NULL;
    double *host_cb = ousac_malloc(r * k, sizeof *host_cb);
    const float *scb = it->tall;
    ousac_status status = OUSAC_STATUS_OK;
    if (!host_cb)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    if (!status)
        status = ousac_spectral_place(&cb, be, r, k, NULL, error);
    if (!status && st->side == OUSAC_SIDE_INPUT) {
        status = ousac_spectral_place(&b, be, r, k, NULL, error);
        if (!status)
            status = be->gemm64(be, 0, 0, r, k, st->m, 1, u, st->m, st->wide, k, 0, b, k, error);
    }
    if (!status)
        status = be->gemm64(be, 0, 0, r, k, k, 1, b ? b : u, k, st->moment, k, 0, cb, k, error);
    if (!status)
        status = be->download(be, host_b, b ? b : u, r * k * sizeof *host_b, error);
    if (!status)
        status = be->download(be, host_cb, cb, r * k * sizeof *host_cb, error);
    if (!status && it->s) { /* X and Y are no longer needed */
        status = upload_floats(it, it->x, r * k, host_cb, error);
        if (!status)
            status = be->linear(be, r, k, k, it->x, k, it->s, k, NULL, 0, it->y, k, error);
        if (!status)
            status = be->download(be, it->tall, it->y, r * k * sizeof(float), error);
    }
    for (size_t i = 0; !status && i < r; i++) {
        double dot = 0, square = 0;
        for (size_t j = 0; j < k; j++) {
            const double image = host_cb[i * k + j];
            dot += host_b[i * k + j] * image;
            square += image * (it->s ? (double)scb[i * k + j] : image);
        }
        theta[i] = dot;
        residual[i] = fmax(0, square - dot * dot);
    }
    be->release(be, b);
    be->release(be, cb);
    ousac_free(host_cb);
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

/* Rows of a factor, the i-th times sign[i]. */
static ousac_status round_rows(size_t rows, size_t cols, const double *from, const double *sign, float *to,
                               ousac_error *error) {
    for (size_t i = 0; i < rows * cols; i++) {
        const double value = sign[i / cols] * from[i];
        if (!(fabs(value) <= (double)FLT_MAX))
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "a factor holds %g, which float32 does not", value);
        to[i] = (float)value;
    }
    return OUSAC_STATUS_OK;
}

/* a and b of the directions U. host_b as rayleigh left it; `sign` is scratch of r. */
static ousac_status fill(ousac_factors *f, const site *st, const double *u, const double *host_b,
                         double *sign, ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t r = f->rank, m = f->m, n = f->n;
    double *host = ousac_malloc(r * (m > n ? m : n), sizeof *host), *product = NULL;
    ousac_status status = host ? be->download(be, host, u, r * m * sizeof *host, error)
                               : OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", r);
    for (size_t i = 0; !status && i < r; i++) {
        size_t largest = 0;
        for (size_t j = 1; j < m; j++)
            if (fabs(host[i * m + j]) > fabs(host[i * m + largest]))
                largest = j;
        sign[i] = host[i * m + largest] < 0 ? -1 : 1;
    }
    if (!status)
        status = round_rows(r, m, host, sign, f->a, error);
    if (!status && st->side == OUSAC_SIDE_OUTPUT) {
        status = ousac_spectral_place(&product, be, r, n, NULL, error);
        if (!status)
            status = be->gemm64(be, 0, 0, r, n, m, 1, u, m, st->wide, n, 0, product, n, error);
        if (!status)
            status = be->download(be, host, product, r * n * sizeof *host, error);
        host_b = host;
    }
    if (!status)
        status = round_rows(r, n, host_b, sign, f->b, error);
    be->release(be, product);
    ousac_free(host);
    return status;
}

/* The factors of U, where theta and residual say that U is good enough. */
static ousac_status accept(ousac_factors *factors, const site *st, const iteration *it, const double *u,
                           const double *host_b, const double *theta, double *residual, int *done,
                           ousac_error *error) {
    const size_t r = it->r, count = st->m < st->n ? st->m : st->n;
    double held = 0, least = theta[0];
    for (size_t i = 0; i < r; i++) {
        held += theta[i];
        least = fmin(least, theta[i]);
    }
    const double left = st->trace - held, mean = left / (double)(count - r);
    /* Beyond rounding of the trace nothing is known of what is left. */
    if (!(left > 1e-6 * st->trace) || mean > least ||
        !(excess(r, theta, residual, it->values[it->b - 1]) <= OUSAC_LEADING_EXCESS * left))
        return OUSAC_STATUS_OK;
    ousac_status status = ousac_spectral_begin(factors, st->m, st->n, theta, r, 0, r, error);
    if (!status && factors->rank == r)
        status = fill(factors, st, u, host_b, residual, error);
    if (status || factors->rank < r) {
        ousac_factors_free(factors);
        return status;
    }
    sort_rows(factors);
    for (size_t i = r; i < count; i++)
        factors->lambda[i] = mean;
    factors->directions = count;
    *done = 1;
    return status;
}

static ousac_status look(ousac_factors *factors, const site *st, iteration *it, int *good, int *done,
                         ousac_error *error) {
    const ousac_backend *be = st->backend;
    float *y = floats(it, it->r, it->n);
    double *u = NULL, *theta = ousac_malloc(2 * it->r, sizeof *theta);
    double *host_b = ousac_malloc(it->r * it->n, sizeof *host_b);
    ousac_status status = OUSAC_STATUS_OK;
    if (!y || !theta || !host_b)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu directions", it->r);
    if (!status)
        status = ritz(it, y, good, error);
    if (!status && *good)
        status = ousac_spectral_place(&u, be, it->r, st->m, NULL, error);
    if (!status && *good)
        status = directions(st, it, y, u, good, error);
    if (!status && *good)
        status = rayleigh(st, it, u, host_b, theta, theta + it->r, error);
    if (!status && *good)
        status = accept(factors, st, it, u, host_b, theta, theta + it->r, done, error);
    be->release(be, y);
    be->release(be, u);
    ousac_free(theta);
    ousac_free(host_b);
    return status;
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
        if (status || !(*good = cholesky(q, it->gram)))
            break;
        invert_lower(q, it->gram, it->more);
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

/* The moment in both precisions, W, S and the trace of K. */
static ousac_status prepare(site *st, iteration *it, const float *w, int *good, ousac_error *error) {
    const ousac_backend *be = st->backend;
    const size_t k = st->order, b = it->b;
    const int input = st->side == OUSAC_SIDE_INPUT;
    double *full = NULL;
    float *narrow = NULL;
    ousac_status status = ousac_spectral_reserve(&full, k, k, error);
    if (status)
        return status;
    narrow = ousac_malloc(k * k, sizeof *narrow);
    it->c = floats(it, k, k);
    it->x = floats(it, b, k);
    it->y = floats(it, b, k);
    it->small = floats(it, b, b);
    it->tall = ousac_malloc(b * (k > b ? k : b), sizeof *it->tall);
    it->wide = ousac_malloc(b * k, sizeof *it->wide);
    it->gram = ousac_malloc(b * b, sizeof *it->gram);
    it->more = ousac_malloc(b * b, sizeof *it->more);
    it->values = ousac_malloc(b, sizeof *it->values);
    int short_of_memory = !narrow || !it->c || !it->x || !it->y || !it->small || !it->tall || !it->wide ||
                          !it->gram || !it->more || !it->values;
    if (input) {
        it->s = floats(it, k, k);
        it->z = floats(it, b, k);
        st->w = floats(it, st->m, st->n);
        short_of_memory |= !it->s || !it->z || !st->w;
    }
    if (short_of_memory)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an iteration of order %zu", k);
    for (size_t i = 0; !status && i < k; i++)
        for (size_t j = 0; j <= i; j++) {
            const double value = st->packed[i * (i + 1) / 2 + j];
            full[i * k + j] = full[j * k + i] = value;
            narrow[i * k + j] = narrow[j * k + i] = (float)value;
            if (!isfinite(narrow[i * k + j]))
                status = OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                                    "moment of order %zu holds %g at (%zu, %zu): expected a float32 number",
                                    k, value, i, j);
        }
    if (!status)
        status = be->upload(be, it->c, narrow, k * k * sizeof *narrow, error);
    if (!status)
        status = ousac_spectral_place(&st->moment, be, k, k, full, error);
    if (!status)
        status = ousac_spectral_place_weights(&st->wide, be, st->m, st->n, w, NULL, NULL, error);
    if (!status && input) {
        status = be->upload(be, st->w, w, st->m * st->n * sizeof *w, error);
        if (!status)
            status = be->gram(be, st->m, st->n, st->w, st->n, it->s, st->n, error);
        if (!status)
            status = be->download(be, narrow, it->s, k * k * sizeof *narrow, error);
        for (size_t i = 0; !status && i < k; i++)
            for (size_t j = 0; j < i; j++)
                narrow[j * k + i] = narrow[i * k + j];
        if (!status)
            status = be->upload(be, it->s, narrow, k * k * sizeof *narrow, error);
    }
    if (!status && input)
        status = trace_input(st, it, narrow, good, error);
    for (size_t i = 0; !input && i < k; i++)
        st->trace += st->packed[i * (i + 1) / 2 + i];
    if (!status) {
        draw_signs(b * k, it->tall);
        status = be->upload(be, it->x, it->tall, b * k * sizeof *it->tall, error);
    }
    ousac_free(full);
    ousac_free(narrow);
    return status;
}

ousac_status ousac_leading_create(ousac_factors *factors, const ousac_backend *backend, ousac_side side,
                                  size_t m, size_t n, const double *packed, const float *w, size_t rank,
                                  int *done, ousac_error *error) {
    const size_t order = side == OUSAC_SIDE_INPUT ? n : m;
    site st = {.backend = backend, .side = side, .m = m, .n = n, .order = order, .packed = packed};
    iteration it = {.backend = backend, .n = order, .b = rank + rank / 4 + 16, .r = rank};
    int good = 1;
    *done = 0;
    memset(factors, 0, sizeof *factors);
    /* U has m components, of which `order` are independent. */
    if (!ousac_leading_pays(order, rank) || m < order || n < order)
        return OUSAC_STATUS_OK;
    ousac_status status = prepare(&st, &it, w, &good, error);
    for (int i = 0; i < LOOKS && !status && good && !*done; i++) {
        for (int sweep = 0; sweep < (i ? SWEEPS_MORE : SWEEPS) && !status && good; sweep++) {
            status = apply(&it, error);
            if (!status)
                status = orthonormalise(&it, &good, error);
        }
        if (!status && good)
            status = apply(&it, error);
        if (!status && good)
            status = look(factors, &st, &it, &good, done, error);
    }
    iteration_free(&it);
    backend->release(backend, st.w);
    backend->release(backend, st.moment);
    backend->release(backend, st.wide);
    return status;
}
