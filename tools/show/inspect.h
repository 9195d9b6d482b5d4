/* What `ousac inspect` shows of each kind of file. Each function prints text, or under --json fills the
 * document.
 */
#ifndef OUSAC_INSPECT_H
#define OUSAC_INSPECT_H

#include "formats/json_build.h"
#include "formats/status.h"
#include "tools/cli/cli.h"
#include "tools/cli/describe.h"

#include <stddef.h>
#include <stdint.h>

typedef struct inspection {
    const cli_common *common;
    const char *path;
    uint64_t bytes;
    int tensors;        /* 1: list every tensor */
    const char *config; /* of a checkpoint; may be NULL */
    size_t heads;       /* 0: from the config */
    ousac_json_doc doc;
} inspection;

/* tools/show/inspect_files.c */
ousac_status inspect_schedule(inspection *in, ousac_error *error);
ousac_status inspect_safetensors(inspection *in, ousac_error *error);
/* A folder of diffusers or an index of shards: which these are, and the model that they make. */
int inspect_is_model(const char *path);
ousac_status inspect_model(inspection *in, ousac_error *error);
ousac_status inspect_archive(inspection *in, ousac_error *error); /* metadata and tensors of any .oca */
ousac_status inspect_tensors(inspection *in, ousac_error *error); /* the tensor table of an .oca */

/* tools/show/inspect_json.c: the members of a JSON text */
ousac_status inspect_json(inspection *in, ousac_error *error);

/* tools/show/timing.c */
ousac_status inspect_time(inspection *in, ousac_error *error);

/* tools/show/inspect_storage.c: of a bundle */
ousac_status inspect_storage(inspection *in, const oca_file *file, const ousac_arch *arch,
                             ousac_error *error);

/* tools/show/inspect_calibration.c */
ousac_status inspect_profile(inspection *in, ousac_error *error);
ousac_status inspect_plan(inspection *in, ousac_error *error);
ousac_status inspect_bundle(inspection *in, ousac_error *error);

#endif
