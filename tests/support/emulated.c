#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/emulated.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char path[4096];
static int real;

int emulated_choose(void) {
    const char *build = getenv("BUILD"), *named = getenv("OUSAC_TEST_BACKEND");
    const char *given = getenv("OUSAC_CUDA_PLUGIN"), *required = getenv("OUSAC_GPU_REQUIRED");
    ousac_device *device = NULL;
    ousac_error error = {0};
    const int emulated = given && strstr(given, "emulated_cuda.so");
    real = named && *named && given && !emulated;
    if (emulated)
        (void)snprintf(path, sizeof path, "%s", given);
    else
        (void)snprintf(path, sizeof path, "%s/tests/plugins/emulated_cuda.so", build ? build : "build");
    if (!real && setenv("OUSAC_CUDA_PLUGIN", path, 1))
        return 1;
    const ousac_status status = ousac_device_open(&device, "cuda", 0, &error);
    if (status == OUSAC_STATUS_OK) {
        ousac_device_close(device);
        return 0;
    }
    printf("%s\n", error.message);
    return status == OUSAC_STATUS_UNSUPPORTED && real && !(required && *required) ? 77 : 1;
}

int emulated_begin(ousac_device **device, int bf16) {
    ousac_error error = {0};
    const int refused = emulated_choose();
    if (refused || !ousac_device_open(device, "cuda", bf16, &error))
        return refused;
    printf("%s\n", error.message);
    return error.status == OUSAC_STATUS_UNSUPPORTED ? 77 : 1;
}

int emulated_is_real(void) {
    return real;
}

ousac_device *emulated_open(int bf16) {
    ousac_device *device = NULL;
    ousac_error error = {0};
    if (ousac_device_open(&device, "cuda", bf16, &error))
        fail_msg("%s", error.message);
    return device;
}

void emulated_count(long counts[EMULATED_KINDS]) {
    void (*count)(long *) = NULL;
    memset(counts, 0, EMULATED_KINDS * sizeof *counts);
    if (real)
        return;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* open already */
    assert_non_null(library);
    /* ISO C has no conversion from an object pointer to a function. */
    *(void **)&count = dlsym(library, "ousac_emulated_count");
    assert_non_null(count);
    count(counts);
    (void)dlclose(library);
}
