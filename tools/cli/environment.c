/* OpenBLAS starts a thread per processor when it is loaded, before main, and ends the process where the system
 * forbids that. All its calls here run on one thread, so it is told so where it asks: unless the user's
 * environment says otherwise, OPENBLAS_NUM_THREADS is 1. A constructor of ours would come too late, and so would
 * setenv: libraries are initialised before their users. */
#include <stdlib.h>
#include <string.h>

extern char **environ;

/* In place of the C library's, for every shared library too; its contract is the same. */
char *getenv(const char *name) {
    static char one[] = "1";
    const size_t length = strlen(name);
    for (char **entry = environ; entry && *entry; entry++)
        if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=')
            return *entry + length + 1;
    return strcmp(name, "OPENBLAS_NUM_THREADS") == 0 ? one : NULL;
}
