#include <ousac/version.h>

const char *ousac_version(void) {
    return OUSAC_VERSION;
}

long ousac_version_number(void) {
    return OUSAC_VERSION_NUMBER;
}
