#include "formats/stop.h"

#include <stddef.h>

void ousac_stop_ask(ousac_stop *stop) {
    __atomic_store_n(&stop->asked, 1, __ATOMIC_RELAXED);
}

int ousac_stop_asked(const ousac_stop *stop) {
    return stop != NULL && __atomic_load_n(&stop->asked, __ATOMIC_RELAXED);
}
