/* Which model a file is of: what its forward computes, and what decides a trajectory beside it. As metadata:
 * formats/PROFILE.md.
 */
#ifndef OUSAC_IDENTITY_H
#define OUSAC_IDENTITY_H

#include "formats/sha256.h"
#include "formats/status.h"
#include "profile/files/archive.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_CONSTANTS_BYTES = 256, OUSAC_PROCESS_BYTES = 160, OUSAC_IDENTITY_TEXT_BYTES = 384 };

/* Texts that somebody else keeps; "" for what is not known, as of files of version 1. */
typedef struct ousac_identity {
    const char *digest;    /* of the weights, and of the constants */
    const char *constants; /* of the forward beside the weights: heads, epsilons, ... */
    const char *process;   /* what is predicted, on which channels guidance acts, the noise levels */
} ousac_identity;

/* 0 where `is` is the model `here`; else 1 and how they differ, to stand behind "is of": "model 1a2b3c4d5e6f, and
 * this is model 3c4d5e6f7a8b", or "a model that predicts v, ..., and this one predicts epsilon, ...". Processes
 * are compared where both are known. */
int ousac_identity_differs(const ousac_identity *is, const ousac_identity *here,
                           char text[OUSAC_IDENTITY_TEXT_BYTES]);
/* The same of the processes alone; and of the constants alone, which must both be known: "heads=2, not heads=4"
 * or "unknown". */
int ousac_identity_process_differs(const ousac_identity *is, const ousac_identity *here,
                                   char text[OUSAC_IDENTITY_TEXT_BYTES]);
int ousac_identity_constants_differ(const ousac_identity *is, const ousac_identity *here,
                                    char text[OUSAC_IDENTITY_TEXT_BYTES]);

/* Metadata PREFIX "model_digest", "model_constants" and "model_process". */
ousac_status ousac_identity_put(ousac_oca_writer *writer, const char *prefix, const ousac_identity *identity,
                                ousac_error *error);
/* The reverse; constants and process are "" in a file of version 1. FORMAT. */
ousac_status ousac_identity_take(const ousac_archive *archive, const char *prefix, int may_be_empty,
                                 char digest[OUSAC_DIGEST_CHARS], char constants[OUSAC_CONSTANTS_BYTES],
                                 char process[OUSAC_PROCESS_BYTES], ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif
