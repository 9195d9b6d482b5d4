#include "calib/backend/products.h"

#include <string.h>

#ifndef OUSAC_ISA
#error "compile with -DOUSAC_ISA=base|avx2|avx512"
#endif
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)

/* A tile of ROWS x (VECTORS LANES) sums stays in registers, beside VECTORS of P and one broadcast of X:
 * 24 + 3 + 1 of 32 registers, 12 + 3 + 1 of 16, 8 + 2 + 1 of 16. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 8, VECTORS = 3 };
#elif defined(__AVX2__)
enum { LANES = 8, ROWS = 4, VECTORS = 3 };
#else
enum { LANES = 4, ROWS = 4, VECTORS = 2 };
#endif
/* DEPTH x COLUMNS floats of P are packed at a time: 36 KiB, three quarters of the first-level cache, at the
 * widest. */
enum { COLUMNS = VECTORS * LANES, DEPTH = 192 };
/* Columns of X that are multiplied by all panels of P before the next are begun: with a block of its rows 1.1
 * MiB, which a second-level cache holds. */
enum { SPAN = 6 * DEPTH };

/* Loads and stores through `loose` need the alignment of a float only. */
typedef float vector __attribute__((vector_size(LANES * sizeof(float))));
typedef float loose __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS vector load(const float *source) {
    return *(const loose *)(const void *)source;
}

ALWAYS void store(float *target, vector value) {
    *(loose *)(void *)target = value;
}

ALWAYS vector spread(float value) {
    return value - (vector){0};
}

/* --- packing P: panel[k][j], COLUMNS wide, the missing columns zero --- */

/* Eklundh's transposition: at each stage rows i and i + S exchange the elements whose column differs in bit
 * S. */
#if defined(__AVX512F__)
#define FIRST_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define SECOND_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define FIRST_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define SECOND_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define FIRST_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define SECOND_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define FIRST_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define SECOND_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define STAGES(r) STAGE(r, 8) STAGE(r, 4) STAGE(r, 2) STAGE(r, 1)
#elif defined(__AVX2__)
#define FIRST_4 0, 1, 2, 3, 8, 9, 10, 11
#define SECOND_4 4, 5, 6, 7, 12, 13, 14, 15
#define FIRST_2 0, 1, 8, 9, 4, 5, 12, 13
#define SECOND_2 2, 3, 10, 11, 6, 7, 14, 15
#define FIRST_1 0, 8, 2, 10, 4, 12, 6, 14
#define SECOND_1 1, 9, 3, 11, 5, 13, 7, 15
#define STAGES(r) STAGE(r, 4) STAGE(r, 2) STAGE(r, 1)
#else
#define FIRST_2 0, 1, 4, 5
#define SECOND_2 2, 3, 6, 7
#define FIRST_1 0, 4, 2, 6
#define SECOND_1 1, 5, 3, 7
#define STAGES(r) STAGE(r, 2) STAGE(r, 1)
#endif
#define STAGE(r, s)                                                                                          \
    for (size_t i = 0; i < LANES; i++)                                                                       \
        if (!(i & (s))) {                                                                                    \
            const vector first = __builtin_shufflevector((r)[i], (r)[i + (s)], FIRST_##s);                   \
            (r)[i + (s)] = __builtin_shufflevector((r)[i], (r)[i + (s)], SECOND_##s);                        \
            (r)[i] = first;                                                                                  \
        }

ALWAYS void transpose(const float *source, size_t ld, vector alpha, float *panel) {
    vector row[LANES];
    for (size_t i = 0; i < LANES; i++)
        row[i] = load(source + i * ld);
    STAGES(row)
    for (size_t i = 0; i < LANES; i++)
        store(panel + i * COLUMNS, row[i] * alpha);
}

/* Column of Y at which a vector begins: the last one ends with the panel and may overlap the one before. */
static size_t vector_column(size_t v, size_t width) {
    return (v + 1) * LANES <= width ? v * LANES : width < LANES ? 0 : width - LANES;
}

static void pack_transposed(size_t depth, size_t width, float alpha, const float *p, size_t ldp,
                            float *restrict panel) {
    const vector factor = spread(alpha);
    const size_t count = width < LANES ? width : LANES;
    for (size_t v = 0; v * LANES < width; v++) {
        const float *source = p + vector_column(v, width) * ldp;
        float *target = panel + v * LANES;
        size_t k = 0;
        if (count == LANES)
            for (; k + LANES <= depth; k += LANES)
                transpose(source + k, ldp, factor, target + k * COLUMNS);
        for (; k < depth; k++)
            for (size_t j = 0; j < LANES; j++)
                target[k * COLUMNS + j] = j < count ? alpha * source[j * ldp + k] : 0.0F;
    }
}

static void pack(size_t depth, size_t width, float alpha, const float *p, size_t ldp, float *restrict panel) {
    const vector factor = spread(alpha);
    for (size_t v = 0; v * LANES < width; v++) {
        const float *source = p + vector_column(v, width);
        float *target = panel + v * LANES;
        for (size_t k = 0; width >= LANES && k < depth; k++)
            store(target + k * COLUMNS, load(source + k * ldp) * factor);
        for (size_t k = 0; width < LANES && k < depth; k++)
            for (size_t j = 0; j < LANES; j++)
                target[k * COLUMNS + j] = j < width ? alpha * source[k * ldp + j] : 0.0F;
    }
}

/* --- a tile of Y --- */

/* What the sums of a tile begin with. */
typedef struct origin {
    const float *base, *before; /* base + s (base - before); before NULL: base; base NULL: 0 */
    size_t ld;
    float s;
    size_t ahead; /* rows that follow, of the next tile: fetched while this one is summed */
} origin;

/* Y (rows, width) = origin + X panel; `last` is the column of the last vector. `rows` and `vectors` are
 * constants after inlining, so that the sums stay in registers. All loads precede all stores. */
ALWAYS void make_tile(const size_t rows, const size_t vectors, size_t last, size_t depth, const float *x,
                      size_t ldx, const float *panel, const origin *from, float *y, size_t ldy) {
    vector sum[ROWS][VECTORS];
    if (from->before != NULL) {
        const vector s = spread(from->s);
        for (size_t i = 0; i < rows; i++)
            for (size_t v = 0; v < vectors; v++) {
                const size_t at = i * from->ld + (v + 1 < vectors ? v * LANES : last);
                const vector base = load(from->base + at);
                sum[i][v] = base + s * (base - load(from->before + at));
            }
    } else if (from->base != NULL) {
        for (size_t i = 0; i < rows; i++)
            for (size_t v = 0; v < vectors; v++)
                sum[i][v] = load(from->base + i * from->ld + (v + 1 < vectors ? v * LANES : last));
    } else {
        for (size_t i = 0; i < rows; i++)
            for (size_t v = 0; v < vectors; v++)
                sum[i][v] = (vector){0};
    }
    for (size_t i = rows; i < rows + from->ahead; i++)
        for (size_t v = 0; v < vectors; v++) {
            __builtin_prefetch(from->base + i * from->ld + v * LANES);
            if (from->before != NULL)
                __builtin_prefetch(from->before + i * from->ld + v * LANES);
        }
    for (size_t k = 0; k < depth; k++) {
        vector part[VECTORS];
        for (size_t v = 0; v < vectors; v++)
            part[v] = load(panel + k * COLUMNS + v * LANES);
        for (size_t i = 0; i < rows; i++) {
            const vector value = spread(x[i * ldx + k]);
            for (size_t v = 0; v < vectors; v++)
                sum[i][v] += value * part[v];
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t v = 0; v < vectors; v++)
            store(y + i * ldy + (v + 1 < vectors ? v * LANES : last), sum[i][v]);
}

typedef void tile_function(size_t last, size_t depth, const float *x, size_t ldx, const float *panel,
                           const origin *from, float *y, size_t ldy);
#define TILE(rows, vectors)                                                                                  \
    static __attribute__((noinline)) void tile_##rows##_##vectors(                                           \
        size_t last, size_t depth, const float *x, size_t ldx, const float *panel, const origin *from,       \
        float *y, size_t ldy) {                                                                              \
        make_tile(rows, vectors, last, depth, x, ldx, panel, from, y, ldy);                                  \
    }
TILE(1, 1)
TILE(1, 2)
TILE(4, 1)
TILE(4, 2)
#if defined(__AVX512F__)
TILE(1, 3)
TILE(4, 3)
TILE(8, 1)
TILE(8, 2)
TILE(8, 3)
static tile_function *const tiles[3][VECTORS] = {
    {tile_1_1, tile_1_2, tile_1_3}, {tile_4_1, tile_4_2, tile_4_3}, {tile_8_1, tile_8_2, tile_8_3}};
#elif defined(__AVX2__)
TILE(1, 3)
TILE(4, 3)
static tile_function *const tiles[2][VECTORS] = {{tile_1_1, tile_1_2, tile_1_3},
                                                 {tile_4_1, tile_4_2, tile_4_3}};
#else
static tile_function *const tiles[2][VECTORS] = {{tile_1_1, tile_1_2}, {tile_4_1, tile_4_2}};
#endif

/* Rows of the next tile and its line in `tiles`. */
static size_t tile_rows(size_t left, size_t *line) {
    *line = left >= 8 && ROWS == 8 ? 2 : left >= 4 ? 1 : 0;
    return left >= 8 && ROWS == 8 ? 8 : left >= 4 ? 4 : 1;
}

/* Where the tile at (row, column) begins at the inner index k. */
static origin origin_of(const ousac_product *p, size_t k, size_t row, size_t column) {
    const float *y = p->y + row * p->ldy + column;
    if (k > 0)
        return (origin){y, NULL, p->ldy, 0, 0};
    if (p->bias != NULL)
        return (origin){p->bias + column, NULL, 0, 0, 0};
    if (p->base != NULL)
        return (origin){p->base + row * p->ld_base + column,
                        p->before != NULL ? p->before + row * p->ld_base + column : NULL, p->ld_base, p->s,
                        0};
    if (p->beta == 0.0F)
        return (origin){NULL, NULL, 0, 0, 0};
    return (origin){y, NULL, p->ldy, 0, 0};
}

/* A tile narrower than a vector passes through one. */
static void make_narrow_tile(const ousac_product *p, size_t rows, tile_function *tile, size_t width,
                             size_t depth, const float *x, const float *panel, const origin *from, float *y) {
    float edge[ROWS * LANES] = {0};
    const origin here = {edge, NULL, LANES, 0, 0};
    for (size_t i = 0; from->base != NULL && i < rows; i++)
        for (size_t j = 0; j < width; j++) {
            const float base = from->base[i * from->ld + j];
            edge[i * LANES + j] =
                from->before == NULL ? base : base + from->s * (base - from->before[i * from->ld + j]);
        }
    tile(0, depth, x, p->ldx, panel, &here, edge, LANES);
    for (size_t i = 0; i < rows; i++)
        memcpy(y + i * p->ldy, edge + i * LANES, width * sizeof *y);
}

/* What the next panel will be packed from: `rows` pieces of `bytes`, fetched line by line while the present
 * one is multiplied. Its rows lie far apart, where no processor foresees them. */
typedef struct coming {
    const char *at;
    size_t rows, bytes, stride, offset;
} coming;

enum { LINE = 64 };

static void fetch(coming *c, size_t lines) {
    for (; lines > 0 && c->rows > 0; lines--) {
        __builtin_prefetch(c->at + c->offset, 0, 2);
        c->offset += LINE;
        if (c->offset >= c->bytes + LINE) { /* a piece may begin within a line */
            c->offset = 0;
            c->at += c->stride;
            c->rows--;
        }
    }
}

/* Rows [first, end) of a panel's columns. */
static void multiply_panel(const ousac_product *p, size_t first, size_t end, size_t k, size_t depth,
                           size_t column, size_t width, const float *panel, coming *next) {
    const size_t tiles_left = (end - first + ROWS - 1) / ROWS;
    const size_t lines = (next->rows * (next->bytes / LINE + 2) + tiles_left - 1) / tiles_left;
    const size_t vectors = (width + LANES - 1) / LANES, last = vector_column(vectors - 1, width);
    for (size_t row = first, rows; row < end; row += rows) {
        size_t line;
        rows = tile_rows(end - row, &line);
        const float *x = p->x + row * p->ldx + k;
        float *y = p->y + row * p->ldy + column;
        fetch(next, lines);
        origin from = origin_of(p, k, row, column);
        if (k == 0 && p->base != NULL)
            from.ahead = end - row - rows < rows ? end - row - rows : rows;
        if (width >= LANES)
            tiles[line][vectors - 1](last, depth, x, p->ldx, panel, &from, y, p->ldy);
        else
            make_narrow_tile(p, rows, tiles[line][0], width, depth, x, panel, &from, y);
    }
}

static void scale(const ousac_product *p) {
    for (size_t i = 0; i < p->rows; i++)
        for (size_t j = 0; j < p->cols; j++)
            p->y[i * p->ldy + j] *= p->beta;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static coming source_of(const ousac_product *p, size_t k, size_t column) {
    const size_t depth = smaller(p->inner - k, DEPTH), width = smaller(p->cols - column, COLUMNS);
    const float *from = p->transposed ? p->p + column * p->ldp + k : p->p + k * p->ldp + column;
    return (coming){(const char *)from, p->transposed ? width : depth,
                    (p->transposed ? depth : width) * sizeof *from, p->ldp * sizeof *from, 0};
}

/* The panels of columns [start, end) of X against rows [row, last) of it. */
static void multiply_span(const ousac_product *p, size_t row, size_t last, size_t start, float *panel) {
    const size_t end = smaller(start + SPAN, p->inner);
    for (size_t column = 0; column < p->cols; column += COLUMNS)
        for (size_t k = start; k < end; k += DEPTH) {
            const size_t depth = smaller(end - k, DEPTH), width = smaller(p->cols - column, COLUMNS);
            coming next = {0};
            if (k + DEPTH < end)
                next = source_of(p, k + DEPTH, column);
            else if (column + COLUMNS < p->cols)
                next = source_of(p, start, column + COLUMNS);
            else if (end < p->inner || last < p->rows)
                next = source_of(p, end < p->inner ? end : 0, 0);
            if (p->transposed)
                pack_transposed(depth, width, p->alpha, p->p + column * p->ldp + k, p->ldp, panel);
            else
                pack(depth, width, p->alpha, p->p + k * p->ldp + column, p->ldp, panel);
            multiply_panel(p, row, last, k, depth, column, width, panel, &next);
        }
}

static void product(const ousac_product *p) {
    float panel[DEPTH * COLUMNS] __attribute__((aligned(64)));
    if (p->bias == NULL && p->base == NULL && p->beta != 0.0F && p->beta != 1.0F)
        scale(p);
    for (size_t row = 0; row < p->rows; row += OUSAC_PRODUCT_BLOCK)
        for (size_t start = 0; start < p->inner; start += SPAN)
            multiply_span(p, row, smaller(row + OUSAC_PRODUCT_BLOCK, p->rows), start, panel);
}

/* drift where y is a: what is restricted overlaps nothing. */
static void drift_in_place(size_t rows, size_t cols, float s, const float *b, const float *c, size_t ldb,
                           float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++) {
        const float *restrict last = b + i * ldb;
        float *restrict target = y + i * ldy;
        if (c == NULL) {
            for (size_t j = 0; j < cols; j++)
                target[j] = target[j] - last[j];
            continue;
        }
        const float *restrict before = c + i * ldb;
        for (size_t j = 0; j < cols; j++)
            target[j] = target[j] - (last[j] + s * (last[j] - before[j]));
    }
}

static void drift(size_t rows, size_t cols, float s, const float *a, size_t lda, const float *b,
                  const float *c, size_t ldb, float *y, size_t ldy) {
    if (a == y && lda == ldy) {
        drift_in_place(rows, cols, s, b, c, ldb, y, ldy);
        return;
    }
    for (size_t i = 0; i < rows; i++) {
        const float *restrict now = a + i * lda;
        const float *restrict last = b + i * ldb;
        float *restrict target = y + i * ldy;
        if (c == NULL) {
            for (size_t j = 0; j < cols; j++)
                target[j] = now[j] - last[j];
            continue;
        }
        const float *restrict before = c + i * ldb;
        for (size_t j = 0; j < cols; j++)
            target[j] = now[j] - (last[j] + s * (last[j] - before[j]));
    }
}

const ousac_products JOIN(ousac_products_, OUSAC_ISA) = {.product = product, .drift = drift};
