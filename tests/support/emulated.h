/* The CUDA plug-in in a test: the emulated one, unless OUSAC_TEST_BACKEND=cuda asks for the real one, and
 * what the emulation counts (tests/gpu/emulation/README.md).
 */
#ifndef OUSAC_TEST_EMULATED_H
#define OUSAC_TEST_EMULATED_H

#include "calib/backend/backend_plugin.h"

enum emulated_kind {
    EMULATED_EAGER,        /* kernels, products and copies run as they were submitted */
    EMULATED_NODES,        /* the same run by graphs */
    EMULATED_CAPTURES,     /* begun */
    EMULATED_INSTANTIATED, /* graphs made */
    EMULATED_UPDATED,      /* graphs changed in place */
    EMULATED_LAUNCHED,
    EMULATED_BYTES,   /* of the device, in use */
    EMULATED_CHOICES, /* of an algorithm by cuBLASLt */
    EMULATED_KINDS
};

/* Points OUSAC_CUDA_PLUGIN at the emulation. 0, or what main returns: 77 where there is no device. */
int emulated_choose(void);
/* That, then opens "cuda" for a group of tests. 0, or what main returns: 77 too where the device has no
 * products in bfloat16. */
int emulated_begin(ousac_device **device, int bf16);
int emulated_is_real(void);
/* Opens "cuda" anew, with the settings of the environment. Fails the test where that fails. */
ousac_device *emulated_open(int bf16);
/* Zeroes on a real device, of which nothing is counted. */
void emulated_count(long counts[EMULATED_KINDS]);

#endif
