/* Writes a tiny random PixArt for tests: diffusion_pytorch_model.safetensors, config.json and inputs.safetensors.
 *
 *     make_pixart DIRECTORY [SEED [ROWS [NEGATIVE [MICRO]]]]
 *
 * ROWS of inputs (3); NEGATIVE 0: none of the unconditional branch; MICRO 0: without micro-conditions.
 */
#include "tests/support/random_pixart.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int main(int argc, char **argv) {
    random_pixart_options options = random_pixart_defaults();
    ousac_error error = {0};
    if (argc < 2 || argc > 6) {
        fprintf(stderr, "usage: make_pixart DIRECTORY [SEED [ROWS [NEGATIVE [MICRO]]]]\n");
        return 2;
    }
    options.seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (argc > 3)
        options.rows = strtoull(argv[3], NULL, 10);
    if (argc > 4)
        options.negative = argv[4][0] != '0';
    if (argc > 5)
        options.micro = argv[5][0] != '0';
    if (mkdir(argv[1], 0777) != 0 && errno != EEXIST) {
        perror(argv[1]);
        return 1;
    }
    if (random_pixart_write(argv[1], &options, &error)) {
        fprintf(stderr, "make_pixart: %s\n", error.message);
        return 1;
    }
    return 0;
}
