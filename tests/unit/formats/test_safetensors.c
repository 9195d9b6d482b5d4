/* Every class of malformed safetensors file by name, with the outcome expected; and what a sound file gives.
 * Files are put together here by hand: eight bytes of length, a JSON text, data. */
#include "formats/memory.h"
#include "formats/safetensors.h"
#include "tests/support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct image {
    unsigned char *bytes;
    size_t size;
} image;

/* A file of this header and `data_size` bytes 0, 1, 2, ... */
static image make_image(const char *header, size_t header_size, size_t data_size) {
    image made = {malloc(8 + header_size + data_size), 8 + header_size + data_size};
    assert_non_null(made.bytes);
    for (int i = 0; i < 8; i++)
        made.bytes[i] = (unsigned char)((uint64_t)header_size >> (8 * i) & 0xff);
    memcpy(made.bytes + 8, header, header_size);
    for (size_t i = 0; i < data_size; i++)
        made.bytes[8 + header_size + i] = (unsigned char)i;
    return made;
}

static ousac_status open_text(ousac_safetensors **file, image *made, const char *header, size_t data_size,
                              ousac_error *error) {
    *made = make_image(header, strlen(header), data_size);
    return ousac_safetensors_open_memory(file, made->bytes, made->size, "model.st", error);
}

/* ---- malformed ---- */

#define ONE(dtype, shape, offsets)                                                                           \
    "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(a, b)                                                                                            \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" a "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],"  \
    "\"data_offsets\":" b "}}"
#define META(value) "{\"__metadata__\":" value "}"

static const struct malformed {
    const char *name;
    const char *header;
    size_t data_size;
    ousac_status status;
    const char *message; /* part of it */
} malformed[] = {
    {"header is empty", "", 4, OUSAC_STATUS_FORMAT, "begin with '{'"},
    {"header begins with a blank", " {}", 0, OUSAC_STATUS_FORMAT, "begin with '{'"},
    {"header is an array", "[]", 0, OUSAC_STATUS_FORMAT, "begin with '{'"},
    {"header ends early", "{\"w\":{\"dtype\":\"F32\"", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header is one brace", "{", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header ends behind a comma", "{\"1\":1,", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header has a comma too many", "{\"__metadata__\":{},}", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header is followed by text", "{} x", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header is followed by another", "{}{}", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header has mismatched brackets", "{\"w\":[}]", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header is padded with line feeds in a string", "{\"w\n\":1}", 0, OUSAC_STATUS_FORMAT, "control byte"},
    {"header is padded with vertical tabs", "{\v}", 0, OUSAC_STATUS_FORMAT, "unexpected byte"},
    {"header is not UTF-8", "{\"\xff\":1}", 0, OUSAC_STATUS_FORMAT, "UTF-8"},
    {"header has an overlong character", "{\"\xc0\xaf\":1}", 0, OUSAC_STATUS_FORMAT, "UTF-8"},
    {"header has an encoded surrogate", "{\"\xed\xa0\x80\":1}", 0, OUSAC_STATUS_FORMAT, "UTF-8"},
    {"header has an escaped lone surrogate", "{\"\\ud800\":1}", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"header has a cut character", "{\"\xe2\x82", 0, OUSAC_STATUS_FORMAT, "UTF-8"},
    {"header has an unknown escape", "{\"\\x41\":1}", 0, OUSAC_STATUS_FORMAT, "escape"},
    {"header has a cut escape", "{\"\\u12\":1}", 0, OUSAC_STATUS_FORMAT, "escape"},
    {"header has a misspelt literal", "{\"w\":nul}", 0, OUSAC_STATUS_FORMAT, "JSON"},
    {"name with an escaped NUL", "{\"w\\u0000x\":1}", 0, OUSAC_STATUS_FORMAT, "u0000"},
    {"dtype with an escaped NUL", ONE("\"U8\\u0000\"", "[4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "u0000"},

    {"tensor twice",
     "{\"w\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"v\":{\"dtype\":\"U8\",\"shape\":[0],"
     "\"data_offsets\":[0,0]},\"w\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
     0, OUSAC_STATUS_FORMAT, "\"w\" occurs twice"},
    {"tensor twice by escapes",
     "{\"w\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"\\u0077\":{\"dtype\":"
     "\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
     0, OUSAC_STATUS_FORMAT, "\"w\" occurs twice"},
    {"tensor is a number", "{\"w\":3}", 0, OUSAC_STATUS_FORMAT, "\"w\": expected an object"},
    {"tensor is null", "{\"w\":null}", 0, OUSAC_STATUS_FORMAT, "\"w\": expected an object"},
    {"tensor is an array", "{\"w\":[1]}", 0, OUSAC_STATUS_FORMAT, "\"w\": expected an object"},
    {"tensor is empty", "{\"w\":{}}", 0, OUSAC_STATUS_FORMAT, "\"w\": \"dtype\""},

    {"dtype is missing", "{\"w\":{\"shape\":[4],\"data_offsets\":[0,4]}}", 4, OUSAC_STATUS_FORMAT,
     "\"dtype\""},
    {"dtype is a number", ONE("8", "[4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "\"dtype\""},
    {"dtype is unknown", ONE("\"F7\"", "[4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT,
     "\"w\": unknown dtype \"F7\""},
    {"dtype in lower case", ONE("\"f32\"", "[1]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "unknown dtype"},
    {"dtype twice", ONE("\"U8\",\"dtype\":\"I8\"", "[4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT,
     "\"dtype\" occurs twice"},

    {"shape is missing", "{\"w\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4, OUSAC_STATUS_FORMAT,
     "\"shape\""},
    {"shape is a number", ONE("\"U8\"", "4", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "\"shape\""},
    {"shape is an object", ONE("\"U8\"", "{\"a\":4}", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "\"shape\""},
    {"shape twice", ONE("\"U8\"", "[4],\"shape\":[4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT,
     "\"shape\" occurs twice"},
    {"dimension is negative", ONE("\"U8\"", "[-4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "dimension 0"},
    {"dimension has a fraction", ONE("\"U8\"", "[4.0]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "integer"},
    {"dimension has an exponent", ONE("\"U8\"", "[4e0]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "integer"},
    {"dimension has a leading zero", ONE("\"U8\"", "[04]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "leading zero"},
    {"dimension is a lone minus", ONE("\"U8\"", "[-]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "number"},
    {"dimension has a plus", ONE("\"U8\"", "[+4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "unexpected byte"},
    {"dimension is a string", ONE("\"U8\"", "[\"4\"]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "dimension 0"},
    {"dimension is true", ONE("\"U8\"", "[2,true]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "dimension 1"},
    {"dimension is 2^53", ONE("\"U8\"", "[9007199254740992]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "2^53"},
    {"dimension is 2^53 + 1", ONE("\"U8\"", "[9007199254740993]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "2^53"},
    {"dimension is beyond double",
     ONE("\"U8\"",
         "[1"
         "000000000"
         "000000000"
         "000000000"
         "000000000"
         "]",
         "[0,4]"),
     4, OUSAC_STATUS_FORMAT, "2^53"},
    {"dimensions multiply to 2^64", ONE("\"U8\"", "[4294967296,4294967296]", "[0,4]"), 4, OUSAC_STATUS_FORMAT,
     "overflow"},
    {"dimensions multiply to 2^64 + 4 bytes", ONE("\"F64\"", "[2147483648,1073741824,1]", "[0,0]"), 0,
     OUSAC_STATUS_FORMAT, "overflow"},
    {"nine dimensions", ONE("\"U8\"", "[1,1,1,1,1,1,1,1,4]", "[0,4]"), 4, OUSAC_STATUS_UNSUPPORTED,
     "\"w\": more than 8"},

    {"offsets are missing", "{\"w\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, OUSAC_STATUS_FORMAT,
     "\"data_offsets\""},
    {"offsets are one number", ONE("\"U8\"", "[4]", "4"), 4, OUSAC_STATUS_FORMAT, "\"data_offsets\""},
    {"one offset", ONE("\"U8\"", "[4]", "[4]"), 4, OUSAC_STATUS_FORMAT, "\"data_offsets\""},
    {"three offsets", ONE("\"U8\"", "[4]", "[0,4,4]"), 4, OUSAC_STATUS_FORMAT, "\"data_offsets\""},
    {"offsets are strings", ONE("\"U8\"", "[4]", "[\"0\",\"4\"]"), 4, OUSAC_STATUS_FORMAT,
     "\"data_offsets\""},
    {"offsets twice", ONE("\"U8\"", "[4]", "[0,4],\"data_offsets\":[0,4]"), 4, OUSAC_STATUS_FORMAT,
     "\"data_offsets\" occurs"},
    {"offset is negative", ONE("\"U8\"", "[4]", "[-4,0]"), 4, OUSAC_STATUS_FORMAT, "\"data_offsets\""},
    {"offset has a fraction", ONE("\"U8\"", "[4]", "[0.5,4.5]"), 8, OUSAC_STATUS_FORMAT, "integer"},
    {"offset is 2^53 + 1", ONE("\"U8\"", "[4]", "[0,9007199254740993]"), 4, OUSAC_STATUS_FORMAT,
     "\"data_offsets\""},
    {"offset is 2^64 + 4", ONE("\"U8\"", "[4]", "[0,18446744073709551620]"), 4, OUSAC_STATUS_FORMAT,
     "\"data_offsets\""},
    {"offsets fall", ONE("\"U8\"", "[4]", "[4,0]"), 4, OUSAC_STATUS_FORMAT, "outside"},
    {"range ends behind the data", ONE("\"U8\"", "[4]", "[0,4]"), 3, OUSAC_STATUS_FORMAT, "outside"},
    {"range lies behind the data", ONE("\"U8\"", "[4]", "[4,8]"), 4, OUSAC_STATUS_FORMAT, "outside"},
    {"range is too short for the shape", ONE("\"F32\"", "[2]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "need 8"},
    {"range is too long for the shape", ONE("\"F16\"", "[2]", "[0,8]"), 8, OUSAC_STATUS_FORMAT, "need 4"},
    {"empty shape with bytes", ONE("\"U8\"", "[0,7]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "need 0"},
    {"elements of four bits end within a byte", ONE("\"F4\"", "[3]", "[0,2]"), 2, OUSAC_STATUS_FORMAT,
     "3 elements of 4 bits (dtype F4)"},
    {"elements of six bits end within a byte", ONE("\"F6_E2M3\"", "[2]", "[0,2]"), 2, OUSAC_STATUS_FORMAT,
     "2 elements of 6 bits"},
    {"elements of four bits counted as bytes", ONE("\"F4\"", "[4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT,
     "need 2"},
    {"scalar without bytes", ONE("\"U8\"", "[]", "[0,0]"), 0, OUSAC_STATUS_FORMAT, "need 1"},

    {"tensors overlap", TWO("[0,4]", "[2,6]"), 6, OUSAC_STATUS_FORMAT,
     "\"b\": starts at byte 2 of the data section, overlap"},
    {"tensors coincide", TWO("[0,4]", "[0,4]"), 4, OUSAC_STATUS_FORMAT, "overlap"},
    {"tensors leave a gap", TWO("[0,4]", "[5,9]"), 9, OUSAC_STATUS_FORMAT,
     "\"b\": starts at byte 5 of the data section, leaving"},
    {"gap before the first", TWO("[5,9]", "[1,5]"), 9, OUSAC_STATUS_FORMAT, "\"b\": starts at byte 1"},
    {"bytes behind the last", TWO("[4,8]", "[0,4]"), 9, OUSAC_STATUS_FORMAT,
     "9 bytes of data, the tensors account for 8"},
    {"data without tensors", "{}", 1, OUSAC_STATUS_FORMAT, "1 bytes of data"},
    {"empty tensor inside another",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"e\":{\"dtype\":\"U8\","
     "\"shape\":[0],\"data_offsets\":[2,2]}}",
     4, OUSAC_STATUS_FORMAT, "\"e\": starts at byte 2"},

    {"metadata is a list", META("[]"), 0, OUSAC_STATUS_FORMAT, "__metadata__ must"},
    {"metadata value is a number", META("{\"k\":1}"), 0, OUSAC_STATUS_FORMAT, "__metadata__ \"k\""},
    {"metadata value is an object", META("{\"k\":{}}"), 0, OUSAC_STATUS_FORMAT, "__metadata__ \"k\""},
    {"metadata key twice", META("{\"k\":\"1\",\"j\":\"\",\"k\":\"2\"}"), 0, OUSAC_STATUS_FORMAT,
     "\"k\" occurs twice"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, OUSAC_STATUS_FORMAT,
     "\"__metadata__\" occurs"},
};

static void malformed_headers_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        const struct malformed *bad = &malformed[i];
        ousac_safetensors *file = (ousac_safetensors *)&file;
        ousac_error error = {0};
        image made;
        ousac_status status = open_text(&file, &made, bad->header, bad->data_size, &error);
        if (status != bad->status || !strstr(error.message, bad->message) ||
            strstr(error.message, "model.st: ") != error.message)
            fail_msg("%s: status %s, message: %s", bad->name, ousac_status_name(status), error.message);
        assert_null(file);
        free(made.bytes);
    }
}

static void assert_refused(const unsigned char *bytes, size_t size, const char *message) {
    ousac_safetensors *file;
    ousac_error error = {0};
    unsigned char *copy =
        malloc(size ? size : 1); /* exactly as long as the file, so that reading on is caught */
    assert_non_null(copy);
    if (size)
        memcpy(copy, bytes, size);
    assert_int_equal(ousac_safetensors_open_memory(&file, copy, size, "model.st", &error),
                     OUSAC_STATUS_FORMAT);
    assert_null(file);
    if (!strstr(error.message, message))
        fail_msg("%zu bytes: expected \"%s\" in: %s", size, message, error.message);
    free(copy);
}

static void bad_lengths_are_refused(void **state) {
    static const unsigned char nothing[8 + 2] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    static const unsigned char beyond[8 + 2] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    static const unsigned char largest[8 + 2] = {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'};
    ousac_safetensors *file;
    (void)state;
    for (size_t size = 0; size < 8; size++)
        assert_refused(largest, size, "too short");
    assert_int_equal(ousac_safetensors_open_memory(&file, NULL, 0, "model.st", NULL), OUSAC_STATUS_FORMAT);
    assert_refused(nothing, sizeof nothing, "begin with '{'");
    assert_refused(nothing, 8, "begin with '{'");
    assert_refused(beyond, sizeof beyond, "a header of 3 bytes");
    assert_refused(largest, sizeof largest, "a header of 18446744073709551615 bytes");
}

static void a_header_above_the_limit_is_refused(void **state) {
    const size_t limit = 100000000; /* of the format */
    unsigned char *bytes = malloc(8 + limit + 1);
    ousac_safetensors *file;
    (void)state;
    assert_non_null(bytes);
    memset(bytes, ' ', 8 + limit + 1);
    bytes[8] = '{';
    bytes[9] = '}';
    for (size_t more = 0; more < 2; more++) {
        ousac_error error = {0};
        ousac_status status;
        for (int i = 0; i < 8; i++)
            bytes[i] = (unsigned char)((uint64_t)(limit + more) >> (8 * i) & 0xff);
        status = ousac_safetensors_open_memory(&file, bytes, 8 + limit + more, "model.st", &error);
        assert_int_equal(status, more ? OUSAC_STATUS_FORMAT : OUSAC_STATUS_OK);
        ousac_safetensors_close(file);
    }
    free(bytes);
}

static void a_header_of_millions_of_values_is_refused(void **state) {
    const size_t dims = 5000000;
    char *header = malloc(2 * dims + 100);
    size_t used;
    ousac_safetensors *file;
    ousac_error error = {0};
    image made;
    (void)state;
    assert_non_null(header);
    used = (size_t)sprintf(header, "{\"w\":{\"shape\":[");
    for (size_t i = 0; i < dims; i++) {
        header[used++] = '1';
        header[used++] = i + 1 < dims ? ',' : ']';
    }
    used += (size_t)sprintf(header + used, ",\"dtype\":\"U8\",\"data_offsets\":[0,1]}}");
    made = make_image(header, used, 1);
    assert_int_equal(ousac_safetensors_open_memory(&file, made.bytes, made.size, "model.st", &error),
                     OUSAC_STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "JSON values"));
    free(made.bytes);
    free(header);
}

static void a_deep_header_is_refused(void **state) {
    char header[2000];
    ousac_safetensors *file;
    ousac_error error = {0};
    image made;
    (void)state;
    memset(header, '[', sizeof header - 1);
    memcpy(header, "{\"w\":", 5);
    header[sizeof header - 1] = '\0';
    assert_int_equal(open_text(&file, &made, header, 0, &error), OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "deep"));
    free(made.bytes);
}

/* Each cut of a sound file is refused, and none reads behind its end. */
static void every_cut_is_refused(void **state) {
    static const char header[] =
        "{\"__metadata__\":{\"k\":\"v\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}} ";
    image made = make_image(header, sizeof header - 1, 8);
    (void)state;
    for (size_t size = 0; size < made.size; size++)
        assert_refused(made.bytes, size, "model.st: ");
    free(made.bytes);
}

/* ---- sound ---- */

static const char sound[] =
    "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"\\u00fcber \\\\u0000, [1,2]\"},"
    "\"z.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
    "\"a\":{\"data_offsets\":[0,16],\"shape\":[4],\"dtype\":\"F32\"},"
    "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[28,30]},"
    "\"zero\":{\"dtype\":\"I64\",\"shape\":[3,0],\"data_offsets\":[16,16]},"
    "\"flags\":{\"dtype\":\"BOOL\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[30,32]},"
    "\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[32,40],\"ignored\":[{\"x\":null},0.5,1e3]}}   "
    "\n";

static image sound_image(void) {
    static const float a[4] = {1, -2.5f, 3e-20f, 65504};
    static const uint16_t z[6] = {0x3f80, 0xbf80, 0x4000, 0x3f00, 0x0000, 0x4049}; /* 1 -1 2 .5 0 3.140625 */
    static const uint16_t scalar = 0xc500;                                         /* -5 */
    static const double d = 0.1;
    image made = make_image(sound, sizeof sound - 1, 40);
    unsigned char *data = made.bytes + 8 + sizeof sound - 1;
    memcpy(data, a, 16);
    memcpy(data + 16, z, 12);
    memcpy(data + 28, &scalar, 2);
    memcpy(data + 32, &d, 8);
    return made;
}

static void check_sound(const ousac_safetensors *file) {
    static const char *const names[] = {"a", "d", "flags", "scalar", "z.weight", "zero"};
    static const float z[6] = {1, -1, 2, 0.5f, 0, 3.140625f};
    const ousac_safetensors_tensor *tensor;
    float values[6] = {0};

    assert_int_equal(ousac_safetensors_count(file), 6);
    for (size_t i = 0; i < 6; i++) {
        assert_string_equal(ousac_safetensors_at(file, i)->name, names[i]);
        assert_ptr_equal(ousac_safetensors_find(file, names[i]), ousac_safetensors_at(file, i));
    }
    assert_null(ousac_safetensors_at(file, 6));
    assert_null(ousac_safetensors_find(file, "b"));
    assert_null(ousac_safetensors_find(file, ""));
    assert_null(ousac_safetensors_find(file, "__metadata__"));
    assert_string_equal(ousac_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(ousac_safetensors_metadata(file, "note"), "\xc3\xbc"
                                                                  "ber \\u0000, [1,2]");
    assert_null(ousac_safetensors_metadata(file, "Format"));

    tensor = ousac_safetensors_find(file, "z.weight");
    assert_string_equal(tensor->dtype_name, "BF16");
    assert_int_equal(tensor->dtype, OUSAC_DTYPE_BF16);
    assert_true(tensor->readable);
    assert_int_equal(tensor->dims, 2);
    assert_int_equal(tensor->shape[0], 2);
    assert_int_equal(tensor->shape[1], 3);
    assert_int_equal(tensor->count, 6);
    assert_int_equal(tensor->bytes, 12);
    assert_int_equal(ousac_safetensors_read_f32(tensor, 0, 6, values, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(values, z, sizeof z);
    memset(values, 0, sizeof values);
    assert_int_equal(ousac_safetensors_read_f32(tensor, 4, 2, values, NULL), OUSAC_STATUS_OK);
    assert_memory_equal(values, z + 4, 8);
    assert_int_equal(ousac_safetensors_read_f32(tensor, 6, 0, values, NULL), OUSAC_STATUS_OK);

    tensor = ousac_safetensors_find(file, "scalar");
    assert_int_equal(tensor->dims, 0);
    assert_int_equal(tensor->count, 1);
    assert_int_equal(ousac_safetensors_read_f32(tensor, 0, 1, values, NULL), OUSAC_STATUS_OK);
    assert_true(values[0] == -5);

    tensor = ousac_safetensors_find(file, "d");
    assert_int_equal(ousac_safetensors_read_f32(tensor, 0, 1, values, NULL), OUSAC_STATUS_OK);
    assert_true(values[0] == 0.1f);

    tensor = ousac_safetensors_find(file, "zero");
    assert_int_equal(tensor->count, 0);
    assert_int_equal(tensor->bytes, 0);
}

static void a_sound_file_gives_all_it_holds(void **state) {
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    ousac_safetensors *file;
    image made = sound_image();
    (void)state;
    assert_int_equal(ousac_safetensors_open_memory(&file, made.bytes, made.size, "x", NULL), OUSAC_STATUS_OK);
    check_sound(file);
    ousac_safetensors_close(file);

    scratch_create(&dir);
    scratch_put(&dir, "x.safetensors", made.bytes, made.size);
    scratch_path(&dir, "x.safetensors", path);
    assert_int_equal(ousac_safetensors_open(&file, path, NULL), OUSAC_STATUS_OK);
    assert_int_equal(remove(path), 0); /* the map outlives the name */
    check_sound(file);
    ousac_safetensors_close(file);
    scratch_remove(&dir);
    free(made.bytes);
}

/* Every dtype that the format knows takes the bytes that its own reader expects of it; names and widths are
 * those of the safetensors package, 0.8. */
static void every_dtype_of_the_format_is_listed(void **state) {
    static const struct {
        const char *name;
        size_t bytes_of_eight;
    } known[] = {{"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
                 {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
                 {"I16", 16}, {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"F8_E5M2FNUZ", 8},
                 {"I32", 32}, {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
                 {"I64", 64}, {"U64", 64}};
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char header[200];
        ousac_safetensors *file;
        ousac_error error = {0};
        image made;
        snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"%s\",\"shape\":[2,4],\"data_offsets\":[0,%zu]}}",
                 known[i].name, known[i].bytes_of_eight);
        if (open_text(&file, &made, header, known[i].bytes_of_eight, &error))
            fail_msg("%s: %s", known[i].name, error.message);
        assert_string_equal(ousac_safetensors_at(file, 0)->dtype_name, known[i].name);
        assert_int_equal(ousac_safetensors_at(file, 0)->bytes, known[i].bytes_of_eight);
        ousac_safetensors_close(file);
        free(made.bytes);
    }
}

static void metadata_of_null_is_none(void **state) {
    const void *position = NULL;
    const char *key, *value;
    ousac_safetensors *file;
    image made;
    (void)state;
    assert_int_equal(open_text(&file, &made, META("null"), 0, NULL), OUSAC_STATUS_OK);
    assert_null(ousac_safetensors_metadata(file, "format"));
    assert_int_equal(ousac_safetensors_metadata_next(file, &position, &key, &value), 0);
    ousac_safetensors_close(file);
    free(made.bytes);
}

static void an_empty_file_is_sound(void **state) {
    ousac_safetensors *file;
    image made;
    (void)state;
    assert_int_equal(open_text(&file, &made, "{}", 0, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_safetensors_count(file), 0);
    assert_null(ousac_safetensors_at(file, 0));
    assert_null(ousac_safetensors_find(file, "w"));
    assert_null(ousac_safetensors_metadata(file, "k"));
    ousac_safetensors_close(file);
    ousac_safetensors_close(NULL);
    free(made.bytes);
}

static void files_that_cannot_be_read_are_io(void **state) {
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    ousac_safetensors *file;
    ousac_error error = {0};
    (void)state;
    scratch_create(&dir);
    assert_int_equal(ousac_safetensors_open(&file, scratch_path(&dir, "absent", path), &error),
                     OUSAC_STATUS_IO);
    assert_null(file);
    assert_ptr_equal(strstr(error.message, path), error.message);
    assert_int_equal(ousac_safetensors_open(&file, dir.path, &error), OUSAC_STATUS_IO);
    scratch_put(&dir, "empty", "", 0);
    assert_int_equal(ousac_safetensors_open(&file, scratch_path(&dir, "empty", path), &error),
                     OUSAC_STATUS_FORMAT);
    assert_ptr_equal(strstr(error.message, path), error.message);
    scratch_remove(&dir);
}

static void every_dtype_is_listed_with_its_size(void **state) {
    static const struct {
        const char *name;
        size_t bytes;
        int readable;
    } dtypes[] = {{"BOOL", 1, 0},    {"U8", 1, 0},  {"I8", 1, 0},  {"F8_E5M2", 1, 0}, {"F8_E4M3", 1, 0},
                  {"F8_E8M0", 1, 0}, {"I16", 2, 0}, {"U16", 2, 0}, {"F16", 2, 1},     {"BF16", 2, 1},
                  {"I32", 4, 0},     {"U32", 4, 0}, {"F32", 4, 1}, {"F64", 8, 1},     {"I64", 8, 0},
                  {"U64", 8, 0},     {"C64", 8, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        char header[200];
        ousac_safetensors *file;
        const ousac_safetensors_tensor *tensor;
        ousac_error error = {0};
        float values[3];
        image made;
        ousac_status status;
        (void)snprintf(header, sizeof header, ONE("\"%s\"", "[3]", "[0,%zu]"), dtypes[i].name,
                       3 * dtypes[i].bytes);
        assert_int_equal(open_text(&file, &made, header, 3 * dtypes[i].bytes, NULL), OUSAC_STATUS_OK);
        tensor = ousac_safetensors_at(file, 0);
        assert_string_equal(tensor->dtype_name, dtypes[i].name);
        assert_int_equal(tensor->readable, dtypes[i].readable);
        assert_int_equal(tensor->bytes, 3 * dtypes[i].bytes);
        assert_ptr_equal(tensor->data, made.bytes + made.size - 3 * dtypes[i].bytes);
        status = ousac_safetensors_read_f32(tensor, 0, 3, values, &error);
        assert_int_equal(status, dtypes[i].readable ? OUSAC_STATUS_OK : OUSAC_STATUS_UNSUPPORTED);
        if (status)
            assert_non_null(strstr(error.message, "\"w\""));
        ousac_safetensors_close(file);
        free(made.bytes);
    }
}

static void ranges_outside_a_tensor_are_refused(void **state) {
    ousac_safetensors *file;
    const ousac_safetensors_tensor *tensor;
    float values[4] = {0};
    image made;
    (void)state;
    assert_int_equal(open_text(&file, &made, ONE("\"F32\"", "[4]", "[0,16]"), 16, NULL), OUSAC_STATUS_OK);
    tensor = ousac_safetensors_at(file, 0);
    assert_int_equal(ousac_safetensors_read_f32(tensor, 1, 4, values, NULL), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_safetensors_read_f32(tensor, 5, 0, values, NULL), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_safetensors_read_f32(tensor, UINT64_MAX, 2, values, NULL), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_safetensors_read_f32(tensor, 2, UINT64_MAX, values, NULL), OUSAC_STATUS_USAGE);
    for (int i = 0; i < 4; i++)
        assert_true(values[i] == 0);
    ousac_safetensors_close(file);
    free(made.bytes);
}

static void values_that_are_not_finite_are_named(void **state) {
    static const struct {
        const char *dtype;
        unsigned char bytes[8];
        size_t size;
    } bad[] = {{"F32", {0, 0, 0x80, 0x7f}, 4},              /* infinity */
               {"F32", {1, 0, 0x80, 0xff}, 4},              /* NaN */
               {"F16", {0, 0xfc}, 2},                       /* -infinity */
               {"F16", {1, 0x7e}, 2},                       /* NaN */
               {"BF16", {0x80, 0x7f}, 2},                   /* infinity */
               {"BF16", {0xc0, 0x7f}, 2},                   /* NaN */
               {"F64", {0, 0, 0, 0, 0, 0, 0xf0, 0x7f}, 8},  /* infinity */
               {"F64", {0, 0, 0, 0, 0, 0, 0xf0, 0x47}, 8}}; /* 2^128: finite, but no float32 */
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char header[200];
        ousac_safetensors *file;
        ousac_error error = {0};
        float values[8];
        image made;
        (void)snprintf(header, sizeof header, ONE("\"%s\"", "[2,4]", "[0,%zu]"), bad[i].dtype,
                       8 * bad[i].size);
        assert_int_equal(open_text(&file, &made, header, 8 * bad[i].size, NULL), OUSAC_STATUS_OK);
        memset(made.bytes + made.size - 8 * bad[i].size, 0, 8 * bad[i].size);
        memcpy(made.bytes + made.size - 3 * bad[i].size, bad[i].bytes, bad[i].size); /* element 5 */
        assert_int_equal(ousac_safetensors_read_f32(ousac_safetensors_at(file, 0), 2, 6, values, &error),
                         OUSAC_STATUS_NUMBER);
        assert_non_null(strstr(error.message, "\"w\": element 5 "));
        assert_int_equal(ousac_safetensors_read_f32(ousac_safetensors_at(file, 0), 0, 5, values, NULL),
                         OUSAC_STATUS_OK);
        ousac_safetensors_close(file);
        free(made.bytes);
    }
}

static void every_failed_allocation_is_survived(void **state) {
    scratch dir;
    char path[SCRATCH_PATH_BYTES];
    image made = sound_image();
    ousac_safetensors *file = NULL;
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    (void)state;
    scratch_create(&dir);
    scratch_put(&dir, "x", made.bytes, made.size);
    scratch_path(&dir, "x", path);
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        ousac_error error = {0};
        (void)ousac_memory_fail_after(allowed);
        status = ousac_safetensors_open(&file, path, &error);
        (void)ousac_memory_fail_after(-1);
        if (status) {
            assert_null(file);
            assert_ptr_equal(strstr(error.message, path), error.message);
        }
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 4);
    check_sound(file);
    ousac_safetensors_close(file);
    scratch_remove(&dir);
    free(made.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(bad_lengths_are_refused),
        cmocka_unit_test(a_header_above_the_limit_is_refused),
        cmocka_unit_test(a_header_of_millions_of_values_is_refused),
        cmocka_unit_test(a_deep_header_is_refused),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(a_sound_file_gives_all_it_holds),
        cmocka_unit_test(every_dtype_of_the_format_is_listed),
        cmocka_unit_test(metadata_of_null_is_none),
        cmocka_unit_test(an_empty_file_is_sound),
        cmocka_unit_test(files_that_cannot_be_read_are_io),
        cmocka_unit_test(every_dtype_is_listed_with_its_size),
        cmocka_unit_test(ranges_outside_a_tensor_are_refused),
        cmocka_unit_test(values_that_are_not_finite_are_named),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
