#include "profile/bundle/storage.h"

#include "calib/spectra/spectral.h"
#include "formats/memory.h"

#include <math.h>
#include <string.h>

enum { I8_MAX = 127, FORMS = 3 };

static const ousac_dtype forms[FORMS] = {OUSAC_DTYPE_I8, OUSAC_DTYPE_BF16, OUSAC_DTYPE_F32};

/* ---- rounding ---- */

static int round_row_i8(const float *values, size_t cols, signed char *data, float *scale, float *back) {
    float largest = 0;
    for (size_t j = 0; j < cols; j++) {
        if (!isfinite(values[j]))
            return -1;
        largest = fabsf(values[j]) > largest ? fabsf(values[j]) : largest;
    }
    *scale = largest / I8_MAX;
    for (size_t j = 0; j < cols; j++) {
        /* the scale of tiny rows is subnormal or 0: the quotient is then clamped, or the row is zero */
        const float steps = *scale > 0 ? values[j] / *scale : 0;
        const float nearest = nearbyintf(steps > I8_MAX ? I8_MAX : steps < -I8_MAX ? -I8_MAX : steps);
        data[j] = (signed char)nearest;
        if (back)
            back[j] = nearest * *scale;
    }
    return 0;
}

int ousac_storage_round(ousac_dtype dtype, const float *values, size_t rows, size_t cols, void *data,
                        float *scale, float *back) {
    if (dtype == OUSAC_DTYPE_I8) {
        for (size_t i = 0; i < rows; i++)
            if (round_row_i8(values + i * cols, cols, (signed char *)data + i * cols, &scale[i],
                             back ? back + i * cols : NULL))
                return -1;
        return 0;
    }
    const size_t element = ousac_dtype_bytes(dtype);
    if (ousac_dtype_from_f32(dtype, values, rows * cols, data))
        return -1;
    for (size_t i = 0; i < rows * cols; i++) {
        float seen = 0;
        if (ousac_dtype_to_f32(dtype, (const unsigned char *)data + i * element, 1, &seen) || !isfinite(seen))
            return -1;
        if (back)
            back[i] = seen;
    }
    return 0;
}

ousac_status ousac_storage_refuse(ousac_dtype dtype, const float *values, size_t count, const char *site,
                                  const char *which, ousac_error *error) {
    float stored[1] = {0}, scale = 0;
    size_t i = 0;
    while (i + 1 < count && ousac_storage_round(dtype, values + i, 1, 1, stored, &scale, NULL) == 0)
        i++;
    return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER, "tensor \"factor/%s/%s\": %g is not a finite number in %s",
                      site, which, (double)values[i], ousac_dtype_name(dtype));
}

/* ---- what it adds ---- */

/* Everything about one site that does not depend on the types. What is as large as the weight stays on the
 * backend; the rest is the host's, lent where a product needs it. */
typedef struct site_view {
    const ousac_model *model;
    const ousac_backend *backend;
    const ousac_site *site;
    size_t rank;
    const double *lambda;
    double left;        /* the error that the directions leave */
    double *a, *b;      /* (rank, m), (rank, n) */
    double *moment;     /* backend (n, n) of the input; NULL where that of the output is known */
    double *residual;   /* backend (m, n): T = W - A B; with `moment`, as what follows */
    double *at, *bc;    /* (rank, n): A^T T and B C */
    double per_channel; /* tr C / n; without `moment` */
} site_view;

/* What rounding a factor to one type changes, and that through T (of A) or C (of B): all NULL for no change.
 */
typedef struct change {
    double *delta; /* (rank, m) or (rank, n) */
    double *seen;  /* (rank, n): dA^T T or dB C; where the moment of the input is known */
} change;

static ousac_status no_memory(const ousac_site *site, ousac_error *error) {
    return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "site %s: no memory to measure what rounding adds",
                      site->name);
}

static double squares(const double *values, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i] * values[i];
    return sum;
}

static double dot(const double *x, const double *y, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += x[i] * y[i];
    return sum;
}

/* The packed sum of a group's moments over its segments. */
static ousac_status sum_moments(const site_view *v, const ousac_profile *profile, double **packed,
                                ousac_error *error) {
    *packed = ousac_malloc(ousac_profile_moment_size(&profile->arch.groups[v->site->group]), sizeof **packed);
    return *packed ? ousac_profile_sum_moments(profile, v->site->group, *packed, error)
                   : no_memory(v->site, error);
}

/* A matrix of the backend, and where the host writes it: the block itself where memory is the same, else
 * memory of its own. */
static ousac_status room_create(const site_view *v, size_t rows, double **block, double **room,
                                ousac_error *error) {
    const size_t cols = v->site->n;
    ousac_status status = ousac_spectral_place(block, v->backend, rows, cols, NULL, error);
    if (v->backend->host)
        *room = *block;
    else if (!status)
        status = ousac_spectral_reserve(room, rows, cols, error);
    return status;
}

/* Sends what was written. `room` is the caller's no longer, whatever `status` says of the writing. */
static ousac_status room_send(const site_view *v, size_t rows, double *block, double *room,
                              ousac_status status, ousac_error *error) {
    const ousac_backend *be = v->backend;
    if (be->host)
        return status;
    if (!status)
        status = be->upload(be, block, room, rows * v->site->n * sizeof *room, error);
    ousac_free(room);
    return status;
}

/* The whole symmetric moment of an input from its packed lower triangle. */
static ousac_status view_moment(site_view *v, const double *packed, ousac_error *error) {
    const size_t n = v->site->n;
    double *whole = NULL;
    ousac_status status = room_create(v, n, &v->moment, &whole, error);
    for (size_t i = 0; !status && i < n; i++)
        for (size_t j = 0; j <= i; j++)
            whole[i * n + j] = whole[j * n + i] = packed[i * (i + 1) / 2 + j];
    return room_send(v, n, v->moment, whole, status, error);
}

/* tr C of a group whose output's moment is known: tr D times the weighted energies of dx over those of dy. */
static double input_trace(const ousac_profile *profile, size_t group, const double *packed) {
    const ousac_arch *arch = &profile->arch;
    const size_t site = arch->groups[group].first_site, m = arch->groups[group].dim;
    double trace = 0, dx2 = 0, dy2 = 0;
    for (size_t i = 0; i < m; i++)
        trace += packed[i * (i + 1) / 2 + i];
    for (size_t e = 0; e < profile->schedule.step_count * OUSAC_BRANCHES; e++)
        if (profile->gate[e] == OUSAC_GATE_CACHED) {
            const double weight = profile->weight[e * arch->group_count + group];
            dx2 += weight * profile->scalar[OUSAC_SCALAR_DX2][e * arch->group_count + group];
            dy2 += weight * profile->scalar[OUSAC_SCALAR_DY2][e * arch->site_count + site];
        }
    return dy2 > 0 ? trace * (dx2 / dy2) : 0;
}

static ousac_status view_weight(site_view *v, size_t s, ousac_error *error) {
    const ousac_backend *be = v->backend;
    const size_t m = v->site->m, n = v->site->n;
    float *w = ousac_malloc(m, n * sizeof *w);
    double *wide = NULL, *placed_a = NULL, *placed_b = NULL;
    const double *a = NULL, *b = NULL;
    ousac_status status = w ? room_create(v, m, &v->residual, &wide, error) : no_memory(v->site, error);
    if (!status)
        status = ousac_model_site_weight(v->model, s, w, error);
    for (size_t i = 0; !status && i < m * n; i++)
        wide[i] = (double)w[i];
    status = room_send(v, m, v->residual, wide, status, error);
    ousac_free(w);
    if (!status)
        status = ousac_spectral_lend(be, v->rank, m, v->a, &placed_a, &a, error);
    if (!status)
        status = ousac_spectral_lend(be, v->rank, n, v->b, &placed_b, &b, error);
    if (!status)
        status = be->gemm64(be, 1, 0, m, n, v->rank, -1, a, m, b, n, 1, v->residual, n, error);
    be->release(be, placed_a);
    be->release(be, placed_b);
    return status;
}

/* out (rank, n) = X M: X (rank, inner) and out of the host, M (inner, n) of the backend. */
static ousac_status through(const site_view *v, size_t inner, const double *x, const double *matrix,
                            double *out, ousac_error *error) {
    const ousac_backend *be = v->backend;
    const size_t n = v->site->n;
    double *placed = NULL, *product = NULL;
    const double *lent = NULL;
    ousac_status status = ousac_spectral_lend(be, v->rank, inner, x, &placed, &lent, error);
    if (!status && !be->host)
        status = ousac_spectral_place(&product, be, v->rank, n, NULL, error);
    if (!status)
        status = be->gemm64(be, 0, 0, v->rank, n, inner, 1, lent, inner, matrix, n, 0,
                            be->host ? out : product, n, error);
    if (!status && !be->host)
        status = be->download(be, out, product, v->rank * n * sizeof *out, error);
    be->release(be, placed);
    be->release(be, product);
    return status;
}

/* (rank, m) to (rank, n): X^T T, X stored transposed as the factors are. */
static ousac_status through_residual(const site_view *v, const double *x, double *out, ousac_error *error) {
    return through(v, v->site->m, x, v->residual, out, error);
}

/* (rank, n) to (rank, n): X C. */
static ousac_status through_moment(const site_view *v, const double *x, double *out, ousac_error *error) {
    return through(v, v->site->n, x, v->moment, out, error);
}

static void view_free(site_view *v) {
    ousac_free(v->a);
    ousac_free(v->b);
    if (v->backend) {
        v->backend->release(v->backend, v->moment);
        v->backend->release(v->backend, v->residual);
    }
    ousac_free(v->at);
    ousac_free(v->bc);
}

static void change_free(change *c) {
    ousac_free(c->delta);
    ousac_free(c->seen);
}

static ousac_status view_create(site_view *v, const ousac_model *model, const ousac_profile *profile,
                                const ousac_factors *factors, size_t s, size_t rank, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const ousac_site *site = &model->arch.sites[s];
    const ousac_group *group = &model->arch.groups[site->group];
    double *packed = NULL;
    *v = (site_view){
        .model = model, .backend = model->backend, .site = site, .rank = rank, .lambda = factors->lambda};
    v->left = ousac_spectrum_tail(factors->lambda, factors->lambda_count, rank);
    v->a = ousac_malloc(rank, site->m * sizeof *v->a);
    v->b = ousac_malloc(rank, site->n * sizeof *v->b);
    if (!v->a || !v->b) {
        status = no_memory(site, error);
        goto done;
    }
    for (size_t i = 0; i < rank * site->m; i++)
        v->a[i] = (double)factors->a[i];
    for (size_t i = 0; i < rank * site->n; i++)
        v->b[i] = (double)factors->b[i];
    status = sum_moments(v, profile, &packed, error);
    if (status)
        goto done;
    if (group->side == OUSAC_SIDE_OUTPUT) {
        v->per_channel = input_trace(profile, site->group, packed) / (double)site->n;
        goto done;
    }
    v->at = ousac_malloc(rank, site->n * sizeof *v->at);
    v->bc = ousac_malloc(rank, site->n * sizeof *v->bc);
    status = v->at && v->bc ? view_moment(v, packed, error) : no_memory(site, error);
    if (!status)
        status = view_weight(v, s, error);
    if (!status)
        status = through_residual(v, v->a, v->at, error);
    if (!status)
        status = through_moment(v, v->b, v->bc, error);
done:
    ousac_free(packed);
    if (status) {
        view_free(v);
        *v = (site_view){0};
    }
    return status;
}

/* dst (2 rank, cols): the sum of base and delta, then delta; either may be NULL, for zeros. */
static void stack(double *dst, const double *base, const double *delta, size_t count) {
    for (size_t i = 0; i < count; i++) {
        dst[i] = (base ? base[i] : 0) + (delta ? delta[i] : 0);
        dst[count + i] = delta ? delta[i] : 0;
    }
}

/* out (k, k) = X Y^T of the host, X and Y (k, inner): on the backend. Y may be X. */
static ousac_status inner_products(const ousac_backend *be, size_t k, size_t inner, const double *x,
                                   const double *y, double *out, ousac_error *error) {
    double *placed_x = NULL, *placed_y = NULL, *product = NULL;
    const double *left = NULL, *right = NULL;
    ousac_status status = ousac_spectral_lend(be, k, inner, x, &placed_x, &left, error);
    right = left;
    if (!status && y != x)
        status = ousac_spectral_lend(be, k, inner, y, &placed_y, &right, error);
    if (!status && !be->host)
        status = ousac_spectral_place(&product, be, k, k, NULL, error);
    if (!status)
        status = be->gemm64(be, 0, 1, k, k, inner, 1, left, inner, right, inner, 0, be->host ? out : product,
                            k, error);
    if (!status && !be->host)
        status = be->download(be, out, product, k * k * sizeof *out, error);
    be->release(be, placed_x);
    be->release(be, placed_y);
    be->release(be, product);
    return status;
}

/* Where the moment of the input is known. Stacked, L = (dA | A) and R = (B + dB ; dB) have k = 2 r directions
 * and dM = L R, so tr dM C dM^T = sum over (L^T L) o (R C R^T), and tr T C dM^T = sum over (L^T T) o (R C).
 */
static ousac_status added_exactly(const site_view *v, const change *a, const change *b, double *added,
                                  ousac_error *error) {
    const size_t m = v->site->m, n = v->site->n, r = v->rank, k = 2 * r;
    ousac_status status = OUSAC_STATUS_OK;
    double *l = ousac_calloc(k, m * sizeof *l), *right = ousac_malloc(k, n * sizeof *right);
    double *moved = ousac_malloc(k, n * sizeof *moved);
    double *g = ousac_malloc(k, k * sizeof *g), *h = ousac_malloc(k, k * sizeof *h);
    if (!l || !right || !moved || !g || !h) {
        status = no_memory(v->site, error);
        goto done;
    }
    if (a->delta)
        memcpy(l, a->delta, r * m * sizeof *l);
    memcpy(l + r * m, v->a, r * m * sizeof *l);
    stack(right, v->b, b->delta, r * n);
    stack(moved, v->bc, b->seen, r * n);
    status = inner_products(v->backend, k, n, moved, right, g, error);
    if (!status)
        status = inner_products(v->backend, k, m, l, l, h, error);
    if (!status)
        *added = dot(g, h, k * k) - 2 * (a->seen ? dot(a->seen, moved, r * n) : 0) -
                 2 * dot(v->at, moved + r * n, r * n);
done:
    ousac_free(h);
    ousac_free(g);
    ousac_free(moved);
    ousac_free(right);
    ousac_free(l);
    return status;
}

static ousac_status added_by(const site_view *v, const change *a, const change *b, double *added,
                             ousac_error *error) {
    *added = 0;
    if (!a->delta && !b->delta)
        return OUSAC_STATUS_OK;
    if (v->moment)
        return added_exactly(v, a, b, added, error);
    for (size_t i = 0; a->delta && i < v->rank; i++)
        *added += v->lambda[i] * squares(a->delta + i * v->site->m, v->site->m);
    if (b->delta)
        *added += v->per_channel * squares(b->delta, v->rank * v->site->n);
    return OUSAC_STATUS_OK;
}

/* Rounds A (is_b 0) or B; no change for f32. */
static ousac_status change_create(const site_view *v, const ousac_factors *factors, int is_b,
                                  ousac_dtype dtype, change *c, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const float *values = is_b ? factors->b : factors->a;
    const size_t cols = is_b ? v->site->n : v->site->m, count = v->rank * cols;
    float *back = NULL, *scale = NULL;
    void *data = NULL;
    *c = (change){NULL, NULL};
    if (dtype == OUSAC_DTYPE_F32)
        return OUSAC_STATUS_OK;
    back = ousac_malloc(count, sizeof *back);
    scale = ousac_malloc(v->rank, sizeof *scale);
    data = ousac_malloc(count, ousac_dtype_bytes(dtype));
    c->delta = ousac_malloc(count, sizeof *c->delta);
    c->seen = v->moment ? ousac_malloc(v->rank, v->site->n * sizeof *c->seen) : NULL;
    if (!back || !scale || !data || !c->delta || (v->moment && !c->seen)) {
        status = no_memory(v->site, error);
        goto done;
    }
    if (ousac_storage_round(dtype, values, v->rank, cols, data, scale, back)) {
        status = ousac_storage_refuse(dtype, values, count, v->site->name, is_b ? "B" : "A", error);
        goto done;
    }
    for (size_t i = 0; i < count; i++)
        c->delta[i] = (double)back[i] - (double)values[i];
    if (v->moment)
        status = is_b ? through_moment(v, c->delta, c->seen, error)
                      : through_residual(v, c->delta, c->seen, error);
done:
    ousac_free(data);
    ousac_free(scale);
    ousac_free(back);
    return status;
}

static double over(double added, double left) {
    return added == 0 ? 0 : left > 0 ? added / left : INFINITY;
}

/* Of the two together, and each alone. */
static ousac_status measure(const site_view *v, const change *a, const change *b, ousac_storage *storage,
                            ousac_error *error) {
    static const change none = {NULL, NULL};
    double added_a = 0, added_b = 0, added = 0;
    ousac_status status = added_by(v, a, &none, &added_a, error);
    if (!status)
        status = added_by(v, &none, b, &added_b, error);
    if (!status)
        status = added_by(v, a, b, &added, error);
    storage->measured = 1;
    storage->estimated = !v->moment && b->delta;
    storage->added_a = over(added_a, v->left);
    storage->added_b = over(added_b, v->left);
    storage->added = over(added, v->left);
    return status;
}

ousac_status ousac_storage_measure(const ousac_model *model, const ousac_profile *profile,
                                   const ousac_factors *factors, size_t s, size_t rank, int by_moment,
                                   ousac_dtype a, ousac_dtype b, ousac_storage *storage, ousac_error *error) {
    site_view v = {0};
    change of_a = {NULL, NULL}, of_b = {NULL, NULL};
    *storage = (ousac_storage){.a = a, .b = b};
    if (!by_moment || !profile->moment || rank == 0)
        return OUSAC_STATUS_OK;
    ousac_status status = view_create(&v, model, profile, factors, s, rank, error);
    if (!status)
        status = change_create(&v, factors, 0, a, &of_a, error);
    if (!status)
        status = change_create(&v, factors, 1, b, &of_b, error);
    if (!status)
        status = measure(&v, &of_a, &of_b, storage, error);
    change_free(&of_a);
    change_free(&of_b);
    view_free(&v);
    return status;
}

/* Bytes of a direction. */
static size_t cost(const ousac_site *site, ousac_dtype a, ousac_dtype b) {
    return site->m * ousac_dtype_bytes(a) + (a == OUSAC_DTYPE_I8 ? sizeof(float) : 0) +
           site->n * ousac_dtype_bytes(b) + (b == OUSAC_DTYPE_I8 ? sizeof(float) : 0);
}

/* The pairs of forms by rising cost; of equal ones, the finer A first. */
static void order_pairs(const ousac_site *site, int pairs[FORMS * FORMS]) {
    for (int i = 0; i < FORMS * FORMS; i++) {
        int at = i;
        const size_t price = cost(site, forms[i / FORMS], forms[i % FORMS]);
        while (at > 0 && cost(site, forms[pairs[at - 1] / FORMS], forms[pairs[at - 1] % FORMS]) >= price) {
            pairs[at] = pairs[at - 1];
            at--;
        }
        pairs[at] = i;
    }
}

ousac_status ousac_storage_choose(const ousac_model *model, const ousac_profile *profile,
                                  const ousac_factors *factors, size_t s, size_t rank, int by_moment,
                                  ousac_storage *storage, ousac_error *error) {
    site_view v = {0};
    change of_a[FORMS] = {{NULL, NULL}}, of_b[FORMS] = {{NULL, NULL}};
    int pairs[FORMS * FORMS];
    double added = INFINITY;
    *storage = (ousac_storage){.a = OUSAC_DTYPE_F32, .b = OUSAC_DTYPE_F32};
    if (!by_moment || !profile->moment || rank == 0)
        return OUSAC_STATUS_OK;
    ousac_status status = view_create(&v, model, profile, factors, s, rank, error);
    for (int f = 0; !status && f < FORMS; f++) {
        status = change_create(&v, factors, 0, forms[f], &of_a[f], error);
        if (!status)
            status = change_create(&v, factors, 1, forms[f], &of_b[f], error);
    }
    if (!status)
        order_pairs(v.site, pairs);
    for (int i = 0; !status && i < FORMS * FORMS; i++) { /* the last, f32 twice, adds nothing */
        const change *a = &of_a[pairs[i] / FORMS], *b = &of_b[pairs[i] % FORMS];
        status = added_by(&v, a, b, &added, error);
        if (!status && over(added, v.left) < OUSAC_STORAGE_ADDED_MAX) {
            storage->a = forms[pairs[i] / FORMS];
            storage->b = forms[pairs[i] % FORMS];
            status = measure(&v, a, b, storage, error);
            break;
        }
    }
    for (int f = 0; f < FORMS; f++) {
        change_free(&of_a[f]);
        change_free(&of_b[f]);
    }
    view_free(&v);
    return status;
}
