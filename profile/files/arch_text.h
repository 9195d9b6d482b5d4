/* An architecture as text (the metadata "arch" of profiles and bundles; formats/PROFILE.md), in digests, and
 * compared.
 */
#ifndef OUSAC_ARCH_TEXT_H
#define OUSAC_ARCH_TEXT_H

#include "calib/arch.h"
#include "formats/sha256.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_ARCH_DIFFERENCE_BYTES = 320 };

/* Compact JSON, deterministic; ousac_free. Sizes and MACs that may exceed 2^53 are decimal strings.
 * USAGE for a name that cannot be part of a tensor's name, or that occurs twice. */
ousac_status ousac_arch_print(const ousac_arch *arch, char **text, ousac_error *error);

/* The reverse, of a file of format version 1 or 2; checks everything that ousac_arch_check does, and names and
 * sizes. Version 1 knows one stream, which is then "image". FORMAT; `name` begins messages. Free with
 * ousac_arch_free. */
ousac_status ousac_arch_parse(ousac_arch *arch, const char *text, int version, const char *name,
                              ousac_error *error);

ousac_status ousac_arch_copy(ousac_arch *target, const ousac_arch *source, ousac_error *error);

/* 0 where the two are equal; else 1, and the first difference in words, "site 3 is a.q (64, 64), not b.q (64,
 * 32)", where `a` is what is and `b` what it should be. */
int ousac_arch_difference(const ousac_arch *a, const ousac_arch *b, char text[OUSAC_ARCH_DIFFERENCE_BYTES]);

/* Adds every field, in the order that formats/PROFILE.md states; of version 1, which one stream must do for, as
 * such files' digests have it. */
void ousac_arch_digest_add(const ousac_arch *arch, int version, ousac_sha256 *state);

#ifdef __cplusplus
}
#endif
#endif
