/* Packing the chunks of an archive's tensors (OCA.md, "Codecs"): internal to the writer.
 */
#ifndef OUSAC_OCA_CHUNK_H
#define OUSAC_OCA_CHUNK_H

#include "formats/dtype.h"
#include "formats/oca_write.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_OCA_CHUNK_BYTES = 1 << 20 }; /* decoded, of every chunk but a tensor's last */

/* Work buffers; one thread at a time. */
typedef struct ousac_oca_packer ousac_oca_packer;

/* For chunks of up to `bytes`, at most OUSAC_OCA_CHUNK_BYTES. */
ousac_status ousac_oca_packer_create(ousac_oca_packer **packer, size_t bytes, ousac_error *error);
void ousac_oca_packer_free(ousac_oca_packer *packer);

/* What to store of a chunk, valid until the next call: packed, or the chunk itself where that is no larger.
 * `name` is of the tensor, for messages. */
ousac_status ousac_oca_pack(ousac_oca_packer *packer, const char *name, ousac_dtype dtype,
                            ousac_oca_codec codec, const unsigned char *data, size_t bytes,
                            const unsigned char **stored, size_t *stored_bytes, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
