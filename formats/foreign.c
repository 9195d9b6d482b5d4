#include "formats/foreign.h"

#include "formats/memory.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const struct {
    const char *name, *advice; /* NULL: none */
} words[] = {
    [OUSAC_KNOWN_NONE] = {"a file of no known format", NULL},
    [OUSAC_KNOWN_ARCHIVE] = {"an .oca archive", NULL},
    [OUSAC_KNOWN_SAFETENSORS] = {"a safetensors file", NULL},
    [OUSAC_KNOWN_JSON] = {"a JSON text", NULL},
    [OUSAC_KNOWN_INDEX] = {"an index of shards", "the weights are in the files that it names"},
    [OUSAC_KNOWN_LFS] = {"a Git LFS pointer", "`git lfs pull` fetches the file that it stands for"},
    [OUSAC_KNOWN_HTML] = {"an HTML page", "a download that was answered with a web page"},
    [OUSAC_KNOWN_XML] = {"an XML document", "a download that was refused"},
    [OUSAC_KNOWN_GGUF] = {"a GGUF file", "convert it to safetensors"},
    [OUSAC_KNOWN_ZIP] = {"a zip archive", "where torch.save wrote it, save it as safetensors"},
    [OUSAC_KNOWN_PICKLE] = {"a Python pickle", "where torch.save wrote it, save it as safetensors"},
    [OUSAC_KNOWN_NUMPY] = {"a NumPy array", NULL},
    [OUSAC_KNOWN_HDF5] = {"an HDF5 file", "convert it to safetensors"},
    [OUSAC_KNOWN_TAR] = {"a tar archive", "unpack it"},
    [OUSAC_KNOWN_GZIP] = {"a gzip file", "unpack it"},
    [OUSAC_KNOWN_ZSTD] = {"a zstd file", "unpack it"},
    [OUSAC_KNOWN_XZ] = {"an xz file", "unpack it"},
    [OUSAC_KNOWN_BZIP2] = {"a bzip2 file", "unpack it"},
    [OUSAC_KNOWN_PNG] = {"a PNG image", NULL},
    [OUSAC_KNOWN_JPEG] = {"a JPEG image", NULL},
    [OUSAC_KNOWN_PDF] = {"a PDF document", NULL},
    [OUSAC_KNOWN_ELF] = {"a program or library", NULL},
};

#define MAGIC(known, text)                                                                                   \
    { (known), (text), sizeof(text) - 1 }
static const struct {
    ousac_known known;
    const char *bytes;
    size_t size;
} magics[] = {
    MAGIC(OUSAC_KNOWN_ARCHIVE, "\x89OCA\r\n\x1a\n"),
    MAGIC(OUSAC_KNOWN_LFS, "version https://git-lfs.github.com/spec/"),
    MAGIC(OUSAC_KNOWN_GGUF, "GGUF"),
    MAGIC(OUSAC_KNOWN_ZIP, "PK\x03\x04"),
    MAGIC(OUSAC_KNOWN_ZIP, "PK\x05\x06"),
    MAGIC(OUSAC_KNOWN_NUMPY, "\x93NUMPY"),
    MAGIC(OUSAC_KNOWN_HDF5, "\x89HDF\r\n\x1a\n"),
    MAGIC(OUSAC_KNOWN_GZIP, "\x1f\x8b"),
    MAGIC(OUSAC_KNOWN_ZSTD, "\x28\xb5\x2f\xfd"),
    MAGIC(OUSAC_KNOWN_XZ, "\xfd"
                          "7zXZ"),
    MAGIC(OUSAC_KNOWN_BZIP2, "BZh"),
    MAGIC(OUSAC_KNOWN_PNG, "\x89PNG\r\n\x1a\n"),
    MAGIC(OUSAC_KNOWN_JPEG, "\xff\xd8\xff"),
    MAGIC(OUSAC_KNOWN_PDF, "%PDF-"),
    MAGIC(OUSAC_KNOWN_ELF, "\x7f"
                           "ELF"),
};

static int starts(const char *data, size_t size, const char *word) {
    const size_t length = strlen(word);
    return size >= length && strncasecmp(data, word, length) == 0;
}

static int holds(const char *data, size_t size, const char *word) {
    const size_t length = strlen(word);
    for (size_t i = 0; i + length <= size; i++)
        if (memcmp(data + i, word, length) == 0)
            return 1;
    return 0;
}

/* Texts are told by their first word, behind a byte order mark and blanks. */
static ousac_known detect_text(const char *data, size_t size) {
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) {
        data += 3;
        size -= 3;
    }
    while (size > 0 && *data && strchr(" \t\r\n", *data)) {
        data++;
        size--;
    }
    if (starts(data, size, "<!doctype html") || starts(data, size, "<html") || starts(data, size, "<head"))
        return OUSAC_KNOWN_HTML;
    if (starts(data, size, "<?xml"))
        return OUSAC_KNOWN_XML;
    if (size > 0 && *data == '{')
        return holds(data, size, "\"weight_map\"") ? OUSAC_KNOWN_INDEX : OUSAC_KNOWN_JSON;
    return OUSAC_KNOWN_NONE;
}

ousac_known ousac_known_detect(const void *bytes, size_t size) {
    const char *data = bytes;
    if (size > OUSAC_KNOWN_BYTES)
        size = OUSAC_KNOWN_BYTES;
    /* A 64-bit header length below 2^32, then JSON: before the short magics, which a length may begin with. */
    if (size >= 9 && data[8] == '{' && memcmp(data + 4, "\0\0\0\0", 4) == 0)
        return OUSAC_KNOWN_SAFETENSORS;
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if (size >= magics[i].size && memcmp(data, magics[i].bytes, magics[i].size) == 0)
            return magics[i].known;
    if (size >= 2 && data[0] == '\x80' && data[1] >= 2 && data[1] <= 5) /* the PROTO opcode */
        return OUSAC_KNOWN_PICKLE;
    if (size >= 262 && memcmp(data + 257, "ustar", 5) == 0)
        return OUSAC_KNOWN_TAR;
    return detect_text(data, size);
}

const char *ousac_known_name(ousac_known known) {
    return words[known].name;
}

ousac_status ousac_known_explain(ousac_status status, const char *path, const void *data, size_t size,
                                 ousac_known own, const char *wanted, ousac_error *error) {
    if (status != OUSAC_STATUS_FORMAT)
        return status;
    const ousac_known known = ousac_known_detect(data, size);
    if (known == OUSAC_KNOWN_NONE || known == own)
        return status;
    return OUSAC_FAIL(error, OUSAC_STATUS_FORMAT, "%s: is %s, expected %s%s%s", path, words[known].name,
                      wanted, words[known].advice ? ": " : "",
                      words[known].advice ? words[known].advice : "");
}

ousac_status ousac_known_explain_file(ousac_status status, const char *path, ousac_known own,
                                      const char *wanted, ousac_error *error) {
    struct stat info;
    char *head = NULL;
    if (status != OUSAC_STATUS_FORMAT || stat(path, &info) || !S_ISREG(info.st_mode))
        return status;
    FILE *file = fopen(path, "rb");
    if (file && (head = ousac_malloc(OUSAC_KNOWN_BYTES, 1))) {
        const size_t size = fread(head, 1, OUSAC_KNOWN_BYTES, file);
        status = ousac_known_explain(status, path, head, size, own, wanted, error);
    }
    ousac_free(head);
    if (file)
        (void)fclose(file);
    return status;
}
