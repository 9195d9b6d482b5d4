/* Carrying tensors and metadata between .oca archives and safetensors files, losslessly both ways: names,
 * dtypes, shapes, every bit of the values, metadata; and back again the same archive, byte for byte.
 *
 * What one format has and the other lacks travels in one metadata key each, which the way back removes:
 *
 *     "oca.codec"           in safetensors: a JSON object, tensor name to codec, of the tensors that are not raw
 *     "config"              in safetensors: what loaders have to know, where the caller says it; the way back removes
 *                           one that begins with OUSAC_EXCHANGE_CONFIG_BEGIN
 *     "safetensors.scalar"  in .oca: a JSON array of the names of tensors with no dimensions, stored with shape (1)
 *
 * What cannot be carried is an UNSUPPORTED that names it: into .oca a dtype that it lacks (F8, BOOL, U16,
 * ...), a dimension of 0, more than 4 dimensions, an empty metadata key; into safetensors a tensor named
 * "__metadata__"; and any key above where its reader would take it for its own.
 */
#ifndef OUSAC_EXCHANGE_H
#define OUSAC_EXCHANGE_H

#include "formats/oca_write.h"
#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OUSAC_EXCHANGE_CODEC_KEY "oca.codec"
#define OUSAC_EXCHANGE_SCALAR_KEY "safetensors.scalar"
#define OUSAC_EXCHANGE_CONFIG_KEY "config"
#define OUSAC_EXCHANGE_CONFIG_BEGIN "{\"format\":\"ousac-"

typedef struct ousac_exchange_counts {
    size_t tensors, metadata;
    uint64_t bytes; /* of the tensors, decoded */
} ousac_exchange_counts;

/* Every chunk that is read is verified. `config`: NULL, or the value of that key, with the beginning above. Errors: IO,
 * FORMAT, UNSUPPORTED, MEMORY; the message names the file. */
ousac_status ousac_export_safetensors(const char *archive, const char *target, const char *config,
                                      ousac_exchange_counts *counts, ousac_error *error);

/* `codec` is for tensors of which the file does not say how they were stored. */
ousac_status ousac_import_safetensors(const char *source, const char *target, ousac_oca_codec codec,
                                      ousac_exchange_counts *counts, ousac_error *error);

/* "raw", "zstd", "shuffle+zstd"; NULL for another value. */
const char *ousac_oca_codec_name(ousac_oca_codec codec);

#ifdef __cplusplus
}
#endif
#endif
