/* The two halves of a cached linear on the CUDA backend in bfloat16 against their definitions in double
 * precision. On the emulation, or on a device with OUSAC_TEST_BACKEND=cuda.
 *
 * With u = 2^-8, the unit roundoff of bfloat16, a product of two rounded factors is off by (2 u + u^2) of
 * itself, so that a sum of products is off by that of the sum of their magnitudes. Against the rounded
 * factors only float32 is left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/calib_support.h"
#include "tests/support/emulated.h"

#include "formats/dtype.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-8
#define TWO_ROUNDED (2 * U + U * U)
#define U32 1e-6 /* of sums in float32, in whatever order, and of the forecast */

static const ousac_backend *k;

static void must(ousac_status status) {
    assert_int_equal(status, OUSAC_STATUS_OK);
}

static double rounded(float x) {
    return (double)ousac_bf16_to_f32(ousac_f32_to_bf16(x));
}

/* In one shape: rows; n or m; r; what leading dimensions are longer, and floats before each first. */
typedef struct shape {
    size_t rows, wide, r, pad, skew;
    float s;
} shape;

/* Columns in fours and not, tiles full and not, on both sides of each; ranks of every instance and beyond. */
static const size_t rows_of[] = {1, 33, 130}, wide_of[] = {5, 72, 1152},
                    ranks[] = {1, 7, 64, 65, 100, 192, 200, 256, 300, 128, 129};
enum { SHAPES = 3 * 3 * sizeof ranks / sizeof *ranks };

/* Those with 1152 columns and many rows only with a few ranks, which suffices and takes long enough. */
static int shape_at(size_t i, shape *s) {
    const size_t rank = i / 9;
    *s = (shape){.rows = rows_of[i % 3],
                 .wide = wide_of[i / 3 % 3],
                 .r = ranks[rank],
                 .pad = (size_t[]){0, 4, 1, 3}[i % 4],
                 .skew = i % 5 == 4,
                 .s = (float[]){0, -0.75F, 0.5F}[i % 7 % 3]};
    return !(s->wide == 1152 && s->rows == 130 && rank % 5 != 3);
}

/* A matrix (rows, ld) on the host and `skew` floats into a block of the backend. */
typedef struct matrix {
    float *host, *block, *device;
    size_t rows, ld, skew;
} matrix;

static matrix place(float *host, size_t rows, size_t ld, size_t skew) {
    matrix m = {host, NULL, NULL, rows, ld, skew};
    float *shifted = malloc(block_bytes(rows, ld) + skew * sizeof *shifted);
    assert_non_null(shifted);
    memset(shifted, 0, skew * sizeof *shifted);
    memcpy(shifted + skew, host, block_bytes(rows, ld));
    m.block = put(k, shifted, block_bytes(rows, ld) + skew * sizeof *shifted);
    m.device = m.block + skew;
    free(shifted);
    return m;
}
static matrix random_matrix(uint64_t *state, size_t rows, size_t cols, const shape *s) {
    return place(filled(state, rows, cols + s->pad), rows, cols + s->pad, s->skew);
}
static void fetch(matrix *m) {
    float *shifted = malloc(block_bytes(m->rows, m->ld) + m->skew * sizeof *shifted);
    assert_non_null(shifted);
    get(k, shifted, m->block, block_bytes(m->rows, m->ld) + m->skew * sizeof *shifted);
    memcpy(m->host, shifted + m->skew, block_bytes(m->rows, m->ld));
    free(shifted);
}
static void discard(matrix *m) {
    drop(k, m->block);
    free(m->host);
}

/* --- expand_onto --- */

typedef struct expansion {
    shape s;
    matrix z, a, last, older, y;
} expansion;

static expansion expansion_of(uint64_t *state, const shape *s) {
    expansion e = {.s = *s};
    e.z = random_matrix(state, s->rows, s->r, s);
    e.a = random_matrix(state, s->r, s->wide, s);
    e.last = random_matrix(state, s->rows, s->wide, s);
    e.older = place(filled(state, s->rows, e.last.ld), s->rows, e.last.ld, s->skew);
    e.y = place(blank(s->rows, s->wide + s->pad), s->rows, s->wide + s->pad, s->skew);
    return e;
}
static void renew(matrix *m, const float *host) {
    memcpy(m->host, host, block_bytes(m->rows, m->ld));
    drop(k, m->block);
    *m = place(m->host, m->rows, m->ld, m->skew);
}
static void expand(expansion *e) {
    assert_int_equal(k->expand_onto(k, e->s.rows, e->s.wide, e->s.r, e->z.device, e->z.ld, e->a.device,
                                    e->a.ld, e->s.s, e->last.device, e->s.s != 0 ? e->older.device : NULL,
                                    e->last.ld, e->y.device, e->y.ld, NULL),
                     OUSAC_STATUS_OK);
    fetch(&e->y);
    assert_pad_untouched(e->y.host, e->s.rows, e->s.wide, e->y.ld);
}
static void discard_expansion(expansion *e) {
    discard(&e->z), discard(&e->a), discard(&e->last), discard(&e->older), discard(&e->y);
}

/* What y(i, j) is of rounded factors and of factors as they are, and the sizes of sums. */
static void expected_at(const expansion *e, size_t i, size_t j, double *exact, double *of_rounded,
                        double *forecast_size, double *size) {
    const double last = e->last.host[i * e->last.ld + j];
    const double past =
        last + (e->s.s != 0 ? (double)e->s.s * (last - e->older.host[i * e->last.ld + j]) : 0);
    *exact = *of_rounded = past;
    *forecast_size = fabs(past) + fabs(last);
    *size = 0;
    for (size_t q = 0; q < e->s.r; q++) {
        const float left = e->z.host[i * e->z.ld + q], right = e->a.host[q * e->a.ld + j];
        *exact += (double)left * right;
        *of_rounded += rounded(left) * rounded(right);
        *size += fabs((double)left * right);
    }
}

static void expand_onto_adds_the_rounded_product(void **unused) {
    uint64_t state = 31;
    shape s;
    (void)unused;
    for (size_t c = 0; c < SHAPES; c++) {
        if (!shape_at(c, &s))
            continue;
        expansion e = expansion_of(&state, &s);
        expand(&e);
        for (size_t i = 0; i < s.rows; i++)
            for (size_t j = 0; j < s.wide; j++) {
                double exact, of_rounded, past, size;
                expected_at(&e, i, j, &exact, &of_rounded, &past, &size);
                assert_near(e.y.host[i * e.y.ld + j], of_rounded, U32 * (past + size));
                assert_near(e.y.host[i * e.y.ld + j], exact, TWO_ROUNDED * size + U32 * (past + size));
            }
        discard_expansion(&e);
    }
}

/* More tiles than blocks, so that a block has several, of which the last is not whole. */
static void tiles_that_share_a_block_are_all_made(void **unused) {
    const shape cases[] = {{.rows = 130, .wide = 12804, .r = 20},
                           {.rows = 170, .wide = 12801, .r = 70, .pad = 1, .s = 0.5F},
                           {.rows = 100, .wide = 12804, .r = 128, .pad = 4, .s = -0.75F},
                           {.rows = 70, .wide = 25604, .r = 31, .s = 0.5F}};
    uint64_t state = 32;
    (void)unused;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        expansion e = expansion_of(&state, &cases[c]);
        expand(&e);
        for (size_t i = 0; i < e.s.rows; i++)
            for (size_t j = i % 7; j < e.s.wide; j += 7) {
                double exact, of_rounded, past, size;
                expected_at(&e, i, j, &exact, &of_rounded, &past, &size);
                assert_near(e.y.host[i * e.y.ld + j], of_rounded, U32 * (past + size));
            }
        discard_expansion(&e);
    }
}

/* Without a correction what is cached comes back to the bit. */
static void no_correction_changes_nothing(void **unused) {
    const shape s = {.rows = 70, .wide = 132, .r = 20};
    uint64_t state = 33;
    (void)unused;
    expansion e = expansion_of(&state, &s);
    float *none = calloc(1, block_bytes(e.z.rows, e.z.ld));
    renew(&e.z, none);
    expand(&e);
    for (size_t i = 0; i < s.rows; i++)
        assert_memory_equal(e.y.host + i * e.y.ld, e.last.host + i * e.last.ld, s.wide * sizeof(float));
    free(none);
    discard_expansion(&e);
}

static void what_is_not_finite_spreads_in_expand_onto(void **unused) {
    enum { Z, A, LAST, OLDER, PLACES };
    uint64_t state = 34;
    (void)unused;
    for (int c = 0; c < 2 * PLACES; c++) {
        const shape s = {.rows = 70, .wide = 140, .r = 70, .s = 0.5F};
        const int place = c / 2;
        expansion e = expansion_of(&state, &s);
        matrix *spoilt = (matrix *[]){&e.z, &e.a, &e.last, &e.older}[place];
        float *host = malloc(block_bytes(spoilt->rows, spoilt->ld));
        memcpy(host, spoilt->host, block_bytes(spoilt->rows, spoilt->ld));
        host[67 * spoilt->ld + 69] = c % 2 ? INFINITY : NAN;
        renew(spoilt, host);
        expand(&e);
        for (size_t i = 0; i < s.rows; i++)
            for (size_t j = 0; j < s.wide; j++) {
                const float y = e.y.host[i * e.y.ld + j];
                const int hit = place == Z ? i == 67 : place == A ? j == 69 : i == 67 && j == 69;
                assert_int_equal(isfinite(y) != 0, !hit);
                if (hit)
                    assert_int_equal(isnan(y) != 0, c % 2 == 0);
            }
        free(host);
        discard_expansion(&e);
    }
}

/* --- project_change --- */

typedef struct projection {
    shape s;
    matrix x, last, older, b, z, work;
} projection;

static projection projection_of(uint64_t *state, const shape *s) {
    projection p = {.s = *s};
    p.x = random_matrix(state, s->rows, s->wide, s);
    p.last = random_matrix(state, s->rows, s->wide + s->pad, s);
    p.older = place(filled(state, s->rows, p.last.ld), s->rows, p.last.ld, s->skew);
    p.b = random_matrix(state, s->r, s->wide, s);
    p.z = place(blank(s->rows, s->r + s->pad), s->rows, s->r + s->pad, s->skew);
    p.work = place(blank(s->rows, s->wide), s->rows, s->wide, 0);
    return p;
}
static void project(projection *p) {
    assert_int_equal(k->project_change(k, p->s.rows, p->s.r, p->s.wide, p->s.s, p->x.device, p->x.ld,
                                       p->last.device, p->s.s != 0 ? p->older.device : NULL, p->last.ld,
                                       p->b.device, p->b.ld, p->z.device, p->z.ld, p->work.device, NULL),
                     OUSAC_STATUS_OK);
    fetch(&p->z), fetch(&p->work);
    assert_pad_untouched(p->z.host, p->s.rows, p->s.r, p->z.ld);
    assert_pad_untouched(p->work.host, p->s.rows, p->s.wide, p->work.ld);
}
static void discard_projection(projection *p) {
    discard(&p->x), discard(&p->last), discard(&p->older), discard(&p->b), discard(&p->z), discard(&p->work);
}

/* The change in double precision and, where it is the one difference x - last, as it is rounded. `size`: of
 * what float32 rounds on the way. */
static double change_at(const projection *p, size_t i, size_t e, double *change_rounded, double *size) {
    const float x = p->x.host[i * p->x.ld + e], last = p->last.host[i * p->last.ld + e];
    const double older = p->s.s != 0 ? p->older.host[i * p->last.ld + e] : 0;
    const double forecast = last + (p->s.s != 0 ? (double)p->s.s * (last - older) : 0);
    *change_rounded = p->s.s != 0 ? NAN : rounded(x - last);
    *size = fabs((double)x) + fabs((double)last) + fabs(older);
    return x - forecast;
}

static void project_change_is_the_product_of_the_rounded_change(void **unused) {
    uint64_t state = 41;
    shape s;
    (void)unused;
    for (size_t c = 0; c < SHAPES; c++) {
        if (!shape_at(c, &s))
            continue;
        projection p = projection_of(&state, &s);
        project(&p);
        for (size_t i = 0; i < s.rows; i++)
            for (size_t j = i * 7 % 5; j<s.r; j += s.wide> 100 && s.rows > 1 ? 5 : 1) {
                double exact = 0, of_rounded = 0, product = 0, around = 0;
                for (size_t e = 0; e < s.wide; e++) {
                    const float right = p.b.host[j * p.b.ld + e];
                    double change_rounded, size;
                    const double change = change_at(&p, i, e, &change_rounded, &size);
                    exact += change * right;
                    of_rounded += change_rounded * rounded(right);
                    product += fabs(change * right);
                    around += size * fabs((double)right);
                }
                const float z = p.z.host[i * p.z.ld + j];
                assert_near(z, exact, TWO_ROUNDED * product + U32 * (product + around));
                if (s.s == 0)
                    assert_near(z, of_rounded, U32 * product);
            }
        discard_projection(&p);
    }
}

/* Rows of many strips and n of many chunks, so that n is divided over blocks in several ways. */
static void parts_of_a_sum_are_all_added(void **unused) {
    static const size_t cases[][3] = {{400, 640, 64}, {900, 260, 70}, {2100, 40, 5}, {20, 4608, 192}};
    uint64_t state = 42;
    (void)unused;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const shape s = {.rows = cases[c][0], .wide = cases[c][1], .r = cases[c][2]};
        projection p = projection_of(&state, &s);
        project(&p);
        for (size_t i = 0; i < s.rows; i++)
            for (size_t j = i % 29; j < s.r; j += 29) {
                double of_rounded = 0, product = 0, change_rounded, size;
                for (size_t e = 0; e < s.wide; e++) {
                    (void)change_at(&p, i, e, &change_rounded, &size);
                    of_rounded += change_rounded * rounded(p.b.host[j * p.b.ld + e]);
                    product += fabs(change_rounded * rounded(p.b.host[j * p.b.ld + e]));
                }
                assert_near(p.z.host[i * p.z.ld + j], of_rounded, U32 * product);
            }
        discard_projection(&p);
    }
}

static void what_is_not_finite_spreads_in_project_change(void **unused) {
    enum { X, LAST, OLDER, B, PLACES };
    uint64_t state = 43;
    (void)unused;
    for (int c = 0; c < 2 * PLACES; c++) {
        const shape s = {.rows = 140, .wide = 140, .r = 70, .s = 0.5F};
        const int where = c / 2;
        projection p = projection_of(&state, &s);
        matrix *spoilt = (matrix *[]){&p.x, &p.last, &p.older, &p.b}[where];
        float *host = malloc(block_bytes(spoilt->rows, spoilt->ld));
        memcpy(host, spoilt->host, block_bytes(spoilt->rows, spoilt->ld));
        host[69 * spoilt->ld + 101] = c % 2 ? INFINITY : NAN;
        renew(spoilt, host);
        project(&p);
        for (size_t i = 0; i < s.rows; i++)
            for (size_t j = 0; j < s.r; j++)
                assert_int_equal(isfinite(p.z.host[i * p.z.ld + j]) != 0, where == B ? j != 69 : i != 69);
        free(host);
        discard_projection(&p);
    }
}

/* --- both --- */

static void repetitions_are_the_same_to_the_last_bit(void **unused) {
    const shape s = {.rows = 300, .wide = 260, .r = 68, .s = 0.5F};
    uint64_t state = 44;
    (void)unused;
    expansion e = expansion_of(&state, &s);
    projection p = projection_of(&state, &s);
    expand(&e), project(&p);
    float *y = malloc(block_bytes(s.rows, e.y.ld)), *z = malloc(block_bytes(s.rows, p.z.ld));
    memcpy(y, e.y.host, block_bytes(s.rows, e.y.ld));
    memcpy(z, p.z.host, block_bytes(s.rows, p.z.ld));
    for (int round = 0; round < 4; round++) {
        if (round > 0)
            assert_int_equal(k->sequence_begin(k, NULL), OUSAC_STATUS_OK);
        const ousac_status first =
            k->project_change(k, s.rows, s.r, s.wide, s.s, p.x.device, p.x.ld, p.last.device, p.older.device,
                              p.last.ld, p.b.device, p.b.ld, p.z.device, p.z.ld, p.work.device, NULL);
        const ousac_status second =
            k->expand_onto(k, s.rows, s.wide, s.r, e.z.device, e.z.ld, e.a.device, e.a.ld, s.s, e.last.device,
                           e.older.device, e.last.ld, e.y.device, e.y.ld, NULL);
        assert_int_equal(first, OUSAC_STATUS_OK);
        assert_int_equal(second, OUSAC_STATUS_OK);
        if (round > 0)
            assert_int_equal(k->sequence_end(k, 1, NULL), OUSAC_STATUS_OK);
        fetch(&e.y), fetch(&p.z);
        assert_memory_equal(e.y.host, y, block_bytes(s.rows, e.y.ld));
        assert_memory_equal(p.z.host, z, block_bytes(s.rows, p.z.ld));
    }
    free(y), free(z);
    discard_expansion(&e), discard_projection(&p);
}

static void no_rank_is_the_past_and_no_width_is_zero(void **unused) {
    const shape none = {.rows = 5, .wide = 8, .r = 0}, narrow = {.rows = 5, .wide = 0, .r = 3};
    uint64_t state = 45;
    (void)unused;
    expansion e = expansion_of(&state, &none);
    projection p = projection_of(&state, &narrow);
    expand(&e), project(&p);
    for (size_t i = 0; i < 40; i++)
        assert_true(e.y.host[i] == e.last.host[i]);
    for (size_t i = 0; i < 15; i++)
        assert_true(p.z.host[i] == 0);
    discard_expansion(&e), discard_projection(&p);
}

/* --- the activation --- */

/* What the operations give one after another, and done on the way where a sequence has them so, in bfloat16 and in float32. */
static void the_activation_is_that_of_a_step_of_its_own(void **unused) {
    uint64_t state = 35;
    (void)unused;
    ousac_device *device = emulated_open(0);
    const ousac_backend *const bf16 = k;
    for (size_t c = 0; c < 24; c++) {
        const shape s = {.rows = (size_t[]){1, 33, 70}[c % 3],
                         .wide = c % 2 ? 132 : 61,
                         .r = (size_t[]){0, 7, 64, 130}[c % 4],
                         .s = c % 8 < 4 ? 0 : 0.5F};
        const size_t count = s.rows * s.wide;
        k = c < 12 ? bf16 : ousac_device_backend(device);
        expansion e = expansion_of(&state, &s);
        float *stepwise = malloc(count * sizeof *stepwise);
        for (int sequence = 0; sequence < 2; sequence++) {
            if (sequence)
                assert_int_equal(k->sequence_begin(k, NULL), OUSAC_STATUS_OK);
            assert_int_equal(k->expand_onto(k, s.rows, s.wide, s.r, e.z.device, e.z.ld, e.a.device, e.a.ld,
                                            s.s, e.last.device, s.s != 0 ? e.older.device : NULL, e.last.ld,
                                            e.y.device, e.y.ld, NULL),
                             OUSAC_STATUS_OK);
            assert_int_equal(k->gelu_tanh(k, count, e.y.device, e.y.device, NULL), OUSAC_STATUS_OK);
            if (sequence)
                assert_int_equal(k->sequence_end(k, 1, NULL), OUSAC_STATUS_OK);
            fetch(&e.y);
            if (!sequence)
                memcpy(stepwise, e.y.host, count * sizeof *stepwise);
        }
        for (size_t i = 0; i < count; i++) /* a compiler may round two kernels differently */
            assert_near(e.y.host[i], stepwise[i],
                        emulated_is_real() ? 1e-6 * (1 + fabs((double)stepwise[i])) : 0);
        free(stepwise);
        discard_expansion(&e);
    }
    k = bf16;
    ousac_device_close(device);
}

/* --- the activation's input consumed: expand_onto, gelu_tanh and project_change as one --- */

/* Z (rows, r) to Y (rows, n), activated, to out (rows, r_next). */
typedef struct mlp {
    size_t rows, n, r, r_next;
    float s, s_next;
    size_t pad, skew; /* of the factors and pasts */
    int together;     /* `out` lies where Z does */
    matrix z, a, last, older, y, work, x_last, x_older, b, out, after;
} mlp;

static mlp mlp_of(uint64_t *state, mlp m) {
    const shape wide = {.pad = m.pad, .skew = m.skew}, plain = {0};
    m.z = random_matrix(state, m.rows, m.r > m.r_next ? m.r : m.r_next, &plain);
    m.z.ld = m.r;
    m.a = random_matrix(state, m.r, m.n, &wide);
    m.last = random_matrix(state, m.rows, m.n, &wide), m.older = random_matrix(state, m.rows, m.n, &wide);
    m.x_last = random_matrix(state, m.rows, m.n, &wide), m.x_older = random_matrix(state, m.rows, m.n, &wide);
    m.b = random_matrix(state, m.r_next, m.n, &wide);
    m.y = place(blank(m.rows, m.n), m.rows, m.n, 0);
    m.work = place(blank(m.rows, m.n), m.rows, m.n, 0);
    m.out = place(blank(m.rows, m.r_next), m.rows, m.r_next, 0);
    m.after = place(blank(m.rows, m.r_next), m.rows, m.r_next, 0);
    return m;
}
static void discard_mlp(mlp *m) {
    matrix *all[] = {&m->z,      &m->a,       &m->last, &m->older, &m->y,    &m->work,
                     &m->x_last, &m->x_older, &m->b,    &m->out,   &m->after};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        discard(all[i]);
}

/* The three, and one behind them; `consumed`: Y is the work of the last. */
static void run_mlp(mlp *m, int sequence, int consumed) {
    const size_t count = m->rows * m->n;
    float *out = m->together ? m->z.device : m->out.device;
    matrix fresh = place(m->z.host, m->rows, m->z.ld, 0); /* may have been overwritten */
    must(k->copy(k, m->rows, m->r, fresh.device, m->r, m->z.device, m->r, NULL));
    if (sequence)
        must(k->sequence_begin(k, NULL));
    must(k->expand_onto(k, m->rows, m->n, m->r, m->z.device, m->z.ld, m->a.device, m->a.ld, m->s,
                        m->last.device, m->s != 0 ? m->older.device : NULL, m->last.ld, m->y.device, m->n,
                        NULL));
    must(k->gelu_tanh(k, count, m->y.device, m->y.device, NULL));
    must(k->project_change(k, m->rows, m->r_next, m->n, m->s_next, m->y.device, m->n, m->x_last.device,
                           m->s_next != 0 ? m->x_older.device : NULL, m->x_last.ld, m->b.device, m->b.ld, out,
                           m->r_next, consumed ? m->y.device : m->work.device, NULL));
    must(k->copy(k, m->rows, m->r_next, out, m->r_next, m->after.device, m->r_next, NULL));
    if (sequence)
        must(k->sequence_end(k, 1, NULL));
    fetch(&m->after), fetch(&m->y);
    drop(k, fresh.block);
}

static double gelu_of(double x) {
    return x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

/* One value of the result against the definition, sums in double precision and factors rounded as backend.h says. */
static void check_mlp(const mlp *m, size_t i, size_t j, float z) {
    double exact = 0, product = 0, around = 0;
    for (size_t e = 0; e < m->n; e++) {
        const size_t at = i * m->last.ld + e;
        const double last = m->last.host[at], older = m->s != 0 ? m->older.host[at] : 0;
        const double x_last = m->x_last.host[at], x_older = m->s_next != 0 ? m->x_older.host[at] : 0;
        const double right = m->b.host[j * m->b.ld + e];
        double wide = last + (m->s != 0 ? (double)m->s * (last - older) : 0);
        double size = fabs(last) + fabs(older) + fabs(x_last) + fabs(x_older) + fabs(wide);
        for (size_t q = 0; q < m->r; q++) {
            const double term = rounded(m->z.host[i * m->r + q]) * rounded(m->a.host[q * m->a.ld + e]);
            wide += term;
            size += fabs(term);
        }
        const double change =
            gelu_of(wide) - x_last - (m->s_next != 0 ? (double)m->s_next * (x_last - x_older) : 0);
        exact += change * right;
        product += fabs(change * right);
        around += 2 * size * fabs(right);
    }
    assert_near(z, exact, TWO_ROUNDED * product + U32 * (product + around));
}

/* Steps as one give what they give one by one, whatever is divided, rounded or refused; Y is not made where it is consumed
 * and made elsewhere. */
static void a_consumed_activation_need_not_be_made(void **unused) {
    static const size_t row_counts[] = {1, 33, 130, 150}, widths[] = {4, 72, 132, 292, 61},
                        first_ranks[] = {1, 7, 64, 100, 128, 130, 20},
                        next_ranks[] = {1, 5, 64, 65, 128, 200};
    uint64_t state = 61;
    size_t spared = 0;
    (void)unused;
    for (size_t c = 0; c < 48; c++) {
        mlp m = mlp_of(&state, (mlp){.rows = row_counts[c % 4],
                                     .n = widths[c / 4 % 5],
                                     .r = first_ranks[c % 7],
                                     .r_next = next_ranks[c / 3 % 6],
                                     .s = (float[]){0, 0.5F, 0, -0.75F}[c / 2 % 4],
                                     .s_next = (float[]){0, -0.25F, 0, 0.5F}[(c / 2 + (c % 9 == 8)) % 4],
                                     .pad = c % 11 == 10 ? 4 : 0,
                                     .skew = c % 13 == 12,
                                     .together = c % 10 == 9});
        const size_t count = m.rows * m.r_next, wide = m.rows * m.n;
        float *stepwise = malloc(count * sizeof *stepwise), *activated = malloc(wide * sizeof *activated);
        float *none = blank(m.rows, m.n); /* whole blocks are renewed */
        run_mlp(&m, 0, 0);
        memcpy(stepwise, m.after.host, count * sizeof *stepwise);
        memcpy(activated, m.y.host, wide * sizeof *activated);
        for (size_t i = 0; i<m.rows; i += m.rows> 40 ? 29 : 1)
            for (size_t j = i % 5; j < m.r_next; j += 11)
                check_mlp(&m, i, j, stepwise[i * m.r_next + j]);
        for (int round = 0; round < 4; round++) { /* call by call, and as a graph */
            const int consumed = round != 3;
            memcpy(m.y.host, none, wide * sizeof *none);
            if (consumed && round == 0)
                renew(&m.y, none);
            run_mlp(&m, 1, consumed);
            for (size_t e = 0; e < count; e++)
                if (emulated_is_real())
                    check_mlp(&m, e / m.r_next, e % m.r_next, m.after.host[e]), e += 36;
                else
                    assert_true(m.after.host[e] == stepwise[e]);
            if (!consumed)
                for (size_t e = 0; e < wide; e++)
                    assert_near(m.y.host[e], activated[e],
                                emulated_is_real() ? 1e-6 * (1 + fabs((double)activated[e])) : 0);
            else if (round == 0) {
                const int fits = m.n % 4 == 0 && m.r <= 128 && m.r_next <= 128 && !m.skew && !m.together &&
                                 (m.s == 0) == (m.s_next == 0);
                assert_int_equal(memcmp(m.y.host, none, wide * sizeof *none) == 0, fits);
                spared += (size_t)fits;
            }
        }
        free(stepwise), free(activated), free(none);
        discard_mlp(&m);
    }
    assert_true(spared > 12);
}

/* The activation and a gated sum, done on the way by blocks that have several tiles. */
static void what_follows_is_done_of_every_tile(void **unused) {
    enum { GROUP = 10 };
    uint64_t state = 36;
    (void)unused;
    for (int c = 0; c < 4; c++) {
        const shape s = {.rows = 70, .wide = 25604, .r = 12, .s = c % 2 ? 0.5F : 0};
        const shape groups = {.rows = s.rows / GROUP, .wide = s.wide};
        const size_t count = s.rows * s.wide;
        expansion e = expansion_of(&state, &s);
        matrix x = random_matrix(&state, s.rows, s.wide, &s);
        matrix gate = random_matrix(&state, groups.rows, s.wide, &groups);
        float *before = malloc(block_bytes(x.rows, x.ld)), *stepwise = malloc(count * sizeof *stepwise);
        matrix *result = c < 2 ? &e.y : &x;
        assert_true(before != NULL && stepwise != NULL);
        memcpy(before, x.host, block_bytes(x.rows, x.ld));
        for (int sequence = 0; sequence < 2; sequence++) {
            renew(&x, before);
            if (sequence)
                assert_int_equal(k->sequence_begin(k, NULL), OUSAC_STATUS_OK);
            const ousac_status first = k->expand_onto(
                k, s.rows, s.wide, s.r, e.z.device, e.z.ld, e.a.device, e.a.ld, s.s, e.last.device,
                s.s != 0 ? e.older.device : NULL, e.last.ld, e.y.device, e.y.ld, NULL);
            const ousac_status second = c < 2 ? k->gelu_tanh(k, count, e.y.device, e.y.device, NULL)
                                              : k->add_gated(k, s.rows, s.wide, x.device, e.y.device,
                                                             gate.device, GROUP, s.wide, NULL);
            if (sequence)
                assert_int_equal(k->sequence_end(k, 1, NULL), OUSAC_STATUS_OK);
            assert_int_equal(first, OUSAC_STATUS_OK);
            assert_int_equal(second, OUSAC_STATUS_OK);
            fetch(result);
            if (!sequence)
                memcpy(stepwise, result->host, count * sizeof *stepwise);
        }
        for (size_t i = 0; i < count; i++) /* a compiler may round two kernels differently */
            assert_near(result->host[i], stepwise[i],
                        emulated_is_real() ? 1e-6 * (1 + fabs((double)stepwise[i])) : 0);
        free(before), free(stepwise);
        discard(&x), discard(&gate);
        discard_expansion(&e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expand_onto_adds_the_rounded_product),
        cmocka_unit_test(tiles_that_share_a_block_are_all_made),
        cmocka_unit_test(no_correction_changes_nothing),
        cmocka_unit_test(what_is_not_finite_spreads_in_expand_onto),
        cmocka_unit_test(project_change_is_the_product_of_the_rounded_change),
        cmocka_unit_test(parts_of_a_sum_are_all_added),
        cmocka_unit_test(what_is_not_finite_spreads_in_project_change),
        cmocka_unit_test(repetitions_are_the_same_to_the_last_bit),
        cmocka_unit_test(no_rank_is_the_past_and_no_width_is_zero),
        cmocka_unit_test(the_activation_is_that_of_a_step_of_its_own),
        cmocka_unit_test(a_consumed_activation_need_not_be_made),
        cmocka_unit_test(what_follows_is_done_of_every_tile),
    };
    ousac_device *device = NULL;
    const int refused = emulated_begin(&device, 1);
    if (refused)
        return refused;
    k = ousac_device_backend(device);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ousac_device_close(device);
    return failed;
}
