#include "profile/run/evaluate.h"

#include "formats/memory.h"

#include <math.h>
#include <string.h>

#define PSNR_DB_MAX 120.0

static double clamp(double value, const double *range) {
    return !range ? value : fmin(fmax(value, range[0]), range[1]);
}

static double psnr(double mse, double peak) {
    const double db = mse > 0 ? 10 * log10(peak * peak / mse) : PSNR_DB_MAX;
    return fmin(fmax(db, -PSNR_DB_MAX), PSNR_DB_MAX);
}

ousac_status ousac_evaluate_samples(const float *x, const float *reference, size_t count, size_t size,
                                    const double *range, double *relative2, double *psnr_db,
                                    ousac_error *error) {
    for (size_t j = 0; j < count; j++) {
        const float *a = x + j * size, *b = reference + j * size;
        double difference2 = 0, reference2 = 0, clamped2 = 0, low = INFINITY, high = -INFINITY;
        for (size_t i = 0; i < size; i++) {
            const double d = (double)a[i] - (double)b[i], c = clamp(a[i], range) - clamp(b[i], range);
            /* asked of each value: the sums of finite floats cannot overflow, but the clamp would hide
             * infinities */
            if (!isfinite(a[i]) || !isfinite(b[i]))
                return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                                  "sample %zu: element %zu of the %s is not finite", j, i,
                                  isfinite(b[i]) ? "result" : "reference");
            difference2 += d * d;
            reference2 += (double)b[i] * (double)b[i];
            clamped2 += c * c;
            low = fmin(low, b[i]);
            high = fmax(high, b[i]);
        }
        if (reference2 == 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_NUMBER,
                              "sample %zu: the reference is all zero, so no error is relative to it", j);
        if (relative2)
            relative2[j] = difference2 / reference2;
        if (psnr_db)
            psnr_db[j] = psnr(clamped2 / (double)size, range ? range[1] - range[0] : high - low);
    }
    return OUSAC_STATUS_OK;
}

ousac_status ousac_evaluate_difference(const float *x, const float *reference, size_t count, size_t size,
                                       const double *range, uint64_t seed, ousac_difference *difference,
                                       ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    double *relative2 = ousac_malloc(count, sizeof *relative2);
    double *psnr_db = ousac_malloc(count, sizeof *psnr_db);
    memset(difference, 0, sizeof *difference);
    if (!relative2 || !psnr_db) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to compare %zu samples", count);
        goto done;
    }
    status = ousac_evaluate_samples(x, reference, count, size, range, relative2, psnr_db, error);
    if (!status)
        status = ousac_stats_root_mean(relative2, count, seed, &difference->relative_error, error);
    if (!status)
        status = ousac_stats_mean(psnr_db, count, seed, &difference->psnr_db, error);
done:
    ousac_free(relative2);
    ousac_free(psnr_db);
    return status;
}
