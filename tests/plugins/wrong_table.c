/* A plug-in of the same version, but of a build whose table has another size. */
#include "calib/backend/backend_plugin.h"

__attribute__((visibility("default"))) const ousac_plugin *ousac_backend_plugin(void) {
    static const ousac_plugin plugin = {.abi = OUSAC_PLUGIN_ABI, .table_bytes = sizeof(ousac_backend) - 8};
    return &plugin;
}
