#include "profile/record/device_sums.h"

#include "formats/memory.h"

#include <string.h>
#include <time.h>

struct ousac_device_sums {
    ousac_profile *profile;
    ousac_profile *
        ahead; /* without moments: scalars and magnitudes so far, and the ranges that are not in the profile yet */
    const ousac_backend *backend;
    ousac_witness_target target;
    int torn;   /* the profile has some of the moments */
    double due; /* seconds of the monotonic clock: when to fetch next */
};

static double now_s(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static size_t moment_count(const ousac_profile *p) {
    return p->identity.segments * p->arch.group_count;
}

static size_t moment_bytes(const ousac_profile *p, size_t i) {
    return ousac_profile_moment_size(&p->arch.groups[i % p->arch.group_count]) * sizeof(double);
}

/* Scalars and magnitudes, between a profile with moments and one without. */
static void copy_small(ousac_profile *to, const ousac_profile *from) {
    for (int s = 0; s < OUSAC_SCALAR_COUNT; s++)
        memcpy(to->scalar[s], from->scalar[s],
               to->schedule.step_count * OUSAC_BRANCHES *
                   ousac_profile_scalar_width(&to->arch, (ousac_scalar)s) * sizeof(double));
    for (int m = 0; to->identity.magnitudes && m < OUSAC_MAGNITUDE_COUNT; m++)
        memcpy(to->magnitude[m], from->magnitude[m],
               ousac_profile_magnitude_size(&to->arch, (ousac_magnitude)m) * sizeof(double));
}

void ousac_device_sums_free(ousac_device_sums *sums) {
    if (!sums)
        return;
    const ousac_backend *be = sums->backend;
    for (size_t i = 0; sums->target.sum && i < moment_count(sums->profile); i++)
        be->release(be, sums->target.sum[i]);
    be->release(be, sums->target.one);
    ousac_free(sums->target.sum);
    ousac_profile_free(sums->ahead);
    ousac_free(sums);
}

static int fill(ousac_device_sums *sums) {
    const ousac_backend *be = sums->backend;
    const ousac_profile *p = sums->profile;
    const double one = 1;
    if (ousac_profile_create(&sums->ahead, &p->arch, &p->schedule, &p->identity, p->weight, 0, NULL))
        return 0;
    copy_small(sums->ahead, p);
    sums->target.one = be->alloc(be, 1, sizeof one);
    sums->target.sum = ousac_calloc(moment_count(p), sizeof *sums->target.sum);
    if (!sums->target.sum || !sums->target.one || be->upload(be, sums->target.one, &one, sizeof one, NULL))
        return 0;
    for (size_t i = 0; i < moment_count(p); i++) {
        sums->target.sum[i] = be->alloc(be, moment_bytes(p, i), 1);
        if (!sums->target.sum[i] ||
            be->upload(be, sums->target.sum[i], p->moment[i], moment_bytes(p, i), NULL))
            return 0;
        ousac_profile_drop_moment(p, i);
    }
    return 1;
}

ousac_device_sums *ousac_device_sums_create(ousac_profile *profile, const ousac_backend *backend) {
    ousac_device_sums *sums = ousac_calloc(1, sizeof *sums);
    if (!sums)
        return NULL;
    sums->profile = profile;
    sums->backend = backend;
    if (fill(sums))
        return sums;
    ousac_device_sums_free(sums);
    return NULL;
}

ousac_status ousac_device_sums_fetch(ousac_device_sums *sums, int *whole, ousac_error *error) {
    const ousac_backend *be = sums->backend;
    ousac_profile *p = sums->profile, *ahead = sums->ahead;
    const double begin = now_s();
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t i = 0; i < moment_count(p) && !status && ahead->range_count > 0; i++) {
        status = be->download(be, p->moment[i], sums->target.sum[i], moment_bytes(p, i), error);
        sums->torn |= !status;
        ousac_profile_drop_moment(p, i);
    }
    for (size_t i = 0; i < ahead->range_count && !status; i++)
        status = ousac_profile_add_range(p, ahead->ranges[i].first, ahead->ranges[i].count, error);
    if (!status) {
        copy_small(p, ahead);
        ahead->range_count = 0;
        sums->torn = 0;
    }
    const double end = now_s();
    sums->due = end + 9 * (end - begin);
    *whole = !sums->torn;
    return status;
}

ousac_status ousac_device_sums_collect(ousac_device_sums *sums, ousac_witness *witness, uint64_t first,
                                       size_t count, ousac_error *error) {
    int whole;
    ousac_status status = ousac_witness_collect(witness, sums->ahead, &sums->target, first, count, error);
    return status || now_s() < sums->due ? status : ousac_device_sums_fetch(sums, &whole, error);
}
