#include "tools/cli/options.h"

#include "formats/dtype.h"

static const ousac_dtype dtypes[] = {OUSAC_DTYPE_F32, OUSAC_DTYPE_BF16, OUSAC_DTYPE_F16, OUSAC_DTYPE_I8};

ousac_pack_storage options_pack_storage(const options_storage *storage) {
    return (ousac_pack_storage){.choose = storage->dtype == 0,
                                .dtype = dtypes[storage->dtype ? storage->dtype - 1 : 0],
                                .codec = storage->codec};
}

const char *options_dtype_name(const options_storage *storage) {
    return storage->dtype == 0 ? "auto" : ousac_dtype_name(dtypes[storage->dtype - 1]);
}
