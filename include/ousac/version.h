/* The version of ousac, as `ousac --version` prints it and as files record it.
 *
 * Versions are MAJOR.MINOR.PATCH. While MAJOR is 0 a new MINOR may change what <ousac/ousac.h> declares; a new PATCH
 * does not. Every version reads the files of all earlier ones.
 */
#ifndef OUSAC_VERSION_H
#define OUSAC_VERSION_H

#define OUSAC_VERSION_MAJOR 0
#define OUSAC_VERSION_MINOR 3
#define OUSAC_VERSION_PATCH 0
#define OUSAC_VERSION "0.3.0"
/* For comparing: 1000000 MAJOR + 1000 MINOR + PATCH. */
#define OUSAC_VERSION_NUMBER                                                                                 \
    (1000000 * OUSAC_VERSION_MAJOR + 1000 * OUSAC_VERSION_MINOR + OUSAC_VERSION_PATCH)

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Of the library that is linked, which may differ from the header's: "0.3.0", and as OUSAC_VERSION_NUMBER. */
const char *ousac_version(void);
long ousac_version_number(void);

#ifdef __cplusplus
}
#endif

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#endif
