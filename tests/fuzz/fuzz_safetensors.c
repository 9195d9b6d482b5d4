/* Any bytes as a safetensors file: opening either refuses them, or every tensor lies inside them and can be
 * read. */
#include "formats/safetensors.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ousac_safetensors *file = NULL;
    ousac_error error = {0};
    uint64_t bytes = 0;

    if (ousac_safetensors_open_memory(&file, data, size, "fuzz", &error)) {
        if (file || !error.message[0])
            abort();
        return 0;
    }
    for (size_t i = 0; i < ousac_safetensors_count(file); i++) {
        const ousac_safetensors_tensor *tensor = ousac_safetensors_at(file, i);
        const unsigned char *begin = tensor->data;
        float values[16];
        uint64_t count = tensor->count < 16 ? tensor->count : 16;
        if (ousac_safetensors_find(file, tensor->name) != tensor)
            abort();
        if (begin < data || begin > data + size || tensor->bytes > (uint64_t)(data + size - begin))
            abort();
        bytes += tensor->bytes;
        (void)ousac_safetensors_read_f32(tensor, 0, count, values, &error);
        (void)ousac_safetensors_read_f32(tensor, tensor->count - count, count, values, &error);
        if (tensor->readable && count && strcmp(tensor->dtype_name, "F32") == 0 &&
            !ousac_safetensors_read_f32(tensor, tensor->count - count, count, values, NULL) &&
            memcmp(values, begin + tensor->bytes - 4 * count, 4 * count) != 0)
            abort();
    }
    if (bytes > size)
        abort();
    (void)ousac_safetensors_metadata(file, "format");
    ousac_safetensors_close(file);
    return 0;
}
