/* The archive against other ways to keep the same factors: bytes, writing, reading on one and two threads,
 * and the time to the first tensor, all in one run on a warm page cache, medians of several repetitions.
 *
 *     bench_archive DIRECTORY [BLOCKS]
 *
 * The factors have the shapes of DiT-XL/2's blocks (width 1152) at rank 128, normal numbers with the scales
 * that factors have: directions of unit length, and images of falling energy. Speeds are in MB of decoded
 * tensors a second, so that a smaller dtype has less to move. Every form is read back and compared before
 * anything is timed. Files are left in DIRECTORY for bench_archive.py: raw.safetensors and icc.pt.
 */
#include "formats/file.h"
#include "formats/memory.h"
#include "formats/oca.h"
#include "formats/oca_write.h"
#include "formats/safetensors.h"
#include "formats/safetensors_write.h"
#include "formats/torch_write.h"
#include "profile/bundle/storage.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <zstd.h>

enum {
    WIDTH = 1152,
    RANK = 128,
    SITES = 6,
    REPEATS = 7,
    PATH_BYTES = 1024,
    NAME_BYTES = 64,
    BLOCKS_MAX = 28
};

static const char *const site_names[SITES] = {"attn.q",    "attn.k",  "attn.v",
                                              "attn.proj", "mlp.fc1", "mlp.fc2"};
static const char *const icc_names[SITES] = {"q", "k", "v", "proj", "fc1", "fc2"};

typedef struct factor {
    char name[NAME_BYTES];
    size_t cols;
    float *values; /* (RANK, cols) */
    void *stored;  /* in the dtype of the form under test */
    float *scale;  /* of i8 */
} factor;

typedef struct factors {
    size_t blocks, count;
    factor *list;
} factors;

typedef struct storage_form {
    const char *label;
    ousac_dtype dtype;
    ousac_oca_codec codec;
} storage_form;

/* Seconds, medians; NAN where not measured. */
typedef struct timing {
    double write, read1, read2, first, lent;
    double bytes;   /* of the file */
    double decoded; /* of the tensors */
} timing;

static void stop_on(ousac_status status, const ousac_error *error) {
    if (status) {
        (void)fprintf(stderr, "bench_archive: %s\n", error->message);
        exit(1);
    }
}

static void check(int holds, const char *what) {
    if (!holds) {
        (void)fprintf(stderr, "bench_archive: %s\n", what);
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *times) {
    qsort(times, REPEATS, sizeof *times, compare_doubles);
    return times[REPEATS / 2];
}

static double file_bytes(const char *path) {
    struct stat info;
    check(stat(path, &info) == 0, "a file just written is not there");
    return (double)info.st_size;
}

/* ---- the factors ---- */

static double uniform(uint64_t *state) { /* splitmix64, (0, 1) */
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

static void factors_create(factors *f, size_t blocks) {
    uint64_t state = 1;
    f->blocks = blocks;
    f->count = 2 * SITES * blocks;
    f->list = ousac_calloc(f->count, sizeof *f->list);
    check(f->list != NULL, "no memory");
    for (size_t i = 0; i < f->count; i++) {
        factor *x = &f->list[i];
        const size_t site = i / 2 % SITES;
        const int is_b = i % 2, wide = is_b ? site == 5 : site == 4;
        x->cols = wide ? 4 * WIDTH : WIDTH;
        (void)snprintf(x->name, sizeof x->name, "factor/blocks.%zu.%s/%c", i / 2 / SITES, site_names[site],
                       is_b ? 'B' : 'A');
        x->values = ousac_malloc(RANK * x->cols, sizeof *x->values);
        x->stored = ousac_malloc(RANK * x->cols, sizeof(float));
        x->scale = ousac_malloc(RANK, sizeof *x->scale);
        check(x->values && x->stored && x->scale, "no memory");
        for (size_t r = 0; r < RANK; r++) {
            const double size = is_b ? 3.0 / sqrt(1.0 + (double)r) : 1.0;
            for (size_t j = 0; j < x->cols; j++)
                x->values[r * x->cols + j] =
                    (float)(size / sqrt((double)x->cols) * sqrt(-2 * log(uniform(&state))) *
                            cos(6.283185307179586 * uniform(&state)));
        }
    }
}

static void factors_free(factors *f) {
    for (size_t i = 0; i < f->count; i++) {
        ousac_free(f->list[i].values);
        ousac_free(f->list[i].stored);
        ousac_free(f->list[i].scale);
    }
    ousac_free(f->list);
}

static void store(factors *f, ousac_dtype dtype) {
    for (size_t i = 0; i < f->count; i++)
        check(ousac_storage_round(dtype, f->list[i].values, RANK, f->list[i].cols, f->list[i].stored,
                                  f->list[i].scale, NULL) == 0,
              "a value is not finite");
}

/* ---- .oca ---- */

static void write_oca(const factors *f, const storage_form *form, const char *path) {
    ousac_error error = {0};
    ousac_oca_writer *writer = NULL;
    stop_on(ousac_oca_writer_create(&writer, &error), &error);
    for (size_t i = 0; i < f->count; i++) {
        const factor *x = &f->list[i];
        const uint64_t shape[2] = {RANK, x->cols};
        char name[NAME_BYTES + 8];
        stop_on(
            ousac_oca_writer_tensor(writer, x->name, form->dtype, 2, shape, form->codec, x->stored, &error),
            &error);
        (void)snprintf(name, sizeof name, "%s.scale", x->name);
        if (form->dtype == OUSAC_DTYPE_I8)
            stop_on(ousac_oca_writer_tensor(writer, name, OUSAC_DTYPE_F32, 1, shape, form->codec, x->scale,
                                            &error),
                    &error);
    }
    stop_on(ousac_oca_writer_save(writer, path, &error), &error);
    ousac_oca_writer_free(writer);
}

/* The factors of one thread: every `step`-th from `first`. The handle is shared. */
typedef struct part {
    const oca_file *file;
    const factors *f;
    unsigned char *target;
    size_t element, first, step;
} part;

static void *read_part(void *self) {
    const part *p = self;
    for (size_t i = 0, at = 0; i < p->f->count; at += RANK * p->f->list[i].cols * p->element, i++) {
        oca_tensor tensor;
        if (i % p->step != p->first)
            continue;
        check(oca_tensor_find(p->file, p->f->list[i].name, &tensor) == OCA_OK, "a tensor is missing");
        check(oca_read(p->file, tensor.index, 0, RANK, tensor.dtype, p->target + at, (size_t)tensor.bytes) ==
                  OCA_OK,
              "a tensor does not read");
    }
    return NULL;
}

/* Every factor into one buffer, on one thread or two. */
static void read_oca(const char *path, const factors *f, size_t element, unsigned char *target,
                     size_t threads) {
    oca_file *file = NULL;
    pthread_t other;
    check(oca_open_path(&file, path, NULL) == OCA_OK, "the archive does not open");
    part parts[2] = {{file, f, target, element, 0, threads}, {file, f, target, element, 1, threads}};
    check(threads < 2 || pthread_create(&other, NULL, read_part, &parts[1]) == 0, "no second thread");
    (void)read_part(&parts[0]);
    check(threads < 2 || pthread_join(other, NULL) == 0, "the second thread is lost");
    oca_close(file);
}

/* Opens, and copies every factor out of the file where it lies, unverified, as a reader of raw safetensors
 * does. */
static double time_lent(const char *path, const factors *f, unsigned char *target) {
    const double start = now();
    oca_file *file = NULL;
    check(oca_open_path(&file, path, NULL) == OCA_OK, "the archive does not open");
    for (size_t i = 0; i < f->count; i++) {
        oca_tensor tensor;
        const void *data = NULL;
        check(oca_tensor_find(file, f->list[i].name, &tensor) == OCA_OK, "a tensor is missing");
        check(oca_borrow(file, tensor.index, &data) == OCA_OK, "a tensor is not lent");
        memcpy(target, data, (size_t)tensor.bytes);
        target += tensor.bytes;
    }
    oca_close(file);
    return now() - start;
}

static void time_oca(factors *f, const storage_form *form, const char *path, unsigned char *target,
                     timing *t) {
    const size_t element = ousac_dtype_bytes(form->dtype);
    double writes[REPEATS], reads[2][REPEATS], firsts[REPEATS], lents[REPEATS];
    oca_file *file = NULL;
    store(f, form->dtype);
    write_oca(f, form, path);
    read_oca(path, f, element, target, 2);
    t->decoded = 0;
    for (size_t i = 0; i < f->count; i++)
        t->decoded += (double)(RANK * f->list[i].cols * element);
    for (size_t i = 0, at = 0; i < f->count; at += RANK * f->list[i].cols * element, i++)
        check(memcmp(target + at, f->list[i].stored, RANK * f->list[i].cols * element) == 0,
              "a tensor reads differently");
    for (int k = 0; k < REPEATS; k++) {
        double start = now();
        write_oca(f, form, path);
        writes[k] = now() - start;
        for (size_t threads = 1; threads <= 2; threads++) {
            start = now();
            read_oca(path, f, element, target, threads);
            reads[threads - 1][k] = now() - start;
        }
        oca_tensor tensor;
        start = now();
        check(oca_open_path(&file, path, NULL) == OCA_OK, "the archive does not open");
        check(oca_tensor_find(file, f->list[0].name, &tensor) == OCA_OK &&
                  oca_read(file, tensor.index, 0, RANK, tensor.dtype, target, (size_t)tensor.bytes) == OCA_OK,
              "the first tensor does not read");
        firsts[k] = now() - start;
        oca_close(file);
        lents[k] = form->codec == OUSAC_OCA_CODEC_RAW ? time_lent(path, f, target) : NAN;
    }
    t->lent = form->codec == OUSAC_OCA_CODEC_RAW ? median(lents) : NAN;
    t->bytes = file_bytes(path);
    t->write = median(writes);
    t->read1 = median(reads[0]);
    t->read2 = median(reads[1]);
    t->first = median(firsts);
}

/* zstd alone on the same frames: those that the archive holds, straight into memory. Returns MB of content a
 * second. */
static double zstd_alone(const char *path, unsigned char *target) {
    ousac_error error = {0};
    ousac_file_view view;
    double times[REPEATS];
    size_t content = 0;
    ZSTD_DCtx *context = ZSTD_createDCtx();
    stop_on(ousac_file_map(&view, path, &error), &error);
    for (int k = 0; k < REPEATS; k++) {
        const double start = now();
        content = 0;
        for (size_t at = 0; at + 64 <= view.size; at += 64) { /* frames begin at multiples of 64 */
            if (memcmp(view.data + at, "\x28\xb5\x2f\xfd", 4) != 0)
                continue;
            const unsigned long long size = ZSTD_getFrameContentSize(view.data + at, view.size - at);
            const size_t packed = ZSTD_findFrameCompressedSize(view.data + at, view.size - at);
            if (size > (1 << 24) || ZSTD_isError(packed))
                continue;
            check(!ZSTD_isError(
                      ZSTD_decompressDCtx(context, target + content, (size_t)size, view.data + at, packed)),
                  "a frame does not decompress");
            content += (size_t)size;
            at += packed / 64 * 64;
        }
        times[k] = now() - start;
    }
    (void)ZSTD_freeDCtx(context);
    ousac_file_unmap(&view);
    return content ? 1e-6 * (double)content / median(times) : NAN;
}

/* ---- the others ---- */

static ousac_status lend(void *self, size_t index, const void **data, ousac_error *error) {
    const factors *f = self;
    (void)error;
    *data = f->list[index].values;
    return OUSAC_STATUS_OK;
}

static void time_safetensors(factors *f, const char *path, unsigned char *target, timing *t) {
    ousac_error error = {0};
    double writes[REPEATS], reads[REPEATS], firsts[REPEATS];
    ousac_safetensors_entry *entries = ousac_calloc(f->count, sizeof *entries);
    check(entries != NULL, "no memory");
    for (size_t i = 0; i < f->count; i++)
        entries[i] = (ousac_safetensors_entry){f->list[i].name, OUSAC_DTYPE_F32, 2, {RANK, f->list[i].cols}};
    for (int k = 0; k < REPEATS; k++) {
        ousac_safetensors *file = NULL;
        double start = now();
        stop_on(ousac_safetensors_save(path, NULL, 0, entries, f->count, lend, f, &error), &error);
        writes[k] = now() - start;
        start = now();
        stop_on(ousac_safetensors_open(&file, path, &error), &error);
        t->decoded = 0;
        for (size_t i = 0; i < f->count; i++) {
            const ousac_safetensors_tensor *tensor = ousac_safetensors_find(file, f->list[i].name);
            memcpy(target + (size_t)t->decoded, tensor->data, (size_t)tensor->bytes);
            if (i == 0)
                firsts[k] = now() - start;
            t->decoded += (double)tensor->bytes;
        }
        ousac_safetensors_close(file);
        reads[k] = now() - start;
    }
    check(memcmp(target, f->list[0].values, RANK * f->list[0].cols * sizeof(float)) == 0,
          "a tensor reads differently");
    ousac_free(entries);
    *t = (timing){median(writes), median(reads), NAN, median(firsts), NAN, file_bytes(path), t->decoded};
}

static ousac_status transpose(void *self, size_t list, size_t item, float *target, ousac_error *error) {
    const factors *f = self;
    const factor *x = &f->list[2 * SITES * item + list];
    (void)error;
    if (list % 2) {
        memcpy(target, x->values, RANK * x->cols * sizeof *target);
        return OUSAC_STATUS_OK;
    }
    for (size_t r = 0; r < RANK; r++)
        for (size_t j = 0; j < x->cols; j++)
            target[j * RANK + r] = x->values[r * x->cols + j];
    return OUSAC_STATUS_OK;
}

static void write_icc(factors *f, const char *path) {
    ousac_error error = {0};
    ousac_torch_list lists[2 * SITES];
    ousac_torch_matrix matrices[2 * SITES][BLOCKS_MAX];
    char names[2 * SITES][16];
    for (size_t l = 0; l < 2 * SITES; l++) {
        (void)snprintf(names[l], sizeof names[l], "%s_w%c", icc_names[l / 2], l % 2 ? 'b' : 'a');
        for (size_t b = 0; b < f->blocks; b++)
            matrices[l][b] = l % 2 ? (ousac_torch_matrix){RANK, f->list[l].cols}
                                   : (ousac_torch_matrix){f->list[l].cols, RANK};
        lists[l] = (ousac_torch_list){names[l], f->blocks, matrices[l]};
    }
    stop_on(ousac_torch_save(path, "decomp_weight", lists, 2 * SITES, transpose, f, &error), &error);
}

/* The float32 values in one zstd frame, as `zstd -3` would make it. */
static void time_zstd(factors *f, const char *path, unsigned char *target, size_t total, timing *t) {
    ousac_error error = {0};
    double writes[REPEATS], reads[REPEATS];
    const size_t room = ZSTD_compressBound(total);
    unsigned char *plain = ousac_malloc(total, 1), *packed = ousac_malloc(room, 1);
    check(plain && packed, "no memory");
    for (size_t i = 0, at = 0; i < f->count; at += RANK * f->list[i].cols * sizeof(float), i++)
        memcpy(plain + at, f->list[i].values, RANK * f->list[i].cols * sizeof(float));
    for (int k = 0; k < REPEATS; k++) {
        ousac_file_view view;
        double start = now();
        const size_t size = ZSTD_compress(packed, room, plain, total, 3);
        check(!ZSTD_isError(size), "zstd failed");
        stop_on(ousac_file_replace(path, packed, size, &error), &error);
        writes[k] = now() - start;
        start = now();
        stop_on(ousac_file_map(&view, path, &error), &error);
        check(ZSTD_decompress(target, total, view.data, view.size) == total, "zstd failed");
        ousac_file_unmap(&view);
        reads[k] = now() - start;
    }
    check(memcmp(target, plain, total) == 0, "zstd gives something else");
    *t = (timing){median(writes), median(reads), NAN, median(reads), NAN, file_bytes(path), (double)total};
    ousac_free(packed);
    ousac_free(plain);
}

/* MB a second of memcpy, from a mapped file as the readers have it, buffer by buffer. */
static double memcpy_speed(const char *path, unsigned char *target) {
    ousac_error error = {0};
    ousac_file_view view;
    double times[REPEATS];
    for (int k = 0; k < REPEATS; k++) {
        const double start = now();
        stop_on(ousac_file_map(&view, path, &error), &error);
        memcpy(target, view.data, view.size);
        ousac_file_unmap(&view);
        times[k] = now() - start;
    }
    return 1e-6 * file_bytes(path) / median(times);
}

static void print_row(const char *label, const timing *t, double reference) {
    printf("%-26s %9.2f %8.3f %10.0f %10.0f ", label, 1e-6 * t->bytes, t->bytes / reference,
           1e-6 * t->decoded / t->write, 1e-6 * t->decoded / t->read1);
    if (isnan(t->read2))
        printf("%10s", "-");
    else
        printf("%10.0f", 1e-6 * t->decoded / t->read2);
    printf(" %10.2f\n", 1e3 * t->first);
}

int main(int argc, char **argv) {
    static const storage_form forms[] = {
        {"oca f32 raw", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_RAW},
        {"oca f32 shuffle+zstd", OUSAC_DTYPE_F32, OUSAC_OCA_CODEC_SHUFFLE_ZSTD},
        {"oca bf16 raw", OUSAC_DTYPE_BF16, OUSAC_OCA_CODEC_RAW},
        {"oca bf16 shuffle+zstd", OUSAC_DTYPE_BF16, OUSAC_OCA_CODEC_SHUFFLE_ZSTD},
        {"oca i8 raw", OUSAC_DTYPE_I8, OUSAC_OCA_CODEC_RAW},
        {"oca i8 shuffle+zstd", OUSAC_DTYPE_I8, OUSAC_OCA_CODEC_SHUFFLE_ZSTD},
    };
    enum { FORMS = sizeof forms / sizeof *forms };
    timing t[FORMS], st = {0}, zs = {0};
    double alone[FORMS];
    char path[PATH_BYTES];
    factors f;
    size_t total = 0;
    if (argc < 2 || strlen(argv[1]) > PATH_BYTES - 64) {
        (void)fprintf(stderr, "usage: bench_archive DIRECTORY [BLOCKS]\n");
        return 2;
    }
    const long blocks = argc > 2 ? strtol(argv[2], NULL, 10) : 6;
    check(blocks >= 1 && blocks <= BLOCKS_MAX, "expects 1 to 28 blocks");
    factors_create(&f, (size_t)blocks);
    for (size_t i = 0; i < f.count; i++)
        total += RANK * f.list[i].cols * sizeof(float);
    unsigned char *target = ousac_malloc(total + (1 << 20), 1);
    check(target != NULL, "no memory");
    memset(target, 1, total + (1 << 20)); /* so that no page is first touched while a clock runs */

    (void)snprintf(path, sizeof path, "%s/icc.pt", argv[1]);
    write_icc(&f, path);
    const double reference = file_bytes(path);
    (void)snprintf(path, sizeof path, "%s/raw.safetensors", argv[1]);
    time_safetensors(&f, path, target, &st);
    const double copy = memcpy_speed(path, target);
    (void)snprintf(path, sizeof path, "%s/raw.zst", argv[1]);
    time_zstd(&f, path, target, total, &zs);
    for (size_t k = 0; k < FORMS; k++) {
        (void)snprintf(path, sizeof path, "%s/form%zu.oca", argv[1], k);
        time_oca(&f, &forms[k], path, target, &t[k]);
        alone[k] = zstd_alone(path, target);
    }

    printf("factors of %ld blocks of DiT-XL/2 at rank %d: %.1f MB as float32; medians of %d\n", blocks, RANK,
           1e-6 * (double)total, REPEATS);
    printf("%-26s %9s %8s %10s %10s %10s %10s\n", "", "MB", "of .pt", "write MB/s", "1 thread", "2 threads",
           "first ms");
    printf("%-26s %9.2f %8.3f\n", "ICC's pickle (.pt)", 1e-6 * reference, 1.0);
    print_row("safetensors f32", &st, reference);
    print_row("zstd -3 of the f32", &zs, reference);
    for (size_t k = 0; k < FORMS; k++)
        print_row(forms[k].label, &t[k], reference);
    printf("\nmemcpy out of a mapped file: %.0f MB/s\n", copy);
    for (size_t k = 0; k < FORMS; k++) {
        const double speed = 1e-6 * t[k].decoded / t[k].read1;
        if (forms[k].codec == OUSAC_OCA_CODEC_RAW)
            printf("%-26s lent and copied at %.2f of memcpy, read with its checksums at %.2f; two threads "
                   "%.2f of one\n",
                   forms[k].label, 1e-6 * t[k].decoded / t[k].lent / copy, speed / copy,
                   t[k].read1 / t[k].read2);
        else
            printf("%-26s reads at %.2f of zstd alone on its frames (%.0f MB/s); two threads %.2f of one\n",
                   forms[k].label, speed / alone[k], alone[k], t[k].read1 / t[k].read2);
    }
    printf("targets: bf16 %.3f (<= 0.35), i8 %.3f (<= 0.25) of the pickle\n", t[3].bytes / reference,
           t[5].bytes / reference);
    ousac_free(target);
    factors_free(&f);
    return 0;
}
