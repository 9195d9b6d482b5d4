/* Writes a tiny random DiT for tests that need a model but not its pictures: model.safetensors and
 * config.json.
 *
 *     make_dit DIRECTORY [SEED [BLOCKS [WIDTH]]]
 */
#include "tests/support/random_dit.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    random_dit_options options = random_dit_defaults();
    ousac_error error = {0};
    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: make_dit DIRECTORY [SEED [BLOCKS [WIDTH]]]\n");
        return 2;
    }
    options.seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (argc > 3)
        options.depth = strtoull(argv[3], NULL, 10);
    if (argc > 4) {
        options.width = strtoull(argv[4], NULL, 10);
        options.hidden = 4 * options.width;
    }
    if (random_dit_write(argv[1], &options, &error)) {
        fprintf(stderr, "make_dit: %s\n", error.message);
        return 1;
    }
    return 0;
}
