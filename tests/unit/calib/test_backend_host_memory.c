/* Host memory where an operation expects the device's: on the emulation, whose device memory is the host's too, the
 * device is lost to an illegal access as a real one is, whether a kernel, a structure given to one or a library
 * got the address. A real device is not brought to that.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/backends.h"
#include "tests/support/emulated.h"

#include <stdlib.h>
#include <string.h>

enum { ORDER = 32 }; /* of all matrices */

static const ousac_backend *k;

/* What one operation takes, in order: blocks of (ORDER, ORDER), in float64 where `bytes` says so. */
typedef struct attempt {
    const char *name;
    size_t blocks, bytes;
    int bf16;
    ousac_status (*run)(void *const *at);
} attempt;

static ousac_status subtract(void *const *at) {
    return k->subtract(k, ORDER, ORDER, at[0], ORDER, at[1], ORDER, at[2], ORDER, NULL);
}
static ousac_status expand_onto(void *const *at) {
    return k->expand_onto(k, ORDER, ORDER, ORDER, at[0], ORDER, at[1], ORDER, 0.5F, at[2], at[3], ORDER,
                          at[4], ORDER, NULL);
}
static ousac_status linear(void *const *at) {
    return k->linear(k, ORDER, ORDER, ORDER, at[0], ORDER, at[1], ORDER, at[2], 0, at[3], ORDER, NULL);
}
static ousac_status linear_in_bf16(void *const *at) {
    float *w = k->alloc_weights(k, (size_t)ORDER * ORDER);
    float zeros[ORDER * ORDER] = {0};
    assert_non_null(w);
    assert_int_equal(k->upload(k, w, zeros, sizeof zeros, NULL), OUSAC_STATUS_OK);
    const ousac_status status =
        k->linear(k, ORDER, ORDER, ORDER, at[0], ORDER, w, ORDER, at[1], 0, at[2], ORDER, NULL);
    k->release(k, w);
    return status;
}
static ousac_status gram(void *const *at) {
    return k->gram(k, ORDER, ORDER, at[0], ORDER, at[1], ORDER, NULL);
}
static ousac_status attention(void *const *at) {
    return k->attention(k, 1, ORDER, 1, ORDER, at[0], at[1], at[2], ORDER, at[3], ORDER, at[4], NULL);
}
static ousac_status gemm64(void *const *at) {
    return k->gemm64(k, 0, 0, ORDER, ORDER, ORDER, 1, at[0], ORDER, at[1], ORDER, 0, at[2], ORDER, NULL);
}
static ousac_status eigen64(void *const *at) {
    return k->eigen64(k, ORDER, at[0], ORDER, at[1], NULL);
}

static const attempt attempts[] = {
    {"subtract", 3, sizeof(float), 0, subtract},
    {"expand_onto", 5, sizeof(float), 0, expand_onto},
    {"linear", 4, sizeof(float), 0, linear},
    {"linear in bfloat16", 3, sizeof(float), 1, linear_in_bf16},
    {"gram", 2, sizeof(float), 0, gram},
    {"attention", 4, sizeof(float), 0, attention},
    {"attention in bfloat16", 4, sizeof(float), 1, attention},
    {"gemm64", 3, sizeof(double), 0, gemm64},
    {"eigen64", 2, sizeof(double), 0, eigen64},
};

/* Block `wrong` is the host's; `blocks`: none is. Whether the device works afterwards. */
static int survives(const attempt *a, size_t wrong) {
    const size_t bytes = a->bytes * ORDER * ORDER;
    ousac_device *device = emulated_open(a->bf16);
    ousac_error error = {0};
    void *at[6] = {NULL}, *own = calloc(1, bytes), *read = malloc(bytes);
    const double one = 1; /* not all zeros, which an eigenproblem would see before the library does */
    assert_true(own && read);
    memcpy(own, &one, sizeof one);
    k = ousac_device_backend(device);
    for (size_t i = 0; i < a->blocks; i++)
        at[i] = put(k, own, bytes);
    at[a->blocks] = k->alloc(k, (size_t)ORDER * ORDER, sizeof(float)); /* work, where there is some */
    void *const spare = at[wrong];
    if (wrong < a->blocks)
        at[wrong] = own;
    ousac_status status = a->run(at);
    at[wrong] = spare;
    if (!status)
        status = k->download(k, read, at[0], bytes, &error);
    if (status && *error.message)
        assert_non_null(strstr(error.message, "illegal memory access"));
    for (size_t i = 0; i <= a->blocks; i++)
        k->release(k, at[i]);
    free(own);
    free(read);
    ousac_device_close(device);
    return status == OUSAC_STATUS_OK;
}

static void host_memory_loses_the_device(void **unused) {
    (void)unused;
    for (size_t a = 0; a < sizeof attempts / sizeof *attempts; a++) {
        if (!survives(&attempts[a], attempts[a].blocks))
            fail_msg("%s fails with the device's own memory", attempts[a].name);
        for (size_t wrong = 0; wrong < attempts[a].blocks; wrong++)
            if (survives(&attempts[a], wrong))
                fail_msg("%s: host memory as argument %zu is not noticed", attempts[a].name, wrong);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(host_memory_loses_the_device)};
    const int refused = emulated_choose();
    return refused || emulated_is_real() ? refused : cmocka_run_group_tests(tests, NULL, NULL);
}
