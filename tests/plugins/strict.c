/* A plug-in whose device is the CPU behind memory of its own: runs the whole program as it runs on a GPU. */
#include "calib/backend/backend_plugin.h"
#include "tests/support/strict_backend.h"

#include <stdlib.h>

/* Devices 0 and 1; there is no other. */
static ousac_status open_strict(const ousac_backend **backend, int device, int bf16, ousac_error *error) {
    if (device > 1)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "strict: no device %d", device);
    if (bf16)
        return OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "strict: no bfloat16");
    *backend = strict_backend();
    return OUSAC_STATUS_OK;
}

static void close_strict(const ousac_backend *backend) {
    (void)backend;
}

__attribute__((visibility("default"))) const ousac_plugin *ousac_backend_plugin(void) {
    static const ousac_plugin plugin = {OUSAC_PLUGIN_ABI, sizeof(ousac_backend), "strict", open_strict,
                                        close_strict};
    return &plugin;
}
