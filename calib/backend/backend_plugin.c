#include "calib/backend/backend_plugin.h"

#include "calib/backend/backend_bf16.h"
#include "formats/memory.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char FILE_NAME[] = "libousac_cuda.so";
static const char VARIABLE[] = "OUSAC_CUDA_PLUGIN";

enum { PATH_BYTES = 4096, DEVICE_MAX = 1023 };

struct ousac_device {
    const ousac_plugin *plugin; /* NULL for the CPU */
    const ousac_backend *backend;
};

/* --- names --- */

/* 1 where `name` is "cuda" or "cuda:N"; *index is -1 without N. */
static int parse_cuda(const char *name, int *index) {
    *index = -1;
    if (strncmp(name, "cuda", 4) != 0)
        return 0;
    if (name[4] == '\0')
        return 1;
    if (name[4] != ':' || name[5] == '\0')
        return 0;
    int value = 0;
    for (const char *digit = name + 5; *digit; digit++) {
        if (*digit < '0' || *digit > '9')
            return 0;
        value = value * 10 + (*digit - '0');
        if (value > DEVICE_MAX)
            return 0;
    }
    *index = value;
    return 1;
}

/* The file beside the executable, where there is one; else the bare name, which the loader looks for. */
static void default_path(char path[PATH_BYTES]) {
    const ssize_t length = readlink("/proc/self/exe", path, PATH_BYTES);
    if (length > 0 && length < PATH_BYTES) {
        path[length] = '\0';
        char *slash = strrchr(path, '/');
        if (slash && (size_t)(slash + 1 - path) + sizeof FILE_NAME <= PATH_BYTES) {
            memcpy(slash + 1, FILE_NAME, sizeof FILE_NAME);
            if (access(path, F_OK) == 0)
                return;
        }
    }
    memcpy(path, FILE_NAME, sizeof FILE_NAME);
}

/* --- the library --- */

static ousac_status load(const ousac_plugin **plugin, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    char beside[PATH_BYTES];
    const char *named = getenv(VARIABLE), *path = named;
    void *library = NULL;
    ousac_plugin_entry entry = NULL;
    if (!path || !*path) {
        default_path(beside);
        path = beside;
        named = NULL;
    }
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *reason = dlerror();
        status = OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED, "no CUDA plug-in: %s%s cannot be loaded (%s)",
                            named ? "OUSAC_CUDA_PLUGIN=" : "", path, reason ? reason : "unknown error");
        goto done;
    }
    /* ISO C has no conversion from an object pointer to a function. */
    *(void **)&entry = dlsym(library, OUSAC_PLUGIN_SYMBOL);
    const ousac_plugin *found = entry ? entry() : NULL;
    if (!found) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_UNSUPPORTED,
                            "%s: not a plug-in of ousac: it has no function " OUSAC_PLUGIN_SYMBOL, path);
        goto done;
    }
    if (found->abi != OUSAC_PLUGIN_ABI || found->table_bytes != sizeof(ousac_backend)) {
        status = OUSAC_FAIL(
            error, OUSAC_STATUS_UNSUPPORTED,
            "%s: a plug-in of another build of ousac: its interface is version %u, this program's %u%s", path,
            (unsigned)found->abi, (unsigned)OUSAC_PLUGIN_ABI,
            found->abi == OUSAC_PLUGIN_ABI ? ", with a table of another size" : "");
        goto done;
    }
    *plugin = found;
    library = NULL;
done:
    if (library)
        (void)dlclose(library);
    return status;
}

static ousac_status open_cuda(ousac_device *device, int index, int bf16, ousac_error *error) {
    const ousac_plugin *plugin = NULL;
    ousac_status status = load(&plugin, error);
    if (!status)
        status = plugin->open(&device->backend, index, bf16, error);
    if (!status)
        device->plugin = plugin;
    return status;
}

/* --- devices --- */

ousac_status ousac_device_open(ousac_device **device, const char *name, int bf16, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    const int automatic = strcmp(name, "auto") == 0;
    int index = -1;
    *device = NULL;
    const int cuda = parse_cuda(name, &index) || automatic;
    if (!cuda && strcmp(name, "cpu") != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "device \"%s\": expected cpu, cuda, cuda:N with N from 0 to %d, or auto", name,
                          DEVICE_MAX);
    ousac_device *opened = ousac_calloc(1, sizeof *opened);
    if (!opened)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "device %s: no memory", name);
    if (cuda)
        status = open_cuda(opened, index, bf16, automatic ? NULL : error);
    if (!cuda || (automatic && status)) {
        opened->backend = ousac_backend_cpu();
        status = bf16 ? ousac_backend_bf16(&opened->backend, error) : OUSAC_STATUS_OK;
    }
    if (status) {
        ousac_free(opened);
        return status;
    }
    *device = opened;
    return OUSAC_STATUS_OK;
}

const ousac_backend *ousac_device_backend(const ousac_device *device) {
    return device->backend;
}

void ousac_device_close(ousac_device *device) {
    if (!device)
        return;
    if (device->plugin)
        device->plugin->close(device->backend);
    ousac_free(device);
}
