/* What a loader has to know of a bundle, in one JSON text: the metadata `config` of its safetensors form
 * (formats/BUNDLE.md, "As safetensors"). Everything in it is in the bundle too; a loader that reads this text needs neither
 * the rules by which ranks become paths nor the other metadata.
 */
#ifndef OUSAC_EXPORT_CONFIG_H
#define OUSAC_EXPORT_CONFIG_H

#include "formats/status.h"

/* *text is the caller's, by ousac_free; NULL for an archive that is no bundle, for one of a version that this ousac does not
 * know, and for a file that is no archive, which is for others to say. Errors: those of opening a bundle; MEMORY. */
ousac_status ousac_export_config(const char *archive, char **text, ousac_error *error);

#endif
