/* The version of ousac, as `ousac --version` prints it and as files record it.
 */
#ifndef OUSAC_VERSION_H
#define OUSAC_VERSION_H

#define OUSAC_VERSION "0.1.0"

#endif
