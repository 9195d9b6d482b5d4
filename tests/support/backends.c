#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"

#include "calib/backend/backend_plugin.h"
#include "calib/backend/kernels.h"
#include "tests/support/calib_support.h"
#include "tests/support/strict_backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAD_BYTE = 0x5a, BACKENDS_MAX = 8 };

static ousac_backend cpu_backends[3];
static const ousac_backend *list[BACKENDS_MAX];
static size_t count;
static ousac_device *device;

static int bf16_wanted(void) {
    const char *compute = getenv("OUSAC_TEST_COMPUTE");
    return compute && strcmp(compute, "bf16") == 0;
}

static int open_device(const char *name) {
    ousac_error error = {0};
    const char *required = getenv("OUSAC_GPU_REQUIRED");
    if (ousac_device_open(&device, name, bf16_wanted(), &error) == OUSAC_STATUS_OK) {
        list[count++] = ousac_device_backend(device);
        printf("on %s\n", list[0]->detail);
        return 0;
    }
    printf("%s\n", error.message);
    return error.status == OUSAC_STATUS_UNSUPPORTED && !(required && *required) ? 77 : 1;
}

int backends_open(void) {
    static const char *const limits[] = {"base", "avx2", "avx512"};
    const char *named = getenv("OUSAC_TEST_BACKEND");
    if (named && *named)
        return open_device(named);
    for (size_t i = 0; i < 3; i++) {
        const ousac_kernels *kernels = ousac_kernels_choose(limits[i]);
        if (strcmp(kernels->isa, limits[i]) != 0) {
            printf("skipped: no %s on this processor\n", limits[i]);
            continue;
        }
        cpu_backends[count] = *ousac_backend_cpu();
        cpu_backends[count].state = (void *)(uintptr_t)kernels;
        list[count] = &cpu_backends[count];
        count++;
    }
    list[count++] = strict_backend();
    return 0;
}

void backends_close(void) {
    ousac_device_close(device);
    device = NULL;
    count = 0;
}

size_t backends_count(void) {
    return count;
}

const ousac_backend *backends_at(size_t index) {
    return list[index];
}

int backends_are_cpu(void) {
    return device == NULL;
}

void *put(const ousac_backend *backend, const void *host, size_t bytes) {
    ousac_error error = {0};
    void *block = backend->alloc(backend, bytes, 1);
    assert_non_null(block);
    if (backend->upload(backend, block, host, bytes, &error) != OUSAC_STATUS_OK)
        fail_msg("%s", error.message);
    return block;
}

void get(const ousac_backend *backend, void *host, const void *block, size_t bytes) {
    ousac_error error = {0};
    if (backend->download(backend, host, block, bytes, &error) != OUSAC_STATUS_OK)
        fail_msg("%s", error.message);
}

void drop(const ousac_backend *backend, void *block) {
    backend->release(backend, block);
}

size_t block_bytes(size_t rows, size_t ld) {
    return (rows * ld + 1) * sizeof(float);
}

float *blank(size_t rows, size_t ld) {
    float *block = malloc(block_bytes(rows, ld));
    assert_non_null(block);
    memset(block, PAD_BYTE, block_bytes(rows, ld));
    return block;
}

float *filled(uint64_t *state, size_t rows, size_t ld) {
    float *block = blank(rows, ld);
    calib_fill(state, rows * ld, block);
    return block;
}

int is_untouched(const float *value) {
    unsigned char bytes[sizeof *value];
    memcpy(bytes, value, sizeof bytes);
    return bytes[0] == PAD_BYTE && bytes[1] == PAD_BYTE && bytes[2] == PAD_BYTE && bytes[3] == PAD_BYTE;
}

void assert_pad_untouched(const float *block, size_t rows, size_t cols, size_t ld) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = cols; j < ld; j++)
            assert_true(is_untouched(&block[i * ld + j]));
    assert_true(is_untouched(&block[rows * ld]));
}

void assert_near(double value, double expected, double tolerance) {
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.9g: expected %.9g within %.3g", value, expected, tolerance);
}
