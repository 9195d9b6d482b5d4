#include "tools/report/png_grid.h"

#include "formats/file.h"
#include "formats/memory.h"

#include <math.h>
#include <png.h>
#include <stdint.h>
#include <string.h>

enum {
    GLYPH_WIDTH = 5,
    GLYPH_HEIGHT = 7,
    GLYPH_ADVANCE = 6,
    GAP = 2,             /* pixels around cells */
    BYTES_MAX = 1 << 30, /* of all pixels */
    SIDE_MAX = 65535     /* pixels along an edge: more is a mistake, and would not open in most viewers */
};

static const unsigned char PAPER = 255, INK = 40, BLANK = 235;

typedef struct glyph {
    char character;
    unsigned char row[GLYPH_HEIGHT]; /* from the top; bit 4 is the leftmost of five */
} glyph;

static const glyph FONT[] = {
    {' ', {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00}}, {'.', {0x00, 0x00, 0x00, 0x00, 0x00, 0x0c, 0x0c}},
    {'-', {0x00, 0x00, 0x00, 0x0e, 0x00, 0x00, 0x00}}, {'%', {0x19, 0x19, 0x02, 0x04, 0x08, 0x13, 0x13}},
    {':', {0x00, 0x0c, 0x0c, 0x00, 0x0c, 0x0c, 0x00}}, {',', {0x00, 0x00, 0x00, 0x00, 0x0c, 0x04, 0x08}},
    {'_', {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1f}}, {'/', {0x01, 0x01, 0x02, 0x04, 0x08, 0x10, 0x10}},
    {'+', {0x00, 0x04, 0x04, 0x1f, 0x04, 0x04, 0x00}}, {'=', {0x00, 0x00, 0x1f, 0x00, 0x1f, 0x00, 0x00}},
    {'(', {0x02, 0x04, 0x08, 0x08, 0x08, 0x04, 0x02}}, {')', {0x08, 0x04, 0x02, 0x02, 0x02, 0x04, 0x08}},
    {'0', {0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e}}, {'1', {0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e}},
    {'2', {0x0e, 0x11, 0x01, 0x06, 0x08, 0x10, 0x1f}}, {'3', {0x1e, 0x01, 0x01, 0x0e, 0x01, 0x01, 0x1e}},
    {'4', {0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02}}, {'5', {0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e}},
    {'6', {0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e}}, {'7', {0x1f, 0x01, 0x02, 0x04, 0x04, 0x08, 0x08}},
    {'8', {0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e}}, {'9', {0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c}},
    {'A', {0x0e, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11}}, {'B', {0x1e, 0x11, 0x11, 0x1e, 0x11, 0x11, 0x1e}},
    {'C', {0x0e, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0e}}, {'D', {0x1c, 0x12, 0x11, 0x11, 0x11, 0x12, 0x1c}},
    {'E', {0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f}}, {'F', {0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x10}},
    {'G', {0x0e, 0x11, 0x10, 0x17, 0x11, 0x11, 0x0f}}, {'H', {0x11, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11}},
    {'I', {0x0e, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e}}, {'J', {0x07, 0x02, 0x02, 0x02, 0x02, 0x12, 0x0c}},
    {'K', {0x11, 0x12, 0x14, 0x18, 0x14, 0x12, 0x11}}, {'L', {0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1f}},
    {'M', {0x11, 0x1b, 0x15, 0x15, 0x11, 0x11, 0x11}}, {'N', {0x11, 0x11, 0x19, 0x15, 0x13, 0x11, 0x11}},
    {'O', {0x0e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e}}, {'P', {0x1e, 0x11, 0x11, 0x1e, 0x10, 0x10, 0x10}},
    {'Q', {0x0e, 0x11, 0x11, 0x11, 0x15, 0x12, 0x0d}}, {'R', {0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11}},
    {'S', {0x0f, 0x10, 0x10, 0x0e, 0x01, 0x01, 0x1e}}, {'T', {0x1f, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04}},
    {'U', {0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e}}, {'V', {0x11, 0x11, 0x11, 0x11, 0x0a, 0x0a, 0x04}},
    {'W', {0x11, 0x11, 0x11, 0x15, 0x15, 0x1b, 0x11}}, {'X', {0x11, 0x0a, 0x0a, 0x04, 0x0a, 0x0a, 0x11}},
    {'Y', {0x11, 0x11, 0x0a, 0x04, 0x04, 0x04, 0x04}}, {'Z', {0x1f, 0x01, 0x02, 0x04, 0x08, 0x10, 0x1f}},
    {'a', {0x00, 0x00, 0x0e, 0x01, 0x0f, 0x11, 0x0f}}, {'b', {0x10, 0x10, 0x1e, 0x11, 0x11, 0x11, 0x1e}},
    {'c', {0x00, 0x00, 0x0f, 0x10, 0x10, 0x10, 0x0f}}, {'d', {0x01, 0x01, 0x0f, 0x11, 0x11, 0x11, 0x0f}},
    {'e', {0x00, 0x00, 0x0e, 0x11, 0x1f, 0x10, 0x0f}}, {'f', {0x06, 0x08, 0x1c, 0x08, 0x08, 0x08, 0x08}},
    {'g', {0x00, 0x00, 0x0f, 0x11, 0x0f, 0x01, 0x0e}}, {'h', {0x10, 0x10, 0x1e, 0x11, 0x11, 0x11, 0x11}},
    {'i', {0x04, 0x00, 0x0c, 0x04, 0x04, 0x04, 0x0e}}, {'j', {0x02, 0x00, 0x06, 0x02, 0x02, 0x12, 0x0c}},
    {'k', {0x10, 0x10, 0x12, 0x14, 0x18, 0x14, 0x12}}, {'l', {0x0c, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e}},
    {'m', {0x00, 0x00, 0x1a, 0x15, 0x15, 0x15, 0x15}}, {'n', {0x00, 0x00, 0x1e, 0x11, 0x11, 0x11, 0x11}},
    {'o', {0x00, 0x00, 0x0e, 0x11, 0x11, 0x11, 0x0e}}, {'p', {0x00, 0x00, 0x1e, 0x11, 0x1e, 0x10, 0x10}},
    {'q', {0x00, 0x00, 0x0f, 0x11, 0x0f, 0x01, 0x01}}, {'r', {0x00, 0x00, 0x16, 0x18, 0x10, 0x10, 0x10}},
    {'s', {0x00, 0x00, 0x0f, 0x10, 0x0e, 0x01, 0x1e}}, {'t', {0x08, 0x08, 0x1c, 0x08, 0x08, 0x09, 0x06}},
    {'u', {0x00, 0x00, 0x11, 0x11, 0x11, 0x11, 0x0f}}, {'v', {0x00, 0x00, 0x11, 0x11, 0x0a, 0x0a, 0x04}},
    {'w', {0x00, 0x00, 0x11, 0x15, 0x15, 0x15, 0x0a}}, {'x', {0x00, 0x00, 0x11, 0x0a, 0x04, 0x0a, 0x11}},
    {'y', {0x00, 0x00, 0x11, 0x11, 0x0f, 0x01, 0x0e}}, {'z', {0x00, 0x00, 0x1f, 0x02, 0x04, 0x08, 0x1f}},
};

/* What stands for a character that the font lacks. */
static const glyph BOX = {'\0', {0x1f, 0x11, 0x11, 0x11, 0x11, 0x11, 0x1f}};

static const glyph *find_glyph(char character) {
    for (size_t i = 0; i < sizeof FONT / sizeof *FONT; i++)
        if (FONT[i].character == character)
            return &FONT[i];
    return &BOX;
}

typedef struct canvas {
    unsigned char *pixels; /* (height, width, planes) */
    size_t width, height;
    size_t planes; /* 1 gray, 3 RGB */
    size_t margin, cell_width, cell_height;
    size_t per_line, lines; /* columns of a line, and lines of all rows */
} canvas;

static void fill(canvas *c, size_t x, size_t y, size_t width, size_t height, unsigned char value) {
    for (size_t row = y; row < y + height; row++)
        memset(c->pixels + (row * c->width + x) * c->planes, value, width * c->planes);
}

static void draw_text(canvas *c, const char *text, size_t x, size_t y, size_t scale) {
    for (; *text != '\0'; text++, x += GLYPH_ADVANCE * scale) {
        const glyph *g = find_glyph(*text);
        for (size_t row = 0; row < GLYPH_HEIGHT; row++) {
            for (size_t column = 0; column < GLYPH_WIDTH; column++)
                if ((g->row[row] >> (GLYPH_WIDTH - 1 - column)) & 1)
                    fill(c, x + column * scale, y + row * scale, scale, scale, INK);
        }
    }
}

/* Per channel shown: pixel = (value - low) * gain, in 0..255. */
typedef struct tone {
    float low[3], gain[3];
} tone;

static void find_tone(const png_grid *grid, tone *t) {
    size_t size = grid->height * grid->width, shown = grid->channels < 3 ? grid->channels : 3;

    for (size_t channel = 0; channel < 3; channel++) {
        t->low[channel] = -1;
        t->gain[channel] = 127.5f;
    }
    if (grid->channels == 1 || grid->channels == 3)
        return;
    for (size_t channel = 0; channel < shown; channel++) {
        float low = 0, high = 0;
        int seen = 0;
        for (size_t cell = 0; cell < grid->rows * grid->columns; cell++) {
            const float *image = grid->images[cell];
            for (size_t i = 0; image != NULL && i < size; i++) {
                float value = image[channel * size + i];
                if (!isfinite(value))
                    continue;
                low = !seen || value < low ? value : low;
                high = !seen || value > high ? value : high;
                seen = 1;
            }
        }
        t->low[channel] = low;
        t->gain[channel] = high > low ? 255 / (high - low) : 0;
    }
}

static unsigned char to_byte(float value, float low, float gain) {
    float scaled = (value - low) * gain + 0.5f;
    if (!(scaled > 0)) /* NaN too */
        return 0;
    return scaled >= 255 ? 255 : (unsigned char)scaled;
}

static void draw_image(canvas *c, const png_grid *grid, const float *image, const tone *t, size_t x,
                       size_t y) {
    size_t size = grid->height * grid->width;

    for (size_t row = 0; row < c->cell_height; row++) {
        unsigned char *out = c->pixels + ((y + row) * c->width + x) * c->planes;
        for (size_t column = 0; column < c->cell_width; column++) {
            size_t source = row / grid->zoom * grid->width + column / grid->zoom;
            for (size_t plane = 0; plane < c->planes; plane++) {
                *out++ = plane < grid->channels
                             ? to_byte(image[plane * size + source], t->low[plane], t->gain[plane])
                             : 0;
            }
        }
    }
}

/* Sizes of the whole, checked; nothing is allocated. */
static ousac_status lay_out(const png_grid *grid, canvas *c, size_t *scale, ousac_error *error) {
    size_t longest = 0, side = SIDE_MAX;

    if (grid->rows == 0 || grid->columns == 0 || grid->channels == 0 || grid->width == 0 ||
        grid->height == 0 || grid->zoom == 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "an image grid needs rows, columns, pixels and a zoom");
    for (size_t row = 0; grid->labels != NULL && row < grid->rows; row++) {
        size_t length = strlen(grid->labels[row]);
        longest = length > longest ? length : longest;
    }
    if (grid->width > side / grid->zoom || grid->height > side / grid->zoom || longest > 256) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "a cell of %zu x %zu pixels at zoom %zu is too large",
                          grid->width, grid->height, grid->zoom);
    }
    c->cell_width = grid->width * grid->zoom;
    c->cell_height = grid->height * grid->zoom;
    *scale = c->cell_height >= 4 * GLYPH_HEIGHT ? 2 : 1;
    c->margin = longest > 0 ? (longest * GLYPH_ADVANCE + GLYPH_ADVANCE) * *scale : 0;
    c->planes = grid->channels == 1 ? 1 : 3;
    const size_t most = (side - GAP - c->margin) / (c->cell_width + GAP);
    c->per_line = grid->columns < most ? grid->columns : most;
    c->lines = c->per_line > 0 ? (grid->columns - 1) / c->per_line + 1 : 0;
    if (c->lines == 0 || c->lines > (side - GAP) / (c->cell_height + GAP) / grid->rows) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "%zu x %zu images of %zu x %zu pixels pass %d pixels either way", grid->columns,
                          grid->rows, c->cell_width, c->cell_height, SIDE_MAX);
    }
    c->width = c->margin + GAP + c->per_line * (c->cell_width + GAP);
    c->height = GAP + c->lines * grid->rows * (c->cell_height + GAP);
    if (c->height > BYTES_MAX / c->planes / c->width) {
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "%zu x %zu images of %zu x %zu pixels pass %d MiB",
                          grid->columns, grid->rows, c->cell_width, c->cell_height, BYTES_MAX >> 20);
    }
    if (c->cell_height < GLYPH_HEIGHT * *scale && longest > 0)
        c->height += GLYPH_HEIGHT * *scale; /* so that the last label fits */
    return OUSAC_STATUS_OK;
}

static ousac_status encode_png(const canvas *c, const char *path, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    png_image image;
    void *bytes = NULL;

    memset(&image, 0, sizeof image);
    image.version = PNG_IMAGE_VERSION;
    image.width = (png_uint_32)c->width;
    image.height = (png_uint_32)c->height;
    image.format = c->planes == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);

    bytes = ousac_malloc(size, 1);
    if (bytes == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu x %zu pixels", path, c->width,
                            c->height);
        goto done;
    }
    if (!png_image_write_to_memory(&image, bytes, &size, 0, c->pixels, 0, NULL)) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%s: libpng: %s", path, image.message);
        goto done;
    }
    status = ousac_file_replace(path, bytes, size, error);
done:
    png_image_free(&image);
    ousac_free(bytes);
    return status;
}

ousac_status png_grid_check(const png_grid *grid, const char *path, ousac_error *error) {
    canvas c = {0};
    size_t scale = 1;
    const ousac_status status = lay_out(grid, &c, &scale, error);
    if (status)
        (void)ousac_error_prefix(error, "%s", path);
    return status;
}

ousac_status png_grid_write(const png_grid *grid, const char *path, ousac_error *error) {
    canvas c = {0};
    tone t;
    size_t scale = 1;

    ousac_status status = lay_out(grid, &c, &scale, error);
    if (status) {
        ousac_error_prefix(error, "%s", path);
        return status;
    }
    c.pixels = ousac_malloc(c.width * c.height, c.planes);
    if (c.pixels == NULL) {
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu x %zu pixels", path, c.width,
                          c.height);
    }
    memset(c.pixels, PAPER, c.width * c.height * c.planes);
    find_tone(grid, &t);
    for (size_t line = 0; line < c.lines * grid->rows; line++) {
        const size_t row = line % grid->rows, first = line / grid->rows * c.per_line;
        const size_t end = grid->columns - first < c.per_line ? grid->columns : first + c.per_line;
        size_t y = GAP + line * (c.cell_height + GAP);
        if (grid->labels != NULL) {
            size_t text_height = GLYPH_HEIGHT * scale;
            size_t top = c.cell_height > text_height ? (c.cell_height - text_height) / 2 : 0;
            draw_text(&c, grid->labels[row], GLYPH_ADVANCE * scale / 2, y + top, scale);
        }
        for (size_t column = first; column < end; column++) {
            size_t x = c.margin + GAP + (column - first) * (c.cell_width + GAP);
            const float *image = grid->images[row * grid->columns + column];
            if (image != NULL)
                draw_image(&c, grid, image, &t, x, y);
            else
                fill(&c, x, y, c.cell_width, c.cell_height, BLANK);
        }
    }
    status = encode_png(&c, path, error);
    ousac_free(c.pixels);
    return status;
}
