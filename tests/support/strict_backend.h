/* The CPU backend with memory that the host cannot touch, as a GPU's is: blocks are handed out at addresses
 * that no process has, so that a host access faults and a host pointer in place of backend memory aborts. Its
 * results are the CPU backend's, bit for bit. For tests of whoever must keep the two kinds of memory apart.
 */
#ifndef OUSAC_TEST_STRICT_BACKEND_H
#define OUSAC_TEST_STRICT_BACKEND_H

#include "calib/backend/backend.h"

const ousac_backend *strict_backend(void);

#endif
