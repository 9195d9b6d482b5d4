/* A plug-in of another version of the interface: nothing behind the version may be used. */
#include "calib/backend/backend_plugin.h"

__attribute__((visibility("default"))) const ousac_plugin *ousac_backend_plugin(void) {
    static const ousac_plugin plugin = {.abi = OUSAC_PLUGIN_ABI + 41, .table_bytes = sizeof(ousac_backend)};
    return &plugin;
}
