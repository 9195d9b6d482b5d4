#include "tests/bench/bench_gpu.h"

#include "formats/memory.h"

#include <stdio.h>

#define TOLERANCE 1e-5
#define TOLERANCE_BF16                                                                                       \
    0.01 /* inputs, weights and values off by up to 2^-8 each; half of it in the emulation */

typedef struct blocks {
    float *qkv, *out, *work;
} blocks;

static blocks blocks_make(const ousac_backend *k, const float *qkv, size_t batch, size_t tokens, size_t heads,
                          size_t width) {
    const size_t d = heads * width;
    const blocks b = {.qkv = bench_place(k, qkv, batch * tokens * 3 * d),
                      .out = bench_place(k, qkv, batch * tokens * d),
                      .work = k->alloc(k, k->attention_work(k, tokens, tokens, width), sizeof(float))};
    bench_check(b.work != NULL, "no memory on the device");
    return b;
}

static void blocks_free(const ousac_backend *k, const blocks *b) {
    k->release(k, b->qkv), k->release(k, b->out), k->release(k, b->work);
}

static void attend(const ousac_backend *k, const blocks *b, size_t batch, size_t tokens, size_t heads,
                   size_t width) {
    const size_t d = heads * width;
    ousac_error error = {0};
    bench_must(k->attention(k, batch, tokens, heads, width, b->qkv, b->qkv + d, b->qkv + 2 * d, 3 * d, b->out,
                            d, b->work, &error),
               &error);
}

/* One head of one sequence as long against the CPU's in float32. */
static double verify(const bench_device *on, const float *qkv, size_t tokens, size_t width) {
    float *results[2];
    ousac_error error = {0};
    for (int which = 0; which < 2; which++) {
        const ousac_backend *k = which ? on->device : on->cpu;
        const blocks b = blocks_make(k, qkv, 1, tokens, 1, width);
        results[which] = bench_room(tokens * width, sizeof(float));
        attend(k, &b, 1, tokens, 1, width);
        bench_must(k->download(k, results[which], b.out, tokens * width * sizeof(float), &error), &error);
        blocks_free(k, &b);
    }
    const double off = bench_difference(tokens * width, results[1], results[0]);
    const double tolerance = on->device->bf16 ? TOLERANCE_BF16 : TOLERANCE;
    if (!(off <= tolerance)) {
        (void)fprintf(
            stderr,
            "bench_gpu: attention over %zu tokens, head width %zu: relative difference %.3g from the "
            "CPU, at most %g expected\n",
            tokens, width, off, tolerance);
        bench_check(0, "attention is wrong");
    }
    ousac_free(results[0]), ousac_free(results[1]);
    return off;
}

void bench_attention(const bench_device *on, size_t batch, size_t tokens, size_t heads, size_t width) {
    const ousac_backend *k = on->device;
    const size_t count = batch * tokens * 3 * heads * width;
    double *seconds = bench_room(on->repeats, sizeof *seconds);
    float *qkv = bench_room(count, sizeof *qkv);
    bench_fill(count, qkv);
    for (size_t i = 0; i < count; i++) /* weights as uneven as in a model: scores of standard deviation 3 */
        qkv[i] *= 3;
    const double off = verify(on, qkv, tokens, width);
    const blocks b = blocks_make(k, qkv, batch, tokens, heads, width);
    attend(k, &b, batch, tokens, heads, width); /* warms up */
    for (size_t r = 0; r < on->repeats; r++) {
        bench_drain(k, b.out);
        const double start = bench_now();
        for (size_t again = 0; again < on->inner; again++)
            attend(k, &b, batch, tokens, heads, width);
        bench_drain(k, b.out);
        seconds[r] = (bench_now() - start) / (double)on->inner;
    }
    printf("{\"seconds\":%.9g,\"error\":%.3g,\"flops\":%.9g}\n", bench_median(seconds, on->repeats), off,
           4.0 * (double)batch * (double)heads * (double)tokens * (double)tokens * (double)width);
    blocks_free(k, &b);
    ousac_free(qkv);
    ousac_free(seconds);
}
