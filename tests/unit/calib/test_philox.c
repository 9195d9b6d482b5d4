/* Philox: what a seed means may never change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/stats/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The known-answer vectors that accompany Random123. */
static void known_answers(void **unused) {
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint32_t out[4];
        ousac_philox4x32(vectors[i].counter, vectors[i].key, out);
        assert_memory_equal(out, vectors[i].out, sizeof out);
    }
}

static void draw_places_its_words(void **unused) {
    uint32_t out[4];
    const uint32_t expected[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    (void)unused;
    ousac_philox_draw(0x299f31d0a4093822ULL, 0x03707344U, 0x13198a2e85a308d3ULL, 0x243f6a88U, out);
    assert_memory_equal(out, expected, sizeof out);
}

/* Pinned: the first normals of seed 0, computed from the first known-answer vector by the formula of the
 * header. */
static void normals_follow_from_the_words(void **unused) {
    const double words[4] = {(double)0x6627e8d5U, (double)0xe169c58dU, (double)0xbc57ac4cU,
                             (double)0x9b00dbd8U};
    const double pi = 3.14159265358979323846;
    float out[4];
    (void)unused;
    ousac_philox_normals(0, 0, 0, 4, out);
    for (int pair = 0; pair < 2; pair++) {
        const double radius = sqrt(-2 * log((words[2 * pair] + 1) / 4294967296.0));
        const double angle = 2 * pi * words[2 * pair + 1] / 4294967296.0;
        assert_true(fabs(out[2 * pair] - radius * cos(angle)) < 1e-6);
        assert_true(fabs(out[2 * pair + 1] - radius * sin(angle)) < 1e-6);
    }
}

static void shorter_calls_are_prefixes(void **unused) {
    float all[41], part[41];
    (void)unused;
    ousac_philox_normals(7, OUSAC_STREAM_NOISE, 12345678901ULL, 41, all);
    for (size_t count = 0; count <= 41; count++) {
        memset(part, 0x5a, sizeof part);
        const float guard = part[count < 41 ? count : 0];
        ousac_philox_normals(7, OUSAC_STREAM_NOISE, 12345678901ULL, count, part);
        assert_memory_equal(part, all, count * sizeof *part);
        if (count < 41)
            assert_memory_equal(&part[count], &guard, sizeof guard);
    }
}

static void seeds_streams_and_samples_differ(void **unused) {
    static const uint64_t seeds[] = {0, 1, 1ULL << 32, 0, 0, 0};
    static const uint32_t streams[] = {0, 0, 0, 1, 0, 0};
    static const uint64_t samples[] = {0, 0, 0, 0, 1, 1ULL << 32};
    float out[6][4];
    (void)unused;
    for (size_t i = 0; i < 6; i++)
        ousac_philox_normals(seeds[i], streams[i], samples[i], 4, out[i]);
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(out[i], out[j], sizeof out[i]);
}

static int compare_floats(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void normals_are_standard(void **unused) {
    enum { COUNT = 400000 };
    float *x = malloc(COUNT * sizeof *x);
    double moment[5] = {0}, lag = 0, distance = 0;
    (void)unused;
    assert_non_null(x);
    ousac_philox_normals(42, OUSAC_STREAM_NOISE, 3, COUNT, x);
    for (size_t i = 0; i < COUNT; i++) {
        double power = 1;
        for (int k = 1; k <= 4; k++)
            moment[k] += (power *= x[i]) / COUNT;
        if (i > 0)
            lag += (double)x[i] * x[i - 1] / COUNT;
    }
    /* Five standard errors each: 1, sqrt 2, sqrt 15, sqrt 96 over sqrt COUNT. */
    const double unit = 5 / sqrt(COUNT);
    assert_true(fabs(moment[1]) < unit);
    assert_true(fabs(moment[2] - 1) < 1.42 * unit);
    assert_true(fabs(moment[3]) < 3.88 * unit);
    assert_true(fabs(moment[4] - 3) < 9.8 * unit);
    assert_true(fabs(lag) < unit);
    qsort(x, COUNT, sizeof *x, compare_floats);
    for (size_t i = 0; i < COUNT; i++) {
        const double cdf = 0.5 * erfc(-x[i] / sqrt(2.0));
        distance = fmax(distance, fmax(fabs(cdf - (double)i / COUNT), fabs(cdf - (double)(i + 1) / COUNT)));
    }
    assert_true(distance < 1.95 / sqrt(COUNT)); /* Kolmogorov-Smirnov, p = 0.001 */
    free(x);
}

static void below_is_uniform(void **unused) {
    static const uint32_t bounds[] = {2, 3, 7, 10, 1000};
    (void)unused;
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        const uint32_t bound = bounds[b], draws = 100 * bound + 20000;
        uint32_t *counts = calloc(bound, sizeof *counts);
        double square = 0;
        assert_non_null(counts);
        for (uint32_t i = 0; i < draws; i++) {
            const uint32_t value = ousac_philox_below(5, OUSAC_STREAM_LABEL, 9, i, bound);
            assert_true(value < bound);
            counts[value]++;
        }
        const double expected = (double)draws / bound;
        for (uint32_t v = 0; v < bound; v++)
            square += (counts[v] - expected) * (counts[v] - expected) / expected;
        /* Chi-squared with bound - 1 degrees of freedom, five standard deviations. */
        assert_true(square < bound - 1 + 5 * sqrt(2.0 * (bound - 1)) + 10);
        free(counts);
    }
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(ousac_philox_below(5, OUSAC_STREAM_LABEL, 9, i, 1), 0);
}

/* With a bound just above 2^31 nearly half of all words would be unfairly likely: they must be redrawn. */
static void below_rejects_the_surplus(void **unused) {
    const uint32_t bound = 0x80000001U, surplus = 0x7fffffffU;
    size_t redrawn = 0;
    (void)unused;
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t words[4], expected = 0;
        int found = 0;
        for (uint32_t step = 0; !found; step++) {
            ousac_philox_draw(1, 2, 3, i + step, words);
            for (size_t l = 0; l < 4 && !found; l++)
                if (words[l] >= surplus) {
                    expected = words[l] % bound;
                    found = 1;
                } else {
                    redrawn++;
                }
        }
        assert_int_equal(ousac_philox_below(1, 2, 3, i, bound), expected);
    }
    assert_true(redrawn > 100 && redrawn < 400);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(draw_places_its_words),
        cmocka_unit_test(normals_follow_from_the_words),
        cmocka_unit_test(shorter_calls_are_prefixes),
        cmocka_unit_test(seeds_streams_and_samples_differ),
        cmocka_unit_test(normals_are_standard),
        cmocka_unit_test(below_is_uniform),
        cmocka_unit_test(below_rejects_the_surplus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
