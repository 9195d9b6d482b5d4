/* Devices: the backend that a name stands for. "cpu" is built in; "cuda" lives in a plug-in, a shared library
 * that is opened at run time, so that one build serves machines with and without a GPU.
 *
 * The plug-in libousac_cuda.so is looked for beside the executable, then on the loader's path;
 * OUSAC_CUDA_PLUGIN in the environment names the one file to open instead. It exports one function,
 * `ousac_backend_plugin`, whose result starts with the version of this interface.
 */
#ifndef OUSAC_BACKEND_PLUGIN_H
#define OUSAC_BACKEND_PLUGIN_H

#include "calib/backend/backend.h"
#include "formats/status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Rises with every change of ousac_plugin, ousac_backend or ousac_error. */
enum { OUSAC_PLUGIN_ABI = 7 };
#define OUSAC_PLUGIN_SYMBOL "ousac_backend_plugin"

typedef struct ousac_plugin {
    uint32_t abi;         /* OUSAC_PLUGIN_ABI of the build; nothing else is read where it differs */
    uint32_t table_bytes; /* sizeof(ousac_backend) of the build */
    const char *name;
    /* `device`: which one, from 0; negative for the library's choice. bf16 1: as in ousac_backend.
     * UNSUPPORTED where there is none, or none that can do it. */
    ousac_status (*open)(const ousac_backend **backend, int device, int bf16, ousac_error *error);
    /* No memory of the backend may be in use, and no thread may be in an operation. */
    void (*close)(const ousac_backend *backend);
} ousac_plugin;

typedef const ousac_plugin *(*ousac_plugin_entry)(void);
/* What a plug-in exports. */
const ousac_plugin *ousac_backend_plugin(void);

typedef struct ousac_device ousac_device;

/* "cpu"; "cuda" or "cuda:N", device N; "auto": cuda where it can be opened, else cpu. bf16 1: with linears,
 * and on a GPU attention, in bfloat16 (calib/backend/backend_bf16.h, calib/backend/backend.h). Errors: USAGE for another
 * name; UNSUPPORTED, naming the file, where the plug-in is missing, cannot be loaded, is of another version,
 * or finds no device, and where the device has no bfloat16 products. Close with ousac_device_close. */
ousac_status ousac_device_open(ousac_device **device, const char *name, int bf16, ousac_error *error);
/* Valid until the device is closed. */
const ousac_backend *ousac_device_backend(const ousac_device *device);
/* NULL is fine. The library stays loaded: a CUDA runtime does not survive being unloaded. */
void ousac_device_close(ousac_device *device);

#ifdef __cplusplus
}
#endif
#endif
