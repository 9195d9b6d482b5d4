/* What a handle holds, for the readers of one file and of many. */
#ifndef OUSAC_SAFETENSORS_PARTS_H
#define OUSAC_SAFETENSORS_PARTS_H

#include "formats/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"

struct ousac_safetensors {
    ousac_file_view view; /* empty where the caller owns the bytes, or shards do */
    cJSON *header;        /* owns the names, dtype names and metadata */
    const cJSON *metadata;
    ousac_safetensors_tensor *tensors; /* by name; of an index, copies of those of its shards */
    size_t count;
    ousac_safetensors **shards; /* (shard_count), owned; none but of an index */
    size_t shard_count;
};

#endif
