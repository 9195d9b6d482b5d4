/* Writes a tiny random DiT for tests that need a model but not its pictures: model.safetensors and
 * config.json.
 *
 *     make_dit DIRECTORY [SEED [BLOCKS]]
 */
#include "tests/support/random_dit.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    random_dit_options options = random_dit_defaults();
    ousac_error error = {0};
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: make_dit DIRECTORY [SEED [BLOCKS]]\n");
        return 2;
    }
    options.seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (argc > 3)
        options.depth = strtoull(argv[3], NULL, 10);
    if (random_dit_write(argv[1], &options, &error)) {
        fprintf(stderr, "make_dit: %s\n", error.message);
        return 1;
    }
    return 0;
}
