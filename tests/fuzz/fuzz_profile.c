/* Profiles, plans and bundles from any bytes: the loaders behind the archive. */
#define _GNU_SOURCE

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "profile/bundle/bundle.h"
#include "profile/bundle/plan.h"
#include "profile/record/profile.h"
#include "tests/fuzz/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The loaders take paths; a memory file has one. */
static int put(const uint8_t *data, size_t size, char path[64]) {
    const int file = memfd_create("fuzz", MFD_CLOEXEC);
    if (file < 0)
        return -1;
    for (size_t done = 0; done < size;) {
        const ssize_t wrote = write(file, data + done, size - done);
        if (wrote <= 0) {
            (void)close(file);
            return -1;
        }
        done += (size_t)wrote;
    }
    (void)snprintf(path, 64, "/proc/self/fd/%d", file);
    return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    ousac_error error = {0};
    ousac_profile *profile = NULL, *opened = NULL;
    ousac_plan *plan = NULL;
    ousac_bundle *bundle = NULL;
    unsigned char *copy = malloc(size ? size : 1);
    if (!copy)
        return 0;
    if (size)
        memcpy(copy, data, size);
    if (size >= 64)
        seal_archive(copy, size);
    const int file = put(copy, size, path);
    free(copy);
    if (file < 0)
        return 0;
    const ousac_status loaded = ousac_profile_load(&profile, path, &error);
    if (ousac_profile_open(&opened, path, &error) != loaded) /* both take the same files */
        abort();
    if (!loaded) {
        char digest[OUSAC_DIGEST_CHARS], again[OUSAC_DIGEST_CHARS];
        ousac_profile_digest(profile, digest);
        ousac_profile_digest(opened, again);
        if (strcmp(digest, again) != 0)
            abort();
        for (size_t i = 0; i < profile->range_count; i++)
            if (profile->ranges[i].count == 0)
                abort();
    }
    if (!ousac_plan_load(&plan, path, &error))
        for (size_t s = 0; s < plan->site_count; s++)
            if (!plan->site[s][0])
                abort();
    if (!ousac_bundle_open(&bundle, path, &error)) {
        (void)ousac_bundle_verify(bundle, &error);
        for (size_t i = 0; i < ousac_bundle_plan_count(bundle); i++)
            if (!ousac_bundle_plan(bundle, i)->site_count)
                abort();
    }
    ousac_profile_free(profile);
    ousac_profile_free(opened);
    ousac_plan_free(plan);
    ousac_bundle_close(bundle);
    (void)close(file);
    return 0;
}
